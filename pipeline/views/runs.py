"""What a run or a check tells of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from components.promote.logic import worst_past
from pipeline import shadow
from pipeline.outcome import Outcome
from pipeline.views.text import make_table, metric_text, worst_past_text


def drift_table(drift: Sequence[Mapping[str, Any]]) -> Table:
    """Drifts as `decision.json` has them."""
    title = "\ndrift against the parent's reference statistics"
    table = make_table(title, "feature", "measure", "value", "threshold", "drifted")
    for d in drift:
        table.add_row(
            d["feature"],
            d["measure"] or "not comparable",
            metric_text(d["value"]),
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
    tables = [drift_table(decision["drift"])] if decision["drift"] else []
    tables += [_poison_table(decision["poison"])] if decision["poison"] else []
    return Group(*lines, *tables)


def _poison_table(measures: Sequence[Mapping[str, Any]]) -> Table:
    table = make_table("\nsigns of poison", "span", "measure", "value", "limit", "what", whole="measure")
    for m in measures:
        limit = "not judged" if m["limit"] is None else f"{m['limit']:g}"
        limit += ", exceeded" if m["exceeded"] else ""
        table.add_row(str(m["span"]), m["measure"], metric_text(m["value"]), limit, m["what"])
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
        return "-" if value is None else metric_text(value)

    past = worst_past_text(worst_past(data["checks"]).get(metric))
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
