"""What is measured of a span's good rows while they are read: their labels, and how many repeat another.

Both add up over blocks in any order, in bounded memory. What they are held against is `components/validate`'s
business.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.ingest.recipe import Recipe

MOST_CLASSES = 10_000  # counted in a span
MOST_HASHES = 2**18  # kept of a span: 2 MB
_DIGITS = 9  # beyond them a mean depends on the order of the blocks
_SURE = 3  # standard errors


@dataclass
class Labels:
    """How a label is distributed. Of a regression on the scale that is learned.

    Attributes:
        rows: counted.
        classes: of a classification, class -> rows; none where there are more than `MOST_CLASSES`.
        countless: there are.
        mean: of a regression.
        squares: of a regression, the sum of the squared distances from the mean.
    """

    rows: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    countless: bool = False
    mean: float = 0.0
    squares: float = 0.0

    def add(self, other: Labels) -> None:
        self.countless |= other.countless
        self.classes.update(other.classes)
        if self.countless or len(self.classes) > MOST_CLASSES:
            self.countless, self.classes = True, Counter()
        if rows := self.rows + other.rows:  # Chan, Golub and LeVeque (1983)
            apart = other.mean - self.mean
            self.squares += other.squares + apart**2 * self.rows * other.rows / rows
            self.mean += apart * other.rows / rows
            self.rows = rows

    def to_report(self) -> dict[str, Any]:
        """`rows`, and either `classes`, or `mean` and `deviation`; `rows` alone where there are too many."""
        if self.classes:
            return {"rows": self.rows, "classes": dict(sorted(self.classes.items()))}
        if self.countless or not self.rows:
            return {"rows": self.rows}
        deviation = math.sqrt(self.squares / self.rows)
        return {"rows": self.rows, "mean": _rounded(self.mean), "deviation": _rounded(deviation)}


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def count_labels(recipe: Recipe, labels: pa.Array) -> Labels:
    """Of the labels of some rows, which are good, [rows]; none where there is no task."""
    if recipe.task in ("binary", "multiclass"):
        counted = pc.value_counts(labels)
        classes = Counter({_text(one["values"]): one["counts"] for one in counted.to_pylist()})
        counts = Labels()
        counts.add(Labels(rows=len(labels), classes=classes))
        return counts
    if recipe.task != "regression" or not len(labels):
        return Labels()
    numbers = np.asarray(labels.cast(pa.float64(), safe=False), dtype=np.float64)
    if recipe.log:
        numbers = np.log1p(numbers)
    mean = float(numbers.mean())
    return Labels(rows=numbers.size, mean=mean, squares=float(((numbers - mean) ** 2).sum()))


def _text(label: Any) -> str:
    return label.decode("utf-8", errors="replace") if isinstance(label, bytes) else str(label)


@dataclass
class Contents:
    """How many different rows there are: the smallest of their hashes, which say (Bar-Yossef et al., 2002).

    Exact up to `MOST_HASHES` different rows. Where there are more, the share of rows that repeat another is
    what is sure of it, three standard errors below the estimate: at most 1.2 points too little, and
    never more than there are but once in a thousand times.

    Attributes:
        rows: counted.
        smallest: different hashes, ascending: uint64 of the machine's order, at most `MOST_HASHES`.
    """

    rows: int = 0
    smallest: bytes = b""

    @classmethod
    def of(cls, hashes: np.ndarray) -> Contents:
        """Of the hashes of some rows, uint64 [rows]."""
        return cls(len(hashes), np.unique(hashes)[:MOST_HASHES].tobytes())

    def add(self, other: Contents) -> None:
        self.rows += other.rows
        if not self.smallest or not other.smallest:
            self.smallest = self.smallest or other.smallest
            return
        both = np.frombuffer(self.smallest + other.smallest, np.uint64).copy()
        both.sort(kind="stable")  # which merges what is sorted already
        self.smallest = both[np.append(True, both[1:] != both[:-1])][:MOST_HASHES].tobytes()

    def repeated(self) -> float:
        """The share of rows that repeat another one, which itself does not count: 0 .. 1."""
        hashes = np.frombuffer(self.smallest, np.uint64)
        different = float(len(hashes))
        if len(hashes) == MOST_HASHES:
            below = (float(hashes[-1]) + 1) / 2.0**64  # the share of all hashes that these are the ones of
            different = (MOST_HASHES - 1) / below * (1 + _SURE / math.sqrt(MOST_HASHES))
        return max(0.0, 1 - different / self.rows) if self.rows else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain data, which `from_json` reads."""
        return {"rows": self.rows, "smallest": base64.b64encode(self.smallest).decode()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Contents:
        """The other direction of `to_json`."""
        return cls(data["rows"], base64.b64decode(data["smallest"]))
