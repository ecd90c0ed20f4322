"""The gate: what a candidate must not have lost to become the champion."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeGuard

Metrics = Mapping[str, Mapping[str, float]]  # slice -> metric -> value
OVERALL = "overall"
EXAMPLE_COUNT = "example_count"

LABEL_VARIANCE = "label_variance"
_OURS = "components.evaluate.metrics."


@dataclass(frozen=True)
class Metric:
    """A metric that a gate may ask for.

    Attributes:
        classes: task -> its class, TFMA's or Keras' by name, or ours with its module; only of the tasks
            that have it.
        more_is_better: False for a loss.
        compares_labels: it needs labels that differ: an AUC both classes, R2 a variance.
    """

    classes: Mapping[str, str]
    more_is_better: bool = True
    compares_labels: bool = False

    @property
    def tasks(self) -> frozenset[str]:
        return frozenset(self.classes)


SETTINGS = ("min_value", "max_drop", "max_past_drop", "max_slice_drop", "relative")
"""Of a metric's gate; see `judge`."""
METRICS: Mapping[str, Metric] = {
    "auc": Metric({"binary": "AUC"}, compares_labels=True),
    "pr_auc": Metric({"binary": "AUCPrecisionRecall"}, compares_labels=True),
    "accuracy": Metric({"binary": "BinaryAccuracy", "multiclass": f"{_OURS}MulticlassAccuracy"}),
    "balanced_accuracy": Metric({"multiclass": f"{_OURS}MulticlassBalancedAccuracy"}),
    "log_loss": Metric(
        {"binary": "BinaryCrossentropy", "multiclass": f"{_OURS}MulticlassLogLoss"}, more_is_better=False
    ),
    "r2": Metric({"regression": f"{_OURS}RegressionR2"}, compares_labels=True),
    "mae": Metric({"regression": f"{_OURS}RegressionMAE"}, more_is_better=False),
    "rmse": Metric({"regression": f"{_OURS}RegressionRMSE"}, more_is_better=False),
}


def measured(task: str, metrics: Iterable[str]) -> dict[str, str]:
    """Metric -> its class: those asked for, and what `only_defined` needs to know of the labels."""
    classes = {name: METRICS[name].classes[task] for name in metrics}
    if any(METRICS[name].compares_labels for name in classes):
        classes[LABEL_VARIANCE] = f"{_OURS}LabelVariance"
    return classes


def only_defined(values: Mapping[str, float]) -> dict[str, float]:
    """The metrics of one slice without those that its labels leave undefined."""
    return {
        name: value
        for name, value in values.items()
        if not (name in METRICS and METRICS[name].compares_labels and _labels_agree(values))
    }


def _labels_agree(values: Mapping[str, float]) -> bool:
    # A variance that is missing or NaN is no agreement: what was not measured shall fail.
    return values.get(LABEL_VARIANCE) == 0.0


Outcome = Literal["passed", "failed", "not judged"]


@dataclass(frozen=True)
class Check:
    """One comparison that the gate made.

    Attributes:
        gate: the setting that asked for it, such as `max_past_drop`.
        metric: its name.
        slice: `overall`, or `column=value`.
        candidate, champion: the two values; None where there is none.
        limit: what the setting says.
        examples: how many the values were measured on.
        outcome: `not judged` only where there were too few examples to, or all had the same label. A past
            span always has held-out examples, so one that was not measured has failed.
        relative: the limit is a share of the champion's value.
    """

    gate: str
    metric: str
    slice: str
    candidate: float | None
    champion: float | None
    limit: float
    examples: int
    outcome: Outcome
    relative: bool = False

    @property
    def fall(self) -> float | None:
        """How much worse the candidate is than the champion, in the metric's unit; negative: better."""
        if not _known(self.candidate) or not _known(self.champion):
            return None
        return _fall(self.metric, self.candidate, self.champion)

    def describe(self) -> str:
        """One line for a person, such as `auc on span=3 went from 0.933 to 0.871 (max_past_drop 0.05)`."""
        limit = f"{self.gate} {self.limit * 100:.4g} %" if self.relative else f"{self.gate} {self.limit:g}"
        if not _known(self.candidate):
            return f"{self.metric} on {self.slice} could not be measured ({limit})"
        if self.gate == "min_value":
            value, required = _shown(self.candidate, self.limit)
            return f"{self.metric} on {self.slice} is {value}, required {required} (min_value)"
        if not _known(self.champion):
            return f"{self.metric} of the champion on {self.slice} could not be measured ({self.gate})"
        before, now = _shown(self.champion, self.candidate)
        moved = f"{self.metric} on {self.slice} went from {before} to {now}"
        if self.relative and self.champion:
            share = _fall(self.metric, self.candidate, self.champion) / abs(self.champion)
            moved += f", {abs(share) * 100:.4g} % {'worse' if share > 0 else 'better'}"
        return f"{moved} ({limit})"


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _fall(metric: str, candidate: float, champion: float) -> float:
    return champion - candidate if METRICS[metric].more_is_better else candidate - champion


def _shown(*values: float) -> list[str]:
    """Four significant digits, or as many as tell the values apart, and every digit before the point."""
    for digits in range(4, 18):
        texts = [f"{value:.{max(digits, len(str(int(abs(value)))))}g}" for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts


@dataclass(frozen=True)
class Verdict:
    """What the gate found, with the numbers that decided.

    Attributes:
        blessed: the candidate may be served.
        reasons: one line a failed check; what was passed, where all were.
        checks: every comparison made.
    """

    blessed: bool
    reasons: list[str]
    checks: list[Check]

    def to_json(self) -> dict[str, Any]:
        return {
            "blessed": self.blessed,
            "reasons": self.reasons,
            "checks": [asdict(check) | {"fall": check.fall} for check in self.checks],
        }


def span_slice(span: int) -> str:
    """The name of the slice of one span."""
    return f"span={span}"


def judge(
    candidate: Metrics,
    champion: Metrics | None,
    gates: Mapping[str, Mapping[str, Any]],
    new_spans: Iterable[int],
    past_spans: Iterable[int],
    min_examples: int,
) -> Verdict:
    """Compares a candidate with the champion. Whatever is required and missing fails.

    Args:
        candidate, champion: the metrics of the two on the same examples; no champion: a cold start,
            where only `min_value` can be asked for.
        gates: metric -> limits, each of which may be None: `min_value` (on each new span; for a
            loss the largest value), `max_drop` (on each new span), `max_past_drop` (on each past
            span), `max_slice_drop` (on each configured slice). Drops are positive numbers, and where
            `relative` is true, shares of the champion's value.
        new_spans, past_spans: the spans whose slices are expected.
        min_examples: a slice with fewer is not judged.

    Returns:
        The verdict, with at least one check that was judged if it is blessed.
    """
    new, past = [span_slice(s) for s in new_spans], [span_slice(s) for s in past_spans]
    others = sorted(s for s in candidate if s != OVERALL and s not in new and s not in past)
    checks: list[Check] = []
    for metric, limits in gates.items():
        asked = {"min_value": new}
        if champion is not None:
            asked |= {"max_drop": [OVERALL, *new], "max_past_drop": past, "max_slice_drop": others}
        for gate, names in asked.items():
            if limits.get(gate) is not None:
                relative = gate != "min_value" and bool(limits.get("relative"))
                judged = _Gate(gate, metric, limits[gate], relative, min_examples)
                checks += [judged.check(name, candidate, champion or {}) for name in names]
    failed = [c.describe() for c in checks if c.outcome == "failed"]
    passed = [c for c in checks if c.outcome == "passed"]
    if not failed and not passed:
        return Verdict(False, [_nothing_judged(checks, min_examples)], checks)
    return Verdict(not failed, failed or [f"all {len(passed)} checks passed"], checks)


def _nothing_judged(checks: Sequence[Check], min_examples: int) -> str:
    if not checks:
        return "no gate applies: set at least one metric's min_value under gates.metrics"
    return (
        f"every slice has fewer held-out examples than gates.min_examples = {min_examples} "
        f"(the largest has {max(c.examples for c in checks)}), so nothing could be judged"
    )


@dataclass(frozen=True)
class _Gate:
    """One limit of one metric."""

    gate: str
    metric: str
    limit: float
    relative: bool
    min_examples: int

    def check(self, name: str, candidate: Metrics, champion: Metrics) -> Check:
        values = candidate.get(name, {})
        mine, base = values.get(self.metric), champion.get(name, {}).get(self.metric)
        examples = int(values.get(EXAMPLE_COUNT, 0))
        agree = METRICS[self.metric].compares_labels and _labels_agree(values)
        lost = self.gate == "max_past_drop" and name not in candidate
        outcome: Outcome
        if (examples < self.min_examples and not lost) or (agree and self.gate != "min_value"):
            outcome = "not judged"
        else:
            outcome = "passed" if self._passes(mine, base) else "failed"
        return Check(self.gate, self.metric, name, mine, base, self.limit, examples, outcome, self.relative)

    def _passes(self, mine: float | None, base: float | None) -> bool:
        if not _known(mine):
            return False
        if self.gate == "min_value":
            return _fall(self.metric, mine, self.limit) <= 0.0
        if not _known(base):
            return False
        scale = abs(base) if self.relative else 1.0
        return _fall(self.metric, mine, base) <= (self.limit + 1e-9) * scale
