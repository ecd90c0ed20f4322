"""How far what is asked of a model lies from what it learned: training-serving skew.

A feature is measured by its `skew_comparator` in the schema; one that has none by its `drift_comparator`,
which says how far ordinary data moves. One with neither is not compared. TFDV measures the distances:
L-infinity of categories, Jensen-Shannon divergence (base 2) of numbers, both 0 to 1.

TFDV spreads numbers over ten bins of equal width between their smallest and their largest. Two such
histograms with different ends are far apart although the distribution is one: measured were 0.1 to 0.5 for
heavy tails, however many rows. So what was asked is cut off at the ends of what was learned, which are added
to it, and both have the same bins. A change within one bin is not seen: of a heavy-tailed number most lie in
the first.

Few rows are far from anything by chance alone. A feature is skewed only where its distance exceeds the
threshold by more than that, for n values asked and m learned, in about 99.9 % of all cases:

- L-infinity: 3/2 sqrt(1/n + 1/m), three standard errors of a share of a half;
- Jensen-Shannon: of the same distribution in k bins it is distributed as chi-squared(k - 1) / (8 ln 2), times
  1/n + 1/m (Grosse et al., Analysis of symbolic sequences using the Jensen-Shannon divergence, 2002); with
  ten bins that is 5 (1/n + 1/m).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

_MEASURES = {
    anomalies_pb2.DriftSkewInfo.Measurement.L_INFTY: "linf",
    anomalies_pb2.DriftSkewInfo.Measurement.JENSEN_SHANNON_DIVERGENCE: "jsd",
}


@dataclass(frozen=True)
class Skew:
    """How far one feature lies from what was learned.

    Attributes:
        feature: its name.
        measure: `linf` or `jsd`.
        value: the distance, 0 to 1.
        error: what chance alone can add to it.
        threshold: the largest distance that is no skew.
    """

    feature: str
    measure: str
    value: float
    error: float
    threshold: float

    @property
    def skewed(self) -> bool:
        return self.value - self.error > self.threshold

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"skewed": self.skewed}


def comparators(
    schema: schema_pb2.Schema, columns: Collection[str]
) -> dict[str, schema_pb2.FeatureComparator]:
    """Feature -> by what its skew is measured, of those of the columns that have anything."""
    found = {}
    for feature in schema.feature:
        if feature.name in columns:
            if feature.HasField("skew_comparator"):
                found[feature.name] = feature.skew_comparator
            elif feature.HasField("drift_comparator"):
                found[feature.name] = feature.drift_comparator
    return found


def with_comparators(
    schema: schema_pb2.Schema, compared: Mapping[str, schema_pb2.FeatureComparator]
) -> schema_pb2.Schema:
    """The schema with these as its `skew_comparator`s, and no others."""
    changed = schema_pb2.Schema()
    changed.CopyFrom(schema)
    for feature in changed.feature:
        feature.ClearField("skew_comparator")
        feature.ClearField("drift_comparator")
        if feature.name in compared:
            feature.skew_comparator.CopyFrom(compared[feature.name])
    return changed


def measure(
    anomalies: anomalies_pb2.Anomalies, asked: Mapping[str, int], learned: Mapping[str, int]
) -> list[Skew]:
    """The skew of every feature that TFDV compared, that with the largest share of its threshold first.

    Args:
        anomalies: of TFDV's validation with serving statistics.
        asked, learned: feature -> how many rows have a value of it.
    """
    found = []
    for info in anomalies.drift_skew_info:
        name = ".".join(info.path.step)
        inverse = 1 / max(asked.get(name, 0), 1) + 1 / max(learned.get(name, 0), 1)
        errors = {"linf": min(1.0, 1.5 * math.sqrt(inverse)), "jsd": min(1.0, 5 * inverse)}
        for measured in info.skew_measurements:
            if measured.type in _MEASURES:
                kind = _MEASURES[measured.type]
                found.append(Skew(name, kind, measured.value, errors[kind], measured.threshold))
    return sorted(found, key=lambda skew: -(skew.value - skew.error) / (skew.threshold or 1.0))


def values(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> dict[str, int]:
    """Feature -> how many rows have a value of it."""
    return {
        ".".join(feature.path.step): int(_of(feature).common_stats.num_non_missing)
        for feature in statistics.datasets[0].features
    }


def ranges(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> dict[str, tuple[float, float]]:
    """Feature -> its smallest and its largest value, of those that are numbers."""
    return {
        ".".join(feature.path.step): (feature.num_stats.min, feature.num_stats.max)
        for feature in statistics.datasets[0].features
        if feature.HasField("num_stats") and feature.num_stats.histograms
    }


def within(values: Sequence[float], ends: tuple[float, float]) -> list[float]:
    """Numbers cut off at both ends, so that they fall into the same bins."""
    return [min(max(value, ends[0]), ends[1]) for value in values]


def _of(feature: Any) -> Any:
    return getattr(feature, feature.WhichOneof("stats"))
