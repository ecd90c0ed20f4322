"""What is measured of a span's rows: their labels, and how many repeat another."""

import json
import math
from itertools import permutations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.ingest import measures
from components.ingest.measures import Contents, Labels, count_labels
from components.ingest.recipe import Recipe


def recipe(task, log=False):
    return Recipe((), frozenset(), "y", "FLOAT", None, 0.2, task, log)


def added(parts, kind):
    total = kind()
    for part in parts:
        total.add(part)
    return total


def hashes(*numbers):
    return np.array(numbers, np.uint64)


def test_classes_are_counted_by_name():
    counted = [
        count_labels(recipe("multiclass"), pa.array(texts, pa.large_binary()))
        for texts in ([b"b", b"a", b"b"], [b"a"], [])
    ]
    assert added(counted, Labels).to_report() == {"rows": 4, "classes": {"a": 2, "b": 2}}
    assert count_labels(recipe(""), pa.array(["a"])) == Labels()
    binary = count_labels(recipe("binary"), pa.array([0, 1, 1]))
    assert binary.to_report() == {"rows": 3, "classes": {"0": 1, "1": 2}}


def test_more_classes_than_are_counted_leave_none_whatever_the_order(monkeypatch):
    monkeypatch.setattr(measures, "MOST_CLASSES", 3)
    parts = [["a", "b"], ["b", "c"], ["d"], ["a"]]
    for order in permutations(parts):
        counted = [count_labels(recipe("multiclass"), pa.array(texts)) for texts in order]
        assert added(counted, Labels).to_report() == {"rows": 6}
    fits = [count_labels(recipe("multiclass"), pa.array(texts)) for texts in parts[:2]]
    assert added(fits, Labels).to_report()["classes"] == {"a": 1, "b": 2, "c": 1}


@given(st.lists(st.lists(st.floats(-1e6, 1e6)), min_size=1, max_size=5))
def test_moments_are_those_of_all_rows(blocks):
    counted = [count_labels(recipe("regression"), pa.array(block, pa.float64())) for block in blocks]
    report, values = added(counted, Labels).to_report(), [value for block in blocks for value in block]
    assert report["rows"] == len(values)
    if values:
        assert report["mean"] == pytest.approx(np.mean(values), abs=1e-3)
        assert report["deviation"] == pytest.approx(np.std(values), abs=1e-3)


def test_moments_are_on_the_scale_that_is_learned():
    report = count_labels(recipe("regression", log=True), pa.array([0, 99])).to_report()
    half = math.log(100) / 2
    assert report == {"rows": 2, "mean": pytest.approx(half), "deviation": pytest.approx(half)}


def test_rows_that_repeat_another_are_counted_over_blocks():
    parts = [Contents.of(hashes(5, 3, 5)), Contents.of(hashes(3, 7)), Contents.of(hashes())]
    for order in permutations(parts):
        total = added(order, Contents)
        assert total.repeated() == pytest.approx(2 / 5)
        assert Contents.from_json(json.loads(json.dumps(total.to_json()))) == total
    assert Contents().repeated() == 0 and Contents.of(hashes(1, 2, 3)).repeated() == 0


@pytest.mark.parametrize(("copies", "low", "high"), [(1, 0.0, 0.0), (2, 0.44, 0.5), (10, 0.88, 0.9)])
def test_of_many_rows_what_is_sure_is_told(monkeypatch, copies, low, high):
    monkeypatch.setattr(measures, "MOST_HASHES", 4096)
    for seed in range(5):
        rows = np.random.default_rng(seed).integers(2**64, size=20_000, dtype=np.uint64).repeat(copies)
        total = added([Contents.of(block) for block in np.array_split(rows, 7)], Contents)
        assert len(total.smallest) == 8 * 4096
        assert low <= total.repeated() <= high
