"""How raw columns become inputs of the model: what the configuration, transform and train agree on.

Once it is transformed, a feature has one of five forms:

- `numeric`: one column of the two matrices `NUMERIC` and `NUMERIC_MISSING`, which hold all of them;
- `index`: int64 [batch], the row of the feature's tables (a weight, an embedding);
- `indexes`: int64, sparse [batch, values], several rows of them;
- `vector`: float32 [batch, width];
- `tensor`: float32 [batch, height, width, channels].
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter, field_validator, model_validator

from components.settings import Positive, Section

Form = Literal["numeric", "index", "indexes", "vector", "tensor"]

NUMERIC = "numeric"
"""Transformed: all numeric features in order, as z-scores, 0 where missing; float32 [batch, features]."""
NUMERIC_MISSING = "numeric_missing"
"""Transformed: 1 where a numeric feature was missing; float32 [batch, features]."""
LABEL = "label"
"""Transformed: what the model learns; see `components.label.Label`."""
LABEL_MEAN, LABEL_SCALE = "label_mean", "label_scale"
"""Transformed, of a regression: what is served is prediction * scale + mean; float32 [batch], constant."""
EXAMPLE_WEIGHT = "example_weight"
"""Transformed: how much an example counts; float32 [batch]."""
NUMERIC_MEAN, NUMERIC_SCALE = "numeric_mean", "numeric_scale"
"""Transformed, of the columns of `NUMERIC`: a value v is (v - mean) / scale there; v is the logarithm where
that is taken. The scale is 0 where all values were one, or there was none: then it is always 0.
float32 [batch, features], constant; no input of a model."""
RESERVED = frozenset(
    {NUMERIC, NUMERIC_MISSING, LABEL, LABEL_MEAN, LABEL_SCALE, EXAMPLE_WEIGHT, NUMERIC_MEAN, NUMERIC_SCALE}
)

PARTS = {"minute": (0, 60), "hour": (0, 24), "day_of_week": (1, 7), "day_of_month": (1, 31), "month": (1, 12)}
"""Part of a time -> its first value, and how many there are. Monday is 1."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_COLUMN = "The raw column, where it is not called as the feature is."
_MULTIVALENT = "The column holds lists, and all of their values count; without it only the first one does."
_SEPARATOR = "Splits a text into a list, all of whose values count, as '|' does 'comedy|drama'."
_TOP_K = "Largest vocabulary, most frequent terms first."
_MIN_COUNT = "Terms seen less often are out of vocabulary."
_OOV = "Rows that the terms out of vocabulary share, by a hash."


class Feature(Section):
    """One configured feature; `name` is its key in the file, unique in a deployment."""

    form: ClassVar[Form]
    has_vocabulary: ClassVar[bool] = False
    name: str
    type: str

    @field_validator("name")
    @classmethod
    def _usable(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"got {name!r}, expected letters, digits and _, a letter first (the raw column is `column`)"
            )
        if name in RESERVED:
            raise ValueError(
                f"got {name!r}, which is the pipeline's own, expected another (the raw column is `column`)"
            )
        return name

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns that it is made of."""
        raise NotImplementedError

    @property
    def many(self) -> bool:
        """Whether it reads all values of a list, and not only the first."""
        return False

    def rows(self, terms: int) -> int:
        """How many rows its tables have, with so many terms in its vocabulary. Only of indexes."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> str:
        """The name of its vocabulary file in the transform graph."""
        return f"{self.name}_vocabulary"


class _OfOneColumn(Feature):
    column: str = Field(description=_COLUMN, json_schema_extra={"default": "the feature's name"})

    @model_validator(mode="before")
    @classmethod
    def _named_like_its_column(cls, data: Any) -> Any:
        return {"column": data.get("name"), **data} if isinstance(data, dict) else data

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)


class _OfLists(_OfOneColumn):
    multivalent: bool = Field(False, description=_MULTIVALENT)
    separator: Annotated[str, Field(min_length=1)] | None = Field(None, description=_SEPARATOR)

    @property
    def form(self) -> Form:  # type: ignore[override]
        return "indexes" if self.multivalent or self.separator else "index"

    @property
    def many(self) -> bool:
        return self.multivalent


class Numeric(_OfOneColumn):
    """A number."""

    form = "numeric"
    type: Literal["numeric"] = Field(
        "numeric", description="A number, as its z-score; 0 and a flag where it is missing."
    )
    log: bool = Field(False, description="Take log(1 + x) first, for amounts and durations.")


class Bucketized(_OfOneColumn):
    """A number as the bucket that it falls into."""

    form = "index"
    type: Literal["bucketized"] = Field(
        "bucketized",
        description="A number by its bucket of equally full ones; missing is a bucket of its own.",
    )
    buckets: Annotated[int, Field(ge=2, le=1000)] = Field(10, description="Buckets, at most.")

    def rows(self, terms: int) -> int:
        return self.buckets + 1


class Categorical(_OfLists):
    """A category by its place in a vocabulary; a missing one is the term `<missing>`."""

    has_vocabulary = True
    type: Literal["categorical"] = Field(
        "categorical",
        description="A category with a vocabulary, each term with its weight and its embedding; a missing "
        "one is a term, too.",
    )
    top_k: Positive = Field(1000, description=_TOP_K)
    min_count: Positive = Field(1, description=_MIN_COUNT)
    oov_buckets: Positive = Field(1, description=_OOV)

    def rows(self, terms: int) -> int:
        return terms + self.oov_buckets


class Hashed(_OfLists):
    """A category by a hash of it; row 0 is for a missing one."""

    type: Literal["hashed"] = Field(
        "hashed",
        description="A category of very many values, by a hash instead of a vocabulary; a missing one has a "
        "row of its own.",
    )
    buckets: Annotated[int, Field(ge=1, le=10_000_000)] = Field(1000, description="Buckets of the hash.")

    def rows(self, terms: int) -> int:
        return self.buckets + 1


class Identity(_OfOneColumn):
    """A small integer less `min`; `max - min + 1` where it is missing or out of range."""

    form = "index"
    type: Literal["identity"] = Field(
        "identity", description="A small integer that is its own index, such as an hour."
    )
    min: int = Field(0, description="Smallest value.")
    max: int = Field(description="Largest value; what lies outside shares a row with what is missing.")

    @model_validator(mode="after")
    def _ordered(self) -> Identity:
        if not self.min <= self.max < self.min + 100_000:
            raise ValueError(f"got min {self.min} and max {self.max}, expected min <= max < min + 100000")
        return self

    def rows(self, terms: int) -> int:
        return self.max - self.min + 2


class Cross(Feature):
    """Several columns together, by a hash of their values."""

    form = "index"
    type: Literal["cross"] = Field(
        "cross", description="A combination of columns as one category, by a hash."
    )
    crossed: Annotated[list[str], Field(min_length=2)] = Field(
        alias="columns", description="The raw columns that are combined."
    )
    buckets: Annotated[int, Field(ge=1, le=10_000_000)] = Field(1000, description="Buckets of the hash.")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.crossed)

    def rows(self, terms: int) -> int:
        return self.buckets


class Timestamp(_OfOneColumn):
    """Parts of a time, such as its hour; see `PARTS`."""

    type: Literal["timestamp"] = Field(
        "timestamp",
        description="A time - unix seconds or milliseconds, or ISO 8601 text - by parts such as its hour.",
    )
    parts: Annotated[
        list[Literal["minute", "hour", "day_of_week", "day_of_month", "month"]], Field(min_length=1)
    ] = Field(["hour", "day_of_week"], description="What of the time counts.")
    encoding: Literal["cyclic", "category"] = Field(
        "cyclic",
        description="`cyclic`: sine and cosine of each part, so that 23 h is next to 0 h; `category`: a "
        "weight and an embedding for each value of each part.",
    )

    @property
    def form(self) -> Form:  # type: ignore[override]
        return "vector" if self.encoding == "cyclic" else "indexes"

    def rows(self, terms: int) -> int:
        return sum(PARTS[part][1] for part in self.parts) + 1


class Text(_OfOneColumn):
    """Free text by its words, in lower case, and runs of them."""

    form = "indexes"
    has_vocabulary = True
    type: Literal["text"] = Field(
        "text", description="Free text: its words in lower case and runs of them, in a vocabulary."
    )
    ngrams: Annotated[int, Field(ge=1, le=5)] = Field(1, description="Longest run of words that is a term.")
    top_k: Positive = Field(10_000, description=_TOP_K)
    min_count: Positive = Field(2, description=_MIN_COUNT)
    oov_buckets: Positive = Field(1, description=_OOV)

    def rows(self, terms: int) -> int:
        return terms + self.oov_buckets


class Tensor(_OfOneColumn):
    """A list of numbers, or several columns, as a tensor: an image's pixels by row."""

    form = "tensor"
    type: Literal["tensor"] = Field(
        "tensor",
        description="Numbers as a tensor, such as an image: z-score over all of them, 0 where missing.",
    )
    shape: Annotated[list[Positive], Field(min_length=3, max_length=3)] = Field(
        description="Height, width and channels."
    )
    of: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        alias="columns",
        description="Columns of one number each, row by row, in place of one column of lists.",
    )

    @model_validator(mode="after")
    def _filled(self) -> Tensor:
        if self.of is not None and len(self.of) != self.size:
            raise ValueError(f"got {len(self.of)} columns for shape {self.shape}, expected {self.size}")
        return self

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.of) if self.of else (self.column,)

    @property
    def many(self) -> bool:
        return self.of is None


FEATURES = {
    "numeric": Numeric,
    "categorical": Categorical,
    "identity": Identity,
    "bucketized": Bucketized,
    "hashed": Hashed,
    "cross": Cross,
    "timestamp": Timestamp,
    "text": Text,
    "tensor": Tensor,
}
AnyFeature = Annotated[
    Numeric | Categorical | Identity | Bucketized | Hashed | Cross | Timestamp | Text | Tensor,
    Field(discriminator="type"),
]
_ADAPTER: TypeAdapter[list[Any]] = TypeAdapter(list[AnyFeature])


def indexed(features: Iterable[Feature]) -> list[Feature]:
    """The features that are rows of tables, one or several an example."""
    return [feature for feature in features if feature.form in ("index", "indexes")]


def outputs(features: Sequence[Feature]) -> list[str]:
    """The names of the transformed features that the model takes."""
    numeric = [NUMERIC, NUMERIC_MISSING] if any(f.form == "numeric" for f in features) else []
    return [*numeric, *(f.name for f in features if f.form != "numeric")]


def boundaries_output(name: str) -> str:
    """Transformed, of a `Bucketized`: where its buckets end; float32 [batch, buckets - 1], constant.

    A value is in the bucket whose number is how many boundaries it has reached; those of a column without
    any value are 0. Neither this nor the names below can be a feature's, which has no `-`.
    """
    return f"{name}-boundaries"


def mean_output(name: str) -> str:
    """Transformed, of a `Tensor`: the mean of each of its numbers; float32 [batch, size], constant."""
    return f"{name}-mean"


def scale_output(name: str) -> str:
    """Transformed, of a `Tensor`: the scale of each of its numbers, as in `NUMERIC_SCALE`."""
    return f"{name}-scale"


def fit_outputs(features: Sequence[Feature]) -> list[str]:
    """The names of the transformed features that only tell what the graph was fitted to."""
    names = [NUMERIC_MEAN, NUMERIC_SCALE] if any(f.form == "numeric" for f in features) else []
    for feature in features:
        if isinstance(feature, Bucketized):
            names.append(boundaries_output(feature.name))
        elif isinstance(feature, Tensor):
            names += [mean_output(feature.name), scale_output(feature.name)]
    return names


def raw_columns(features: Iterable[Feature], extra: Iterable[str] = ()) -> dict[str, bool]:
    """Raw column -> whether a request may hold a list of its values; all that the features read.

    Args:
        features: the configured features.
        extra: columns that the user's own preprocessing reads, all of their values.
    """
    columns = dict.fromkeys(extra, True)
    for feature in features:
        for column in feature.columns:
            columns[column] = columns.get(column, False) or feature.many
    return dict(sorted(columns.items()))


def request_names(columns: Iterable[str]) -> dict[str, str]:
    """Column -> its name in a request.

    A signature's input is an argument of a function in TensorFlow's eyes, which neither begins with a
    digit nor holds a blank, is no keyword of Python, and differs from the others in more than case. Most
    columns keep their name; of the others what is no letter, digit or _ becomes _.

    >>> request_names(["price", "Unit Price", "unit price", "1st"])
    {'price': 'price', 'Unit Price': 'Unit_Price', 'unit price': 'unit_price_2', '1st': 'c_1st'}
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    # Those that need no change first, so that no other takes their name.
    for column in sorted(columns, key=lambda column: not _plain(column)):
        name = re.sub(r"[^A-Za-z0-9_]", "_", column)
        name = name if _plain(name) else f"c_{name}"
        number = 2
        free = name
        while free.lower() in taken:
            free, number = f"{name}_{number}", number + 1
        names[column] = free
        taken.add(free.lower())
    return names


def _plain(column: str) -> bool:
    return bool(_NAME.fullmatch(column)) and column != "self" and not keyword.iskeyword(column)


def to_json(features: Iterable[Feature]) -> list[dict[str, Any]]:
    """Features as plain data, for a component's `custom_config`."""
    return [feature.model_dump(by_alias=True) for feature in features]


def from_json(data: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The other direction of `to_json`."""
    return _ADAPTER.validate_python([dict(item) for item in data])
