"""Operations of a transform graph, said in those that TFLite has itself.

- Texts: TFLite compares them, and does little else. A column of texts is filled up to a matrix, its first
  values are taken, and these are looked up. A lookup does not depend on the place, so it comes first here, as
  a comparison with all terms, and what is filled up and taken are its numbers. A number that was written as
  text to be looked up is compared as a number.
- A hash into one bucket, as of a term out of vocabulary, is 0.
- The bucket of a number is how many boundaries it has reached.
- Whole quotients of large integers, as in times, are approached in float32 and made exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.framework.node_def_pb2 import NodeDef as Node


@dataclass(frozen=True)
class Table:
    """A lookup table: terms, and the number of each."""

    terms: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class Texts:
    """Texts that are not made unless something needs them, but known by what they are made of.

    Attributes:
        values: texts, or integers in place of their decimal texts.
        made: makes the texts.
        default: a text that is put where there is none; None: nothing is put anywhere.
        place: puts numbers, one a value, and the number of the default, where the texts would be.
    """

    values: tf.Tensor
    made: Callable[[], tf.Tensor]
    default: tf.Tensor | None = None
    place: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor] = lambda numbers, _: numbers

    def each(self, number_of: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """What a function makes of each text by itself, in the texts' places."""
        return self.place(number_of(self.values), None if self.default is None else number_of(self.default))


def make(node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    """The outputs of an operation, in another way where there is one.

    Args:
        node: the operation.
        inputs: tensors, `Table`s, and `Texts` that are not made yet.
    """
    rule = _RULES.get(node.op)
    made = rule(node, inputs) if rule else None
    return _same(node, inputs) if made is None else [made]


def _same(node: Node, inputs: Sequence[Any]) -> Sequence[tf.Tensor]:
    """The operation as it is."""
    tensors = [value.made() if isinstance(value, Texts) else value for value in inputs]
    copy = Node()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend(f"input-{i}" for i in range(len(tensors)))
    (operation,) = tf.graph_util.import_graph_def(
        graph_pb2.GraphDef(node=[copy]),
        input_map={f"input-{i}:0": tensor for i, tensor in enumerate(tensors)},
        return_elements=[node.name],
    )
    return list(operation.outputs)


def _identity(node: Node, inputs: Sequence[Any]) -> Any:
    return inputs[0]


def _as_string(node: Node, inputs: Sequence[Any]) -> Texts | None:
    if inputs[0].dtype != tf.int64:
        return None
    return Texts(inputs[0], lambda: _same(node, inputs)[0])


def _fill(node: Node, inputs: Sequence[Any]) -> Any:
    indices, shape, values, default = inputs

    def place(numbers: tf.Tensor, number: tf.Tensor | None) -> tf.Tensor:
        return tf.raw_ops.SparseToDense(
            sparse_indices=indices, output_shape=shape, sparse_values=numbers, default_value=number
        )

    if node.attr["T"].type == tf.bool.as_datatype_enum:
        return tf.cast(place(tf.cast(values, tf.int32), tf.cast(default, tf.int32)), tf.bool)
    if node.attr["T"].type != tf.string.as_datatype_enum:
        return None
    texts = values.values if isinstance(values, Texts) else values
    return Texts(texts, lambda: _same(node, inputs)[0], default, place)


def _slice(node: Node, inputs: Sequence[Any]) -> Texts | None:
    texts, *bounds = inputs
    if not isinstance(texts, Texts):
        return None
    masks = {name: node.attr[name].i for name in node.attr if name.endswith("_mask")}

    def place(numbers: tf.Tensor, number: tf.Tensor | None) -> tf.Tensor:
        placed = texts.place(numbers, number)
        return tf.raw_ops.StridedSlice(
            input=placed, **dict(zip(("begin", "end", "strides"), bounds, strict=True)), **masks
        )

    return Texts(texts.values, lambda: _same(node, inputs)[0], texts.default, place)


def _find(node: Node, inputs: Sequence[Any]) -> tf.Tensor:
    table, texts, unknown = inputs

    def number_of(values: tf.Tensor) -> tf.Tensor:
        terms, numbers = table.terms, table.numbers
        if values.dtype != tf.string:
            decimal = [i for i, term in enumerate(terms) if _is_decimal(term)]
            terms, numbers = np.array([int(terms[i]) for i in decimal], np.int64), numbers[decimal]
        if not len(terms):
            return tf.fill(tf.shape(values), unknown)
        equal = tf.equal(tf.expand_dims(values, -1), tf.constant(terms))
        found = tf.reduce_max(tf.where(equal, tf.constant(numbers), tf.constant(-1, tf.int64)), axis=-1)
        return tf.where(found < 0, unknown, found)

    return _each(texts, number_of)


def _is_decimal(term: bytes) -> bool:
    """Whether it is how an integer is written."""
    try:
        return str(int(term)).encode() == term and -(2**63) <= int(term) < 2**63
    except ValueError:
        return False


def _size(node: Node, inputs: Sequence[Any]) -> tf.Tensor:
    return tf.constant(len(inputs[0].terms), tf.int64)


def _hash(node: Node, inputs: Sequence[Any]) -> tf.Tensor | None:
    if node.attr["num_buckets"].i != 1:
        return None
    return _each(inputs[0], lambda values: tf.zeros(tf.shape(values), tf.int64))


def _each(texts: Any, number_of: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    return texts.each(number_of) if isinstance(texts, Texts) else number_of(texts)


def _upper_bound(node: Node, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
    boundaries, values = inputs  # [rows, n], ascending, and [rows, m]
    reached = tf.expand_dims(values, 2) >= tf.expand_dims(boundaries, 1)
    return tf.reduce_sum(tf.cast(reached, node.attr["out_type"].type), axis=2)


def _absolute(node: Node, inputs: Sequence[tf.Tensor]) -> tf.Tensor | None:
    return tf.maximum(inputs[0], -inputs[0]) if inputs[0].dtype == tf.int64 else None


def _floor_div(node: Node, inputs: Sequence[tf.Tensor]) -> tf.Tensor | None:
    """Of int64 by a positive number: float32's quotient, made exact by what it leaves over."""
    left, divisor = inputs
    if left.dtype != tf.int64:
        return None
    quotient = tf.zeros_like(left)
    for _ in range(3):  # each makes the rest 2^23 times smaller
        part = tf.cast(tf.cast(left, tf.float32) / tf.cast(divisor, tf.float32), tf.int64)
        quotient, left = quotient + part, left - part * divisor
    return quotient - tf.cast(left < 0, tf.int64) + tf.cast(left >= divisor, tf.int64)


_RULES: Mapping[str, Callable[[Node, Sequence[Any]], Any]] = {
    "Identity": _identity,
    "Abs": _absolute,
    "AsString": _as_string,
    "FloorDiv": _floor_div,
    "SparseToDense": _fill,
    "StridedSlice": _slice,
    "LookupTableFindV2": _find,
    "LookupTableSizeV2": _size,
    "StringToHashBucketFast": _hash,
    "UpperBound": _upper_bound,
}
