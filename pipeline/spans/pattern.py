"""`data.pattern`: what files' names say of their span, and how spans that are dates are numbered."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from components.errors import RetrainError

_SPEC = re.compile(r"\{([^{}]*)\}")
_DATE = ("YYYY", "MM", "DD", "HH")
_DIGITS = {"SPAN": "+", "VERSION": "+", "YYYY": "{4}", "MM": "{2}", "DD": "{2}", "HH": "{2}"}
_WRITTEN = ("", "%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H")  # by how many units a date has
_EPOCH = datetime(1970, 1, 1)
_MARK = "\ue000"  # stands for a {SPEC} while the rest of a name becomes a regular expression


@dataclass(frozen=True)
class Pattern:
    """A pattern, taken apart; `parse` makes it.

    Attributes:
        text: as it is in the configuration.
        units: how many of year, month, day and hour name a span, from the year on; 0: its number does.
        head: the folders above the first that tells spans apart; may be empty.
        parts: what the names below `head` look like, from folder to folder, the file's last; None is `**`.
        span: how many of the parts say which span it is.
        version: how many of the parts say which span and which version of it.
    """

    text: str
    units: int
    head: str
    parts: tuple[re.Pattern[str] | None, ...]
    span: int
    version: int

    def number(self, digits: Mapping[str, str]) -> int:
        """The span that a name stands for.

        A day is TFX's number, the days since 1970-01-01; a month counts from January 1970, an hour from
        that January's first; a year is itself. So numbers follow time, and never change.

        Args:
            digits: {SPEC} -> what stands in its place.

        Raises:
            ValueError: there is no such date, or it is before 1970.

        >>> parse("{YYYY}/{MM}/{DD}/*").number({"YYYY": "1970", "MM": "02", "DD": "01"})
        31
        """
        if not self.units:
            return int(digits["SPAN"])
        moment = datetime.strptime(
            "-".join(digits[name] for name in _DATE[: self.units]), _WRITTEN[self.units].replace("T", "-")
        )
        if moment < _EPOCH:
            raise ValueError("dates begin with 1970")
        return self._number(moment)

    def _number(self, moment: datetime) -> int:
        since = moment - _EPOCH
        months = 12 * (moment.year - 1970) + moment.month - 1
        return (moment.year, months, since.days, since // timedelta(hours=1))[self.units - 1]

    def date(self, span: int) -> str:
        """The date of a span; empty where spans are not dates.

        >>> parse("{YYYY}{MM}.csv").date(649), parse("{SPAN}.csv").date(649)
        ('2024-02', '')
        """
        try:
            match self.units:
                case 0:
                    return ""
                case 1:
                    moment = datetime(span, 1, 1)
                case 2:
                    moment = datetime(1970 + span // 12, span % 12 + 1, 1)
                case 3:
                    moment = _EPOCH + timedelta(days=span)
                case _:
                    moment = _EPOCH + timedelta(hours=span)
        except (ValueError, OverflowError):  # numbered when the pattern had {SPAN} in it
            return ""
        return moment.strftime(_WRITTEN[self.units])

    def label(self, spans: Sequence[int]) -> str:
        """Spans for a person: numbers, and the dates that they stand for.

        >>> parse("day={YYYY}-{MM}-{DD}/*").label([19753, 19754])
        '19753-19754 (2024-01-31 to 2024-02-01)'
        """
        numbers, dates = spans_text(spans), [self.date(span) for span in spans]
        if self.units <= 1 or not any(dates):  # a year's number is its date
            return numbers
        return f"{numbers} ({dates[0]}{f' to {dates[-1]}' if len(dates) > 1 else ''})"

    def read(self, option: str, text: str) -> int:
        """The span that a person names, by its number or its date.

        Args:
            option: where, for the message.
            text: what.

        Raises:
            RetrainError: it is neither.

        >>> parse("{YYYY}/{MM}/{DD}/*").read("--span", "2024-01-31")
        19753
        """
        if text.isdecimal():
            return int(text)
        expected = "the number of a span"
        if self.units:
            example = datetime(2024, 1, 31, 5).strftime(_WRITTEN[self.units])
            expected += f", or its date such as {example}"
            try:
                return self._number(datetime.strptime(text, _WRITTEN[self.units]))
            except ValueError:
                pass  # said below
        raise RetrainError(f"{option}: got {text!r}, expected {expected}")


@functools.cache
def parse(text: str) -> Pattern:
    """Takes a pattern apart.

    Raises:
        ValueError: it does not say which span a file is of, or says it twice.
    """
    found = list(_SPEC.finditer(text))
    names = [spec[1] for spec in found]
    dates = [name for name in names if name != "VERSION"]
    units = 0 if dates == ["SPAN"] else len(dates)
    if (
        not dates
        or (units and sorted(dates) != sorted(_DATE[:units]))
        or names not in (dates, [*dates, "VERSION"])
        or "*" in text[: found[-1].start()]
        or text[0] == "/"
        or text[-1] == "/"
    ):
        raise ValueError(
            f"got {text!r}, expected {{SPAN}} once, or a date in its place ({{YYYY}}, then {{MM}}, {{DD}} "
            "and {HH} as far as wanted, each once); after it {VERSION} at most once; no * before the last of "
            "them, no / at the start or the end; such as {SPAN}/*.csv or {YYYY}/{MM}/{DD}/*.csv"
        )
    folders = [name for name in text.split("/") if name]
    specs = [_SPEC.findall(name) for name in folders]
    first = next(i for i, names in enumerate(specs) if names)
    below = folders[first:] + (["*"] if folders[-1] == "**" else [])
    telling = [i + 1 for i, names in enumerate(specs[first:]) if names]
    with_span = [i + 1 for i, names in enumerate(specs[first:]) if set(names) - {"VERSION"}]
    return Pattern(
        text=text,
        units=units,
        head="/".join(folders[:first]),
        parts=tuple(None if name == "**" else _compiled(name) for name in below),
        span=with_span[-1],
        version=telling[-1],
    )


def _compiled(name: str) -> re.Pattern[str]:
    regex = fnmatch.translate(_SPEC.sub(_MARK, name))
    for spec in _SPEC.findall(name):
        regex = regex.replace(_MARK, f"(?P<{spec}>[0-9]{_DIGITS[spec]})", 1)
    return re.compile(regex)


def spans_text(spans: Sequence[int]) -> str:
    """Spans, shortened: `3`, `3-5`, `3, 5`."""
    if len(spans) > 1 and list(spans) == list(range(spans[0], spans[-1] + 1)):
        return f"{spans[0]}-{spans[-1]}"
    return ", ".join(map(str, spans))
