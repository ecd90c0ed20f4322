"""Real SavedModels in real processes: one that answers, and those that a server would fall over."""

import json

import pytest
import tensorflow as tf
from tfx.types import channel_utils, standard_artifacts

from components import bounded
from components.errors import RetrainError
from components.smoke.component import Executor, Smoke, judged

pytestmark = pytest.mark.xdist_group("smoke")

NO_LIMITS = {"max_latency_ms": None, "max_p99_ms": None}


def run(exported, folder, **limits):
    """What `smoke.json` says."""
    model = standard_artifacts.Model()
    model.uri = str(exported.folder)
    limits = {"max_seconds": 120.0, "max_memory_mb": 4000, **limits}
    component = Smoke(channel_utils.as_channel([model]), **limits)
    blessing = standard_artifacts.InfraBlessing()
    blessing.uri = str(folder)
    Executor().Do({"model": [model]}, {"infra_blessing": [blessing]}, component.exec_properties)
    found = json.loads((folder / "smoke.json").read_text())
    assert blessing.get_int_custom_property("blessed") == int(not found["problems"])
    return found


def test_a_model_that_answers(export, tmp_path):
    found = run(export(), tmp_path, max_latency_ms=1000.0)
    assert found["problems"] == []
    assert found["examples"] == 7 and found["largest_difference"] < 1e-6
    assert 300 < found["memory_mb"] < 4000
    assert 0 < found["load_seconds"] < found["seconds"] < 120


def forever(answer):
    """The same, from a loop that does not end."""
    p = answer["predictions"]
    (p,) = tf.while_loop(lambda p: tf.reduce_sum(p) > -1.0, lambda p: (tf.identity(p),), [p])
    return {"predictions": p}


def growing(answer):
    """The same, from a loop whose tensor doubles."""
    p = answer["predictions"]
    grown = tf.while_loop(
        lambda t: tf.size(t) < 2**31 - 2,
        lambda t: (tf.concat([t, t + 1.0], 0),),
        [tf.ones([1024])],
        shape_invariants=[tf.TensorShape([None])],
    )[0]
    return {"predictions": p + 0.0 * tf.reduce_sum(grown)}


@pytest.mark.long
def test_a_model_that_loops_for_ever_is_stopped(export, tmp_path):
    found = run(export(by_column=forever), tmp_path, max_seconds=30.0)
    assert found["problems"] == [
        "the SavedModel does not answer: it was not done after 30 s, while answering serving_raw"
    ]
    assert 30 <= found["seconds"] < 60 and found["memory_mb"] > 300


def test_a_model_that_grows_is_stopped(export, tmp_path):
    found = run(export(by_example=growing), tmp_path, max_memory_mb=1500)
    (problem,) = found["problems"]
    assert problem.startswith("the SavedModel does not answer: its process had ")
    assert problem.endswith(" MiB of memory, allowed 1,500, while answering serving_default")
    assert found["memory_mb"] > 1500


def test_a_corrupt_model(export, tmp_path):
    exported = export()
    data = next((exported.saved_model / "variables").glob("*.index"))
    data.write_bytes(b"\xff" * 100)
    (exported.saved_model / "saved_model.pb").write_bytes(b"\xff" * 100)
    (problem,) = run(exported, tmp_path)["problems"]
    assert problem.startswith("the SavedModel does not load: ")


def test_without_recorded_answers_there_is_an_error(export, tmp_path):
    exported = export()
    exported.expected.unlink()
    with pytest.raises(RetrainError, match="expected_answers is not there"):
        run(exported, tmp_path)


def test_latency_is_judged():
    took = {"serving_raw": {"p50": 4.0, "p99": 30.0, "requests": 200}}
    ended = bounded.Ended({"problems": ["x: y"], "latency_ms": took}, "", 6.0, 700)
    limits = {"max_latency_ms": 3.9, "max_p99_ms": 20.0}
    assert judged(ended, limits) == {
        "problems": [
            "x: y",
            "serving_raw: the median of its latency for one example is 4 ms, allowed 3.9 ms "
            "(smoke.max_latency_ms)",
            "serving_raw: the 99th percentile of its latency for one example is 30 ms, allowed 20 ms "
            "(smoke.max_p99_ms)",
        ],
        "seconds": 6.0,
        "memory_mb": 700,
        "latency_ms": took,
    }
    assert judged(ended, {"max_latency_ms": 4.0, "max_p99_ms": 30.0})["problems"] == ["x: y"]
    assert judged(ended, NO_LIMITS)["problems"] == ["x: y"]


@pytest.mark.parametrize("limit", ["max_seconds", "max_memory_mb", "max_difference", "max_p99_ms"])
def test_a_limit_of_nothing_is_refused(limit):
    model = channel_utils.as_channel([standard_artifacts.Model()])
    with pytest.raises(RetrainError, match=f"smoke.{limit}: got 0, required is more than 0"):
        Smoke(model, **{"max_seconds": 1.0, "max_memory_mb": 1, limit: 0})


def test_a_latency_over_the_budget_is_found_of_a_real_model(export, tmp_path):
    """In this process: the child would measure the same."""
    from components.smoke import ask

    found = ask.look(export().request, lambda _: None)
    over = judged(bounded.Ended(found, "", 1.0, 1), {"max_latency_ms": 1e-3, "max_p99_ms": None})
    assert len(over["problems"]) == 2 and all("allowed 0.001 ms" in text for text in over["problems"])
