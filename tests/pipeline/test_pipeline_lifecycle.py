"""What may be served, who insisted, what a rollback leaves, and what is told of it all."""

from __future__ import annotations

import getpass
import json
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from components.errors import RetrainError
from components.promote.registry import CHALLENGER
from pipeline.champion import promote
from pipeline.rollback import rollback
from pipeline.spans import plan

pytestmark = pytest.mark.xdist_group("pipeline-registry")

ME = f"{getpass.getuser()}@{socket.gethostname()}"
Retrain = Callable[..., Any]


@pytest.fixture
def line(shop: Any) -> Any:
    """Versions 1 <- 2 <- 3, of spans 1, 2-3 and 4; 3 is served. And 4, of span 5, which the gate rejected."""
    for number in (shop.add(1), shop.add(2, 3, parent=1), shop.add(4, parent=2)):
        promote(shop.deployment, number)
    shop.add(5, parent=3, blessed=False)
    return shop


@pytest.fixture
def tested(line: Any) -> Any:
    """Beside it version 5, of span 6, which came from 3 and is under test."""
    line.registry.move(CHALLENGER, line.add(6, parent=3), "blessed", "gate")
    return line


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def waiting(shop: Any) -> tuple[tuple[int, ...], list[int]]:
    """The spans of 1 to 7 that the next run learns, and those that are set aside."""
    registry = shop.registry
    found = plan.pending(range(1, 8), registry.champion(), registry.versions(), retry=False, until=None)
    return found.spans, list(found.set_aside)


def last_move(shop: Any) -> tuple[Any, ...]:
    move = shop.registry.moves()[-1]
    return move.alias, move.from_, move.to, move.by, move.why


# Promote.


def test_what_the_gate_rejected_is_refused(line: Any, retrain: Retrain) -> None:
    before = line.registry.versions()
    result = retrain("promote", line.config, 4)
    assert (result.code, result.out) == (1, "")
    said = "version 4 is not to be served: version 4 was rejected by the gate: auc on span=5 went from 0.880"
    assert said in result.err and "`retrain promote 4 --force --reason TEXT`" in result.err
    result = retrain("promote", line.config, 4, "--force")
    assert result.code == 1 and "--force needs --reason TEXT" in result.err
    assert line.registry.versions() == before and line.registry.champion().number == 3


def test_a_person_can_insist_and_is_named(line: Any, retrain: Retrain, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = retrain("promote", line.config, 4, "--force", "--reason", "the gate is [too] strict")
    assert (result.code, result.err) == (0, "")
    version = line.registry.champion()
    assert (version.number, version.blessed) == (4, False)  # what the gate said stays what it said
    assert (version.forced["by"], version.forced["why"]) == (ME, "the gate is [too] strict")
    assert version.forced["although"].startswith("version 4 was rejected by the gate")
    assert last_move(line)[1:] == (3, 4, ME, "forced: the gate is [too] strict")
    told = f"forced by {ME}: the gate is [too] strict"
    assert f"version 4: {told}" in retrain("history", line.config).out
    shown = retrain("show", line.config, 4).out
    assert re.search(
        rf"^forced +by {re.escape(ME)} on 20.*: the gate is \[too\] strict; although", shown, re.M
    )
    # It is blessed by hand: going away and coming back needs no force.
    assert retrain("promote", line.config, 3).code == 0
    assert retrain("promote", line.config, 4).code == 0
    assert f"version 4: {told}" in retrain("history", line.config).out


def test_what_was_rolled_back_is_refused_and_so_is_what_came_from_it(line: Any, retrain: Retrain) -> None:
    line.add(6, parent=3)
    rollback(line.deployment, 1, "bad tips")
    for number, why in (
        (3, "version 3 was rolled back on "),
        (5, "version 5 comes from another: version 3 was"),
    ):
        result = retrain("promote", line.config, number)
        assert result.code == 1 and f"version {number} is not to be served: {why}" in result.err
    assert line.registry.champion().number == 1
    assert retrain("promote", line.config, 5, "--force", "--reason", "it was the data").code == 0
    assert line.registry.champion().number == 5
    assert [v.number for v in line.registry.versions() if v.rolled_back or v.set_aside] == []


def test_what_a_canary_turned_back_is_refused(tested: Any, retrain: Retrain) -> None:
    why = "version 5 was turned back by the canary: too many errors"
    tested.registry.tag(5, set_aside=why, rolled_back=why)
    tested.registry.move(CHALLENGER, None, "too many errors", "canary controller")
    result = retrain("promote", tested.config, 5)
    assert result.code == 1 and "turned back by the canary: too many errors. If it shall be" in result.err
    assert re.search(r"^5 +6 +3 +turned back", retrain("history", tested.config).out, re.M)
    assert "version 5: was turned back by the canary" in retrain("history", tested.config).out
    shown = retrain("show", tested.config, 5).out
    assert re.search(rf"^not served +{why}", shown, re.M) and "its spans are not learned again" in shown
    assert waiting(tested) == ((7,), [5, 6])


def test_what_is_blessed_needs_no_reason_but_may_have_one(line: Any, retrain: Retrain) -> None:
    assert retrain("promote", line.config, 2).code == 0
    assert last_move(line) == ("champion", 3, 2, ME, "promoted by hand")
    assert retrain("promote", line.config, 3, "--reason", "enough").code == 0
    assert last_move(line) == ("champion", 2, 3, ME, "enough")
    assert line.registry.get(3).forced == {}


def test_a_challenger_that_is_promoted_by_hand_is_none_any_more(tested: Any, retrain: Retrain) -> None:
    assert retrain("promote", tested.config, 5).code == 0
    assert tested.registry.champion().number == 5 and tested.registry.challenger() is None
    assert last_move(tested) == (CHALLENGER, 5, None, ME, "version 5 is the champion")


# Rollback.


def test_spans_are_set_aside_unless_they_are_to_be_kept(line: Any, retrain: Retrain) -> None:
    (told,) = lines(retrain("rollback", line.config, 1, "--reason", "old code", "--keep-spans", "--json").out)
    assert (told["served"], told["left"], told["set_aside"], told["to_learn_again"]) == (1, 3, [], [2, 3, 4])
    assert waiting(line) == ((2, 3, 4, 6, 7), [5])
    assert line.registry.get(3).rolled_back.endswith(": old code")
    assert last_move(line) == ("champion", 3, 1, ME, "rolled back from version 3: old code")
    states = [v["state"] for v in lines(retrain("history", line.config, "--json").out)]
    assert states == ["served", "rolled back", "rolled back", "rejected"]
    assert retrain("promote", line.config, 3).code == 1
    # Rolled back once more without it, they are set aside after all.
    promote(line.deployment, 3, force=True)
    text = retrain("rollback", line.config, "--reason", "bad data").out
    assert "set aside: span 4 (`retrain run --retry` learns it again)" in text
    assert waiting(line) == ((6, 7), [4, 5])


def test_what_is_told_of_spans_that_are_kept(line: Any, retrain: Retrain) -> None:
    said = retrain("rollback", line.config, "--reason", "x", "--keep-spans").out
    assert said == (
        "version 2 is served in place of 3; the next run starts from it, and learns span 4 again, which "
        "makes the same model unless data or configuration change\n"
    )


def test_a_rollback_to_what_is_not_to_be_served_is_refused(line: Any, retrain: Retrain) -> None:
    result = retrain("rollback", line.config, 4, "--reason", "x")
    assert result.code == 1 and "`retrain rollback 4 --force --reason TEXT`" in result.err
    assert line.registry.champion().number == 3 and not line.registry.get(3).rolled_back
    assert retrain("rollback", line.config, 4, "--reason", "x", "--force").code == 0
    assert line.registry.champion().forced["why"] == "rolled back from version 3: x"


@pytest.mark.parametrize("keep_spans", [False, True])
def test_a_challenger_that_comes_from_what_is_left_goes_with_it(tested: Any, keep_spans: bool) -> None:
    back = rollback(tested.deployment, None, "bad tips", keep_spans=keep_spans)
    assert back.challenger == 5 and tested.registry.challenger() is None
    assert "Version 5 is no challenger any more: it came from version 3" in back.describe()
    alias, from_, to, by, why = last_move(tested)
    assert (alias, from_, to, by) == (CHALLENGER, 5, None, ME) and why.endswith("version 3: bad tips")
    # Nobody said anything against its own span.
    assert waiting(tested) == ((4, 6, 7) if keep_spans else (6, 7), [5] if keep_spans else [4, 5])


def test_a_rollback_that_was_killed_is_finished_by_the_same_command(line: Any, monkeypatch: Any) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.rollback.promote", killed)
    with pytest.raises(KeyboardInterrupt):
        rollback(line.deployment, None, "bad tips")
    monkeypatch.undo()
    assert line.registry.champion().number == 3 and waiting(line) == ((6, 7), [5])
    # What is made of it meanwhile may be served: version 3 is, too.
    assert promote(line.deployment, line.add(6, parent=3)).number == 5
    promote(line.deployment, 3)
    assert rollback(line.deployment, None, "bad tips").left.number == 3
    assert line.registry.champion().number == 2 and waiting(line) == ((6, 7), [4, 5])


# What is told.


def test_moves_in_history_and_show(line: Any, retrain: Retrain, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    rollback(line.deployment, None, "bad [red]tips")
    made = lines(retrain("history", line.config, "--moves", "--json").out)
    assert [(m["alias"], m["from"], m["to"], m["by"]) for m in made] == [
        ("champion", None, 1, ME),
        ("champion", 1, 2, ME),
        ("champion", 2, 3, ME),
        ("champion", 3, 2, ME),
    ]
    title, header, *rows = retrain("history", line.config, "--moves").out.splitlines()
    assert title == "moves of shop" and re.fullmatch(r"when +alias +from +to +by +why *", header)
    last = rf"20[-0-9]+ [:0-9]+ +champion +3 +2 +{ME} +rolled back from version 3: bad \[red\]tips *"
    assert re.fullmatch(last, rows[-1]) and re.search(r"champion +- +1 ", rows[0])
    (shown,) = lines(retrain("show", line.config, 3, "--json").out)
    assert [(m["from"], m["to"]) for m in shown["moves"]] == [(2, 3), (3, 2)]
    text = retrain("show", line.config, 3).out
    assert re.search(r"\nmoves *\nwhen", text) and "rolled back from version 3" in text
    assert "\nmoves" not in retrain("show", line.config, 4).out


def test_before_anything_was_moved(fresh: Any, retrain: Retrain) -> None:
    assert retrain("history", fresh.config, "--moves").out == "no alias was moved yet\n"
    assert retrain("history", fresh.config, "--moves", "--json").out == ""


def test_status_history_and_show_know_the_challenger(tested: Any, retrain: Retrain) -> None:
    (status,) = lines(retrain("status", tested.config, "--json").out)
    assert (status["served"], status["challenger"]) == (3, 5)
    assert status["challenger_since"] == tested.registry.moves()[-1].when
    assert re.search(r"^challenger +version 5, since 20", retrain("status", tested.config).out, re.M)
    assert re.search(r"^5 +6 +3 +challenger", retrain("history", tested.config).out, re.M)
    assert "5 of shop: challenger" in retrain("show", tested.config, 5).out
    tested.registry.move(CHALLENGER, None, "enough")
    (status,) = lines(retrain("status", tested.config, "--json").out)
    assert (status["challenger"], status["challenger_since"]) == (None, None)
    assert "challenger" not in retrain("status", tested.config).out


def test_a_registry_that_is_away_is_a_message(line: Any, retrain: Retrain, monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # 5 s each otherwise
    before = line.registry.moves()
    text = re.sub("uri: '.*?'", "uri: 'http://127.0.0.1:9'", line.config.read_text())
    line.config.write_text(text)
    for args in (["promote", 2], ["rollback", "--reason", "x"], ["history", "--moves"], ["gc"]):
        result = retrain(*args, line.config)
        assert result.code == 1 and result.err.startswith("error: registry http://127.0.0.1:9: "), args
    assert line.registry.moves() == before


def test_a_forced_version_that_the_server_lost_is_named(line: Any) -> None:
    line.registry.tag(2, collected=json.dumps({"when": 0, "by": ME, "gone": ["model"], "done": True}))
    promote(line.deployment, 2)  # its files are there: they came back from a backup
    assert line.registry.get(2).collected == {}
    with pytest.raises(RetrainError, match="version 4 was rejected by the gate"):
        promote(line.deployment, 4)
