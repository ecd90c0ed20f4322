"""Requests that are answered together: a function stands for the model, and tells what it was called with."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.batching import Batcher
from serving.options import Batching
from serving.tensors import TensorSpec


class Doubling:
    """Doubles x, which must be finite, and keeps the sizes of its calls."""

    def __init__(self):
        self.rows = []

    def __call__(self, tensors):
        x = tensors["x"]
        self.rows.append(len(x))
        if not np.isfinite(x).all():
            raise ValueError("x must be finite")
        return {"y": x * 2}


def ask(batcher, *arrays):
    """Calls it for all arrays at the same time; gives outputs or errors."""
    together = threading.Barrier(len(arrays))

    def one(x):
        together.wait()
        try:
            return batcher({"x": x})["y"].tolist()
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(len(arrays)) as threads:
        return list(threads.map(one, arrays))


def batcher(max_rows, wait_seconds=30.0):
    model = Doubling()
    return model, Batcher(model, Batching(max_rows, wait_seconds))


def test_requests_are_joined_and_each_gets_its_own():
    model, batch = batcher(max_rows=6)
    x = [np.array([1.0]), np.array([2.0, 3.0]), np.array([4.0, 5.0, 6.0])]
    assert ask(batch, *x) == [[2.0], [4.0, 6.0], [8.0, 10.0, 12.0]]
    assert model.rows == [6]


def test_nobody_waits_longer_than_agreed():
    model, batch = batcher(max_rows=100, wait_seconds=0.01)
    assert batch({"x": np.array([1.0])})["y"].tolist() == [2.0]
    assert model.rows == [1]


def test_a_batch_is_never_larger_than_agreed():
    model, batch = batcher(max_rows=4, wait_seconds=0.2)
    answers = ask(batch, *(np.array([x, x + 0.5, x + 0.25]) for x in range(6)))
    assert answers == [[2.0 * x, 2.0 * x + 1, 2.0 * x + 0.5] for x in range(6)]
    assert model.rows == [3] * 6


def test_who_fills_a_batch_alone_waits_for_nobody():
    model, batch = batcher(max_rows=2)
    assert len(batch({"x": np.arange(5.0)})["y"]) == 5
    assert len(batch({"x": np.arange(2.0)})["y"]) == 2
    assert model.rows == [5, 2]


def test_rows_of_other_shapes_go_apart():
    model, batch = batcher(max_rows=2)
    wide, narrow = np.ones((1, 3)), np.ones((1, 2))
    assert ask(batch, wide, narrow, wide, narrow) == [[[2.0] * 3], [[2.0] * 2]] * 2
    assert model.rows == [2, 2]


def test_a_bad_request_fails_alone():
    model, batch = batcher(max_rows=3)
    assert ask(batch, np.array([1.0]), np.array([np.nan]), np.array([3.0])) == [
        [2.0],
        "x must be finite",
        [6.0],
    ]
    assert sorted(model.rows) == [1, 1, 1, 3]


def test_outputs_that_are_not_one_a_row_are_not_shared():
    calls = []

    def total(tensors):
        calls.append(len(tensors["x"]))
        return {"y": tensors["x"].sum(keepdims=True)}

    batch = Batcher(total, Batching(2, 30.0))
    assert ask(batch, np.array([1.0]), np.array([2.0])) == [[1.0], [2.0]]
    assert calls == [2, 1, 1]


@pytest.mark.parametrize(
    ("inputs", "outputs", "suits"),
    [
        ((None,), (None, 3), True),
        ((None, 2), (None,), True),
        ((1,), (None,), False),
        ((None,), (), False),
        (None, (None,), False),
    ],
)
def test_what_can_be_joined(inputs, outputs, suits):
    assert (
        Batcher.suits({"x": TensorSpec("x", "float", inputs)}, {"y": TensorSpec("y", "float", outputs)})
        is suits
    )


def test_texts_are_joined():
    def upper(tensors):
        return {"y": np.array([text.upper() for text in tensors["x"]], np.object_)}

    batch = Batcher(upper, Batching(2, 30.0))
    assert sorted(ask(batch, np.array([b"a"], np.object_), np.array([b"b"], np.object_))) == [[b"A"], [b"B"]]
