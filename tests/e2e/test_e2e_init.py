"""A table of images and lists in Parquet: from the file to an answer without an edit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.e2e.harness import retrain

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("e2e-init"), pytest.mark.timeout(600)]


def test_images_and_lists_in_parquet(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    pixels, digit = load_digits(n_class=4, return_X_y=True)
    names = np.array(["zero", "one", "two", "three"])[digit]
    random = np.random.default_rng(0)
    # Every digit has tags that are often, not always, on it.
    tags = [
        [f"t{d}", *(f"x{i}" for i in random.integers(0, 6, d % 3))] if random.random() < 0.4 else []
        for d in digit
    ]
    table = pa.table(
        {
            "Pixel Values": pa.array(list(pixels)),
            "tags": pa.array(tags, pa.list_(pa.string())),
            "digit": names,
        }
    )
    pa.parquet.write_table(table.slice(0, 600), tmp_path / "scans.parquet")
    later = table.slice(600)
    pa.parquet.write_table(later.drop_columns("digit"), tmp_path / "later.parquet")

    made = retrain("init", tmp_path / "scans.parquet", "--label", "digit", "--dir", tmp_path, "--json")
    assert made.code == 0, made.err
    config = tmp_path / "configs/scans.yaml"
    text = config.read_text()
    assert "type: cnn" in text and "multivalent: true" in text
    with config.open("a") as file:  # only so that two tests do not want the same port
        file.write("serving: {rest_port: 0, grpc_port: 0}\n")
    run = retrain("run", config, "--json")
    assert run.code == 0, run.err
    assert run.lines[-1]["blessed"], run.lines[-1]["gate"]
    predicted = retrain("predict", config, tmp_path / "later.parquet", "--json")
    assert predicted.code == 0, predicted.err
    right = [
        line["prediction"] == d for line, d in zip(predicted.lines, later["digit"].to_pylist(), strict=True)
    ]
    assert np.mean(right) > 0.9
    scores = predicted.lines[0]["scores"]
    assert set(scores) == set(names) and sum(scores.values()) == pytest.approx(1.0, abs=1e-4)
