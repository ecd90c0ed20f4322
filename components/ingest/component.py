"""The TFX component of ingest."""

from __future__ import annotations

import json
import os
from typing import Any

import apache_beam as beam
from tfx import types
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.artifacts import Quarantine, read_schema
from components.errors import RetrainError
from components.ingest import recipe, report
from components.ingest.beam import CutIntoParts, ParseAndWrite, WriteSummary, record_writer
from components.ingest.split import SPLITS

ROWS_FILE = "rows.jsonl"
REPORT_FILE = "report.json"


class Executor(base_beam_executor.BaseBeamExecutor):
    """Ingests all spans of a run in one Beam job."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the examples and the quarantine; see `Ingest`.

        Raises:
            RetrainError: a parameter, a file or a span cannot be used; nothing of it is in the examples.
        """
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        quarantine = artifact_utils.get_single_instance(output_dict["quarantine"])
        sources = recipe.read_spans(exec_properties["spans"])
        rules = recipe.make_recipe(
            read_schema(artifact_utils.get_single_uri(input_dict["schema"])),
            exec_properties["label"],
            exec_properties["eval_share"],
        )
        parts = os.path.join(examples.uri, "parts")  # not Split-*, so no reader takes it for data
        fileio.makedirs(parts)
        summary_path = os.path.join(parts, "summary.json")
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Sources" >> beam.Create(sources, reshuffle=False)
                | "CutIntoParts" >> CutIntoParts(rules)
                | "ParseAndWrite" >> ParseAndWrite(rules, parts)
                | "WriteSummary" >> WriteSummary(summary_path)
            )
        summary = report.Summary.from_json(_read(summary_path))
        report.match_names(summary, sources, rules)
        report.check_files(summary)
        written = _write_quarantine(summary, quarantine.uri, exec_properties.get("quarantine_dir"))
        report.check_quarantine(summary, exec_properties["max_quarantine_share"], written)
        _publish(summary, examples)
        fileio.rmtree(parts)


class IngestSpec(ComponentSpec):
    """Inputs, parameters and outputs of `Ingest`."""

    PARAMETERS = {
        "spans": ExecutionParameter(type=str),
        "label": ExecutionParameter(type=str),
        "eval_share": ExecutionParameter(type=float),
        "max_quarantine_share": ExecutionParameter(type=float),
        "fingerprint": ExecutionParameter(type=str),
        "quarantine_dir": ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {"schema": ChannelParameter(type=standard_artifacts.Schema)}
    OUTPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "quarantine": ChannelParameter(type=Quarantine),
    }


class Ingest(base_beam_component.BaseBeamComponent):
    """Reads the files of spans, of whatever formats, into examples with the splits train and eval.

    A file is CSV or TFRecord of tf.Examples, plain or gzipped, or Parquet, by its first bytes. The schema
    says what a column's values become (`values.py`), and lists are features of several values. All formats go
    one way: blocks of a file (`format.py`), rows of a block, examples of rows (`logic.py`).

    TFX's own CsvExampleGen does not do. It handles every row as Python objects: 4,000 rows a second on one
    core, and 1.5 s a job before the first, where this, in whole Arrow columns, does 83,000 and needs 0.4 s
    (measured side by side, 18 columns, in-memory Beam). A row of another length stops it, and one cell that
    is no number turns the whole column into text for that run; here the row is set aside and counted. And
    it takes one span of one format, and its examples do not say which.

    Every example has the schema's columns, the label, and the bookkeeping features of `components.names`. An
    empty cell, a null, an empty list and an empty text are a feature without a value. Rows keep the files'
    order within a split; a trainer shuffles.

    Outputs:
    - `examples`: gzipped TFRecords of tf.Examples, with the custom properties `rows_train` and `rows_eval`.
    - `quarantine`: the rows that were set aside, and `report.json` (see `Quarantine`).
    """

    SPEC_CLASS = IngestSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        schema: types.BaseChannel,
        spans: str,
        label: str,
        eval_share: float,
        max_quarantine_share: float,
        fingerprint: str,
        quarantine_dir: str | None = None,
    ):
        """
        Args:
            schema: channel of a Schema with a feature for every column that is read.
            spans: JSON, `[{"span": 3, "files": ["data/3/a.csv", ...]}, ...]`.
            label: JSON, `{"name": "late", "expression": "delay > 15"}`; without an expression a column.
                Further keys are for other rooms.
            eval_share: 0..1, the share of rows in eval, drawn by a hash of the row's content.
            max_quarantine_share: 0..1, of the rows read in a span; more rejected rows stop the run.
            fingerprint: of the files' content; only there so that TFX's cache sees a changed file.
            quarantine_dir: folder where the rejected rows go as `{span}.jsonl` too. TFX deletes the
                artifacts of a run that fails, which is when these are wanted.

        Raises:
            RetrainError: a parameter is out of its range or cannot be read.
        """
        recipe.read_spans(spans)
        recipe.read_label(label)
        for name, share in {"eval_share": eval_share, "max_quarantine_share": max_quarantine_share}.items():
            if not 0 <= share <= 1:
                raise RetrainError(f"{name}: got {share}, required is a share from 0 to 1")
        super().__init__(
            IngestSpec(
                schema=schema,
                spans=spans,
                label=label,
                eval_share=float(eval_share),
                max_quarantine_share=float(max_quarantine_share),
                fingerprint=fingerprint,
                quarantine_dir=quarantine_dir,
                examples=types.Channel(type=standard_artifacts.Examples),
                quarantine=types.Channel(type=Quarantine),
            )
        )


def _write_quarantine(summary: report.Summary, folder: str, copies: str | None) -> dict[int, str]:
    """Writes the artifact and, where wanted, a copy a span; says where every span's copy is."""
    rows = {number: span.rows() for number, span in sorted(summary.spans.items())}
    fileio.makedirs(folder)
    _write(os.path.join(folder, ROWS_FILE), "".join(map(report.to_lines, rows.values())))
    _write(os.path.join(folder, REPORT_FILE), json.dumps(report.to_report(summary), indent=2) + "\n")
    if not copies:
        return {}
    fileio.makedirs(copies)
    paths = {number: os.path.join(copies, f"{number}.jsonl") for number in rows}
    for number, path in paths.items():
        if rows[number]:
            _write(path + ".tmp", report.to_lines(rows[number]))
            fileio.rename(path + ".tmp", path, overwrite=True)
        elif fileio.exists(path):  # of an earlier try, since mended
            fileio.remove(path)
    return paths


def _publish(summary: report.Summary, examples: types.Artifact) -> None:
    """Gives the shards the names that TFX's readers expect, in the order of the rows in them."""
    examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
    # As FileBasedExampleGen sets them, from tfx.components, which takes 16 s to import.
    examples.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
    examples.set_string_custom_property("file_format", "tfrecords_gzip")
    kept = report.to_report(summary)["rows_kept"]
    for split in SPLITS:
        examples.set_int_custom_property(f"rows_{split}", kept[split])
        folder = artifact_utils.get_split_uri([examples], split)
        fileio.makedirs(folder)
        shards = [shard.path for shard in summary.shards if shard.split == split]
        if not shards:  # no rows: readers still want a file
            shards = [os.path.join(folder, "empty.gz")]
            record_writer(shards[0]).close()
        for i, shard in enumerate(shards):
            name = f"data_tfrecord-{i:05d}-of-{len(shards):05d}.gz"
            fileio.rename(shard, os.path.join(folder, name))


def _read(path: str) -> str:
    with fileio.open(path, "rb") as file:
        return file.read().decode("utf-8")


def _write(path: str, text: str) -> None:
    with fileio.open(path, "wb") as file:
        file.write(text.encode("utf-8"))
