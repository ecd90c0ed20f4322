"""Real SavedModels, real servers, real clients. TensorFlow is imported only by the fixtures that need it."""

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.model_config import write_model_config

VERSIONS = (1, 2, 3)
POLL_SECONDS = 0.05


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of SavedModels by version. Not to be changed: `push` copies them.

    Each answers x times its version, so that an answer tells which version gave it.
    """
    import tensorflow as tf

    dtypes = [tf.float32, tf.float64, tf.float16, tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16,
              tf.uint32, tf.uint64, tf.bool, tf.string, tf.bfloat16, tf.complex64]  # fmt: skip

    class Scale(tf.Module):
        def __init__(self, version: int) -> None:
            self.version = tf.Variable(float(version))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def serve_examples(self, examples):
            features = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([], tf.float32)})
            return {"score": features["x"] * self.version}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 1], tf.float32, name="x"),
                tf.TensorSpec([None, 1], tf.string, name="company"),
            ]
        )
        def serve_raw(self, x, company):
            return {"score": x * self.version, "company": company, "company_bytes": company}

        @tf.function(input_signature=[tf.TensorSpec([1], tf.int32, name="steps")])
        def serve_slowly(self, steps):
            def step(i, x):
                return i + 1, tf.sin(x) + self.version

            _, x = tf.while_loop(lambda i, _: i < steps[0], step, (0, self.version.read_value()))
            return {"score": tf.sign(x)[tf.newaxis]}

        @tf.function(input_signature=[tf.TensorSpec(None, dtype, name=dtype.name) for dtype in dtypes])
        def echo(self, *tensors):
            return {tensor.dtype.name: tf.identity(tensor) for tensor in tensors}

    folders = {}
    for version in VERSIONS:
        model = Scale(version)
        folders[version] = tmp_path_factory.mktemp("exports") / str(version)
        signatures = {
            "serving_default": model.serve_examples,
            "serving_raw": model.serve_raw,
            "slow": model.serve_slowly,
            "echo": model.echo,
        }
        tf.saved_model.save(model, str(folders[version]), signatures=signatures)
    return folders


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    return tmp_path / "models" / "taxi"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "models.config"


@pytest.fixture
def push(exports: dict[int, Path], base_path: Path) -> Callable[..., Path]:
    """Copies a version under the base path, `saved_model.pb` last, as the pipeline's push does."""

    def push_version(version: int, base_path: Path = base_path) -> Path:
        folder = base_path / str(version)
        shutil.copytree(exports[version], folder, ignore=shutil.ignore_patterns("saved_model.pb"))
        shutil.copy(exports[version] / "saved_model.pb", folder)
        return folder

    return push_version


@pytest.fixture
def choose(config_file: Path, base_path: Path) -> Callable[..., None]:
    """Writes the model config file: `choose(1, 2, champion=2)`."""

    def write(*versions: int, **labels: int) -> None:
        write_model_config(config_file, "taxi", base_path, versions, labels)

    return write


class Client:
    """gRPC stubs and HTTP of one server."""

    def __init__(self, server: Any) -> None:
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        self.url = f"http://127.0.0.1:{server.rest_port}"
        self.channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, inputs: dict[str, Any], signature: str = "", **spec: Any) -> Any:
        """Predicts; inputs are TensorProtos, or what converts to them; for `spec` see `predict_request`."""
        return self.prediction.Predict(predict_request(inputs, signature, **spec), timeout=60)

    def score(self, x: float = 1.0, **spec: Any) -> float:
        """Returns x times the version that answered."""
        return self.predict({"examples": [example(x)]}, **spec).outputs["score"].float_val[0]

    def http(self, path: str, body: Any = None, method: str | None = None) -> tuple[int, Any]:
        """Returns the HTTP status and the parsed body; a body that is bytes goes as it is."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def states(self) -> dict[int, str]:
        """Returns the state of each version of taxi, over REST."""
        _, body = self.http("/v1/models/taxi")
        return {int(entry["version"]): entry["state"] for entry in body.get("model_version_status", [])}


def predict_request(
    inputs: dict[str, Any],
    signature: str = "",
    model: str = "taxi",
    version: int | None = None,
    label: str | None = None,
    output_filter: tuple[str, ...] = (),
) -> Any:
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest(output_filter=output_filter)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for name, value in inputs.items():
        is_proto = isinstance(value, tensor_pb2.TensorProto)
        request.inputs[name].CopyFrom(value if is_proto else tf.make_tensor_proto(value))
    return request


def example(x: float) -> bytes:
    """Returns a serialized tf.Example with the feature x."""
    import tensorflow as tf

    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[x]))
    return tf.train.Example(features=tf.train.Features(feature={"x": feature})).SerializeToString()


@pytest.fixture(scope="session", name="example")
def example_fixture() -> Callable[[float], bytes]:
    return example


@pytest.fixture(scope="session", name="predict_request")
def predict_request_fixture() -> Callable[..., Any]:
    return predict_request


@pytest.fixture(scope="session")
def served(exports: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server of versions 1 and 2 of taxi, which no test changes."""
    from serving.server import ModelServer

    folder = tmp_path_factory.mktemp("served")
    for version in (1, 2):
        shutil.copytree(exports[version], folder / "taxi" / str(version))
    write_model_config(folder / "models.config", "taxi", "taxi", [1, 2], {"champion": 2, "previous": 1})
    with ModelServer(folder / "models.config", grpc_port=0, rest_port=0, poll_seconds=POLL_SECONDS) as server:
        for version in (1, 2):
            server.wait_until_available("taxi", version)
        yield from _connected(server)


def _connected(server: Any) -> Iterator[Client]:
    client = Client(server)
    yield client
    client.channel.close()


@pytest.fixture(scope="session")
def connect() -> Callable[[Any], Iterator[Client]]:
    """A client of a server, closed afterwards: for fixtures of other servers to `yield from`."""
    return _connected


@pytest.fixture
def start(config_file: Path) -> Iterator[Callable[[], tuple[Any, Client, list[str]]]]:
    """Starts servers of `config_file`; gives each with a client and the growing list of its events."""
    from serving.server import ModelServer

    started: list[tuple[ModelServer, Client]] = []

    def start_server() -> tuple[ModelServer, Client, list[str]]:
        events: list[str] = []
        server = ModelServer(
            config_file, grpc_port=0, rest_port=0, poll_seconds=POLL_SECONDS, on_event=events.append
        )
        server.start()
        client = Client(server)
        started.append((server, client))
        return server, client, events

    yield start_server
    for server, client in started:
        client.channel.close()
        server.stop()


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """Waits until a condition holds and returns its value. The timeout only ends a test that fails anyway."""

    def wait(condition: Callable[[], Any], timeout: float = 60.0) -> Any:
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            assert time.monotonic() < deadline, "the condition never held"
            time.sleep(0.01)
        return value

    return wait
