"""The losses of predictions, as their labels come."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.errors import RetrainError
from components.feedback import losses as losses_module
from components.feedback.join import LabelRow
from components.feedback.log import Logged
from components.feedback.losses import Judged, Losses, label_values, loss, losses
from components.label import Label
from serving.prediction_log import PredictionLog

BINARY = Label(name="late")
CLASSES = Label(name="kind", task="multiclass")
PRICE = Label(name="price", task="regression")
LOG_PRICE = Label(name="price", task="regression", log=True)


def row(prediction: float | str, scores: Any = None) -> Logged:
    return Logged("k", 0.0, 1, {}, prediction, scores)


@pytest.mark.parametrize(
    ("label", "predicted", "truth", "expected"),
    [
        (BINARY, row(1.0), 1.0, 0.0),
        (BINARY, row(0.0), 1.0, 1.0),
        (BINARY, row(0.25), 1.0, 0.5625),
        (BINARY, row(0.25), 2.0, None),
        (CLASSES, row("a", {"a": 0.75, "b": 0.25}), "b", 0.75),
        (CLASSES, row("a", {"a": 0.75, "b": 0.25}), "new", 1.0),
        (CLASSES, row("a"), "a", 0.0),
        (PRICE, row(10.0), 9.0, 0.5),
        (PRICE, row(10.0), 90.0, 1.0),
        (PRICE, row(math.nan), 9.0, 1.0),
        (LOG_PRICE, row(math.e**2 - 1), math.e - 1, 0.5),
        (LOG_PRICE, row(5.0), -1.0, None),
        (LOG_PRICE, row(-3.0), 1.0, 1.0),
    ],
)
def test_the_loss_of_one(label: Label, predicted: Logged, truth: Any, expected: float | None) -> None:
    found = loss(label, predicted, truth, scale=2.0)
    assert found == (None if expected is None else pytest.approx(expected))


def test_the_label_of_a_row_is_made_of_its_columns() -> None:
    big_tip = Label(name="big", expression="tips > 0.2 * fare and kind == 'card'")
    rows = [
        {"tips": 1.49, "fare": 7.45, "kind": b"card"},  # exactly 20 %
        {"tips": 1.5, "fare": 7.45, "kind": b"card"},
        {"tips": 1.5, "fare": None, "kind": b"card"},
        {"tips": 1.5, "fare": [1.0, 2.0], "kind": b"card"},
    ]
    assert label_values(big_tip, rows) == [0.0, 1.0, None, None]
    assert label_values(BINARY, [{"late": 1}, {}]) == [1.0, None]
    assert label_values(CLASSES, [{"kind": b"a"}, {"kind": 7}]) == ["a", "7"]
    assert label_values(PRICE, [{"price": b"text"}]) == [None]
    with pytest.raises(RetrainError, match="holds text and numbers"):
        label_values(big_tip, [rows[0], {**rows[1], "fare": b"much"}])


def answer(folder: Path, version: int, **probabilities: float) -> None:
    with PredictionLog(folder, "shop") as log:
        for key, probability in probabilities.items():
            inputs = {"fare": np.array([7.45], np.float32)}
            outputs = {"predictions": np.array([probability])}
            log.record("shop", version, "serving_raw", "predict", inputs, outputs, key)


def label(key: str, time: float = 0.0, **values: Any) -> LabelRow:
    return LabelRow(key, time, values, 0.0, "labels.csv", 1)


def test_each_call_gives_what_is_new_whichever_came_first(tmp_path: Path) -> None:
    found = Losses(tmp_path, BINARY, model="shop")
    assert found.new([label("b", late=1)]) == []
    answer(tmp_path, 1, a=0.5, b=0.5)
    (first,) = found.new()
    assert (first.version, first.loss) == (1, 0.25)
    answer(tmp_path, 2, c=0.0, a=1.0)  # the first answer of a key counts
    second = found.new([label("a", late=0), label("b", late=0), label("c", late=1), label("d", late=1)])
    assert sorted((one.version, one.loss) for one in second) == [(1, 0.25), (2, 1.0)]
    assert found.new([label("a", late=1)]) == []
    offsets = dict(found.cursor.offsets)
    assert found.new() == [] and found.cursor.offsets == offsets


def test_a_new_process_finds_the_same_losses(tmp_path: Path) -> None:
    answer(tmp_path, 1, a=0.5, b=0.25)
    labels = [label("a", late=1), label("b", late=1)]
    assert sorted(one.loss for one in losses(tmp_path, labels, BINARY)) == [0.25, 0.5625]
    begun = losses(tmp_path, labels, BINARY)[0].time
    assert losses(tmp_path, labels, BINARY, since=begun + 1) == []
    assert isinstance(losses(tmp_path, labels, BINARY, since=begun)[0], Judged)
    assert losses(tmp_path, labels, BINARY, model="another") == []


def test_labels_that_come_too_late_or_say_nothing_are_counted(tmp_path: Path) -> None:
    answer(tmp_path, 1, a=0.5, b=0.5, c=0.5)
    (time,) = {one.time for one in losses(tmp_path, [label("a", late=1)], BINARY)}
    found = Losses(tmp_path, BINARY, window=60.0)
    late, in_time = label("a", time + 61, late=1), label("b", time + 59, late=1)
    assert len(found.new([late, in_time, label("c")])) == 1
    assert (found.late, found.unlabelled) == (1, 1)


def test_a_label_may_be_made_of_what_was_asked(tmp_path: Path) -> None:
    answer(tmp_path, 1, a=0.0, b=0.0)
    big_tip = Label(name="big", expression="tips > 0.2 * fare")
    found = losses(tmp_path, [label("a", tips=1.49), label("b", tips=1.5)], big_tip)
    assert sorted(one.loss for one in found) == [0.0, 1.0]


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses_module, "MAX_WAITING", 2)
    answer(tmp_path, 1, a=0.5, b=0.5, c=0.5)
    found = Losses(tmp_path, BINARY)
    assert found.new() == []
    assert len(found.new([label("a", late=1), label("b", late=1), label("c", late=1)])) == 2
