"""The smoke stage: the exported model answers, in a process of its own, before it may be registered."""

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

from components import bounded
from components.artifacts import folder_of, write_json
from components.errors import RetrainError
from components.names import EXPECTED_ANSWERS, SMOKE_FILE

LIMITS = ("max_seconds", "max_memory_mb", "max_difference", "max_latency_ms", "max_p99_ms")


class Executor(base_executor.BaseExecutor):
    """Starts the process, judges what it found, writes `smoke.json`."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        uri, limits = folder_of(input_dict["model"]), json.loads(exec_properties["limits"])
        request = {
            "saved_model": path_utils.serving_model_path(uri),
            "expected": os.path.join(uri, "checkpoint", EXPECTED_ANSWERS),
            "max_difference": limits["max_difference"],
        }
        if not os.path.exists(request["expected"]):
            raise RetrainError(
                f"smoke: {request['expected']} is not there, with what the model of the training answered; "
                "restore the folder, or train again"
            )
        ended = bounded.run("components.smoke.ask", request, limits["max_seconds"], limits["max_memory_mb"])
        found = judged(ended, limits)
        output = artifact_utils.get_single_instance(output_dict["infra_blessing"])
        output.set_int_custom_property("blessed", int(not found["problems"]))
        write_json(output.uri, SMOKE_FILE, found)


def judged(ended: bounded.Ended, limits: Mapping[str, Any]) -> dict[str, Any]:
    """What `smoke.json` says: what the process told of itself, its cost, and all that is wrong.

    Args:
        ended: how it ended.
        limits: by the names of `LIMITS`; None: there is no such limit.
    """
    told = dict(ended.result or {"problems": [f"the SavedModel does not answer: {ended.why}"]})
    problems = list(told.pop("problems"))
    for name, took in told.get("latency_ms", {}).items():
        for limit, measure, what in (
            ("max_latency_ms", "p50", "median"),
            ("max_p99_ms", "p99", "99th percentile"),
        ):
            most = limits[limit]
            if most is not None and took[measure] > most:
                problems.append(
                    f"{name}: the {what} of its latency for one example is {took[measure]:.3g} ms, allowed "
                    f"{most:g} ms (smoke.{limit})"
                )
    cost = {"seconds": round(ended.seconds, 2), "memory_mb": ended.memory_mb}
    return {"problems": problems, **cost, **told}


class SmokeSpec(ComponentSpec):
    PARAMETERS = {"limits": ExecutionParameter(type=str)}
    INPUTS = {"model": ChannelParameter(type=standard_artifacts.Model)}
    OUTPUTS = {"infra_blessing": ChannelParameter(type=standard_artifacts.InfraBlessing)}


class Smoke(base_component.BaseComponent):
    """A model -> whether a server could load and ask it, and what that costs.

    A fresh process loads the SavedModel as TensorFlow Serving does, answers its warm-up requests, asks every
    signature what the training has recorded beside the model, and measures the latency of single examples.
    Answers must be finite, the same through all signatures, and those of the trained model.

    The stock InfraValidator asks the same question of a TensorFlow Serving binary, in Docker or Kubernetes;
    neither is there where `retrain run` has to work, and it looks at no answer. Its artifact is taken over:
    what reads InfraValidator's blessing reads this one. A model that fails is no error of the stage: the
    gate rejects it, with the reasons.

    Args:
        model: as the Trainer wrote it, with `components.names.EXPECTED_ANSWERS` in its checkpoint.
        max_seconds: the longest time of the process, from its start.
        max_memory_mb: the most memory of the process, in MiB.
        max_difference: the largest difference of an answer from the trained model's; of a regression as a
            share of the largest answer.
        max_latency_ms, max_p99_ms: the largest median, and 99th percentile, of the milliseconds for one
            example; None: any.

    Outputs:
    - `infra_blessing`: an `InfraBlessing` with `components.names.SMOKE_FILE`: `problems` (texts),
      `seconds`, `memory_mb` (MiB), and, where the process came to its end, `load_seconds`,
      `first_request_ms` (`cold`, and `warm` after the warm-up requests), `latency_ms` (signature -> `p50`,
      `p99`, `requests`), `largest_difference` and `examples`.

    Raises:
        RetrainError: a limit that is not above zero.
    """

    SPEC_CLASS = SmokeSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        model: types.BaseChannel,
        max_seconds: float,
        max_memory_mb: float,
        max_difference: float = 1e-5,
        max_latency_ms: float | None = None,
        max_p99_ms: float | None = None,
    ) -> None:
        limits = dict(
            zip(LIMITS, (max_seconds, max_memory_mb, max_difference, max_latency_ms, max_p99_ms), strict=True)
        )
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise RetrainError(f"smoke.{name}: got {limit}, required is more than 0")
        super().__init__(
            SmokeSpec(
                model=model,
                limits=json.dumps(limits, sort_keys=True),
                infra_blessing=types.Channel(type=standard_artifacts.InfraBlessing),
            )
        )
