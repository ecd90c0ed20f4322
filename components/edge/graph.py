"""The served function in operations that TFLite has itself.

TensorFlow's kernels inside TFLite ("flex") make a device carry most of TensorFlow, and since TensorFlow
2.20 the interpreter of its package has none of them (LiteRT#6458), so that such a model could not even be
tried here. What a transform graph needs them for can mostly be said otherwise. So the graph is built anew,
operation by operation, some of them as `components.edge.otherwise` has them. What remains, such as hashes
into several buckets, is left as it is, and the conversion says what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.framework.node_def_pb2 import NodeDef as Node
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from components.edge.otherwise import Table, Texts, make


def lite(saved_model: str, signature: str, folder: str) -> None:
    """Writes a SavedModel that has one signature of another one, without variables and tables.

    Args:
        saved_model: the folder of the other one.
        signature: its name.
        folder: where the new one goes.
    """
    root = tf.saved_model.load(saved_model)  # which owns the variables
    function = root.signatures[signature]
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)
    left = {tensor.op.name for tensor in frozen.inputs}
    tables = {
        inside.op.name: _table(handle) for handle, inside in function.graph.captures if inside.op.name in left
    }
    graph, specs = frozen.graph.as_graph_def(), function.structured_input_signature[1]
    names = {
        name: tensor.name
        for name, tensor in zip(sorted(function.structured_outputs), frozen.outputs, strict=True)
    }

    @tf.function(autograph=False, input_signature=[specs])
    def answer(columns: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return Rebuilt(graph, tables).run(columns, names)

    module = tf.Module()
    module.answer = answer
    tf.saved_model.save(module, folder, signatures={signature: answer})


def _table(handle: tf.Tensor) -> Table:
    terms, numbers = tf.raw_ops.LookupTableExportV2(table_handle=handle, Tkeys=tf.string, Tvalues=tf.int64)
    return Table(terms.numpy(), numbers.numpy())


class Rebuilt:
    """A flat graph, built again in the default graph.

    Args:
        graph: its operations.
        tables: name of a placeholder -> the table that it is the handle of.
    """

    def __init__(self, graph: graph_pb2.GraphDef, tables: Mapping[str, Table]) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._tables = tables
        self._made: dict[str, Sequence[Any]] = {}

    def run(self, inputs: Mapping[str, tf.Tensor], outputs: Mapping[str, str]) -> dict[str, tf.Tensor]:
        """The outputs, by name -> a tensor's name in the graph, of the inputs, by the placeholders' names."""
        self._made = {name: [tensor] for name, tensor in inputs.items()}
        self._made |= {name: [table] for name, table in self._tables.items()}
        return {name: self._value(tensor) for name, tensor in outputs.items()}

    def _value(self, reference: str) -> tf.Tensor:
        name, _, place = reference.partition(":")
        # Depth first, without recursion: a chain of operations may be long.
        waiting = [name]
        while waiting:
            node = waiting[-1]
            missing = [source for source in self._sources(node) if source not in self._made]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if node not in self._made:
                self._made[node] = self._make(self._nodes[node])
        value = self._made[name][int(place or 0)]
        return value.made() if isinstance(value, Texts) else value

    def _sources(self, name: str) -> list[str]:
        if name in self._made:
            return []
        return [tensor.partition(":")[0] for tensor in _data(self._nodes[name])]

    def _make(self, node: Node) -> Sequence[Any]:
        inputs = []
        for tensor in _data(node):
            name, _, place = tensor.partition(":")
            inputs.append(self._made[name][int(place or 0)])
        return make(node, inputs)


def _data(node: Node) -> list[str]:
    return [tensor for tensor in node.input if not tensor.startswith("^")]
