"""Batches of new and replayed examples, mixed while they are still serialized."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from components.names import SPAN


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


def read_records(
    patterns: Sequence[str], new_spans: Sequence[int]
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Serialized examples of the files: those of the new spans, and the others, which are replayed.

    They are told apart by the span they carry, not by where they lie: TFX gives the files of several
    artifacts in no order that it promises.
    """
    files = sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))
    records = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(4096)
    spec = {SPAN: tf.io.FixedLenFeature([], tf.int64)}
    spans = tf.constant(new_spans, tf.int64)

    def is_new(serialized: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(tf.io.parse_example(serialized, spec)[SPAN][:, None] == spans[None], axis=1)

    new = records.map(lambda r: tf.boolean_mask(r, is_new(r))).unbatch().cache()
    old = records.map(lambda r: tf.boolean_mask(r, ~is_new(r))).unbatch().cache()
    return new, old


def count(records: tf.data.Dataset) -> int:
    """How many records there are; reads them all, into their cache."""
    return int(records.batch(4096).reduce(tf.constant(0, tf.int64), lambda n, r: n + tf.size(r, tf.int64)))


def count_labels(records: Sequence[tf.data.Dataset], label: str, spec: Any) -> Counter[str]:
    """How often each class occurs, by its text.

    Args:
        records: serialized examples.
        label: the label's feature; one without it does not count.
        spec: how it is parsed, sparse.
    """
    counts: Counter[str] = Counter()
    for dataset in records:
        for serialized in dataset.batch(4096):
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
    parse: Callable[[tf.Tensor], tuple[Any, ...]],
) -> tf.data.Dataset:
    """One pass over the new examples in batches, each filled up with replayed ones.

    Args:
        new, old: serialized examples.
        mix: as `plan_mix` gives it.
        shuffle_rows: how many examples a shuffle holds in memory.
        seed: of both shuffles; another order in every pass.
        parse: serialized examples of shape [batch] -> inputs, labels and weights.
    """
    fresh = new.shuffle(shuffle_rows, seed=seed, reshuffle_each_iteration=True).batch(mix.new)
    if mix.replayed:
        replayed = old.shuffle(shuffle_rows, seed=seed + 1).repeat().batch(mix.replayed)
        fresh = tf.data.Dataset.zip(fresh, replayed).map(lambda a, b: tf.concat([a, b], axis=0))
    return fresh.map(parse, num_parallel_calls=2, deterministic=True).prefetch(2)
