"""What the statistics of data tell of how a transform graph suits it. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from components.features import Bucketized, Categorical, Feature, Numeric, Tensor

if TYPE_CHECKING:
    from tensorflow_metadata.proto.v0 import statistics_pb2

Column: TypeAlias = "statistics_pb2.FeatureNameStatistics"

# What TFDV counts under one name each: text that is no UTF-8, and very long text.
_NAMELESS = frozenset({"__BYTES_VALUE__", "__LARGE_BYTES__"})
_STANDARD, _QUANTILES = 0, 1  # statistics_pb2.Histogram.HistogramType
Pieces: TypeAlias = tuple[tuple[float, float, float], ...]
"""A histogram: (from, to, share of the values)."""


@dataclass(frozen=True)
class Spread:
    """How the values of a number lie, in the feature's own scale: logarithms, where it takes them.

    Attributes:
        mean, deviation: of its values.
        full: pieces with as many values each.
        wide: pieces as wide as each other.
    """

    mean: float
    deviation: float
    full: Pieces
    wide: Pieces

    @property
    def low(self) -> float:
        return min(low for low, _, _ in self.full)

    @property
    def high(self) -> float:
        return max(high for _, high, _ in self.full)

    def outside(self, low: float, high: float) -> float:
        """The share of the values that are below `low` or above `high` for certain: a lower bound.

        Whole pieces count. How many values of one that lies half outside do cannot be told: the last tenth of
        amounts reaches from the ordinary to the one that is a hundred times as large.
        """
        return max(
            sum(share for a, b, share in pieces if b < low or a > high) for pieces in (self.full, self.wide)
        )


def by_name(statistics: statistics_pb2.DatasetFeatureStatistics) -> dict[str, Column]:
    """Column -> its statistics."""
    return {".".join(column.path.step): column for column in statistics.features}


def spread(feature: Feature, columns: Mapping[str, Column]) -> Spread | None:
    """How the values of a number lie, those of all columns of a tensor together.

    Mean and deviation are exact; of a logarithm, and of integers that the schema calls categorical, they are
    those of the histogram that TFDV keeps (deciles, and the most frequent 1,000 values).

    Returns:
        None where the feature is no number, or has no value.
    """
    if not isinstance(feature, Numeric | Bucketized | Tensor):
        return None
    log = isinstance(feature, Numeric) and feature.log
    found = [_column_spread(columns[name], log) for name in feature.columns if name in columns]
    return _pooled([one for one in found if one])


def _column_spread(column: Column, log: bool) -> tuple[float, Spread] | None:
    """How many values a column has, and how they lie."""
    if column.HasField("string_stats"):
        numbers = [(float(term), count) for term, count in _terms(column) if term not in _NAMELESS]
        total, full = _shares([(value, value, count) for value, count in numbers], log)
        return (total, _of_pieces(full, full)) if full else None
    buckets: dict[int, list[tuple[float, float, float]]] = {_QUANTILES: [], _STANDARD: []}
    for histogram in column.num_stats.histograms:
        pieces = ((b.low_value, b.high_value, b.sample_count) for b in histogram.buckets)
        buckets[histogram.type] += [piece for piece in pieces if all(map(math.isfinite, piece))]
    (total, full), (_, wide) = (_shares(buckets[kind], log) for kind in (_QUANTILES, _STANDARD))
    if not full:
        return None
    mean, deviation = column.num_stats.mean, column.num_stats.std_dev
    if log or not (math.isfinite(mean) and math.isfinite(deviation)):
        return total, _of_pieces(full, wide)
    return total, Spread(mean, deviation, full, wide)


def _shares(buckets: Sequence[tuple[float, float, float]], log: bool) -> tuple[float, Pieces]:
    """How many values there are, and the pieces in the scale that the graph takes."""
    total = sum(count for _, _, count in buckets)
    if not total:
        return 0.0, ()
    if log:
        buckets = [(math.log1p(max(a, 0.0)), math.log1p(max(b, 0.0)), n) for a, b, n in buckets]
    return total, tuple((a, b, n / total) for a, b, n in buckets)


def _of_pieces(full: Pieces, wide: Pieces) -> Spread:
    """Mean and deviation as if values lay evenly within a piece."""
    mean = sum(share * (a + b) / 2 for a, b, share in full)
    square = sum(share * (a * a + a * b + b * b) / 3 for a, b, share in full)
    return Spread(mean, math.sqrt(max(square - mean * mean, 0.0)), full, wide)


def _pooled(found: Sequence[tuple[float, Spread]]) -> Spread | None:
    total = sum(count for count, _ in found)
    if not total:
        return None
    mean = sum(count * one.mean for count, one in found) / total
    variance = sum(count * (one.deviation**2 + (one.mean - mean) ** 2) for count, one in found) / total
    full, wide = (
        tuple((a, b, share * count / total) for count, one in found for a, b, share in getattr(one, kind))
        for kind in ("full", "wide")
    )
    return Spread(mean, math.sqrt(variance), full, wide)


def oov_share(feature: Feature, columns: Mapping[str, Column], terms: Container[str]) -> float | None:
    """The share of a category's values that are not among the terms.

    Only of what TFDV lists: the 1,000 most frequent values of a column of text, or of integers that the
    schema calls categorical. What of a column is missing does not count.

    Returns:
        None where nothing can be told: of another feature, of words and of lists in one text, whose parts
        the statistics do not have, and where there is no value.
    """
    if not isinstance(feature, Categorical) or feature.separator or feature.column not in columns:
        return None
    counts = list(_terms(columns[feature.column]))
    total = sum(count for _, count in counts)
    return sum(count for term, count in counts if term not in terms) / total if total else None


def unknown(name: str, columns: Mapping[str, Column], terms: Container[str]) -> list[str]:
    """The values of a column that are not among the terms, most frequent first."""
    return [term for term, _ in _terms(columns[name]) if term not in terms] if name in columns else []


def _terms(column: Column) -> Iterable[tuple[str, float]]:
    for bucket in column.string_stats.rank_histogram.buckets:
        yield bucket.label, bucket.sample_count
