"""Batches of new and replayed examples, mixed while they are still serialized."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from components.names import SPAN

_READ = 4096
"""Records that are looked at together."""


@dataclass(frozen=True)
class Mix:
    """How a batch is made up.

    Attributes:
        new: new examples a batch.
        replayed: replayed examples a batch.
        steps: batches that show every new example once.
    """

    new: int
    replayed: int
    steps: int

    def examples(self, new_rows: int, steps: int, full: bool) -> int:
        """How many examples, new and replayed, so many batches show; `full` as for `batches`.

        >>> Mix(new=32, replayed=32, steps=3).examples(new_rows=65, steps=4, full=False)
        225
        """
        passes, rest = divmod(steps, self.steps)
        new = steps * self.new if full else passes * new_rows + min(rest * self.new, new_rows)
        return new + steps * self.replayed


def plan_mix(new_rows: int, old_rows: int, batch_size: int, ratio: float) -> Mix:
    """Splits a batch between new and replayed examples.

    Args:
        new_rows: new examples, at least 1.
        old_rows: examples in the replay buffer; none: no replay.
        batch_size: examples a batch.
        ratio: the share of a batch that is replayed, from 0 to below 1.

    >>> plan_mix(900, 5000, 64, 0.5)
    Mix(new=32, replayed=32, steps=29)
    >>> plan_mix(900, 0, 64, 0.5)
    Mix(new=64, replayed=0, steps=15)
    """
    replayed = min(round(batch_size * ratio), batch_size - 1) if old_rows else 0
    new = min(batch_size - replayed, new_rows)
    return Mix(new=new, replayed=replayed, steps=math.ceil(new_rows / new))


def fit_budget(steps: int, epochs: int, max_steps: int | None) -> tuple[int, int]:
    """Epochs, and steps of each, that keep to a largest number of steps in all.

    Args:
        steps: that show every new example once.
        epochs: wanted.
        max_steps: in all; None: as many as that takes.

    >>> fit_budget(100, 15, None), fit_budget(100, 15, 450), fit_budget(100, 15, 30)
    ((15, 100), (4, 100), (1, 30))
    """
    if max_steps is None or steps * epochs <= max_steps:
        return epochs, steps
    return max(max_steps // steps, 1), min(steps, max_steps)


@dataclass(frozen=True)
class Records:
    """Serialized examples: those of the new spans, and the others, which are replayed."""

    new: tf.data.Dataset
    old: tf.data.Dataset
    new_rows: int
    old_rows: int


def read_records(patterns: Sequence[str], new_spans: Sequence[int], memory_rows: int) -> Records:
    """The examples of the files that match, told apart by the span they carry.

    Not by where they lie: TFX gives the files of several artifacts in no order that it promises. One pass
    finds which files hold what; after that only these are read.

    Args:
        patterns: of gzipped TFRecord files.
        new_spans: whose examples are new.
        memory_rows: either kind is kept in memory where it has no more examples than this, and read anew
            in every pass where it has.
    """
    files = files_of(patterns)
    counts = np.array([_count(file, new_spans) for file in files], np.int64).reshape(-1, 2)

    def of_kind(kind: int) -> tuple[tf.data.Dataset, int]:
        rows = int(counts[:, kind].sum())
        holding = [file for file, count in zip(files, counts[:, kind], strict=True) if count]
        records = _batched(holding).map(
            lambda batch: tf.boolean_mask(batch, _is_new(batch, new_spans) ^ (kind == 1))
        )
        records = records.unbatch()
        return (records.cache() if rows <= memory_rows else records), rows

    (new, new_rows), (old, old_rows) = of_kind(0), of_kind(1)
    return Records(new, old, new_rows, old_rows)


def files_of(patterns: Sequence[str]) -> list[str]:
    """The files that match, in an order that does not depend on the patterns'."""
    return sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))


def _batched(files: Sequence[str]) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(tf.constant(files, tf.string), compression_type="GZIP").batch(_READ)


def _count(file: str, new_spans: Sequence[int]) -> tuple[int, int]:
    """New examples of a file, and others."""
    new = rows = 0
    for batch in _batched([file]):
        new += int(tf.math.count_nonzero(_is_new(batch, new_spans)))
        rows += len(batch)
    return new, rows - new


def _is_new(serialized: tf.Tensor, new_spans: Sequence[int]) -> tf.Tensor:
    """bool [batch]."""
    spans = tf.io.parse_example(serialized, {SPAN: tf.io.FixedLenFeature([], tf.int64)})[SPAN]
    return tf.reduce_any(spans[:, None] == tf.constant(new_spans, tf.int64)[None], axis=1)


def count_labels(records: Sequence[tf.data.Dataset], label: str, spec: Any) -> Counter[str]:
    """How often each class occurs, by its text.

    Args:
        records: serialized examples.
        label: the label's feature; one without it does not count.
        spec: how it is parsed, sparse.
    """
    counts: Counter[str] = Counter()
    for dataset in records:
        for serialized in dataset.batch(_READ):
            values = tf.io.parse_example(serialized, {label: spec})[label].values
            texts, _, numbers = tf.unique_with_counts(
                values if values.dtype == tf.string else tf.strings.as_string(tf.cast(values, tf.int64))
            )
            pairs = zip(texts.numpy(), numbers.numpy(), strict=True)
            counts.update({text.decode("utf-8", "surrogateescape"): int(number) for text, number in pairs})
    return counts


def batches(
    new: tf.data.Dataset,
    old: tf.data.Dataset,
    mix: Mix,
    shuffle_rows: int,
    seed: int,
    parse: Callable[[tf.Tensor, tf.Tensor], tuple[Any, ...]],
    done: int = 0,
    full: bool = False,
) -> tf.data.Dataset:
    """Pass after pass over the new examples, without end, in batches filled up with replayed ones.

    Args:
        new, old: serialized examples.
        mix: as `plan_mix` gives it.
        shuffle_rows: how many examples a shuffle holds in memory.
        seed: of both shuffles; another order in every pass, the same in every stream of this seed.
        parse: serialized examples of shape [batch], and which are new, bool [batch] -> inputs, labels and
            weights.
        done: batches at the beginning that are left out, before they are parsed.
        full: every batch has the same size: a pass begins in the last batch of the one before, where
            otherwise that batch is smaller.
    """
    fresh = new.shuffle(shuffle_rows, seed=seed, reshuffle_each_iteration=True)
    stream = fresh.repeat().batch(mix.new) if full else fresh.batch(mix.new)
    if mix.replayed:
        replayed = old.shuffle(shuffle_rows, seed=seed + 1).repeat().batch(mix.replayed)
        stream = tf.data.Dataset.zip(stream, replayed).map(_join)
    else:
        stream = stream.map(lambda serialized: (serialized, tf.ones_like(serialized, tf.bool)))
    # Repeated, because making an iterator optimizes the transform graph anew.
    stream = (stream if full else stream.repeat()).skip(done)
    return stream.map(parse, num_parallel_calls=2, deterministic=True).prefetch(2)


def _join(new: tf.Tensor, old: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    is_new = tf.concat([tf.ones_like(new, tf.bool), tf.zeros_like(old, tf.bool)], axis=0)
    return tf.concat([new, old], axis=0), is_new
