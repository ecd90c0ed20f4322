"""The models that a configuration can name, and their settings. components/train/ builds them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from components.settings import Positive, Section

Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]

_HIDDEN = "Units of the dense layers, from the inputs on."
_EMBEDDING = "Length of a category's embedding."
_DROPOUT = "Share of units dropped in training."
_BATCH_NORM = "Batch normalization after each dense layer."


class Linear(Section):
    """One weight a number and a category."""

    type: Literal["linear"] = Field(
        "linear", description="A weight for each number and each category, and no hidden layer."
    )


class _Deep(Section):
    hidden: Annotated[list[Positive], Field(min_length=1)] = Field([64, 32], description=_HIDDEN)
    embedding_dim: Positive = Field(8, description=_EMBEDDING)
    dropout: Dropout = Field(0.3, description=_DROPOUT)
    batch_norm: bool = Field(True, description=_BATCH_NORM)


class Mlp(_Deep):
    """Embeddings and numbers through dense layers."""

    type: Literal["mlp"] = Field("mlp", description="Embeddings and numbers through dense layers.")


class WideAndDeep(_Deep):
    """Wide and deep (Cheng et al., 2016, arXiv:1606.07792)."""

    type: Literal["wide_and_deep"] = Field(
        "wide_and_deep",
        description="A linear part over categories, and dense layers over embeddings and numbers.",
    )


class TwoTower(_Deep):
    """Two towers and a dot product (Yi et al., 2019, doi:10.1145/3298689.3346996)."""

    type: Literal["two_tower"] = Field(
        "two_tower",
        description="A recommender: a tower over the user's features, one over the item's; the score of a "
        "pair is their dot product. Both towers are served, too.",
    )
    user: Annotated[list[str], Field(min_length=1)] = Field(description="Features of the user's tower.")
    item: Annotated[list[str], Field(min_length=1)] = Field(description="Features of the item's tower.")
    output_dim: Positive = Field(32, description="Length of the towers' outputs.")
    negatives: Literal["logged", "in_batch"] = Field(
        "logged",
        description="`logged`: rows with label 0 are the negatives; `in_batch`: for a row with label 1, the "
        "items of the batch's other rows are.",
    )

    temperature: Annotated[float, Field(gt=0.0)] = Field(
        0.1, description="In-batch negatives: the smaller, the more the most similar ones count."
    )

    @model_validator(mode="after")
    def _apart(self) -> TwoTower:
        both = sorted(set(self.user) & set(self.item))
        if both:
            raise ValueError(f"item: got {both[0]!r}, which is in `user`, too, expected it in one tower")
        return self


class Cnn(_Deep):
    """A small convolutional network over one tensor, with the other features beside it."""

    type: Literal["cnn"] = Field(
        "cnn",
        description="Convolutions over the one feature of type tensor; the other features join after them.",
    )
    filters: Annotated[list[Positive], Field(min_length=1)] = Field(
        [16, 32], description="Filters of each convolution; all but the last halve height and width."
    )
    kernel: Positive = Field(3, description="Height and width of a filter.")


class Custom(Section):
    """A model of the user's own; docs/models.md has the contract."""

    type: Literal["custom"] = Field("custom", description="Your own Keras model.")
    module: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")] = Field(
        description="Dotted path of a module with `build_model`, and `preprocessing_fn` if it wants one."
    )
    params: dict[str, Any] = Field({}, description="Handed to `build_model` as they are.")


MODELS = {
    "wide_and_deep": WideAndDeep,
    "mlp": Mlp,
    "linear": Linear,
    "two_tower": TwoTower,
    "cnn": Cnn,
    "custom": Custom,
}
AnyModel = Annotated[WideAndDeep | Mlp | Linear | TwoTower | Cnn | Custom, Field(discriminator="type")]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyModel)


def from_json(data: dict[str, Any]) -> Any:
    """A model's settings from what their `model_dump` gave."""
    return _ADAPTER.validate_python(data)
