"""Every server of a pool serves a version, or none does; requests never notice."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from components.errors import RetrainError
from components.push.model_service import Client
from components.push.pool import CANARY, Pool
from components.push.servers import follow, serve_on
from serving.model_config import read_model_config, write_model_config
from tests.model_servers import MODEL, Fleet, Traffic, answers, loaded

ROOT = Path(__file__).parents[3]


def in_file(pool: Pool) -> tuple[tuple[int, ...] | None, dict[str, int]] | None:
    """Versions and labels of the model, as a server that starts finds them."""
    for model in read_model_config(pool.config_file):
        if model.name == pool.model:
            assert model.base_path == Path(pool.base_path)
            return model.policy.specific, dict(model.labels)
    return None


def served(pool: Pool, label: str = "stable") -> list[tuple[set[int], int]]:
    """Of each server the versions that it has loaded, and the one that answers under the label."""
    return [(eventually(server), answers(server, label)) for server in pool.servers]


def eventually(server: str) -> set[int]:
    """What is loaded, once what is unloaded is gone."""
    for _ in range(100):
        if len(loaded(server)) == 1:
            break
        time.sleep(0.05)
    return loaded(server)


def replace(version: Path, saved_model: Path) -> None:
    shutil.rmtree(version)
    shutil.copytree(saved_model, version)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The versions of every configuration that any server is told."""
    configs: list[list[int]] = []
    reload = Client.reload

    def noted(self: Client, config: Any, timeout: float) -> None:
        models = [m for m in config.model_config_list.config if m.name == MODEL]
        configs.append(list(models[0].model_version_policy.specific.versions) if models else [])
        reload(self, config, timeout)

    monkeypatch.setattr(Client, "reload", noted)
    return configs


@pytest.fixture
def closed() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def no_model_server() -> Iterator[str]:
    """A gRPC server that knows none of TF Serving's services."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_the_first_version_and_the_next_reach_every_server_and_no_request_fails(
    fleet: Fleet, make_pool: Callable[..., Pool], told: list[list[int]]
) -> None:
    addresses = [fleet.start() for _ in range(3)]
    first = make_pool(*addresses)
    reports = serve_on(first, 1)
    assert [(report.server, report.ok, report.message) for report in reports] == [
        (address, True, "serves version 1") for address in addresses
    ]
    assert served(first) == [({1}, 1)] * 3
    assert in_file(first) == ((1,), {"stable": 1})
    assert told == [[1]] * 6  # without the label, then with it

    told.clear()
    with Traffic(addresses) as traffic:
        serve_on(make_pool(*addresses, champion=1), 2)
        time.sleep(0.2)
    assert traffic.errors == []
    for (_, label), seen in traffic.answers.items():
        assert len(seen) > 10 and seen[-1] == 2, label
        assert sorted(seen) == seen and set(seen) <= {1, 2}, label
    assert served(first) == [({2}, 2)] * 3
    assert in_file(first) == ((2,), {"stable": 2})
    assert sorted(told) == [[1, 2]] * 3 + [[2]] * 3

    # Back: both are loaded for a moment, and whoever names no label is answered by the higher one.
    with Traffic(addresses) as traffic:
        serve_on(make_pool(*addresses, champion=2), 1)
        time.sleep(0.2)
    assert traffic.errors == []
    assert all(sorted(seen, reverse=True) == seen for seen in traffic.answers.values())
    assert served(first) == [({1}, 1)] * 3

    told.clear()
    restarted = fleet.start(first.config_file)  # a server that starts now finds what the others serve
    assert eventually(restarted) == {1}
    follow(make_pool(*addresses, restarted, champion=1), 1)
    assert answers(restarted, "stable") == 1 and told == []


@pytest.mark.parametrize("broken", ["closed", "no_model_server"])
def test_one_server_that_cannot_be_told_keeps_all_from_changing(
    fleet: Fleet, make_pool: Callable[..., Pool], broken: str, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue(broken)
    good = [fleet.start(), fleet.start()]
    serve_on(make_pool(*good), 1)
    pool = make_pool(*good, address, champion=1)
    with pytest.raises(RetrainError) as error, Traffic(good) as traffic:
        serve_on(pool, 2)
    lines = str(error.value).splitlines()
    assert lines[0] == ("push: version 2 is not served: 2 of 3 servers have confirmed it, required are 3")
    assert lines[1:3] == [f"  {server} has loaded version 2" for server in good]
    why = {
        "closed": "cannot be reached: Failed to connect",
        "no_model_server": "does not speak TF Serving's ModelService (UNIMPLEMENTED",
    }
    assert lines[3].startswith(f"  {address} {why[broken]}")
    assert lines[4] == f"Told again to serve version 1: {', '.join(good)}"
    assert "the same command again finishes" in lines[5]
    assert traffic.errors == []
    assert all(set(seen) == {1} for (_, label), seen in traffic.answers.items() if label)
    assert served(make_pool(*good)) == [({1}, 1)] * 2
    assert in_file(pool) == ((1,), {"stable": 1})

    # Two of three are enough where the configuration says so; the third is told as soon as it can be.
    reports = serve_on(make_pool(*good, address, champion=1, quorum=2), 2)
    assert [report.ok for report in reports] == [True, True, False]
    assert served(make_pool(*good)) == [({2}, 2)] * 2
    assert in_file(pool) == ((2,), {"stable": 2})
    if broken == "closed":
        assert [report.server for report in follow(pool, 2)] == [address]
        fleet.start(address=address)
        assert follow(pool, 2) == []
        assert served(pool) == [({2}, 2)] * 3


def test_a_version_that_does_not_load_is_served_by_none_until_it_is_mended(
    fleet: Fleet, make_pool: Callable[..., Pool], folder: Path
) -> None:
    pool = make_pool(fleet.start(), fleet.start(), champion=1)
    serve_on(pool, 1)
    model = folder / MODEL / "2" / "saved_model.pb"
    whole = model.read_bytes()
    model.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):  # the second time the servers still know that it failed
        with pytest.raises(RetrainError, match="0 of 2 servers have confirmed it") as error:
            serve_on(pool, 2)
        assert str(error.value).count("cannot load it: ") == 2
        assert served(pool) == [({1}, 1)] * 2 and in_file(pool) == ((1,), {"stable": 1})
    model.write_bytes(whole)
    serve_on(pool, 2)
    assert served(pool) == [({2}, 2)] * 2


def test_at_a_cold_start_too_few_servers_mean_that_none_serves(
    fleet: Fleet, make_pool: Callable[..., Pool], closed: str
) -> None:
    good = fleet.start()
    pool = make_pool(good, closed)
    assert not pool.config_file.exists()
    with pytest.raises(RetrainError, match=f"Told again to serve none: {good}"):
        serve_on(pool, 1)
    assert loaded(good) == set()
    assert read_model_config(pool.config_file) == ()  # with which a server can start
    fleet.start(pool.config_file, closed)
    serve_on(pool, 1)
    assert served(pool) == [({1}, 1)] * 2


def test_a_slow_server_is_waited_for_until_the_deadline(
    fleet: Fleet, make_pool: Callable[..., Pool], folder: Path, slow: Path
) -> None:
    address = fleet.start()
    serve_on(make_pool(address), 1)
    replace(folder / MODEL / "2", slow)
    with pytest.raises(RetrainError) as error:
        serve_on(make_pool(address, champion=1, deadline_seconds=0.5), 2)
    assert loaded(address) == {1}  # it was not waited for any longer
    assert f"  {address} is still loading it after 0.5 s (serving.deadline_seconds)" in str(error.value)
    assert f"{address} could not be told to serve version 1 again" in str(error.value)
    assert answers(address, "stable") == 1
    # The next command: what the server went on to load after all is taken back.
    assert follow(make_pool(address, champion=1), 1) == []
    assert served(make_pool(address)) == [({1}, 1)]


def test_a_server_without_the_folder_says_where_it_looked(
    fleet: Fleet, make_pool: Callable[..., Pool]
) -> None:
    address = fleet.start()
    pool = make_pool(address, deadline_seconds=0.5).model_copy(update={"folder": "/mounted/elsewhere"})
    with pytest.raises(RetrainError, match=r"has not found /mounted/elsewhere/shop/1 after 0\.5 s"):
        serve_on(pool, 1)


class Process:
    """A server in a process of its own."""

    def __init__(self, config_file: Path, port: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.model_servers", str(config_file), str(port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def test_a_server_killed_in_the_middle_of_a_push(
    fleet: Fleet, make_pool: Callable[..., Pool], folder: Path, slow: Path, exports: dict[int, Path]
) -> None:
    config_file = folder / "models.config"
    process = Process(config_file)
    addresses = [fleet.start(), f"127.0.0.1:{process.port}"]
    try:
        serve_on(make_pool(*addresses), 1)
        replace(folder / MODEL / "2", slow)
        # It has been told, and loads.
        threading.Timer(0.5, process.kill).start()
        with pytest.raises(RetrainError) as error:
            serve_on(make_pool(*addresses, champion=1), 2)
        assert f"  {addresses[1]} cannot be reached" in str(error.value)
        assert f"Told again to serve version 1: {addresses[0]}" in str(error.value)
        assert served(make_pool(addresses[0])) == [({1}, 1)]
        assert in_file(make_pool()) == ((1,), {"stable": 1})

        fleet.start(config_file, addresses[1])  # as it starts anew
        follow(make_pool(*addresses, champion=1), 1)
        assert served(make_pool(*addresses)) == [({1}, 1)] * 2
        replace(folder / MODEL / "2", exports[2])
        serve_on(make_pool(*addresses, champion=1), 2)
        assert served(make_pool(*addresses)) == [({2}, 2)] * 2
        assert in_file(make_pool()) == ((2,), {"stable": 2})
    finally:
        process.kill()


def test_what_a_killed_command_began_is_taken_back_or_finished(
    fleet: Fleet, make_pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [fleet.start(), fleet.start()]
    pool = make_pool(*addresses, champion=1)
    serve_on(pool, 1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for method in ("components.push.server.Server.switch", "components.push.pool.Pool.write"):
        for finish in (follow, serve_on):
            with monkeypatch.context() as patched:
                patched.setattr(method, killed)
                with pytest.raises(KeyboardInterrupt):
                    serve_on(pool, 2)
            goal = 1 if finish is follow else 2
            finish(pool, goal)
            assert served(pool) == [({goal}, goal)] * 2
            assert in_file(pool) == ((goal,), {"stable": goal})
            follow(pool, 1)


def test_only_servers_that_do_not_follow_are_told(
    fleet: Fleet, make_pool: Callable[..., Pool], told: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    addresses = [fleet.start(), fleet.start()]
    pool = make_pool(*addresses)
    serve_on(pool, 2)
    written = pool.config_file.stat()
    told.clear()
    assert follow(pool, 2) == [] and told == []
    assert pool.config_file.stat().st_mtime_ns == written.st_mtime_ns

    fleet.stop(addresses[0])
    (report,) = follow(pool, 2)
    assert (report.server, report.ok) == (addresses[0], False)
    assert f"{addresses[0]} does not serve shop version 2: cannot be reached" in caplog.text
    fleet.start(address=addresses[0])  # it knows nothing
    assert follow(pool, 2) == []
    assert told == [[2], [2]]
    assert served(pool) == [({2}, 2)] * 2

    # The version is right, but nobody gave it the label.
    told.clear()
    fleet.stop(addresses[0])
    write_model_config(fleet.folder / "by hand.config", MODEL, MODEL, [2])
    fleet.start(fleet.folder / "by hand.config", addresses[0])
    for _ in range(100):
        if loaded(addresses[0]):
            break
        time.sleep(0.05)
    follow(pool, 2)
    assert told == [[2]] and served(pool) == [({2}, 2)] * 2


def test_a_canary_takes_the_challenger_and_goes_back_to_the_champion(
    fleet: Fleet, make_pool: Callable[..., Pool]
) -> None:
    pool = make_pool(fleet.start())
    follow(pool, 1)
    with Traffic(list(pool.servers)) as traffic:
        follow(pool, 2, CANARY)
    assert [error for error in traffic.errors if " None: " in error] == []
    assert served(pool, CANARY) == [({2}, 2)]
    assert in_file(pool) == ((2,), {"canary": 2})
    with pytest.raises(grpc.RpcError, match="Unrecognized servable version label: stable"):
        answers(pool.servers[0], "stable")
    follow(pool, 1)
    assert served(pool) == [({1}, 1)]


def test_the_other_models_of_the_file_stay_served(
    fleet: Fleet, make_pool: Callable[..., Pool], folder: Path, exports: dict[int, Path]
) -> None:
    shutil.copytree(exports[3], folder / "other" / "7")
    write_model_config(folder / "models.config", "other", "other", [7], {"mine": 7})
    pool = make_pool(fleet.start(folder / "models.config"), champion=1)
    other = make_pool(*pool.servers).model_copy(update={"model": "other"})
    for number in (1, 2):
        serve_on(pool, number)
    access = Client(pool.servers[0], _anyone())
    assert {n for n, status in access.versions("other", 5).items() if status.available} == {7}
    assert access.labelled("other", "mine", 5) == 7
    access.close()
    assert {model.name for model in read_model_config(pool.config_file)} == {"other", MODEL}
    assert in_file(other) == ((7,), {"mine": 7})


def _anyone() -> Any:
    from components.push.model_service import Access

    return Access()
