"""The edge stage: a TFLite model of the version, for devices, where it is as good as the SavedModel."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import path_utils

from components import bounded
from components.artifacts import EdgeModel, folder_of, write_json
from components.edge import logic
from components.errors import RetrainError
from components.names import EDGE_FILE, EDGE_MODEL

TRAIN_SPLIT, EVAL_SPLIT = "train", "eval"


class Executor(base_executor.BaseExecutor):
    """Starts the process, judges what it found, and keeps the TFLite model where nothing is wrong."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        settings, limits = (json.loads(exec_properties[name]) for name in ("settings", "limits"))
        output = artifact_utils.get_single_instance(output_dict["edge"])
        os.makedirs(output.uri, exist_ok=True)
        made = os.path.join(output.uri, f".{EDGE_MODEL}")
        folder_of(input_dict["buffer"])
        request = {
            **settings,
            "saved_model": path_utils.serving_model_path(folder_of(input_dict["model"])),
            "calibration": _files(input_dict, TRAIN_SPLIT),
            "held_out": _files(input_dict, EVAL_SPLIT),
            "file": made,
        }
        ended = bounded.run(
            "components.edge.convert", request, limits["max_seconds"], limits["max_memory_mb"]
        )
        found = judged(ended, limits) | {"quantization": settings["quantization"]}
        if os.path.exists(made):
            if found["problems"]:
                os.remove(made)
            else:
                os.rename(made, os.path.join(output.uri, EDGE_MODEL))
        write_json(output.uri, EDGE_FILE, found)


def _files(input_dict: dict[str, list[types.Artifact]], split: str) -> str:
    return os.path.join(artifact_utils.get_split_uri(input_dict["buffer"], split), "data_tfrecord-*")


def judged(ended: bounded.Ended, limits: Mapping[str, Any]) -> dict[str, Any]:
    """What `edge.json` says: what the process told, its cost, and why the model is left out.

    Args:
        ended: how it ended.
        limits: as `components.edge.logic.problems` takes them.
    """
    told = dict(ended.result or {"why": ended.why})
    why = told.pop("why", "")
    cost = {"seconds": round(ended.seconds, 2), "memory_mb": ended.memory_mb}
    return {"problems": [why] if why else logic.problems(told, limits), **cost, **told}


class EdgeSpec(ComponentSpec):
    PARAMETERS = {"settings": ExecutionParameter(type=str), "limits": ExecutionParameter(type=str)}
    INPUTS = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "buffer": ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {"edge": ChannelParameter(type=EdgeModel)}


class Edge(base_component.BaseComponent):
    """A model -> the same as a TFLite file, if it is as good.

    What is converted is the signature `serving_raw`, with the transform graph in it, so that a device sends
    raw columns. TFX's own TFLite rewriter converts a whole SavedModel inside the Trainer: it takes no
    examples of raw columns to calibrate on, and nothing compares its result.

    A process of its own converts, as TensorFlow's converter may end the process that it is in, and asks the
    TFLite model held-out examples one by one. A file that is too far from the SavedModel, or cannot be asked
    here, is left out; what uses the artifact sees whether `model.tflite` is there.

    Args:
        model: as the Trainer wrote it.
        buffer: this version's replay buffer: `train` for calibration, `eval` for comparison.
        quantization: one of `components.edge.logic.QUANTIZATIONS`.
        examples: how many held-out examples it is asked, at most.
        max_difference: the largest mean difference of its answers, as
            `components.edge.logic.mean_difference` has it.
        max_drop: how much worse than the SavedModel it may be in the metric.
        columns: the raw columns that a request holds.
        label: the label's column.
        task: of the label.
        metric: one of the gates'.
        relative: whether `max_drop` is a share of the SavedModel's value.
        max_seconds, max_memory_mb: of the process, as `components.bounded.run` takes them.

    Outputs:
    - `edge`: an `EdgeModel`.

    Raises:
        RetrainError: there is no such quantization.
    """

    SPEC_CLASS = EdgeSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        model: types.BaseChannel,
        buffer: types.BaseChannel,
        quantization: str,
        examples: int,
        max_difference: float,
        max_drop: float,
        columns: Iterable[str],
        label: str,
        task: str,
        metric: str,
        relative: bool,
        max_seconds: float,
        max_memory_mb: float,
    ) -> None:
        if quantization not in logic.QUANTIZATIONS:
            raise RetrainError(
                f"edge.quantization: got {quantization!r}, expected one of {', '.join(logic.QUANTIZATIONS)}"
            )
        settings = {
            "quantization": quantization,
            "examples": examples,
            "columns": list(columns),
            "label": label,
            "task": task,
            "metric": metric,
            "relative": relative,
        }
        limits = {
            "max_difference": max_difference,
            "max_drop": max_drop,
            "max_seconds": max_seconds,
            "max_memory_mb": max_memory_mb,
        }
        super().__init__(
            EdgeSpec(
                model=model,
                buffer=buffer,
                settings=json.dumps(settings, sort_keys=True),
                limits=json.dumps(limits, sort_keys=True),
                edge=types.Channel(type=EdgeModel),
            )
        )
