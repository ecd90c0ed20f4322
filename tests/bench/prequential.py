"""How well the served version does on data that nobody has seen yet, quarter after quarter."""

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.scores import binary, predictions

CONFIG = "configs/taxi.yaml"


def taxi_csv() -> Path:
    """15,002 taxi trips, part of the installed TFX."""
    return Path(sysconfig.get_path("purelib")) / "tfx/examples/chicago_taxi_pipeline/data/simple/data.csv"


def measure(work: Path) -> dict[str, Any]:
    """All 16 quarters, one run each; AUC of the then-served version on all of the next quarter.

    Side by side, on the same quarters: boosted trees (scikit-learn, 60 rounds) on the first quarter
    only, and on everything so far.
    """
    state, data = work / "state", work / "data"
    shutil.rmtree(work, ignore_errors=True)
    _retrain("split", taxi_csv(), "--time", "trip_start_timestamp", "--every", "quarter", "--out", data)
    lines = _retrain("run", CONFIG, "--state", state, "--data", data, "--json").splitlines()
    outcomes = [json.loads(line) for line in lines]
    served = {outcome["span"]: outcome["served"] for outcome in outcomes}
    history = _retrain("history", CONFIG, "--state", state, "--json").splitlines()
    models = {v["number"]: Path(v["uris"]["model"]) / "Format-Serving" for v in map(json.loads, history)}
    quarters = sorted(served)
    ours = {s + 1: _auc(models[served[s]], data / str(s + 1)) for s in quarters if s + 1 in served}
    trees = _boosted_trees(data, quarters)
    return {
        "mean_auc": round(float(np.mean(list(ours.values()))), 4),
        "mean_auc_trees_first_quarter": round(float(np.mean([t[0] for t in trees.values()])), 4),
        "mean_auc_trees_everything": round(float(np.mean([t[1] for t in trees.values()])), 4),
        "auc": {str(s): round(auc, 4) for s, auc in ours.items()},
        "rejected": [o["span"] for o in outcomes if o["blessed"] is False],
        "seconds_a_run": [o["seconds"]["total"] for o in outcomes],
        "seconds_a_stage": {
            stage: round(float(np.mean([o["seconds"].get(stage, 0.0) for o in outcomes])), 2)
            for stage in outcomes[-1]["seconds"]
        },
    }


def _retrain(*args: Any) -> str:
    return subprocess.run(
        [".venv/bin/retrain", *map(str, args)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _auc(model: Path, span: Path) -> float:
    (file,) = span.glob("*.csv")
    return float(binary(_labels(span), predictions(model, file))["auc"])


def _labels(span: Path) -> np.ndarray:
    table = _table(span)
    return (table.tips > 0.2 * table.fare).to_numpy()


def _table(span: Path) -> Any:
    import pandas as pd

    (file,) = span.glob("*.csv")
    return pd.read_csv(file)


def _boosted_trees(data: Path, quarters: list[int]) -> dict[int, tuple[float, float]]:
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    tables = {q: _table(data / str(q)) for q in quarters}
    labels = {q: _labels(data / str(q)) for q in quarters}
    everything = pd.concat(tables.values())
    codes = {
        c: {v: i for i, v in enumerate(sorted(everything[c].dropna().unique()))}
        for c in ("payment_type", "company")
    }
    inputs = {
        q: t.drop(columns=["tips"]).assign(**{c: t[c].map(codes[c]) for c in codes})
        for q, t in tables.items()
    }

    def fit(upto: list[int]) -> Any:
        trees = HistGradientBoostingClassifier(max_iter=60, random_state=0)
        return trees.fit(pd.concat([inputs[q] for q in upto]), np.concatenate([labels[q] for q in upto]))

    first = fit(quarters[:1])
    found = {}
    for i, quarter in enumerate(quarters[1:], start=1):
        scores = [m.predict_proba(inputs[quarter])[:, 1] for m in (first, fit(quarters[:i]))]
        found[quarter] = tuple(float(roc_auc_score(labels[quarter], s)) for s in scores)
    return found
