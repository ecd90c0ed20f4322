"""A registry in real MLflow, in SQLite and behind its server, and versions to put in it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.promote.registry import Registry, Version


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow makes its tables in 4 s; a copy of them is there at once."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "registry.sqlite"
    uri = f"sqlite:///{path}"
    MlflowClient(tracking_uri=uri, registry_uri=uri).search_registered_models()
    return path


@dataclass(frozen=True)
class Server:
    """A process that takes 10 to 30 s until it answers.

    Attributes:
        uri: its address.
        folder: where it keeps what it is given, and its log.
        process: of `mlflow server`.
    """

    uri: str
    folder: Path
    process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Until it answers."""
        end = time.monotonic() + 180
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"mlflow server does not answer:\n{(self.folder / 'log').read_text()[-3000:]}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    """One for all tests, started before the first that has a registry, so that it is up when it is needed."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "registry.sqlite")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{folder}/registry.sqlite"]
    store += ["--artifacts-destination", str(folder / "artifacts")]
    mlflow = Path(sys.executable).parent / "mlflow"
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [mlflow, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *store],
            stdout=log,
            stderr=subprocess.STDOUT,
            # Nothing here is for its own background jobs.
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    yield Server(f"http://127.0.0.1:{port}", folder, process)
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="session", params=["sqlite", "server"])
def backend(request: pytest.FixtureRequest, server: Server) -> str:
    """Of the session, so that all tests of one come before those of the other."""
    kind: str = request.param
    return kind


@pytest.fixture
def registry(tmp_path: Path, backend: str, empty_database: Path, server: Server) -> Registry:
    """An empty one, of a model of its own."""
    if backend == "server":
        server.wait()
        return Registry(server.uri, f"{tmp_path.parent.name}-{tmp_path.name}")
    shutil.copy(empty_database, tmp_path / "registry.sqlite")
    return Registry(f"sqlite:///{tmp_path}/registry.sqlite", "taxi", str(tmp_path / "mlflow"))


@pytest.fixture
def copies(registry: Registry, server: Server) -> Path:
    """Where MLflow keeps its copies of models."""
    return Path(registry._artifacts) if registry._artifacts else server.folder / "artifacts"


@pytest.fixture
def saved_model(tmp_path: Path) -> str:
    folder = tmp_path / "saved"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"weights")
    return str(folder)


@pytest.fixture
def version() -> Callable[..., Version]:
    """A version with a key of its own, and whatever else is told."""

    def version(key: str, spans: tuple[int, ...] = (1,), parent: int | None = None, **more: Any) -> Version:
        given = {"blessed": True, "uris": {"model": f"/artifacts/{key}"}, "record": {}, "created": 0.0} | more
        return Version(number=0, key=key, spans=spans, watermark=max(spans), parent=parent, **given)

    return version
