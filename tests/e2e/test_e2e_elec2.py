"""The second deployment of the repository: another kind of data, a span a week, made by `retrain init`."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from tests.bench.tables import ELEC2
from tests.e2e.harness import ROOT, retrain

pytestmark = [
    pytest.mark.long,
    pytest.mark.xdist_group("e2e-elec2"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(not ELEC2.exists(), reason="Elec2 is not here (see configs/elec2.yaml)"),
]


def test_two_weeks_are_learned_and_foretell_the_third(tmp_path: Path) -> None:
    split = retrain("split", ELEC2, "--every", "336rows", "--out", tmp_path / "weeks")
    assert split.code == 0, split.err
    content = yaml.safe_load((ROOT / "configs/elec2.yaml").read_text())
    content["schema"], content["state"] = str(ROOT / "schemas/elec2.pbtxt"), str(tmp_path / "state")
    content["data"]["path"], content["serving"] = str(tmp_path / "weeks"), {"rest_port": 0, "grpc_port": 0}
    config = tmp_path / "elec2.yaml"
    config.write_text(yaml.safe_dump(content))
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
