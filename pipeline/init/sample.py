"""A uniform sample of rows of unknown number, in bounded memory."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


class Reservoir:
    """Keeps the rows with the smallest of random keys, one drawn for each row: a uniform sample.

    Args:
        rows: most rows kept; fewer where they would take more than `max_bytes`.
        max_bytes: of Arrow memory, about; twice as much is held while rows come in.
        seed: of the keys.
    """

    def __init__(self, rows: int, max_bytes: int, seed: int = 0):
        self._limit, self._max_bytes = rows, max_bytes
        self._random = np.random.default_rng(seed)
        self._tables: list[pa.Table] = []
        self._keys: list[np.ndarray] = []
        self._places: list[np.ndarray] = []
        self._threshold = 1.0  # rows with larger keys are out already
        self._seen = 0

    def add(self, batch: pa.Table) -> None:
        """Offers the next rows; all tables have one schema."""
        keys = self._random.random(len(batch))
        chosen = np.flatnonzero(keys < self._threshold)
        self._tables.append(batch.take(chosen))
        self._keys.append(keys[chosen])
        self._places.append(chosen + self._seen)
        self._seen += len(batch)
        if sum(map(len, self._keys)) > 2 * self._limit or self._bytes() > 2 * self._max_bytes:
            self._shrink()

    def rows(self) -> tuple[pa.Table, np.ndarray]:
        """The sample in the order in which it came; and each row's place among all, from 0."""
        self._shrink()
        return self._tables[0].combine_chunks(), self._places[0]

    def _shrink(self) -> None:
        table, keys = pa.concat_tables(self._tables, promote_options="permissive"), np.concatenate(self._keys)
        size = self._bytes()
        # Which rows go is decided by the keys alone, so the smaller sample is as uniform.
        fitting = self._limit if size <= self._max_bytes else int(len(keys) * self._max_bytes / size)
        self._limit = max(min(self._limit, fitting), 1)
        chosen = np.arange(len(keys))
        if len(keys) > self._limit:
            chosen = np.sort(np.argpartition(keys, self._limit)[: self._limit])
            self._threshold = float(keys[chosen].max())
        self._tables = [table.take(chosen)]
        self._keys = [keys[chosen]]
        self._places = [np.concatenate(self._places)[chosen]]

    def _bytes(self) -> int:
        return sum(table.nbytes for table in self._tables)
