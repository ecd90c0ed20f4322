"""Carrying an axis of a variable over by its keys: pure arithmetic on arrays.

Most axes of a variable mean something: the rows of a table are terms, buckets or values, the rows of a
first layer's kernel are what comes out of the features, the columns of an output layer are classes. Where
the same key is, the same numbers go, wherever it stands in the new model. A `Move` says so for one axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NEW_CLASS_SHARE = 100.0
"""A new class begins with about one in so many."""


@dataclass(frozen=True)
class Move:
    """From the entries of an old axis to those of a new one: new[to[i]] += weight[i] * old[of[i]].

    Attributes:
        size, old_size: entries of the new and of the old axis.
        to, of: int64 [n].
        weight: float64 [n]; those of one new entry add up to 1.
        kept: bool [size]: whether the champion knew the key itself, or the new entry only borrows.
        mean_of: old entries whose mean the entries start from that nothing else moves to; None: they start
            anew.
    """

    size: int
    old_size: int
    to: np.ndarray
    of: np.ndarray
    weight: np.ndarray
    kept: np.ndarray
    mean_of: np.ndarray | None = None

    @property
    def filled(self) -> np.ndarray:
        """Which entries of the new axis start from old ones; bool [size]."""
        filled = np.zeros(self.size, bool)
        filled[self.to] = True
        return filled | (self.mean_of is not None and len(self.mean_of) > 0)

    def apply(self, old: np.ndarray, axis: int) -> np.ndarray:
        """An array along one of its axes; 0 where nothing moves to. float64."""
        rows = np.moveaxis(np.asarray(old, np.float64), axis, 0)
        out = np.zeros((self.size, *rows.shape[1:]))
        weight = self.weight.reshape(-1, *[1] * (rows.ndim - 1))
        np.add.at(out, self.to, weight * rows[self.of])
        if self.mean_of is not None and len(self.mean_of):
            alone = np.ones(self.size, bool)
            alone[self.to] = False
            out[alone] = rows[self.mean_of].mean(axis=0)
        return np.moveaxis(out, 0, axis)


def gather(
    sources: Sequence[int], old_size: int, kept: np.ndarray | None = None, mean_of: np.ndarray | None = None
) -> Move:
    """Every new entry starts from one old one, or, where its source is -1, from none."""
    of = np.asarray(sources, np.int64)
    to = np.flatnonzero(of >= 0)
    known = of >= 0 if kept is None else kept
    return Move(len(of), old_size, to, of[to], np.ones(len(to)), known, mean_of)


def by_key(old: Sequence[Hashable], new: Sequence[Hashable]) -> Move:
    """Equal keys.

    >>> by_key(["a", "b"], ["b", "c"]).apply(np.array([1.0, 2.0]), axis=0)
    array([2., 0.])
    """
    place = {key: i for i, key in enumerate(old)}
    return gather([place.get(key, -1) for key in new], len(old))


def by_term(
    old: Sequence[Hashable],
    old_buckets: int,
    new: Sequence[Hashable],
    new_buckets: int,
    bucket_of: Callable[[Sequence[Hashable]], np.ndarray],
    new_terms: str = "oov",
) -> Move:
    """The rows of a vocabulary: terms, and behind them the buckets of what is out of vocabulary.

    Args:
        old, new: terms in the order of their rows.
        old_buckets, new_buckets: out-of-vocabulary buckets.
        bucket_of: terms -> the old bucket of each, 0 to old_buckets - 1.
        new_terms: what the row of a term starts from that the champion does not know: `oov`, the bucket
            that it was served from; `mean`, the mean of the known terms' rows; `random`, nothing.

    >>> move = by_term(["a", "b"], 1, ["b", "c", "a"], 1, lambda terms: np.zeros(len(terms), int))
    >>> move.of
    array([1, 2, 0, 2])
    """
    place = {term: row for row, term in enumerate(old)}
    sources = np.asarray([place.get(term, -1) for term in new], np.int64)
    buckets = [len(old) + i % old_buckets for i in range(new_buckets)]
    kept = np.concatenate([sources >= 0, np.ones(new_buckets, bool)])
    unknown = [term for term in new if term not in place]
    if new_terms == "oov" and unknown:
        sources[sources < 0] = len(old) + np.asarray(bucket_of(unknown), np.int64)
    known_terms = np.arange(len(old)) if new_terms == "mean" else None
    return gather([*sources, *buckets], len(old) + old_buckets, kept, known_terms)


def by_mass(old: Sequence[float], old_buckets: int, new: Sequence[float], new_buckets: int) -> Move:
    """The rows of buckets: each starts from the old ones by their shares of its examples.

    Boundaries are quantiles, so the examples on which the old ones were fitted are equally many in each of
    their buckets. Between two boundaries they are taken as spread evenly; below the first and above the
    last as falling off exponentially, at the mean width of a bucket. A boundary that is there several times
    stands for a value that fills several buckets, all of which is in the bucket that begins with it.

    Args:
        old, new: boundaries, ascending; a value equal to a boundary is in the bucket above it.
        old_buckets, new_buckets: buckets; behind them is the row for missing values.
    """
    before, now = (np.asarray(boundaries, np.float64) for boundaries in (old, new))
    edges = np.unique(np.concatenate([before, now]))
    below = np.concatenate([[0.0], [_share_below(before, edge) for edge in edges], [1.0]])
    left = np.concatenate([[-np.inf], edges])  # each piece of the line lies in one old and one new bucket
    of, to = (np.searchsorted(boundaries, left, side="right") for boundaries in (before, now))
    weight = np.diff(below)
    total = np.zeros(new_buckets)
    np.add.at(total, to, weight)
    count = np.bincount(to, minlength=new_buckets)
    # Far out in a tail no mass is left to compare.
    weight = np.divide(weight, total[to], out=1.0 / count[to], where=total[to] > 0)
    # No value falls into a bucket between two equal boundaries.
    idle = np.setdiff1d(np.arange(new_buckets), to)
    start = now[np.minimum(idle, len(now)) - 1] if len(now) else np.zeros(len(idle))
    to = np.concatenate([to, idle, [new_buckets]])
    of = np.concatenate([of, np.searchsorted(before, start, side="right"), [old_buckets]])
    weight = np.concatenate([weight, np.ones(len(idle) + 1)])
    return Move(new_buckets + 1, old_buckets + 1, to, of, weight, np.ones(new_buckets + 1, bool))


def _share_below(boundaries: np.ndarray, value: float) -> float:
    """The share of examples smaller than a value, by the quantiles of all."""
    if not len(boundaries):
        return 0.5
    points, first, times = np.unique(boundaries, return_index=True, return_counts=True)
    buckets = len(boundaries) + 1
    smaller, smaller_or_equal = (first + 1) / buckets, (first + times) / buckets
    width = (points[-1] - points[0]) / (len(points) - 1) if len(points) > 1 else abs(points[0]) or 1.0
    if value <= points[0]:
        return float(smaller[0] * math.exp((value - points[0]) / width))
    if value > points[-1]:
        return float(1 - (1 - smaller_or_equal[-1]) * math.exp((points[-1] - value) / width))
    right = int(np.searchsorted(points, value))  # points[right - 1] < value <= points[right]
    part = (value - points[right - 1]) / (points[right] - points[right - 1])
    return float(smaller_or_equal[right - 1] + part * (smaller[right] - smaller_or_equal[right - 1]))


@dataclass(frozen=True)
class Fold:
    """What a refit changed about the numbers that a layer takes: old z = ratio * new z + shift.

    With z = (v - mean) / scale before and (v - mean') / scale' after, ratio = scale' / scale and
    shift = (mean' - mean) / scale. A value that is missing is z = 0 in both. All by the rows of the new
    kernel [rows, units], to which the old one's have moved already.

    Attributes:
        ratio, shift: 1 and 0 where a row is no number; float64 [rows].
        missing: row of a number -> the row that tells that it is missing.
        features: whose numbers they are, of those that carry over.
    """

    ratio: np.ndarray
    shift: np.ndarray
    missing: Mapping[int, int]
    features: frozenset[str]

    def weights(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Kernel and bias that make of the new numbers what these make of the old ones."""
        folded = kernel * self.ratio[:, None]
        for number, row in self.missing.items():
            folded[row] -= self.shift[number] * kernel[number]
        return folded, bias + self.shift @ kernel

    def slot(self, kernel: np.ndarray, power: int) -> np.ndarray:
        """What is kept of a kernel's gradients, or of their squares (power 2).

        A number that is `ratio` times as small has a gradient that is as small. What the shift does to a
        gradient is left to the steps to come, which replace the slots soon.
        """
        factor = np.zeros_like(self.ratio)
        np.power(self.ratio, -float(power), out=factor, where=self.ratio > 0)
        return kernel * factor[:, None]


def rescaling(old: tuple[float, float], new: tuple[float, float]) -> tuple[float, float]:
    """The ratio and shift of a column, of (mean, scale) before and now.

    A scale of 0 is a column without values that differ, which the graph gives as 0 whatever comes: before,
    its weights had no say, so they begin with none; now, what they say does not matter, and they are kept.

    >>> rescaling((10.0, 2.0), (14.0, 4.0))
    (2.0, 2.0)
    """
    (mean, scale), (new_mean, new_scale) = old, new
    if new_scale == 0 or (mean, scale) == (new_mean, new_scale):
        return 1.0, 0.0
    if scale == 0:
        return 0.0, 0.0
    return new_scale / scale, (new_mean - mean) / scale


def level_of_new(logits: np.ndarray) -> float:
    """The logit that gives a new class about 1 % beside classes of these logits [classes].

    >>> round(level_of_new(np.zeros(100)), 6)
    0.0
    """
    top = float(np.max(logits))
    return top + math.log(float(np.sum(np.exp(logits - top)))) - math.log(NEW_CLASS_SHARE)
