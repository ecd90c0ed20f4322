"""Several requests of one version and signature in one call of the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future

import numpy as np

from serving.models import Tensors
from serving.options import Batching
from serving.tensors import TensorSpec

_Outputs = dict[str, np.ndarray]


class Batcher:
    """Calls a function of tensors for several callers at once: their rows one after the other.

    The first of them waits for others, until the batch is full or its time is over, and then runs it. Rows of
    different shapes are in different batches.
    """

    def __init__(self, call: Callable[[Tensors], _Outputs], batching: Batching) -> None:
        """Wraps a function from inputs to outputs which all have one row a row (see `suits`)."""
        self._call = call
        self._options = batching
        self._open: dict[Hashable, _Batch] = {}
        self._lock = threading.Lock()

    @staticmethod
    def suits(inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> bool:
        """Says whether all inputs and outputs of a signature begin with a dimension of any size."""
        specs = [*inputs.values(), *outputs.values()]
        return bool(inputs) and all(spec.shape and spec.shape[0] is None for spec in specs)

    def __call__(self, tensors: Tensors) -> _Outputs:
        """Returns the outputs for these inputs, as the function itself would.

        Raises:
          Exception: what the function raises for these inputs alone.
        """
        sizes = {array.shape[0] for array in tensors.values()}
        if len(sizes) != 1 or (rows := sizes.pop()) == 0 or rows >= self._options.max_rows:
            return self._call(tensors)
        shapes = tuple(sorted((name, array.shape[1:]) for name, array in tensors.items()))
        with self._lock:
            batch = self._open.get(shapes)
            if leads := batch is None or batch.rows + rows > self._options.max_rows:
                if batch is not None:
                    batch.full.set()
                batch = self._open[shapes] = _Batch()
            answer = batch.add(tensors, rows)
            if batch.rows == self._options.max_rows:
                batch.full.set()
        if leads:
            batch.full.wait(self._options.wait_seconds)
            with self._lock:  # From here on nobody joins it.
                if self._open.get(shapes) is batch:
                    del self._open[shapes]
            self._run(batch)
        return answer.result()

    def _run(self, batch: _Batch) -> None:
        if len(batch.members) == 1 or not self._together(batch):
            for tensors, _, answer in batch.members:
                _settle(answer, self._call, tensors)

    def _together(self, batch: _Batch) -> bool:
        """Answers all members with one call, if that works; it does not where one of them is at fault."""
        try:
            outputs = self._call(
                {
                    name: np.concatenate([tensors[name] for tensors, _, _ in batch.members])
                    for name in batch.members[0][0]
                }
            )
        except Exception:  # Each by itself then gets its own.
            return False
        if any(array.shape[:1] != (batch.rows,) for array in outputs.values()):
            return False
        start = 0
        for _, rows, answer in batch.members:
            answer.set_result({name: array[start : start + rows] for name, array in outputs.items()})
            start += rows
        return True


class _Batch:
    """Requests that are to be answered together."""

    def __init__(self) -> None:
        self.members: list[tuple[Tensors, int, Future[_Outputs]]] = []
        self.rows = 0
        self.full = threading.Event()

    def add(self, tensors: Tensors, rows: int) -> Future[_Outputs]:
        answer: Future[_Outputs] = Future()
        self.members.append((tensors, rows, answer))
        self.rows += rows
        return answer


def _settle(answer: Future[_Outputs], call: Callable[[Tensors], _Outputs], tensors: Tensors) -> None:
    try:
        answer.set_result(call(tensors))
    except Exception as error:
        answer.set_exception(error)
