"""A registry in real MLflow, and versions to put in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
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


@pytest.fixture
def registry(tmp_path: Path, empty_database: Path) -> Registry:
    shutil.copy(empty_database, tmp_path / "registry.sqlite")
    return Registry(f"sqlite:///{tmp_path}/registry.sqlite", "taxi", str(tmp_path / "mlflow"))


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
