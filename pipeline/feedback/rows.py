"""What a joined row is made of: which column comes from the request, which from the labels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import RetrainError
from components.feedback.join import LabelRow
from components.feedback.log import Logged, Value
from components.ingest.cells import Kind
from components.ingest.recipe import Column, Recipe
from pipeline.config import Deployment
from pipeline.feedback.labels import LabelFormat
from pipeline.feedback.prediction_log import hidden_columns

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Columns:
    """Where the raw columns of a new span come from.

    Attributes:
        all: the columns that a span's file has, in the schema's order.
        from_log: those that are taken from the log where the row has them there; the others are the labels'.
        flat: whether the file can hold neither lists nor bytes that are no UTF-8, as CSV cannot.
    """

    all: tuple[Column, ...]
    from_log: frozenset[str]
    flat: bool

    def row(self, asked: Logged, label: LabelRow) -> dict[str, Any] | str:
        """Column -> its values, or None where it is missing; or why the row cannot be in a span."""
        row: dict[str, Any] = {}
        for column in self.all:
            logged = column.name in self.from_log and column.name in asked.inputs
            value = (asked.inputs if logged else label.values).get(column.name)
            try:
                row[column.name] = self._values(value, column.kind)
            except ValueError as error:
                return f"{column.name}: {error}"
        return row

    def _values(self, value: Value, kind: Kind) -> list[Any] | None:
        if value is None:
            return None
        values = [_value(one, kind) for one in (value if isinstance(value, list) else [value])]
        if self.flat and len(values) > 1:
            raise ValueError("a list, which CSV cannot hold; let data.pattern end in .parquet or .tfrecord")
        if self.flat and kind == "BYTES":
            values[0].decode()  # a UnicodeDecodeError is a ValueError
        return values


def _value(value: Any, kind: Kind) -> Any:
    """A value as its column has it."""
    if kind == "BYTES" and isinstance(value, bytes):
        return value
    if kind == "FLOAT" and isinstance(value, int | float):
        return float(value)
    if kind == "INT" and isinstance(value, int | float) and int(value) == value:
        return int(value)
    raise ValueError(f"{value!r} is not {kind}")


def label_format(deployment: Deployment, recipe: Recipe) -> LabelFormat:
    """What the labels' files hold.

    Required are the columns that the label is made of, save those that requests have.
    """
    settings = deployment.feedback
    kinds = {column.name: column.kind for column in recipe.columns}
    return LabelFormat(settings.key, settings.time, kinds, _of_label(deployment, recipe))


def plan_columns(
    deployment: Deployment,
    recipe: Recipe,
    in_log: Collection[str],
    in_labels: Collection[str],
    flat: bool,
) -> Columns:
    """Where each column comes from.

    What a request has is taken from the log, as the model saw it; the label's columns, and what no request
    has, from the labels. Of a column that is hashed in the log the labels' own is taken.

    Args:
        deployment: the configuration.
        recipe: the columns of a span, and those that the schema requires.
        in_log: columns of some rows of the log.
        in_labels: columns of the labels' files.
        flat: as `Columns` has it.

    Raises:
        RetrainError: neither has a column that the schema requires.
    """
    logged = _logged(deployment) | (set(in_log) - hidden_columns(deployment).keys())
    gone = [
        column.name
        for column in recipe.columns
        if (column.required or column.name in recipe.single)
        and column.name not in logged
        and column.name not in in_labels
    ]
    if gone:
        hidden = hidden_columns(deployment)
        told = "; ".join(f"{name} {hidden.get(name, 'is in no request')}" for name in gone)
        raise RetrainError(
            f"feedback: the schema requires {len(gone)} column{'s' * (len(gone) > 1)} that neither the "
            f"prediction log nor the labels have: {told}. Add such columns to the labels, or mark the "
            "feature in the schema as DEPRECATED"
        )
    return Columns(recipe.columns, frozenset(logged - _of_label(deployment, recipe)), flat)


def _of_label(deployment: Deployment, recipe: Recipe) -> frozenset[str]:
    """The columns that only the labels can say, although a request may hold something of that name."""
    return frozenset(name for name in recipe.single if name not in _logged(deployment))


def _logged(deployment: Deployment) -> set[str]:
    return set(deployment.columns) - hidden_columns(deployment).keys()


def values_type(kinds: Mapping[str, Kind]) -> pa.StructType:
    """A row's values as Parquet has them: a list a column, null where it is missing."""
    import pyarrow as pa

    types = {"INT": pa.int64(), "FLOAT": pa.float64(), "BYTES": pa.binary()}
    return pa.struct([(name, pa.list_(types[kind])) for name, kind in kinds.items()])


def read_batches(path: str | Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file that Beam has written, which may have none."""
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    if file.metadata.num_row_groups:
        yield from file.iter_batches(columns=columns)


def as_lists(values: Mapping[str, Value]) -> dict[str, Any]:
    """A row's values as `values_type` has them."""
    return {
        name: value if value is None or isinstance(value, list) else [value] for name, value in values.items()
    }


def as_values(lists: Mapping[str, Any]) -> dict[str, Value]:
    """The opposite of `as_lists`; columns that are missing are left out."""
    return {name: some[0] if len(some) == 1 else some for name, some in lists.items() if some is not None}
