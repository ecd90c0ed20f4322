"""The deployment's schema: read, checked against the configuration, completed for the pipeline."""

from __future__ import annotations

import difflib
import hashlib
import os
from pathlib import Path
from typing import Any

from components.errors import RetrainError
from components.features import Feature
from components.names import BOOKKEEPING, EXAMPLE_ID, SPAN
from pipeline.config import Deployment

SERVING_ENVIRONMENT = "SERVING"


def read_schema(path: Path) -> Any:
    """Reads a TFDV schema.

    Raises:
        RetrainError: the file is not a schema in text format.
    """
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), schema_pb2.Schema())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise RetrainError(f"{path}: not a TFDV schema in text format: {error}") from None


def check_schema(deployment: Deployment, schema: Any) -> None:
    """Refuses a configuration that contradicts its schema.

    Raises:
        RetrainError: listing every column that is missing or of the wrong type.
    """
    from tensorflow_metadata.proto.v0 import schema_pb2

    columns, label = {feature.name: feature for feature in schema.feature}, deployment.label
    problems = [
        f"schema: the feature {name!r} is the pipeline's own; rename the column"
        for name in sorted(BOOKKEEPING & columns.keys())
    ]

    def known(key: str, name: str) -> bool:
        if name in columns:
            return True
        close = difflib.get_close_matches(name, columns, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        problems.append(f"{key}: got {name!r}, which is no feature of the schema{hint}")
        return False

    for feature in deployment.preprocessing.specs():
        key = f"preprocessing.features.{feature.name}"
        if known(key, feature.column):
            unfit = _unfit(feature, columns[feature.column], label.name)
            problems += [f"{key}: {reason}" for reason in unfit]
    for i, names in enumerate(deployment.slices):
        for name in names:
            known(f"slices.{i}", name)
    if label.expression:
        from components.ingest.expression import parse

        for name in sorted(parse(label.expression).columns):
            known("label.expression", name)
    elif known("label.name", label.name) and columns[label.name].type == schema_pb2.BYTES:
        problems.append(
            f"label.name: {label.name} is text in the schema; give an expression, such as "
            f"\"{label.name} == 'yes'\""
        )
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise RetrainError(f"the configuration contradicts its schema {deployment.schema_path}:\n{lines}")


def _unfit(feature: Feature, column: Any, label: str) -> list[str]:
    """Why a model can't have a feature of that column."""
    from tensorflow_metadata.proto.v0 import schema_pb2

    reasons, name = [], column.name
    if feature.kind == "numeric" and column.type not in (schema_pb2.INT, schema_pb2.FLOAT):
        reasons.append(f"type is numeric, but {name} is text in the schema; use categorical")
    if feature.kind == "identity" and column.type != schema_pb2.INT:
        other = "numeric" if column.type == schema_pb2.FLOAT else "categorical"
        reasons.append(f"type is identity, but {name} is no INT in the schema; use {other}")
    if name == label:
        reasons.append(f"{name} is the label; a model that sees its label learns nothing")
    elif SERVING_ENVIRONMENT in column.not_in_environment:
        reasons.append(f"{name} is not in the schema's {SERVING_ENVIRONMENT} environment: no request has it")
    return reasons


def complete_schema(deployment: Deployment, schema: Any) -> Any:
    """The schema of the examples: the columns, a computed label, and the bookkeeping features."""
    from tensorflow_metadata.proto.v0 import schema_pb2

    complete = schema_pb2.Schema()
    complete.CopyFrom(schema)
    names = {feature.name for feature in complete.feature}
    for name in (deployment.label.name, SPAN, EXAMPLE_ID):
        if name not in names:
            feature = complete.feature.add(name=name, type=schema_pb2.INT)
            feature.presence.min_fraction = 1.0
            feature.presence.min_count = 1
            feature.value_count.min = feature.value_count.max = 1
            feature.not_in_environment.append(SERVING_ENVIRONMENT)
    return complete


def write_schema(schema: Any, folder: Path) -> Path:
    """Writes a schema under its content's hash, so that the same schema is the same file."""
    from google.protobuf import text_format

    text = text_format.MessageToString(schema)
    path = folder / f"{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}.pbtxt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        aside.write_text(text)
        os.replace(aside, path)
    return path
