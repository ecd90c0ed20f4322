"""The command that brings labels back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.shared import Config, Data, Json, State, load, make_terminal

if TYPE_CHECKING:
    from pipeline.config import Deployment
    from pipeline.feedback.skew import SkewReport
    from pipeline.feedback.summary import Summary
    from pipeline.terminal import Terminal


def feedback(
    config: Config,
    labels: Annotated[
        Path,
        typer.Option(metavar="FILE|DIR", help="Labels: CSV, Parquet or TFRecord with the key of each row."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
    ] = False,
    state: State = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Join labels that have arrived with what was asked and answered, and write the next span."""
    deployment, terminal = load(config, state, data), make_terminal(json)
    from pipeline.feedback.command import Feedback
    from pipeline.learn import new_log

    with terminal.captured(new_log(deployment.state, "feedback")), terminal.progress() as progress:
        summary = Feedback(deployment, labels, dry_run, progress.update).run()
        progress.stop()
        terminal.show(summary.to_json(), _table(summary))
        for line in _notes(deployment, summary):
            terminal.note(line)


def _table(summary: Summary) -> Any:
    """What was counted, as far as there is any."""
    from rich.table import Table

    from components.feedback.join import COUNTS

    table = Table("rows", "what became of them")
    table.columns[0].justify = "right"
    for name, text in COUNTS.items():
        if summary.counts[name] or name == "joined":
            table.add_row(f"{summary.counts[name]:,}", text)
    for reason, count in summary.bad.items():
        table.add_row(f"{count:,}", f"labels that cannot be used: {reason}")
    return table


def _notes(deployment: Deployment, summary: Summary) -> list[str]:
    from pipeline.spans import pattern

    named, lines = pattern.parse(deployment.data.pattern), []
    if summary.finished is not None:
        lines.append(
            f"span {named.label([summary.finished.number])} of an earlier call, which was cut off, is there"
        )
    if summary.quarantine is not None:
        lines.append(f"some of the rows that cannot be used are in {summary.quarantine}")
    if summary.log["torn"] or summary.log["corrupt"]:
        lines.append(
            f"of the log {summary.log['corrupt']} records are damaged and {summary.log['torn']} files torn"
        )
    if summary.known:
        lines.append(f"{summary.known} files of labels have not changed since they were read")
    if summary.span is not None:
        would = "would be" if summary.dry else "is"
        lines.append(
            f"span {named.label([summary.span.number])} {would} new, with {summary.span.rows:,} rows: "
            f"{deployment.data.path / summary.span.path}"
        )
    elif summary.rows_waiting:
        lines.append(f"{summary.rows_waiting:,} joined rows wait to be a span: {summary.why}")
    else:
        lines.append("no new span")
    return lines


def tell_skew(deployment: Deployment, terminal: Terminal) -> None:
    """Says how far what is asked of the champion lies from what it learned; nothing where there is no log."""
    from pipeline.feedback.prediction_log import log_folder

    if not log_folder(deployment).is_dir():
        return
    from pipeline.feedback.skew import find_skew
    from pipeline.learn import new_log

    with terminal.captured(new_log(deployment.state, "skew")), terminal.progress() as progress:
        progress.update("comparing what was asked with what was learned")
        report = find_skew(deployment)
        progress.stop()
        if report is None:
            return
        terminal.show({"skew": report.to_json()}, _skew_view(report))


def _skew_view(report: SkewReport) -> Any:
    """What was compared, that with the largest share of its threshold first."""
    from rich.console import Group
    from rich.table import Table

    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(report.since))
    rows = f"{report.rows:,} requests' rows since {when}, when version {report.version} was made"
    if not report.rows:
        return f"skew: the log has no row since {when}, when version {report.version} was made"
    if not report.features:
        return f"skew: {rows}; no feature has a skew_comparator or drift_comparator in the schema"
    table = Table("feature", "measure", "distance", "by chance", "threshold", "skewed")
    for one in report.features:
        numbers = (f"{one.value:.3f}", f"{one.error:.3f}", f"{one.threshold:g}")
        table.add_row(one.feature, one.measure, *numbers, "yes" if one.skewed else "")
    found = f"{len(report.skewed)} of {len(report.features)} features skewed"
    wrong = [f"requests are not as the schema has them: {text}" for text in report.anomalies]
    return Group(f"skew: {found}; {rows}", table, *wrong)
