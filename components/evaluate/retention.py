"""What a line of versions has kept of what it learned: the R matrix, row by row, and its measures.

R[i, j] is a metric on held-out examples of span j after span i was learned. Each version keeps its row,
with what earlier rows say of the same slices, so a row is made of the parent's alone, and the rows of a
line are the matrix. The measures are those of Lopez-Paz and Ranzato, 2017 (ACC, BWT, FWT), and Chaudhry
et al., 2018 (forgetting); of a loss the sign is turned, so that more is better in all but forgetting.

The values of a span are not measured on quite the same rows each time: in the run that learns it on all
that are held out, later on those that the buffer has kept. Slices with few are left out, or noise would
pass for forgetting.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypedDict

from components.evaluate.logic import EXAMPLE_COUNT, OVERALL, Metrics, is_known, is_noise, rise


class Entry(TypedDict):
    """What is known of one metric on one slice.

    Attributes:
        learned: the value of the version that learned it, R[j, j]; of a slice that is no span, the first
            value in the line.
        before: the champion's value on a span that no version of the line had learned, R[j-1, j].
        best: the best value of any version in the line, this one included.
        now: this version's value, R[T, j]. None: too few held-out examples are left of it; it is out of
            all means then, because what can't be measured is not claimed to be kept.
    """

    learned: float
    before: float | None
    best: float
    now: float | None


Row = Mapping[str, Mapping[str, Entry]]
"""Slice, such as `span=3` -> metric -> what is known of it. `overall` is none: its rows are always others."""


def inherit(
    row: Row,
    champion: Metrics | None,
    new: Collection[str],
    held_out: Collection[str],
    metrics: Collection[str],
    min_examples: int,
) -> Row:
    """The champion's row, without the spans that are learned now, or of which nothing is held out any more.

    Where it has no history of a slice, or of a metric, the champion's value on the same examples as the
    candidate's is the first: so a line goes on from a version of before there were rows.

    Args:
        row: as the champion's run wrote it; empty where it wrote none.
        champion: its metrics as measured now; None: there is no champion.
        new: the slices of the spans just learned.
        held_out: those of the spans that there are held-out examples of; what is known of others stays in the
            rows that they are in, or a row would grow with every span for ever.
        metrics: those to keep.
        min_examples: a slice with fewer is not measured.
    """
    first = {
        name: {metric: _first(value) for metric, value in values.items()}
        for name, values in _measured(champion or {}, metrics, min_examples)
    }
    names = [
        name
        for name in dict.fromkeys([*row, *first])
        if name not in new and (name in held_out or not _names_a_span(name))
    ]
    return {name: {**first.get(name, {}), **row.get(name, {})} for name in names}


def extend(
    row: Row,
    candidate: Metrics,
    champion: Metrics | None,
    unseen: Collection[str],
    metrics: Collection[str],
    min_examples: int,
) -> dict[str, dict[str, Entry]]:
    """The candidate's row.

    Args:
        row: the champion's, as `inherit` gives it.
        candidate, champion: their metrics on the same examples.
        unseen: the slices of the spans that no version of the line had learned before this one. The row
            of a span that is learned again starts anew, and `before` it there is nothing to compare.
        metrics: those to keep.
        min_examples: a slice with fewer is not measured.
    """
    extended = {
        name: {metric: Entry(**{**entry, "now": None}) for metric, entry in entries.items()}
        for name, entries in row.items()
    }
    for name, values in _measured(candidate, metrics, min_examples):
        entries = extended.setdefault(name, {})
        for metric, value in values.items():
            if entry := entries.get(metric):
                best = value if rise(metric, entry["best"], value) > 0 else entry["best"]
                entries[metric] = Entry(**{**entry, "best": best, "now": value})
            else:
                before = (champion or {}).get(name, {}).get(metric) if name in unseen else None
                entries[metric] = _first(value, before if is_known(before) else None)
    return extended


def _first(value: float, before: float | None = None) -> Entry:
    return Entry(learned=value, before=before, best=value, now=value)


def _measured(
    metrics: Metrics, names: Collection[str], min_examples: int
) -> Iterator[tuple[str, dict[str, float]]]:
    """The slices with enough examples, each with the values that are numbers, and no noise."""
    for name, values in metrics.items():
        if name != OVERALL and values.get(EXAMPLE_COUNT, 0) >= min_examples:
            yield (
                name,
                {m: values[m] for m in names if is_known(values.get(m)) and not is_noise(m, values)},
            )


def learning(
    extended: Row, row: Row, metrics: Iterable[str], classes: int | None
) -> dict[str, dict[str, Any]]:
    """Metric -> the measures of what was kept.

    Args:
        extended: the candidate's row, as `extend` gives it.
        row: the champion's, as `inherit` gives it: its spans are the past ones.
        metrics: to measure.
        classes: of the label; None: it is a number.

    Returns:
        Of each metric `acc` (the mean over all spans of R[T, j]), `bwt` (over past spans, R[T, j] -
        R[j, j]), `forgetting` (over past spans, the best of the versions before less R[T, j]), `fwt` (over
        the spans that a champion met before they were learned, R[j-1, j] - b_j, the value of a model
        that knows nothing), `worst` (the past span furthest below its best), and `spans`, how many past
        ones were measured. None: there is nothing to take a mean of; of `fwt`, also that b_j is unknown.

    >>> row = {"span=1": {"auc": Entry(learned=0.8, before=None, best=0.9, now=0.9)}}
    >>> new = {"span=2": {"auc": Entry(learned=0.7, before=0.6, best=0.7, now=0.7)}}
    >>> extended = new | {"span=1": {"auc": Entry(learned=0.8, before=None, best=0.9, now=0.85)}}
    >>> kept = learning(extended, row, ["auc"], classes=2)["auc"]
    >>> {name: round(kept[name], 3) for name in ("acc", "bwt", "forgetting", "fwt")}
    {'acc': 0.775, 'bwt': 0.05, 'forgetting': 0.05, 'fwt': 0.1}
    """
    return {metric: _measures(metric, extended, row, classes) for metric in metrics}


def _measures(metric: str, extended: Row, row: Row, classes: int | None) -> dict[str, Any]:
    spans = {name: entries[metric] for name, entries in extended.items() if _is_span(name, entries, metric)}
    now = {name: entry["now"] for name, entry in spans.items() if entry["now"] is not None}
    past = [name for name in now if name in row]
    best = {name: row[name][metric]["best"] for name in past}
    drops = {name: -rise(metric, best[name], now[name]) for name in past}
    worst = max(past, key=lambda name: drops[name], default=None)
    return {
        "acc": _mean(now.values()),
        "bwt": _mean(rise(metric, spans[name]["learned"], now[name]) for name in past),
        "fwt": _forward(metric, spans.values(), ignorant(metric, classes)),
        "forgetting": _mean(drops.values()),
        "worst": worst and {"slice": worst, "best": best[worst], "now": now[worst], "drop": drops[worst]},
        "spans": len(past),
    }


def _is_span(name: str, entries: Mapping[str, Entry], metric: str) -> bool:
    return _names_a_span(name) and metric in entries


def _names_a_span(name: str) -> bool:
    return name.startswith("span=") and "," not in name


def _forward(metric: str, spans: Iterable[Entry], chance: float | None) -> float | None:
    if chance is None:
        return None
    return _mean(rise(metric, chance, entry["before"]) for entry in spans if entry["before"] is not None)


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else None


def ignorant(metric: str, classes: int | None) -> float | None:
    """The value of a model that knows nothing: all classes alike, or the mean; None: it is not known.

    >>> ignorant("accuracy", 4), ignorant("r2", None), ignorant("rmse", None)
    (0.25, 0.0, None)
    """
    if metric in ("accuracy", "balanced_accuracy"):
        return 1 / classes if classes else None
    if metric == "log_loss":
        return math.log(classes) if classes else None
    return {"auc": 0.5, "r2": 0.0}.get(metric)
