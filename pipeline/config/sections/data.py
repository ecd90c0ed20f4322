"""What is learned from: the spans, and what the model sees of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from components.features import AnyFeature, Feature
from components.settings import Section, Share
from pipeline.config.yaml_file import shown
from pipeline.spans.pattern import parse as parse_pattern

FilePath = Annotated[Path, Field(strict=False)]


class Data(Section):
    path: FilePath = Field(description="Folder of the spans.")
    pattern: str = Field(
        "{SPAN}/*",
        description="Files of one span, below the folder: {SPAN} stands for its number, or {YYYY}, {MM}, "
        "{DD} and {HH} for its date; {VERSION}, after it, for versions of it, of which the highest counts.",
    )
    eval_share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.2, description="Share of the rows held out from training, chosen by a stable hash of the row."
    )
    max_quarantine_share: Share = Field(
        0.02, description="Largest share of a span's rows that may be unreadable before the run stops."
    )

    @field_validator("pattern")
    @classmethod
    def _one_span(cls, pattern: str) -> str:
        parse_pattern(pattern)
        return pattern


class Preprocessing(Section):
    features: dict[str, AnyFeature] = Field(
        description="What the model sees: a name for each feature -> how it is made of columns."
    )
    columns: list[str] = Field(
        [], description="Columns that the `preprocessing_fn` of your own module reads, beside the features'."
    )

    @field_validator("features", mode="before")
    @classmethod
    def _named(cls, features: Any) -> Any:
        """Tells each feature its name, which is its key."""
        if not isinstance(features, dict):
            return features
        for name, feature in features.items():
            if not isinstance(name, str):
                raise ValueError(
                    f"got the name {shown(name)}, expected text (in quotes, where it looks like a number)"
                )
            if isinstance(feature, dict) and "name" in feature:
                raise ValueError(
                    f"{name}.name: unknown key; a feature's name is its key, and `column` its raw column"
                )
        return {
            name: {"name": name, **feature} if isinstance(feature, dict) else feature
            for name, feature in features.items()
        }

    def specs(self) -> list[Feature]:
        """The features in the order of the file."""
        return list(self.features.values())
