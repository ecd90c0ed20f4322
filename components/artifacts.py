"""Artifact types of our own, in ML Metadata's sense."""

from __future__ import annotations

from tfx.types.artifact import Artifact, Property, PropertyType


class Quarantine(Artifact):
    """Rows that ingest kept out of the examples.

    * File structure:
       - `{uri}/`
          - `rows.jsonl`: one object a row: `span`, `file`, `line` (physical, from 1), `reason`, `text` (the
            row, at most 2 kB). A bounded number of rows of every reason in a span.
          - `report.json`: all rows counted: `rows_read`, `rows_kept`, `quarantined`, `by_reason`, `per_span`,
            `unknown_columns`.
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
