"""The transform stage: the champion's transform graph once more, or a new one by the stock executor."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import types
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.components.transform import executor as stock
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.proto import transform_pb2
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components import features as feature_specs
from components.artifacts import folder_of, read_json, read_schema, write_json
from components.custom import load_module
from components.features import Feature
from components.label import VOCABULARY
from components.transform import preprocessing, timestamps
from components.transform.measures import Column, by_name, unknown
from components.transform.policy import Decision, Fit, GraphPolicy, changes, decide, describe, measure

POLICY_FILE, FIT_FILE = "policy.json", "fit.json"
_ANALYZED = "train"


class Executor(stock.Executor):
    """Decides, and copies the champion's graph or has the stock executor fit one."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        output = artifact_utils.get_single_instance(output_dict["transform_graph"]).uri
        base = folder_of(input_dict["base_graph"]) if input_dict.get("base_graph") else None
        columns = _statistics(input_dict["statistics"])
        config = json.loads(exec_properties["custom_config"])
        made = definition(config, folder_of(input_dict["schema"]))
        features = feature_specs.from_json(config["features"])
        before = _read_fit(base) if base else None
        if base is None:
            decision = Decision("fitted", ["there is no champion's graph to begin with"])
        else:
            policy = GraphPolicy.model_validate_json(exec_properties["policy"])
            decision = _decide(policy, base, before, made, features, columns)
        if base and decision.action == "reused":
            shutil.copytree(base, output, ignore=shutil.ignore_patterns(POLICY_FILE), dirs_exist_ok=True)
        else:
            super().Do(input_dict, output_dict, exec_properties)
            fit = describe(made, features, columns, _vocabularies(output, features), before)
            write_json(output, FIT_FILE, asdict(fit))
        write_json(output, POLICY_FILE, decision.to_json())


def _decide(
    policy: GraphPolicy,
    base: str,
    before: Fit | None,
    made: Mapping[str, Any],
    features: Sequence[Feature],
    columns: Mapping[str, Column],
) -> Decision:
    if before is None:
        return decide(policy, ["the champion's graph does not say what it was fitted on"], [], 0)
    changed = changes(before.definition, made)
    if changed:  # what else would be measured is of other features
        return decide(policy, changed, [], 0)
    label = made["label"]
    if label["task"] == "multiclass":
        new = unknown(label["name"], columns, _terms(base, VOCABULARY))
        named = ", ".join(new[:5]) + (", ..." if len(new) > 5 else "")
        changed = [f"classes that the graph does not know: {named}"] if new else []
    reuses = read_json(base, POLICY_FILE)["reuses"]
    found = measure(before, features, columns, _vocabularies(base, features), policy)
    return decide(policy, changed, found, reuses)


def definition(config: Mapping[str, Any], schema_folder: str) -> dict[str, Any]:
    """`components.transform.policy.Fit.definition` of a graph that is fitted now."""
    schema = read_schema(schema_folder)
    return {
        "features": config["features"],
        "label": {key: config["label"][key] for key in ("name", "task", "log", "example_weight")},
        "columns": {column.name: schema_pb2.FeatureType.Name(column.type) for column in schema.feature},
        "code": config["code"],
    }


def _statistics(artifacts: list[types.Artifact]) -> dict[str, Column]:
    folder_of(artifacts)
    view = stats_artifact_utils.load_statistics(artifact_utils.get_single_instance(artifacts), _ANALYZED)
    return by_name(view.proto().datasets[0])


def _vocabularies(graph: str, features: Sequence[Feature]) -> dict[str, frozenset[str]]:
    return {f.name: _terms(graph, f.vocabulary) for f in features if f.has_vocabulary}


def _terms(graph: str, vocabulary: str) -> frozenset[str]:
    terms = tft.TFTransformOutput(graph).vocabulary_by_name(vocabulary)
    return frozenset(term.decode("utf-8", "surrogateescape") for term in terms)


def _read_fit(graph: str) -> Fit | None:
    """None of a graph that an earlier retrain fitted."""
    return Fit(**read_json(graph, FIT_FILE)) if os.path.exists(os.path.join(graph, FIT_FILE)) else None


class TransformSpec(ComponentSpec):
    PARAMETERS = {
        "preprocessing_fn": ExecutionParameter(type=str),
        "custom_config": ExecutionParameter(type=str),
        "splits_config": ExecutionParameter(type=transform_pb2.SplitsConfig),
        "disable_statistics": ExecutionParameter(type=int),
        "policy": ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "schema": ChannelParameter(type=standard_artifacts.Schema),
        "statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "base_graph": ChannelParameter(type=standard_artifacts.TransformGraph, optional=True),
    }
    OUTPUTS = {"transform_graph": ChannelParameter(type=standard_artifacts.TransformGraph)}


class Transform(base_beam_component.BaseBeamComponent):
    """The champion's transform graph, copied, while it fits the new data; else a new one.

    The stock Transform fits a graph in every run, from all rows: its cost grows with the buffer, and every
    refit moves the terms, scales and boundaries that the model has learned to read. Here the stock executor
    runs only where the policy asks for it; then all of it is stock. A graph that is used again costs no Beam
    job, and is a copy, so that a version is whole by itself.

    Args:
        examples: the new spans, and the champion's buffer; the split `train` of both is analysed.
        schema: of the examples.
        statistics: of the new spans.
        features, label: as `components.features.to_json` gives them, and a `Label` as plain data.
        label_state: what a warm start goes on with, a `LabelState` as plain data.
        module: the user's own, by its dotted path.
        kept: feature -> `mean` and `scale` that a new graph keeps, and does not fit.
        policy: a `GraphPolicy` as plain data.
        base_graph: the champion's; none at a cold start.

    Outputs:
    - `transform_graph`: TFT's, and in its folder `policy.json`, what was decided and why, and `fit.json`,
      what the graph was fitted on.

    Raises:
        RetrainError: the module does not import.
        ValueError: the policy is none.
    """

    SPEC_CLASS = TransformSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        schema: types.BaseChannel,
        statistics: types.BaseChannel,
        features: Sequence[Mapping[str, Any]],
        label: Mapping[str, Any],
        label_state: Mapping[str, Any] | None,
        module: str | None,
        kept: Mapping[str, Mapping[str, Any]],
        policy: Mapping[str, Any],
        base_graph: types.BaseChannel | None = None,
    ) -> None:
        config = {
            "features": features,
            "label": label,
            "label_state": label_state,
            "module": module,
            # Part of what the graph is made of, so that TFX's cache knows of a change, too.
            "code": _code(module),
            "kept": kept,
        }
        super().__init__(
            TransformSpec(
                examples=examples,
                schema=schema,
                statistics=statistics,
                base_graph=base_graph,
                preprocessing_fn=f"{preprocessing.__name__}.preprocessing_fn",
                custom_config=json.dumps(config),
                splits_config=transform_pb2.SplitsConfig(analyze=[_ANALYZED]),
                # The trainer applies the graph itself: statistics and a second copy of the data serve no one.
                disable_statistics=1,
                policy=GraphPolicy.model_validate(policy).model_dump_json(),
                transform_graph=types.Channel(type=standard_artifacts.TransformGraph),
            )
        )


def _code(module: str | None) -> str:
    """A hash of the preprocessing's source: ours, and the user's module where it has a part in it."""
    sources = [preprocessing, timestamps]
    own = load_module(module)
    if own is not None and hasattr(own, "preprocessing_fn"):
        sources.append(own)
    return hashlib.blake2b("".join(map(inspect.getsource, sources)).encode(), digest_size=8).hexdigest()
