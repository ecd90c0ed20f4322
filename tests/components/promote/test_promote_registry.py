"""The registry over real MLflow, in SQLite and behind its server."""

import json
import os
import time
from dataclasses import replace

import pytest

from components.errors import RetrainError
from components.promote.logic import chart_metrics
from components.promote.registry import Registry, lineage


def again(registry):
    """What another process sees."""
    return Registry(registry.uri, registry.name, registry._artifacts)


def runs(registry):
    experiment = registry._client.get_experiment_by_name(registry.name)
    return registry._client.search_runs([experiment.experiment_id]) if experiment else []


def test_before_anything_was_written_asking_writes_nothing(tmp_path):
    registry = Registry(f"sqlite:///{tmp_path}/none/registry.sqlite", "taxi")
    assert registry.versions() == [] and registry.champion() is None
    with pytest.raises(RetrainError, match=r"version 3 is not in the registry .* taxi: none yet"):
        registry.get(3)
    assert list(tmp_path.iterdir()) == []


def test_a_version_comes_back_as_it_went_in(registry, version, saved_model):
    given = version(
        '/state/o\'brien "x"/model',
        spans=(3, 5, 4),
        parent=7,
        blessed=False,
        uris={"model": "/a b/é", "buffer": "s3://x/y?z=1", "record": "/r"},
        record={"drift": [{"feature": "é'\"", "value": 0.1}], "gate": {"reasons": []}, "n": None},
    )
    before = time.time()
    number = registry.register(given, saved_model, {"auc/overall": 0.5})
    found = again(registry).get(number)
    assert found == replace(given, number=1, created=found.created) and number == 1
    assert before - 0.001 <= found.created <= time.time()
    assert found.watermark == 5 and found.promoted == () and found.set_aside == ""

    registry.tag(1, set_aside="rolled back: it's bad", seconds=json.dumps({"train": 1.5}))
    tagged = again(registry).get(1)
    assert tagged == replace(found, set_aside="rolled back: it's bad", seconds={"train": 1.5})


def test_a_cold_start_has_no_parent(registry, version, saved_model):
    registry.register(version("a"), saved_model, {})
    assert again(registry).get(1).parent is None


def test_a_version_may_have_learned_nothing(registry, version, saved_model):
    registry.register(version("a"), saved_model, {})
    forgets = replace(version("b", parent=1), spans=(), kind="forget")
    assert registry.register(forgets, saved_model, {}) == 2
    found = again(registry).get(2)
    assert (found.spans, found.kind, found.parent, found.watermark) == ((), "forget", 1, 1)
    assert sorted(run.info.run_name for run in runs(registry)) == ["forget", "spans 1-1"]


def test_versions_of_before_there_were_kinds_are_runs(registry, version, saved_model):
    registry.register(version("a"), saved_model, {})
    registry._client.delete_model_version_tag(registry.name, "1", "kind")
    assert again(registry).get(1).kind == "run"


def test_the_shadow_moves_and_serves_nothing(registry, version, saved_model):
    assert registry.shadow() is None
    for key in "ab":
        registry.register(replace(version(key), kind="shadow"), saved_model, {})
        registry.make_shadow(len(registry.versions()))
        assert again(registry).shadow().key == key
    assert again(registry).champion() is None and registry.versions()[1].promoted == ()


def test_spans_go_into_quarantine_and_out(registry):
    assert registry.quarantined() == {} == registry.released()
    before = time.time()
    registry.quarantine([11, 2], "label shift 0.4 > 0.1")
    registry.quarantine([2], "the label's shift is worse")
    assert list(again(registry).quarantined().items()) == [
        (2, "the label's shift is worse"),
        (11, "label shift 0.4 > 0.1"),
    ]
    registry.release([2], "it was Christmas", files="abc")
    assert again(registry).quarantined() == {11: "label shift 0.4 > 0.1"}
    (told,) = again(registry).released().values()
    assert before <= told.pop("when") <= time.time()
    assert told == {"reason": "it was Christmas", "files": "abc"}
    registry.quarantine([2], "again")
    assert set(registry.quarantined()) == {2, 11} and registry.released() == {}


def test_asking_for_the_quarantine_writes_nothing(tmp_path):
    registry = Registry(f"sqlite:///{tmp_path}/none/registry.sqlite", "taxi")
    assert registry.quarantined() == {} and list(tmp_path.iterdir()) == []


def test_the_same_work_is_registered_once(registry, version, saved_model):
    first = registry.register(version("a"), saved_model, {"auc/overall": 0.5})
    assert registry.register(version("a"), saved_model, {"auc/overall": 0.5}) == first
    assert again(registry).register(version("a"), saved_model, {}) == first
    assert registry.register(version("b"), saved_model, {}) == first + 1
    assert [v.key for v in registry.versions()] == ["a", "b"] and len(runs(registry)) == 2


def test_a_rejected_version_that_passes_looser_gates_is_blessed(registry, version, saved_model):
    given = replace(version("a"), blessed=False, record={"gate": ["too low"]})
    number = registry.register(given, saved_model, {})
    looser = replace(given, blessed=True, record={"gate": []}, uris={**given.uris, "blessing": "/new"})
    assert registry.register(looser, saved_model, {}) == number
    known = registry.get(number)
    assert known.blessed and known.record == {"gate": []} and known.uris["blessing"] == "/new"
    assert registry.register(given, saved_model, {}) == number and registry.get(number) == known


STEPS = ["create_registered_model", "create_experiment", "create_run", "log_batch", "log_artifacts"]


@pytest.mark.parametrize("step", [*STEPS, "set_terminated", "create_model_version"])
def test_killed_at_any_step_the_next_try_ends_in_the_same_place(
    registry, version, saved_model, copies, monkeypatch, step
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry._client, step, killed)
    with pytest.raises(KeyboardInterrupt):
        registry.register(version("it's a"), saved_model, {"auc/overall": 0.5})
    assert again(registry).versions() == [] and again(registry).champion() is None

    other = again(registry)
    assert other.register(version("it's a"), saved_model, {"auc/overall": 0.5}) == 1
    (run,) = runs(other)
    assert run.info.status == "FINISHED" and run.data.metrics == {"auc/overall": 0.5}
    (kept,) = copies.glob(f"**/{run.info.run_id}/artifacts/model")
    assert (kept / "saved_model.pb").read_bytes() == b"graph"
    assert (kept / "variables" / "variables.index").read_bytes() == b"weights"


def test_the_champion_moves(registry, version, saved_model):
    assert registry.champion() is None
    for key in "abc":
        registry.register(version(key), saved_model, {})
    assert registry.champion() is None  # registering serves nothing
    seen = []
    for number in (1, 3, 3, 1):
        registry.make_champion(number)
        seen.append(again(registry).champion().number)
    assert seen == [1, 3, 3, 1]
    first, second, third = registry.versions()
    assert [len(v.promoted) for v in (first, second, third)] == [2, 0, 1]
    assert first.promoted[0] <= third.promoted[0] <= first.promoted[1] <= time.time()


def test_versions_are_in_the_order_of_their_numbers(registry, version, saved_model):
    for i in range(12):
        registry.register(version(str(i)), saved_model, {})
    assert [(v.number, v.key) for v in registry.versions()] == [(i + 1, str(i)) for i in range(12)]


def test_models_in_one_registry_do_not_meet(registry, version, saved_model):
    other = Registry(registry.uri, f"{registry.name}2", registry._artifacts)
    registry.register(version("a"), saved_model, {})
    assert other.versions() == [] and other.champion() is None
    assert other.register(version("b"), saved_model, {}) == 1
    other.make_champion(1)
    assert registry.champion() is None and [v.key for v in registry.versions()] == ["a"]


def test_an_unknown_version_is_answered_with_the_known_ones(registry, version, saved_model):
    for key in "ab":
        registry.register(version(key), saved_model, {})
    for ask in (registry.get, registry.make_champion):
        with pytest.raises(
            RetrainError, match=rf"version 9 is not in the registry .* \(versions of {registry.name}: 1, 2\)"
        ):
            ask(9)
    assert registry.champion() is None


def test_a_version_made_by_others(registry, version, saved_model):
    registry.register(version("a"), saved_model, {})
    (run,) = runs(registry)
    registry._client.create_model_version(registry.name, f"runs:/{run.info.run_id}/model", run.info.run_id)
    assert [v.number for v in registry.versions()] == [1]
    registry._client.set_registered_model_alias(registry.name, "champion", "2")
    with pytest.raises(RetrainError, match=r"alias champion of .* is on version 2, which `retrain` did not"):
        registry.champion()


def test_a_saved_model_that_is_not_there_is_not_registered(registry, version, tmp_path):
    with pytest.raises(RetrainError, match=f"no SavedModel to keep in {tmp_path}/none"):
        registry.register(version("a"), str(tmp_path / "none"), {})
    assert registry.versions() == [] and runs(registry) == []


def test_whatever_a_slice_is_called_it_has_a_chart(registry, version, saved_model):
    names = ["overall", "a=b//c", "a=b/", "a=..", "a=../../b", "a=", "a=é:'\"%", "a=" + "x" * 300]
    values = {name: {"auc": i / 10} for i, name in enumerate(names)}
    values["overall"] |= {"log_loss": float("nan"), "accuracy": float("inf")}
    registry.register(version("a"), saved_model, chart_metrics(values))
    (run,) = runs(registry)
    assert len(run.data.metrics) == len(names) + 2
    assert sorted(v for name, v in run.data.metrics.items() if name.startswith("auc/")) == [
        i / 10 for i in range(len(names))
    ]


def test_hundreds_of_slices(registry, version, saved_model):
    metrics = chart_metrics({f"span={i}": {"auc": 0.5, "log_loss": 0.7} for i in range(600)})
    registry.register(version("a"), saved_model, metrics)
    assert len(runs(registry)[0].data.metrics) == 1200


@pytest.mark.parametrize("told", [True, False], ids=["told where models go", "not told"])
def test_registering_leaves_the_working_directory_alone(
    registry, version, saved_model, copies, tmp_path, monkeypatch, told
):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    registry = registry if told else Registry(registry.uri, registry.name)
    registry.register(version("a"), saved_model, {})
    registry.make_champion(1)
    assert os.getcwd() == str(here) and list(here.iterdir()) == []
    (run,) = runs(registry)
    assert len(list(copies.glob(f"**/{run.info.run_id}/**/saved_model.pb"))) == 1


def test_a_server_that_does_not_answer():
    registry = Registry("http://127.0.0.1:9", "taxi")
    with pytest.raises(RetrainError, match=r"registry http://127\.0\.0\.1:9: .*Check registry\.uri"):
        registry.champion()


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "registry.sqlite").write_text("no database" * 1000)
    registry = Registry(f"sqlite:///{tmp_path}/registry.sqlite", "taxi")
    with pytest.raises(RetrainError, match=r"registry sqlite:.*not a database\. Check registry\.uri"):
        registry.versions()


def test_lineage(version):
    parents = {1: None, 2: 1, 3: 2, 4: 2, 5: 9}
    versions = [replace(version(str(n)), number=n, parent=parent) for n, parent in parents.items()]

    def line(number):
        return [v.number for v in lineage(versions, number)]

    assert line(4) == [4, 2, 1] and line(3) == [3, 2, 1] and line(1) == [1]
    assert line(None) == [] and line(7) == []
    assert line(5) == [5]  # its parent is not there any more
