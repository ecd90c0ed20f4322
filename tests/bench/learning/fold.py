"""One result: a method on a data set with a seed, learned by the command `retrain`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.bench.learning.problems import Method, Problem
from tests.e2e.harness import retrain

Run = dict[str, Any]


def measure(problem: Problem, method: Method, seed: int, spans: int, data: Path, work: Path) -> list[Run]:
    """Learns the spans and reads off what came of it; a run a span, or one where the method has only one.

    A measurement that was killed goes on where it was: what is learned is in the deployments' states.

    Args:
        problem, method, seed: what is measured.
        spans: how many are learned, from the first on.
        data: the spans, as `problem.write` leaves them.
        work: a folder for the deployments and their states.

    Returns:
        Of each run `after`: the last span that it learned; `on`: span -> the metric on its held-out rows;
        `before`: that of the version served before, on the new span; `ahead`: span -> the scores of what the
        run left served on all rows of spans that it did not learn; `examples`: that it was trained on, times
        epochs; `seconds`, and `train_seconds` of these for training; `served`: whether the gate let it pass.
    """
    if method.how == "anew":
        return [_alone(problem, method, seed, span, spans, data, work) for span in range(1, spans + 1)]
    until = 1 if method.how == "first" else spans
    versions = _learn(problem, method, seed, until, data, work)
    runs = [_read(problem, version) for version in versions]
    for run, version in zip(runs, versions, strict=True):
        later = range(run["after"] + 1, spans + 1)
        if method.how == "first":
            _look_ahead(problem, run, version, later, data)
            run["on"] |= {span: scores[problem.metric] for span, scores in run["ahead"].items()}
        elif problem.ahead:
            _look_ahead(problem, run, version, later[:1], data)
    return runs


def _alone(problem: Problem, method: Method, seed: int, span: int, spans: int, data: Path, work: Path) -> Run:
    """A cold start on all spans up to one, by a deployment that goes when its numbers are there."""
    done = work / f"{span}.json"
    if not done.exists():
        (version,) = _learn(problem, method, seed, span, data, work / str(span))
        run = _read(problem, version)
        _look_ahead(problem, run, version, range(span + 1, min(span + 2, spans + 1)), data)
        write_json(done, run)
        shutil.rmtree(work / str(span))
    return dict(json.loads(done.read_text()))


def _learn(problem: Problem, method: Method, seed: int, until: int, data: Path, work: Path) -> list[Any]:
    """The versions of a deployment that has learned the spans up to one, in their order."""
    from pipeline.champion import open_registry
    from pipeline.config import load

    work.mkdir(parents=True, exist_ok=True)
    config = work / "deployment.yaml"
    config.write_text(yaml.safe_dump(deployment(problem, method, seed, data, work), sort_keys=False))
    together = ["--together"] if method.how in ("anew", "joint") else []
    done = retrain("run", config, "--until", until, "--json", *together)
    if done.code:
        raise RuntimeError(f"retrain run {config}: {done.err}")
    return open_registry(load(config)).versions()


def deployment(problem: Problem, method: Method, seed: int, data: Path, work: Path) -> dict[str, Any]:
    """The content of a deployment's file."""
    content = yaml.safe_load(problem.config.read_text())
    content["schema"] = str((problem.config.parent / content["schema"]).resolve())
    content["state"], content["data"]["path"] = str(work / "state"), str(data)
    seeds = {"training": {"seed": seed}, "replay": {"seed": seed}}
    for changes in (problem.changes, method.changes, seeds):
        for section, values in changes.items():
            content[section] = {**content.get(section, {}), **values}
    return dict(content)


def _read(problem: Problem, version: Any) -> Run:
    """What the pipeline itself says of a version."""
    verdict = json.loads((Path(version.uris["record"]) / "record.json").read_text())["verdict"]
    training = json.loads((Path(version.uris["model"]) / "checkpoint/training.json").read_text())
    after = version.spans[-1]
    return {
        "after": after,
        "on": _by_span(verdict["candidate"], problem.metric),
        "before": _by_span(verdict["champion"] or {}, problem.metric).get(str(after)),
        "ahead": {},
        "examples": training["examples"],
        "seconds": round(sum(version.seconds.values()), 1),
        "train_seconds": version.seconds["train"],
        "served": version.blessed,
    }


def _by_span(metrics: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, float]:
    return {
        name.removeprefix("span="): values[metric]
        for name, values in metrics.items()
        if name.startswith("span=") and "," not in name
    }


def _look_ahead(problem: Problem, run: Run, version: Any, spans: range, data: Path) -> None:
    model = Path(version.uris["model"]) / "Format-Serving"
    for span in spans:
        (file,) = (data / str(span)).iterdir()
        run["ahead"][str(span)] = problem.score(model, file)


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    aside.rename(path)
