"""What is predicted: the task, and the label as the configuration has it, found from the label's column."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.errors import RetrainError
from components.ingest.cells import Kind
from components.label import Label, Task
from components.names import BOOKKEEPING
from pipeline.init.power import Target
from pipeline.init.profile import Column, Profile

MIN_ROWS = 20
MAX_CLASSES = 1000  # `label.max_classes`' default
MAX_INTEGER_CLASSES = 20
SKEWED = 2.0
_YES = (
    "yes",
    "y",
    "true",
    "t",
    "up",
    "positive",
    "pos",
    "spam",
    "fraud",
    "churn",
    "churned",
    "won",
    "win",
)


@dataclass(frozen=True)
class Found:
    """The label.

    Attributes:
        label: as the configuration has it.
        why: for a person.
        kind: of the label's column in the schema.
        target: of the sampled rows.
        counts: class -> rows; of a regression empty.
        missing: rows without a label, which are quarantined.
        notes: what else a person should know.
    """

    label: Label
    why: str
    kind: Kind
    target: Target
    counts: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    notes: tuple[str, ...] = ()

    @property
    def largest_share(self) -> float:
        """Of the most frequent class."""
        return max(self.counts.values()) / sum(self.counts.values())

    @property
    def smallest_share(self) -> float:
        """Of the rarest class."""
        return min(self.counts.values()) / sum(self.counts.values())


def find_target(profile: Profile, name: str, task: Task | None, largest_missing: float) -> Found:
    """The task that a label sets, unless it is given.

    Args:
        profile: of the table.
        name: the label's column.
        task: what the user says it is.
        largest_missing: share of rows without a label that is too much to go on with.

    Raises:
        RetrainError: the label has no value, one alone, too many classes, lists, or does not fit the task;
            or there are too few rows.
    """
    column = profile.columns[name]
    if column.kind is None or column.listed:
        raise RetrainError(f"the label {name!r} holds lists; name a column of one value a row")
    missing = column.missing + column.unreadable
    known = profile.rows - missing
    if not known:
        raise RetrainError(
            f"the label {name!r} is empty in all {profile.rows:,} rows; name a column with values"
        )
    if known < MIN_ROWS:
        raise RetrainError(
            f"there {'is 1 row' if known == 1 else f'are {known} rows'} with a value of {name!r}, and at "
            f"least {MIN_ROWS} are needed to learn from some and judge by others; bring more rows"
        )
    if missing > largest_missing * profile.rows:
        raise RetrainError(
            f"the label {name!r} is missing in {missing:,} of {profile.rows:,} rows, and a row without it "
            "cannot be learned; remove these rows, or name another column"
        )
    counts = profile.label_counts
    if counts is not None and len(counts) == 1:
        raise RetrainError(
            f"the label {name!r} is {next(iter(counts))!r} in every row: there is nothing to learn; name "
            "another column, or bring rows with other values"
        )
    task, why = (task, "as you said") if task else _task(column, counts)
    if task == "regression":
        return _regression(column, why, missing)
    if counts is None or len(counts) > MAX_CLASSES:
        raise RetrainError(_too_many(column, counts, task))
    if task == "binary":
        return _binary(column, counts, why, missing, profile.columns)
    return _multiclass(column, counts, why, missing)


def _task(column: Column, counts: dict[str, int] | None) -> tuple[Task, str]:
    if counts is not None and len(counts) == 2:
        return "binary", f"two values: {' and '.join(map(repr, counts))}"
    if column.kind == "BYTES":
        if counts is None or len(counts) > MAX_CLASSES:
            raise RetrainError(_too_many(column, counts, "multiclass"))
        return "multiclass", f"text of {len(counts)} values"
    whole = _whole(counts)
    if whole and len(whole) <= MAX_INTEGER_CLASSES and max(whole) - min(whole) < 2 * len(whole):
        return "multiclass", f"{len(whole)} whole numbers from {min(whole)} to {max(whole)}"
    return "regression", f"numbers from {column.low:g} to {column.high:g}"


def _whole(counts: dict[str, int] | None) -> list[int]:
    """The values as whole numbers; empty if one is none."""
    numbers = [float(text) for text in counts or ()]
    return [int(number) for number in numbers] if all(n.is_integer() for n in numbers) else []


def _too_many(column: Column, counts: dict[str, int] | None, task: Task) -> str:
    many = f"about {column.distinct_everywhere:,.0f}" if counts is None else f"{len(counts):,}"
    cure = "name another column"
    if column.kind != "BYTES":
        cure += ", or predict the number itself with --task regression"
    else:
        cure += ", or replace rare values by one, such as 'other'"
    return (
        f"the label {column.name!r} has {many} different values, and a {task} label has at most "
        f"{MAX_CLASSES:,}: it looks like an id or free text; {cure}"
    )


def _regression(column: Column, why: str, missing: int) -> Found:
    if column.kind == "BYTES":
        raise RetrainError(
            f"--task regression: the label {column.name!r} is text, such as {column.counts[0][0]!r}, and a "
            "regression's is a number; name another column, or another task"
        )
    log = column.low > -1 and is_skewed(column.numbers)
    if log:
        why += "; few are very large, so its logarithm is learned"
    values = column.values.cast(pa.float64(), safe=False)
    numbers = pc.fill_null(values, float("nan")).to_numpy(zero_copy_only=False)
    return Found(
        _label(column.name, task="regression", log=log),
        why,
        column.kind or "FLOAT",
        Target("regression", np.log1p(numbers) if log else numbers),
        missing=missing,
    )


def is_skewed(numbers: np.ndarray) -> bool:
    """Whether few numbers are so large that log(1 + x) is the better scale for them."""
    if len(numbers) < MIN_ROWS or numbers.min() <= -1:
        return False
    plain, logged = abs(_skewness(numbers)), abs(_skewness(np.log1p(numbers)))
    return plain > SKEWED and logged < plain / 2


def _skewness(numbers: np.ndarray) -> float:
    spread = numbers.std()
    return float(np.mean(((numbers - numbers.mean()) / spread) ** 3)) if spread else 0.0


def _binary(
    column: Column, counts: dict[str, int], why: str, missing: int, columns: Collection[str]
) -> Found:
    if len(counts) != 2:
        raise RetrainError(
            f"--task binary: the label {column.name!r} has {len(counts)} values "
            f"({', '.join(map(repr, list(counts)[:5]))}{', ...' if len(counts) > 5 else ''}), and a binary "
            "one has two; leave --task out, or name another column"
        )
    whole = sorted(_whole(counts)) if column.kind != "BYTES" else []
    if whole == [0, 1]:
        texts = {value: text for text in counts for value in (0, 1) if float(text) == value}
        label, positive, expression = column.name, texts[1], None
    else:
        positive = _positive(counts)
        label = _free(
            f"{identifier(column.name)}_is_{re.sub(r'[^A-Za-z0-9]+', '_', positive).strip('_')}", columns
        )
        literal = _quoted(positive) if column.kind == "BYTES" else positive
        expression = f"{_reference(column.name)} == {literal}"
        why += f"; predicted is whether it is {positive!r}"
    is_one = np.array([str(v) == positive for v in column.values.to_pylist()], dtype=np.float64)
    is_one[~column.values.is_valid().to_numpy(zero_copy_only=False)] = np.nan
    return Found(
        _label(label, task="binary", expression=expression),
        why,
        "INT" if whole else (column.kind or "BYTES"),
        Target("binary", is_one, 2),
        {"1" if text == positive else "0": count for text, count in counts.items()},
        missing,
    )


def _positive(counts: dict[str, int]) -> str:
    """Which of two values is the one to foretell: one that says yes, else the rarer one."""
    if "1" in counts and counts.keys() & {"0", "-1"}:
        return "1"
    for yes in _YES:
        for text in counts:
            if text.casefold() == yes:
                return text
    return min(counts, key=lambda text: (counts[text], text))


def _multiclass(column: Column, counts: dict[str, int], why: str, missing: int) -> Found:
    kind: Kind = column.kind or "BYTES"
    if kind == "FLOAT":
        if not _whole(counts):
            raise RetrainError(
                f"--task multiclass: the label {column.name!r} has fractions, such as "
                f"{next(t for t in counts if not float(t).is_integer())}, and classes are text or whole "
                "numbers; use --task regression"
            )
        kind = "INT"
    classes = list(counts)
    codes = pc.index_in(column.values.cast(pa.string()), value_set=pa.array(classes))
    values = pc.fill_null(codes.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False)
    rare = [text for text, count in counts.items() if count < 10]
    notes: tuple[str, ...] = ()
    if rare:
        named = ", ".join(map(repr, rare[:3])) + (", ..." if len(rare) > 3 else "")
        notes = (
            f"{len(rare)} of {len(counts)} classes have fewer than 10 rows ({named}): too few to learn well",
        )
    return Found(
        _label(column.name, task="multiclass"),
        why,
        kind,
        Target("multiclass", values, len(classes)),
        counts,
        missing,
        notes,
    )


def _label(name: str, **settings: Any) -> Label:
    if name in BOOKKEEPING:
        raise RetrainError(f"the label {name!r} has a name that is the pipeline's own; rename the column")
    return Label(name=name, **settings)


def identifier(text: str) -> str:
    """Text as a name of lower-case letters, digits and _ that begins with a letter.

    >>> identifier("Trip Seconds"), identifier("größe"), identifier("1st")
    ('trip_seconds', 'grosse', 'c_1st')
    """
    import unicodedata

    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    plain = plain.encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    return name if name[:1].isalpha() else f"c_{name}".rstrip("_")


def _free(name: str, taken: Collection[str]) -> str:
    """The name, or one like it that is not taken."""
    number, free = 2, name
    while free in taken or free in BOOKKEEPING:
        number, free = number + 1, f"{name}_{number}"
    return free


def _reference(name: str) -> str:
    """A column in a label expression."""
    if "`" in name:
        raise RetrainError(
            f"the label {name!r} has a backtick in its name, which no expression can hold; rename it"
        )
    return f"`{name}`"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def percent(share: float) -> str:
    """A share for a person: 12 %, 0.3 %."""
    value = 100 * share
    digits = 0 if value >= 10 or value == 0 else max(0, -math.floor(math.log10(value)))
    return f"{value:.{min(digits, 3)}f} %"
