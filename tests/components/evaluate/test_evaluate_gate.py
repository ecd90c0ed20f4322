"""The gate's executor over the stock Evaluator's output, and the smoke test over real SavedModels."""

import json
import shutil
from pathlib import Path

import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components.evaluate import smoke
from components.evaluate.component import CANDIDATE, CHAMPION, Executor, read_metrics

pytestmark = pytest.mark.xdist_group("evaluate")

GATES = {"auc": {"min_value": 0.7, "max_drop": 0.03, "max_past_drop": 0.05}}


def run(folder, evaluation, model, examples, gates, baseline):
    """Span 2 is new, span 1 past: the verdict, the property, and the files."""
    settings = {"metrics": gates, "new_spans": [2], "past_spans": [1] if baseline else []}
    settings |= {"min_examples": 100, "baseline": baseline}
    blessing = standard_artifacts.ModelBlessing()
    blessing.uri = str(folder)
    inputs = {"evaluation": [evaluation], "model": [model], "examples": [examples]}
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


def test_below_the_floor_a_cold_start_is_not(tmp_path, of_one, candidate, examples):
    gates = {"auc": {"min_value": 0.99}}
    verdict, blessed, files = run(tmp_path, of_one, candidate, examples, gates, baseline=False)
    assert verdict["blessed"] is False and blessed == 0 and files == ["NOT_BLESSED", "verdict.json"]
    auc = read_metrics(of_one.uri, None)["span=2"]["auc"]
    assert verdict["reasons"] == [f"auc on span=2 is {auc:.3f}, required 0.99 (min_value)"]
    assert verdict["champion"] is None


def test_good_metrics_do_not_help_a_model_that_does_not_answer(tmp_path, of_both, save_model, examples):
    model = save_model(float("nan"))
    verdict, blessed, _ = run(tmp_path, of_both, model, examples, GATES, baseline=True)
    assert blessed == 0 and verdict["blessed"] is False
    assert verdict["reasons"] == ["64 of 64 answers are not finite", "all 4 checks passed"]


@pytest.fixture
def asked(examples):
    records = smoke.read_some(str(Path(examples.uri, "Split-eval")), 64)
    assert len(records) == 64
    return records


def problems(model, asked):
    return smoke.problems(str(Path(model.uri, "Format-Serving")), asked)


def test_a_model_that_answers_has_no_problem(candidate, asked):
    # Some of the examples have no fare, and some no company.
    assert problems(candidate, asked) == []


DEFECTS = {
    "one answer is not finite": (
        {"by_example": lambda p: tf.concat([[float("inf")], p[1:]], 0)},
        "1 of 64 answers are not finite",
    ),
    "the signatures disagree": (
        {"by_column": lambda p: p + 0.25},
        "serving_default and serving_raw differ by up to 0.25",
    ),
    "the signatures disagree on a missing value": (
        {"by_column": lambda p: tf.where(p == 0.5, 0.75, p)},
        "serving_default and serving_raw differ by up to 0.25",
    ),
    "only by column not finite": (
        {"by_column": lambda p: p * float("nan")},
        "serving_default and serving_raw differ by up to nan",
    ),
    "too few answers": ({"by_example": lambda p: p[:3]}, "64 examples were answered with shape (3,)"),
    "too few answers by column": (
        {"by_column": lambda p: p[:3]},
        "serving_default answers with shape (64,), serving_raw with (3,)",
    ),
    "another shape by column": (
        {"by_column": lambda p: p[:, None]},
        "serving_default answers with shape (64,), serving_raw with (64, 1)",
    ),
    "no signature by example": ({"by_example": None}, "the SavedModel does not answer: 'serving_default'"),
    "no signature by column": ({"by_column": None}, "the SavedModel does not answer: 'serving_raw'"),
}


@pytest.mark.parametrize(("defect", "problem"), DEFECTS.values(), ids=DEFECTS.keys())
def test_defects_are_named(save_model, asked, defect, problem):
    assert problems(save_model(**defect), asked) == [problem]


def test_a_signature_that_takes_something_else(tmp_path, save_model, asked):
    module = tf.Module()
    module.answer = tf.function(
        lambda words: {"predictions": words}, input_signature=[tf.TensorSpec([None], tf.string, name="words")]
    )
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.answer})
    (problem,) = smoke.problems(str(tmp_path), asked)
    assert problem.startswith("the SavedModel does not answer: ") and "words" in problem


@pytest.mark.parametrize("lost", ["saved_model.pb", "variables", "."])
def test_a_broken_saved_model(tmp_path, candidate, asked, lost):
    copy = shutil.copytree(Path(candidate.uri, "Format-Serving"), tmp_path / "copy")
    path = copy / lost
    shutil.rmtree(path) if path.is_dir() else path.write_bytes(b"\x08\x01")
    (problem,) = smoke.problems(str(copy), asked)
    assert problem.startswith("the SavedModel does not answer: ")


def test_without_an_example_to_ask_nothing_is_fine(candidate):
    assert problems(candidate, []) == ["there is no held-out example to ask the SavedModel"]
