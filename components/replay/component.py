"""The replay stage: what a version remembers of all the data that it and its ancestors learned."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import apache_beam as beam
from tfx import types
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.errors import RetrainError
from components.replay.beam import CountBySpan, ReadKeyed, SampleBottomK, WriteInOrder
from components.replay.logic import Sample

SAMPLE_FILE = "sample.json"
SPLITS = ("train", "eval")


class Executor(base_beam_executor.BaseBeamExecutor):
    """Merges the champion's buffer with the new examples, in one Beam job."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        buffer = artifact_utils.get_single_instance(output_dict["buffer"])
        base = input_dict.get("base_buffer") or []
        meta = read_meta(base[0].uri) if base else {"seed": exec_properties["seed"], "spans": {}}
        # The keys of what is in the buffer already were made with its own seed.
        seed = meta["seed"]
        capacity = {"train": exec_properties["capacity"], "eval": exec_properties["holdout_per_span"]}
        buffer.split_names = artifact_utils.encode_split_names(list(SPLITS))
        # Not Split-*, so no reader takes it for data.
        parts = {part: os.path.join(buffer.uri, f".{part}.json") for part in (*SPLITS, "spans")}

        with self._make_beam_pipeline() as pipeline:
            for split in SPLITS:
                before = {int(group): Sample(**sample) for group, sample in meta.get(split, {}).items()}
                uri = artifact_utils.get_split_uri([buffer], split)
                new = pipeline | f"New[{split}]" >> ReadKeyed(files_of(examples, split), seed)
                kept = (
                    pipeline | f"Kept[{split}]" >> ReadKeyed(files_of(base[0], split), seed)
                    if base
                    else pipeline | f"NothingKept[{split}]" >> beam.Create([])
                )
                sample = SampleBottomK(capacity[split], by_span=split == "eval", before=before)
                records, samples = (kept, new) | f"Sample[{split}]" >> sample
                records | f"Write[{split}]" >> WriteInOrder(os.path.join(uri, "data_tfrecord"))
                (
                    samples
                    | f"Gather[{split}]" >> beam.combiners.ToDict()
                    | f"Describe[{split}]" >> beam.Map(_write, parts[split], before)
                )
                if split == "train":
                    counted = {int(span): count for span, count in meta["spans"].items()}
                    new | "Count" >> CountBySpan() | "Counts" >> beam.Map(_write, parts["spans"], counted)
        meta = {"seed": seed}
        for part, path in parts.items():
            with open(path) as file:
                meta[part] = json.load(file)
            os.remove(path)
        write_meta(buffer.uri, meta)


def files_of(examples: types.Artifact, split: str) -> str:
    """The pattern of a split's files."""
    return os.path.join(artifact_utils.get_split_uri([examples], split), "data_tfrecord-*")


def _write(new: dict[int, Any], path: str, before: dict[int, Any]) -> None:
    with open(path, "w") as file:
        json.dump(dict(sorted((before | new).items())), file, default=asdict)


def write_meta(uri: str, meta: Mapping[str, Any]) -> None:
    """The other direction of `read_meta`."""
    with open(os.path.join(uri, SAMPLE_FILE), "w") as file:
        json.dump(meta, file)


def read_meta(uri: str) -> dict[str, Any]:
    """What a buffer knows of its samples.

    Returns:
        `seed`; `spans`: span -> how many training examples it had; `train` and `eval`: group -> seen and
        threshold.

    Raises:
        RetrainError: the folder holds no replay buffer, or one that is too old.
    """
    try:
        with open(os.path.join(uri, SAMPLE_FILE)) as file:
            meta: dict[str, Any] = json.load(file)
    except FileNotFoundError:
        raise RetrainError(
            f"replay: the champion's buffer {uri} is not there (no {SAMPLE_FILE}). Restore the folder, or "
            "promote a version whose artifacts are whole (`retrain history`)"
        ) from None
    if "spans" not in meta:
        raise RetrainError(
            f"replay: the champion's buffer {uri} was made by an earlier retrain, which drew other rows "
            "for evaluation. Start afresh: name another `state` folder, or remove this one"
        )
    return meta


class ReplaySpec(ComponentSpec):
    PARAMETERS = {
        "capacity": ExecutionParameter(type=int),
        "holdout_per_span": ExecutionParameter(type=int),
        "seed": ExecutionParameter(type=int),
    }
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "base_buffer": ChannelParameter(type=standard_artifacts.Examples, optional=True),
    }
    OUTPUTS = {"buffer": ChannelParameter(type=standard_artifacts.Examples)}


class Replay(base_beam_component.BaseBeamComponent):
    """The champion's buffer and the new examples -> this version's buffer.

    The buffer is an Examples artifact in raw feature space, so it survives a change of the
    transform graph. Its `train` split is a uniform sample of every training example of every span
    learned, bounded by `capacity`; its `eval` split holds out up to `holdout_per_span` examples of
    every span. No stock component does this: TFX's rolling windows forget what leaves the window.

    Args:
        examples: the new spans.
        capacity: the most training examples to keep, at least 1.
        holdout_per_span: the most held-out examples to keep of one span, at least 1.
        seed: of the sample; a buffer keeps the seed that it began with.
        base_buffer: the champion's buffer; none at a cold start.

    Outputs:
    - `buffer`: Examples, with `sample.json` beside the splits: what is known of the samples.

    Raises:
        RetrainError: `capacity` or `holdout_per_span` is less than 1.
    """

    SPEC_CLASS = ReplaySpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        capacity: int,
        holdout_per_span: int,
        seed: int,
        base_buffer: types.BaseChannel | None = None,
    ) -> None:
        for name, most in {"capacity": capacity, "holdout_per_span": holdout_per_span}.items():
            if most < 1:
                raise RetrainError(f"{name}: got {most}, required is at least 1")
        super().__init__(
            ReplaySpec(
                examples=examples,
                capacity=capacity,
                holdout_per_span=holdout_per_span,
                seed=seed,
                base_buffer=base_buffer,
                buffer=types.Channel(type=standard_artifacts.Examples),
            )
        )
