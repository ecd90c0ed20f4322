"""A small deployment with a real registry; its versions have artifacts, but nothing was trained."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.promote.logic import summarize
from components.promote.registry import ARTIFACTS, Registry, Version
from pipeline.champion import open_registry
from pipeline.config import Deployment, load

SCHEMA = """
feature { name: "n" type: INT drift_comparator { infinity_norm { threshold: 0.1 } } }
feature { name: "x" type: FLOAT }
feature { name: "word" type: BYTES }
feature { name: "y" type: INT }
"""

CONFIG = """
name: shop
schema: schema.pbtxt
state: state
data: {path: data}
label: {name: big, expression: y > 3}
preprocessing:
  features:
    n: {type: identity, max: 9}
    x: {type: numeric}
    word: {type: categorical}
slices: [[word]]
gates: {metrics: {auc: {min_value: 0.6, max_drop: 0.03, max_past_drop: 0.05}}}
"""


def _drift(feature: str, value: float | None) -> dict[str, Any]:
    return {
        "feature": feature,
        "measure": "linf" if value is not None else "",
        "value": value,
        "threshold": 0.1,
        "drifted": value is not None and value > 0.1,
    }


def _check(gate: str, on: str, champion: float | None, candidate: float, limit: float, passed: bool) -> Any:
    return {
        "gate": gate,
        "metric": "auc",
        "slice": on,
        "candidate": candidate,
        "champion": champion,
        "fall": None if champion is None else champion - candidate,
        "limit": limit,
        "examples": 300,
        "outcome": "passed" if passed else "failed",
    }


@dataclass
class Shop:
    """One deployment in a folder of its own.

    Attributes:
        folder: of everything that is its.
        registry_section: of the YAML.
        made: the versions that `add` made.
    """

    folder: Path
    registry_section: str = ""
    made: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config.write_text(CONFIG + self.registry_section)
        (self.folder / "schema.pbtxt").write_text(SCHEMA)
        (self.folder / "data").mkdir()

    @property
    def config(self) -> Path:
        return self.folder / "shop.yaml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @functools.cached_property
    def deployment(self) -> Deployment:
        return load(self.config)

    @functools.cached_property
    def registry(self) -> Registry:
        return open_registry(self.deployment)

    def span(self, *numbers: int) -> None:
        """Puts spans on disk."""
        for number in numbers:
            folder = self.folder / "data" / str(number)
            folder.mkdir()
            (folder / "rows.csv").write_text("n,x,word,y\n1,0.5,a,4\n")

    def add(
        self,
        *spans: int,
        parent: int | None = None,
        blessed: bool = True,
        auc: float = 0.9,
        serve: bool = False,
    ) -> int:
        """Registers a version, as a run of these spans does, with a SavedModel that says its number."""
        number = len(self.made) + 1
        folder = self.state / "artifacts" / str(number)
        uris = {name: str(folder / name) for name in (*ARTIFACTS, "record")}
        for uri in uris.values():
            Path(uri).mkdir(parents=True)
        model = folder / "model" / "Format-Serving"
        (model / "variables").mkdir(parents=True)
        (model / "saved_model.pb").write_text(f"model {number}")
        (model / "variables" / "variables.index").write_text("")
        decision, verdict = self._record(spans, parent, blessed, auc)
        record = Path(uris["record"]) / "record.json"
        record.write_text(json.dumps({"decision": decision, "verdict": verdict, "uris": uris}))
        version = Version(
            number=0,
            key=uris["model"],
            spans=spans,
            watermark=max(spans),
            parent=parent,
            blessed=blessed,
            uris=uris,
            record=summarize(decision, verdict, spans),
            created=0.0,
        )
        registered = self.registry.register(version, str(model), {"auc/overall": auc})
        assert registered == number
        self.made.append(number)
        if serve:
            self.registry.make_champion(number)
        return number

    def _record(self, spans: Sequence[int], parent: int | None, blessed: bool, auc: float) -> tuple[Any, Any]:
        new = f"span={spans[-1]}"
        checks = [_check("min_value", new, None, auc, 0.6, True)]
        drift = []
        if parent is not None:
            checks += [
                _check("max_drop", new, 0.88, auc, 0.03, blessed),
                _check("max_past_drop", "span=1", 0.91, 0.895, 0.05, True),
            ]
            drift = [_drift("word", 0.25), _drift("n", 0.05), _drift("x", None)]
        worst = {"slice": "span=1", "best": 0.91, "now": 0.895, "drop": 0.015}
        kept = {"bwt": -0.002, "forgetting": 0.015, "worst": worst, "spans": 1}
        nothing = {"bwt": None, "forgetting": None, "worst": None, "spans": 0}
        metrics = {name: {"auc": auc, "example_count": 300.0} for name in ("overall", new, "span=1")}
        decision = {
            "action": "train",
            "reasons": ["drift: word 0.250 > 0.1 (linf)", "volume: 80 new training examples >= 1"],
            "rows": {"train": 80, "eval": 20, "quarantine": 1},
            "drift": drift,
        }
        verdict = {
            "blessed": blessed,
            "reasons": ["all 3 checks passed" if blessed else f"auc on {new} went from 0.880 to {auc:.3f}"],
            "checks": checks,
            "candidate": metrics,
            "champion": None if parent is None else {name: {"auc": 0.88} for name in metrics},
            "only_forgetting": False,
            "retention": {
                name: {"auc": {"learned": 0.897, "before": None, "best": 0.91, "now": value}}
                for name, value in ((new, auc), ("span=1", 0.895))
            },
            "learning": {"auc": {"acc": 0.9, "fwt": None, **(nothing if parent is None else kept)}},
        }
        return decision, verdict


@pytest.fixture(scope="session")
def registry_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One registry for all tests, each with a model of its own: MLflow takes seconds to make one."""
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/registry.sqlite"


@pytest.fixture
def fresh(tmp_path: Path) -> Shop:
    """A deployment that nothing was ever done with; its registry is to be in its state."""
    return Shop(tmp_path)


@pytest.fixture(scope="session")
def new_shop(registry_uri: str) -> Callable[[Path], Shop]:
    """Gives a deployment in a folder, to `add` versions to."""
    return lambda folder: Shop(folder, f"registry: {{uri: '{registry_uri}', name: {folder.name}}}\n")


@pytest.fixture
def shop(tmp_path: Path, new_shop: Callable[[Path], Shop]) -> Shop:
    return new_shop(tmp_path)


@dataclass(frozen=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str


@pytest.fixture
def retrain(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`retrain ARGS` in this process."""
    from pipeline.cli import main

    def run(*args: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["retrain", *map(str, args)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Result(code, *capfd.readouterr())

    return run
