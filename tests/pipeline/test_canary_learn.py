"""While a challenger is under test nothing is learned; what the commands about canaries refuse."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from components.errors import RetrainError
from components.promote.registry import CHALLENGER
from pipeline import config
from pipeline.canary import manual
from pipeline.canary.controller import Controller, settings
from pipeline.canary.front import nginx
from pipeline.canary.lock import AnotherError, alone
from pipeline.canary.manual import Wish
from pipeline.canary.state import State, load
from pipeline.learn import Learner
from tests.e2e.harness import retrain
from tests.pipeline.conftest import Shop


@pytest.fixture
def shop(tmp_path: Path, registry_uri: str) -> Shop:
    """Version 1 is served, version 2 under test; no canary server is there."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        registry = f"registry: {{uri: '{registry_uri}', name: {tmp_path.name}}}\n"
        serving = f"serving: {{canary: {{servers: [{{grpc: '{address}', rest: '{address}'}}]}}}}\n"
        made = Shop(tmp_path, registry + serving)
    made.add(1, serve=True)
    made.add(2, parent=1)
    made.span(1, 2, 3)
    made.registry.move(CHALLENGER, 2, "passed the gate")
    return made


def test_nothing_is_learned_while_a_challenger_is_under_test(shop: Shop) -> None:
    ran = retrain("run", shop.config)
    assert ran.code == 0, ran.err
    assert "version 2 is under test against version 1; nothing is learned until" in ran.out
    told = retrain("run", shop.config, "--json")
    assert told.lines == [{"challenger": 2, "served": 1, "decision": "wait"}]
    learner = Learner(shop.deployment)
    assert learner.waiting() == (2, 3) and list(learner.outcomes()) == []
    assert shop.registry.versions()[-1].number == 2


def test_without_a_canary_a_left_over_challenger_keeps_nobody_waiting(shop: Shop) -> None:
    text = shop.config.read_text()
    shop.config.write_text(text[: text.index("serving:")])
    assert Learner(config.load(shop.config)).challenger() is None


def test_a_canary_that_nobody_serves_is_held_before_its_first_request(shop: Shop) -> None:
    controller = Controller(shop.deployment, lambda data, text: None)
    try:
        held = controller.look()
    except RetrainError as error:
        if "there is no such program" in str(error):
            pytest.skip(str(error))
        raise
    finally:
        nginx(shop.deployment, settings(shop.deployment)).stop()
    assert held.phase == "idle" and held.trial is None
    (why,) = held.waits
    assert "cannot be reached" in why


def test_status_reads_files_and_the_registry_only(shop: Shop) -> None:
    code = (
        "import sys; sys.argv[1:1] = ['canary', 'status']\n"
        "from pipeline.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('tensorflow', 'tfx', 'apache_beam', 'keras') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, shop.config, "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    line, imported = ran.stdout.splitlines()
    status = json.loads(line)
    assert imported == "[]"
    assert (status["champion"], status["challenger"], status["phase"]) == (1, 2, "idle")
    shown = retrain("canary", "status", shop.config)
    assert "challenger  version 2" in shown.out and "none yet (`retrain canary run`)" in shown.out


def test_labels_of_which_there_is_no_folder_are_told(shop: Shop) -> None:
    text = shop.config.read_text().replace("serving: {", "serving: {prediction_log: {}, ")
    shop.config.write_text(text.replace("canary: {", "canary: {labels: arrived, "))
    shown = "".join(retrain("canary", "status", shop.config).out.split())  # however it is folded
    assert "arrivedisnotthere:untilitis,max_loss_riseisnotjudged" in shown
    (shop.config.parent / "arrived").mkdir()
    (status,) = retrain("canary", "status", shop.config, "--json").lines
    assert status["labels"] == {"folder": str(shop.config.parent / "arrived"), "there": True}


def test_commands_refuse_what_makes_no_sense(shop: Shop) -> None:
    refused = {
        ("canary", "advance", shop.config): "canary advance: say why, with --reason TEXT",
        ("canary", "abort", shop.config, "--reason", "x"): "canary abort: no challenger is under test",
    }
    for words, message in refused.items():
        ran = retrain(*words)
        assert ran.code == 1 and f"error: {message}" in ran.err and "Traceback" not in ran.err
    text = shop.config.read_text()
    shop.config.write_text(text[: text.index("serving:")])
    ran = retrain("canary", "run", shop.config)
    assert ran.code == 1 and "error: serving.canary: got none, and this command needs one" in ran.err


def test_one_controller_at_a_time(shop: Shop) -> None:
    with alone(shop.deployment):
        second = alone(shop.deployment)
        with pytest.raises(AnotherError, match=r"runs already \(process \d+\)"):
            second.__enter__()
    with alone(shop.deployment):
        pass


def test_a_wish_waits_for_the_controller_and_is_taken_once(tmp_path: Path) -> None:
    first, second = Wish("abort", "one", "me"), Wish("advance", "two", "me")
    assert manual.left(tmp_path) is None
    manual.leave(tmp_path, first)
    manual.leave(tmp_path, second)
    assert manual.left(tmp_path) == second
    manual.done(tmp_path, first)  # taken before the second came
    assert manual.left(tmp_path) == second
    manual.done(tmp_path, second)
    assert manual.left(tmp_path) is None


def test_a_state_is_whole_or_told(tmp_path: Path) -> None:
    file = tmp_path / "canary" / "state.json"
    assert load(file) == State()
    state = State(waits=["for Godot"])
    for number in range(300):
        state.remember(float(number), "begun")
    state.save(file)
    assert load(file) == state and len(state.history) == 200
    assert [path.name for path in file.parent.iterdir()] == ["state.json"]
    file.write_text('{"phase": "id')
    with pytest.raises(RetrainError, match=r"not the state of a canary .*Move it away"):
        load(file)
