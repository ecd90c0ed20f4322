"""What comes back from production: requests, predictions, and later their labels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from components.settings import Positive, Section, Share
from pipeline.config.sections.data import FilePath
from pipeline.config.sections.server import HeaderName


class PredictionLog(Section):
    """What the embedded server keeps of its answers."""

    key_header: HeaderName = Field(
        "X-Request-Key",
        description="Header (gRPC: metadata) with the key of the request, by which labels find it: a key is "
        "of one row, for ever.",
    )
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
    hash: list[str] = Field(
        [],
        description="Text columns of which a keyed hash is logged (see `salt_env`); numbers can be dropped.",
    )
    salt_env: str | None = Field(None, description="Environment variable with the key of these hashes.")

    @model_validator(mode="after")
    def _consistent(self) -> PredictionLog:
        if self.max_mb < self.file_mb:
            raise ValueError(f"max_mb: got {self.max_mb}, expected at least file_mb, {self.file_mb}")
        if self.hash and not self.salt_env:
            raise ValueError(
                "salt_env: got none, expected the name of an environment variable: without a key of your own "
                "anyone can hash all likely values and compare"
            )
        if self.salt_env and not self.hash:
            raise ValueError("salt_env: got one without `hash`, and only that uses it; remove it")
        if both := sorted(set(self.drop) & set(self.hash)):
            raise ValueError(f"hash: got {both[0]!r}, which is in `drop`, too; remove it from one of them")
        return self


class Feedback(Section):
    """How labels that arrive later find the requests that they belong to (`retrain feedback`)."""

    key: str = Field("key", description="Column of the labels with the key of the request.")
    time: str | None = Field(
        None,
        description="Column of the labels with the time of the label (unix seconds or milliseconds, or ISO "
        "8601); by default the file's own.",
    )
    window_hours: Annotated[float, Field(gt=0.0)] = Field(
        168.0, description="A label that comes later than this after the prediction is late: only counted."
    )
    wait_hours: Annotated[float, Field(gt=0.0)] = Field(
        24.0, description="So long a label without a prediction waits for one; then it is only counted."
    )
    min_rows: Positive = Field(1, description="Fewest joined rows that make a span; fewer wait.")

    @model_validator(mode="after")
    def _two_columns(self) -> Feedback:
        if self.key == self.time:
            raise ValueError(f"time: got {self.time!r}, which is the key, expected another column")
        return self
