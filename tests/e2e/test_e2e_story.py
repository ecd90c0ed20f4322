"""The story of a deployment: learned, poisoned, learned again, rolled back, learned from there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Deployment, Result, retrain

pytestmark = [pytest.mark.xdist_group("e2e-story"), pytest.mark.timeout(900)]


@dataclass
class Story:
    """What happened, chapter by chapter; told once, looked at by every test."""

    deployment: Deployment
    chapters: dict[str, Result] = field(default_factory=dict)
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    inputs: dict[str, set[str]] = field(default_factory=dict)
    untouched: bool = False

    def tell(self, chapter: str, result: Result) -> None:
        assert result.code == 0, f"{chapter}: {result.err}"
        self.chapters[chapter] = result
        self.states[chapter] = self.deployment.status()

    def outcome(self, chapter: str) -> dict[str, Any]:
        (line,) = self.chapters[chapter].lines
        return line


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    deployment = Deployment(tmp_path_factory.mktemp("story") / "taxi")
    story = Story(deployment)
    deployment.put(1)
    deployment.put(2)
    story.tell("two quarters", deployment.run())
    before = deployment.snapshot()
    story.tell("nothing new", deployment.run())
    story.untouched = deployment.snapshot() == before
    deployment.put(3, flipped=True)
    story.tell("flipped labels", deployment.run())
    deployment.put(4)
    story.tell("a good quarter", deployment.run())
    story.tell("rollback", retrain("rollback", deployment.config, 1, "--reason", "bad tips", "--json"))
    story.tell("after the rollback", deployment.run())
    deployment.put(5)
    story.tell("on top of version 1", deployment.run())
    story.inputs = {node: deployment.inputs(node) for node in ("drift", "replay", "train", "evaluate")}
    deployment.put(6)
    deployment.configure(trigger={"on_drift": False, "min_rows": 100_000})
    story.tell("no reason", deployment.run())
    return story


def test_a_cold_start_then_a_warm_one(story: Story) -> None:
    cold, warm = story.chapters["two quarters"].lines
    assert [cold["warm_start"], warm["warm_start"]] == [False, True]
    assert [cold["parent"], warm["parent"]] == [None, 1]
    assert [cold["served"], warm["served"]] == [1, 2]
    assert cold["decision"] == warm["decision"] == "train"
    assert cold["reasons"][0].startswith("cold start")
    assert warm["metrics"]["new"]["2"]["auc"] > 0.85
    assert warm["baseline_metrics"]["new"]["2"]["auc"] > 0.85
    assert set(warm["metrics"]["past"]) == {"1"}
    assert any(name.startswith("payment_type=") for name in warm["metrics"]["slices"])
    assert {"ingest", "transform", "train", "evaluate", "total"} <= set(warm["seconds"])
    drift = {d["feature"]: d for d in warm["drift"]}
    assert drift["payment_type"]["measure"] == "linf" and drift["fare"]["measure"] == "jsd"
    assert all(0 <= d["value"] <= 1 and d["drifted"] == (d["value"] > d["threshold"]) for d in warm["drift"])


def test_the_step_goes_on_from_the_champions(story: Story) -> None:
    versions = story.deployment.versions()
    assert story.deployment.steps(versions[2]) > story.deployment.steps(versions[1]) > 0


def test_nothing_new_touches_nothing(story: Story) -> None:
    assert "nothing new" in retrain("run", story.deployment.config, "--until", 2).err
    assert story.chapters["nothing new"].out == ""
    assert story.untouched


def test_flipped_labels_are_rejected_and_leave_no_trace(story: Story) -> None:
    rejected = story.outcome("flipped labels")
    assert rejected["blessed"] is False and rejected["version"] == 3 and rejected["served"] == 2
    assert rejected["gate"] and any(c["outcome"] == "failed" for c in rejected["checks"])
    before, after = story.states["two quarters"], story.states["flipped labels"]
    assert (after["served"], after["watermark"]) == (before["served"], before["watermark"]) == (2, 2)
    assert after["pending"] == [] and "rejected" in after["set_aside"]["3"]
    assert not (story.deployment.state / "serving/taxi/3").exists()


def test_the_next_good_quarter_is_learned_on_top_of_the_last_good_version(story: Story) -> None:
    good = story.outcome("a good quarter")
    assert (good["spans"], good["parent"], good["version"], good["served"]) == ([4], 2, 4, 4)
    versions = story.deployment.versions()
    rows = {n: versions[n]["record"]["rows"] for n in versions}
    seen = story.deployment.sample(versions[4])
    assert sum(seen["spans"].values()) == rows[1]["train"] + rows[2]["train"] + rows[4]["train"]
    assert set(seen["eval"]) == {"1", "2", "4"}


def test_a_rollback_is_not_undone_by_the_next_run(story: Story) -> None:
    assert story.states["rollback"]["served"] == 1 and story.states["rollback"]["watermark"] == 1
    assert story.chapters["after the rollback"].out == ""
    set_aside = story.states["after the rollback"]["set_aside"]
    assert set(set_aside) == {"2", "3", "4"} and "bad tips" in set_aside["2"]
    assert story.deployment.versions()[4]["state"] == "rolled back"


def test_the_next_run_starts_from_what_was_rolled_back_to(story: Story) -> None:
    again = story.outcome("on top of version 1")
    assert (again["spans"], again["parent"], again["warm_start"], again["served"]) == ([5], 1, True, 5)
    assert set(again["metrics"]["past"]) == {"1"}
    versions = story.deployment.versions()
    assert versions[1]["uris"]["statistics"] in story.inputs["drift"]
    assert versions[1]["uris"]["buffer"] in story.inputs["replay"] & story.inputs["train"]
    assert versions[1]["uris"]["model"] in story.inputs["train"] & story.inputs["evaluate"]
    others = {uri for n in (2, 3, 4) for uri in versions[n]["uris"].values()} - set(
        versions[1]["uris"].values()
    )
    assert not others & set.union(*story.inputs.values())
    sample, rows = story.deployment.sample(versions[5]), {n: versions[n]["record"]["rows"] for n in versions}
    assert sum(sample["spans"].values()) == rows[1]["train"] + rows[5]["train"]


def test_without_a_reason_nothing_is_trained_and_the_span_stays_pending(story: Story) -> None:
    skipped = story.outcome("no reason")
    assert (skipped["decision"], skipped["version"], skipped["served"]) == ("skip", None, 5)
    assert "min_rows" in skipped["reasons"][0]
    assert story.states["no reason"]["pending"] == [6] and story.states["no reason"]["watermark"] == 5


def test_what_is_served_follows_every_move(story: Story) -> None:
    assert story.deployment.served_by_folder() == [5]
    assert retrain("show", story.deployment.config, 4).code == 0


def test_predictions_come_from_the_served_version(story: Story) -> None:
    (file,) = (story.deployment.data / "6").glob("*.csv")
    some = story.deployment.folder / "some.csv"
    some.write_text("".join(file.read_text().splitlines(keepends=True)[:40]))
    story.deployment.configure(serving={"rest_port": 0})
    result = retrain("predict", story.deployment.config, some, "--json")
    assert result.code == 0, result.err
    assert len(result.lines) == 39
    assert {line["version"] for line in result.lines} == {5}
    assert all(0 < line["prediction"] < 1 for line in result.lines)


def _rows(version: dict[str, Any]) -> int:
    return int(version["record"]["rows"]["train"])


def _buffered(version: dict[str, Any], split: str) -> list[int]:
    """The span of every example in a version's buffer."""
    import tensorflow as tf

    files = [str(file) for file in Path(version["uris"]["buffer"]).glob(f"Split-{split}/data_tfrecord-*")]
    examples = map(tf.train.Example.FromString, tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())
    return [example.features.feature["span"].int64_list.value[0] for example in examples]


def test_at_last_a_late_file_is_learned_when_it_is_asked_for(story: Story) -> None:
    """The story's end: it changes what the other tests look at."""
    deployment = story.deployment
    before = deployment.versions()[5]

    def learn_again() -> Result:
        return deployment.run("--span", 1, "--again")

    assert deployment.status()["late"] == [] and learn_again().out == ""
    (sixth,) = (deployment.data / "6").glob("*.csv")
    (deployment.data / "1/late.csv").write_text("".join(sixth.read_text().splitlines(keepends=True)[:201]))
    told = {"span": 1, "date": None, "version": 1, "new": ["1/late.csv"], "changed": [], "gone": []}
    assert deployment.status()["late"] == [told]
    assert retrain("run", deployment.config, "--until", 5, "--json").lines == [{"late": [told]}]

    again = learn_again()
    assert again.code == 0, again.err
    (outcome,) = again.lines
    assert (outcome["spans"], outcome["parent"], outcome["warm_start"]) == ([1], 5, True)
    assert outcome["reasons"][0] == "forced" and outcome["blessed"] and outcome["served"] == 6
    # Of span 1 only the rows of this run are evaluated; span 5 is a past span.
    assert set(outcome["metrics"]["new"]) == {"1"} and set(outcome["metrics"]["past"]) == {"5"}
    assert outcome["metrics"]["new"]["1"]["example_count"] == outcome["rows"]["eval"]

    after = deployment.versions()[6]
    kept, of_fifth = deployment.sample(after), deployment.sample(before)["spans"]["5"]
    assert kept["spans"] == {"1": _rows(after), "5": of_fifth}
    assert _rows(after) > deployment.sample(before)["spans"]["1"]
    assert _rows(after) + of_fifth == len(_buffered(after, "train"))
    assert _buffered(after, "train").count(1) == _rows(after)
    assert _buffered(after, "eval").count(1) == outcome["rows"]["eval"]
    # The drift of what comes next is measured against the newest span, not against this one.
    assert after["watermark"] == 5 and after["uris"]["statistics"] == before["uris"]["statistics"]

    status = deployment.status()
    assert (status["late"], status["pending"], status["served"]) == ([], [6], 6)
    assert learn_again().out == ""
    assert retrain("rollback", deployment.config, "--reason", "bad tips", "--json").code == 0
    status = deployment.status()
    assert (status["late"], status["pending"], set(status["set_aside"])) == ([told], [6], {"2", "3", "4"})
