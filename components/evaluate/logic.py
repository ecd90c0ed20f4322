"""The gate: what a candidate must not have lost to become the champion."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
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
        ranks: it is a share of the pairs of one example of each class, and noise where one has few.
    """

    classes: Mapping[str, str]
    more_is_better: bool = True
    compares_labels: bool = False
    ranks: bool = False

    @property
    def tasks(self) -> frozenset[str]:
        return frozenset(self.classes)


FORGETTING = ("max_past_drop", "max_forgetting", "min_bwt")
"""The limits of a metric's gate that more replay may keep to."""
SETTINGS = ("min_value", "max_drop", "max_slice_drop", *FORGETTING, "relative")
"""Of a metric's gate; see `judge`."""
PAST_SPANS = "past spans"  # what a check on all of them together is on
LOSS = "loss"  # what a model is trained to make small; measured by the trainer, of the new data's influence
METRICS: Mapping[str, Metric] = {
    "auc": Metric({"binary": f"{_OURS}BinaryAUC"}, compares_labels=True, ranks=True),
    "pr_auc": Metric({"binary": f"{_OURS}BinaryPRAUC"}, compares_labels=True, ranks=True),
    "accuracy": Metric({"binary": "BinaryAccuracy", "multiclass": f"{_OURS}MulticlassAccuracy"}),
    "balanced_accuracy": Metric({"multiclass": f"{_OURS}MulticlassBalancedAccuracy"}),
    "log_loss": Metric(
        {"binary": f"{_OURS}BinaryLogLoss", "multiclass": f"{_OURS}MulticlassLogLoss"}, more_is_better=False
    ),
    "r2": Metric({"regression": f"{_OURS}RegressionR2"}, compares_labels=True),
    "mae": Metric({"regression": f"{_OURS}RegressionMAE"}, more_is_better=False),
    "rmse": Metric({"regression": f"{_OURS}RegressionRMSE"}, more_is_better=False),
}


def measured(task: str, metrics: Iterable[str]) -> dict[str, str]:
    """Metric -> its class: those asked for, and what `only_defined` needs to know of the labels."""
    classes = {name: METRICS[name].classes[task] for name in metrics}
    if any(METRICS[name].compares_labels for name in classes):
        classes[LABEL_VARIANCE] = f"{_OURS}{task.capitalize()}LabelVariance"
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


FEWEST_OF_A_CLASS = 10


def is_noise(metric: str, values: Mapping[str, float]) -> bool:
    """Whether the labels of a slice are too much alike for differences of a metric to mean anything.

    With three positives, one that moves past a tenth of the negatives moves the AUC by 0.03.
    """
    if metric not in METRICS or not METRICS[metric].compares_labels:
        return False
    variance = values.get(LABEL_VARIANCE, math.nan)
    if not METRICS[metric].ranks or not 0.0 <= variance <= 0.25:
        return _labels_agree(values)
    rarer = values.get(EXAMPLE_COUNT, 0.0) * (1 - math.sqrt(1 - 4 * variance)) / 2
    return round(rarer) < FEWEST_OF_A_CLASS


Outcome = Literal["passed", "failed", "not judged"]


@dataclass(frozen=True)
class Check:
    """One comparison that the gate made.

    Attributes:
        gate: the setting that asked for it, such as `max_past_drop`.
        metric: its name.
        slice: `overall`, or `column=value`.
        candidate, champion: the two values; None where there is none. For `max_forgetting`, `champion` is
            the best value of any version in its line; for `min_bwt`, `candidate` is the transfer itself; for
            `max_influence`, they are the loss with the new data and without.
        limit: what the setting says.
        examples: how many the values were measured on.
        outcome: `not judged` only where there were too few examples to, in all or of one class. A past
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
        if not is_known(self.candidate) or not is_known(self.champion):
            return None
        return _fall(self.metric, self.candidate, self.champion)

    def describe(self) -> str:
        """One line for a person, such as `auc on span=3 went from 0.933 to 0.871 (max_past_drop 0.05)`."""
        limit = f"{self.gate} {self.limit * 100:.4g} %" if self.relative else f"{self.gate} {self.limit:g}"
        if self.gate == "min_bwt":
            return self._describe_transfer()
        if not is_known(self.candidate):
            return f"{self.metric} on {self.slice} could not be measured ({limit})"
        if self.gate == "min_value":
            value, required = _shown(self.candidate, self.limit)
            return f"{self.metric} on {self.slice} is {value}, required {required} (min_value)"
        if not is_known(self.champion):
            return f"{self.metric} of the champion on {self.slice} could not be measured ({self.gate})"
        before, now = _shown(self.champion, self.candidate)
        if self.gate == "max_influence":
            return f"{self.metric} on {self.slice} is {now} with the new data, {before} without ({limit})"
        if self.gate == "max_forgetting":
            before = f"{before}, the best of its line,"
        moved = f"{self.metric} on {self.slice} went from {before} to {now}"
        if self.relative and self.champion:
            share = _fall(self.metric, self.candidate, self.champion) / abs(self.champion)
            moved += f", {abs(share) * 100:.4g} % {'worse' if share > 0 else 'better'}"
        return f"{moved} ({limit})"

    def _describe_transfer(self) -> str:
        if not is_known(self.candidate):
            return f"{self.metric} on {self.slice} could not be measured (min_bwt)"
        scale, unit = (100, " %") if self.relative else (1, "")
        value, _ = _shown(abs(self.candidate) * scale, abs(self.limit) * scale)
        side = "worse" if self.candidate < 0 else "better"
        limit = f"min_bwt {self.limit * scale:.4g}{unit}"
        return f"{self.metric} on {self.slice} is {value}{unit} {side} on average than when learned ({limit})"


def is_known(value: float | None) -> TypeGuard[float]:
    """Whether it is a number."""
    return value is not None and math.isfinite(value)


def rise(metric: str, before: float, now: float) -> float:
    """How much better a metric has become, in its unit; negative: worse."""
    return -_fall(metric, now, before)


def _fall(metric: str, candidate: float, champion: float) -> float:
    more_is_better = metric != LOSS and METRICS[metric].more_is_better
    return champion - candidate if more_is_better else candidate - champion


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

    @property
    def only_forgetting(self) -> bool:
        """Whether checks failed, and all that did are about past spans."""
        failed = [check.gate for check in self.checks if check.outcome == "failed"]
        return bool(failed) and all(gate in FORGETTING for gate in failed)

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
    line: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType({}),
    influence: Sequence[Check] = (),
) -> Verdict:
    """Compares a candidate with the champion and its line. Whatever is required and missing fails.

    Args:
        candidate, champion: the metrics of the two on the same examples; no champion: a cold start,
            where only `min_value` can be asked for.
        gates: metric -> limits, each of which may be None: `min_value` (on each new span; for a
            loss the largest value), `max_drop` (on each new span), `max_past_drop` (on each past
            span), `max_forgetting` (on each past span, against the best of the line), `min_bwt` (the mean
            over past spans of what was gained since each was learned), `max_slice_drop` (on each
            configured slice). Drops are positive numbers; where `relative` is true, they and `min_bwt`
            are shares of the value that is compared with.
        new_spans, past_spans: the spans whose slices are expected.
        min_examples: a slice with fewer is not judged.
        line: the champion's row, as `components.evaluate.retention.inherit` gives it.
        influence: the checks of `judge_influence`, which count as the others do.

    Returns:
        The verdict, with at least one check that was judged if it is blessed.
    """
    new, past = [span_slice(s) for s in new_spans], [span_slice(s) for s in past_spans]
    others = sorted(s for s in candidate if s != OVERALL and s not in new and s not in past)
    asked: dict[str, tuple[list[str], Metrics]] = {"min_value": (new, champion or {})}
    if champion is not None:
        asked |= {
            "max_drop": ([OVERALL, *new], champion),
            "max_past_drop": (past, champion),
            "max_forgetting": (past, _part(line, "best")),
            "max_slice_drop": (others, champion),
        }
    checks: list[Check] = []
    for metric, limits in gates.items():
        relative = bool(limits.get("relative"))
        for gate, (names, base) in asked.items():
            if limits.get(gate) is not None:
                limit = _Gate(gate, metric, limits[gate], relative and gate != "min_value", min_examples)
                checks += [limit.check(name, candidate, base) for name in names]
        if limits.get("min_bwt") is not None and past and champion is not None:
            limit = _Gate("min_bwt", metric, limits["min_bwt"], relative, min_examples)
            checks.append(limit.check_transfer(past, candidate, _part(line, "learned")))
    checks += influence
    failed = [c.describe() for c in checks if c.outcome == "failed"]
    passed = [c for c in checks if c.outcome == "passed"]
    if not failed and not passed:
        return Verdict(False, [_nothing_judged(checks, min_examples)], checks)
    return Verdict(not failed, failed or [f"all {len(passed)} checks passed"], checks)


def judge_influence(
    measured: Mapping[str, Mapping[str, Any]], limit: float, min_examples: int
) -> list[Check]:
    """What the new data does to what was known: the candidate against a control that never saw it.

    Args:
        measured: slice -> its loss `with` the new data, `without`, and `examples`, as the trainer writes it.
        limit: the largest rise of the loss, as a share of the loss without.
        min_examples: a slice with fewer is not judged.
    """
    judged = _Gate("max_influence", LOSS, limit, True, min_examples)
    with_it, without = (
        {name: {LOSS: values[side], EXAMPLE_COUNT: values["examples"]} for name, values in measured.items()}
        for side in ("with", "without")
    )
    return [judged.check(name, with_it, without) for name in measured]


def not_measured(gate: str, metric: str, name: str, limit: float) -> Check:
    """The check that fails because there is nothing to judge, although there should be."""
    return Check(gate, metric, name, None, None, limit, 0, "failed", relative=True)


def _part(line: Mapping[str, Mapping[str, Mapping[str, Any]]], name: str) -> Metrics:
    return {of: {metric: entry[name] for metric, entry in entries.items()} for of, entries in line.items()}


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
        lost = self.gate in FORGETTING and name not in candidate
        outcome: Outcome
        noise = self.gate != "min_value" and is_noise(self.metric, values)
        if (examples < self.min_examples and not lost) or noise:
            outcome = "not judged"
        else:
            outcome = "passed" if self._passes(mine, base) else "failed"
        return Check(self.gate, self.metric, name, mine, base, self.limit, examples, outcome, self.relative)

    def check_transfer(self, past: Sequence[str], candidate: Metrics, learned: Metrics) -> Check:
        """The one check on all past spans together; one that should have been measured and was not fails."""
        gains, counts = [], []
        for name in past:
            one = self.check(name, candidate, learned)
            if one.outcome != "not judged":
                gains.append(self._gain(one.candidate, one.champion))
                counts.append(one.examples)
        mean = math.fsum(gains) / len(gains) if gains else None
        outcome: Outcome = "not judged"
        if mean is not None:
            outcome = "passed" if mean >= self.limit - 1e-9 else "failed"
        return Check(
            self.gate, self.metric, PAST_SPANS, mean, None, self.limit, sum(counts), outcome, self.relative
        )

    def _gain(self, mine: float | None, learned: float | None) -> float:
        if not is_known(mine) or not is_known(learned) or (self.relative and not learned):
            return math.nan
        return rise(self.metric, learned, mine) / (abs(learned) if self.relative else 1.0)

    def _passes(self, mine: float | None, base: float | None) -> bool:
        if not is_known(mine):
            return False
        if self.gate == "min_value":
            return _fall(self.metric, mine, self.limit) <= 0.0
        if not is_known(base):
            return False
        scale = abs(base) if self.relative else 1.0
        return _fall(self.metric, mine, base) <= (self.limit + 1e-9) * scale
