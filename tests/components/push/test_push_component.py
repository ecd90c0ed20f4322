"""The push stage: when it is done, the servers have the version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tfx.types import channel_utils, standard_artifacts

from components.artifacts import RegisteredVersion
from components.errors import RetrainError
from components.push.component import Push
from components.push.pool import Pool
from tests.model_servers import MODEL, Fleet, answers, export, loaded


def push(model: Path, version: int, pool: Pool) -> standard_artifacts.PushedModel:
    """One execution, as TFX launches it."""
    trained, registered = standard_artifacts.Model(), RegisteredVersion()
    trained.uri, registered.version = str(model), version
    made = Push(
        model=channel_utils.as_channel([trained]),
        version=channel_utils.as_channel([registered]),
        base=str(pool.config_file.parent / MODEL),
        pool=pool.model_dump_json(),
    )
    pushed = standard_artifacts.PushedModel()
    made.executor_spec.executor_class().Do(
        {"model": [trained], "version": [registered]}, {"pushed": [pushed]}, made.exec_properties
    )
    return pushed


def test_a_version_is_pushed_when_the_servers_have_it(
    fleet: Fleet, make_pool: Callable[..., Pool], tmp_path: Path
) -> None:
    export(tmp_path / "model" / "Format-Serving", 12)
    address = fleet.start()
    pushed = push(tmp_path / "model", 12, make_pool(address))
    assert pushed.get_string_custom_property("pushed_version") == "12"
    assert answers(address, "stable") == 12

    # Taken from no cache: the same execution again tells a server that was started anew.
    fleet.stop(address)
    with pytest.raises(RetrainError, match=f"{address} cannot be reached"):
        push(tmp_path / "model", 12, make_pool(address, champion=12))
    fleet.start(address=address)
    assert loaded(address) == set()
    push(tmp_path / "model", 12, make_pool(address, champion=12))
    assert answers(address, "stable") == 12
