"""The stage before replay where a span is learned again: the buffer as if it had not been learned before."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import apache_beam as beam
from tfx import types
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.errors import RetrainError
from components.replay.beam import ReadKeyed, WriteInOrder, leave_out
from components.replay.component import SPLITS, files_of, read_meta, write_meta
from components.replay.logic import Sample


class Executor(base_beam_executor.BaseBeamExecutor):
    """Copies a buffer without some spans, in one Beam job."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        base = artifact_utils.get_single_instance(input_dict["base_buffer"])
        buffer = artifact_utils.get_single_instance(output_dict["buffer"])
        spans = json.loads(exec_properties["spans"])
        meta = read_meta(base.uri)
        buffer.split_names = artifact_utils.encode_split_names(list(SPLITS))
        with self._make_beam_pipeline() as pipeline:
            for split in SPLITS:
                uri = artifact_utils.get_split_uri([buffer], split)
                (
                    pipeline
                    | f"Read[{split}]" >> ReadKeyed(files_of(base, split), meta["seed"])
                    | f"LeaveOut[{split}]" >> beam.Map(leave_out, frozenset(spans))
                    | f"Write[{split}]" >> WriteInOrder(os.path.join(uri, "data_tfrecord"))
                )
        write_meta(buffer.uri, without(meta, spans))


def without(meta: Mapping[str, Any], spans: Collection[int]) -> dict[str, Any]:
    """What a buffer knows of its samples when these spans' examples are taken out.

    >>> sample = {"0": {"seen": 40, "threshold": 9}}
    >>> meta = {"seed": 0, "spans": {"1": 30, "2": 10}, "train": sample, "eval": {}}
    >>> without(meta, [1])["train"]
    {'0': {'seen': 10, 'threshold': 9}}
    """
    gone = set(map(str, spans))
    count = sum(rows for span, rows in meta["spans"].items() if span in gone)

    def others(by_span: Mapping[str, Any]) -> dict[str, Any]:
        return {span: known for span, known in by_span.items() if span not in gone}

    return {
        "seed": meta["seed"],
        "train": {group: asdict(Sample(**known).without(count)) for group, known in meta["train"].items()},
        "eval": others(meta["eval"]),
        "spans": others(meta["spans"]),
    }


class ForgetSpec(ComponentSpec):
    PARAMETERS = {"spans": ExecutionParameter(type=str)}
    INPUTS = {"base_buffer": ChannelParameter(type=standard_artifacts.Examples)}
    OUTPUTS = {"buffer": ChannelParameter(type=standard_artifacts.Examples)}


class Forget(base_beam_component.BaseBeamComponent):
    """The champion's buffer without the spans that are about to be learned again.

    All that follows reads this in the place of the champion's buffer, so no row of these spans is
    remembered, trained on or evaluated twice, and none that was mended since comes back. What is
    left of the sample is a uniform sample of the other spans.

    Args:
        base_buffer: the champion's.
        spans: to leave out.

    Outputs:
    - `buffer`: as `Replay` makes it.

    Raises:
        RetrainError: `spans` is empty.
    """

    SPEC_CLASS = ForgetSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, base_buffer: types.BaseChannel, spans: Sequence[int]) -> None:
        if not spans:
            raise RetrainError("spans: got none, required is at least one to leave out")
        super().__init__(
            ForgetSpec(
                base_buffer=base_buffer,
                spans=json.dumps(list(spans)),
                buffer=types.Channel(type=standard_artifacts.Examples),
            )
        )
