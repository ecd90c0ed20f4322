"""Two real servers, a real nginx and the real controller: reverted, promoted, killed, told by hand."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from components.errors import RetrainError
from components.promote.registry import Version
from pipeline.canary.front import nginx
from tests.e2e import canary_world
from tests.e2e.canary_world import World, listens, wait_for
from tests.e2e.harness import retrain
from tests.killed import arm

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("e2e-canary"), pytest.mark.timeout(600)]

QUICK = {"steps": [50.0, 100.0], "step_seconds": 0.1, "step_requests": 10, "p99_floor_ms": 5000.0}
# One process that has imported what a controller needs; each life is forked from it, and may be killed.
LIVES = multiprocessing.get_context("forkserver")
LIVES.set_forkserver_preload(
    [
        "pipeline.canary.controller",
        "pipeline.canary.labels",
        "components.push.servers",
        "components.ingest.recipe",
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.store.model_registry.sqlalchemy_store",
    ]
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("canary")
    models = canary_world.export(folder / "models", "champion", "good", "errs")
    with canary_world.world(folder / "shop", models, QUICK) as made:
        try:
            nginx(made.deployment, made.settings)._found()
        except RetrainError as error:
            pytest.skip(str(error))
        yield made


def look(config: Path, point: str) -> None:
    """One look of a controller, in a process that dies by SIGKILL at a point; see `tests.killed`."""
    from pipeline.canary.controller import Controller
    from pipeline.canary.lock import alone
    from pipeline.config import load

    if point:
        arm(point)
    deployment = load(config)
    with alone(deployment):
        Controller(deployment, lambda data, text: None).look()


def live(world: World, point: str = "") -> bool:
    """A life of a controller; whether it came to its end."""
    process = LIVES.Process(target=look, args=(world.config, point))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode == 0


def send(world: World, count: int) -> set[int]:
    """Requests to nginx, each with another key; the statuses."""
    return {world.ask(f"{os.urandom(4).hex()}", x=0.3)[0] for _ in range(count)}


def finish(world: World) -> None:
    """Looks and requests until nobody is under test."""
    for _ in range(20):
        if live(world) and world.state["phase"] == "idle":
            return
        assert send(world, 60) == {200}
    raise AssertionError(world.state)


CONTROLLER, STATE = "pipeline.canary.controller:Controller", "pipeline.canary.state:State"
NGINX, MOVE = "pipeline.canary.nginx:Nginx", "components.promote.registry:Registry.move"
LIFE = ""  # of a controller that is not killed
POINTS = {
    "good": [
        LIFE,
        f"{STATE}.save:after",  # at 100 % now
        f"{MOVE}:before",  # the stable server serves it, and nobody says so
        f"{MOVE}:after",
        f"{CONTROLLER}._happened:before",
    ],
    "errs": [
        f"{STATE}.save:before",  # it gets requests, and nobody knows
        LIFE,
        f"{NGINX}._signal:before",  # it is to be turned back, and still gets requests
        f"{MOVE}:after",
    ],
}


@pytest.mark.parametrize(("name", "end"), [("good", "promoted"), ("errs", "reverted")])
def test_killed_anywhere_the_next_look_finishes_the_work_once(world: World, name: str, end: str) -> None:
    live(world)
    before, champion = len(world.state["history"]), world.registry.champion()
    assert champion is not None
    number = world.challenge(name)
    for point in POINTS[name]:
        assert live(world, point) == (point == LIFE), point
        # Whatever was left half done, everybody is answered; the bad one's answers are its own fault.
        assert send(world, 60) <= ({200} if name == "good" else {200, 400})
        assert world.percent in (0.0, 50.0, 100.0), point
    finish(world)
    history = world.state["history"][before:]
    assert [event["event"] for event in history].count(end) == 1
    assert history[-1]["event"] == end and history[-1]["challenger"] == number
    assert world.registry.challenger() is None
    served = world.registry.champion()
    assert served is not None and served.number == (number if end == "promoted" else champion.number)
    turned = world.registry.get(number)
    assert bool(turned.set_aside) == bool(turned.rolled_back) == (end == "reverted")
    moves = [move for move in world.registry.moves() if number in (move.from_, move.to)]
    assert [move.to for move in moves if move.alias == "challenger"] == [number, None]
    assert world.percent == 0.0 and wait_for(lambda: world.serves("stable")) == served.number
    assert wait_for(lambda: world.serves("canary")) == served.number


def test_one_controller_which_may_be_told_and_killed(world: World) -> None:
    world.configure(**{**QUICK, "steps": [10.0, 50.0, 100.0], "step_seconds": 600.0})
    number = world.challenge("good")
    world.start_controller()
    wait_for(lambda: world.state["phase"] == "testing")
    refused = retrain("canary", "run", world.config)
    assert refused.code == 1 and "Traceback" not in refused.err
    holder = world.processes["controller"].pid
    assert f"error: a controller of this canary runs already (process {holder})" in refused.err

    advanced = retrain("canary", "advance", world.config, "--reason", "seen enough", "--json")
    assert advanced.code == 0, advanced.err
    assert advanced.lines[0]["why"] == "advance by hand: seen enough" and world.percent == 50.0
    send(world, 20)
    world.stop("controller", signal.SIGKILL)
    assert send(world, 20) == {200}  # nginx goes on
    live(world)
    assert world.requests == 40 and world.events[-1] == "advanced"

    (status,) = retrain("canary", "status", world.config, "--json").lines
    assert status["challenger"] == number and status["percent"] == 50.0 and status["nginx"]
    step = status["pools"][-1]
    assert step["canary"]["requests"] + step["stable"]["requests"] == 40 and step["canary"]["error_rate"] == 0
    assert any("seconds are left" in wait for wait in status["waits_for"])
    assert {check["limit"] for check in status["checks"]} >= {"max_error_rate", "max_loss_rise"}

    aborted = retrain("canary", "abort", world.config, "--reason", "complaints")
    assert aborted.code == 0, aborted.err
    assert f"version {number}: reverted at 50 % of the requests" in aborted.out and world.percent == 0.0
    assert "abort by hand: complaints" in world.registry.get(number).rolled_back
    assert [event["event"] for event in world.state["history"] if event["challenger"] == number] == [
        "begun",
        "advanced",
        "reverted",
    ]


def test_under_load_the_bad_one_goes_and_the_good_one_comes(world: World) -> None:
    world.configure(steps=[20.0, 100.0], step_seconds=3.0, step_labels=12, max_loss_rise=0.3)
    world.start_controller()
    wait_for(lambda: listens(world.ports["nginx"]))
    world.start_load(60.0)
    reverted = world.end_of(world.challenge("errs"))
    assert reverted["event"] == "reverted" and "max_error_rate" in reverted["why"]
    good = world.challenge("good")
    wait_for(lambda: world.labelled() > 5)
    world.stop("controller", signal.SIGKILL)
    while "promoted" not in world.events[-1:]:
        live(world)  # as from cron: each joins predictions and labels again
        assert world.events[-1] != "reverted", world.state["history"][-1]
    told, promoted = world.stop_load(), world.state["history"][-1]
    seen = {check["limit"]: check["seen"] for check in promoted["checks"]}
    assert seen["max_loss_rise"] > 10 and seen["max_divergence"] > 10, seen
    champion = world.registry.champion()
    assert champion is not None and champion.number == good
    failed = {int(status): count for status, count in told["statuses"].items() if status != "200"}
    # Half of what the bad one was asked, and nothing else.
    assert set(failed) <= {400} and sum(failed.values()) <= reverted["requests"], told


def test_a_run_neither_pushes_nor_promotes_what_is_to_be_tested(world: World) -> None:
    """The wiring alone: no stage is run."""
    from pipeline import graph
    from pipeline.config import schema

    config = yaml.safe_load(world.config.read_text()) | {"warm_start": {"enabled": False}}
    world.config.write_text(yaml.safe_dump(config))
    deployment, champion = world.deployment, world.registry.champion()
    assert champion is not None
    complete = schema.complete_schema(deployment, schema.read_schema(deployment.schema_path))

    def stages(base: Version | None, canary: bool) -> set[str]:
        run = graph.Run(
            {2: [Path("rows.csv")]}, {2: {"rows.csv": {}}}, base, (), (), True, 2, deployment.schema_path, ""
        )
        off = deployment.serving.model_copy(update={"canary": None})
        wired = deployment if canary else deployment.model_copy(update={"serving": off})
        return {node.id for node in graph.build(wired, run, complete, [], None).components}

    last = {"push", "promote"}
    assert stages(champion, canary=False) & last == stages(None, canary=True) & last == last
    assert stages(champion, canary=True) & last == set()
