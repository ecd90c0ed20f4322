"""`retrain check` says whether what is asked looks like what was learned; the log's settings are checked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.errors import RetrainError
from pipeline.config import load
from pipeline.feedback.prediction_log import log_folder, open_prediction_log
from tests.pipeline.conftest import SCHEMA, Result, Shop
from tests.pipeline.feedback_log import write_log

pytestmark = pytest.mark.xdist_group("feedback")

COMPARED = SCHEMA.replace(
    '"x" type: FLOAT', '"x" type: FLOAT drift_comparator { jensen_shannon_divergence { threshold: 0.05 } }'
)


@pytest.fixture
def learned(shop: Shop) -> Shop:
    """A champion that learned x around 0 and n from 0 to 9."""
    import pandas as pd
    import tensorflow_data_validation as tfdv

    from pipeline.config.schema import complete_schema, read_schema

    (shop.folder / "schema.pbtxt").write_text(COMPARED)
    shop.span(1)
    shop.add(1, serve=True)
    rng = np.random.default_rng(1)
    table = pd.DataFrame(
        {"n": rng.integers(0, 10, 500), "x": rng.normal(size=500).astype(np.float32), "word": ["a"] * 500}
    )
    options = tfdv.StatsOptions(
        schema=complete_schema(shop.deployment, read_schema(shop.deployment.schema_path))
    )
    statistics = tfdv.generate_statistics_from_dataframe(table, options)
    folder = shop.state / "artifacts" / "1" / "statistics" / "Split-train"
    folder.mkdir()
    (folder / "FeatureStats.pb").write_bytes(statistics.SerializeToString())
    return shop


def ask(shop: Shop, shift: float = 0.0, **inputs: Any) -> None:
    rng = np.random.default_rng(2)
    for value in rng.normal(size=200):
        more = {"n": np.array([rng.integers(0, 10)]), "x": np.array([value + shift], np.float32)} | inputs
        write_log(shop.state / "predictions", ["k"], time.time() + 1, **more)


def skew(result: Result) -> dict[str, Any]:
    assert result.code == 0, result.err
    (line,) = (json.loads(line) for line in result.out.splitlines())
    return line["skew"]


def test_what_is_asked_like_what_was_learned_is_not_skewed(
    learned: Shop, retrain: Callable[..., Result]
) -> None:
    ask(learned)
    told = skew(retrain("check", learned.config, "--json"))
    assert (told["rows"], told["version"], told["skewed"], told["anomalies"]) == (200, 1, [], [])
    assert {one["feature"]: one["measure"] for one in told["features"]} == {"n": "linf", "x": "jsd"}
    metrics = (learned.state / "metrics" / "skew.prom").read_text()
    assert 'retrain_skew_rows{model="shop",version="1"} 200.0' in metrics
    assert 'retrain_skewed{feature="x",measure="jsd",model="shop"} 0.0' in metrics


def test_a_shifted_column_is_found_and_a_missing_one(learned: Shop, retrain: Callable[..., Result]) -> None:
    (learned.folder / "schema.pbtxt").write_text(
        COMPARED.replace('"word" type: BYTES', '"word" type: BYTES presence { min_fraction: 0.5 }')
    )
    ask(learned, shift=2.0, word=b"")
    result = retrain("check", learned.config)
    assert result.code == 0, result.err
    assert "1 of 2 features skewed; 200 requests' rows since" in result.out
    lines = [line for line in result.out.splitlines() if " x " in line]
    assert "yes" in lines[0] and "jsd" in lines[0]
    assert "requests are not as the schema has them: word" in result.out
    metrics = (learned.state / "metrics" / "skew.prom").read_text()
    assert 'retrain_skewed{feature="x",measure="jsd",model="shop"} 1.0' in metrics
    assert 'retrain_request_anomalies{model="shop"} 1.0' in metrics


def test_without_a_row_or_a_log_there_is_nothing_to_compare(
    learned: Shop, retrain: Callable[..., Result]
) -> None:
    result = retrain("check", learned.config)
    assert result.code == 0 and "skew" not in result.out
    write_log(learned.state / "predictions", ["old"], time.time() - 999_999)
    result = retrain("check", learned.config)
    assert "skew: the log has no row since" in result.out


def configured(shop: Shop, settings: str) -> Any:
    shop.config.write_text(shop.config.read_text() + f"serving: {{prediction_log: {settings}}}\n")
    return load(shop.config)


def test_the_log_of_a_deployment(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_prediction_log(shop.deployment) is None
    deployment = configured(shop, "{path: log, drop: [x], hash: [word], salt_env: SHOP_SALT}")
    assert log_folder(deployment) == shop.folder / "log"
    with pytest.raises(RetrainError, match="SHOP_SALT is not set, and it holds the key"):
        open_prediction_log(deployment)
    monkeypatch.setenv("SHOP_SALT", "a secret")
    opened = open_prediction_log(deployment)
    assert opened is not None
    with opened as log:
        inputs = {"n": np.array([1]), "x": np.array([7.5]), "word": np.array([b"Blue"], np.object_)}
        log.record("shop", 1, "serving_raw", "predict", inputs, {"predictions": np.array([0.5])}, "k")
    (file,) = (shop.folder / "log").iterdir()
    assert b"Blue" not in file.read_bytes()
    from components.feedback.log import read

    (row,) = read(shop.folder / "log")
    assert set(row.inputs) == {"n", "word"} and len(row.inputs["word"] or b"") == 64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{drop: [z]}", "drop: got 'z', which is no feature of the schema"),
        ("{hash: [n], salt_env: S}", "hash: n is INT in the schema, .* a number can be dropped"),
        ("{hash: [word]}", "salt_env: got none, expected the name of an environment variable"),
        ("{salt_env: S}", "salt_env: got one without `hash`"),
        ("{drop: [word], hash: [word], salt_env: S}", "hash: got 'word', which is in `drop`, too"),
        ("{file_mb: 64, max_mb: 63}", "max_mb: got 63, expected at least file_mb, 64"),
        ("{share: 0}", "share: got 0"),
    ],
)
def test_settings_of_the_log_that_cannot_be(shop: Shop, settings: str, message: str) -> None:
    with pytest.raises(RetrainError, match=message):
        open_prediction_log(configured(shop, settings))


def test_the_key_and_the_time_of_labels_are_two_columns(shop: Shop) -> None:
    shop.config.write_text(shop.config.read_text() + "feedback: {time: key}\n")
    with pytest.raises(RetrainError, match="time: got 'key', which is the key, expected another column"):
        load(Path(shop.config))
