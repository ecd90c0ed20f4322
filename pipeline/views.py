"""What status, history and show tell: read from the registry and the disk, with nothing heavy imported."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from components.errors import RetrainError
from components.promote.logic import worst_past
from components.promote.registry import Version, lineage
from pipeline import matrix, shadow
from pipeline.champion import open_registry
from pipeline.config import Deployment
from pipeline.outcome import Outcome
from pipeline.spans import pattern, plan
from pipeline.spans.find import find_spans
from pipeline.spans.late import Late, find_late
from pipeline.spans.pattern import Pattern

_LATE_TOLD = 10


def when(seconds: float) -> str:
    """A moment, for a person."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _table(title: str, *columns: str, whole: str = "") -> Table:
    """A table without lines, to fit 80 columns; where it is too wide, all but the whole column fold."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == whole)
    return table


def _line(versions: Sequence[Version], champion: Version | None) -> list[int]:
    """The served version and its ancestors, itself first."""
    return [version.number for version in lineage(versions, champion.number if champion else None)]


def _state(version: Version, line: Sequence[int]) -> str:
    if version.number in line[:1]:
        return "served"
    if version.set_aside and version.number not in line:
        return "rolled back"
    if version.kind == "shadow" and version.number not in line:
        return "shadow"
    return "blessed" if version.blessed else "rejected"


def status(deployment: Deployment) -> tuple[dict[str, Any], Any]:
    """What is served, and what is waiting: as data, and for a person."""
    registry = open_registry(deployment)
    champion, versions = registry.champion(), registry.versions()
    on_disk: Mapping[int, Sequence[Path]] = {}
    late: Sequence[Late] = []
    problem = None
    waiting = plan.Pending((), {})
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
        late = find_late(deployment, on_disk, champion, versions, waiting.late)
    except RetrainError as error:  # where only the server runs, there is no data
        problem = str(error)
    named = pattern.parse(deployment.data.pattern)
    logs = sorted((deployment.state / "logs").glob("*.log"), key=lambda log: log.stat().st_mtime)
    last_log = str(logs[-1]) if logs else None
    beside = registry.shadow()
    data = {
        "name": deployment.name,
        "served": champion.number if champion else None,
        "shadow": beside.number if beside else None,
        "since": champion.promoted[-1] if champion and champion.promoted else None,
        "watermark": champion.watermark if champion else None,
        "versions": len(versions),
        "pending": list(waiting.spans),
        "problem": problem,
        "dates": {str(span): named.date(span) for span in waiting.spans if named.units},
        "set_aside": {str(span): why for span, why in waiting.set_aside.items()},
        "late": [span.to_json(named) for span in late],
        "state": str(deployment.state),
        "serving": str(deployment.serving_path),
        "registry": deployment.registry_uri,
        "last_log": last_log,
    }
    table = Table.grid(padding=(0, 2))
    table.add_row("deployment", deployment.name)
    if champion:
        since = f", since {when(champion.promoted[-1])}" if champion.promoted else ""
        table.add_row("served", f"version {champion.number}{since}")
        table.add_row("learned", _learned(named, champion, plan.learned(versions, champion)))
    else:
        table.add_row("served", "nothing yet")
    if beside and champion and beside.number != champion.number:
        table.add_row("shadow", f"version {beside.number}, held against version {beside.parent}")
    spans = f"span{'s' * (len(waiting.spans) > 1)} {named.label(waiting.spans)}"
    table.add_row("pending", problem or (spans if waiting.spans else "nothing new"))
    for span, why in waiting.set_aside.items():
        table.add_row("set aside", f"span {named.label([span])}: {why}")
    for line in late_lines(late, named):
        table.add_row("late", line)
    table.add_row("versions", str(len(versions)))
    table.add_row("state", str(deployment.state))
    table.add_row("last log", last_log or "none")
    return data, table


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


def version_data(version: Version, versions: Sequence[Version], line: Sequence[int]) -> dict[str, Any]:
    """A version as plain data; `line`: the served version and its ancestors."""
    data = {**asdict(version), "state": _state(version, line)}
    return data | ({"debt": shadow.debt(version, versions)} if version.kind == "shadow" else {})


def history(deployment: Deployment) -> tuple[list[dict[str, Any]], Any]:
    """Every version, oldest first: as data, and as a table."""
    registry = open_registry(deployment)
    versions = registry.versions()
    line = _line(versions, registry.champion())
    if not versions:
        return [], "no version yet"
    metric, named = next(iter(deployment.gate_metrics)), pattern.parse(deployment.data.pattern)
    table = _table(
        f"versions of {deployment.name}",
        *("ver", "spans", "from", "state", f"{metric}, new span", "worst past", "bwt", "made"),
    )
    for version in versions:
        spans = named.label(version.spans) if version.spans else "-"
        table.add_row(*_history_row(version, spans, _state(version, line), metric))
    notes = [f"version {v.number}: {why}" for v in versions if v.number not in line and (why := _why_not(v))]
    beside = registry.shadow()
    if beside:
        notes.append(shadow.describe(shadow.debt(beside, versions), named.label(beside.spans)))
    return [version_data(v, versions, line) for v in versions], Group(
        table, *map(Text, ["", *notes] if notes else [])
    )


def _history_row(version: Version, spans: str, state: str, metric: str) -> list[str]:
    record, new = version.record, f"span={version.spans[-1]}" if version.spans else ""
    mine, base = (record["metrics"][model].get(new, {}).get(metric) for model in ("candidate", "champion"))
    worst, bwt = record["worst_past"].get(metric), record.get("learning", {}).get(metric, {}).get("bwt")
    return [
        str(version.number),
        spans,
        "-" if version.parent is None else str(version.parent),
        state,
        ("" if base is None else f"{_number(base)} -> ") + _number(mine) if version.spans else "-",
        _worst_past(worst),
        "-" if bwt is None else _number(bwt, "+"),
        when(version.created)[:10],
    ]


def _why_not(version: Version) -> str:
    """Why a version must not be served; empty: it may be."""
    if version.set_aside:
        return version.set_aside.removeprefix(f"version {version.number} ")
    return "" if version.blessed else f"rejected: {'; '.join(version.record['gate']['reasons'])}"


def show(deployment: Deployment, number: int) -> tuple[dict[str, Any], Any]:
    """Everything about one version: as data, and for a person."""
    registry = open_registry(deployment)
    version = registry.get(number)
    versions = registry.versions()
    line = _line(versions, registry.champion())
    record = _full_record(version)
    own = list(reversed(lineage(versions, number)))
    rows = {metric: matrix.matrix(own, metric) for metric in deployment.gate_metrics}
    data = {**version_data(version, versions, line), "record": record, "matrix": rows}
    head = Table.grid(padding=(0, 2))
    head.add_row("version", f"{number} of {deployment.name}: {_state(version, line)}")
    if version.spans:
        head.add_row("spans", pattern.parse(deployment.data.pattern).label(version.spans))
    head.add_row("parent", "none (cold start)" if version.parent is None else str(version.parent))
    head.add_row("made", when(version.created))
    head.add_row("promoted", ", ".join(map(when, version.promoted)) or "never")
    head.add_row("trained for", "; ".join(record["decision"]["reasons"]))
    head.add_row("gate", "; ".join(record["verdict"]["reasons"]))
    if version.set_aside:
        head.add_row("set aside", version.set_aside)
    head.add_row("rows", ", ".join(f"{name} {count}" for name, count in record["decision"]["rows"].items()))
    head.add_row(
        "seconds", ", ".join(f"{name} {took:.1f}" for name, took in version.seconds.items()) or "unknown"
    )
    for title, text in matrix.told(record).items():
        head.add_row(title, text)
    kept = record["verdict"].get("learning", {})
    for metric, measures in kept.items():
        head.add_row(f"{metric} kept", matrix.learning_text(measures))
    for name, uri in sorted(version.uris.items()):
        head.add_row(name, uri)
    tables = [
        matrix.table(found, metric, _worst_span(kept.get(metric))) for metric, found in rows.items() if found
    ]
    return data, Group(
        head, _checks_table(record["verdict"]["checks"]), *tables, _drift_table(record["decision"]["drift"])
    )


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
            "reasons": version.record["gate"]["reasons"],
            "checks": [],
            "learning": version.record.get("learning", {}),
            **version.record["metrics"],
        },
    }


def _worst_span(measures: Mapping[str, Any] | None) -> int | None:
    worst = (measures or {}).get("worst")
    return int(worst["slice"].removeprefix("span=")) if worst else None


def _number(value: float | None, sign: str = "") -> str:
    """Of a metric that may have a unit.

    >>> _number(0.94321), _number(0.01234, "+"), _number(1523.456), _number(None)
    ('0.943', '+0.012', '1,523', '?')
    """
    if value is None:
        return "?"
    places = next((places for places, size in enumerate((1000, 100, 10)) if abs(value) >= size), 3)
    return f"{value:{sign},.{places}f}"


def _worst_past(worst: Mapping[str, Any] | None) -> str:
    """The span that lost most, and what it lost (or gained)."""
    return f"{worst['slice'].removeprefix('span=')}: {_number(-worst['fall'], '+')}" if worst else "-"


def _checks_table(checks: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("\ngate", "metric", "on", "before", "after", "gate", "rows", "outcome", whole="gate")
    for c in checks:
        base = "" if c["gate"] == "min_value" else _number(c["champion"])
        limit = f"{c['gate']} {c['limit']:g}"
        table.add_row(
            c["metric"], c["slice"], base, _number(c["candidate"]), limit, str(c["examples"]), c["outcome"]
        )
    return table


def _drift_table(drift: Sequence[Mapping[str, Any]]) -> Table:
    title = "\ndrift against the parent's reference statistics"
    table = _table(title, "feature", "measure", "value", "threshold", "drifted")
    for d in drift:
        table.add_row(
            d["feature"],
            d["measure"] or "not comparable",
            _number(d["value"]),
            f"{d['threshold']:g}",
            "yes" if d["drifted"] else "",
        )
    return table


def decision_view(outcome: Outcome) -> Group:
    """What `check` found, for a person."""
    decision = outcome.decision
    rows = ", ".join(f"{name} {count}" for name, count in decision["rows"].items())
    lines = [f"span {outcome.label}: {decision['action']} ({rows})"]
    lines += [f"  {reason}" for reason in decision["reasons"]]
    tables = [_drift_table(decision["drift"])] if decision["drift"] else []
    tables += [_poison_table(decision["poison"])] if decision["poison"] else []
    return Group(*lines, *tables)


def _poison_table(measures: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("\nsigns of poison", "span", "measure", "value", "limit", "what", whole="measure")
    for m in measures:
        limit = "not judged" if m["limit"] is None else f"{m['limit']:g}"
        limit += ", exceeded" if m["exceeded"] else ""
        table.add_row(str(m["span"]), m["measure"], _number(m["value"]), limit, m["what"])
    return table


def outcomes_table(outcomes: Sequence[Outcome]) -> Group:
    """One row a run: what came in, what was decided, how it did, what is served; fits 80 columns."""
    metric = next((check["metric"] for o in outcomes if o.verdict for check in o.verdict["checks"]), "")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("span", "drift", "decision", "start", "champion", "new", "worst past", "served", "s"):
        # A span may have a date or a long file's name; whatever is too much goes to a second line.
        table.add_column(column, no_wrap=column != "span", justify="right" if column == "s" else "left")
    notes = []
    for outcome in outcomes:
        row, note = _outcome_row(outcome, metric)
        table.add_row(*row)
        notes += [note] if note else []
    if metric:
        notes.append(
            f"champion, new: {metric} of the version served before and of the candidate, on held-out rows "
            "of the span; worst past: the earlier span on which the candidate lost most; drift: features "
            "of those compared; s: seconds"
        )
    return Group(table, *notes)


def _outcome_row(outcome: Outcome, metric: str) -> tuple[list[str], str]:
    """A row of the table, and what there is to say below it."""
    data = outcome.to_json()
    name = Path(data["files"][0]).name.split(".")[0] if len(data["files"]) == 1 else ""
    if outcome.dates or name == str(data["span"]):
        name = ""
    span = outcome.label + (f" {name}" if name else "")
    drifted = sum(d["drifted"] for d in data["drift"])
    drift = f"{drifted}/{len(data['drift'])}" if data["drift"] else "-"
    served = "none" if outcome.served is None else f"v{outcome.served}"
    seconds = f"{data['seconds']['total']:.0f}"
    if outcome.version is None:
        row = [span, drift, data["decision"], "-", "", "", "", served, seconds]
        return row, f"span {outcome.label}: {'; '.join(data['reasons'])}"

    def on_new(metrics: Mapping[str, Any] | None) -> str:
        value = ((metrics or {}).get("new", {}).get(str(data["span"])) or {}).get(metric)
        return "-" if value is None else _number(value)

    past = _worst_past(worst_past(data["checks"]).get(metric))
    start = f"warm v{outcome.parent}" if outcome.warm_start else "cold"
    start = "scratch" if outcome.kind == "shadow" else start
    decision = "train" if outcome.blessed else "rejected"
    row = [span, drift, decision, start, on_new(data["baseline_metrics"]), on_new(data["metrics"])]
    note = "; ".join(_outcome_notes(outcome, data))
    return [*row, past, served, seconds], note


def _outcome_notes(outcome: Outcome, data: Mapping[str, Any]) -> list[str]:
    notes = []
    if outcome.attempt > 1:
        ratio = f"a replay ratio of {outcome.replay_ratio:g}"
        notes.append(f"version {outcome.version} is the second attempt, with {ratio}")
    if not outcome.blessed:
        alone = " for forgetting alone" if outcome.only_forgot else ""
        notes.append(f"version {outcome.version} rejected{alone}: {'; '.join(data['gate'])}")
    if outcome.debt:
        notes.append(shadow.describe(outcome.debt, outcome.label))
    return notes
