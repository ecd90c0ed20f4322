"""Small tables for the tests of `retrain init`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.init.profile import Column, Profile, TableScan, canonical
from pipeline.init.roles import Role, find_roles
from pipeline.init.target import find_target


def scanned(
    columns: Mapping[str, Sequence[Any] | pa.Array],
    label: str = "y",
    *,
    text: bool = True,
    pieces: int = 1,
    sample: int = 10_000,
) -> Profile:
    """A profile of columns; Python values as a CSV file has them, unless not `text`."""
    rows = len(next(iter(columns.values())))
    scan = TableScan(label, sample)
    for part in np.array_split(np.arange(rows), pieces):
        cells = {}
        for name, values in columns.items():
            given = values if isinstance(values, pa.Array) else _array(values, text)
            as_text = text and not isinstance(values, pa.Array)
            cells[name] = canonical(given.take(pa.array(part)), as_text)
        scan.add(cells)
    return scan.finish()


def column(values: Sequence[Any] | pa.Array, name: str = "x", **options: Any) -> Column:
    """The profile of one column."""
    return scanned({name: values, "y": ["1"] * len(values)}, **options).columns[name]


def role_of(
    values: Sequence[Any] | pa.Array, name: str = "x", label: Sequence[Any] | None = None, **options: Any
) -> Role:
    """The role of one column beside a label, by default one that has nothing to do with it."""
    rows = len(values)
    coin = np.random.default_rng(1).integers(0, 2, rows)
    profile = scanned({name: values, "y": coin.tolist() if label is None else label}, **options)
    found = find_target(profile, "y", None, 0.5)
    return next(role for role in find_roles(profile, found, "y", None) if role.column == name)


def _array(values: Sequence[Any], text: bool) -> pa.Array:
    if not text:
        return pa.array(values)
    return pa.array([None if value is None or value == "" else str(value) for value in values], pa.string())
