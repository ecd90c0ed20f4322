"""Into which of a few bins a prediction falls: the champion's tenths, or its classes."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUMBERS, CLASSES = 10, 20
"""So many bins; with more, small samples tell less."""
ENOUGH = 100
"""Predictions of the champion that bins are made of."""


@dataclass(frozen=True)
class Bins:
    """Bins for numbers, by the edges between them, or for classes, by name.

    They are made of predictions that are not counted in them afterwards.

    Attributes:
        edges: rising; a number equal to one is in the bin below it.
        classes: one a bin; the last bin is for all others.
    """

    edges: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, predictions: Sequence[float | str]) -> Bins:
        """Bins that hold about equal shares of the predictions, or one class each.

        A number that many predictions have in common has a bin of its own.
        """
        if isinstance(predictions[0], str):
            frequent = Counter(map(str, predictions)).most_common(CLASSES - 1)
            return cls(classes=tuple(sorted(name for name, _ in frequent)))
        values = np.asarray(predictions, float)
        edges = set(np.quantile(values, np.arange(1, NUMBERS) / NUMBERS, method="lower").tolist())
        often = [float(v) for v, n in Counter(values.tolist()).items() if n * NUMBERS > len(values)]
        edges |= {float(np.nextafter(value, -np.inf)) for value in often} | set(often)
        return cls(edges=tuple(sorted(edges)))

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.classes or self.edges) + 1

    def find(self, prediction: float | str) -> int:
        """The bin of a prediction, in [0, size); what is no number is in the last."""
        if self.classes:
            found = bisect_left(self.classes, str(prediction))
            known = found < len(self.classes) and self.classes[found] == prediction
            return found if known else len(self.classes)
        number = float(prediction)
        return len(self.edges) if math.isnan(number) else bisect_left(self.edges, number)
