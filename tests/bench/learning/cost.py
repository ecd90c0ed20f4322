"""What an update costs as versions pile up: runs on 1,000 new rows each, around span 5 and around span 50."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from tests.bench.learning.fold import write_json
from tests.bench.prequential import taxi_csv
from tests.e2e.harness import ROOT, retrain

ROWS = 1_000
SPANS = 52
EARLY, LATE = range(3, 8), range(48, 53)  # five runs each, around 5 and around 50
CHANGES = {
    "transform": {"policy": "reuse"},
    # Full by the third span, so that what is read and written does not grow with their number.
    "replay": {"capacity": 2_000, "holdout_per_span": 200, "holdout_capacity": 400},
    "gates": {"metrics": {"auc": {"min_value": 0.0}}, "min_examples": 100},
    "slices": [],
}


def measure(work: Path) -> dict[str, Any]:
    """Seconds and processor seconds of `retrain run`, a process each, on taxi trips drawn anew with noise.

    Two deployments, one at the fifth span and one at the fiftieth, run at the same time, on two cores: a
    machine that changes its speed, as one with neighbours does by a factor of two within minutes, does so for
    both.

    Returns:
        `runs` and their `median` by deployment; `growth`: the median over the turns of what the late run took
        more than the early one beside it, as a share.
    """
    data = work / "data"
    if not data.exists():
        aside = data.with_name("data.new")
        shutil.rmtree(aside, ignore_errors=True)
        write_spans(aside)
        aside.rename(data)
    both = {"early": EARLY, "late": LATE}
    configs = {name: _deployment(work / name, data) for name in both}
    for name, spans in both.items():
        done = retrain("run", configs[name], "--until", spans[0] - 1, "--json")
        if done.code:
            raise RuntimeError(done.err)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in both}
    for turn, spans in enumerate(zip(*both.values(), strict=True)):
        file = work / f"{turn}.json"
        if not file.exists():
            with ThreadPoolExecutor(len(both)) as pool:
                write_json(file, dict(zip(both, pool.map(_run, configs.values(), spans), strict=True)))
        for name, measured in json.loads(file.read_text()).items():
            found[name].append(measured)
    keys = found["early"][0]
    return {
        "rows": ROWS,
        "spans": {name: [*spans] for name, spans in both.items()},
        "runs": found,
        "median": {
            name: {key: round(statistics.median(run[key] for run in runs), 2) for key in keys}
            for name, runs in found.items()
        },
        "growth": {
            key: round(
                statistics.median(
                    late[key] / early[key] for early, late in zip(found["early"], found["late"], strict=True)
                )
                - 1,
                4,
            )
            for key in keys
        },
    }


def _run(config: Path, span: int) -> dict[str, float]:
    """One run as cron makes it: of the whole command, and of its stages."""
    command = [ROOT / ".venv/bin/retrain", "run", config, "--until", str(span), "--json"]
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said = process.stdout.read() if process.stdout else ""
    _, status, used = os.wait4(process.pid, 0)
    took = time.monotonic() - begun
    outcomes = [json.loads(line) for line in said.splitlines()]
    if status or len(outcomes) != 1 or outcomes[0]["span"] != span or not outcomes[0]["blessed"]:
        raise RuntimeError(f"span {span}: not learned: {said}")
    return {
        "seconds": round(took, 2),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 2),
        "stages": outcomes[0]["seconds"]["total"],
    }


def write_spans(folder: Path, spans: int = SPANS) -> None:
    """Spans alike in everything: trips drawn from all of them, amounts and durations moved by about 1 %."""
    import numpy as np
    import pandas as pd

    trips, random = pd.read_csv(taxi_csv()), np.random.default_rng(0)
    for span in range(1, spans + 1):
        drawn = trips.sample(ROWS, random_state=span)
        for column in ("fare", "tips", "trip_miles"):
            drawn[column] = (drawn[column] * random.normal(1, 0.01, ROWS)).round(4)
        (folder / str(span)).mkdir(parents=True)
        drawn.to_csv(folder / str(span) / "trips.csv", index=False)


def _deployment(folder: Path, data: Path) -> Path:
    """The file of a deployment of its own."""
    content = yaml.safe_load((ROOT / "configs/taxi.yaml").read_text())
    content |= CHANGES | {"schema": str(ROOT / "schemas/taxi.pbtxt"), "state": str(folder / "state")}
    content["data"] = {**content["data"], "path": str(data)}
    folder.mkdir(exist_ok=True)
    config = folder / "deployment.yaml"
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    return config
