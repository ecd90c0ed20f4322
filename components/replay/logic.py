"""Exact samples of everything learned so far, that a fold can carry along.

Every example has a random key, a function of its id and a seed. A sample is the examples with the k smallest
keys (bottom-k sampling: Cohen and Kaplan, 2007). Because a key never changes, the bottom k of everything is
the bottom k of (the bottom k of what came before, and what is new), so a version's buffer follows from its
parent's buffer and the new rows alone.

A sample may be made of groups, each a bottom-k sample of its own with the same k, the level: as much as fits,
by water-filling, so what a small group leaves free goes to the others. With more rows the level can only
fall, so this is a fold, too.

The largest key that may be in a group's sample, its threshold, goes with it. Rows at or above it were dropped
once, and stay out for good even when the capacity is raised later: otherwise rows of old spans would be rarer
in the sample than rows of new ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import islice, pairwise
from typing import Any

import numpy as np

from components.errors import RetrainError

EVERYTHING = 2**64  # the threshold below which every key is
SCHEMES = ("reservoir", "balanced", "recency", "per_span")
ONE_GROUP = "0"
_STEP = 0x9E3779B97F4A7C15
_SIGN = np.uint64(2**63)

Group = str


def sample_keys(ids: np.ndarray, seed: int) -> np.ndarray:
    """A uniformly distributed key for every example id.

    Args:
        ids: int64, any shape.
        seed: of the sample; two seeds give independent samples.

    Returns:
        uint64 of the same shape (SplitMix64's finalizer: Steele et al., 2014).
    """
    with np.errstate(over="ignore"):
        x = ids.astype(np.uint64) + np.uint64((seed + 1) * _STEP % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        return x ^ (x >> np.uint64(31))


def decayed_keys(keys: np.ndarray, spans: np.ndarray, half_life: float) -> np.ndarray:
    """Keys whose smallest are a sample without replacement by weights that decay with a span's age.

    An example's weight is 2^(span / half_life): forward decay (Cormode et al., 2009), where the weight never
    changes and time only makes newer ones larger. The smallest of E / weight, with E from the exponential
    distribution, are the weighted sample (Efraimidis and Spirakis, 2006); we take its logarithm, which a
    weight of 2^100,000 does not overflow.

    Args:
        keys: uint64 [n], uniform.
        spans: int64 [n].
        half_life: in spans' numbers, above 0.

    Returns:
        uint64 [n] in the order of log E - span ln 2 / half_life; among rows of one span, that of `keys`.
    """
    uniform = (keys.astype(np.float64) + 0.5) * 2.0**-64  # small keys, those that are kept, to full precision
    with np.errstate(divide="ignore"):  # the largest round to 1: an infinite E, which is dropped first
        exponential = -np.log1p(-uniform)
    return _in_order(np.log(exponential) - spans * (math.log(2) / half_life))


def _in_order(numbers: np.ndarray) -> np.ndarray:
    """float64 -> uint64 of the same order: IEEE 754 bits with the sign flipped, or all of a negative."""
    bits = (numbers + 0.0).view(np.uint64)  # -0.0 is 0.0
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


@dataclass(frozen=True)
class Scheme:
    """What a sample is a sample of.

    Attributes:
        name: `reservoir`: uniform over all examples; `balanced`: each combination of the values of `by` is a
            group; `per_span`: each span is one; `recency`: newer examples are more likely.
        by: columns, of `balanced`.
        half_life: of `recency`: so many spans later, an example is half as likely to be kept.
    """

    name: str
    by: tuple[str, ...] = ()
    half_life: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SCHEMES:
            raise RetrainError(f"scheme: got {self.name!r}, expected one of {', '.join(SCHEMES)}")
        if (self.name == "balanced") != bool(self.by):
            raise RetrainError(
                f"by: got {list(self.by)} for the scheme {self.name}, required are columns for balanced only"
            )
        if self.name == "recency" and not self.half_life > 0:
            raise RetrainError(f"half_life: got {self.half_life}, required is more than 0")

    @classmethod
    def of(cls, name: str, by: Sequence[str], half_life: float) -> Scheme:
        """Takes of the settings what matters to the scheme."""
        return cls(name, tuple(by) if name == "balanced" else (), half_life if name == "recency" else 0.0)

    @classmethod
    def from_json(cls, known: Mapping[str, Any]) -> Scheme:
        """The other direction of `to_json`."""
        return cls(known["name"], tuple(known.get("by", ())), known.get("half_life", 0.0))

    def to_json(self) -> dict[str, Any]:
        """Plain data; what the scheme does not have is left out."""
        settings = {"by": list(self.by), "half_life": self.half_life}
        return {"name": self.name, **{name: value for name, value in settings.items() if value}}

    def ranks(self, keys: np.ndarray, spans: np.ndarray) -> np.ndarray:
        """What the smallest are kept of: uint64 [n]."""
        return decayed_keys(keys, spans, self.half_life) if self.name == "recency" else keys

    def groups(self, spans: np.ndarray, columns: Sequence[Sequence[Any]]) -> tuple[list[Group], np.ndarray]:
        """The names of the groups, and which of them each row is in.

        Args:
            spans: int64 [n].
            columns: of every column of `by`, a list of values (or None) for each of the n rows.

        Returns:
            Names, and their indices, int64 [n].
        """
        if self.name == "per_span":
            distinct, index = np.unique(spans, return_inverse=True)
            return [str(span) for span in distinct.tolist()], index
        if self.name != "balanced":
            return [ONE_GROUP], np.zeros(len(spans), np.int64)
        places: dict[Any, int] = {}
        index = np.fromiter(
            (places.setdefault(row, len(places)) for row in zip(*map(_hashable, columns), strict=True)),
            np.int64,
            len(spans),
        )
        return [_name(row) for row in places], index


def _hashable(values: Sequence[Any]) -> Iterable[tuple[Any, ...]]:
    return (tuple(value) if value else () for value in values)


def _name(row: tuple[tuple[Any, ...], ...]) -> Group:
    """The values of one group as JSON: null where missing, a list where there are several.

    >>> _name(((b"cash",), (), (1, 2)))
    '["cash", null, [1, 2]]'
    """

    def plain(value: Any) -> Any:
        return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value

    columns = [[plain(value) for value in values] for values in row]
    return json.dumps(
        [values[0] if len(values) == 1 else values or None for values in columns], ensure_ascii=False
    )


def judged_spans(spans: Collection[int], most: int, seed: int) -> frozenset[int]:
    """Of which spans held-out examples are kept, where there are more than can have enough to be judged by.

    The newer half of them are the newest spans. The others are a uniform sample of all that are older, those
    with the smallest keys, so that what one run leaves out no later one would have kept.

    Args:
        spans: their numbers.
        most: how many may be kept, at least 1.
        seed: of the sample.

    >>> sorted(judged_spans(range(1, 101), most=8, seed=0))[-4:]
    [97, 98, 99, 100]
    """
    newest = sorted(spans)[-((most + 1) // 2) :]
    older = np.asarray(sorted(set(spans).difference(newest)), np.int64)
    chosen = older[np.argsort(sample_keys(older, seed), kind="stable")[: most - len(newest)]]
    return frozenset([*newest, *chosen.tolist()])


@dataclass(frozen=True)
class Quota:
    """How much a sample may hold.

    Attributes:
        capacity: the most examples of all groups together, at least 1.
        of_group: the most of any one group, at least 1; None: no limit of its own.
        before: the level of the sample so far, where it had the same quota. Examples above it are gone, so a
            higher one would be for some groups alone. None: there is no such sample.
    """

    capacity: int
    of_group: int | None = None
    before: int | None = None

    def __post_init__(self) -> None:
        for name, most in {"capacity": self.capacity, "of_group": self.of_group}.items():
            if most is not None and most < 1:
                raise RetrainError(f"{name}: got {most}, required is at least 1")

    def after(self, known: Mapping[str, Any] | None) -> Quota:
        """With the level of a sample so far, given as `to_json` gives it; None: there is none."""
        same = known and (known["capacity"], known["of_group"]) == (self.capacity, self.of_group)
        return replace(self, before=known["level"] if known and same else None)

    def to_json(self, counts: Collection[int]) -> dict[str, Any]:
        """The quota, and its level for these counts, as plain data."""
        return {"capacity": self.capacity, "of_group": self.of_group, "level": self.level(counts)}

    def level(self, counts: Collection[int]) -> int:
        """The largest number of examples that every group that has them can keep, by water-filling.

        It never rises when groups grow or come.

        Args:
            counts: how many each group has.

        >>> Quota(100).level([10, 200, 300]), Quota(100).level([10, 20]), Quota(100, 30).level([10, 200, 300])
        (45, 100, 30)
        """
        most = min(limit for limit in (self.capacity, self.of_group, self.before) if limit is not None)
        room, groups = self.capacity, len(counts)
        for count in sorted(counts):
            share = room // groups
            if count > share:
                return min(share, most)
            room -= min(count, most)
            groups -= 1
        return most


@dataclass(frozen=True)
class Sketch:
    """As much of some rows as a sample needs to know of them; merged, that of all of these rows.

    Attributes:
        counts: group -> how many rows below its threshold so far there are.
        smallest: group -> the smallest of their ranks, uint64, in no order: at least one more than the group
            may keep, where it has as many.
    """

    counts: Mapping[Group, int] = field(default_factory=dict)
    smallest: Mapping[Group, np.ndarray] = field(default_factory=dict)

    def pruned(self, quota: Quota) -> Sketch:
        """Without the ranks that cannot be in the sample, whatever other rows there are.

        Of more groups than could keep one example each only one more is kept: the sample will be refused.
        """
        level = quota.level(self.counts.values())
        if level == 0:
            return Sketch(dict(islice(self.counts.items(), quota.capacity + 1)))
        return Sketch(
            self.counts, {group: smallest(ranks, level + 1) for group, ranks in self.smallest.items()}
        )


def sketch(
    names: Sequence[Group],
    index: np.ndarray,
    ranks: np.ndarray,
    thresholds: Mapping[Group, int],
    quota: Quota,
) -> Sketch:
    """Of some rows.

    Args:
        names, index: as `Scheme.groups` gives them.
        ranks: uint64 [n].
        thresholds: group -> below which its rows count; of one that is not there, all do.
        quota: of the sample.
    """
    mine = dict(zip(names, _by_group(ranks, index, len(names)), strict=True))
    left = {group: of[below(of, thresholds.get(group, EVERYTHING))] for group, of in mine.items()}
    return Sketch({group: len(of) for group, of in left.items()}, left).pruned(quota)


def merge(sketches: Iterable[Sketch], quota: Quota) -> Sketch:
    """Of all rows of some sketches."""

    def add(one: Sketch, other: Sketch) -> Sketch:
        counts, ranks = dict(one.counts), dict(one.smallest)
        for group, count in other.counts.items():
            counts[group] = counts.get(group, 0) + count
        for group, of in other.smallest.items():
            ranks[group] = np.concatenate([ranks[group], of]) if group in ranks else of
        return Sketch(counts, ranks).pruned(quota)

    return reduce(add, sketches, Sketch())


def draw(rows: Sketch, thresholds: Mapping[Group, int], quota: Quota) -> dict[Group, int]:
    """The thresholds of all groups that have rows: what is below it, of its group, is the sample.

    Args:
        rows: the sketch of what was kept before and what is new.
        thresholds: group -> its threshold before, 0 to `EVERYTHING`.
        quota: of the sample.

    Raises:
        RetrainError: there are so many groups that not every one can keep an example.
    """
    level = quota.level(rows.counts.values())
    if level == 0:
        some = ", ".join(sorted(rows.counts)[:3])
        raise RetrainError(
            f"replay: got more than {quota.capacity} groups ({some}, ...), required is an example for "
            f"each in a capacity of {quota.capacity}; raise it, or balance by columns of few values"
        )
    return {
        group: int(np.partition(rows.smallest[group], level)[level])
        if count > level
        else thresholds.get(group, EVERYTHING)
        for group, count in rows.counts.items()
    }


def keep(
    names: Sequence[Group], index: np.ndarray, ranks: np.ndarray, thresholds: Mapping[Group, int]
) -> np.ndarray:
    """Which rows are in the sample of their group: bool [n]; arguments as of `sketch`."""
    # The largest rank in the sample: a threshold of 2^64 is no uint64. Below a threshold of 0 there is none.
    of = [thresholds[group] for group in names]
    last = np.array([max(threshold - 1, 0) for threshold in of], np.uint64)
    some = np.array([threshold > 0 for threshold in of], bool)
    return np.asarray((ranks <= last[index]) & some[index])


def below(ranks: np.ndarray, threshold: int) -> np.ndarray:
    """Which ranks are in a sample: bool, of the same shape."""
    return ranks <= np.uint64(threshold - 1) if threshold > 0 else np.zeros(ranks.shape, bool)


def smallest(ranks: np.ndarray, count: int) -> np.ndarray:
    """The `count` smallest ranks, in no order; all of them where there are fewer."""
    return ranks if len(ranks) <= count else np.partition(ranks, count - 1)[:count]


def _by_group(values: np.ndarray, index: np.ndarray, groups: int) -> list[np.ndarray]:
    """The values of each group."""
    order = np.argsort(index, kind="stable")
    bounds = np.searchsorted(index[order], np.arange(groups + 1))
    return [values[order[begin:end]] for begin, end in pairwise(bounds)]
