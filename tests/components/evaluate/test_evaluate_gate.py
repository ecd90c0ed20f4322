"""The gate's executor over the stock Evaluator's output, and the smoke test over real SavedModels."""

import json
import shutil
from pathlib import Path

import pytest
import tensorflow as tf
from tfx.types import standard_artifacts
from tiny_models import LABELS

from components.artifacts import RegisteredVersion
from components.evaluate import smoke
from components.evaluate.component import CANDIDATE, CHAMPION, Executor, read_metrics

pytestmark = pytest.mark.xdist_group("evaluate")

GATES = {"auc": {"min_value": 0.7, "max_drop": 0.03, "max_past_drop": 0.05}}
COLUMNS = ["Trip Words", "company", "fare"]


def run(folder, evaluation, model, examples, gates, baseline, base_record=None, **more):
    """Span 2 is new, span 1 past: the verdict, the property, and the files."""
    settings = {"metrics": gates, "new_spans": [2], "past_spans": [1] if baseline else []}
    settings |= {"min_examples": 100, "baseline": baseline, "columns": COLUMNS}
    settings |= {"task": "binary", "max_influence": None, "shadow": False, **more}
    blessing = standard_artifacts.ModelBlessing()
    blessing.uri = str(folder)
    inputs = {"evaluation": [evaluation], "model": [model], "examples": [examples]}
    inputs |= {"base_record": [base_record]} if base_record else {}
    Executor().Do(inputs, {"blessing": [blessing]}, {"gates": json.dumps(settings)})
    verdict = json.loads((folder / "verdict.json").read_text())
    files = sorted(path.name for path in folder.iterdir())
    return verdict, blessing.get_int_custom_property("blessed"), files


def test_a_better_candidate_is_blessed(tmp_path, of_both, candidate, examples):
    verdict, blessed, files = run(tmp_path, of_both, candidate, examples, GATES, baseline=True)
    assert verdict["blessed"] is True and blessed == 1 and files == ["BLESSED", "verdict.json"]
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


def test_the_line_is_carried_on_from_the_champions_record(tmp_path, of_both, candidate, examples, record):
    entry = {"learned": 0.7, "before": 0.6, "best": 0.99, "now": 0.9}
    base = record(retention={"span=1": {"auc": entry}})
    gates = {"auc": {"max_forgetting": 0.01}}
    verdict, _, _ = run(tmp_path / "out", of_both, candidate, examples, gates, True, base)
    mine, other = (read_metrics(of_both.uri, model) for model in (CANDIDATE, CHAMPION))
    now = mine["span=1"]["auc"]
    assert verdict["only_forgetting"] and [c["champion"] for c in verdict["checks"]] == [0.99]
    assert verdict["retention"]["span=1"]["auc"] == entry | {"now": now}
    assert verdict["retention"]["span=2"]["auc"]["before"] == other["span=2"]["auc"]
    assert verdict["learning"]["auc"]["bwt"] == pytest.approx(now - 0.7)
    assert verdict["learning"]["auc"]["forgetting"] == pytest.approx(0.99 - now)


def test_a_champion_of_before_there_were_rows_is_where_they_begin(
    tmp_path, of_both, candidate, examples, record
):
    verdict, _, _ = run(tmp_path / "out", of_both, candidate, examples, GATES, True, record())
    base = read_metrics(of_both.uri, CHAMPION)["span=1"]["auc"]
    assert verdict["retention"]["span=1"]["auc"]["learned"] == base


def test_for_a_shadow_the_spans_of_the_line_are_not_new(tmp_path, of_both, candidate, examples, record):
    entry = {"learned": 0.7, "before": 0.6, "best": 0.99, "now": 0.9}
    base = record(retention={"span=1": {"auc": entry}, "span=2": {"auc": entry}})
    verdict, _, _ = run(tmp_path / "out", of_both, candidate, examples, GATES, True, base, shadow=True)
    assert {verdict["retention"][f"span={span}"]["auc"]["learned"] for span in (1, 2)} == {0.7}


def test_influence_is_judged_and_fails_where_it_should_have_been_measured(
    tmp_path, of_both, candidate, examples, save_model
):
    verdict, blessed, _ = run(tmp_path / "none", of_both, candidate, examples, GATES, True, max_influence=0.1)
    why = "loss on past spans could not be measured (max_influence 10 %)"
    assert blessed == 0 and verdict["reasons"] == [why] and not verdict["only_forgetting"]
    model = save_model()
    Path(model.uri, "checkpoint").mkdir()
    slices = {"trusted": {"with": 0.5, "without": 0.4, "examples": 200}}
    Path(model.uri, "checkpoint", "influence.json").write_text(
        json.dumps({"metric": "loss", "slices": slices})
    )
    verdict, blessed, _ = run(tmp_path / "out", of_both, model, examples, GATES, True, max_influence=0.1)
    assert blessed == 0 and verdict["reasons"] == [
        "loss on trusted is 0.5 with the new data, 0.4 without (max_influence 10 %)"
    ]


def test_below_the_floor_a_cold_start_is_not(tmp_path, of_one, candidate, examples):
    gates = {"auc": {"min_value": 0.99}}
    verdict, blessed, files = run(tmp_path, of_one, candidate, examples, gates, baseline=False)
    assert verdict["blessed"] is False and blessed == 0 and files == ["NOT_BLESSED", "verdict.json"]
    auc = read_metrics(of_one.uri, None)["span=2"]["auc"]
    assert verdict["reasons"] == [f"auc on span=2 is {auc:.4g}, required 0.99 (min_value)"]
    assert verdict["champion"] is None


def test_good_metrics_do_not_help_a_model_that_does_not_answer(tmp_path, of_both, save_model, examples):
    model = save_model(weight=float("nan"))
    verdict, blessed, _ = run(tmp_path, of_both, model, examples, GATES, baseline=True)
    assert blessed == 0 and verdict["blessed"] is False
    assert verdict["reasons"] == ["predictions: 64 of 64 answers are not finite", "all 4 checks passed"]


@pytest.fixture
def asked(examples):
    records = smoke.read_some(str(Path(examples.uri, "Split-eval")), 64)
    assert len(records) == 64
    return records


def problems(model, asked, columns=COLUMNS):
    return smoke.problems(str(Path(model.uri, "Format-Serving")), asked, columns)


def embedding(width=3):
    return lambda fare: {
        "embedding": tf.where(tf.math.is_nan(fare), 0.0, fare)[:, None] * tf.ones([1, width])
    }


@pytest.mark.parametrize("task", LABELS)
def test_a_model_that_answers_has_no_problem(task, save_model, asked):
    # Some of the examples have no fare, some no company, some two words, all of which count, and some none.
    assert problems(save_model(task), asked) == []


def test_nor_have_towers_that_answer(save_model, asked):
    towers = {"user_embedding": embedding(), "item_embedding": embedding()}
    assert problems(save_model(others=towers), asked) == []


def change(**outputs):
    """Answers with some outputs changed: name -> what is made of it; None: without it."""

    def changed(answers):
        made = {name: outputs.get(name, lambda v: v) for name in answers}
        return {name: make(answers[name]) for name, make in made.items() if make is not None}

    return changed


BOTH = "serving_default and serving_raw differ"
DEFECTS = {
    "one answer is not finite": (
        {"by_example": change(predictions=lambda p: tf.concat([[float("inf")], p[1:]], 0))},
        ["predictions: 1 of 64 answers are not finite", f"predictions: {BOTH} by up to inf"],
    ),
    "the signatures disagree": (
        {"by_column": change(predictions=lambda p: p + 0.25)},
        [f"predictions: {BOTH} by up to 0.25"],
    ),
    "the signatures disagree on a missing value": (
        {"by_column": change(predictions=lambda p: tf.where(tf.abs(p - 0.5) < 1e-3, p + 0.25, p))},
        [f"predictions: {BOTH} by up to 0.25"],
    ),
    "only by column not finite": (
        {"by_column": change(predictions=lambda p: p * float("nan"))},
        [f"predictions: {BOTH} by up to nan"],
    ),
    "too few answers": (
        {"by_example": change(predictions=lambda p: p[:3])},
        [
            "predictions: 64 examples were answered with shape (3,)",
            "predictions: serving_default answers with shape (3,), serving_raw with (64,)",
        ],
    ),
    "too few answers by column": (
        {"by_column": change(predictions=lambda p: p[:3])},
        ["predictions: serving_default answers with shape (64,), serving_raw with (3,)"],
    ),
    "another shape by column": (
        {"by_column": change(predictions=lambda p: p[:, None])},
        ["predictions: serving_default answers with shape (64,), serving_raw with (64, 1)"],
    ),
    "no signature by example": (
        {"by_example": None},
        ["the SavedModel does not answer: 'serving_default'"],
    ),
    "no signature by column": ({"by_column": None}, ["the SavedModel does not answer: 'serving_raw'"]),
    "an output less by column": (
        {"task": "multiclass", "by_column": change(scores=None)},
        [
            "serving_default answers with classes, predictions, scores, serving_raw with classes, "
            "predictions, expected predictions and the same of both"
        ],
    ),
    "no predictions": (
        {
            "by_example": lambda a: {"logits": a["predictions"]},
            "by_column": lambda a: {"logits": a["predictions"]},
        },
        [
            "serving_default answers with logits, serving_raw with logits, expected predictions and the "
            "same of both"
        ],
    ),
    "other classes by column": (
        {"task": "multiclass", "by_column": change(classes=lambda c: c[:, ::-1])},
        [f"classes: {BOTH} in 128 of 192 texts"],
    ),
    "scores that are no probabilities": (
        {
            "task": "multiclass",
            "by_example": change(scores=lambda s: s * 2.0),
            "by_column": change(scores=lambda s: s * 2.0),
        },
        ["scores: the probabilities of an example add up to 2, expected 1"],
    ),
    "a tower that is not finite": (
        {"others": {"user_embedding": lambda fare: {"embedding": tf.math.log(-tf.abs(fare))[:, None]}}},
        ["user_embedding.embedding: 64 of 64 answers are not finite"],
    ),
    "a tower of too few": (
        {"others": {"item_embedding": lambda fare: {"embedding": fare[:3, None] * 0.0 + 1.0}}},
        ["item_embedding.embedding: 64 examples were answered with shape (3, 1)"],
    ),
}


@pytest.mark.parametrize(("defect", "found"), DEFECTS.values(), ids=DEFECTS.keys())
def test_defects_are_named(save_model, asked, defect, found):
    assert problems(save_model(**defect), asked) == found


def test_a_column_that_no_request_holds(candidate, asked):
    (problem,) = problems(candidate, asked, columns=["fare", "company"])
    assert problem == "the SavedModel does not answer: 'Trip_Words'"


def test_a_signature_that_takes_something_else(tmp_path, save_model, asked):
    module = tf.Module()
    module.answer = tf.function(
        lambda words: {"predictions": words}, input_signature=[tf.TensorSpec([None], tf.string, name="words")]
    )
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.answer})
    (problem,) = smoke.problems(str(tmp_path), asked, COLUMNS)
    assert problem.startswith("the SavedModel does not answer: ") and "words" in problem


@pytest.mark.parametrize("lost", ["saved_model.pb", "variables", "."])
def test_a_broken_saved_model(tmp_path, candidate, asked, lost):
    copy = shutil.copytree(Path(candidate.uri, "Format-Serving"), tmp_path / "copy")
    path = copy / lost
    shutil.rmtree(path) if path.is_dir() else path.write_bytes(b"\x08\x01")
    (problem,) = smoke.problems(str(copy), asked, COLUMNS)
    assert problem.startswith("the SavedModel does not answer: ")


def test_without_an_example_to_ask_nothing_is_fine(candidate):
    assert problems(candidate, []) == ["there is no held-out example to ask the SavedModel"]
