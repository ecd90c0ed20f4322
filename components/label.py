"""What is predicted: what the configuration, ingest, transform, train and evaluate agree on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from components.errors import RetrainError
from components.names import BOOKKEEPING
from components.settings import Positive, Section

Task = Literal["binary", "multiclass", "regression"]

VOCABULARY = "label_vocabulary"
"""The file of the classes in the transform graph."""
STATE_FILE = "state.json"
"""In a version's checkpoint: what rebuilds its model. `label` in it is a `LabelState`."""


class Label(Section):
    """The label, and the task that it sets.

    Transformed, as `components.features.LABEL`: of a binary task 0 or 1, float32 [batch]; of a
    multiclass one the index of the class, int64 [batch], -1 for one that is not in the vocabulary;
    of a regression the z-score, float32 [batch].
    """

    name: str = Field(description="The label's column, or a name for what `expression` computes.")
    task: Task = Field(
        "binary",
        description="`binary`: 1 or 0; `multiclass`: one of several names or integers; `regression`: a "
        "number.",
    )
    expression: str | None = Field(
        None,
        description="Computes the label of columns, such as 'a > 0.2 * b'; without it the label is a column.",
    )
    log: bool = Field(
        False, description="Regression: learn log(1 + y), for amounts; served and judged in its own unit."
    )
    max_classes: Positive = Field(
        1000, description="Multiclass: a run fails with more classes than these, as where the label is an id."
    )
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0.0)]] | None = Field(
        None,
        description="How much a class counts in training: `balanced`, or class -> weight; others count 1.",
    )
    example_weight: str | None = Field(
        None, description="Column that says how much a row counts, in training and in the metrics."
    )

    @field_validator("expression")
    @classmethod
    def _parses(cls, text: str | None) -> str | None:
        if text is not None:
            from components.expression import parse

            try:
                parse(text)
            except RetrainError as error:
                raise ValueError(str(error)) from None
        return text

    @field_validator("name")
    @classmethod
    def _not_taken(cls, name: str) -> str:
        if name in BOOKKEEPING:
            raise ValueError(f"got {name!r}, which is the pipeline's own, expected another")
        return name

    @model_validator(mode="after")
    def _fits_the_task(self) -> Label:
        if self.log and self.task != "regression":
            raise ValueError(f"log: got true for a {self.task} label, expected it for a regression only")
        if self.class_weights and self.task == "regression":
            raise ValueError("class_weights: got some for a regression, which has no classes; remove them")
        if self.expression and self.task == "multiclass":
            raise ValueError("expression: got one for a multiclass label, expected a column of classes")
        if self.task == "binary" and isinstance(self.class_weights, dict):
            strange = sorted(self.class_weights.keys() - {"0", "1"})
            if strange:
                raise ValueError(f"class_weights: got {strange[0]!r}, expected the classes '0' and '1'")
        return self


class LabelState(Section):
    """What of the label a version hands on, so that its successor's outputs mean the same.

    Attributes:
        classes: of a multiclass label, in the order of the model's outputs.
        mean, scale: of a regression, of the label.
        log: whether they are of its logarithm.
    """

    classes: list[str] = []
    mean: float = 0.0
    scale: float = 1.0
    log: bool = False


def read_label_state(model_uri: str) -> LabelState | None:
    """What the version of a Model artifact knows of its label; None where it has no checkpoint."""
    path = Path(model_uri) / "checkpoint" / STATE_FILE
    try:
        state: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return LabelState.model_validate(state["label"])
