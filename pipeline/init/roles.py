"""What each column is to the model, and why."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.init.power import MEASURES, Target, power, straight
from pipeline.init.profile import Column, Profile
from pipeline.init.target import Found, is_skewed, percent

IGNORED = "ignored"
LEAK = "leak?"
LABEL = "label"

LEAKS_FROM = 0.999  # alone on rows that it has not seen: no honest column is that good
STRONG_FROM = 0.95
HASHED_FROM = 5_000  # different values
RARE = 2  # a value must be seen this often where very many values are rare
_MIN_HELD_OUT = 50
_FEW_ROWS = 10
_UNIQUE = 0.95  # different values / rows, from which on a column only names its rows
_MAX_CODES = 50
_MAX_CANDIDATES = 20  # columns of small numbers, beyond which they are measurements, such as pixels
_FIRST, _LAST = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC).timestamp() for year in (1990, 2050))

_TIME_WORDS = {"time", "date", "timestamp", "ts", "datetime", "at", "when", "created", "updated", "epoch"}
_ID_WORDS = {"id", "uuid", "guid", "key", "index", "idx", "no", "nr", "number", "row", "unnamed", ""}
_CODE_WORDS = {
    "area", "zone", "code", "region", "district", "state", "store", "type", "category", "cat", "group", "id",
    "dept", "department", "channel", "zip", "postal", "tract", "status", "segment", "cluster",
}  # fmt: skip
_CYCLES = [  # words in the name, and the ranges that these numbers then have
    ({"hour", "hr"}, [(0, 23)]),
    ({"minute"}, [(0, 59)]),
    ({"weekday", "dow"}, [(0, 6), (1, 7)]),
    ({"day"}, [(0, 6), (1, 7), (1, 31)]),
    ({"week"}, [(1, 53)]),
    ({"month", "mnth"}, [(1, 12)]),
    ({"quarter"}, [(1, 4)]),
]
_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?$"
_OTHER_DATE = r"^\d{1,4}[/.]\d{1,2}[/.]\d{1,4}( .*)?$"
_SEPARATORS = "|;,"


@dataclass(frozen=True)
class Role:
    """What is made of a column.

    Attributes:
        column: its name.
        role: a feature's type, or `IGNORED`, `LEAK`, `LABEL`.
        why: for a person.
        settings: of the feature, without its name and column; None where it is none.
        alone: how well it foretells the label, where that is suspiciously well; else empty.
    """

    column: str
    role: str
    why: str
    settings: dict[str, Any] | None = None
    alone: str = ""

    @property
    def used(self) -> bool:
        return self.settings is not None


@dataclass(frozen=True)
class _Context:
    """What a decision about one column needs of the rest."""

    target: Target
    held_out: int
    small_integers: int = 0
    tensor: str | None = None
    time_column: str | None = None


def find_roles(profile: Profile, found: Found, label: str, time_column: str | None) -> list[Role]:
    """A role for every column, in the files' order.

    Args:
        profile: of the table.
        found: what is predicted.
        label: the label's column.
        time_column: the one that told the spans apart.
    """
    columns = list(profile.columns.values())
    context = _Context(
        target=found.target,
        held_out=int(np.sum(~np.isnan(found.target.values))) // 2,
        small_integers=sum(column.kind == "INT" and _is_small(column) for column in columns),
        tensor=_tensor(columns, label),
        time_column=time_column,
    )
    return [
        Role(label, LABEL, found.why) if column.name == label else _role(column, context)
        for column in columns
    ]


def _role(column: Column, context: _Context) -> Role:
    name = column.name
    if column.kind is None:
        return Role(name, IGNORED, "neither numbers nor text, nor lists of them")
    if column.missing == column.rows or not len(column.flat):
        return Role(name, IGNORED, "empty in every row")
    present = column.rows - column.missing
    if present < _FEW_ROWS:
        return Role(name, IGNORED, f"{present} of {column.rows:,} rows have it")
    if column.listed:
        return _list_role(column, context)
    if column.distinct == 1 and column.share > 0.99:
        return Role(name, IGNORED, f"always {str(column.counts[0][0])!r}")
    time = _time_role(column, context)
    if time is not None:
        return time
    unusable = _names_rows(column) or _odd_date(column)
    if unusable:
        return Role(name, IGNORED, unusable)
    alone = _alone(column, context)
    measure = f"{MEASURES[context.target.task]} {alone:.3f}"
    if alone >= LEAKS_FROM and context.held_out >= _MIN_HELD_OUT:
        return Role(
            name, LEAK, f"tells the label by itself ({measure}): most likely it is known only afterwards"
        )
    decide = {"BYTES": _text_role, "INT": _integer_role, "FLOAT": _float_role}[column.kind]
    role = decide(column, context)
    strong = alone >= STRONG_FROM and alone - context.target.blind > 0.1 and role.used
    return Role(name, role.role, role.why + _gaps(column), role.settings, measure if strong else "")


def _gaps(column: Column) -> str:
    return f"; {percent(column.missing / column.rows)} missing" if column.missing else ""


def _alone(column: Column, context: _Context) -> float:
    """How well the column alone foretells the label."""
    if column.kind == "BYTES":
        return power(column.values, context.target, as_category=True)
    found = power(column.values, context.target, as_category=False)
    if column.kind == "INT" and column.distinct <= 1000:
        found = max(found, power(column.values, context.target, as_category=True))
    return found


# Times


def _time_role(column: Column, context: _Context) -> Role | None:
    """Of a column that is a time; None if it is none."""
    if not (column.name == context.time_column or column.is_time or _is_time(column)):
        return None
    seconds = _seconds(column)
    parts = [part for part, varies in _varying(seconds).items() if varies]
    if not parts:
        return Role(column.name, IGNORED, "a time: neither its hour nor its day of the week tells rows apart")
    said = {"hour": "hour", "day_of_week": "day of the week", "month": "month"}
    return Role(
        column.name,
        "timestamp",
        f"a time, by its {' and '.join(said[part] for part in parts)}{_gaps(column)}",
        {"type": "timestamp", "parts": parts},
    )


def _is_time(column: Column) -> bool:
    if column.kind == "BYTES":
        texts = column.flat.slice(0, 1000)
        return bool(pc.mean(pc.match_substring_regex(texts, _ISO)).as_py() >= 0.99)
    if column.kind != "INT" or not _words(column.name) & _TIME_WORDS:
        return False
    return any(_FIRST * unit <= column.low and column.high <= _LAST * unit for unit in (1, 1000))


def _seconds(column: Column) -> np.ndarray:
    """Unix seconds of the sampled times that can be read."""
    if column.kind != "BYTES":
        numbers = column.numbers
        return np.where(np.abs(numbers) >= 1e11, numbers / 1000, numbers)
    found = []
    for text in column.counts[0][:20_000]:
        try:
            time = datetime.datetime.fromisoformat(text.strip())
        except ValueError:
            continue
        found.append((time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp())
    return np.array(found)


def _varying(seconds: np.ndarray) -> dict[str, bool]:
    """Parts of a time, and whether they tell rows apart within the time that they cover."""
    if not len(seconds):
        return {}
    days = np.unique(seconds // 86_400)
    covered = days[-1] - days[0]
    return {
        "hour": len(np.unique(seconds % 86_400 // 3600)) > 1,
        "day_of_week": covered >= 14 and len(np.unique((days + 3) % 7)) > 1,
        "month": covered >= 550,  # with less, a month is a stretch of time and not a season
    }


def _odd_date(column: Column) -> str:
    """Why a date that is not written as one is left out; empty if it is none."""
    if column.kind == "BYTES":
        share = pc.mean(pc.match_substring_regex(column.flat.slice(0, 1000), _OTHER_DATE)).as_py()
        example = column.counts[0][0]
        return f"a date such as {example!r}; written as 2013-03-09 it could be used" if share >= 0.99 else ""
    dated = column.kind == "INT" and column.low >= 19_000_101 and column.high <= 21_001_231
    if dated and _words(column.name) & _TIME_WORDS:
        return f"a date such as {column.low:.0f}; written as 2013-03-09 it could be used"
    return ""


# Identifiers


def _words(name: str) -> set[str]:
    """The words in a name, in lower case: `tripStart_Hour` has trip, start and hour."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return set(re.split(r"[^a-z0-9]+", spaced.lower())) - ({""} if name.strip() else set())


def _names_rows(column: Column) -> str:
    """Why a column says only which row it is; empty if it says more."""
    present = column.share * column.rows
    unique = column.distinct_everywhere >= _UNIQUE * present
    if column.kind == "BYTES":
        texts = column.flat
        if unique and _mean_words(texts) < 3:
            return "an id: nearly every row has a value of its own"
        return ""
    if column.kind != "INT" or not unique:
        return ""
    dense = column.high - column.low < 1.5 * present
    if (column.rising and dense) or _words(column.name) & _ID_WORDS:
        return "an id: it numbers the rows" if dense else "an id: nearly every row has a number of its own"
    return ""


# Text


def _mean_words(texts: Any) -> float:
    return 1.0 + (pc.mean(pc.count_substring(pc.utf8_trim_whitespace(texts), " ")).as_py() or 0.0)


def _text_role(column: Column, context: _Context) -> Role:
    parts = _list_of_parts(column)
    if parts:
        separator, many = parts
        return Role(
            column.name,
            "categorical",
            f"lists of {many:,} terms, separated by {separator!r}",
            {"type": "categorical", "separator": separator},
        )
    words = _mean_words(column.flat)
    if words >= 3 and column.distinct >= 0.5 * len(column.flat):
        return Role(column.name, "text", f"free text, {words:.0f} words a row", {"type": "text"})
    return _category(column, f"{_about(column)} values")


def _about(column: Column) -> str:
    many = column.distinct_everywhere
    return f"{many:,.0f}" if column.distinct >= many else f"about {many:,.0f}"


def _category(column: Column, what: str) -> Role:
    """A category by a vocabulary, or by a hash where that would be very long."""
    many = column.distinct_everywhere
    if many > HASHED_FROM:
        buckets = 1 << min(int(many).bit_length(), 17)
        return Role(
            column.name,
            "hashed",
            f"{what}: too many for a vocabulary",
            {"type": "hashed", "buckets": buckets},
        )
    settings: dict[str, Any] = {"type": "categorical"}
    if many > 1000:
        settings["top_k"] = HASHED_FROM
    counts = column.counts[1]
    if np.mean(counts < RARE) > 0.2 and column.distinct > 20:
        settings["min_count"] = RARE
        what += f", {percent(float(np.mean(counts < RARE)))} of them once"
    return Role(column.name, "categorical", what, settings)


def _list_of_parts(column: Column) -> tuple[str, int] | None:
    """What separates the terms of a list in each text, and how many terms; None if there is no list."""
    texts = column.flat.slice(0, 20_000)
    for separator in _SEPARATORS:
        having = pc.mean(pc.match_substring(texts, separator)).as_py()
        if having < 0.2:
            continue
        parts = pc.list_flatten(pc.split_pattern(texts, separator))
        many = len(pc.unique(parts))
        whole = len(pc.unique(texts))
        # Terms come again in other company; what is merely written with a comma does not.
        if many <= whole / 2 and len(parts) >= 5 * many and _mean_words(parts) <= 3 and whole > 10:
            return separator, many
    return None


# Numbers


def _is_small(column: Column) -> bool:
    return not column.listed and column.low >= 0 and column.high < 1000 and 2 < column.distinct <= _MAX_CODES


def _integer_role(column: Column, context: _Context) -> Role:
    words = _words(column.name)
    low, high = int(column.low), int(column.high)
    what = f"whole numbers from {low:,} to {high:,}"
    for names, ranges in _CYCLES:
        for first, last in ranges if words & names else ():
            if first <= low and high <= last and column.distinct > 2:
                return _identity(column, first, last, f"{what}, one of a cycle by its name")
    coded = words & _CODE_WORDS and column.distinct > 2
    long_code = (
        low >= 10_000_000 and len(str(low)) == len(str(high)) and column.distinct * 5 <= len(column.flat)
    )
    if coded or long_code:
        if low >= 0 and high < 1000:
            return _identity(column, low, high, f"{what}, a code by its name")
        return _category(
            column, f"{_about(column)} values, a code by {'its name' if coded else 'their length'}"
        )
    if (
        _is_small(column)
        and context.small_integers <= _MAX_CANDIDATES
        and _gain(column, context) > 0.02
        and len(column.values) >= 1000
    ):
        return _identity(column, low, high, f"{what}, each of which says something of its own")
    return _number(column, what)


def _gain(column: Column, context: _Context) -> float:
    """How much better the label is foretold if each number counts for itself."""
    if context.target.task == "multiclass":
        return 0.0
    each = power(column.values, context.target, as_category=True)
    return each - straight(column.values, context.target)


def _identity(column: Column, low: int, high: int, why: str) -> Role:
    settings: dict[str, Any] = {"type": "identity"}
    if low:
        settings["min"] = low
    return Role(column.name, "identity", why, {**settings, "max": high})


def _float_role(column: Column, context: _Context) -> Role:
    return _number(column, f"numbers from {column.low:.4g} to {column.high:.4g}")


def _number(column: Column, what: str) -> Role:
    if column.low >= 0 and is_skewed(column.numbers):
        return Role(
            column.name, "numeric", f"{what}, few of them very large", {"type": "numeric", "log": True}
        )
    return Role(column.name, "numeric", what, {"type": "numeric"})


# Lists


def _list_role(column: Column, context: _Context) -> Role:
    length = (
        f"{column.longest} values" if column.shortest == column.longest else f"up to {column.longest} values"
    )
    if column.name == context.tensor:
        shape = image_shape(column.longest)
        return Role(
            column.name,
            "tensor",
            f"lists of {length}, taken for an image",
            {"type": "tensor", "shape": shape},
        )
    if column.kind == "FLOAT" or (column.shortest == column.longest > _MAX_CODES):
        return Role(
            column.name,
            IGNORED,
            f"lists of {length}: a feature of type tensor, or a model of your own, can use them",
        )
    if column.distinct_everywhere > HASHED_FROM:
        role = _category(column, f"lists of {length}, {_about(column)} terms")
    else:
        role = Role(
            column.name,
            "categorical",
            f"lists of {length}, {column.distinct:,} terms",
            {"type": "categorical"},
        )
    return Role(
        role.column, role.role, role.why + _gaps(column), {**(role.settings or {}), "multivalent": True}
    )


def _tensor(columns: Iterable[Column], label: str) -> str | None:
    """The one column of lists that can be an image; a model takes one."""
    for column in columns:
        numbers = column.kind in ("INT", "FLOAT") and column.listed and column.name != label
        if numbers and column.shortest == column.longest and image_shape(column.longest):
            return column.name
    return None


def image_shape(numbers: int) -> list[int] | None:
    """Height, width and channels of a square image of so many numbers; None if there is none.

    >>> image_shape(784), image_shape(3072), image_shape(100), image_shape(10)
    ([28, 28, 1], [32, 32, 3], [10, 10, 1], None)
    """
    for channels in (1, 3):
        side = round((numbers / channels) ** 0.5)
        if side >= 8 and side * side * channels == numbers:
            return [side, side, channels]
    return None
