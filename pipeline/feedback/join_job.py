"""The Beam job that joins the log with the labels, and leaves what became of them in a folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.parquetio import WriteToParquet
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import TaggedOutput

from components import beam_memory
from components.errors import RetrainError
from components.feedback.beam import COUNTS, WAITING, JoinLabels, ReadLog
from components.feedback.join import Clock, Done, LabelRow
from components.feedback.log import Logged
from pipeline.beam_args import job_args
from pipeline.feedback import ledger
from pipeline.feedback.labels import BadRow, LabelFormat, read_labels
from pipeline.feedback.rows import Columns, as_lists, as_values, read_batches, values_type

_BAD, _PROBLEM = "bad", "problem"
_BAD_KEPT = 100  # rows of a reason
_DONE = pa.schema([("key", pa.string()), ("time", pa.float64()), ("label", pa.string())])


@dataclass(frozen=True)
class Job:
    """What is joined.

    Attributes:
        log: folder of the prediction log.
        log_files: names of its files that are read.
        since: predictions from then on, in unix seconds.
        model: whose predictions.
        requests: name in a request -> raw column, where these differ.
        labels: files of labels.
        form: what they hold.
        waiting, done: Parquet files of the last generation.
        columns: what a row of a span is made of.
        clock: what time it is.
    """

    log: str
    log_files: Sequence[str]
    since: float
    model: str
    requests: dict[str, str]
    labels: Sequence[str]
    form: LabelFormat
    waiting: Sequence[str]
    done: Sequence[str]
    columns: Columns
    clock: Clock


def run(job: Job, folder: Path, beam_args: Sequence[str]) -> tuple[Counter[str], list[BadRow]]:
    """Joins, and writes `rows`, `waiting` and `done` of a generation into a folder.

    Returns:
        What was counted, as `components.feedback.join.COUNTS` names it, with `bad: REASON` for rows that
        cannot be used; and some of these.

    Raises:
        RetrainError: a file of labels is damaged.
    """
    told = folder / "told"
    with beam_memory.remembered(), beam.Pipeline(options=PipelineOptions(job_args(beam_args))) as pipeline:
        _build(pipeline, job, folder, told)
    counts: Counter[str] = Counter()
    bad, problems = [], []
    for path in sorted(folder.glob("told-*")):
        for line in path.read_text().splitlines():
            kind, content = json.loads(line)
            if kind == COUNTS:
                counts[content[0]] += content[1]
            elif kind == _BAD:
                bad.append(BadRow(**content))
            else:
                problems.append(content)
        path.unlink()
    if problems:
        raise RetrainError("\n".join(sorted(problems)))
    return counts, sorted(bad, key=lambda row: (row.file, row.line))


def _build(pipeline: Any, job: Job, folder: Path, told: Path) -> None:
    log = (
        pipeline
        | "LogFiles" >> beam.Create(list(job.log_files))
        | "ReadLog" >> ReadLog(job.log, job.since, job.model, job.requests)
    )
    labels = (
        pipeline
        | "LabelFiles" >> beam.Create(list(job.labels))
        | "SpreadFiles" >> beam.Reshuffle()
        | "ReadLabels" >> beam.FlatMap(_read_labels, job).with_outputs(_BAD, _PROBLEM, main="labels")
    )
    waiting = (
        pipeline | "WaitingFiles" >> beam.Create(list(job.waiting)) | "ReadWaiting" >> beam.FlatMap(_waiting)
    )
    done = pipeline | "DoneFiles" >> beam.Create(list(job.done)) | "ReadDone" >> beam.FlatMap(_done)
    joined = {
        "predictions": log.rows,
        "labels": (labels.labels, waiting) | "AllLabels" >> beam.Flatten(),
        "done": done,
    } | "Join" >> JoinLabels(job.clock)
    rows = joined.joined | "MakeRows" >> beam.FlatMap(_row, job).with_outputs(_BAD, main="rows")
    remembered = (
        done | "StillOfUse" >> beam.Filter(lambda one: one.time >= job.since),
        joined.joined | "ToDone" >> beam.Map(lambda pair: Done(pair[0].key, pair[0].time, pair[1].id)),
    ) | "AllDone" >> beam.Flatten()
    types = {"row": row_schema(job.columns), "label": label_schema(job.form)}
    rows.rows | "WriteRows" >> _write(folder, ledger.ROWS, types["row"])
    (
        joined[WAITING]
        | "FromLabels" >> beam.Map(lambda row: asdict(row) | {"values": as_lists(row.values)})
        | "WriteWaiting" >> _write(folder, ledger.WAITING, types["label"])
    )
    (remembered | "FromDone" >> beam.Map(asdict) | "WriteDone" >> _write(folder, ledger.DONE, _DONE))
    _tell(log[COUNTS], joined[COUNTS], labels[_BAD], rows[_BAD], labels[_PROBLEM], told)


def _write(folder: Path, kind: str, schema: pa.Schema) -> Any:
    return WriteToParquet(str(folder / kind), schema, file_name_suffix=".parquet")


def _tell(logged: Any, joined: Any, labels: Any, rows: Any, problems: Any, told: Path) -> None:
    """Adds up what was counted, and writes it with some of the bad rows."""
    bad = (labels, rows) | "AllBad" >> beam.Flatten()
    counted = bad | "CountBad" >> beam.Map(lambda row: (f"bad: {row.counted}", 1))
    sums = (logged, joined, counted) | "AllCounts" >> beam.Flatten() | "AddUp" >> beam.CombinePerKey(sum)
    some = (
        bad
        | "ByReason" >> beam.Map(lambda row: (row.counted, row))
        | "Some" >> beam.combiners.Top.SmallestPerKey(_BAD_KEPT, key=lambda row: (row.file, row.line))
        | "Them" >> beam.FlatMap(lambda keyed: [(_BAD, asdict(row)) for row in keyed[1]])
    )
    lines = (
        sums | "TellCounts" >> beam.Map(lambda count: (COUNTS, count)),
        some,
        problems | "TellProblems" >> beam.Map(lambda problem: (_PROBLEM, problem)),
    )
    (
        lines
        | "All" >> beam.Flatten()
        | "ToJson" >> beam.Map(json.dumps)
        | "Tell" >> beam.io.WriteToText(str(told))
    )


def _read_labels(path: str, job: Job) -> Iterator[LabelRow | TaggedOutput]:
    try:
        for row in read_labels(Path(path), job.form, job.clock.now):
            yield TaggedOutput(_BAD, row) if isinstance(row, BadRow) else row
    except RetrainError as error:  # Beam would hand on a traceback as text
        yield TaggedOutput(_PROBLEM, str(error))


def _row(pair: tuple[Logged, LabelRow], job: Job) -> Iterator[dict[str, Any] | TaggedOutput]:
    asked, label = pair
    made = job.columns.row(asked, label)
    if isinstance(made, str):
        reason, _, detail = made.partition(": ")
        text = json.dumps({"key": asked.key, "problem": detail})
        yield TaggedOutput(_BAD, BadRow(label.file, label.line, made, f"{reason}: cannot be written", text))
        return
    yield {"key": asked.key, "time": asked.time, "version": asked.version, "values": made}


def row_schema(columns: Columns) -> pa.Schema:
    """Of joined rows."""
    return pa.schema(
        [
            ("key", pa.string()),
            ("time", pa.float64()),
            ("version", pa.int64()),
            ("values", values_type({column.name: column.kind for column in columns.all})),
        ]
    )


def label_schema(form: LabelFormat) -> pa.Schema:
    """Of labels that wait."""
    return pa.schema(
        [
            ("key", pa.string()),
            ("time", pa.float64()),
            ("values", values_type(form.columns)),
            ("seen", pa.float64()),
            ("file", pa.string()),
            ("line", pa.int64()),
        ]
    )


def _waiting(path: str) -> Iterator[LabelRow]:
    for batch in read_batches(path):
        for row in batch.to_pylist():
            yield LabelRow(**row | {"values": as_values(row["values"])})


def _done(path: str) -> Iterator[Done]:
    for batch in read_batches(path):
        for row in batch.to_pylist():
            yield Done(**row)
