"""Which split a row belongs to: a hash of what its example will hold."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TRAIN, EVAL = SPLITS = ("train", "eval")
SPLIT_BUCKETS = 10_000

_STEP = np.uint64(0x9E3779B97F4A7C15)


def row_hashes(columns: Iterable[pa.Array], rows: int) -> np.ndarray:
    """A hash of every row's values alone, uint64 of shape [rows]: the same row has the same in every file,
    format, span and run. Numbers count as they are, floats in float32; a list of one value is that value.

    Args:
        columns: values as `values.read_values` gives them, [rows] each, always in the same order.
        rows: how many there are.
    """
    hashes = np.zeros(rows, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in columns:
            hashes = mix((hashes + _STEP) ^ _hashes(column))
    return hashes


def is_eval(hashes: np.ndarray, eval_share: float) -> np.ndarray:
    """Which rows belong to the eval split, bool of shape [rows].

    The hash decides alone, so that no row is ever trained on and evaluated on.

    Args:
        hashes: of the rows, as `row_hashes` gives them.
        eval_share: 0..1.
    """
    return hashes % np.uint64(SPLIT_BUCKETS) < round(eval_share * SPLIT_BUCKETS)


def mix(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014), a bijection of uint64."""
    with np.errstate(over="ignore"):
        mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _hashes(column: pa.Array) -> np.ndarray:
    """uint64 [rows], 0 where missing."""
    if not pa.types.is_list(column.type):
        return np.where(column.is_valid().to_numpy(zero_copy_only=False), _flat_hashes(column), np.uint64(0))
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    if counts.max(initial=0) <= 1:  # as most features of tf.Examples are
        hashes = np.zeros(len(column), dtype=np.uint64)
        hashes[counts == 1] = _flat_hashes(column.flatten())
        return hashes
    ends = np.cumsum(counts)
    begins = ends - counts
    with np.errstate(over="ignore"):
        place = (np.arange(counts.sum()) - np.repeat(begins, counts)).astype(np.uint64)
        weighed = _flat_hashes(column.flatten()) * (place * np.uint64(2) + np.uint64(1))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(weighed)])
        return sums[ends] - sums[begins]


def _flat_hashes(values: pa.Array) -> np.ndarray:
    if pa.types.is_integer(values.type):
        return mix(values.fill_null(0).to_numpy().view(np.uint64) + _STEP)
    if pa.types.is_floating(values.type):
        floats = values.fill_null(0).to_numpy().astype(np.float32) + np.float32(0)  # -0.0 is 0.0
        return mix(floats.view(np.uint32).astype(np.uint64) + _STEP)
    coded = values.dictionary_encode()
    texts = coded.dictionary.cast(pa.large_binary()).to_numpy(zero_copy_only=False)
    # 32 bits are plenty to draw one of 10,000 buckets by.
    distinct = mix(np.fromiter(map(zlib.crc32, texts), dtype=np.uint64, count=len(texts)) + _STEP)
    return np.append(distinct, np.uint64(0))[coded.indices.fill_null(len(texts)).to_numpy()]
