"""The shadow: a version trained from scratch, and what the champion lacks and saves in comparison."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from components.evaluate.logic import METRICS, OVERALL, rise
from components.promote.registry import Version, lineage

_COSTS = ("examples", "seconds")


def to_learn(
    known: Collection[int], on_disk: Mapping[int, Collection[Any]], window: int | None
) -> tuple[tuple[int, ...], dict[int, str]]:
    """The spans that a shadow learns, ascending, and why not those that it does not.

    Args:
        known: the spans that the champion's line has learned.
        on_disk: span -> its files.
        window: so many spans, the newest; None: all.

    >>> to_learn([1, 2, 3, 4], {2: ["a"], 3: [], 4: ["b"], 5: ["c"]}, window=3)
    ((2, 4), {1: 'older than the newest 3 (shadow.window)', 3: 'its files are gone'})
    """
    newest = sorted(known)[-window:] if window else sorted(known)
    left_out = {
        span: "its files are gone" if span in newest else f"older than the newest {window} (shadow.window)"
        for span in sorted(known)
        if span not in newest or not on_disk.get(span)
    }
    return tuple(span for span in newest if span not in left_out), left_out


def gaps(metrics: Mapping[str, Mapping[str, Mapping[str, float]] | None]) -> dict[str, dict[str, float]]:
    """Metric -> `shadow`, `champion`, and by how much the shadow is better, `gap`; on the same held-out rows.

    Args:
        metrics: `candidate` and `champion` -> slice -> metric -> value.
    """
    shadow, champion = ((metrics[model] or {}).get(OVERALL, {}) for model in ("candidate", "champion"))
    return {
        name: {"shadow": value, "champion": champion[name], "gap": rise(name, champion[name], value)}
        for name, value in shadow.items()
        if name in METRICS and name in champion
    }


def debt(shadow: Version, versions: Sequence[Version]) -> dict[str, Any]:
    """What the champion that a shadow was held against lacks, and what its line has cost less.

    Args:
        shadow: the version.
        versions: all versions.

    Returns:
        `shadow` and `champion`, their numbers; `metrics`, as `gaps` gives them; and `cost`, training
        examples and seconds: `shadow`, of its training; `update`, of the champion's; `line`, of the champion
        and its ancestors together; `from_scratch`, what these would have cost had each been trained
        from scratch, as the shadow was: its cost a row, times the rows there were each time. None: a
        version of before this was recorded is among them.
    """
    line = [v for v in reversed(lineage(versions, shadow.parent)) if v.kind != "forget"]
    return {
        "shadow": shadow.number,
        "champion": shadow.parent,
        "metrics": gaps(shadow.record["metrics"]),
        "cost": {
            "shadow": _each(lambda cost: _cost(shadow, cost)),
            "update": _each(lambda cost: _cost(line[-1], cost) if line else None),
            "line": _each(lambda cost: _sum(_cost(version, cost) for version in line)),
            "from_scratch": _each(lambda cost: _from_scratch(shadow, line, cost)),
        },
    }


def _each(value: Callable[[str], float | None]) -> dict[str, float | None]:
    return {cost: value(cost) for cost in _COSTS}


def _cost(version: Version, name: str) -> float | None:
    found: float | None = version.record.get("training", {}).get(name)
    return found


def _sum(values: Iterable[float | None]) -> float | None:
    numbers = list(values)
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _from_scratch(shadow: Version, line: Sequence[Version], cost: str) -> float | None:
    price, own = _cost(shadow, cost), _cost(shadow, "new_rows")
    rows = total = 0.0
    for version in line:
        new = _cost(version, "new_rows")
        if new is None:
            return None
        rows = new if version.kind == "shadow" else rows + new  # a promoted shadow had them all as new ones
        total += rows
    return None if price is None or not own else price / own * total


def describe(found: Mapping[str, Any], spans: str) -> str:
    """A debt in a line or two for a person.

    Args:
        found: as `debt` gives it.
        spans: that the shadow learned.
    """
    of = ", ".join(
        f"{name} {values['shadow']:.4g} against {values['champion']:.4g}"
        for name, values in found["metrics"].items()
    )
    told = f"shadow: version {found['shadow']}, from scratch on span {spans}, against version "
    told += f"{found['champion']}: {of}"
    cost = found["cost"]
    if None in (*cost["shadow"].values(), *cost["update"].values()):
        return told
    told += f"; it was trained on {_told(cost['shadow'])}, that update on {_told(cost['update'])}"
    if None in (*cost["line"].values(), *cost["from_scratch"].values()):
        return told
    return f"{told}; the line on {_told(cost['line'])} instead of about {_told(cost['from_scratch'])}"


def _told(cost: Mapping[str, float]) -> str:
    return f"{cost['examples']:,.0f} examples in {cost['seconds']:,.0f} s"
