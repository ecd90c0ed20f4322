"""The gate: what a candidate must not have lost to become the champion."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Metrics = Mapping[str, Mapping[str, float]]  # slice -> metric -> value
OVERALL = "overall"
EXAMPLE_COUNT = "example_count"

MEAN_LABEL = "mean_label"


@dataclass(frozen=True)
class Metric:
    """A metric that a gate may ask for.

    Attributes:
        tfma_class: its class in TFMA.
        more_is_better: False for a loss.
        ranks: it compares positives with negatives, so it needs both.
    """

    tfma_class: str
    more_is_better: bool = True
    ranks: bool = False


LIMITS = ("min_value", "max_drop", "max_past_drop", "max_slice_drop")
METRICS: Mapping[str, Metric] = {
    "auc": Metric("AUC", ranks=True),
    "pr_auc": Metric("AUCPrecisionRecall", ranks=True),
    "accuracy": Metric("BinaryAccuracy"),
    "log_loss": Metric("BinaryCrossentropy", more_is_better=False),
}


def only_defined(values: Mapping[str, float]) -> dict[str, float]:
    """The metrics of one slice without those that its labels leave undefined."""
    one_class = values.get(MEAN_LABEL) in (0.0, 1.0)
    return {
        name: v for name, v in values.items() if not (one_class and name in METRICS and METRICS[name].ranks)
    }


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
    """

    gate: str
    metric: str
    slice: str
    candidate: float | None
    champion: float | None
    limit: float
    examples: int
    outcome: Outcome

    def describe(self) -> str:
        """One line for a person, such as `auc on span=3 fell by 0.062 to 0.871 (max_past_drop 0.05)`."""
        if self.candidate is None or not math.isfinite(self.candidate):
            return f"{self.metric} on {self.slice} could not be measured ({self.gate} {self.limit:g})"
        if self.gate == "min_value":
            return (
                f"{self.metric} on {self.slice} is {self.candidate:.3f}, required {self.limit:g} (min_value)"
            )
        if self.champion is None or not math.isfinite(self.champion):
            return f"{self.metric} of the champion on {self.slice} could not be measured ({self.gate})"
        return (
            f"{self.metric} on {self.slice} went from {self.champion:.3f} to {self.candidate:.3f} "
            f"({self.gate} {self.limit:g})"
        )


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
            "checks": [asdict(check) for check in self.checks],
        }


def span_slice(span: int) -> str:
    """The name of the slice of one span."""
    return f"span={span}"


def judge(
    candidate: Metrics,
    champion: Metrics | None,
    gates: Mapping[str, Mapping[str, float | None]],
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
            span), `max_slice_drop` (on each configured slice). Drops are positive numbers.
        new_spans, past_spans: the spans whose slices are expected.
        min_examples: a slice with fewer is not judged.

    Returns:
        The verdict, with at least one check that was judged if it is blessed.
    """
    new, past = [span_slice(s) for s in new_spans], [span_slice(s) for s in past_spans]
    others = sorted(s for s in candidate if s != OVERALL and s not in new and s not in past)
    checks: list[Check] = []
    for metric, limits in gates.items():
        judged = _Judge(candidate, champion, metric, min_examples, checks)
        judged.minimum("min_value", limits.get("min_value"), new)
        if champion is not None:
            judged.drop("max_drop", limits.get("max_drop"), [OVERALL, *new])
            judged.drop("max_past_drop", limits.get("max_past_drop"), past)
            judged.drop("max_slice_drop", limits.get("max_slice_drop"), others)
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


class _Judge:
    def __init__(
        self,
        candidate: Metrics,
        champion: Metrics | None,
        metric: str,
        min_examples: int,
        checks: list[Check],
    ) -> None:
        self.candidate, self.champion = candidate, champion or {}
        self.metric, self.min_examples, self.checks = metric, min_examples, checks
        self.sign = 1.0 if METRICS[metric].more_is_better else -1.0

    def minimum(self, gate: str, limit: float | None, slices: Iterable[str]) -> None:
        if limit is not None:
            for name in slices:
                self._add(gate, limit, name, lambda mine, _: self.sign * (mine - limit) >= 0)

    def drop(self, gate: str, limit: float | None, slices: Iterable[str]) -> None:
        if limit is not None:
            for name in slices:
                self._add(gate, limit, name, lambda mine, base: self.sign * (base - mine) <= limit + 1e-9)

    def _add(self, gate: str, limit: float, name: str, passes: Any) -> None:
        examples = int(self.candidate.get(name, {}).get(EXAMPLE_COUNT, 0))
        mine = self.candidate.get(name, {}).get(self.metric)
        base = self.champion.get(name, {}).get(self.metric)
        needed = [mine] if gate == "min_value" else [mine, base]
        outcome: Outcome
        one_class = METRICS[self.metric].ranks and self.candidate.get(name, {}).get(MEAN_LABEL) in (0.0, 1.0)
        lost = gate == "max_past_drop" and name not in self.candidate
        if (examples < self.min_examples and not lost) or (one_class and gate != "min_value"):
            outcome = "not judged"
        elif any(value is None or not math.isfinite(value) for value in needed):
            outcome = "failed"
        else:
            outcome = "passed" if passes(mine, base) else "failed"
        self.checks.append(Check(gate, self.metric, name, mine, base, limit, examples, outcome))
