"""What a run ingests and by which rules: the spans' files, the columns, the label, a file's layout."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2

from components import expression
from components.errors import RetrainError
from components.ingest.cells import Kind
from components.ingest.fingerprint import relative_names
from components.names import BOOKKEEPING

NAMES_TOLD = 20  # of a list of columns
TRAINING = "TRAINING"  # the schema environment of the data that is ingested

_KINDS: dict[int, Kind] = {schema_pb2.INT: "INT", schema_pb2.FLOAT: "FLOAT", schema_pb2.BYTES: "BYTES"}
_INACTIVE = frozenset(  # the stages that TFDV leaves out of validation
    [schema_pb2.PLANNED, schema_pb2.ALPHA, schema_pb2.DEBUG_ONLY, schema_pb2.DEPRECATED, schema_pb2.DISABLED]
)


@dataclass(frozen=True)
class Source:
    """One file of one span.

    Attributes:
        span: the span's number.
        path: where it is read.
        name: its path within the span, which does not change when the span's folder moves.
        order: its place among all files of the run.
    """

    span: int
    path: str
    name: str
    order: int

    def __str__(self) -> str:
        return f"span {self.span}, {self.path}"


@dataclass(frozen=True)
class Column:
    """A column that the schema knows.

    Attributes:
        name: in the file and in the schema.
        kind: what its values become.
        required: whether the schema wants it in some row (`presence`), so that a file without a header, where
            every row says its own columns, must have it too.
    """

    name: str
    kind: Kind
    required: bool = True


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what becomes of a row.

    Attributes:
        columns: the files' columns that are read, in the schema's order.
        ignored: columns that the schema knows and training does not use.
        label: the label feature's name.
        label_kind: its type.
        label_expression: what computes it, or None where it is one of the columns.
        eval_share: 0..1, the share of rows in the eval split.
        task: `binary`, `multiclass` or `regression`, which says what a label may be; empty: anything.
        log: of a regression, whether the label's logarithm is learned.
        weight: the column that says how much a row counts, or None.
    """

    columns: tuple[Column, ...]
    ignored: frozenset[str]
    label: str
    label_kind: Kind
    label_expression: str | None
    eval_share: float
    task: str = ""
    log: bool = False
    weight: str | None = None

    @functools.cached_property
    def single(self) -> tuple[str, ...]:
        """The columns that must have one value a row: the label's, or those that it is computed from, and
        the weight's."""
        weight = (self.weight,) if self.weight else ()
        if self.label_expression is None:
            return (self.label, *weight)
        return (*expression.parse(self.label_expression).columns, *weight)


def read_spans(text: str) -> list[Source]:
    """Sources in order from the JSON list `[{"span": 3, "files": ["a.csv", ...]}, ...]`.

    Raises:
        RetrainError: it is no such list, a span is no number from 0 on, comes twice, has no file or has one
            twice.
    """
    shape = 'spans: required is a JSON list such as [{"span": 3, "files": ["data/3/a.csv"]}]'
    try:
        given = [(entry["span"], entry["files"]) for entry in json.loads(text)]
    except (ValueError, TypeError, KeyError) as error:
        raise RetrainError(f"{shape}, got {text[:200]!r} ({type(error).__name__}: {error})") from None
    if not given:
        raise RetrainError(f"{shape}, got an empty one: there is nothing to ingest")
    sources: list[Source] = []
    for span, files in given:
        if type(span) is not int or not isinstance(files, list) or not all(type(f) is str for f in files):
            raise RetrainError(f"{shape}, got {{'span': {span!r}, 'files': {str(files)[:200]}}}")
        if span < 0 or any(source.span == span for source in sources):
            raise RetrainError(
                f"spans: span {span} is negative or comes twice; every span has one number from 0 on"
            )
        if not files or len(set(files)) < len(files):
            raise RetrainError(
                f"spans: span {span} has no file, or one twice ({', '.join(files)}): an empty span cannot be "
                "ingested, and a file twice would count every row of it twice"
            )
        names = relative_names(files)
        sources += [Source(span, path, names[path], len(sources) + i) for i, path in enumerate(files)]
    return sources


def make_recipe(schema: schema_pb2.Schema, label: str, eval_share: float) -> Recipe:
    """Decides columns and label.

    Every feature of the schema is a column of the files by its name, except the bookkeeping ones and a
    computed label. Read are those that are expected in the environment TRAINING and in an active lifecycle
    stage.

    Args:
        schema: of the examples.
        label: JSON of a `components.label.Label`, of which all but `name` may be left out.
        eval_share: 0..1.

    Raises:
        RetrainError: a column has no type that a value can have, the label is no column and has no
            expression, or the expression does not fit the columns.
    """
    given = read_label(label)
    name, text = given["name"], given.get("expression") or None
    if not 0 <= eval_share <= 1:
        raise RetrainError(f"eval_share: got {eval_share}, required is a share from 0 to 1")
    columns, ignored = [], set()
    declared: Kind | None = None  # the label's type in the schema, where it is computed
    for feature in schema.feature:
        if feature.name in BOOKKEEPING:
            continue
        if not _is_expected(feature, schema):
            ignored.add(feature.name)
            continue
        if feature.type not in _KINDS:
            raise RetrainError(
                f"schema: feature {feature.name!r} has the type {schema_pb2.FeatureType.Name(feature.type)}; "
                "a column is INT, FLOAT or BYTES"
            )
        if feature.name == name and text:
            declared = _KINDS[feature.type]
        else:
            wanted = feature.presence.min_fraction > 0 or feature.presence.min_count > 0
            columns.append(Column(feature.name, _KINDS[feature.type], wanted or feature.name == name))
    kinds = {column.name: column.kind for column in columns}
    kind = _label_kind(name, text, declared, kinds)
    weight = given.get("example_weight")
    if weight and kinds.get(weight) not in ("INT", "FLOAT"):
        raise RetrainError(
            f"label: the weight {weight!r} is no column of numbers{expression.closest(weight, kinds)}"
        )
    return Recipe(
        tuple(columns),
        frozenset(ignored),
        name,
        kind,
        text,
        eval_share,
        given.get("task", ""),
        given.get("log", False),
        weight,
    )


def match_header(header: Sequence[str], recipe: Recipe) -> list[str]:
    """Holds the columns of a file against the recipe's; whatever their order.

    Returns:
        The columns that the schema does not know.

    Raises:
        RetrainError: columns are missing or come twice; the message does not name the file.
    """
    wanted = [column.name for column in recipe.columns]
    unknown = _match(header, wanted, recipe, "The header has")
    counts = Counter(header)
    if twice := [name for name in wanted if counts[name] > 1]:
        raise RetrainError(f"the header has {_listed(twice)} more than once; name every column once")
    return unknown


def match_records(names: Iterable[str], recipe: Recipe) -> list[str]:
    """As `match_header`, of a file without a header: `names` are those of all its rows. A column may be
    missing that the schema wants in no row."""
    wanted = [column.name for column in recipe.columns if column.required]
    return _match(sorted(names), wanted, recipe, "Its records have")


def _match(names: Sequence[str], wanted: list[str], recipe: Recipe, has: str) -> list[str]:
    there = set(names)
    known = recipe.ignored.union(column.name for column in recipe.columns)
    unknown = [name for name in names if name not in known]
    missing = [name for name in wanted if name not in there]
    if not missing:
        return unknown
    told = [f"{name!r}{expression.closest(name, unknown)}" for name in missing[:NAMES_TOLD]]
    if len(missing) > NAMES_TOLD:
        told.append(f"and {len(missing) - NAMES_TOLD} more")
    hint = ""
    if len(names) == 1 and (other := next((c for c in ";\t|" if c in names[0]), None)):
        hint = f" The cells seem to be separated by {other!r}; required is a comma."
    raise RetrainError(
        f"{len(missing)} of the {len(wanted)} columns that the schema requires are missing: "
        f"{', '.join(told)}. {has} {_listed(names)}; unknown to the schema: {_listed(unknown)}.{hint} "
        "Mend the file, or mark the feature in the schema as DEPRECATED"
    )


def read_label(text: str) -> dict[str, Any]:
    """A label from its JSON.

    Raises:
        RetrainError: it is no such JSON, or the name or the expression is not allowed.
    """
    shape = 'label: required is JSON such as {"name": "late", "expression": "delay > 15"} or {"name": "late"}'
    try:
        given = json.loads(text)
        name, formula = given["name"], given.get("expression")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise RetrainError(f"{shape}, got {text[:200]!r}") from None
    if not isinstance(name, str) or not name or not isinstance(formula, str | None):
        raise RetrainError(f"{shape}, got {text[:200]!r}")
    if name in BOOKKEEPING:
        raise RetrainError(f"label: {name!r} is a name that every example already has; take another")
    if formula:
        expression.parse(formula)
    return dict(given)


def _is_expected(feature: schema_pb2.Feature, schema: schema_pb2.Schema) -> bool:
    """Whether training data has the feature: TFDV's rules, but without any environments everything counts."""
    if feature.lifecycle_stage in _INACTIVE:
        return False
    if TRAINING in feature.in_environment:
        return True
    if TRAINING in feature.not_in_environment:
        return False
    if schema.default_environment:
        return TRAINING in schema.default_environment
    return not feature.in_environment


def _label_kind(name: str, text: str | None, declared: Kind | None, columns: Mapping[str, Kind]) -> Kind:
    """The label's type; an expression is tried on columns without rows, which checks every type in it."""
    if text is None:
        if name not in columns:
            raise RetrainError(
                f"label: {name!r} is no column of the schema{expression.closest(name, columns)}, and has no "
                f"expression that computes it; the columns are {', '.join(sorted(columns))}"
            )
        return columns[name]
    if name in expression.parse(text).columns:
        raise RetrainError(
            f"label: the expression {text!r} uses the label's own name {name!r}, which is "
            "then no column of the files; give the label another name"
        )
    empty = {column: pa.array([], _parsed_type(kind)) for column, kind in columns.items()}
    computed: Kind = "INT" if expression.parse(text).evaluate(empty).type == pa.int64() else "FLOAT"
    if declared not in (None, computed, "FLOAT"):
        raise RetrainError(
            f"label: {text!r} gives {computed}, and the schema says that {name!r} is {declared}; "
            "change one of them"
        )
    return declared or computed


def _parsed_type(kind: Kind) -> pa.DataType:
    """Labels are computed in float64: float32 would move rows across a threshold like 0.2 * price."""
    return {"INT": pa.int64(), "FLOAT": pa.float64(), "BYTES": pa.string()}[kind]


def _listed(names: Sequence[str]) -> str:
    """Names as a message shows them; those that cannot be seen are counted."""
    seen = [name for name in names if name.strip(expression.INVISIBLE)]
    told = [repr(name) for name in seen[:NAMES_TOLD]]
    if len(seen) > NAMES_TOLD:
        told.append(f"and {len(seen) - NAMES_TOLD} more")
    if blank := len(names) - len(seen):
        told.append(f"{blank} without a name")
    return ", ".join(told) or "none"
