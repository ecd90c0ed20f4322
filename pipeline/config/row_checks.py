"""What some rows of the data say of a deployment: pure functions over Arrow columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from components.evaluate.logic import FEWEST_OF_A_CLASS
from components.features import Feature, Identity, Numeric, Tensor
from components.label import Label

SLICE_VALUES = 100
"""More of them are too many to judge one by one."""
_NAMES_TOLD = 5

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or looks so.

    Attributes:
        severity: `error`: a run would fail, or no candidate could be served.
        where: a key of the configuration, or a file of a span; empty where the text says it.
    """

    severity: Severity
    where: str
    text: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.severity, self.where, self.text)))


@dataclass(frozen=True)
class Rows:
    """Good rows.

    Attributes:
        table: a list column for every feature of the examples, null where it is missing.
        whole: whether these are all that there are.
    """

    table: pa.Table
    whole: bool

    def __str__(self) -> str:
        count = f"{self.table.num_rows:,} rows"
        return f"all {count}" if self.whole else f"the {count} looked at"

    def values(self, name: str) -> pa.ChunkedArray:
        """All values of a column, those of a list one after the other."""
        return pc.list_flatten(self.table[name])

    @property
    def severity(self) -> Severity:
        """Of what would be an error if it held for all rows."""
        return "error" if self.whole else "warning"


def distribution(label: Label, rows: Rows) -> str:
    """How the label is distributed, in words."""
    values = rows.values(label.name)
    if label.task == "regression":
        return f"{pc.min(values).as_py():g} to {pc.max(values).as_py():g}, mean {pc.mean(values).as_py():g}"
    return listed([f"{name} {count / rows.table.num_rows:.1%}" for name, count in _counts(values).items()])


def check_label(label: Label, rows: Rows) -> Iterator[Finding]:
    """A label that nothing can be learned of, or that is none of its task."""
    name, values = label.name, rows.values(label.name)
    classes = _counts(values)
    if len(classes) == 1:
        text = f"{name} is {next(iter(classes))} in {rows}; there is nothing to learn"
        yield Finding(rows.severity, "label.expression" if label.expression else "label.name", text)
    if label.task == "binary" and (strange := [value for value in classes if value not in ("0", "1")]):
        count = sum(classes[value] for value in strange)
        text = f"{name} is {listed(strange)} in {count:,} of {rows}, and a binary label is 0 or 1; "
        text += f"give an expression such as '{name} > 0', or another task"
        yield Finding("error", "label.task", text)
    if label.task == "multiclass" and len(classes) > label.max_classes:
        text = f"{name} has {len(classes):,} classes in {rows}, and {label.max_classes:,} are allowed; "
        text += "it looks like an id, or free text: predict another column, or allow more"
        yield Finding("error", "label.max_classes", text)
    if label.task == "multiclass" and isinstance(label.class_weights, dict):
        strange = sorted(label.class_weights.keys() - classes.keys())
        if strange:
            text = f"no class {listed(strange)} in {rows}; there are {listed(list(classes))}"
            yield Finding(rows.severity, "label.class_weights", text)
    if label.log and (clipped := _count(pc.less_equal(values, -1))):
        text = f"{name} is -1 or less in {clipped:,} of {rows}, where log(1 + y) is not defined; "
        yield Finding("warning", "label.log", text + "it is learned as if just above -1 there")


def check_rarer_class(
    metric: str, label: Label, rows: Rows, held_out: float, holdout_per_span: int
) -> Iterator[Finding]:
    """Too few examples of the rarer class for what a metric says of a past span to be more than noise.

    Args:
        metric: one that compares pairs of an example of each class.
        label: of a binary task.
        rows: to look at.
        held_out: how many rows a span holds out.
        holdout_per_span: how many of these are kept when it is past.
    """
    counts = _counts(rows.values(label.name))
    if len(counts) != 2:
        return
    share = min(counts.values()) / sum(counts.values())
    found = round(share * min(held_out, holdout_per_span))
    if found >= FEWEST_OF_A_CLASS:
        return
    needed = math.ceil(2 * FEWEST_OF_A_CLASS / share)
    noise = f"of the rarer class ({share:.2%} of {rows}), and {metric} is noise with fewer than "
    noise += f"{FEWEST_OF_A_CLASS}: no past span is judged by it; "
    if held_out < needed:
        text = f"about {found} of the {held_out:,.0f} rows that a span holds out are {noise}make the spans "
        text += "longer, raise data.eval_share, or gate log_loss, which compares no pairs"
        yield Finding("warning", f"gates.metrics.{metric}", text)
    else:
        text = f"got {holdout_per_span}, of which about {found} are {noise}expected {needed:,} or more, "
        text += "and of replay.holdout_capacity many times that"
        yield Finding("warning", "replay.holdout_per_span", text)


def check_weight(name: str, rows: Rows) -> Iterator[Finding]:
    """A column of weights that cannot be weights."""
    values = rows.values(name)
    if negative := _count(pc.less(values, 0)):
        text = f"{name} is below 0 in {negative:,} of {rows}, expected 0 or more"
        yield Finding("error", "label.example_weight", text)
    elif not pc.sum(values).as_py():
        text = f"{name} is 0 or missing in {rows}, so that none of them counts"
        yield Finding(rows.severity, "label.example_weight", text)


def check_feature(feature: Feature, rows: Rows) -> Iterator[Finding]:
    """Columns of a feature that say nothing, and values that it cannot take."""
    key = f"preprocessing.features.{feature.name}"
    for name in feature.columns:
        column, values = rows.table[name], rows.values(name)
        if not len(values):
            yield Finding("warning", key, f"{name} is missing in {rows}")
            continue
        distinct = pc.unique(values)
        # A corner of every image may be black.
        if len(distinct) == 1 and not column.null_count and not isinstance(feature, Tensor):
            yield Finding("warning", key, f"{name} is {_shown(distinct[0].as_py())} in {rows}")
        match feature:
            case Identity(min=low, max=high):
                outside = _count(pc.or_(pc.less(values, low), pc.greater(values, high)))
                text = f"{name} is not from {low} to {high} in {outside:,} of {rows}, and taken for missing "
                text += f"there; it goes from {pc.min(values)} to {pc.max(values)}"
            case Numeric(log=True):
                outside = _count(pc.less(values, 0))
                text = f"{name} is below 0 in {outside:,} of {rows}; `log` takes it for 0 there"
            case Tensor(of=None):
                lengths = pc.list_value_length(column).drop_null()
                outside = _count(pc.not_equal(lengths, feature.size))
                text = f"{name} has other than the {feature.size} numbers of shape {feature.shape} in "
                text += f"{outside:,} of {rows}"
            case _:
                outside = 0
        if outside:
            yield Finding("warning", key, text)


def check_slice(
    key: str, names: Sequence[str], rows: Rows, held_out: float, min_examples: int
) -> Iterator[Finding]:
    """Slices of which there are too many, or none that is large enough to be judged.

    Args:
        key: in the configuration.
        names: the columns that are combined.
        rows: to look at.
        held_out: how many examples all spans together hold out.
        min_examples: the smallest slice that is judged.
    """
    firsts = {str(i): pc.list_element(rows.table[name], 0) for i, name in enumerate(names)}
    counted = pa.table(firsts).group_by(list(firsts)).aggregate([([], "count_all")])
    sizes = counted["count_all"].to_pylist()
    largest, what = max(sizes) / rows.table.num_rows * held_out, " and ".join(names)
    if len(sizes) > SLICE_VALUES:
        text = f"{what} has {len(sizes):,} values in {rows}, each judged by itself; name another column"
        yield Finding("warning", key, text)
    elif largest < min_examples:
        text = f"the most frequent value of {what} has about {largest:,.0f} held-out examples in all spans "
        text += f"together, and gates.min_examples is {min_examples}: none is judged"
        yield Finding("warning", key, text)


def listed(names: Sequence[Any]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - _NAMES_TOLD:,} more" if len(names) > _NAMES_TOLD else ""
    return ", ".join(map(str, names[:_NAMES_TOLD])) + more


def _counts(values: pa.ChunkedArray) -> dict[str, int]:
    """How often each value is there, by its text; the most frequent first."""
    counted = [(_shown(entry["values"]), entry["counts"]) for entry in pc.value_counts(values).to_pylist()]
    return dict(sorted(counted, key=lambda pair: (-pair[1], pair[0])))


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)
