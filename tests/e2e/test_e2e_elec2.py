"""The second deployment of the repository: another kind of data, a span a week, made by `retrain init`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.replay.logic import judged_spans
from pipeline.champion import open_registry
from pipeline.config import load
from tests.bench.tables import ELEC2
from tests.e2e.harness import ROOT, retrain

pytestmark = [
    pytest.mark.long,
    pytest.mark.xdist_group("e2e-elec2"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(not ELEC2.exists(), reason="Elec2 is not here (see configs/elec2.yaml)"),
]


@pytest.fixture
def deploy(tmp_path: Path) -> Callable[..., Path]:
    """The deployment on its weeks, with other content in some sections."""

    def make(**sections: Any) -> Path:
        split = retrain("split", ELEC2, "--every", "336rows", "--out", tmp_path / "weeks")
        assert split.code == 0, split.err
        content = yaml.safe_load((ROOT / "configs/elec2.yaml").read_text())
        content["schema"], content["state"] = str(ROOT / "schemas/elec2.pbtxt"), str(tmp_path / "state")
        content["data"]["path"], content["serving"] = (
            str(tmp_path / "weeks"),
            {"rest_port": 0, "grpc_port": 0},
        )
        for name, changes in sections.items():
            content[name] = {**content[name], **changes}
        config = tmp_path / "elec2.yaml"
        config.write_text(yaml.safe_dump(content))
        return config

    return make


def test_two_weeks_are_learned_and_foretell_the_third(deploy: Callable[..., Path], tmp_path: Path) -> None:
    config = deploy()
    assert retrain("config", "check", config).code == 0

    run = retrain("run", config, "--until", 2, "--together", "--json")
    assert run.code == 0, run.err
    (outcome,) = run.lines
    assert (outcome["spans"], outcome["served"], outcome["blessed"]) == ([1, 2], 1, True)
    assert outcome["metrics"]["new"]["2"]["auc"] > 0.75

    (week,) = (tmp_path / "weeks/3").iterdir()
    predicted = retrain("predict", config, week, "--json")
    assert predicted.code == 0, predicted.err
    with open(week, newline="") as file:
        truth = [row["class"] == "1" for row in csv.DictReader(file)]
    right = sum((line["prediction"] > 0.5) == up for line, up in zip(predicted.lines, truth, strict=True))
    assert right / len(truth) > max(sum(truth), len(truth) - sum(truth)) / len(truth) + 0.05


def test_of_a_long_past_as_many_weeks_are_judged_as_can_be(deploy: Callable[..., Path]) -> None:
    gates = {"metrics": {"auc": {"min_value": 0.0, "max_past_drop": 0.9}}, "min_examples": 60}
    config = deploy(
        gates=gates, replay={"holdout_capacity": 200}, training={"epochs": 5}, warm_start={"epochs": 1}
    )
    assert retrain("run", config, "--until", 6, "--json").code == 0
    versions = open_registry(load(config)).versions()
    assert [version.spans for version in versions] == [(week,) for week in range(1, 7)]
    for version in versions[1:]:
        record = json.loads((Path(version.uris["record"]) / "record.json").read_text())["verdict"]
        past = [check for check in record["checks"] if check["gate"] == "max_past_drop"]
        kept = judged_spans(range(1, version.spans[0]), most=200 // 60, seed=0)
        assert {check["slice"] for check in past} == {f"span={week}" for week in kept}
        assert all(check["outcome"] == "passed" and check["examples"] >= 60 for check in past)
        assert record["retention"].keys() == {f"span={week}" for week in {*kept, *version.spans}}
