"""How one raw column becomes inputs of the model: what transform and train must agree on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["numeric", "categorical", "identity"]


NUMERIC = "numeric"
"""Transformed: all numeric features in order, as z-scores, 0 where missing; float32 [batch, features]."""
NUMERIC_MISSING = "numeric_missing"
"""Transformed: 1 where a numeric feature was missing; float32 [batch, features]."""


@dataclass(frozen=True)
class Feature:
    """One configured feature.

    A numeric feature is a column of `NUMERIC` and of `NUMERIC_MISSING`. A categorical feature is a
    transformed feature of its own name, int64 of shape [batch]: the index of its term in the
    vocabulary, or of an out-of-vocabulary bucket behind it. So is an identity feature: the integer
    itself less `min`, or `max - min + 1` where it is missing or out of range.

    Attributes:
        name: the feature's name, unique in a deployment.
        column: the raw column it is made of.
        kind: `numeric`, `categorical` or `identity`.
        log: numeric: log(1 + max(x, 0)) before the z-score.
        top_k: categorical: the largest vocabulary, most frequent terms first.
        min_count: categorical: terms seen less often are out of vocabulary.
        oov_buckets: categorical: how many buckets share the terms out of vocabulary, at least 1.
        min, max: identity: the smallest and the largest value.
    """

    name: str
    column: str
    kind: Kind
    log: bool = False
    top_k: int = 1000
    min_count: int = 1
    oov_buckets: int = 1
    min: int = 0
    max: int = 0

    def rows(self, terms: int) -> int:
        """How many rows its tables have, with so many terms in its vocabulary."""
        return self.max - self.min + 2 if self.kind == "identity" else terms + self.oov_buckets

    @property
    def vocabulary(self) -> str:
        """The name of its vocabulary file in the transform graph."""
        return f"{self.name}_vocabulary"


def outputs(features: Sequence[Feature]) -> list[str]:
    """The names of the transformed features that the model takes."""
    numeric = [NUMERIC, NUMERIC_MISSING] if any(f.kind == "numeric" for f in features) else []
    return [*numeric, *(f.name for f in features if f.kind != "numeric")]


def to_json(features: Iterable[Feature]) -> list[dict[str, Any]]:
    """Features as plain data, for a component's `custom_config`."""
    return [asdict(feature) for feature in features]


def from_json(data: Iterable[Mapping[str, Any]]) -> list[Feature]:
    """The other direction of `to_json`."""
    return [Feature(**item) for item in data]
