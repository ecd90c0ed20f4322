"""The gate's executor over the stock Evaluator's output."""

import json
from pathlib import Path

import pytest
from tfx.types import standard_artifacts

from components.artifacts import EdgeModel, RegisteredVersion
from components.evaluate.component import CANDIDATE, CHAMPION, Executor, read_metrics

pytestmark = pytest.mark.xdist_group("evaluate")

GATES = {"auc": {"min_value": 0.7, "max_drop": 0.03, "max_past_drop": 0.05}}
SMOKE = {"problems": [], "seconds": 6.0, "memory_mb": 700}


def run(folder, evaluation, model, gates, baseline, base_record=None, found=SMOKE, edge=None, **more):
    """Span 2 is new, span 1 past: the verdict, the property, and the files."""
    smoke = standard_artifacts.InfraBlessing()
    smoke.uri = f"{folder}-smoke"
    Path(smoke.uri).mkdir()
    Path(smoke.uri, "smoke.json").write_text(json.dumps(found))
    settings = {"metrics": gates, "new_spans": [2], "past_spans": [1] if baseline else []}
    settings |= {"min_examples": 100, "baseline": baseline}
    settings |= {"task": "binary", "max_influence": None, "shadow": False, "again": [], **more}
    blessing = standard_artifacts.ModelBlessing()
    blessing.uri = str(folder)
    inputs = {"evaluation": [evaluation], "model": [model], "smoke": [smoke]}
    inputs |= {"base_record": [base_record]} if base_record else {}
    inputs |= {"edge": [edge]} if edge else {}
    Executor().Do(inputs, {"blessing": [blessing]}, {"gates": json.dumps(settings)})
    verdict = json.loads((folder / "verdict.json").read_text())
    files = sorted(path.name for path in folder.iterdir())
    return verdict, blessing.get_int_custom_property("blessed"), files


def test_a_better_candidate_is_blessed(tmp_path, of_both, candidate):
    verdict, blessed, files = run(tmp_path, of_both, candidate, GATES, baseline=True)
    assert verdict["blessed"] is True and blessed == 1 and files == ["BLESSED", "smoke.json", "verdict.json"]
    mine, base = (read_metrics(of_both.uri, model) for model in (CANDIDATE, CHAMPION))
    assert verdict["candidate"] == mine and verdict["champion"] == base
    assert [(c["gate"], c["slice"], c["candidate"], c["champion"]) for c in verdict["checks"]] == [
        (gate, name, mine[name]["auc"], base[name]["auc"])
        for gate, name in [
            ("min_value", "span=2"),
            ("max_drop", "overall"),
            ("max_drop", "span=2"),
            ("max_past_drop", "span=1"),
        ]
    ]


@pytest.fixture
def record(tmp_path):
    """The champion's: `retention` in its verdict, or none, as before there was any."""

    def make(**verdict):
        made = RegisteredVersion()
        made.uri = str(tmp_path / "record")
        Path(made.uri).mkdir()
        Path(made.uri, "record.json").write_text(json.dumps({"verdict": verdict}))
        return made

    return make


def test_the_line_is_carried_on_from_the_champions_record(tmp_path, of_both, candidate, record):
    entry = {"learned": 0.7, "before": 0.6, "best": 0.99, "now": 0.9}
    base = record(retention={"span=1": {"auc": entry}})
    gates = {"auc": {"max_forgetting": 0.01}}
    verdict, _, _ = run(tmp_path / "out", of_both, candidate, gates, True, base)
    mine, other = (read_metrics(of_both.uri, model) for model in (CANDIDATE, CHAMPION))
    now = mine["span=1"]["auc"]
    assert verdict["only_forgetting"] and [c["champion"] for c in verdict["checks"]] == [0.99]
    assert verdict["retention"]["span=1"]["auc"] == entry | {"now": now}
    assert verdict["retention"]["span=2"]["auc"]["before"] == other["span=2"]["auc"]
    assert verdict["learning"]["auc"]["bwt"] == pytest.approx(now - 0.7)
    assert verdict["learning"]["auc"]["forgetting"] == pytest.approx(0.99 - now)


def test_a_span_without_held_out_rows_leaves_the_row_and_one_learned_again_starts_anew(
    tmp_path, of_both, candidate, record
):
    entry = {"learned": 0.7, "before": 0.6, "best": 0.99, "now": 0.9}
    base = record(retention={name: {"auc": entry} for name in ("span=0", "span=1", "kind=a")})
    verdict, _, _ = run(tmp_path / "out", of_both, candidate, GATES, True, base, again=[2])
    assert verdict["retention"].keys() & {"span=0", "span=1", "span=2", "kind=a"} == {
        "span=1",
        "span=2",
        "kind=a",
    }
    assert verdict["retention"]["span=2"]["auc"]["before"] is None


def test_a_champion_of_before_there_were_rows_is_where_they_begin(tmp_path, of_both, candidate, record):
    verdict, _, _ = run(tmp_path / "out", of_both, candidate, GATES, True, record())
    base = read_metrics(of_both.uri, CHAMPION)["span=1"]["auc"]
    assert verdict["retention"]["span=1"]["auc"]["learned"] == base


def test_for_a_shadow_the_spans_of_the_line_are_not_new(tmp_path, of_both, candidate, record):
    entry = {"learned": 0.7, "before": 0.6, "best": 0.99, "now": 0.9}
    base = record(retention={"span=1": {"auc": entry}, "span=2": {"auc": entry}})
    verdict, _, _ = run(tmp_path / "out", of_both, candidate, GATES, True, base, shadow=True)
    assert {verdict["retention"][f"span={span}"]["auc"]["learned"] for span in (1, 2)} == {0.7}


def test_influence_is_judged_and_fails_where_it_should_have_been_measured(
    tmp_path, of_both, candidate, save_model
):
    verdict, blessed, _ = run(tmp_path / "none", of_both, candidate, GATES, True, max_influence=0.1)
    why = "loss on past spans could not be measured (max_influence 10 %)"
    assert blessed == 0 and verdict["reasons"] == [why] and not verdict["only_forgetting"]
    model = save_model()
    Path(model.uri, "checkpoint").mkdir()
    slices = {"trusted": {"with": 0.5, "without": 0.4, "examples": 200}}
    Path(model.uri, "checkpoint", "influence.json").write_text(
        json.dumps({"metric": "loss", "slices": slices})
    )
    verdict, blessed, _ = run(tmp_path / "out", of_both, model, GATES, True, max_influence=0.1)
    assert blessed == 0 and verdict["reasons"] == [
        "loss on trusted is 0.5 with the new data, 0.4 without (max_influence 10 %)"
    ]


def test_below_the_floor_a_cold_start_is_not(tmp_path, of_one, candidate):
    gates = {"auc": {"min_value": 0.99}}
    verdict, blessed, files = run(tmp_path, of_one, candidate, gates, baseline=False)
    assert (
        verdict["blessed"] is False
        and blessed == 0
        and files == ["NOT_BLESSED", "smoke.json", "verdict.json"]
    )
    auc = read_metrics(of_one.uri, None)["span=2"]["auc"]
    assert verdict["reasons"] == [f"auc on span=2 is {auc:.4g}, required 0.99 (min_value)"]
    assert verdict["champion"] is None


def test_good_metrics_do_not_help_a_model_that_does_not_answer(tmp_path, of_both, candidate):
    found = {**SMOKE, "problems": ["serving_raw: predictions: 64 of 64 answers are not finite"]}
    verdict, blessed, files = run(tmp_path / "out", of_both, candidate, GATES, baseline=True, found=found)
    assert blessed == 0 and verdict["blessed"] is False and not verdict["only_forgetting"]
    assert verdict["reasons"] == [found["problems"][0], "all 4 checks passed"]
    assert files == ["NOT_BLESSED", "smoke.json", "verdict.json"]
    assert json.loads((tmp_path / "out" / "smoke.json").read_text()) == found


def test_a_tflite_model_that_must_be_good_enough_and_is_not(tmp_path, of_both, candidate):
    edge = EdgeModel()
    edge.uri = str(tmp_path / "edge")
    Path(edge.uri).mkdir()
    for problems in (["auc is 0.5, that of the SavedModel 0.9 (edge.max_drop 0.01)"], []):
        Path(edge.uri, "edge.json").write_text(json.dumps({"problems": problems}))
        out = tmp_path / str(len(problems))
        verdict, blessed, _ = run(out, of_both, candidate, GATES, baseline=True, edge=edge)
        assert blessed == int(not problems)
        told = [f"TFLite model: {problem}" for problem in problems]
        assert verdict["reasons"] == [*told, "all 4 checks passed"]
