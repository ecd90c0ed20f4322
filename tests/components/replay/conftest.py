"""TFRecords of rows that have nothing but their bookkeeping."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Keyed = tuple[int, int]  # span, example_id


@pytest.fixture
def rows() -> Callable[[int, int], list[Keyed]]:
    """So many rows of a span, with ids as scattered as ingest's."""

    def rows(span: int, count: int) -> list[Keyed]:
        ids = np.random.default_rng(span).integers(0, 2**63 - 1, count)
        return [(span, int(i)) for i in ids]

    return rows


@pytest.fixture
def write(serialize) -> Callable[..., Path]:
    """Writes rows as gzipped TFRecords, in so many shards, to a split's folder; `more` adds columns."""
    import tensorflow as tf

    def write(
        folder: Path,
        rows: Iterable[Keyed],
        shards: int = 1,
        more: Callable[[Keyed], dict[str, Any]] = lambda _: {},
    ) -> Path:
        records = serialize([{"span": row[0], "example_id": row[1], **more(row)} for row in rows])
        folder.mkdir(parents=True)
        for shard in range(shards):
            path = folder / f"data_tfrecord-{shard:05d}-of-{shards:05d}.gz"
            with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
                for record in records[shard::shards]:
                    writer.write(record)
        return folder

    return write


@pytest.fixture
def read() -> Callable[[Path], list[Keyed]]:
    """The rows of a split's folder, in their order."""
    import tensorflow as tf

    def read(folder: Path) -> list[Keyed]:
        records = tf.data.TFRecordDataset([str(f) for f in folder.glob("data_tfrecord-*")], "GZIP")
        examples = map(tf.train.Example.FromString, records.as_numpy_iterator())
        return [
            tuple(e.features.feature[name].int64_list.value[0] for name in ("span", "example_id"))
            for e in examples
        ]

    return read
