"""What any server of TF Serving's protocol must do: this project's own, and tensorflow_model_server itself.

Without more, the suite starts the embedded server. With SERVING_GRPC and SERVING_REST (HOST:PORT each) it
asks the server there, which serves what `python -m tests.serving.conformance.calc_models FOLDER` has written;
docs/operating.md says how. Tests that tell it what to serve run if SERVING_FOLDER is FOLDER as it sees it.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.serving.conformance.calc_models import MODEL, write


@dataclass
class Target:
    """A server that serves `calc`.

    Attributes:
        rest: its REST address.
        folder: of the models, as it sees it; None: unknown.
        embedded: whether it is this project's own.
        predictions, models: stubs of its gRPC services.
    """

    rest: str
    folder: str | None
    embedded: bool
    predictions: Any
    models: Any

    def http(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and parsed body of an answer; a body that is bytes goes as it is."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.rest}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def post(self, method: str, body: Any, where: str = "") -> tuple[int, Any]:
        """Asks a method of `calc`."""
        return self.http(f"/v1/models/{MODEL}{where}:{method}", body)


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    grpc_address, rest_address = os.environ.get("SERVING_GRPC"), os.environ.get("SERVING_REST")
    if grpc_address and rest_address:
        folder = os.environ.get("SERVING_FOLDER") or None
        yield from _connected(grpc_address, rest_address, folder, embedded=False)
        return
    from serving.server import ModelServer

    models = tmp_path_factory.mktemp("conformance")
    with ModelServer(write(models), grpc_port=0, rest_port=0, poll_seconds=0.05) as server:
        for version in (1, 2):
            server.wait_until_available(MODEL, version)
        addresses = (f"127.0.0.1:{port}" for port in (server.grpc_port, server.rest_port))
        yield from _connected(*addresses, str(models), embedded=True)


def _connected(grpc_address: str, rest_address: str, folder: str | None, embedded: bool) -> Iterator[Target]:
    import grpc
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    with grpc.insecure_channel(grpc_address) as channel:
        yield Target(
            rest_address,
            folder,
            embedded,
            prediction_service_pb2_grpc.PredictionServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )
