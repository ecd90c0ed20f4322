"""What comes back from production: requests, predictions, and later their labels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.settings import Positive, Section, Share
from pipeline.config.sections.data import FilePath


class PredictionLog(Section):
    """What the embedded server keeps of its answers."""

    share: Annotated[Share, Field(gt=0.0)] = Field(
        1.0, description="Share of the requests that are logged, chosen by a stable hash of the key."
    )
    path: FilePath | None = Field(
        None, description="Folder of the log; by default `predictions` in the state folder."
    )
    file_mb: Positive = Field(64, description="A file of the log ends at this size, in MiB.")
    file_seconds: Annotated[float, Field(gt=0.0)] = Field(300.0, description="A file of the log ends then.")
    max_mb: Positive = Field(4096, description="Most that the log keeps on disk, in MiB; the oldest go.")
    drop: list[str] = Field([], description="Columns that are not logged.")
    hash: list[str] = Field([], description="Columns of which a keyed hash is logged (see `salt_env`).")
    salt_env: str | None = Field(None, description="Environment variable with the key of these hashes.")


class Feedback(Section):
    """How labels that arrive later find the requests that they belong to (`retrain feedback`)."""

    key: str = Field("key", description="Column of the labels with the key of the request.")
    time: str | None = Field(
        None, description="Column of the labels with the time of the label; by default the file's own."
    )
    window_hours: Annotated[float, Field(gt=0.0)] = Field(
        168.0, description="A label that comes later than this after the prediction is late: only counted."
    )
    wait_hours: Annotated[float, Field(gt=0.0)] = Field(
        24.0, description="So long a label without a prediction waits for one; then it is only counted."
    )
    min_rows: Positive = Field(1, description="Fewest joined rows that make a span; fewer wait.")
