"""How one raw column becomes inputs of the model: what transform and train must agree on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["numeric", "categorical", "identity"]


@dataclass(frozen=True)
class Feature:
    """One configured feature.

    A numeric feature gives two float32 inputs of shape [batch]: `NAME` (z-score, 0 where missing)
    and `NAME_missing` (1 where missing). A categorical feature gives one int64 input of shape
    [batch]: the index of its term in the vocabulary, or of an out-of-vocabulary bucket behind it.
    An identity feature gives one int64 input of shape [batch]: the integer itself less `min`, or
    `max - min + 1` where it is missing or out of range.

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

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the transformed features that this one gives."""
        return (self.name, f"{self.name}_missing") if self.kind == "numeric" else (self.name,)

    def rows(self, terms: int) -> int:
        """How many rows its tables have, with so many terms in its vocabulary."""
        return self.max - self.min + 2 if self.kind == "identity" else terms + self.oov_buckets

    @property
    def vocabulary(self) -> str:
        """The name of its vocabulary file in the transform graph."""
        return f"{self.name}_vocabulary"


def to_json(features: Iterable[Feature]) -> list[dict[str, Any]]:
    """Features as plain data, for a component's `custom_config`."""
    return [asdict(feature) for feature in features]


def from_json(data: Iterable[Mapping[str, Any]]) -> list[Feature]:
    """The other direction of `to_json`."""
    return [Feature(**item) for item in data]
