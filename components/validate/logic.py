"""What the anomalies and the drift say, and whether to train on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from components.validate.poison import Measure

Action = Literal["train", "skip", "refuse", "quarantine"]


@dataclass(frozen=True)
class Drift:
    """How far one feature has moved from the champion's reference statistics.

    Attributes:
        feature: its name.
        measure: `linf` (L-infinity) or `jsd` (Jensen-Shannon divergence); empty: not comparable.
        value: the distance, 0 to 1; None where the two could not be compared.
        threshold: the largest distance that is not drift.
    """

    feature: str
    measure: str
    value: float | None
    threshold: float

    @property
    def drifted(self) -> bool:
        return self.value is not None and self.value > self.threshold


@dataclass(frozen=True)
class Decision:
    """Whether to train, and why.

    Attributes:
        action: `train`; `skip`: no reason to; `refuse`: the data must not be learned; `quarantine`: some of
            the spans must not.
        reasons: of the action, for a person.
        drift: of every feature that has a comparator.
        rows: `train` and `eval` examples, and rows in `quarantine`.
        poison: what every span was measured by.
        quarantine: span -> why it must not be learned.
    """

    action: Action
    reasons: list[str]
    drift: list[Drift] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    poison: list[Measure] = field(default_factory=list)
    quarantine: dict[int, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "action": self.action,
            "reasons": self.reasons,
            "drift": [asdict(d) | {"drifted": d.drifted} for d in self.drift],
            "rows": self.rows,
            "poison": [measure.to_json() for measure in self.poison],
            "quarantine": {str(span): why for span, why in self.quarantine.items()},
        }


def comparators(schema: schema_pb2.Schema) -> dict[str, schema_pb2.FeatureComparator]:
    """Feature -> its drift comparator, for every feature of the schema that has one."""
    return {f.name: f.drift_comparator for f in schema.feature if f.HasField("drift_comparator")}


def threshold(comparator: schema_pb2.FeatureComparator) -> tuple[str, float]:
    """The measure of a comparator (`linf` or `jsd`) and its threshold."""
    if comparator.HasField("jensen_shannon_divergence"):
        return "jsd", comparator.jensen_shannon_divergence.threshold
    return "linf", comparator.infinity_norm.threshold


def measure_drift(
    anomalies: anomalies_pb2.Anomalies, expected: Mapping[str, schema_pb2.FeatureComparator]
) -> list[Drift]:
    """The drift of every feature with a comparator, largest share of its threshold first.

    A comparator may ask for both measures; the feature is there with each.
    """
    measures = {
        anomalies_pb2.DriftSkewInfo.Measurement.L_INFTY: "linf",
        anomalies_pb2.DriftSkewInfo.Measurement.JENSEN_SHANNON_DIVERGENCE: "jsd",
    }
    found = [
        Drift(".".join(info.path.step), measures.get(m.type, "other"), m.value, m.threshold)
        for info in anomalies.drift_skew_info
        for m in info.drift_measurements
    ]
    compared = {drift.feature for drift in found}
    found += [
        Drift(name, "", None, threshold(comparator)[1])
        for name, comparator in expected.items()
        if name not in compared
    ]
    return sorted(found, key=lambda d: -((d.value or 0.0) / (d.threshold or 1.0)))


def problems(anomalies: Mapping[str, anomalies_pb2.Anomalies], severity: str) -> list[str]:
    """The anomalies at or above a severity, one line each.

    Args:
        anomalies: split -> what ExampleValidator found.
        severity: `warning` or `error`.
    """
    levels = {"warning": anomalies_pb2.AnomalyInfo.WARNING, "error": anomalies_pb2.AnomalyInfo.ERROR}
    found: dict[str, str] = {}
    for split, report in anomalies.items():
        if report.data_missing:
            found.setdefault("data", f"the {split} split has no examples")
        whole = [("data", report.dataset_anomaly_info)] if report.HasField("dataset_anomaly_info") else []
        for name, info in [*whole, *report.anomaly_info.items()]:
            if info.severity >= levels[severity]:
                found.setdefault(name, f"{name}: {info.short_description.rstrip('.')} ({info.description})")
    return [found[name] for name in sorted(found)]


def decide(
    *,
    cold_start: bool,
    forced: bool,
    on_drift: bool,
    min_rows: int,
    problems: Sequence[str],
    drift: Sequence[Drift],
    rows: Mapping[str, int],
    poison: Sequence[Measure] = (),
    quarantine: Mapping[int, str] = MappingProxyType({}),
) -> Decision:
    """The decision over new data. Refuses before anything else; trains for any one reason.

    Args:
        cold_start: there is no champion.
        forced: a person asked for it.
        on_drift: a drifted feature is a reason.
        min_rows: so many new training examples are a reason.
        problems: anomalies that must not be learned.
        drift: of every comparable feature.
        rows: `train`, `eval` and `quarantine` counts.
        poison: what every span was measured by.
        quarantine: span -> why it must not be learned.
    """

    def decision(action: Action, reasons: list[str]) -> Decision:
        return Decision(action, reasons, list(drift), dict(rows), list(poison), dict(quarantine))

    if problems:
        return decision("refuse", list(problems))
    if rows["train"] == 0:
        return decision("refuse", ["no training example in the new spans"])
    if quarantine:
        aside = [f"span {span} is set aside: {why}" for span, why in quarantine.items()]
        return decision("quarantine", aside)
    reasons = []
    if cold_start:
        reasons.append("cold start: no version is served yet")
    if forced:
        reasons.append("forced")
    drifted = [d for d in drift if d.drifted]
    if on_drift and drifted:
        named = ", ".join(f"{d.feature} {d.value:.3f} > {d.threshold:g} ({d.measure})" for d in drifted)
        reasons.append(f"drift: {named}")
    if rows["train"] >= min_rows:
        reasons.append(f"volume: {rows['train']} new training examples >= {min_rows}")
    if reasons:
        return decision("train", reasons)
    return decision(
        "skip", [f"no drift, and {rows['train']} new training examples < {min_rows} (trigger.min_rows)"]
    )
