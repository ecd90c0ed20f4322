"""Pools of real servers of tiny SavedModels."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model_servers import MODEL, Fleet, export


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Version -> a SavedModel that answers with it. Not to be changed."""
    folder = tmp_path_factory.mktemp("exports")
    return {version: export(folder / str(version), version) for version in (1, 2, 3)}


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version 2 that takes seconds to load."""
    return export(tmp_path_factory.mktemp("slow") / "2", 2, slow_steps=400_000)


@pytest.fixture
def folder(tmp_path: Path, exports: dict[int, Path]) -> Path:
    """A serving folder with versions 1 to 3."""
    for version, saved_model in exports.items():
        shutil.copytree(saved_model, tmp_path / "serving" / MODEL / str(version))
    return tmp_path / "serving"


@pytest.fixture
def fleet(folder: Path) -> Iterator[Fleet]:
    running = Fleet(folder)
    yield running
    running.stop()


@pytest.fixture
def make_pool(folder: Path) -> Callable[..., Any]:
    """A pool of these addresses, all of which must confirm unless told otherwise."""
    from components.push.pool import Pool

    def make(*servers: str, **changes: Any) -> Pool:
        told = {"quorum": len(servers), "deadline_seconds": 20.0, "champion": None} | changes
        return Pool(
            model=MODEL, config_file=folder / "models.config", folder=str(folder), servers=servers, **told
        )

    return make


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on this machine that does not answer at once does not answer."""
    monkeypatch.setattr("components.push.server._PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr("components.push.server._SETTLE_SECONDS", 0.5)
