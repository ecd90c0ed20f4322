"""What an update costs as versions pile up: runs on 1,000 new rows each, around span 5 and around span 50."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import time
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
    "gates": {"metrics": {"auc": {"min_value": 0.0}}, "min_examples": 1},
    "slices": [],
}


def measure(work: Path) -> dict[str, Any]:
    """Seconds and processor seconds of `retrain run`, a process each, on taxi trips drawn anew with noise."""
    data, config = work / "data", work / "deployment.yaml"
    if not config.exists():
        write_spans(data)
        _write_config(config, work, data)
    found: dict[str, list[dict[str, float]]] = {"early": [], "late": []}
    for name, spans in (("early", EARLY), ("late", LATE)):
        done = retrain("run", config, "--until", spans[0] - 1, "--json")
        if done.code:
            raise RuntimeError(done.err)
        for span in spans:
            file = work / f"{span}.json"
            if not file.exists():
                write_json(file, _run(config, span))
            found[name].append(json.loads(file.read_text()))
    medians = {
        name: {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
        for name, runs in found.items()
    }
    return {
        "rows": ROWS,
        "spans": {"early": [*EARLY], "late": [*LATE]},
        "runs": found,
        "median": medians,
        "growth": {
            key: round(medians["late"][key] / medians["early"][key] - 1, 4) for key in medians["early"]
        },
    }


def _run(config: Path, span: int) -> dict[str, float]:
    """One run as cron makes it: of the whole command, and of its stages."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [ROOT / ".venv/bin/retrain", "run", config, "--until", str(span), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    took, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    (outcome,) = (json.loads(line) for line in done.stdout.splitlines())
    if outcome["span"] != span or not outcome["blessed"]:
        raise RuntimeError(f"span {span}: not learned: {outcome}")
    return {
        "seconds": round(took, 2),
        "processor_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "stages": outcome["seconds"]["total"],
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


def _write_config(config: Path, work: Path, data: Path) -> None:
    content = yaml.safe_load((ROOT / "configs/taxi.yaml").read_text())
    content |= CHANGES | {"schema": str(ROOT / "schemas/taxi.pbtxt"), "state": str(work / "state")}
    content["data"] = {**content["data"], "path": str(data)}
    config.write_text(yaml.safe_dump(content, sort_keys=False))
