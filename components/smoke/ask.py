"""Asks a SavedModel: what the smoke test does in the process that `components.bounded` starts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from components import bounded
from components.names import CLASSIFY, SERVING_DEFAULT, SERVING_RAW
from components.smoke import answers

_REQUESTS, _SKIPPED = 200, 10  # of one example, that latency is measured on; before that
_LATENCY_SECONDS = 5.0  # at most for one signature: a slow model shows in fewer requests, too


def main(folder: str) -> None:
    """Does what the request in the folder says, and hands over what was found."""
    request, stage = bounded.request_of(folder)
    stage("importing TensorFlow")
    import tensorflow as tf  # noqa: F401

    bounded.answer(folder, look(request, stage))


def look(request: Mapping[str, Any], stage: Callable[[str], None]) -> dict[str, Any]:
    """Loads and asks a SavedModel.

    Args:
        request: `saved_model`, its folder; `expected`, a file of requests with the answers that they must
            have; `max_difference`, of an answer from it.
        stage: told what begins.

    Returns:
        `problems`: what is wrong, as texts, and what `components.smoke.component.Smoke` describes.
    """
    import tensorflow as tf

    from components.smoke.served import Served

    begun = time.perf_counter()
    stage("loading the SavedModel")
    try:
        served = Served(request["saved_model"])
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, tf.errors.OpError) as error:
        return {"problems": [f"the SavedModel does not load: {_line(error)}"]}
    told = {"load_seconds": round(time.perf_counter() - begun, 3)}
    try:
        found, more = _asked(served, request, stage)
    except (LookupError, TypeError, ValueError, RuntimeError, tf.errors.OpError) as error:
        found, more = [f"the SavedModel does not answer: {_line(error)}"], {}
    return {"problems": found, **told, **more}


def _line(error: BaseException) -> str:
    """The first line of what went wrong; of TensorFlow's, the first that says it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if line != "Graph execution error:" and not line.startswith("Detected at")]
    return (said or lines or [type(error).__name__])[0][:300]


def _asked(
    served: Any, request: Mapping[str, Any], stage: Callable[[str], None]
) -> tuple[list[str], dict[str, Any]]:
    """What is wrong with the answers, and what is told of them."""
    from components.smoke.served import expected_of, inputs_of, read_logs, signature_of

    logs = {signature_of(log): log for log in read_logs(request["expected"])}
    inputs = {name: inputs_of(log) for name, log in logs.items()}
    if not logs:
        return ["there is no held-out example to ask the SavedModel"], {}
    told: dict[str, Any] = {"first_request_ms": _warmed_up(served, request["saved_model"], stage)}
    found = [
        f"{name}: no request to this signature is known" for name in sorted(served.signatures - logs.keys())
    ]
    comparison = answers.Comparison(request["max_difference"], is_probability=CLASSIFY in logs)
    answered = {}
    for name, log in logs.items():
        stage(f"answering {name}")
        answered[name] = served.ask(log)
        found += answers.problems(name, answered[name], answers.rows_of(inputs[name]))
        found += comparison.hold(name, answered[name], expected_of(log), "of the trained model")
    found += comparison.hold(
        SERVING_RAW, answered[SERVING_RAW], answered[SERVING_DEFAULT], f"of {SERVING_DEFAULT}"
    )
    told["largest_difference"] = comparison.largest
    told["examples"] = answers.rows_of(inputs[SERVING_DEFAULT])
    told["latency_ms"] = {
        name: _latency(served, name, inputs[name], stage) for name in (SERVING_DEFAULT, SERVING_RAW)
    }
    return found, told


def _warmed_up(served: Any, saved_model: str, stage: Callable[[str], None]) -> dict[str, float]:
    """Answers the warm-up requests, as TF Serving does: how long the first took, and the first after all."""
    from components.smoke.served import read_logs

    file = os.path.join(saved_model, "assets.extra", "tf_serving_warmup_requests")
    logs = read_logs(file) if os.path.exists(file) else []
    if not logs:
        return {}
    took: list[float] = []
    stage("warming up")
    for log in [*logs, logs[0]]:
        begun = time.perf_counter()
        served.ask(log)
        took.append(round((time.perf_counter() - begun) * 1000, 2))
    return {"cold": took[0], "warm": took[-1]}


def _latency(
    served: Any, name: str, inputs: Mapping[str, np.ndarray], stage: Callable[[str], None]
) -> dict[str, float]:
    """Of requests of one row each, in milliseconds."""
    stage(f"measuring the latency of {name}")
    rows, took, begun = answers.rows_of(inputs), [], time.perf_counter()
    for i in range(_SKIPPED + _REQUESTS):
        one = {key: values[i % rows : i % rows + 1] for key, values in inputs.items()}
        before = time.perf_counter()
        served.run(name, one)
        took.append((time.perf_counter() - before) * 1000)
        if time.perf_counter() - begun > _LATENCY_SECONDS:
            break
    measured = took[_SKIPPED:] or took
    p50, p99 = np.percentile(measured, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "requests": len(measured)}


if __name__ == "__main__":
    main(sys.argv[1])
