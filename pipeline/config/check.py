"""`retrain config check`: a deployment against its schema and its data, without running anything.

The first rows of some files are read by ingest's own code; said is what a run would stumble over.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.errors import RetrainError
from components.evaluate.logic import FORGETTING, METRICS
from components.features import Cross, Hashed, Text
from components.ingest.recipe import Source, make_recipe
from components.models import Custom
from pipeline.config import Deployment, row_checks
from pipeline.config.row_checks import Finding, listed
from pipeline.config.sample import Sample, read_sample
from pipeline.config.schema import complete_schema, contradictions, read_schema
from pipeline.spans import pattern
from pipeline.spans.find import find_spans

ROWS = 10_000
"""Read of a file, about."""
_MOST_ROWS = 200_000  # of all files together: kept in memory, to look at label and features
_REASONS_TOLD = 3

Spans = Mapping[int, Sequence[Path]]


@dataclass
class Report:
    """What was looked at, and what was found.

    Attributes:
        spans: span -> its files.
        samples: the first rows of the files that were looked at.
        label: how the label is distributed in these, in words.
    """

    deployment: Deployment
    spans: Spans = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    label: str = ""
    findings: list[Finding] = field(default_factory=list)

    def of(self, severity: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]


def check(deployment: Deployment, every: bool = False, rows: int = ROWS) -> Report:
    """Looks at one file of the first and of the last span.

    Args:
        every: at all files of all spans instead.
        rows: how many to read of each file, about.

    Raises:
        RetrainError: the schema's file is no schema.
    """
    report = Report(deployment)
    schema = read_schema(deployment.schema_path)
    problems = contradictions(deployment, schema)
    report.findings += [Finding("error", "", problem) for problem in [*problems, *_own_module(deployment)]]
    try:
        report.spans = find_spans(deployment.data)
    except RetrainError as error:
        report.findings.append(Finding("error", "", str(error)))
        return report
    report.findings += _check_spans(deployment, report.spans)
    report.findings += _check_edge(deployment)
    report.findings += _check_canary(deployment)
    if problems:  # rows are read as the schema says
        return report
    _read(report, schema, _chosen(report.spans, every), rows)
    if report.samples:
        report.findings += _check_gates(report)
        _check_rows(report)
    return report


def _own_module(deployment: Deployment) -> list[str]:
    if isinstance(deployment.model, Custom):
        from components.custom import load_module

        try:
            load_module(deployment.model.module)
        except RetrainError as error:
            return [str(error)]
    return []


def _check_spans(deployment: Deployment, spans: Spans) -> Iterator[Finding]:
    data = deployment.data
    if not any(spans.values()):
        yield Finding("error", "data", f"no file in {data.path} as {data.pattern}; put the spans there")
    elif empty := [span for span, files in spans.items() if not files]:
        text = f"no file as {data.pattern} in span {listed(empty)}; a run that gets there stops"
        yield Finding("warning", "data", text)


def _check_edge(deployment: Deployment) -> Iterator[Finding]:
    """What TFLite has no operations for."""
    if deployment.edge is None:
        return
    features = deployment.preprocessing.specs()
    lacking = [
        f"{feature.name} ({feature.type})"
        for feature in features
        if isinstance(feature, Hashed | Cross | Text) or feature.form == "indexes"
    ]
    if lacking:
        what = "no version is blessed" if deployment.edge.required else "each version goes on without one"
        text = f"TFLite has no operations of its own for {listed(lacking)}: {what}"
        yield Finding("error" if deployment.edge.required else "warning", "edge", text)


def _check_canary(deployment: Deployment) -> Iterator[Finding]:
    """What the canary would silently not be judged by."""
    canary = deployment.serving.canary
    if canary is not None and canary.labels is not None and not canary.labels.exists():
        text = f"{canary.labels} is not there; until it is, max_loss_rise is not judged"
        yield Finding("warning", "serving.canary.labels", text)


def _chosen(spans: Spans, every: bool) -> list[tuple[int, Path]]:
    """The files to look at: the first of the first span and of the last that has any; or all."""
    if every:
        return [(span, file) for span, files in spans.items() for file in files]
    full = [span for span, files in spans.items() if files]
    return [(span, spans[span][0]) for span in dict.fromkeys([*full[:1], *full[-1:]])]


def _read(report: Report, schema: Any, files: Sequence[tuple[int, Path]], rows: int) -> None:
    deployment, data = report.deployment, report.deployment.data
    complete = complete_schema(deployment, schema)
    recipe = make_recipe(complete, deployment.label.model_dump_json(), data.eval_share)
    kept = 0
    for order, (span, file) in enumerate(files):
        where = _place(deployment, span, file)
        try:
            sample = read_sample(recipe, Source(span, str(file), file.name, order), rows)
        except (RetrainError, OSError) as error:
            report.findings.append(Finding("error", where, str(error)))
            continue
        if sample.unknown:
            text = f"left out, as the schema does not know them: {listed(sample.unknown)}"
            report.findings.append(Finding("warning", where, text))
        if sample.rejected_share > data.max_quarantine_share or not sample.rows.num_rows:
            report.findings.append(Finding("error", where, _rejected(sample, data.max_quarantine_share)))
        kept += sample.rows.num_rows
        if kept > _MOST_ROWS:
            sample = replace(sample, rows=sample.rows.schema.empty_table())
        report.samples.append(sample)


def _place(deployment: Deployment, span: int, file: Path) -> str:
    named = pattern.parse(deployment.data.pattern).label([span])
    return f"span {named}, {file.relative_to(deployment.data.path)}"


def _rejected(sample: Sample, most: float) -> str:
    reasons = [
        f"{reason} ({count:,} rows: {'; '.join(sample.told[reason])})"
        for reason, count in sample.rejected.most_common(_REASONS_TOLD)
    ]
    return (
        f"{sample.rejected.total():,} of {sample.read:,} rows cannot be used, and "
        f"data.max_quarantine_share allows {most:.1%}. {'. '.join(reasons)}. Mend the file or the schema, or "
        "allow a larger share"
    )


def _rows_by_span(report: Report) -> dict[int, float]:
    """How many rows the spans have that were looked at, by their files' sizes."""
    found = {}
    for span in {sample.source.span: None for sample in report.samples}:
        samples = {s.source.path: s.expected for s in report.samples if s.source.span == span}
        sizes = {str(file): file.stat().st_size for file in report.spans[span]}
        found[span] = sum(samples.values()) * sum(sizes.values()) / sum(sizes[path] for path in samples)
    return found


def _check_gates(report: Report) -> Iterator[Finding]:
    """Whether a span holds out enough examples for a candidate to be judged by."""
    needed, share = report.deployment.gates.min_examples, report.deployment.data.eval_share
    held_out = {span: round(rows * share) for span, rows in _rows_by_span(report).items()}
    few = {span: count for span, count in held_out.items() if count < needed}
    if few:
        told = listed([f"about {count:,} of span {span}" for span, count in few.items()])
        yield Finding(
            "error" if len(few) == len(held_out) else "warning",
            "gates.min_examples",
            f"got {needed}, and held out are {told}: too few to judge a candidate by, so none is served; "
            "lower it, raise data.eval_share, or make the spans longer",
        )


def _check_rows(report: Report) -> None:
    deployment, label = report.deployment, report.deployment.label
    table = pa.concat_tables(sample.rows for sample in report.samples)
    good = sum(sample.read - sample.rejected.total() for sample in report.samples)
    whole = all(sample.whole for sample in report.samples) and table.num_rows == good
    files = sum(map(len, report.spans.values()))
    rows = row_checks.Rows(table, whole and len(report.samples) == files)
    if not rows.table.num_rows:
        return
    report.label = row_checks.distribution(label, rows)
    report.findings += row_checks.check_label(label, rows)
    if label.example_weight:
        report.findings += row_checks.check_weight(label.example_weight, rows)
    for feature in deployment.preprocessing.specs():
        report.findings += row_checks.check_feature(feature, rows)
    by_span = _rows_by_span(report)
    for metric in _of_past_pairs(deployment):
        held_out = statistics.median(by_span.values()) * deployment.data.eval_share
        kept = deployment.replay.holdout_per_span
        report.findings += row_checks.check_rarer_class(metric, label, rows, held_out, kept)
    all_rows = sum(by_span.values()) / len(by_span) * len(report.spans)
    for i, names in enumerate(deployment.slices):
        report.findings += row_checks.check_slice(
            f"slices.{i}", names, rows, all_rows * deployment.data.eval_share, deployment.gates.min_examples
        )


def _of_past_pairs(deployment: Deployment) -> list[str]:
    """The metrics that past spans are judged by, of those that compare pairs."""
    return [
        metric
        for metric, gate in deployment.gate_metrics.items()
        if METRICS[metric].ranks and any(getattr(gate, limit) is not None for limit in FORGETTING)
    ]


def to_json(report: Report) -> dict[str, Any]:
    """The report as data."""
    return {
        "deployment": report.deployment.name,
        "spans": {span: len(files) for span, files in report.spans.items()},
        "files": [
            {
                "span": sample.source.span,
                "path": sample.source.path,
                "format": sample.format,
                "rows": sample.expected,
                "rows_read": sample.read,
                "quarantined": dict(sample.rejected),
                "unknown_columns": sample.unknown,
            }
            for sample in report.samples
        ],
        "label": report.label,
        "errors": [{"where": found.where, "text": found.text} for found in report.of("error")],
        "warnings": [{"where": found.where, "text": found.text} for found in report.of("warning")],
    }


def to_text(report: Report) -> str:
    """The report for a person."""
    deployment, label = report.deployment, report.deployment.label
    of = f" ({label.expression})" if label.expression else ""
    lines = [
        f"{deployment.name}: {label.task} label {label.name}{of}, "
        f"{_many(len(deployment.preprocessing.features), 'feature')}, model {deployment.model.type}"
    ]
    if report.spans:
        named, spans = pattern.parse(deployment.data.pattern), list(report.spans)
        ends = [named.label([span]) for span in dict.fromkeys((spans[0], spans[-1]))]
        files = _many(sum(map(len, report.spans.values())), "file")
        lines.append(f"{_many(len(spans), 'span')} in {deployment.data.path}: {' to '.join(ends)}; {files}")
    for sample in report.samples:
        place = _place(deployment, sample.source.span, Path(sample.source.path))
        rows = _many(sample.read, "row") + (
            "" if sample.whole else f" of about {_rounded(sample.expected):,}"
        )
        bad = f", {sample.rejected.total():,} would be quarantined" if sample.rejected else ""
        lines.append(f"  {place} ({sample.format}): {rows} looked at{bad}")
    if report.label:
        lines.append(f"  {label.name}: {report.label}")
    lines += map(str, [*report.of("error"), *report.of("warning")])
    lines.append(f"{_many(len(report.of('error')), 'error')}, {_many(len(report.of('warning')), 'warning')}")
    return "\n".join(lines)


def _rounded(count: int) -> int:
    """To two digits, as far as an estimate is good for."""
    return round(count, 2 - len(str(count)))


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
