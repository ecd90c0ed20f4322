"""From a file to a served model, on tables of different kinds, as a new user goes about it."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.bench.prequential import taxi_csv

ELEC2 = Path(__file__).parents[3] / "shared/data/elec2/elec.csv"
RETRAIN = Path(".venv/bin/retrain").absolute()
HELD_OUT = 0.2


@dataclass(frozen=True)
class Table:
    """A table, and what a person types for it.

    Attributes:
        frame: makes it.
        label: its label's column.
        options: of `retrain init`, beside file and label.
        run: of `retrain run`.
        in_time_order: the rows held out are the last ones, not any.
        positive: of a binary label, the value whose probability is predicted.
    """

    frame: Callable[[], pd.DataFrame]
    label: str
    options: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    in_time_order: bool = False
    positive: Any = None


def _of_sklearn(name: str) -> Callable[[], pd.DataFrame]:
    def frame() -> pd.DataFrame:
        from sklearn import datasets

        return getattr(datasets, f"load_{name}")(as_frame=True).frame

    return frame


TABLES = {
    "breast_cancer": Table(_of_sklearn("breast_cancer"), "target", positive=1),
    "wine": Table(_of_sklearn("wine"), "target"),
    "diabetes": Table(_of_sklearn("diabetes"), "target"),
    "digits": Table(_of_sklearn("digits"), "target"),
    "taxi_tips": Table(lambda: pd.read_csv(taxi_csv()), "tips"),
    "taxi_by_quarter": Table(
        lambda: pd.read_csv(taxi_csv()).sort_values("trip_start_timestamp"),
        "payment_type",
        ("--time", "trip_start_timestamp", "--every", "quarter"),
        ("--together",),
        in_time_order=True,
    ),
    "elec2": Table(lambda: pd.read_csv(ELEC2), "class", positive=1),
    "elec2_by_week": Table(
        # A quarter of a year, of which the last weeks are held out.
        lambda: pd.read_csv(ELEC2, nrows=13 * 336),
        "class",
        ("--every", "336rows"),
        ("--together",),
        in_time_order=True,
        positive=1,
    ),
}


def measure(work: Path) -> dict[str, Any]:
    """`init`, `run`, `serve`, `predict` with no hand edit; the served model against the trivial one.

    A fifth of the rows is kept from `init` and `run`. Score: accuracy, beside the share of the largest
    class among them, or R2, beside the 0 of the mean. Elec2 is left out where its file is not there.
    """
    shutil.rmtree(work, ignore_errors=True)
    work = work.absolute()
    result = {}
    for name, table in TABLES.items():
        if name.startswith("elec2") and not ELEC2.exists():
            result[name] = {"skipped": f"there is no {ELEC2}; it is Harries' Elec2 (see docs/your-data.md)"}
            continue
        result[name] = _try(table, work / name, name)
        print(json.dumps({name: result[name]}), flush=True)
    return result


def _try(table: Table, work: Path, name: str) -> dict[str, Any]:
    frame = table.frame()
    count = round(len(frame) * HELD_OUT)
    held = np.arange(len(frame) - count, len(frame))
    if not table.in_time_order:
        held = np.random.default_rng(0).permutation(len(frame))[:count]
    (work / "files").mkdir(parents=True)
    file, later = (work / "files" / f"{stem}.csv" for stem in (name, "later"))
    known = frame.drop(index=frame.index[held])
    known.to_csv(file, index=False)
    frame.iloc[held].drop(columns=table.label).to_csv(later, index=False)
    truth = frame.iloc[held][table.label]
    seconds = {}
    command = ["init", file, "--label", table.label, *table.options, "--json"]
    decided, seconds["init"] = _retrain(work, *command)
    config = work / "configs" / f"{name}.yaml"
    outcome, seconds["run"] = _retrain(work, "run", config, *table.run, "--json")
    with Served(work, config) as url:
        lines, seconds["predict"] = _retrain(work, "predict", config, later, "--url", url, "--json")
    predictions = [line["prediction"] for line in lines]
    task = decided[-1]["label"]["task"]
    return {
        "rows": len(frame),
        "columns": frame.shape[1],
        "task": task,
        **_score(task, predictions, truth, known[table.label], table.positive),
        "blessed": outcome[-1]["blessed"],
        "seconds": seconds,
    }


def _score(
    task: str, predictions: list[Any], truth: pd.Series, known: pd.Series, positive: Any
) -> dict[str, Any]:
    if task == "regression":
        wrong, spread = truth - np.asarray(predictions), truth - known.mean()
        r2 = 1 - (wrong**2).sum() / (spread**2).sum()
        return {"score": "r2", "served": round(float(r2), 4), "trivial": 0.0}
    if task == "binary":
        right = (np.asarray(predictions) > 0.5) == (truth == positive)
    else:
        right = np.asarray([str(p) for p in predictions]) == truth.astype(str)
    trivial = truth.value_counts(normalize=True).max()
    return {
        "score": "accuracy",
        "served": round(float(np.mean(right)), 4),
        "trivial": round(float(trivial), 4),
    }


def _retrain(work: Path, *args: Any) -> tuple[list[Any], float]:
    """Runs a command in the folder; its lines of JSON, and how long it took."""
    begun = time.monotonic()
    done = subprocess.run([RETRAIN, *map(str, args)], cwd=work, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()], round(time.monotonic() - begun, 1)


class Served:
    """The embedded server, as long as the block runs; its address."""

    def __init__(self, work: Path, config: Path) -> None:
        command = [RETRAIN, "serve", config, "--rest-port", "0", "--grpc-port", "0", "--json"]
        self.process = subprocess.Popen(
            command, cwd=work, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )

    def __enter__(self) -> str:
        url = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            url = event.get("rest", url)
            if event.get("event", "").startswith("serving "):
                return url
        raise RuntimeError("retrain serve ended before it served")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)
