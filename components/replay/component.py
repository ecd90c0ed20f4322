"""The replay stage: what a version remembers of all the data that it and its ancestors learned."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
from tfx import types
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.artifacts import read_json, read_schema, write_json
from components.errors import RetrainError
from components.replay import logic
from components.replay.beam import Columns, CountBySpan, Draw, MergeSketches, ReadRows, WriteInOrder
from components.replay.logic import Group, Quota, Scheme, Sketch

SAMPLE_FILE = "sample.json"
SPLITS = ("train", "eval")
BY_SPAN = Scheme("per_span")
RESERVOIR = Scheme("reservoir")


class Executor(base_beam_executor.BaseBeamExecutor):
    """Merges the champion's buffer with the new examples, in one Beam job."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        buffer = artifact_utils.get_single_instance(output_dict["buffer"])
        base = input_dict.get("base_buffer") or []
        sources = {"new": artifact_utils.get_single_instance(input_dict["examples"])}
        if base:
            sources["kept"] = base[0]
        scheme = Scheme.from_json(json.loads(exec_properties["scheme"]))
        known = read_meta(base[0].uri) if base else empty_meta(scheme, exec_properties["seed"])
        if known["scheme"] != scheme.to_json():
            known = begun_anew(known, scheme)
        known |= {"eval": _thinned(known, exec_properties)}
        columns = read_columns(input_dict["schema"][0].uri, scheme.by) if scheme.by else {}
        draws = {split: _draw_of(split, known, scheme, exec_properties) for split in SPLITS}
        buffer.split_names = artifact_utils.encode_split_names(list(SPLITS))
        # Not Split-*, so no reader takes it for data.
        parts = {part: os.path.join(buffer.uri, f".{part}.json") for part in (*SPLITS, "spans")}
        with self._make_beam_pipeline() as pipeline:
            for split, draw in draws.items():
                files = {name: files_of(source, split) for name, source in sources.items()}
                decoded = columns if split == "train" else {}
                rows = {
                    name: pipeline | f"Rows[{split}, {name}]" >> ReadRows(pattern, decoded, records=False)
                    for name, pattern in files.items()
                }
                kept = rows | f"Sample[{split}]" >> SampleFiles(files, decoded, draw, parts[split])
                uri = artifact_utils.get_split_uri([buffer], split)
                kept | f"Write[{split}]" >> WriteInOrder(os.path.join(uri, "data_tfrecord"))
                if split == "train":
                    rows["new"] | "Count" >> CountBySpan() | "Counts" >> beam.Map(_write, parts["spans"])
        drawn = {split: _take(parts[split]) for split in SPLITS}
        thresholds = {split: _sorted(known[split] | drawn[split]["thresholds"]) for split in SPLITS}
        write_meta(
            buffer.uri,
            known
            | {"quotas": {split: drawn[split]["quota"] for split in SPLITS}}
            | thresholds
            # Of a span that has no held-out example any more the gate must ask for none.
            | {"eval": {span: threshold for span, threshold in thresholds["eval"].items() if threshold}}
            | {"spans": _sorted(known["spans"] | _take(parts["spans"]))},
        )


def _thinned(known: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[Group, int]:
    """The thresholds of the held-out examples, 0 of the spans that are to have none any more."""
    spans = {*map(int, known["eval"]), *json.loads(settings["new_spans"])}
    left_out = spans - logic.judged_spans(spans, settings["holdout_spans"], known["seed"])
    return {**known["eval"], **{str(span): 0 for span in left_out}}


def _draw_of(split: str, known: Mapping[str, Any], scheme: Scheme, settings: Mapping[str, Any]) -> Draw:
    """How a split goes on from what is known of it."""
    if split == "train":
        quota = Quota(settings["capacity"])
    else:
        scheme, quota = BY_SPAN, Quota(settings["holdout_capacity"], settings["holdout_per_span"])
    return Draw(scheme, known["seed"], quota.after(known["quotas"].get(split)), known[split])


class SampleFiles(beam.PTransform):
    """The rows of TFRecords, by a name of each part of them -> what is `Kept` of these examples.

    Args:
        files: name -> the pattern of that part.
        columns: what the draw reads.
        draw: how.
        path: of the JSON file for what is known of the sample.
    """

    def __init__(self, files: Mapping[str, str], columns: Columns, draw: Draw, path: str) -> None:
        super().__init__()
        self._files, self._columns, self._draw, self._path = dict(files), columns, draw, path

    def expand(self, rows: Mapping[str, beam.PCollection]) -> beam.PCollection:
        draw, pipeline = self._draw, rows["new"].pipeline
        sketches = [part | f"Sketch[{name}]" >> beam.Map(draw.sketch) for name, part in rows.items()]
        thresholds = beam.pvalue.AsSingleton(
            sketches
            | "Sketches" >> beam.Flatten()
            | "Merge" >> beam.CombineGlobally(MergeSketches(draw.quota))
            | "Draw" >> beam.Map(_thresholds, draw, self._path)
        )
        kept = [
            pipeline
            | f"Examples[{name}]" >> ReadRows(pattern, self._columns, records=True)
            | f"Keep[{name}]" >> beam.Map(draw.keep, thresholds)
            for name, pattern in self._files.items()
        ]
        return kept | "Kept" >> beam.Flatten()


def _thresholds(rows: Sketch, how: Draw, path: str) -> dict[Group, int]:
    """Those of the new sample, which are written to a file, too; or why there are none."""
    try:
        thresholds = logic.draw(rows, how.thresholds, how.quota)
    except RetrainError as problem:  # Beam would make another exception of it: `_take` raises it
        _write({"problem": str(problem)}, path)
        return defaultdict(int)
    _write({"thresholds": thresholds, "quota": how.quota.to_json(rows.counts.values())}, path)
    return thresholds


def _write(content: Mapping[Any, Any], path: str) -> None:
    with open(path, "w") as file:
        json.dump(content, file)


def _take(path: str) -> dict[str, Any]:
    """Reads a file that the job wrote, and removes it."""
    with open(path) as file:
        content: dict[str, Any] = json.load(file)
    os.remove(path)
    if "problem" in content:
        raise RetrainError(content["problem"])
    return content


def _sorted(by_group: Mapping[str, Any]) -> dict[str, Any]:
    """By number where the groups are spans."""
    return dict(sorted(by_group.items(), key=lambda item: (len(item[0]), item[0])))


def files_of(examples: types.Artifact, split: str) -> str:
    """The pattern of a split's files."""
    return os.path.join(artifact_utils.get_split_uri([examples], split), "data_tfrecord-*")


def read_columns(schema_uri: str, names: Sequence[str] | None = None) -> Columns:
    """Column -> its `schema_pb2.FeatureType`, of a schema's artifact.

    Args:
        schema_uri: its folder.
        names: of the columns; None: all.

    Raises:
        RetrainError: the schema does not have one of them.
    """
    kinds: dict[str, int] = {feature.name: feature.type for feature in read_schema(schema_uri).feature}
    for name in names or ():
        if name not in kinds:
            raise RetrainError(
                f"replay.by: {name!r} is no column of the examples; they have {', '.join(sorted(kinds))}"
            )
    return kinds if names is None else {name: kinds[name] for name in names}


def empty_meta(scheme: Scheme, seed: int) -> dict[str, Any]:
    """What is known of a buffer that has nothing in it."""
    return {"seed": seed, "scheme": scheme.to_json(), "quotas": {}, "train": {}, "eval": {}, "spans": {}}


def begun_anew(meta: Mapping[str, Any], scheme: Scheme) -> dict[str, Any]:
    """What is known of a buffer's samples when what it holds is the start of a sample by another scheme.

    >>> meta = empty_meta(Scheme("reservoir"), seed=0) | {"train": {"0": 9}, "spans": {"1": 900}}
    >>> begun_anew(meta, Scheme("per_span"))["train"], begun_anew(meta, Scheme("per_span"))["begun_with"]
    ({}, {'name': 'reservoir'})
    """
    of_others = {split: quota for split, quota in meta["quotas"].items() if split != "train"}
    begun = {"scheme": scheme.to_json(), "begun_with": meta["scheme"], "quotas": of_others, "train": {}}
    return {**meta, **begun}


def write_meta(uri: str, meta: Mapping[str, Any]) -> None:
    """The other direction of `read_meta`."""
    write_json(uri, SAMPLE_FILE, meta)


def read_meta(uri: str) -> dict[str, Any]:
    """What a buffer knows of its samples.

    Returns:
        `seed`; `scheme`, and `begun_with`: the scheme that drew what it began with, where that was another;
        `quotas`: split -> its quota, and the level that the groups were filled to; `spans`: span -> how many
        training examples it had; `train` and `eval`: group -> threshold.

    Raises:
        RetrainError: the folder holds no replay buffer, or one that is too old.
    """
    try:
        meta: dict[str, Any] = read_json(uri, SAMPLE_FILE)
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
    if "scheme" not in meta:  # made when there was one scheme
        known = {
            split: {group: sample["threshold"] for group, sample in meta[split].items()} for split in SPLITS
        }
        return {**meta, **known, "scheme": RESERVOIR.to_json(), "quotas": {}}
    return meta


class ReplaySpec(ComponentSpec):
    PARAMETERS = {
        "capacity": ExecutionParameter(type=int),
        "holdout_per_span": ExecutionParameter(type=int),
        "holdout_capacity": ExecutionParameter(type=int),
        "holdout_spans": ExecutionParameter(type=int),
        "new_spans": ExecutionParameter(type=str),
        "scheme": ExecutionParameter(type=str),
        "seed": ExecutionParameter(type=int),
    }
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "schema": ChannelParameter(type=standard_artifacts.Schema, optional=True),
        "base_buffer": ChannelParameter(type=standard_artifacts.Examples, optional=True),
    }
    OUTPUTS = {"buffer": ChannelParameter(type=standard_artifacts.Examples)}


class Replay(base_beam_component.BaseBeamComponent):
    """The champion's buffer and the new examples -> this version's buffer.

    The buffer is an Examples artifact in raw feature space, so it survives a change of the
    transform graph. Its `train` split is a sample of every training example of every span learned,
    bounded by `capacity`; its `eval` split holds out examples of every span, bounded by
    `holdout_per_span` and all together by `holdout_capacity`, or, of more spans than `holdout_spans`,
    of so many (`logic.judged_spans`). No stock component does this: TFX's rolling windows forget what
    leaves the window.

    Where the scheme differs from that of the champion's buffer, what that holds is where a sample by
    the new one begins: each of its examples counts as one example seen, though it stood for many
    that were dropped. `sample.json` says so.

    Args:
        examples: the new spans.
        capacity: the most training examples to keep, at least 1.
        holdout_per_span: the most held-out examples to keep of one span, at least 1.
        holdout_capacity: the most of all spans together, at least 1.
        holdout_spans: the most spans to keep some of, at least 1.
        new_spans: those that `examples` may be of.
        seed: of the sample; a buffer keeps the seed that it began with.
        scheme: what the training examples are a sample of.
        schema: of the examples, for the columns that a scheme balances; it reads no others.
        base_buffer: the champion's buffer; none at a cold start.

    Outputs:
    - `buffer`: Examples, with `sample.json` beside the splits: what is known of the samples.

    Raises:
        RetrainError: `capacity`, `holdout_per_span`, `holdout_capacity` or `holdout_spans` is less than 1.
    """

    SPEC_CLASS = ReplaySpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        capacity: int,
        holdout_per_span: int,
        holdout_capacity: int,
        holdout_spans: int,
        new_spans: Sequence[int],
        seed: int,
        scheme: Scheme = RESERVOIR,
        schema: types.BaseChannel | None = None,
        base_buffer: types.BaseChannel | None = None,
    ) -> None:
        for name, most in {
            "capacity": capacity,
            "holdout_per_span": holdout_per_span,
            "holdout_capacity": holdout_capacity,
            "holdout_spans": holdout_spans,
        }.items():
            if most < 1:
                raise RetrainError(f"{name}: got {most}, required is at least 1")
        if scheme.by and schema is None:
            raise RetrainError(f"schema: got none, required for the columns {', '.join(scheme.by)}")
        super().__init__(
            ReplaySpec(
                examples=examples,
                capacity=capacity,
                holdout_per_span=holdout_per_span,
                holdout_capacity=holdout_capacity,
                holdout_spans=holdout_spans,
                new_spans=json.dumps(sorted(new_spans)),
                scheme=json.dumps(scheme.to_json()),
                seed=seed,
                schema=schema if scheme.by else None,
                base_buffer=base_buffer,
                buffer=types.Channel(type=standard_artifacts.Examples),
            )
        )
