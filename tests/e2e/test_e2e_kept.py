"""What is done where learning forgets: a second attempt, and a shadow that shows what was lost."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load
from pipeline.learn import Learner
from tests.e2e.harness import SMALL, Deployment, Result, retrain

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("e2e-kept"), pytest.mark.timeout(600)]

LOOSE = {"metrics": {"auc": {"min_value": 0.6, "max_past_drop": 0.2}}}
# No version gains so much on what it learned before.
STRICT = {"metrics": {"auc": {"min_value": 0.6, "min_bwt": 0.5}}, "retry_ratio": 0.8}


@dataclass
class Kept:
    """What happened; told once, looked at by every test."""

    deployment: Deployment
    chapters: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejected: dict[int, dict[str, Any]] = field(default_factory=dict)

    def tell(self, chapter: str, result: Result) -> None:
        assert result.code == 0, f"{chapter}: {result.err}"
        self.chapters[chapter] = result.lines
        self.states[chapter] = self.deployment.status()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    deployment = Deployment(tmp_path_factory.mktemp("kept") / "taxi")
    kept = Kept(deployment)
    deployment.put(1)
    deployment.configure(gates=LOOSE, **SMALL)
    kept.tell("the first", deployment.run())
    deployment.put(2)
    deployment.configure(gates=STRICT, **SMALL)
    next(Learner(load(deployment.config)).outcomes())  # and no further: killed between the attempts
    kept.states["killed"] = deployment.status()
    kept.tell("two attempts", deployment.run())
    kept.rejected = deployment.versions()
    kept.tell("nothing new", deployment.run())
    deployment.configure(gates=LOOSE, **SMALL)
    kept.tell("retried", deployment.run("--retry"))
    kept.tell("shadow", deployment.run("--from-scratch"))
    kept.tell("after the shadow", deployment.run())
    return kept


def test_what_only_forgot_is_tried_again_with_more_replay(kept: Kept) -> None:
    first, second = kept.chapters["two attempts"]
    assert [first["attempt"], second["attempt"]] == [1, 2]
    assert [first["replay_ratio"], second["replay_ratio"]] == [0.5, 0.8]
    for outcome in (first, second):
        assert outcome["blessed"] is False and outcome["served"] == outcome["parent"] == 1
        (why,) = outcome["gate"]
        assert why.startswith("auc on past spans is ") and why.endswith("(min_bwt 0.5)")
    records = [kept.rejected[line["version"]]["record"] for line in (first, second)]
    assert records[0]["attempt"] == {"number": 1, "ratios": [0.5]}
    assert records[1]["attempt"] == {"number": 2, "ratios": [0.5, 0.8]}
    assert records[0]["training"] != records[1]["training"]


def test_killed_between_the_attempts_the_same_command_goes_on_with_the_second(kept: Kept) -> None:
    assert kept.states["killed"]["pending"] == [2] and kept.states["killed"]["versions"] == 2
    first, second = kept.chapters["two attempts"]
    assert [first["version"], second["version"]] == [2, 3]
    assert first["seconds"]["train"] < second["seconds"]["train"] / 2  # from the cache


def test_after_two_attempts_the_span_is_set_aside(kept: Kept) -> None:
    state = kept.states["two attempts"]
    assert state["pending"] == [] and list(state["set_aside"]) == ["2"]
    assert state["set_aside"]["2"].startswith("version 3 was rejected by the gate: auc on past spans")
    assert kept.chapters["nothing new"] == []


def test_what_was_kept_is_measured_and_the_matrix_has_a_row_a_version(kept: Kept) -> None:
    (retried,) = kept.chapters["retried"]
    assert retried["blessed"] and retried["served"] == retried["version"]
    # It is the version that was rejected, with the verdict of the looser gates.
    assert kept.rejected[retried["version"]]["state"] == "rejected"
    assert kept.deployment.versions()[retried["version"]]["state"] == "served"
    learning = retried["learning"]["auc"]
    (shown,) = retrain("show", kept.deployment.config, retried["version"], "--json").lines
    matrix = shown["matrix"]["auc"]
    assert list(matrix) == ["1", str(retried["version"])]
    before, after = matrix.values()
    assert learning["bwt"] == pytest.approx(after["1"] - before["1"])
    assert learning["acc"] == pytest.approx((after["1"] + after["2"]) / 2)
    assert learning["fwt"] == pytest.approx(retried["baseline_metrics"]["new"]["2"]["auc"] - 0.5)


def test_a_shadow_is_trained_from_scratch_and_serves_nothing(kept: Kept) -> None:
    (shadow,) = kept.chapters["shadow"]
    state, served = kept.states["shadow"], kept.chapters["retried"][0]["served"]
    assert (shadow["kind"], shadow["spans"], shadow["warm_start"]) == ("shadow", [1, 2], False)
    assert (shadow["parent"], shadow["served"]) == (served, served) == (state["served"], served)
    assert state["shadow"] == shadow["version"] != served
    assert kept.deployment.served_by_folder() == [served]
    assert state["pending"] == [] == list(state["set_aside"])
    assert kept.chapters["after the shadow"] == []
    assert kept.deployment.versions()[shadow["version"]]["state"] == "shadow"


def test_the_shadow_is_measured_on_the_same_rows_and_tells_what_was_saved(kept: Kept) -> None:
    (shadow,) = kept.chapters["shadow"]
    for metrics in ("metrics", "baseline_metrics"):
        assert set(shadow[metrics]["new"]) == {"1", "2"}
    counts = [shadow[m]["overall"]["example_count"] for m in ("metrics", "baseline_metrics")]
    assert counts[0] == counts[1] > 0
    gap = shadow["debt"]["metrics"]["auc"]
    assert gap["gap"] == pytest.approx(gap["shadow"] - gap["champion"])
    cost = shadow["debt"]["cost"]
    assert cost["shadow"]["examples"] > 0 and cost["update"]["examples"] > 0
    assert cost["line"]["examples"] > cost["update"]["examples"]
    assert cost["from_scratch"]["examples"] > cost["shadow"]["examples"]
    assert "shadow: version" in retrain("history", kept.deployment.config).out


def test_the_shadow_could_take_the_champions_place(kept: Kept) -> None:
    """Its watermark, statistics and buffer are those of a version that learned the same spans."""
    versions = kept.deployment.versions()
    shadow, champion = (versions[kept.chapters[name][0]["version"]] for name in ("shadow", "retried"))
    assert shadow["watermark"] == champion["watermark"] == 2
    assert shadow["uris"]["statistics"] == champion["uris"]["statistics"]
    samples = [
        json.loads(Path(version["uris"]["buffer"], "sample.json").read_text())["eval"]
        for version in (shadow, champion)
    ]
    assert set(samples[0]) == set(samples[1]) == {"1", "2"}
