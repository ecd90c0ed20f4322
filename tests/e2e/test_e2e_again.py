"""A late file: seen, told, learned when it is asked for, and in the buffer once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Deployment, Result, retrain

pytestmark = [pytest.mark.xdist_group("e2e-again"), pytest.mark.timeout(600)]


def rows(version: dict[str, Any]) -> int:
    return int(version["record"]["rows"]["train"])


def buffered(version: dict[str, Any], split: str) -> list[int]:
    """The span of every example in a version's buffer."""
    import tensorflow as tf

    files = [str(file) for file in Path(version["uris"]["buffer"]).glob(f"Split-{split}/data_tfrecord-*")]
    examples = map(tf.train.Example.FromString, tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())
    return [example.features.feature["span"].int64_list.value[0] for example in examples]


def learn_again(deployment: Deployment, *more: str) -> Result:
    return deployment.run("--span", 1, "--again", *more)


def test_a_late_file_is_learned_when_it_is_asked_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    deployment = Deployment(tmp_path_factory.mktemp("again") / "taxi")
    (first, second) = deployment.put(1), deployment.put(2)
    learned = deployment.run("--together")
    assert learned.code == 0, learned.err
    (before,) = deployment.versions().values()
    assert deployment.status()["late"] == [] and learn_again(deployment).out == ""

    late = first.with_name("late.csv")
    late.write_text("".join(second.read_text().splitlines(keepends=True)[:201]))
    told = {"span": 1, "date": None, "version": 1, "new": ["1/late.csv"], "changed": [], "gone": []}
    assert deployment.status()["late"] == [told]
    assert deployment.run().lines == [{"late": [told]}] and set(deployment.versions()) == {1}

    again = learn_again(deployment)
    assert again.code == 0, again.err
    (outcome,) = again.lines
    assert (outcome["spans"], outcome["parent"], outcome["warm_start"]) == ([1], 1, True)
    assert outcome["reasons"][0] == "forced" and outcome["blessed"] and outcome["served"] == 2
    # Of span 1 only the rows of this run are evaluated; span 2 is a past span now.
    assert set(outcome["metrics"]["new"]) == {"1"} and set(outcome["metrics"]["past"]) == {"2"}
    held_out = outcome["metrics"]["new"]["1"]["example_count"]
    assert held_out == outcome["rows"]["eval"]

    after = deployment.versions()[2]
    kept = deployment.sample(after)
    of_second = deployment.sample(before)["spans"]["2"]
    assert kept["spans"] == {"1": rows(after), "2": of_second}
    assert rows(after) > deployment.sample(before)["spans"]["1"]
    assert kept["train"]["0"]["seen"] == rows(after) + of_second == len(buffered(after, "train"))
    assert buffered(after, "train").count(1) == rows(after)
    assert buffered(after, "eval").count(1) == outcome["rows"]["eval"]
    # The drift of what comes next is measured against the newest span, not against this one.
    assert after["watermark"] == 2 and after["uris"]["statistics"] == before["uris"]["statistics"]

    status = deployment.status()
    assert (status["late"], status["pending"], status["served"]) == ([], [], 2)
    assert learn_again(deployment).out == "" and deployment.run().out == ""
    rolled_back = retrain("rollback", deployment.config, "--reason", "bad tips", "--json")
    assert rolled_back.code == 0
    status = deployment.status()
    assert (status["late"], status["pending"], status["set_aside"]) == ([told], [], {})
