"""Every version, and everything about one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from components.promote.registry import Registry, Version, lineage
from pipeline import matrix, shadow
from pipeline.champion import open_registry
from pipeline.config import Deployment
from pipeline.spans import pattern
from pipeline.spans.pattern import spans_text
from pipeline.views.moves import move_data, moves_table
from pipeline.views.runs import drift_table
from pipeline.views.text import make_table, metric_text, when, worst_past_text


class _Standing:
    """Which versions are served, or are under test."""

    def __init__(self, registry: Registry, versions: Sequence[Version]) -> None:
        champion, challenger = registry.champion(), registry.challenger()
        self.line = [version.number for version in lineage(versions, champion.number if champion else None)]
        self._challenger = challenger.number if challenger else None

    def state(self, version: Version) -> str:
        """What has become of a version, in a word or two."""
        if version.number in self.line[:1]:
            return "served"
        if version.number == self._challenger:
            return "challenger"
        if version.number not in self.line:
            if version.rolled_back or version.set_aside:
                return "rolled back" if version.promoted else "turned back"
            if version.kind == "shadow":
                return "shadow"
        return "blessed" if version.blessed else "rejected"

    def notes(self, version: Version) -> list[str]:
        """What there is to say below the table: why it must not be served, or is all the same."""
        notes = []
        why = version.rolled_back or version.set_aside
        if version.number not in self.line and why:
            notes.append(why.removeprefix(f"version {version.number} "))
        elif version.number not in self.line and not version.blessed:
            notes.append(f"rejected: {'; '.join(version.gate_reasons)}")
        if version.forced:
            notes.append(f"forced by {version.forced['by']}: {version.forced['why']}")
        return [f"version {version.number}: {note}" for note in notes]


def _version_data(version: Version, versions: Sequence[Version], standing: _Standing) -> dict[str, Any]:
    """A version as plain data."""
    data = {**asdict(version), "state": standing.state(version), "moves": [*map(move_data, version.moves)]}
    del data["begun"]
    return data | ({"debt": shadow.debt(version, versions)} if version.kind == "shadow" else {})


def history(deployment: Deployment) -> tuple[list[dict[str, Any]], Any]:
    """Every version, oldest first: as data, and as a table."""
    registry = open_registry(deployment)
    versions = registry.versions()
    if not versions:
        return [], "no version yet"
    standing = _Standing(registry, versions)
    metric, named = next(iter(deployment.gate_metrics)), pattern.parse(deployment.data.pattern)
    table = make_table(
        f"versions of {deployment.name}",
        *("ver", "spans", "from", "state", f"{metric}, new span", "worst past", "bwt", "made"),
    )
    for version in versions:
        spans = named.label(version.spans) if version.spans else "-"
        table.add_row(*_history_row(version, spans, standing.state(version), metric))
    notes = [note for version in versions for note in standing.notes(version)]
    collected = tuple(version.number for version in versions if version.collected.get("gone"))
    if collected:
        notes.append(f"without files, which `retrain gc` removed: version {spans_text(collected)}")
    beside = registry.shadow()
    if beside:
        notes.append(shadow.describe(shadow.debt(beside, versions), named.label(beside.spans)))
    data = [_version_data(version, versions, standing) for version in versions]
    return data, Group(table, *map(Text, ["", *notes] if notes else []))


def _history_row(version: Version, spans: str, state: str, metric: str) -> list[str]:
    record, new = version.record, f"span={version.spans[-1]}" if version.spans else ""
    mine, base = (record["metrics"][model].get(new, {}).get(metric) for model in ("candidate", "champion"))
    worst, bwt = record["worst_past"].get(metric), record.get("learning", {}).get(metric, {}).get("bwt")
    return [
        str(version.number),
        spans,
        "-" if version.parent is None else str(version.parent),
        state,
        ("" if base is None else f"{metric_text(base)} -> ") + metric_text(mine) if version.spans else "-",
        worst_past_text(worst),
        "-" if bwt is None else metric_text(bwt, "+"),
        when(version.created)[:10],
    ]


def show(deployment: Deployment, number: int) -> tuple[dict[str, Any], Any]:
    """Everything about one version: as data, and for a person."""
    registry = open_registry(deployment)
    version, versions = registry.get(number), registry.versions()
    standing = _Standing(registry, versions)
    moves = [move for move in registry.moves() if number in (move.from_, move.to)]
    record = _full_record(version)
    own = list(reversed(lineage(versions, number)))
    rows = {metric: matrix.matrix(own, metric) for metric in deployment.gate_metrics}
    data = _version_data(version, versions, standing)
    data |= {"record": record, "matrix": rows, "moves": [*map(move_data, moves)]}
    head = Table.grid(padding=(0, 2))
    head.add_row("version", f"{number} of {deployment.name}: {standing.state(version)}")
    if version.spans:
        head.add_row("spans", pattern.parse(deployment.data.pattern).label(version.spans))
    for title, text in _head(version, record):
        head.add_row(title, text)
    kept = record["verdict"].get("learning", {})
    tables = [
        matrix.table(found, metric, _worst_span(kept.get(metric))) for metric, found in rows.items() if found
    ]
    tables += [moves_table(moves, "\nmoves")] if moves else []
    return data, Group(
        head, _checks_table(record["verdict"]["checks"]), *tables, drift_table(record["decision"]["drift"])
    )


def _head(version: Version, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is told of a version line by line."""
    told = [
        ("parent", "none (cold start)" if version.parent is None else str(version.parent)),
        ("made", when(version.created)),
        ("promoted", ", ".join(map(when, version.promoted)) or "never"),
        ("trained for", "; ".join(record["decision"]["reasons"])),
        ("gate", "; ".join(record["verdict"]["reasons"])),
    ]
    told += [("forced", _forced(version.forced))] if version.forced else []
    why = version.rolled_back or version.set_aside
    told += [("not served", why)] if why else []
    told += [("set aside", "its spans are not learned again")] if version.set_aside else []
    if version.collected:
        told.append(("files", f"removed on {when(version.collected['when'])} by {version.collected['by']}"))
    seconds = ", ".join(f"{name} {took:.1f}" for name, took in version.seconds.items()) or "unknown"
    rows = ", ".join(f"{name} {count}" for name, count in record["decision"]["rows"].items())
    kept = record["verdict"].get("learning", {}).items()
    return [
        *told,
        ("rows", rows),
        ("seconds", seconds),
        *matrix.told(record).items(),
        *((f"{metric} kept", matrix.learning_text(measures)) for metric, measures in kept),
        *sorted((name, _where(version, name)) for name in version.uris),
    ]


def _forced(forced: Mapping[str, Any]) -> str:
    return f"by {forced['by']} on {when(forced['when'])}: {forced['why']}; although {forced['although']}"


def _where(version: Version, name: str) -> str:
    return version.uris[name] + (" (removed)" if name in version.collected.get("gone", []) else "")


def _full_record(version: Version) -> dict[str, Any]:
    record = matrix.read_record(version)
    if record is not None:
        return record
    # The artifact is gone: the registry's summary is what there is.
    known = {name: value for name, value in version.record.items() if name not in ("gate", "metrics")}
    return {
        **known,
        "decision": {name: version.record[name] for name in ("reasons", "rows", "drift")},
        "verdict": {
            "reasons": version.gate_reasons,
            "checks": [],
            "learning": version.record.get("learning", {}),
            **version.record["metrics"],
        },
    }


def _worst_span(measures: Mapping[str, Any] | None) -> int | None:
    worst = (measures or {}).get("worst")
    return int(worst["slice"].removeprefix("span=")) if worst else None


def _checks_table(checks: Sequence[Mapping[str, Any]]) -> Table:
    table = make_table("\ngate", "metric", "on", "before", "after", "gate", "rows", "outcome", whole="gate")
    for c in checks:
        base = "" if c["gate"] == "min_value" else metric_text(c["champion"])
        limit = f"{c['gate']} {c['limit']:g}"
        table.add_row(
            c["metric"],
            c["slice"],
            base,
            metric_text(c["candidate"]),
            limit,
            str(c["examples"]),
            c["outcome"],
        )
    return table
