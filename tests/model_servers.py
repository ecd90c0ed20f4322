"""Real model servers and tiny SavedModels, for tests that tell servers what to serve.

`python -m tests.model_servers CONFIG_FILE GRPC_PORT` is a server in a process of its own; it prints its port.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MODEL = "shop"


def export(folder: Path, version: int, slow_steps: int = 0) -> Path:
    """Writes a SavedModel that answers with its version.

    Args:
        folder: of the SavedModel.
        version: what it answers.
        slow_steps: of the loop that its warm-up goes through: about 10 us each.
    """
    import tensorflow as tf

    class Constant(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="steps")])
        def serve(self, steps: Any) -> Any:
            def step(i: Any, x: Any) -> Any:
                return i + 1, tf.sin(x)

            _, x = tf.while_loop(lambda i, _: i < tf.reduce_max(steps), step, (0, 1.0))
            return {"version": tf.zeros_like(steps) + version + tf.cast(x > 2, tf.int32)}

    model = Constant()
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.serve})
    if slow_steps:
        from tensorflow_serving.apis import prediction_log_pb2

        log = prediction_log_pb2.PredictionLog()
        log.predict_log.request.CopyFrom(request(steps=slow_steps))
        extra = folder / "assets.extra"
        extra.mkdir()
        with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
            writer.write(log.SerializeToString())
    return folder


def request(label: str | None = None, steps: int = 0) -> Any:
    """Asks for the version that answers, of all or under a label."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    asked = predict_pb2.PredictRequest()
    asked.model_spec.name = MODEL
    if label:
        asked.model_spec.version_label = label
    asked.inputs["steps"].CopyFrom(tf.make_tensor_proto([steps], tf.int32))
    return asked


def answers(address: str, label: str | None = None) -> int:
    """The version that answers."""
    with _predict(address) as predict:
        return predict(label)


@contextlib.contextmanager
def _predict(address: str) -> Iterator[Callable[[str | None], int]]:
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        yield lambda label: stub.Predict(request(label), timeout=20).outputs["version"].int_val[0]


def loaded(address: str) -> set[int]:
    """The versions that a server has available."""
    import grpc
    from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = MODEL
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(asked, timeout=20)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return set()
            raise
    return {entry.version for entry in status.model_version_status if entry.state == entry.AVAILABLE}


class Fleet:
    """Servers in this process. They watch no file unless told: what they serve they are told over gRPC."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, Any] = {}

    def start(self, config_file: Path | None = None, address: str = "127.0.0.1:0") -> str:
        """Starts one; returns its address."""
        from serving.server import ModelServer

        host, port = address.split(":")
        file = config_file or self.folder / "none" / "models.config"
        server = ModelServer(file, host, int(port), 0, poll_seconds=0.05)
        server.start()
        started = f"{host}:{server.grpc_port}"
        self._running[started] = server
        return started

    def stop(self, address: str | None = None) -> None:
        """Stops one, or all."""
        for started in [address] if address else list(self._running):
            self._running.pop(started).stop(grace=0.1)


class Traffic:
    """Asks servers all the time, under the label and without.

    Attributes:
        answers: (address, label) -> the versions that answered, in order.
        errors: what went wrong.
    """

    def __init__(self, addresses: list[str]) -> None:
        self.answers: dict[tuple[str, str | None], list[int]] = {}
        self.errors: list[str] = []
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(address, label))
            for address in addresses
            for label in (None, "stable")
        ]

    def _ask(self, address: str, label: str | None) -> None:
        seen = self.answers.setdefault((address, label), [])
        with _predict(address) as predict:
            while not self._ended.is_set():
                try:
                    seen.append(predict(label))
                except Exception as error:
                    self.errors.append(f"{address} {label}: {error}")
                time.sleep(0.005)

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


if __name__ == "__main__":
    from serving.server import ModelServer

    with ModelServer(
        Path(sys.argv[1]), "127.0.0.1", int((*sys.argv, "0")[2]), 0, poll_seconds=0.1
    ) as running:
        print(running.grpc_port, flush=True)
        running.wait()
