"""Moves of aliases: recorded whoever is killed when, and whoever else moves them."""

import getpass
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from mlflow.exceptions import MlflowException

from components.errors import RetrainError
from components.promote.moves import CHALLENGER, CHAMPION, SHADOW, Move, from_tags, of_versions, unrecorded
from components.promote.registry import Registry, refusal


def again(registry):
    """What another process sees."""
    return Registry(registry.uri, registry.name, registry._artifacts)


def told(registry):
    """The moves, without when."""
    return [(m.alias, m.from_, m.to, m.by, m.why) for m in again(registry).moves()]


@pytest.fixture
def line(registry, version):
    """Versions 1 <- 2 <- 3 <- 4, without the runs and the models that belong to them."""
    registry._create_model()
    for number, key in enumerate("abcd"):
        tags = version(key, (number,), number or None).tags()
        registry._client.create_model_version(registry.name, "s3://none/model", tags=tags)
    return registry


def test_every_move_is_recorded(line):
    before = time.time()
    line.move(CHAMPION, 3, "it is the best", "gate")
    line.move(CHALLENGER, 4, "it's next: “é”", "gate")
    line.move(CHALLENGER, None, "too many errors", "canary controller")
    line.move(CHAMPION, 2, "by hand")
    me = f"{getpass.getuser()}@{socket.gethostname()}"
    assert told(line) == [
        (CHAMPION, None, 3, "gate", "it is the best"),
        (CHALLENGER, None, 4, "gate", "it's next: “é”"),
        (CHALLENGER, 4, None, "canary controller", "too many errors"),
        (CHAMPION, 3, 2, me, "by hand"),
    ]
    moves = again(line).moves()
    assert before <= moves[0].when < moves[1].when < moves[2].when < moves[3].when <= time.time()
    assert again(line).champion().number == 2 and again(line).challenger() is None
    assert [v.promoted for v in line.versions()] == [(), (moves[3].when,), (moves[0].when,), ()]


def test_a_move_to_where_it_is_changes_and_records_nothing(line):
    for _ in range(2):
        line.move(CHAMPION, 2, "first", "a")
        line.move(SHADOW, 1, "first", "a")
        line.move(CHALLENGER, None, "there is none", "a")
    assert told(line) == [(CHAMPION, None, 2, "a", "first"), (SHADOW, None, 1, "a", "first")]


def test_an_unknown_version_moves_nothing(line):
    with pytest.raises(RetrainError, match=r"version 9 is not in the registry"):
        line.move(CHALLENGER, 9, "x")
    assert line.challenger() is None and line.moves() == []


def test_asking_for_moves_writes_nothing(tmp_path):
    registry = Registry(f"sqlite:///{tmp_path}/none/registry.sqlite", "taxi")
    assert registry.moves() == [] and registry.challenger() is None and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("killed_at", "to"),
    [
        ("before the alias", 3),
        ("after it", 3),
        ("after it", None),
        ("before the record", 3),
        ("after it is told", 3),
    ],
)
def test_killed_in_the_middle_the_record_tells_what_became_of_it(line, monkeypatch, killed_at, to):
    line.move(CHALLENGER, 2, "first", "a")
    call = "delete_registered_model_alias" if to is None else "set_registered_model_alias"
    move_alias, record = getattr(line._client, call), line._client.set_model_version_tag

    def killed(*args):
        if killed_at == "after it":
            move_alias(*args)
        raise KeyboardInterrupt

    def killed_record(name, number, key, value):
        if key.startswith("move."):
            raise KeyboardInterrupt
        record(name, number, key, value)

    if killed_at == "before the record":
        monkeypatch.setattr(line._client, "set_model_version_tag", killed_record)
    elif killed_at == "after it is told":
        monkeypatch.setattr(line._client, "delete_model_version_tag", killed)
    else:
        monkeypatch.setattr(line._client, call, killed)
    with pytest.raises(KeyboardInterrupt):
        line.move(CHALLENGER, to, "second", "b")
    monkeypatch.undo()

    first, second = (CHALLENGER, None, 2, "a", "first"), (CHALLENGER, 2, to, "b", "second")
    moved = killed_at != "before the alias"
    assert told(line) == ([first, second] if moved else [first])
    challenger = again(line).challenger()
    assert (challenger and challenger.number) == (to if moved else 2)

    again(line).move(CHALLENGER, to, "second, again", "c")
    assert told(line) == [first, second if moved else (CHALLENGER, 2, to, "c", "second, again")]
    again(line).move(CHALLENGER, 1, "third", "d")
    assert told(line)[2:] == [(CHALLENGER, to, 1, "d", "third")]
    assert all(not v.begun for v in again(line).versions())


def test_what_others_moved_is_noticed_and_recorded_with_the_next_move(line):
    line.move(CHAMPION, 1, "first", "a")
    line._client.set_registered_model_alias(line.name, CHAMPION, "3")
    seen = told(line)
    assert seen[0] == (CHAMPION, None, 1, "a", "first") and seen[1][:4] == (CHAMPION, 1, 3, "unknown")
    assert "something else than `retrain`" in seen[1][4]
    assert line.get(3).moves == ()  # asking has recorded nothing
    line.move(CHAMPION, 2, "second", "b")
    assert [move[:4] for move in told(line)] == [
        (CHAMPION, None, 1, "a"),
        (CHAMPION, 1, 3, "unknown"),
        (CHAMPION, 3, 2, "b"),
    ]
    line._client.delete_registered_model_alias(line.name, CHAMPION)
    assert told(line)[-1][:4] == (CHAMPION, 2, None, "unknown")


def test_promotions_of_before_moves_were_recorded_are_told(line):
    for number, times in ((1, [10.0, 30.0]), (2, [20.0])):
        line._client.set_model_version_tag(line.name, str(number), "promoted", json.dumps(times))
    line._client.set_registered_model_alias(line.name, CHAMPION, "1")
    assert [(m.when, m.from_, m.to, m.by) for m in line.moves()] == [
        (10.0, None, 1, "unknown"),
        (20.0, 1, 2, "unknown"),
        (30.0, 2, 1, "unknown"),
    ]
    line.move(CHAMPION, 2, "new", "a")
    assert [m.to for m in line.moves()] == [1, 2, 1, 2]
    assert line.get(2).promoted[0] == 20.0 and len(line.get(2).promoted) == 2


def test_two_who_move_at_once_overwrite_no_record(line):
    turns = ([1, 2] * 2, [3, 4] * 2)
    line.move(SHADOW, 4, "first")  # of two who make an alias at once, MLflow turns one away

    def move_often(turn):
        registry = again(line)
        for number in turn:
            registry.move(SHADOW, number, "x", f"mover of {turn}")

    with ThreadPoolExecutor(2) as movers:
        list(movers.map(move_often, turns))
    made = again(line).moves()
    for turn in turns:
        assert [m.to for m in made if m.by == f"mover of {turn}"] == turn


@pytest.mark.parametrize("alias", [CHAMPION, CHALLENGER])
def test_what_is_served_or_tested_is_no_longer_set_aside_nor_are_its_ancestors(line, alias):
    for number in (1, 2, 3):
        line.tag(number, set_aside="rolled back", rolled_back="rolled back")
    line.move(SHADOW, 3, "changes nothing")
    line.move(alias, 2, "after all")
    marks = [(v.set_aside, v.rolled_back) for v in again(line).versions()]
    assert marks == [("", ""), ("", ""), ("rolled back", "rolled back"), ("", "")]


def test_killed_before_the_marks_were_taken_off_the_same_move_finishes(line, monkeypatch):
    line.move(CHALLENGER, 4, "next")
    line.tag(2, set_aside="rolled back")
    monkeypatch.setattr(Registry, "_unmark", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        line.move(CHAMPION, 2, "x", "a")
    monkeypatch.undo()
    assert line.champion().number == 2 and line.get(2).set_aside
    line.move(CHAMPION, 2, "x", "a")
    assert not line.get(2).set_aside and line.challenger() is None
    assert [m[:3] for m in told(line) if m[0] == CHAMPION] == [(CHAMPION, None, 2)]


@pytest.mark.parametrize(("champion", "stays"), [(3, True), (4, False), (2, False), (1, False)])
def test_a_challenger_goes_unless_it_started_from_the_champion(line, champion, stays):
    line.move(CHALLENGER, 4, "next")
    line.move(CHAMPION, champion, "because", "a")
    assert bool(line.challenger()) == stays
    if not stays:
        alias, from_, to, by, why = told(line)[-1]
        assert (alias, from_, to, by) == (CHALLENGER, 4, None, "a")
        assert "is the champion" in why if champion == 4 else why.endswith(": because")


def test_a_challenger_that_is_champion_already_is_none(line):
    line.move(CHALLENGER, 4, "next")
    line._client.set_registered_model_alias(line.name, CHAMPION, "4")  # and killed
    assert line.challenger() is None


@pytest.mark.parametrize("step", ["set_model_version_tag", "set_registered_model_alias"])
def test_a_server_that_goes_away_has_moved_nothing(line, monkeypatch, step):
    def away(*_):
        raise MlflowException("connection refused")

    monkeypatch.setattr(line._client, step, away)
    with pytest.raises(RetrainError, match=r"registry .*connection refused\. Check registry\.uri"):
        line.move(CHAMPION, 1, "x")
    monkeypatch.undo()
    assert again(line).champion() is None and again(line).moves() == []


def test_a_server_that_is_away():
    with pytest.raises(RetrainError, match=r"registry http://127\.0\.0\.1:9: .*Check registry\.uri"):
        Registry("http://127.0.0.1:9", "taxi").move(CHAMPION, 1, "x")


def test_a_long_reason_is_cut(line):
    line.move(CHAMPION, 1, "é" * 100_000, "a")
    (move,) = line.moves()
    assert set(move.why) == {"é"} and 100 < len(move.why) < 5000


def test_a_thousand_moves_slow_nothing(registry, version):
    moves = [
        Move(turn + 1.0, CHAMPION, (turn - 1) % 4 + 1, turn % 4 + 1, "me", "x" * 200) for turn in range(1000)
    ]
    registry._create_model()
    for number in range(1, 5):
        tags = {move.tag(done=True): move.text for move in moves if move.to == number}
        tags |= version(str(number)).tags()
        registry._client.create_model_version(registry.name, "s3://none/model", tags=tags)
    registry._client.set_registered_model_alias(registry.name, CHAMPION, "4")
    assert registry.moves() == moves
    begun = time.perf_counter()
    registry.champion(), registry.versions(), registry.quarantined()
    registry.move(CHAMPION, 1, "one more")
    assert time.perf_counter() - begun < 5  # 0.2 s; 0.7 s of a server
    assert len(registry.moves()) == 1001


def test_only_so_many_moves_of_a_version_are_kept(line, monkeypatch):
    monkeypatch.setattr("components.promote.registry.MOST_MOVES", 2)
    for turn in range(6):
        line.move(SHADOW, turn % 2 + 1, str(turn), "a")
    assert [m.why for m in again(line).get(1).moves] == ["2", "4"]
    assert [m.why for m in again(line).moves()] == ["2", "3", "4", "5"]


# What needs no registry.


def test_a_move_comes_back_from_its_tag():
    move = Move(1795226441.196859, SHADOW, 1, None, "me", 'why "not"')
    later = replace(move, when=move.when + 1, to=2)
    assert (move.holder, later.holder) == (1, 2) and move.tag(True) < later.tag(True) != later.tag(False)
    tags = {"key": "x", later.tag(True): later.text, move.tag(True): move.text, move.tag(False): move.text}
    assert from_tags(tags, done=True) == (move, later) and from_tags(tags, done=False) == (move,)


def test_a_begun_move_counts_if_its_alias_is_there(version):
    begun = Move(5.0, CHAMPION, 1, 2, "me", "why")
    versions = [replace(version("a"), number=1), replace(version("b"), number=2, begun=(begun,))]
    assert of_versions(versions, {CHAMPION: 2}) == [begun] and of_versions(versions, {CHAMPION: 1}) == []


def test_what_nobody_recorded():
    moves = [Move(1.0, CHAMPION, None, 1, "me", ""), Move(2.0, SHADOW, None, 3, "me", "")]
    found = list(unrecorded(moves, (CHAMPION, SHADOW, CHALLENGER), {CHAMPION: 2, SHADOW: 3}, 9.0))
    assert [(m.when, m.alias, m.from_, m.to) for m in found] == [(9.0, CHAMPION, 1, 2)]


def test_what_speaks_against_serving_a_version(version):
    rejected = {"blessed": False, "record": {"gate": {"reasons": ["auc fell"]}}}
    one = replace(version("a"), number=1)
    two = replace(version("b", parent=1, rolled_back="version 2 was rolled back: x"), number=2)
    three = replace(version("c", parent=2), number=3)
    four = replace(version("d", parent=1, **rejected), number=4)
    five = replace(version("e", parent=1, set_aside="version 5 was turned back"), number=5)
    versions = [one, two, three, four, five]

    def why(one, champion=None):
        return refusal(one, versions, champion)

    assert why(one) == "" and why(two) == "version 2 was rolled back: x"
    assert why(three) == "version 3 comes from another: version 2 was rolled back: x"
    assert why(four) == "version 4 was rejected by the gate: auc fell"
    assert why(five) == "version 5 was turned back"
    assert why(replace(four, forced={"by": "me"})) == ""
    # What is served as it is does not speak against what is made of it.
    assert why(three, champion=two) == "" and why(three, champion=one) != ""
