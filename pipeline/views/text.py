"""How moments, numbers and tables are shown to a person."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.table import Table


def when(seconds: float) -> str:
    """A moment, for a person."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def make_table(title: str, *columns: str, whole: str = "") -> Table:
    """A table without lines, to fit 80 columns; where it is too wide, all but the whole column fold."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column == whole)
    return made


def metric_text(value: float | None, sign: str = "") -> str:
    """Of a metric that may have a unit.

    >>> metric_text(0.94321), metric_text(0.01234, "+"), metric_text(1523.456), metric_text(None)
    ('0.943', '+0.012', '1,523', '?')
    """
    if value is None:
        return "?"
    places = next((places for places, size in enumerate((1000, 100, 10)) if abs(value) >= size), 3)
    return f"{value:{sign},.{places}f}"


def worst_past_text(worst: Mapping[str, Any] | None) -> str:
    """The span that lost most, and what it lost (or gained)."""
    return f"{worst['slice'].removeprefix('span=')}: {metric_text(-worst['fall'], '+')}" if worst else "-"
