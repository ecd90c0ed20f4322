"""A buffer without some rows: those of a span that is learned again, or those that a person wants gone."""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import types
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components import expression
from components.artifacts import write_json
from components.errors import RetrainError
from components.names import EXAMPLE_ID, SPAN
from components.replay.beam import Columns, Kept, ReadRows, WriteInOrder, decoded, numbers, records
from components.replay.component import BY_SPAN, SPLITS, files_of, read_columns, read_meta, write_meta
from components.replay.logic import sample_keys

FORGOTTEN_FILE = "forgotten.json"
"""In a buffer that rows were taken out of: which, and how many."""


class Rows(Protocol):
    """Which rows are meant.

    Attributes:
        columns: those that it reads, beside the span.
    """

    @property
    def columns(self) -> Columns: ...

    def of(self, batch: pa.RecordBatch) -> np.ndarray:
        """bool [n]."""


@dataclass(frozen=True)
class OfSpans:
    """All rows of some spans."""

    spans: frozenset[int]
    columns: Columns = field(default_factory=dict)

    def of(self, batch: pa.RecordBatch) -> np.ndarray:
        """bool [n]."""
        return np.isin(numbers(batch, SPAN), list(self.spans))


@dataclass(frozen=True)
class Where:
    """The rows for which a condition holds; where a value is missing it does not.

    Attributes:
        text: the condition, as `components.expression` reads it.
        columns: those that it names, with their types.
    """

    text: str
    columns: Columns

    @functools.cached_property
    def _condition(self) -> expression.Expression:
        return expression.parse(self.text)

    @classmethod
    def read(cls, text: str, schema_uri: str) -> Where:
        """Checks a condition against the examples' schema.

        Raises:
            RetrainError: it is no condition, names a column that is not there, or compares text with numbers.
        """
        known = read_columns(schema_uri)
        named = expression.parse(text)
        named.holds({name: pa.array([], _VALUES[kind]) for name, kind in known.items()})
        return cls(text, {name: known[name] for name in named.columns})

    def of(self, batch: pa.RecordBatch) -> np.ndarray:
        """bool [n].

        Raises:
            RetrainError: a row has several values of a column.
        """
        columns = {name: self._single(batch.column(name), name, kind) for name, kind in self.columns.items()}
        return np.asarray(self._condition.holds(columns).to_numpy(zero_copy_only=False))

    def _single(self, column: pa.Array, name: str, kind: int) -> pa.Array:
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        if lengths.max(initial=0) > 1:
            raise RetrainError(
                f"{self.text!r}: a row has {lengths.max()} values of {name!r}, required is a column with one"
            )
        values = column.flatten()
        if kind == schema_pb2.BYTES:
            # Text that is no UTF-8 equals none, and is not refused.
            values = values.cast(options=pc.CastOptions(pa.string(), allow_invalid_utf8=True))
        elif kind == schema_pb2.FLOAT:
            # Examples hold float32. A person means the number as it was written: 0.1, not 0.10000000149.
            values = pa.array(values.to_numpy().astype(str).astype(np.float64))
        place = np.where(lengths == 1, np.cumsum(lengths) - 1, 0)
        return values.take(pa.array(place, mask=lengths == 0))


_VALUES = {schema_pb2.INT: pa.int64(), schema_pb2.FLOAT: pa.float64(), schema_pb2.BYTES: pa.string()}


@dataclass(frozen=True)
class Counts:
    """How many rows of a buffer are meant, and how many held-out ones are left.

    Attributes:
        gone: split -> span -> how many go.
        left: held-out rows that stay, by span.
    """

    gone: Mapping[str, Counter[int]]
    left: Counter[int]

    def to_json(self) -> dict[str, Any]:
        """`train` and `eval`: how many; `by_span`: span -> the same of each."""
        spans = sorted(set().union(*self.gone.values()))
        return {
            **{split: sum(self.gone[split].values()) for split in SPLITS},
            "by_span": {str(span): {split: self.gone[split][span] for split in SPLITS} for span in spans},
        }


def count(buffer: types.Artifact, rows: Rows) -> Counts:
    """Looks for rows in a buffer, in this process: it is bounded.

    Raises:
        RetrainError: files of the buffer are gone, or a row is not as `rows` wants it.
    """
    counts = Counts({split: Counter() for split in SPLITS}, Counter())
    for split in SPLITS:
        for batch in decoded(files_of(buffer, split), rows.columns):
            spans, gone = numbers(batch, SPAN), rows.of(batch)
            counts.gone[split].update(spans[gone].tolist())
            if split == "eval":
                counts.left.update(spans[~gone].tolist())
    return counts


class Executor(base_beam_executor.BaseBeamExecutor):
    """Copies a buffer without some rows, in one Beam job."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        base = artifact_utils.get_single_instance(input_dict["base_buffer"])
        buffer = artifact_utils.get_single_instance(output_dict["buffer"])
        spans, where = json.loads(exec_properties["spans"]), exec_properties["where"]
        rows = Where.read(where, input_dict["schema"][0].uri) if where else OfSpans(frozenset(spans))
        meta = read_meta(base.uri)
        counts = count(base, rows)
        buffer.split_names = artifact_utils.encode_split_names(list(SPLITS))
        with self._make_beam_pipeline() as pipeline:
            for split in SPLITS:
                uri = artifact_utils.get_split_uri([buffer], split)
                (
                    pipeline
                    | f"Read[{split}]" >> ReadRows(files_of(base, split), rows.columns, records=True)
                    | f"LeaveOut[{split}]" >> beam.Map(leave_out, meta["seed"], rows)
                    | f"Write[{split}]" >> WriteInOrder(os.path.join(uri, "data_tfrecord"))
                )
        told = {"where": where, "reason": exec_properties["reason"], "spans": spans, **counts.to_json()}
        write_json(buffer.uri, FORGOTTEN_FILE, told)
        write_meta(buffer.uri, without_rows(meta, counts) if where else without_spans(meta, spans))


def leave_out(batch: pa.RecordBatch, seed: int, rows: Rows) -> Kept:
    """What of a batch with its records is not meant by `rows`."""
    stay = ~rows.of(batch)
    return sample_keys(numbers(batch, EXAMPLE_ID), seed)[stay], records(batch).filter(pa.array(stay))


def without_spans(meta: Mapping[str, Any], spans: Sequence[int]) -> dict[str, Any]:
    """What a buffer knows of its samples when these spans' examples are taken out.

    The thresholds stay: which of the others are below them was drawn independently of what goes. Where
    nothing is left there is nothing that a sample was drawn from.

    >>> meta = {"scheme": {"name": "reservoir"}, "spans": {"1": 30, "2": 10}, "train": {"0": 9}, "eval": {}}
    >>> without_spans(meta, [1])["train"], without_spans(meta, [1, 2])["train"]
    ({'0': 9}, {})
    """
    gone = set(map(str, spans))

    def others(by_span: Mapping[str, Any]) -> dict[str, Any]:
        return {span: known for span, known in by_span.items() if span not in gone}

    left, train = others(meta["spans"]), dict(meta["train"])
    if meta["scheme"] == BY_SPAN.to_json():
        train = others(train)
    return {**meta, "train": train if left else {}, "eval": others(meta["eval"]), "spans": left}


def without_rows(meta: Mapping[str, Any], counts: Counts) -> dict[str, Any]:
    """What a buffer knows of its samples when rows are taken out wherever they came in.

    What is left of a sample is a sample of what is left of the data, and how much each group may have is
    found anew. A span without a held-out example cannot be judged any more, and the gate must not ask for it.
    """
    judged = {span: threshold for span, threshold in meta["eval"].items() if counts.left[int(span)]}
    return {**meta, "eval": judged, "quotas": {}}


class ForgetSpec(ComponentSpec):
    PARAMETERS = {
        "spans": ExecutionParameter(type=str),
        "where": ExecutionParameter(type=str),
        "reason": ExecutionParameter(type=str),
    }
    INPUTS = {
        "base_buffer": ChannelParameter(type=standard_artifacts.Examples),
        "schema": ChannelParameter(type=standard_artifacts.Schema, optional=True),
    }
    OUTPUTS = {"buffer": ChannelParameter(type=standard_artifacts.Examples)}


class Forget(base_beam_component.BaseBeamComponent):
    """The champion's buffer without some of its rows, in training and in held-out examples.

    Before spans are learned again all that follows reads this in the place of the champion's buffer, so
    no row of them is remembered, trained on or evaluated twice, and none that was mended since comes
    back. What is left of the sample is a sample of the other spans.

    Args:
        base_buffer: the champion's.
        spans: to leave out.
        where: or a condition: the rows to leave out.
        reason: why, of a person; kept with the buffer.
        schema: of the examples, for the columns in `where`.

    Outputs:
    - `buffer`: as `Replay` makes it, with `forgotten.json`: what was left out, by split and span.

    Raises:
        RetrainError: there are neither `spans` nor `where`, or both; or `where` has no `schema`, or cannot
            be read.
    """

    SPEC_CLASS = ForgetSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        base_buffer: types.BaseChannel,
        spans: Sequence[int] = (),
        where: str = "",
        reason: str = "",
        schema: types.BaseChannel | None = None,
    ) -> None:
        if bool(spans) == bool(where):
            raise RetrainError(
                f"spans: got {list(spans) or 'none'}, where: got {where or 'none'}; required is one of both"
            )
        if where and schema is None:
            raise RetrainError(f"schema: got none, required for the columns in {where!r}")
        if where:
            expression.parse(where)
        super().__init__(
            ForgetSpec(
                base_buffer=base_buffer,
                spans=json.dumps(list(spans)),
                where=where,
                reason=reason,
                schema=schema,
                buffer=types.Channel(type=standard_artifacts.Examples),
            )
        )
