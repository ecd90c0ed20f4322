"""`retrain` with model servers that must confirm: promote, roll back, and what mends itself."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.promote.registry import CHALLENGER
from components.push.pool import Pool
from pipeline.champion import promote, saved_model, stable_pool, sync_serving
from serving.model_config import read_model_config
from tests.model_servers import Fleet, answers, export, loaded

pytestmark = pytest.mark.xdist_group("pipeline-registry")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("exports")
    return {version: export(folder / str(version), version) for version in (1, 2, 3)}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(tmp_path)
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.push.server._PATIENCE_SECONDS", 0.3)


@pytest.fixture
def closed() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def served_by(
    tmp_path: Path, new_shop: Callable[[Path], Any], exports: dict[int, Path]
) -> Callable[..., Any]:
    """A deployment with so many versions, each the next one's parent, and this `serving` section."""

    def make(versions: int, **serving: Any) -> Any:
        shop = new_shop(tmp_path)
        shop.config.write_text(shop.config.read_text() + yaml.safe_dump({"serving": serving}))
        for number in range(1, versions + 1):
            assert shop.add(number, parent=number - 1 or None) == number
            shutil.rmtree(saved_model(shop.registry.get(number)))
            shutil.copytree(exports[number], saved_model(shop.registry.get(number)))
        return shop

    return make


def champion(shop: Any) -> int | None:
    found = shop.registry.champion()
    return found.number if found else None


def in_file(shop: Any, name: str = "models.config") -> tuple[tuple[int, ...] | None, dict[str, int]]:
    (model,) = read_model_config(shop.deployment.serving_path / name)
    return model.policy.specific, dict(model.labels)


def test_a_promotion_waits_for_the_servers_and_a_failed_one_changes_nothing(
    served_by: Callable[..., Any], fleet: Fleet, closed: str, retrain: Callable[..., Any]
) -> None:
    servers = [fleet.start(), closed]
    shop = served_by(2, servers=[{"grpc": address} for address in servers])
    refused = retrain("promote", shop.config, 1)
    assert (refused.code, refused.out) == (1, "")
    # The servers run in this process, and TensorFlow prints what it likes.
    lines = refused.err[refused.err.index("error: ") :].splitlines()
    assert (
        lines[0] == "error: push: version 1 is not served: 1 of 2 servers have confirmed it, required are 2"
    )
    assert lines[1] == f"  {servers[0]} has loaded version 1"
    assert lines[2].startswith(f"  {closed} cannot be reached: ")
    assert lines[3] == f"Told again to serve none: {servers[0]}"
    assert champion(shop) is None and loaded(servers[0]) == set()

    fleet.start(address=closed)
    for number in (1, 2):
        done = retrain("promote", shop.config, number)
        assert done.code == 0, done.err
        assert champion(shop) == number
        assert [answers(address, "stable") for address in servers] == [number] * 2
        assert in_file(shop) == ((number,), {"stable": number})

    fleet.stop(closed)
    refused = retrain("rollback", shop.config, "--reason", "bad tips")
    assert refused.code == 1 and f"Told again to serve version 2: {servers[0]}" in refused.err
    assert champion(shop) == 2 and answers(servers[0], "stable") == 2
    assert in_file(shop) == ((2,), {"stable": 2})
    fleet.start(address=closed)
    assert retrain("rollback", shop.config, "--reason", "bad tips").code == 0
    assert champion(shop) == 1
    assert [answers(address, "stable") for address in servers] == [1, 1]


def test_every_command_tells_servers_that_were_started_anew(
    served_by: Callable[..., Any],
    fleet: Fleet,
    retrain: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = fleet.start()
    shop = served_by(1, servers=[{"grpc": address}])
    promote(shop.deployment, 1)
    fleet.stop(address)
    away = retrain("run", shop.config)
    assert away.code == 0
    assert f"{address} does not serve shop version 1: cannot be reached" in caplog.text
    fleet.start(address=address)
    assert loaded(address) == set()
    mended = retrain("run", shop.config)
    assert mended.code == 0 and "nothing new to learn; version 1 is served" in mended.err
    assert answers(address, "stable") == 1


@pytest.mark.parametrize("alias_moved", [False, True])
def test_killed_around_the_move_of_the_alias_servers_and_files_follow_it(
    served_by: Callable[..., Any], fleet: Fleet, monkeypatch: pytest.MonkeyPatch, alias_moved: bool
) -> None:
    address = fleet.start()
    shop = served_by(2, servers=[{"grpc": address}])
    promote(shop.deployment, 1)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    alias, rest = "components.promote.registry.Registry.make_champion", "pipeline.champion.sync_serving"
    with monkeypatch.context() as patched:
        patched.setattr(rest if alias_moved else alias, killed)
        with pytest.raises(KeyboardInterrupt):
            promote(shop.deployment, 2)
    assert answers(address, "stable") == 2
    assert champion(shop) == 1 + alias_moved
    assert sync_serving(shop.deployment, shop.registry.champion()) == []
    assert answers(address, "stable") == champion(shop)
    assert in_file(shop) == ((champion(shop),), {"stable": champion(shop)})
    promote(shop.deployment, 2)
    assert answers(address, "stable") == champion(shop) == 2


def test_the_canary_follows_the_challenger(served_by: Callable[..., Any], fleet: Fleet) -> None:
    stable, canary = fleet.start(), fleet.start()
    rest = "127.0.0.1:1"
    shop = served_by(
        3,
        servers=[{"grpc": stable, "rest": rest}],
        keep=1,
        canary={"servers": [{"grpc": canary, "rest": rest}]},
    )
    promote(shop.deployment, 3)
    assert answers(canary, "stable") == 3
    assert in_file(shop, "canary.config") == ((3,), {"stable": 3})

    shop.registry.move(CHALLENGER, 2, "it passed the gate")
    assert sync_serving(shop.deployment, shop.registry.champion()) == []
    assert (answers(stable, "stable"), answers(canary, "canary"), answers(canary)) == (3, 2, 2)
    assert in_file(shop) == ((3,), {"stable": 3})
    assert in_file(shop, "canary.config") == ((2,), {"canary": 2})
    assert {path.name for path in shop.deployment.base_path.iterdir()} == {"2", "3"}

    shop.registry.move(CHALLENGER, None, "it was worse")
    fleet.stop(canary)
    (behind,) = sync_serving(shop.deployment, shop.registry.champion())
    assert (behind.server, behind.ok) == (canary, False)
    fleet.start(shop.deployment.serving_path / "canary.config", canary)
    assert sync_serving(shop.deployment, shop.registry.champion()) == []
    assert answers(canary, "stable") == 3
    assert {path.name for path in shop.deployment.base_path.iterdir()} == {"3"}


def test_the_configuration_becomes_the_pool(
    served_by: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = served_by(
        0,
        servers=[{"grpc": "one:8500"}, {"grpc": "two:8500"}],
        seen_at="/models/",
        quorum=1,
        deadline_seconds=7.5,
        tls={"certificate": "/tls/server.pem", "key": "/tls/key.pem", "ca": "/tls/ca.pem"},
        token_env="SERVING_TOKEN",
    )
    assert stable_pool(shop.deployment) == Pool(
        model="shop",
        config_file=shop.deployment.serving_path / "models.config",
        folder="/models",
        servers=("one:8500", "two:8500"),
        quorum=1,
        deadline_seconds=7.5,
        tls=True,
        ca=Path("/tls/ca.pem"),
        token_env="SERVING_TOKEN",
    )


def test_without_servers_the_file_says_where_a_server_sees_the_folder(served_by: Callable[..., Any]) -> None:
    shop = served_by(1, seen_at="/models")
    promote(shop.deployment, 1)
    file = shop.deployment.model_config_file
    assert 'base_path: "/models/shop"' in file.read_text()
    (model,) = read_model_config(file)
    assert model.base_path == shop.deployment.base_path  # here, where there is no /models
    before = file.stat().st_mtime_ns
    sync_serving(shop.deployment, shop.registry.champion())
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("serving", "message"),
    [
        ({"seen_at": "models"}, "serving.seen_at: got 'models', expected an absolute path or a URI"),
        ({"quorum": 1}, "serving.quorum: got 1 of 0 servers, expected at most that many"),
        (
            {"servers": [{"grpc": "one:1"}, {"grpc": "two:1"}], "quorum": 3},
            "serving.quorum: got 3 of 2 servers, expected at most that many",
        ),
        (
            {"servers": [{"grpc": "one:1"}, {"grpc": "one:1"}]},
            "serving.servers: got one:1 more than once, expected each once",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, new_shop: Callable[[Path], Any], retrain: Callable[..., Any], serving: Any, message: str
) -> None:
    shop = new_shop(tmp_path)
    shop.config.write_text(shop.config.read_text() + yaml.safe_dump({"serving": serving}))
    refused = retrain("status", shop.config)
    assert refused.code == 1 and message in refused.err
