"""One graph that has a feature of every kind, fitted on columns with everything that columns bring."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from components.features import (
    Bucketized,
    Categorical,
    Cross,
    Hashed,
    Identity,
    Numeric,
    Tensor,
    Text,
    Timestamp,
)
from components.label import Label

ALL_PARTS = ["minute", "hour", "day_of_week", "day_of_month", "month"]
TYPES = {
    "Trip Seconds": "INT",
    "miles": "FLOAT",
    "never": "FLOAT",
    "tags": "BYTES",
    "genres": "BYTES",
    "both": "BYTES",
    "Sprache (é)": "BYTES",
    "url": "BYTES",
    "codes": "INT",
    "hour": "INT",
    "at": "INT",
    "at ms": "INT",
    "iso": "BYTES",
    "comment": "BYTES",
    "pixels": "FLOAT",
    "low": "FLOAT",
    "high": "INT",
    "dark": "FLOAT",
    "paid": "INT",
    "1st weight": "FLOAT",
}
FEATURES = [
    Numeric(name="seconds", column="Trip Seconds"),
    Bucketized(name="miles", buckets=4),
    Bucketized(name="never", buckets=3),
    Categorical(name="tags", multivalent=True, oov_buckets=2),
    Categorical(name="genres", separator="|", top_k=3),
    Categorical(name="both", separator=",", multivalent=True),
    Categorical(name="language", column="Sprache (é)"),
    Hashed(name="url", buckets=7),
    Hashed(name="codes", multivalent=True, buckets=5),
    Hashed(name="genre_hashes", column="genres", separator="|", buckets=4),
    Identity(name="hour", min=1, max=4),
    Cross(name="hour_language", columns=["hour", "Sprache (é)"], buckets=11),
    Timestamp(name="at", parts=ALL_PARTS),
    Timestamp(name="at_ms", column="at ms", parts=ALL_PARTS),
    Timestamp(name="iso", encoding="category"),
    Text(name="comment", ngrams=2, min_count=1),
    Tensor(name="pixels", shape=[2, 3, 1]),
    Tensor(name="levels", columns=["low", "high"], shape=[1, 2, 1]),
    Tensor(name="dark", shape=[1, 1, 2]),
]
START = datetime(2023, 11, 5, 22, 41, tzinfo=UTC)
COMMENTS = ["Good good trip!", "BAD trip", "", None, "Très bon", "don't stop"]


def make_rows() -> list[dict[str, Any]]:
    """48 rows; `dark` and `never` are always missing."""
    times = [START + timedelta(hours=31 * i) for i in range(48)]
    return [
        {
            "Trip Seconds": None if i % 6 == 0 else 10 * i,
            "miles": None if i % 4 == 3 else float(i),
            "tags": [["a", "b"], ["a"], [], ["c", "a", "a"]][i % 4],
            "genres": ["comedy|drama", " drama ", None, "comedy| |film noir"][i % 4],
            "both": [["a,b", "c"], ["a"], None][i % 3],
            "Sprache (é)": ["de", "de", "çe", None][i % 4],
            "url": None if i % 5 == 0 else f"/p/{i}",
            "codes": [[1, 2], [], [3]][i % 3],
            "hour": i % 6,
            "at": None if i % 7 == 0 else int(times[i].timestamp()),
            "at ms": None if i % 7 == 0 else int(times[i].timestamp() * 1000) + 999,
            "iso": None if i % 7 == 0 else times[i].strftime("%Y-%m-%dT%H:%M:%SZ"),
            "comment": COMMENTS[i % 6],
            "pixels": [[float(i + k) for k in range(6)], [float(i)] * 3, [], [1.0] * 9][i % 4],
            "low": float(i),
            "high": None if i % 2 else 2 * i,
            "paid": i % 2,
            "1st weight": [None, 0.5, 2.0][i % 3],
        }
        for i in range(48)
    ]


@pytest.fixture(scope="session")
def kind_features() -> Any:
    return FEATURES


@pytest.fixture(scope="session")
def kinds(fit: Callable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The graph of all of `FEATURES`, with a binary label and a weight."""
    label = Label(name="paid", example_weight="1st weight")
    folder = tmp_path_factory.mktemp("kinds")
    return fit({"kinds": make_rows()}, folder, types=TYPES, features=FEATURES, label=label)["kinds"]
