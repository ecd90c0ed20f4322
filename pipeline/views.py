"""What status, history and show tell: read from the registry and the disk, with nothing heavy imported."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from components.promote.logic import worst_past
from components.promote.registry import Version
from pipeline import plan
from pipeline.champion import open_registry
from pipeline.config import Deployment
from pipeline.learn import Outcome


def when(seconds: float) -> str:
    """A moment, for a person."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def spans_text(spans: Sequence[int]) -> str:
    """Spans, shortened: `3`, `3-5`, `3, 5`."""
    if len(spans) > 1 and list(spans) == list(range(spans[0], spans[-1] + 1)):
        return f"{spans[0]}-{spans[-1]}"
    return ", ".join(map(str, spans))


def _state(version: Version, champion: Version | None) -> str:
    if champion and version.number == champion.number:
        return "served"
    if version.set_aside:
        return "rolled back"
    return "blessed" if version.blessed else "rejected"


def status(deployment: Deployment) -> tuple[dict[str, Any], Any]:
    """What is served, and what is waiting: as data, and for a person."""
    registry = open_registry(deployment)
    champion, versions = registry.champion(), registry.versions()
    on_disk = plan.find_spans(deployment.data) if deployment.data.path.is_dir() else {}
    waiting = plan.pending(on_disk, champion, versions, retry=False, until=None)
    logs = sorted((deployment.state / "logs").glob("*.log"))
    data = {
        "name": deployment.name,
        "served": champion.number if champion else None,
        "since": champion.promoted[-1] if champion and champion.promoted else None,
        "watermark": champion.watermark if champion else None,
        "versions": len(versions),
        "pending": list(waiting.spans),
        "set_aside": {str(span): why for span, why in waiting.set_aside.items()},
        "state": str(deployment.state),
        "serving": str(deployment.serving_path),
        "registry": deployment.registry_uri,
        "last_log": str(logs[-1]) if logs else None,
    }
    table = Table.grid(padding=(0, 2))
    table.add_row("deployment", deployment.name)
    if champion:
        since = f", since {when(champion.promoted[-1])}" if champion.promoted else ""
        table.add_row("served", f"version {champion.number}{since}")
        table.add_row("learned", f"up to span {champion.watermark}")
    else:
        table.add_row("served", "nothing yet")
    table.add_row("pending", f"spans {spans_text(waiting.spans)}" if waiting.spans else "nothing new")
    for span, why in waiting.set_aside.items():
        table.add_row("set aside", f"span {span}: {why}")
    table.add_row("versions", str(len(versions)))
    table.add_row("state", str(deployment.state))
    table.add_row("last log", data["last_log"] or "none")
    return data, table


def _metric(version: Version) -> tuple[str, str]:
    """The first gated metric of a version on its new spans: champion's -> candidate's; the worst past span."""
    record = version.record
    names = [
        name
        for name in (record["metrics"]["candidate"].get("overall") or {})
        if "_" not in name or name in ("pr_auc", "log_loss")
    ]
    if not names:
        return "", ""
    metric, span = names[0], f"span={version.spans[-1]}"
    mine = record["metrics"]["candidate"].get(span, {}).get(metric)
    base = record["metrics"]["champion"].get(span, {}).get(metric)
    text = (f"{base:.3f} -> " if base is not None else "") + (f"{mine:.3f}" if mine is not None else "?")
    worst = record["worst_past"].get(metric)
    return f"{metric} {text}", f"{worst['slice']} {-worst['fall']:+.3f}" if worst else ""


def version_data(version: Version, champion: Version | None) -> dict[str, Any]:
    """A version as plain data."""
    return {**asdict(version), "state": _state(version, champion)}


def history(deployment: Deployment) -> tuple[list[dict[str, Any]], Any]:
    """Every version, oldest first: as data, and as a table."""
    registry = open_registry(deployment)
    champion, versions = registry.champion(), registry.versions()
    table = Table(title=f"versions of {deployment.name}", title_justify="left")
    for column in (
        "version",
        "spans",
        "parent",
        "state",
        "on the new span",
        "worst past span",
        "drift",
        "why trained",
        "why not served",
        "seconds",
        "made",
    ):
        table.add_column(column, overflow="fold")
    for version in versions:
        new, worst = _metric(version)
        drifted = [d["feature"] for d in version.record["drift"] if d["drifted"]]
        rejected = "" if version.blessed else "; ".join(version.record["gate"]["reasons"])
        table.add_row(
            str(version.number),
            spans_text(version.spans),
            "-" if version.parent is None else str(version.parent),
            _state(version, champion),
            new,
            worst,
            ", ".join(drifted) or "-",
            "; ".join(reason.split(":")[0] for reason in version.record["reasons"]),
            version.set_aside or rejected or "-",
            f"{sum(version.seconds.values()):.0f}" if version.seconds else "?",
            when(version.created),
        )
    return [version_data(v, champion) for v in versions], table if versions else "no version yet"


def show(deployment: Deployment, number: int) -> tuple[dict[str, Any], Any]:
    """Everything about one version: as data, and for a person."""
    registry = open_registry(deployment)
    champion, version = registry.champion(), registry.get(number)
    record = _full_record(version)
    data = {**version_data(version, champion), "record": record}
    head = Table.grid(padding=(0, 2))
    head.add_row("version", f"{number} of {deployment.name}: {_state(version, champion)}")
    head.add_row("spans", spans_text(version.spans))
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
    for name, uri in sorted(version.uris.items()):
        head.add_row(name, uri)
    return data, Group(
        head, _checks_table(record["verdict"]["checks"]), _drift_table(record["decision"]["drift"])
    )


def _full_record(version: Version) -> dict[str, Any]:
    path = Path(version.uris["record"]) / "record.json"
    if path.exists():
        record: dict[str, Any] = json.loads(path.read_text())
        return record
    # The artifact is gone: the registry's summary is what there is.
    return {
        "decision": {name: version.record[name] for name in ("reasons", "rows", "drift")},
        "verdict": {"reasons": version.record["gate"]["reasons"], "checks": [], **version.record["metrics"]},
    }


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"


def _checks_table(checks: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="gate", title_justify="left")
    for column in ("metric", "on", "champion", "candidate", "gate", "limit", "examples", "outcome"):
        table.add_column(column, overflow="fold")
    for c in checks:
        base = "" if c["gate"] == "min_value" else _number(c["champion"])
        table.add_row(
            c["metric"],
            c["slice"],
            base,
            _number(c["candidate"]),
            c["gate"],
            f"{c['limit']:g}",
            str(c["examples"]),
            c["outcome"],
        )
    return table


def _drift_table(drift: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="drift against the parent's reference statistics", title_justify="left")
    for column in ("feature", "measure", "value", "threshold", "drifted"):
        table.add_column(column)
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
    lines = [f"spans {spans_text(outcome.spans)}: {decision['action']} ({rows})"]
    lines += [f"  {reason}" for reason in decision["reasons"]]
    return Group(*lines, _drift_table(decision["drift"])) if decision["drift"] else Group(*lines)


def outcomes_table(outcomes: Sequence[Outcome]) -> Group:
    """One row a run: what came in, what was decided, how it did, what is served; fits 80 columns."""
    table = Table(pad_edge=False, padding=(0, 1))
    for column in ("span", "drift", "decision", "start", "metric", "champion", "new", "worst past", "served"):
        table.add_column(column, no_wrap=column != "span", overflow="fold")
    table.add_column("s", justify="right")
    notes = []
    for outcome in outcomes:
        row, note = _outcome_row(outcome)
        table.add_row(*row)
        notes += [note] if note else []
    return Group(table, *notes)


def _outcome_row(outcome: Outcome) -> tuple[list[str], str]:
    """A row of the table, and what there is to say below it."""
    data = outcome.to_json()
    name = Path(data["files"][0]).name.split(".")[0] if len(data["files"]) == 1 else ""
    span = spans_text(outcome.spans) + (f" {name}" if name and name != str(data["span"]) else "")
    drifted = sum(d["drifted"] for d in data["drift"])
    drift = f"{drifted}/{len(data['drift'])}" if data["drift"] else "-"
    served = "none" if outcome.served is None else f"v{outcome.served}"
    seconds = f"{data['seconds']['total']:.0f}"
    if outcome.version is None:
        row = [span, drift, data["decision"], "-", "", "", "", "", served, seconds]
        return row, f"span {spans_text(outcome.spans)}: {'; '.join(data['reasons'])}"
    metric = data["checks"][0]["metric"]

    def on_new(metrics: Mapping[str, Any] | None) -> str:
        value = ((metrics or {}).get("new", {}).get(str(data["span"])) or {}).get(metric)
        return "-" if value is None else f"{value:.3f}"

    worst = worst_past(data["checks"]).get(metric)
    past = f"{worst['slice'].removeprefix('span=')}: {-worst['fall']:+.3f}" if worst else "-"
    start = f"warm v{outcome.parent}" if outcome.warm_start else "cold"
    decision = "train" if outcome.blessed else "rejected"
    row = [span, drift, decision, start, metric, on_new(data["baseline_metrics"]), on_new(data["metrics"])]
    note = "" if outcome.blessed else f"version {outcome.version} rejected: {'; '.join(data['gate'])}"
    return [*row, past, served, seconds], note
