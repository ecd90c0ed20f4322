"""Artifacts, in ML Metadata's sense: types of our own, where they are, and the small files in them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import artifact_utils
from tfx.types.artifact import Artifact, Property, PropertyType

from components.errors import RetrainError


class Quarantine(Artifact):
    """Rows that ingest kept out of the examples.

    * File structure:
       - `{uri}/`
          - `rows.jsonl`: one object a row: `span`, `file`, `line` (physical, from 1), `reason`, `text` (the
            row, at most 2 kB). A bounded number of rows of every reason in a span.
          - `report.json`: all rows counted: `rows_read`, `rows_kept`, `quarantined`, `by_reason`, `per_span`
            (with `labels`, as they are distributed, and `repeated`, a share), `unknown_columns`.
    """

    TYPE_NAME = "Quarantine"


class Decision(Artifact):
    """Whether to train (`train`: 1 or 0), and why (`{uri}/decision.json`)."""

    TYPE_NAME = "Decision"
    PROPERTIES = {"train": Property(type=PropertyType.INT)}


class RegisteredVersion(Artifact):
    """A version of the model registry: its number, and all that is known of it (`{uri}/record.json`)."""

    TYPE_NAME = "RegisteredVersion"
    PROPERTIES = {"version": Property(type=PropertyType.INT)}


class EdgeModel(Artifact):
    """A TFLite model, where there is one that is good enough.

    * File structure:
       - `{uri}/`
          - `model.tflite`: with one signature, `serving_raw`; not there where there are problems.
          - `edge.json`: `problems` (texts), `quantization`, `seconds`, `memory_mb` (MiB) and, as far as it
            came, `size` (bytes), `operations` (of TensorFlow's own that it needs), `latency_ms` (`p50`,
            `p99`), `examples`, `difference`, `metric`, and its `value`, `base` and `drop`.
    """

    TYPE_NAME = "EdgeModel"


def folder_of(artifacts: Sequence[Artifact]) -> str:
    """The folder of the one artifact of an input.

    Raises:
        RetrainError: it is not there.
    """
    artifact = artifact_utils.get_single_instance(artifacts)
    if not os.path.isdir(artifact.uri):
        raise RetrainError(
            f"{artifact.type_name} {artifact.uri} is not there, although ML Metadata names it. "
            "Restore the folder"
        )
    return str(artifact.uri)


def read_json(folder: str, name: str) -> Any:
    """What a stage has left in a file of its artifact's folder."""
    with open(os.path.join(folder, name)) as file:
        return json.load(file)


def write_json(folder: str, name: str, content: Any) -> None:
    """Leaves it there for the stages behind; makes the folder. Nobody reads it before the stage has ended."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "w") as file:
        json.dump(content, file, indent=1)


def read_schema(folder: str) -> schema_pb2.Schema:
    """The schema of an artifact's folder.

    Raises:
        RetrainError: there is none.
    """
    path = os.path.join(folder, "schema.pbtxt")
    if not os.path.exists(path):
        raise RetrainError(f"{path}: there is no such file; the schema's artifact holds a schema.pbtxt")
    with open(path) as file:
        return text_format.Parse(file.read(), schema_pb2.Schema())
