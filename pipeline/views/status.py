"""What is served, what is under test, and what is waiting."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from components.errors import RetrainError
from components.promote.registry import CHALLENGER, Registry, Version
from pipeline.champion import open_registry
from pipeline.config import Deployment
from pipeline.spans import pattern, plan
from pipeline.spans.find import find_spans
from pipeline.spans.late import Late, find_late
from pipeline.spans.pattern import Pattern
from pipeline.views.text import when

_LATE_TOLD = 10


@dataclass(frozen=True)
class _OnDisk:
    """What of the data waits, or why that is not known."""

    waiting: plan.Pending = field(default_factory=lambda: plan.Pending((), {}))
    late: Sequence[Late] = ()
    problem: str | None = None


def status(deployment: Deployment) -> tuple[dict[str, Any], Any]:
    """What is served, and what is waiting: as data, and for a person."""
    registry = open_registry(deployment)
    versions = registry.versions()
    champion, challenger, shadow = registry.champion(), registry.challenger(), registry.shadow()
    found = _on_disk(deployment, registry, champion, versions)
    named = pattern.parse(deployment.data.pattern)
    logs = sorted((deployment.state / "logs").glob("*.log"), key=lambda log: log.stat().st_mtime)
    last_log = str(logs[-1]) if logs else None
    data = {
        "name": deployment.name,
        "served": champion.number if champion else None,
        "challenger": challenger.number if challenger else None,
        "challenger_since": _since(challenger),
        "shadow": shadow.number if shadow else None,
        "since": champion.promoted[-1] if champion and champion.promoted else None,
        "watermark": champion.watermark if champion else None,
        "versions": len(versions),
        "pending": list(found.waiting.spans),
        "problem": found.problem,
        "dates": {str(span): named.date(span) for span in found.waiting.spans if named.units},
        "set_aside": {str(span): why for span, why in found.waiting.set_aside.items()},
        "late": [span.to_json(named) for span in found.late],
        "state": str(deployment.state),
        "serving": str(deployment.serving_path),
        "registry": deployment.registry_uri,
        "last_log": last_log,
    }
    table = Table.grid(padding=(0, 2))
    table.add_row("deployment", deployment.name)
    for title, text in _versions(named, champion, challenger, shadow, versions):
        table.add_row(title, text)
    for title, text in _waiting(named, found):
        table.add_row(title, text)
    table.add_row("versions", str(len(versions)))
    table.add_row("state", str(deployment.state))
    table.add_row("last log", last_log or "none")
    return data, table


def _on_disk(
    deployment: Deployment, registry: Registry, champion: Version | None, versions: Sequence[Version]
) -> _OnDisk:
    try:
        on_disk = find_spans(deployment.data)
        waiting = plan.pending(
            on_disk,
            champion,
            versions,
            retry=False,
            until=None,
            quarantined=registry.quarantined(),
            released=registry.released(),
            second_attempts=deployment.gates.retry_ratio is not None,
        )
        return _OnDisk(waiting, find_late(deployment, on_disk, champion, versions, waiting.late))
    except RetrainError as error:  # where only the server runs, there is no data
        return _OnDisk(problem=str(error))


def _since(challenger: Version | None) -> float | None:
    """When the test of a challenger began, in seconds since the epoch."""
    moves = challenger.moves if challenger else ()
    return next((move.when for move in reversed(moves) if move.alias == CHALLENGER), None)


def _versions(
    named: Pattern,
    champion: Version | None,
    challenger: Version | None,
    shadow: Version | None,
    versions: Sequence[Version],
) -> list[tuple[str, str]]:
    if champion is None:
        return [("served", "nothing yet")]
    since = f", since {when(champion.promoted[-1])}" if champion.promoted else ""
    rows = [
        ("served", f"version {champion.number}{since}"),
        ("learned", _learned(named, champion, plan.learned(versions, champion))),
    ]
    if challenger:
        begun = _since(challenger)
        rows.append(
            ("challenger", f"version {challenger.number}" + (f", since {when(begun)}" if begun else ""))
        )
    if shadow and shadow.number != champion.number:
        rows.append(("shadow", f"version {shadow.number}, held against version {shadow.parent}"))
    return rows


def _waiting(named: Pattern, found: _OnDisk) -> list[tuple[str, str]]:
    waiting = found.waiting
    spans = f"span{'s' * (len(waiting.spans) > 1)} {named.label(waiting.spans)}"
    return [
        ("pending", found.problem or (spans if waiting.spans else "nothing new")),
        *(("set aside", f"span {named.label([span])}: {why}") for span, why in waiting.set_aside.items()),
        *(("late", line) for line in late_lines(found.late, named)),
    ]


def _learned(named: Pattern, champion: Version, learned: Collection[int]) -> str:
    """`up to span 7`, and what was learned beyond a span that still waits."""
    beyond = sorted(span for span in learned if span > champion.watermark)
    texts = [f"up to span {named.label([champion.watermark])}"] if champion.watermark >= 0 else []
    return " and ".join([*texts, *([f"span {named.label(beyond)}"] if beyond else [])])


def late_lines(late: Sequence[Late], named: Pattern) -> list[str]:
    """Late spans for a person: the first of them, and how many more there are."""
    more = len(late) - _LATE_TOLD
    return [
        *(span.describe(named) for span in late[:_LATE_TOLD]),
        *([f"and {more} more (--json names them all)"] if more > 0 else []),
    ]
