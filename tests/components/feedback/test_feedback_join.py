"""What becomes of the predictions and the labels of a key."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from components.feedback.join import Clock, Done, LabelRow, match
from components.feedback.log import Logged

HOUR = 3600.0
CLOCK = Clock(now=100 * HOUR, window=24 * HOUR, wait=5 * HOUR)


def asked(hour: float, version: int = 1, key: str = "k") -> Logged:
    return Logged(key, hour * HOUR, version, {"x": 1.0}, 0.5)


def label(hour: float, line: int = 1, seen: float = 100.0, key: str = "k", **values: Any) -> LabelRow:
    return LabelRow(key, hour * HOUR, values or {"y": line}, seen * HOUR, "labels.csv", line)


def counted(found: Any) -> dict[str, int]:
    return {name: count for name, count in found.counts.items() if count}


def test_a_label_in_time_is_joined() -> None:
    found = match([asked(90)], [label(99)], None, CLOCK)
    assert found.joined == (asked(90), label(99)) and found.waiting is None
    assert counted(found) == {"joined": 1}


def test_a_label_may_be_timed_before_its_prediction() -> None:
    assert counted(match([asked(90)], [label(89)], None, CLOCK)) == {"joined": 1}


def test_a_prediction_waits_for_its_label_until_the_window_is_over() -> None:
    assert counted(match([asked(76.1)], [], None, CLOCK)) == {"waiting_predictions": 1}
    assert counted(match([asked(75.9)], [], None, CLOCK)) == {"expired": 1}
    again = Clock(CLOCK.now + HOUR, CLOCK.window, CLOCK.wait, horizon=76 * HOUR)
    assert counted(match([asked(75.9)], [], None, again)) == {}  # once


def test_a_label_waits_for_its_prediction() -> None:
    found = match([], [label(99, seen=95.1)], None, CLOCK)
    assert found.waiting == label(99, seen=95.1) and counted(found) == {"waiting_labels": 1}
    found = match([], [label(99, seen=94.9)], None, CLOCK)
    assert found.waiting is None and counted(found) == {"unknown": 1}


def test_a_label_that_comes_too_late_is_only_counted() -> None:
    assert counted(match([asked(70)], [label(94.1)], None, CLOCK)) == {"late": 1, "expired": 1}
    assert counted(match([asked(70)], [label(93.9)], None, CLOCK)) == {"joined": 1}
    expired_before = Clock(CLOCK.now, CLOCK.window, CLOCK.wait, horizon=70 * HOUR)
    assert counted(match([asked(70)], [label(93.9)], None, expired_before)) == {"late": 1}


def test_the_first_label_of_a_key_counts() -> None:
    found = match([asked(90)], [label(99, line=1), label(98, line=2), label(98, line=3)], None, CLOCK)
    assert found.joined is not None and found.joined[1] == label(98, line=2)
    assert counted(found) == {"joined": 1, "duplicates": 2}


def test_the_same_row_read_again_is_no_duplicate() -> None:
    found = match([], [label(98, seen=96), label(98, seen=100)], None, CLOCK)
    assert found.waiting == label(98, seen=96) and counted(found) == {"waiting_labels": 1}
    joined = Done("k", 90 * HOUR, label(98).id)
    assert counted(match([asked(90)], [label(98)], joined, CLOCK)) == {}
    assert counted(match([asked(90)], [label(98, line=2)], joined, CLOCK)) == {"duplicates": 1}


def test_an_id_does_not_depend_on_what_is_missing_or_when_it_was_read() -> None:
    assert label(1, y=2).id == label(9, seen=3, y=2, z=None).id
    assert label(1, y=2).id != label(1, y=3).id != label(1, y=3, line=2).id


def test_the_first_prediction_of_a_key_counts() -> None:
    found = match([asked(92, 2), asked(90, 1)], [label(99)], None, CLOCK)
    assert found.joined is not None and found.joined[0] == asked(90, 1)
    assert counted(found) == {"joined": 1, "repeated": 1}
    # Of predictions that are too old for the label the next one is.
    found = match([asked(70), asked(90)], [label(99)], None, CLOCK)
    assert found.joined is not None and found.joined[0] == asked(90)


@pytest.mark.parametrize("seed", range(5))
def test_however_labels_come_every_key_is_joined_once_at_most(seed: int) -> None:
    """The command is called at random times, with what has arrived by then: predictions and labels in any
    order, some twice, some without the other. In the end all is accounted for."""
    rng = random.Random(seed)
    keys = [f"k{i}" for i in range(100)]
    predictions = [(rng.uniform(0, 50), key) for key in keys[:80]]
    labels = [(rng.uniform(0, 60), key, line) for line, key in enumerate(keys[20:] + keys[40:60])]
    log = {key: asked(1 + hour, key=key) for hour, key in predictions}
    waiting: dict[str, LabelRow] = {}
    done: dict[str, Done] = {}
    totals, joined, horizon, last = Counter[str](), Counter[str](), 0.0, 0.0
    for now in [*sorted(rng.uniform(0, 70) for _ in range(6)), 200.0, 300.0]:
        clock = Clock(now * HOUR, 24 * HOUR, 5 * HOUR, horizon)
        new = [label(hour, line, now, key) for hour, key, line in labels if last < hour <= now]
        still, of_key = {}, lambda key, rows: [row for row in rows if row.key == key]
        for key in keys:
            there = [log[key]] if key in log and log[key].time <= clock.now else []
            given = [*of_key(key, new), *([waiting[key]] if key in waiting else [])]
            found = match(there, given, done.get(key), clock)
            totals.update({k: n for k, n in found.counts.items() if not k.startswith("waiting")})
            if found.joined:
                joined[key] += 1
                done[key] = Done(key, found.joined[0].time, found.joined[1].id)
            if found.waiting:
                still[key] = found.waiting
        waiting, last, horizon = still, now, max(horizon, clock.now - clock.window)
    assert waiting == {} and set(joined.values()) == {1}
    assert totals["joined"] == len(joined) == len(done)
    assert totals["joined"] + totals["expired"] == len(predictions)
    assert totals["joined"] + totals["duplicates"] + totals["late"] + totals["unknown"] == len(labels)
