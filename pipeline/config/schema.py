"""The deployment's schema: read, checked against the configuration, completed for the pipeline."""

from __future__ import annotations

import difflib
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.errors import RetrainError
from components.expression import parse
from components.features import (
    Bucketized,
    Categorical,
    Cross,
    Feature,
    Hashed,
    Identity,
    Numeric,
    Tensor,
    Text,
    Timestamp,
)
from components.label import Label
from components.names import BOOKKEEPING, EXAMPLE_ID, SPAN
from pipeline.config import Deployment

SERVING_ENVIRONMENT = "SERVING"
INACTIVE_STAGES = ("PLANNED", "ALPHA", "DEBUG_ONLY", "DEPRECATED", "DISABLED")
"""The stages of a feature that TFDV does not validate, and ingest does not read."""


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
        RetrainError: listing everything that `contradictions` finds.
    """
    found = contradictions(deployment, schema)
    if found:
        lines = "\n".join(f"  {problem}" for problem in found)
        raise RetrainError(f"the configuration contradicts its schema {deployment.schema_path}:\n{lines}")


def contradictions(deployment: Deployment, schema: Any) -> list[str]:
    """Every column that the configuration names and the schema does not have, or has otherwise."""
    from components.ingest.recipe import make_recipe

    found = _names(schema)
    columns = _Columns(schema, found)
    for feature in deployment.preprocessing.specs():
        key = f"preprocessing.features.{feature.name}"
        for column in columns.known(key, feature.columns):
            if not columns.served(key, column, deployment.label.name):
                continue
            found += [f"{key}: {reason}" for reason in _unfit(feature, column)]
    for column in columns.known("preprocessing.columns", deployment.preprocessing.columns):
        columns.served("preprocessing.columns", column, deployment.label.name)
    columns.known("replay.by", [name for name in deployment.replay.by if name != deployment.label.name])
    for i, names in enumerate(deployment.slices):
        columns.known(f"slices.{i}", names)
    found += _label_problems(deployment.label, columns)
    found += _trusted_problems(deployment.poisoning.trusted, columns)
    found += log_problems(deployment, schema)
    if not found:  # what the recipe says of a column that is not there, is said above, and better
        try:
            make_recipe(complete_schema(deployment, schema), deployment.label.model_dump_json(), 0.5)
        except RetrainError as error:
            found.append(str(error))
    return found


def log_problems(deployment: Deployment, schema: Any) -> list[str]:
    """Every column that the prediction log is to drop or hash, and cannot."""
    settings = deployment.serving.prediction_log
    if settings is None:
        return []
    found: list[str] = []
    columns = _Columns(schema, found)
    columns.known("serving.prediction_log.drop", settings.drop)
    for column in columns.known("serving.prediction_log.hash", settings.hash):
        if (kind := _kind(column)) != "BYTES":
            found.append(
                f"serving.prediction_log.hash: {column.name} is {kind} in the schema, and a hash is text; a "
                "number can be dropped (`drop`)"
            )
    return found


def _names(schema: Any) -> list[str]:
    names = Counter(feature.name for feature in schema.feature)
    return [
        f"schema: the feature {name!r} is the pipeline's own; rename the column"
        for name in sorted(BOOKKEEPING & names.keys())
    ] + [f"schema: the feature {name!r} is there twice; remove one" for name in names if names[name] > 1]


class _Columns:
    """The columns of a schema, for the keys that name them; adds to `found` what is wrong."""

    def __init__(self, schema: Any, found: list[str]) -> None:
        self.schema, self.found = schema, found
        self.columns = {feature.name: feature for feature in schema.feature}

    def known(self, key: str, names: Iterable[str]) -> list[Any]:
        """Those of the columns that are there and are ingested."""
        ingested = []
        for name in names:
            if name not in self.columns:
                close = difflib.get_close_matches(name, self.columns, 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                self.found.append(f"{key}: got {name!r}, which is no feature of the schema{hint}")
            elif why := _left_out(self.columns[name], self.schema):
                self.found.append(f"{key}: {name} is {why}: it is not ingested")
            else:
                ingested.append(self.columns[name])
        return ingested

    def served(self, key: str, column: Any, label: str) -> bool:
        """Whether a request has the column."""
        if column.name == label:
            why = "is the label; a model that sees its label learns nothing"
        elif SERVING_ENVIRONMENT in column.not_in_environment:
            why = f"is not in the schema's {SERVING_ENVIRONMENT} environment: no request has it"
        else:
            return True
        self.found.append(f"{key}: {column.name} {why}")
        return False


def _left_out(column: Any, schema: Any) -> str:
    """Why ingest leaves a column out, if it does."""
    from tensorflow_metadata.proto.v0 import schema_pb2

    from components.ingest.recipe import TRAINING

    stage = schema_pb2.LifecycleStage.Name(column.lifecycle_stage)
    if stage in INACTIVE_STAGES:
        return f"{stage} in the schema"
    named, default = column.in_environment, schema.default_environment
    expected = TRAINING in named or (
        TRAINING not in column.not_in_environment and (TRAINING in default if default else not named)
    )
    return "" if expected else f"not in the schema's {TRAINING} environment"


def _unfit(feature: Feature, column: Any) -> list[str]:
    """Why a model can't have such a feature of that column."""
    kind, most = _kind(column), _most_values(column)
    reasons, name = [], column.name
    is_number = kind in ("INT", "FLOAT")

    def refuse(instead: str) -> None:
        stored = "text" if kind == "BYTES" else kind
        reasons.append(f"type is {feature.type}, but {name} is {stored} in the schema; use {instead}")

    if isinstance(feature, Numeric | Bucketized) and not is_number:
        refuse("categorical")
    if isinstance(feature, Tensor) and not is_number:
        refuse("a column of numbers")
    if isinstance(feature, Identity) and kind != "INT":
        refuse("numeric" if kind == "FLOAT" else "categorical")
    if isinstance(feature, Text) and kind != "BYTES":
        refuse("numeric or categorical")
    if isinstance(feature, Timestamp) and kind == "FLOAT":
        refuse("a column of INT (unix seconds or milliseconds) or BYTES (ISO 8601 text)")
    if isinstance(feature, Categorical | Hashed):
        if feature.separator and kind != "BYTES":
            reasons.append(f"separator: {name} is {kind} in the schema, and only text is split; remove it")
        if feature.multivalent and most == 1:
            reasons.append(
                f"multivalent: the schema allows {name} one value; allow more (value_count), or remove it"
            )
    one_each = isinstance(feature, Cross) or (isinstance(feature, Tensor) and feature.of is not None)
    if one_each and most not in (1, None):
        reasons.append(f"columns: the schema allows {name} {most or 'many'} values, expected one a row")
    if isinstance(feature, Tensor) and feature.of is None and most is not None and 0 < most < feature.size:
        reasons.append(
            f"shape: {feature.shape} takes {feature.size} numbers, and the schema allows {name} {most} "
            "(value_count)"
        )
    return reasons


def _label_problems(label: Label, columns: _Columns) -> list[str]:
    if label.expression:
        used = columns.known("label.expression", sorted(parse(label.expression).columns))
        problems = [
            f"label.expression: the schema allows {column.name} several values, expected one a row"
            for column in used
            if _most_values(column) not in (1, None)
        ]
    else:
        problems = [
            f"label.name: {column.name} {why}"
            for column in columns.known("label.name", [label.name])
            if (why := _no_label(label, column))
        ]
    if label.example_weight:
        problems += [
            f"label.example_weight: {column.name} is {_kind(column)} in the schema, expected INT or FLOAT"
            for column in columns.known("label.example_weight", [label.example_weight])
            if _kind(column) not in ("INT", "FLOAT")
        ]
    return problems


def _trusted_problems(expression: str | None, columns: _Columns) -> list[str]:
    """What is wrong with `poisoning.trusted`; tried on columns without rows, it is checked for types, too."""
    import pyarrow as pa

    if expression is None:
        return []
    names = parse(expression).columns
    known = columns.known("poisoning.trusted", sorted(names))
    if len(known) < len(names):
        return []  # said already
    several = [column.name for column in known if _most_values(column) not in (1, None)]
    if several:
        return [f"poisoning.trusted: the schema allows {several[0]} several values, expected one a row"]
    kinds = {"INT": pa.int64(), "FLOAT": pa.float64(), "BYTES": pa.string()}
    try:
        parse(expression).holds({column.name: pa.array([], kinds[_kind(column)]) for column in known})
    except RetrainError as error:
        return [f"poisoning.trusted: {error}"]
    return []


def _no_label(label: Label, column: Any) -> str:
    """Why a column cannot be the label of the task."""
    kind = _kind(column)
    if _most_values(column) not in (1, None):
        return "may have several values in the schema (value_count), expected one a row"
    if kind == "BYTES" and label.task == "binary":
        return f"is text in the schema; give an expression, such as \"{column.name} == 'yes'\""
    if kind == "BYTES" and label.task == "regression":
        return "is text in the schema, and a regression's label is a number; is the task multiclass?"
    if kind == "FLOAT" and label.task == "multiclass":
        return "is FLOAT in the schema, and classes are text or INT; is the task regression?"
    return ""


def _kind(column: Any) -> str:
    from tensorflow_metadata.proto.v0 import schema_pb2

    return str(schema_pb2.FeatureType.Name(column.type))


def _most_values(column: Any) -> int | None:
    """How many values a row may have of a column: 0 any number; None: the schema does not say."""
    if column.HasField("shape"):
        return math.prod(dim.size for dim in column.shape.dim)
    return int(column.value_count.max) if column.HasField("value_count") else None


def complete_schema(deployment: Deployment, schema: Any) -> Any:
    """The schema of the examples.

    Beside the columns it has the bookkeeping features and a computed label. What no request holds - those,
    and columns that only the label or the weight of an example is made of - is not in the environment
    SERVING. A multiclass label is text. And every column is parsed alike, as lists of varying length: a
    `shape` would make another tensor of it, and becomes a `value_count`. Integers that are a category are
    called so, that TFDV counts their values, where this changes neither validation nor drift.
    """
    from tensorflow_metadata.proto.v0 import schema_pb2

    from components.ingest.recipe import make_recipe

    complete, label = schema_pb2.Schema(), deployment.label
    complete.CopyFrom(schema)
    complete.ClearField("tensor_representation_group")
    complete.ClearField("represent_variable_length_as_ragged")
    for column in complete.feature:
        if column.HasField("shape"):
            values = math.prod(dim.size for dim in column.shape.dim)
            column.value_count.min = column.value_count.max = values
    columns = {column.name: column for column in complete.feature}
    for name in (label.name, SPAN, EXAMPLE_ID):
        if name not in columns:
            column = columns[name] = complete.feature.add(name=name, type=schema_pb2.INT)
            column.presence.min_fraction = 1.0
            column.presence.min_count = 1
            column.value_count.min = column.value_count.max = 1
            if name == label.name:
                computed = make_recipe(schema, label.model_dump_json(), deployment.data.eval_share).label_kind
                column.type = schema_pb2.FeatureType.Value(computed)
    if label.task == "multiclass" and columns[label.name].type == schema_pb2.INT:
        columns[label.name].type = schema_pb2.BYTES
        columns[label.name].ClearField("int_domain")
    for name in _counted(deployment):
        column = columns[name]
        compared = column.HasField("drift_comparator") or column.HasField("skew_comparator")
        if column.type == schema_pb2.INT and not compared and column.WhichOneof("domain_info") is None:
            column.int_domain.is_categorical = True
    label_only = set(parse(label.expression).columns if label.expression else ())
    label_only |= {label.example_weight} if label.example_weight else set()
    for name in {label.name, SPAN, EXAMPLE_ID} | (label_only - deployment.columns.keys()):
        environments = columns[name].not_in_environment
        if SERVING_ENVIRONMENT not in environments:
            environments.append(SERVING_ENVIRONMENT)
    return complete


def _counted(deployment: Deployment) -> set[str]:
    """The columns of vocabularies, but for those that are also read as numbers."""
    specs = deployment.preprocessing.specs()
    categories = {spec.column for spec in specs if isinstance(spec, Categorical)}
    numbers = {c for spec in specs if isinstance(spec, Numeric | Bucketized | Tensor) for c in spec.columns}
    return categories - numbers


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
