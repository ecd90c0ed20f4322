"""The push stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import path_utils

from components.artifacts import RegisteredVersion
from components.push import logic
from components.push.pool import Pool
from components.push.servers import serve_on


class Executor(base_executor.BaseExecutor):
    """Copies the SavedModel to the serving folder, under the version's number, and has it served."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        version = artifact_utils.get_single_instance(input_dict["version"]).version
        saved_model = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        target = logic.push(Path(saved_model), Path(exec_properties["base"]), version)
        if pool := exec_properties.get("pool"):
            serve_on(Pool.model_validate_json(pool), version)
        pushed = artifact_utils.get_single_instance(output_dict["pushed"])
        pushed.set_int_custom_property("pushed", 1)
        pushed.set_string_custom_property("pushed_destination", str(target))
        pushed.set_string_custom_property("pushed_version", str(version))


class PushSpec(ComponentSpec):
    PARAMETERS = {"base": ExecutionParameter(type=str), "pool": ExecutionParameter(type=str)}
    INPUTS = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "version": ChannelParameter(type=RegisteredVersion),
    }
    OUTPUTS = {"pushed": ChannelParameter(type=standard_artifacts.PushedModel)}


class Push(base_component.BaseComponent):
    """A SavedModel -> `base/VERSION`, whole or not at all; and on the servers that are to be told.

    It is never to be taken from TFX's cache, as the servers may have been started anew since.

    The stock Pusher numbers what it pushes by the clock, so a run that is tried again pushes twice,
    and the number says nothing about the registry's; it also pushes without a blessing.

    Args:
        model: the model to serve.
        version: its version in the registry.
        base: the serving folder of this model.
        pool: the servers that must confirm the version, a `Pool` as JSON; empty: none is told.

    Outputs:
    - `pushed`: with the custom property `pushed_destination`.
    """

    SPEC_CLASS = PushSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self, model: types.BaseChannel, version: types.BaseChannel, base: str, pool: str = ""
    ) -> None:
        super().__init__(
            PushSpec(
                model=model,
                version=version,
                base=base,
                pool=pool,
                pushed=types.Channel(type=standard_artifacts.PushedModel),
            )
        )
