"""The R matrix of a line of versions, and what else a version says of what was learned and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from components.promote.logic import RECORD_FILE
from components.promote.registry import Version

_MOST_SPANS, _MOST_VERSIONS = 9, 12  # of a table that fits a terminal


def read_record(version: Version) -> dict[str, Any] | None:
    """All that the run of a version wrote; None: the artifact is gone."""
    path = Path(version.uris["record"]) / RECORD_FILE
    record: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return record


def matrix(line: Sequence[Version], metric: str) -> dict[int, dict[int, float]]:
    """Version -> span -> the metric of the version on held-out rows of the span, R[i, j].

    A version whose record is gone has no row; one of before there were rows has what its gate measured.

    Args:
        line: versions, oldest first.
        metric: one of the gates'.
    """
    rows = {version.number: _row(read_record(version), metric) for version in line}
    return {number: row for number, row in rows.items() if row}


def _row(record: Mapping[str, Any] | None, metric: str) -> dict[int, float]:
    verdict = record["verdict"] if record else {}
    kept = verdict.get("retention") or verdict.get("candidate") or {}
    row = {}
    for name, values in kept.items():
        value = values.get(metric)
        value = value["now"] if isinstance(value, Mapping) else value
        if name.startswith("span=") and "," not in name and value is not None:
            row[int(name.removeprefix("span="))] = value
    return dict(sorted(row.items()))


def table(rows: Mapping[int, Mapping[int, float]], metric: str, worst: int | None) -> Table:
    """The matrix for a person: the newest versions and spans, and the span that has lost most.

    Args:
        rows: as `matrix` gives them.
        metric: its name.
        worst: the span that has lost most; None: none has.
    """
    spans = sorted({span for row in rows.values() for span in row})
    shown = sorted({*spans[-_MOST_SPANS:], *([worst] if worst in spans else [])})
    title = f"\n{metric} on each span, after each version" + (
        f" (the newest of {len(spans)}, and the worst)" if len(shown) < len(spans) else ""
    )
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column("ver")
    for span in shown:
        made.add_column(str(span), justify="right")
    for number in sorted(rows)[-_MOST_VERSIONS:]:
        made.add_row(str(number), *(f"{rows[number][s]:.3f}" if s in rows[number] else "" for s in shown))
    return made


def learning_text(measures: Mapping[str, Any]) -> str:
    """The measures of one metric, such as `acc 0.951, bwt -0.004, forgetting 0.006 (worst: span 3, 0.02)`."""
    texts = [f"{name} {measures[name]:.4g}" for name in ("acc", "bwt", "fwt") if measures[name] is not None]
    if measures["forgetting"] is not None:
        worst = measures["worst"]
        span = worst["slice"].removeprefix("span=")
        texts.append(f"forgetting {measures['forgetting']:.4g} (worst: span {span}, {worst['drop']:.4g})")
    return ", ".join(texts) or "nothing to measure"


def told(record: Mapping[str, Any]) -> dict[str, str]:
    """What the stages said of themselves: title -> a sentence for a person; only of those that said it."""
    texts = {
        "transform graph": _graph_text(record.get("transform")),
        "warm start": _start_text(record.get("warm_start")),
        "training": _training_text(record.get("training")),
        "smoke test": _smoke_text(record.get("smoke")),
        "TFLite model": _edge_text(record.get("edge")),
        "attempt": _attempt_text(record.get("attempt")),
        "left out": "; ".join(f"span {span}: {why}" for span, why in record.get("shadow", {}).items()),
    }
    return {title: text for title, text in texts.items() if text}


def _graph_text(policy: Mapping[str, Any] | None) -> str:
    if not policy:
        return ""
    reasons = "; ".join(policy["reasons"])
    return policy["action"] + (f": {reasons}" if reasons else "")


def _start_text(report: Mapping[str, Any] | None) -> str:
    if not report:
        return ""
    if report["start"] != "warm":
        return f"{report['start']}: {report['reason']}" if report.get("reason") else str(report["start"])
    grown = [
        f"{name} +{counts['new']} -{counts['dropped']}"
        for name, counts in report["grown"].items()
        if counts["new"] or counts["dropped"]
    ]
    parts = [
        f"{report['carried']} variables carried",
        f"grown {', '.join(grown)}" if grown else "",
        f"fresh {', '.join(report['fresh'])}" if report["fresh"] else "",
        f"dropped {', '.join(report['dropped'])}" if report["dropped"] else "",
        f"optimizer slots {report['slots']}",
    ]
    return "; ".join(part for part in parts if part)


def _training_text(cost: Mapping[str, Any] | None) -> str:
    if not cost:
        return ""
    stopped = "" if cost["stopped"] == "done" else f", stopped by {cost['stopped']}"
    return (
        f"{cost['examples']:,} examples in {cost['seconds']:,.1f} s ({cost['steps']:,} steps of "
        f"{cost['batch_size']}; {cost['new_rows']:,} new rows, {cost['replayed_rows']:,} in the buffer"
        f"{stopped})"
    )


def _smoke_text(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    parts = [f"{found['seconds']:.1f} s, {found['memory_mb']:,} MiB"]
    if "examples" in found:
        parts.append(f"{found['examples']} answers differ by up to {found['largest_difference']:.2g}")
        parts += [
            f"{name} {took['p50']:.2g} ms (99 %: {took['p99']:.2g} ms)"
            for name, took in found["latency_ms"].items()
        ]
    if first := found.get("first_request_ms"):
        parts.append(f"first request {first['warm']:.2g} ms, without warm-up {first['cold']:,.0f} ms")
    return "; ".join([*parts, *found["problems"]])


def _edge_text(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    parts = [f"left out: {'; '.join(found['problems'])}"] if found["problems"] else []
    parts.append(f"quantization {found['quantization']}")
    if "size" in found:
        parts.append(f"{found['size'] / 1024:,.0f} KiB")
    if found.get("drop") is not None:
        parts.append(
            f"mean difference {found['difference']:.2g} on {found['examples']} rows; {found['metric']} "
            f"{found['value']:.4g}, the SavedModel's {found['base']:.4g}; {found['latency_ms']['p50']:.2g} ms"
        )
    return "; ".join(parts)


def _attempt_text(attempt: Mapping[str, Any] | None) -> str:
    if not attempt or attempt["number"] == 1:
        return ""
    first, second = attempt["ratios"]
    return f"second, with a replay ratio of {second:g} instead of {first:g}: the first one forgot too much"
