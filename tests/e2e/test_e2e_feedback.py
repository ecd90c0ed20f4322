"""The way round: served, asked, labelled, joined, learned, served, and better on what has changed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.names import MISSING_INT
from tests.e2e.harness import ROOT, Deployment, retrain

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("e2e-feedback"), pytest.mark.timeout(600)]

ROWS, AT_ONCE = 600, 20
NOT_ASKED = ("trip_start_timestamp", "pickup_census_tract", "dropoff_census_tract")
FLOATS = (
    "fare",
    "trip_miles",
    "pickup_latitude",
    "pickup_longitude",
    "dropoff_latitude",
    "dropoff_longitude",
)
TEXTS = ("payment_type", "company")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    deployment = Deployment(tmp_path_factory.mktemp("feedback") / "taxi")
    # The world turns round, so what was learned before is to be forgotten, and no gate is to mind.
    deployment.configure(
        gates={"metrics": {"auc": {"min_value": 0.6}}},
        replay={"ratio": 0.1},
        warm_start={"epochs": 15, "learning_rate": 0.003},
        serving={"rest_port": 0, "grpc_port": 0, "prediction_log": {"file_seconds": 2.0}},
    )
    deployment.put(1)
    assert deployment.run().code == 0
    return deployment


@pytest.fixture(scope="module")
def server(deployment: Deployment) -> Iterator[str]:
    """`retrain serve` in a process of its own; its address."""
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "serve", str(deployment.config)]
    process = subprocess.Popen([*command, "--json"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        rest = json.loads(process.stdout.readline())["rest"]
        wait_for(rest, 1)
        yield f"{rest}/v1/models/taxi"
    finally:
        process.terminate()
        assert process.wait(60) == 0


def wait_for(rest: str, version: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            states = get(f"{rest}/v1/models/taxi")["model_version_status"]
            if any(one["version"] == str(version) and one["state"] == "AVAILABLE" for one in states):
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"version {version} is not served")


def get(url: str, body: Any = None, **headers: str) -> Any:
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def asked(row: dict[str, str], columns: Any) -> dict[str, Any]:
    """A row as a client asks it."""
    instance: dict[str, Any] = {}
    for name in columns:
        text = row[name]
        if name in TEXTS:
            instance[name] = text
        elif name in FLOATS:
            instance[name] = float(text or "nan")
        else:
            instance[name] = int(float(text)) if text else MISSING_INT
    return instance


def predict(server: str, rows: list[dict[str, str]], columns: Any, prefix: str) -> list[float]:
    found: list[float] = []
    for begin in range(0, len(rows), AT_ONCE):
        some = rows[begin : begin + AT_ONCE]
        keys = ",".join(f"{prefix}{begin + i}" for i in range(len(some)))
        body = {"signature_name": "serving_raw", "instances": [asked(row, columns) for row in some]}
        found += get(f"{server}:predict", body, **{"X-Request-Key": keys})["predictions"]
    return found


def test_what_was_asked_comes_back_as_the_next_span_and_is_learned(
    deployment: Deployment, server: str, tmp_path: Path
) -> None:
    from sklearn.metrics import roc_auc_score

    from pipeline.config import load

    fresh = deployment.put(2, flipped=True)
    with open(fresh) as file:
        rows = list(csv.DictReader(file))[:ROWS]
    fresh.unlink()
    fresh.parent.rmdir()  # the only way for these rows into the data is round
    columns = load(deployment.config).columns
    truth = [float(row["tips"]) > 0.2 * float(row["fare"]) for row in rows]
    before = predict(server, rows, columns, "trip-")

    labels = tmp_path / "labels"
    labels.mkdir()
    for number, half in enumerate((range(0, ROWS, 2), range(1, ROWS, 2))):
        with open(labels / f"{number}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["key", "tips", *NOT_ASKED])
            writer.writerows(
                [f"trip-{i}", rows[i]["tips"], *(rows[i][name] for name in NOT_ASKED)] for i in half
            )
    (told,) = retrain("feedback", deployment.config, "--labels", labels, "--json").lines
    assert told["counts"]["joined"] == ROWS and told["span"] == {
        **told["span"],
        "number": 2,
        "rows": ROWS,
        "versions": {"1": ROWS},
    }
    (again,) = retrain("feedback", deployment.config, "--labels", labels, "--json").lines
    assert again["span"] is None and again["counts"]["joined"] == 0 and again["known"] == 2
    assert_same(rows, deployment.data / told["span"]["path"])

    result = deployment.run()
    assert result.code == 0, result.err
    skew, learned = result.lines
    assert skew["skew"]["rows"] == ROWS and skew["skew"]["version"] == 1
    assert (learned["spans"], learned["version"], learned["served"]) == ([2], 2, 2)
    # Held-out rows of the new span: the old version has them the wrong way round.
    aucs = [learned[of]["new"]["2"]["auc"] for of in ("baseline_metrics", "metrics")]
    assert aucs[0] < 0.4 and aucs[1] > 0.6

    wait_for(server.removesuffix("/v1/models/taxi"), 2)
    after = predict(server, rows, columns, "again-")
    assert roc_auc_score(truth, before) < 0.4
    assert roc_auc_score(truth, after) > 0.6


def assert_same(rows: list[dict[str, str]], written: Path) -> None:
    """Every value that was asked or labelled is in the new span as it was in the table."""
    with open(written) as file:
        found = list(csv.DictReader(file))

    def plain(row: dict[str, str]) -> tuple[str, ...]:
        texts = [(name, row[name]) for name in sorted(found[0])]
        return tuple(text if name in TEXTS or not text else str(np.float32(text)) for name, text in texts)

    assert Counter(map(plain, found)) == Counter(map(plain, rows))
