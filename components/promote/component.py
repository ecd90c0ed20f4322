"""The last stages: the version enters the registry, and a blessed one becomes the champion."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import path_utils

from components.artifacts import Decision, EdgeModel, RegisteredVersion, folder_of, read_json, write_json
from components.errors import RetrainError
from components.names import EDGE_FILE, SMOKE_FILE
from components.promote import logic
from components.promote.registry import ARTIFACTS, KINDS, Kind, Registry, Version


class RegisterExecutor(base_executor.BaseExecutor):
    """Gathers the record of the run and adds the version to the registry, once."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        # TFX adds the inputs of conditions to those of the specification.
        uris = {name: folder_of(input_dict[name]) for name in RegisterSpec.INPUTS if input_dict.get(name)}
        settings = json.loads(exec_properties["settings"])
        decision = read_json(uris["decision"], "decision.json")
        verdict = read_json(uris["blessing"], "verdict.json")
        told = _told(uris) | {name: settings[name] for name in ("attempt", "shadow") if settings[name]}
        output = artifact_utils.get_single_instance(output_dict["version"])
        registry = Registry(
            exec_properties["uri"], exec_properties["name"], exec_properties["artifacts"] or None
        )
        version = Version(
            number=0,
            key=_key(registry, settings, uris),
            spans=tuple(settings["spans"]),
            watermark=settings["watermark"],
            parent=settings["parent"],
            blessed=verdict["blessed"],
            uris={**uris, "record": output.uri},
            record=logic.summarize(decision, verdict, settings["spans"], told),
            created=0.0,
            fingerprint=settings["fingerprint"],
            kind=settings["kind"],
        )
        write_json(output.uri, logic.FILES_FILE, settings["files"])
        record = {"decision": decision, "verdict": verdict, "uris": uris, **told}
        write_json(output.uri, logic.RECORD_FILE, record)
        output.version = registry.register(
            version,
            path_utils.serving_model_path(uris["model"]),
            logic.chart_metrics(verdict["candidate"], verdict.get("learning", {})),
        )
        if version.kind == "shadow":
            registry.make_shadow(output.version, "trained from scratch", "run --from-scratch")


def _key(registry: Registry, settings: Mapping[str, Any], uris: Mapping[str, str]) -> str:
    """What a version was made of: a `forget` one shares its parent's model, a second attempt the buffer."""
    made_of = f"{uris['model']} {uris['buffer']}"
    if settings["kind"] != "shadow":
        return made_of
    base = registry.get(settings["parent"])
    # A shadow is held against a champion; where that is itself, promoted meanwhile, there is no other one.
    return base.key if base.uris["model"] == uris["model"] else f"{made_of} beside {base.number}"


def _told(uris: Mapping[str, str]) -> dict[str, Any]:
    """What the stages wrote beside the graph and the weights; a version made before they did has none."""
    checkpoint = os.path.join(uris["model"], "checkpoint")
    files = {
        "transform": (uris["transform_graph"], "policy.json"),
        "warm_start": (checkpoint, "warm_start.json"),
        "training": (checkpoint, "training.json"),
        "influence": (checkpoint, "influence.json"),
        "smoke": (uris["blessing"], SMOKE_FILE),
        "forgotten": (uris["buffer"], "forgotten.json"),
    }
    if "edge" in uris:
        files["edge"] = (uris["edge"], EDGE_FILE)
    return {name: read_json(*file) for name, file in files.items() if os.path.exists(os.path.join(*file))}


class RegisterSpec(ComponentSpec):
    PARAMETERS = {
        "uri": ExecutionParameter(type=str),
        "name": ExecutionParameter(type=str),
        "artifacts": ExecutionParameter(type=str),
        "settings": ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "transform_graph": ChannelParameter(type=standard_artifacts.TransformGraph),
        "statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "buffer": ChannelParameter(type=standard_artifacts.Examples),
        "schema": ChannelParameter(type=standard_artifacts.Schema),
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "decision": ChannelParameter(type=Decision),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
        "edge": ChannelParameter(type=EdgeModel, optional=True),
    }
    OUTPUTS = {"version": ChannelParameter(type=RegisteredVersion)}
    assert set(ARTIFACTS) <= set(INPUTS)


class Register(base_component.BaseComponent):
    """Adds the candidate to the model registry, blessed or rejected, with all that it consists of.

    Args:
        uri: of the registry, as MLflow takes it.
        name: of the registered model.
        model_artifacts: where MLflow keeps its copies of models; empty: where its server says.
        files: the spans learned -> their files -> what is known of them; kept as it is.
        fingerprint: of all the files' content.
        watermark: up to where nothing waits any more.
        parent: the version that the run started from, or that a shadow is held against; None: a cold start.
        kind: how the version came to be.
        attempt: kept in the record: `number` and `ratios`, where a rejection may be followed by another one.
        shadow: kept in the record: spans that a version trained from scratch has not, or not as the
            champion's line learned them -> why.
        inputs: one channel an artifact of `RegisterSpec.INPUTS`.

    Outputs:
    - `version`: a `RegisteredVersion`.

    Raises:
        RetrainError: `files` is empty, although the version learned something; or there is no such kind.
    """

    SPEC_CLASS = RegisterSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(RegisterExecutor)

    def __init__(
        self,
        uri: str,
        name: str,
        model_artifacts: str,
        files: Mapping[int, Mapping[str, Any]],
        fingerprint: str,
        watermark: int,
        parent: int | None,
        kind: Kind = "run",
        attempt: Mapping[str, Any] | None = None,
        shadow: Mapping[int, str] | None = None,
        **inputs: types.BaseChannel,
    ) -> None:
        if kind not in KINDS:
            raise RetrainError(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}")
        if not files and kind != "forget":
            raise RetrainError("files: got none, required is at least one span that was learned")
        settings = {
            "spans": sorted(files),
            "files": files,
            "fingerprint": fingerprint,
            "watermark": watermark,
            "parent": parent,
            "kind": kind,
            "attempt": attempt,
            "shadow": shadow,
        }
        super().__init__(
            RegisterSpec(
                uri=uri,
                name=name,
                artifacts=model_artifacts,
                settings=json.dumps(settings),
                version=types.Channel(type=RegisteredVersion),
                **inputs,
            )
        )


class PromoteExecutor(base_executor.BaseExecutor):
    """Moves the alias, and says that the gate let the version pass."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        number = artifact_utils.get_single_instance(input_dict["version"]).version
        registry = Registry(exec_properties["uri"], exec_properties["name"])
        version = registry.get(number)
        if version.kind == "forget":
            registry.make_champion(number, f"version {version.parent} without some of its records")
        else:
            registry.make_champion(number, "; ".join(version.gate_reasons) or "blessed", "gate")


class PromoteSpec(ComponentSpec):
    PARAMETERS = {
        "uri": ExecutionParameter(type=str),
        "name": ExecutionParameter(type=str),
    }
    INPUTS = {
        "version": ChannelParameter(type=RegisteredVersion),
        "pushed": ChannelParameter(type=standard_artifacts.PushedModel),
    }
    OUTPUTS: dict[str, Any] = {}


class Promote(base_component.BaseComponent):
    """Makes a version the champion: one alias moves, after its SavedModel is whole in the serving folder.

    Args:
        version: the registered version.
        pushed: Push's output.
        uri, name: of the registry and the registered model.
    """

    SPEC_CLASS = PromoteSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(PromoteExecutor)

    def __init__(self, version: types.BaseChannel, pushed: types.BaseChannel, uri: str, name: str) -> None:
        super().__init__(PromoteSpec(version=version, pushed=pushed, uri=uri, name=name))
