"""Does anybody notice a promotion? 50 of them under a steady load, with every answer checked."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.serving.load import Answer, Load
from tests.e2e.harness import Deployment

SWAPS = 50
QUIET_SECONDS = 20.0
SWAPPING_SECONDS = 130.0
MOST_SECONDS = 1800.0  # also on a slow machine
ROWS = 40
_CLOSE = 1e-6  # float32's rounding, between a batch of 40 rows and one


@dataclass(frozen=True)
class Swap:
    """One promotion.

    Attributes:
        begun, done: when it was begun and confirmed, in seconds since the epoch.
        old, new: the version before and after.
        loop_ms: what a fixed loop took of a processor just before, a measure of the machine's speed.
    """

    begun: float
    done: float
    old: int
    new: int
    loop_ms: float


def measure(work: Path, swaps: int = SWAPS, quiet: float = QUIET_SECONDS) -> dict[str, Any]:
    """50 promotions under 200 REST and 50 gRPC requests a second: failed and wrong answers, latency.

    `nothing_behind_the_load` is the latency of the same load without a model, a measure of the machine; so is
    `loop_ms` of every ten promotions, which tells what of their latency is the machine's.
    """
    shutil.rmtree(work, ignore_errors=True)
    deployment = Deployment(work.resolve())
    _two_versions(deployment)
    with _server(deployment) as ports:
        load = _load(deployment, ports)
        truth = _truth(deployment, load)
        nothing = _latency_of_nothing(work, load, quiet)
        with _under_load(work, load) as answers_file:
            time.sleep(quiet + 5)  # the load's own start is no part of the quiet time
            with _standing_back():
                done = _swap(deployment, swaps, SWAPPING_SECONDS / SWAPS)
            time.sleep(quiet)
        answers = [Answer(**json.loads(line)) for line in answers_file.read_text().splitlines()]
    return {"nothing_behind_the_load": nothing} | _told(answers, done, truth)


def _latency_of_nothing(work: Path, load: Load, seconds: float) -> dict[str, Any]:
    """What the load itself and the machine take: the latency of a server that answers at once."""
    command = [sys.executable, "-m", "tests.bench.serving.echo"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        rest, grpc = (f"127.0.0.1:{port}" for port in process.stdout.readline().split())
        with _under_load(work, replace(load, rest=rest, grpc=grpc)) as file:
            time.sleep(5)
            begin = time.time()
            time.sleep(seconds)
        answers = [Answer(**json.loads(line)) for line in file.read_text().splitlines()]
    finally:
        process.kill()
        process.wait()
    return {
        protocol: _latency([a for a in answers if a.protocol == protocol and a.due >= begin])
        for protocol in ("rest", "grpc")
    }


def _two_versions(deployment: Deployment) -> None:
    """Versions 1 and 2, which answer differently, of the real pipeline; the gate lets both pass."""
    deployment.configure(training={"epochs": 2}, gates={"metrics": {"auc": {"min_value": 0.3}}})
    for span in (1, 2):
        deployment.put(span)
        result = deployment.run()
        assert result.code == 0, result.err


@contextlib.contextmanager
def _server(deployment: Deployment) -> Iterator[tuple[int, int]]:
    """`retrain serve` in a process of its own, which promotions tell; its REST and gRPC ports."""
    rest, grpc = _free_ports(2)
    deployment.configure(
        serving={
            "rest_port": rest,
            "grpc_port": grpc,
            "servers": [{"grpc": f"127.0.0.1:{grpc}", "rest": f"127.0.0.1:{rest}"}],
        },
    )
    command = [str(Path(sys.executable).with_name("retrain")), "serve", str(deployment.config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for(rest)
        yield rest, grpc
    finally:
        process.terminate()
        process.wait(timeout=30)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _wait_for(port: int) -> None:
    import urllib.error
    import urllib.request

    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
            return
        time.sleep(0.2)
    raise TimeoutError("`retrain serve` did not get ready in 90 s")


def _load(deployment: Deployment, ports: tuple[int, int]) -> Load:
    """Rows of the first quarter, one a request."""
    from pipeline.config import load
    from pipeline.predict import Client
    from pipeline.request_rows import RowsFile

    (source,) = (deployment.data / "1").glob("*.csv")
    file = deployment.folder / "rows.csv"
    with open(source) as lines, open(file, "w") as out:
        out.writelines(itertools.islice(lines, ROWS + 1))
    config = load(deployment.config)
    served = Client(f"http://127.0.0.1:{ports[0]}", config.name).served(
        {column: column for column in config.columns}
    )
    (request,) = RowsFile(file, config.columns).requests(served.inputs)
    rows = [
        {name: _finite(values[i]) for name, values in request.inputs.items()}
        for i in range(len(request.lines))
    ]
    rows = [row for row in rows if None not in row.values()]
    return Load(
        path=f"/v1/models/{config.name}:predict",
        bodies=[json.dumps({"signature_name": "serving_raw", "instances": [row]}) for row in rows],
        messages=[base64.b64encode(_message(config.name, row)).decode() for row in rows],
        rest=f"127.0.0.1:{ports[0]}",
        grpc=f"127.0.0.1:{ports[1]}",
    )


def _finite(value: Any) -> Any:
    """JSON has no word for what is missing in a column of decimals."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _message(name: str, row: Mapping[str, Any]) -> bytes:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, "serving_raw"
    kinds = {int: tf.int64, float: tf.float32, str: tf.string}
    for key, value in row.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto([value], dtype=kinds[type(value)]))
    return bytes(request.SerializeToString())


def _truth(deployment: Deployment, load: Load) -> dict[int, np.ndarray]:
    """Version -> what its SavedModel answers to every row, asked here and of nobody else."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    truth = {}
    for number, version in deployment.versions().items():
        model = tf.saved_model.load(str(Path(version["uris"]["model"]) / "Format-Serving"))
        answers = []
        for message in load.messages:
            request = predict_pb2.PredictRequest.FromString(base64.b64decode(message))
            inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
            answers.append(model.signatures["serving_raw"](**inputs)["predictions"].numpy()[0])
        truth[number] = np.array(answers, np.float64)
    apart = np.abs(truth[1] - truth[2]).min()
    assert apart > 10 * _CLOSE, f"the two versions answer alike ({apart:.2g}): a wrong answer would not show"
    return truth


@contextlib.contextmanager
def _standing_back() -> Iterator[None]:
    """This process promotes from another machine, or has less priority: what is measured is the server."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, 10)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):  # Only root may take back what it gave away.
            os.setpriority(os.PRIO_PROCESS, 0, before)


@contextlib.contextmanager
def _under_load(work: Path, load: Load) -> Iterator[Path]:
    """The load in a process of its own; it is over, and the file whole, when the context ends."""
    spec, out = work / "load.json", work / "answers.jsonl"
    spec.write_text(json.dumps(asdict(load) | {"seconds": MOST_SECONDS}))
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.serving.load", str(spec), str(out)])
    try:
        yield out
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()


def _swap(deployment: Deployment, swaps: int, every: float) -> list[Swap]:
    """Promotes versions 1 and 2 in turn, one every `every` seconds."""
    from pipeline import champion
    from pipeline.config import load

    config, done = load(deployment.config), []
    begin, now_served = time.time(), 2
    for number in range(swaps):
        if (wait := begin + number * every - time.time()) > 0:
            time.sleep(wait)
        loop_ms = _loop_ms()
        new, begun = 3 - now_served, time.time()
        champion.promote(config, new)
        done.append(Swap(begun, time.time(), now_served, new, loop_ms))
        now_served = new
    return done


def _loop_ms() -> float:
    """What half a million additions take of a processor: 14 ms on one, 30 where neighbours use it, too."""
    begin, number = time.thread_time(), 0
    while number < 500_000:
        number += 1
    return (time.thread_time() - begin) * 1000


def _told(
    answers: Sequence[Answer], swaps: Sequence[Swap], truth: Mapping[int, np.ndarray]
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "swaps": len(swaps),
        "seconds_a_swap": round(float(np.mean([swap.done - swap.begun for swap in swaps])), 2),
    }
    told["tens"] = [_ten(answers, swaps[i : i + 10]) for i in range(0, len(swaps), 10)]
    phases = {
        "before": lambda due: due < swaps[0].begun,
        "while swapping": lambda due: swaps[0].begun <= due <= swaps[-1].done,
        "after": lambda due: due > swaps[-1].done,
    }
    for protocol in ("rest", "grpc"):
        of = [answer for answer in answers if answer.protocol == protocol]
        failed = Counter(f"{a.status} {a.body[:80]}" for a in of if a.status != 200)
        told[protocol] = {
            "requests": len(of),
            "failed": sum(failed.values()),
            "failures": dict(failed.most_common(5)),
            "wrong": sum(_wrong(answer, swaps, truth) for answer in of if answer.status == 200),
            "latency_ms": {
                phase: _latency([a for a in of if within(a.due)]) for phase, within in phases.items()
            },
        }
    return told


def _ten(answers: Sequence[Answer], swaps: Sequence[Swap]) -> dict[str, Any]:
    """The latency during some promotions, and the machine's speed then."""
    within = [a for a in answers if swaps[0].begun <= a.due <= swaps[-1].done]
    p99 = {
        protocol: _latency([a for a in within if a.protocol == protocol])["p99"]
        for protocol in ("rest", "grpc")
    }
    return {"loop_ms": round(float(np.median([swap.loop_ms for swap in swaps])), 1), "p99": p99}


def _wrong(answer: Answer, swaps: Sequence[Swap], truth: Mapping[int, np.ndarray]) -> bool:
    """Whether no version that was served at some time between request and answer says so."""
    ends = [swap.done for swap in swaps]
    served = {swaps[0].old} if answer.due < ends[0] else set()
    for swap, end in zip(swaps, [*ends[1:], np.inf], strict=True):
        if answer.due < end and answer.done > swap.begun:
            served.add(swap.new)
    prediction, version = _read(answer)
    if version is not None and version not in served:
        return True
    return all(abs(prediction - truth[number][answer.request]) > _CLOSE for number in served)


def _read(answer: Answer) -> tuple[float, int | None]:
    """The prediction, and over gRPC the version that says it answered."""
    if answer.protocol == "rest":
        (prediction,) = json.loads(answer.body)["predictions"]
        return float(prediction), None
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    response = predict_pb2.PredictResponse.FromString(base64.b64decode(answer.body))
    prediction = tf.make_ndarray(response.outputs["predictions"])[0]
    return float(prediction), int(response.model_spec.version.value)


def _latency(answers: Sequence[Answer]) -> dict[str, float]:
    if not answers:
        return {}
    took = np.array([(answer.done - answer.due) * 1000 for answer in answers])
    return {
        "requests": len(took),
        "p50": round(float(np.percentile(took, 50)), 2),
        "p99": round(float(np.percentile(took, 99)), 2),
        "max": round(float(took.max()), 1),
    }
