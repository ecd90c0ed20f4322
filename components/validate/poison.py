"""Whether a new span looks poisoned: what it is measured by before the replay buffer takes it in.

Three measures, each with a limit in the section `poisoning`, none by default:

- label shift: how far a span's labels have moved from those of the newest span that the champion's line
  has learned: the largest change of one class's share, or, of a regression, of the mean, in standard
  deviations (of the label's logarithm where that is learned). Flipped labels and another unit are seen here;
- duplicates: the share of a span's rows that repeat another row of it. A file that was delivered twice, or
  a few rows that were copied to weigh more, are seen here;
- influence: how much the loss on past held-out rows, and on trusted ones, rises because of the new span.
  For it the trainer trains a control on replayed rows alone, and the gate judges the two: see
  `influence.json` in the model's checkpoint.

The first two cost no model. They are measured of each span alone, whose labels and rows ingest counts, so
that of several spans in one run only the guilty one goes into quarantine. That is where a span stays, out of
every run, until a person releases it. A label shift is judged beyond three standard errors: chance alone
puts no small span into quarantine.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

_SURE = 3  # standard errors


@dataclass(frozen=True)
class Measure:
    """One measure of one span.

    Attributes:
        span: its number.
        measure: which.
        value: measured; None: there was nothing to measure it against.
        error: what chance alone can add to the value.
        limit: the largest value that is allowed; None: any.
        what: for a person.
    """

    span: int
    measure: Literal["label_shift", "duplicates"]
    value: float | None
    error: float
    limit: float | None
    what: str

    @property
    def exceeded(self) -> bool:
        return None not in (self.value, self.limit) and self.value - self.error > self.limit  # type: ignore[operator]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"exceeded": self.exceeded}


def measure(
    spans: Mapping[int, Mapping[str, Any]],
    reference: Mapping[str, Any] | None,
    *,
    max_label_shift: float | None,
    max_duplicates: float | None,
) -> list[Measure]:
    """Both measures of every new span, by span.

    Args:
        spans: span -> its part of ingest's report, of which `labels` and `repeated` are read.
        reference: `labels` of the span to compare with; None: there is none.
        max_label_shift, max_duplicates: the limits.
    """
    found = []
    for span, report in sorted(spans.items()):
        shift, error, what = label_shift(report["labels"], reference)
        found.append(Measure(span, "label_shift", shift, error, max_label_shift, what))
        repeated = report["repeated"]
        what = f"{repeated:.1%} of its rows repeat another one of it"
        found.append(Measure(span, "duplicates", repeated, 0.0, max_duplicates, what))
    return found


def label_shift(
    labels: Mapping[str, Any], reference: Mapping[str, Any] | None
) -> tuple[float | None, float, str]:
    """How far labels have moved: the value, three standard errors of it, and both in words.

    Args:
        labels, reference: `rows`, and `classes` (class -> rows) or `mean` and `deviation`; in other cases
            nothing can be said.

    >>> label_shift({"rows": 100, "classes": {"no": 50, "yes": 50}}, {"rows": 100, "classes": {"no": 100}})
    (0.5, 0.15000000000000002, "the share of label 'no' went from 100.0% to 50.0%")
    """
    if reference is None:
        return None, 0.0, "its labels were compared with none: nothing learned says how they were distributed"
    if "classes" in labels and "classes" in reference:
        return _class_shift(labels, reference)
    if "mean" in labels and "mean" in reference:
        return _mean_shift(labels, reference)
    return None, 0.0, "its labels cannot be compared: too many classes, or another kind of label"


def _class_shift(new: Mapping[str, Any], old: Mapping[str, Any]) -> tuple[float, float, str]:
    def shares(name: str) -> tuple[float, float]:
        return old["classes"].get(name, 0) / old["rows"], new["classes"].get(name, 0) / new["rows"]

    names = sorted({*new["classes"], *old["classes"]})
    moved = max(names, key=lambda name: abs(shares(name)[1] - shares(name)[0]))
    before, after = shares(moved)
    error = math.sqrt(before * (1 - before) / old["rows"] + after * (1 - after) / new["rows"])
    what = f"the share of label {moved!r} went from {before:.1%} to {after:.1%}"
    return abs(after - before), _SURE * error, what


def _mean_shift(new: Mapping[str, Any], old: Mapping[str, Any]) -> tuple[float, float, str]:
    unit = old["deviation"] or new["deviation"] or 1.0
    error = math.hypot(*(one["deviation"] / math.sqrt(one["rows"]) for one in (old, new))) / unit
    shift = abs(new["mean"] - old["mean"]) / unit
    what = (
        f"the mean of the label, as it is learned, went from {old['mean']:.4g} to {new['mean']:.4g}: by "
        f"{shift:.2f} standard deviations"
    )
    return shift, _SURE * error, what


def guilty(measures: Sequence[Measure], released: Collection[int]) -> dict[int, str]:
    """Span -> why it must not be learned, of those that a person has not released."""
    reasons: dict[int, list[str]] = {}
    for one in measures:
        if one.exceeded and one.span not in released:
            beyond = f", and {one.error:.3f} of {one.value:.3f} may be chance" if one.error else ""
            reasons.setdefault(one.span, []).append(
                f"{one.what} (poisoning.max_{one.measure} is {one.limit:g}{beyond})"
            )
    return {span: "; ".join(told) for span, told in reasons.items()}
