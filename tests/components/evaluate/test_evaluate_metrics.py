"""What the stock Evaluator measures with our configuration, against scikit-learn and numpy."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk
from tensorflow_model_analysis.metrics import metric_specs
from tiny_models import COLOURS, LABELS, MEAN_PRICE, PRICE

from components.errors import RetrainError
from components.evaluate.component import CANDIDATE, CHAMPION, eval_config, read_metrics
from components.evaluate.logic import METRICS, measured
from components.evaluate.metrics import Moments, Outcomes
from components.label import Label

pytestmark = pytest.mark.xdist_group("evaluate")


def by_slice(rows):
    """Slice -> its rows, for overall, span, company, and both."""
    found = {"overall": list(rows)}
    for row in rows:
        span, company = f"span={row['span']}", f"company={row['company']}"
        names = [span] if row["company"] is None else [span, company, f"{company},{span}"]
        for name in names:
            found.setdefault(name, []).append(row)
    return found


def variance(values, weights):
    return np.average((values - np.average(values, weights=weights)) ** 2, weights=weights)


def binary(rows, fares, model, weights):
    labels, scores = np.array([row["big"] for row in rows]), 1 / (1 + np.exp(-model * fares))
    values = {
        "label_variance": variance(labels, weights),
        "accuracy": sk.accuracy_score(labels, scores > 0.5, sample_weight=weights),
        "log_loss": sk.log_loss(labels, scores, labels=[0, 1], sample_weight=weights),
    }
    if values["label_variance"]:
        # TFMA interpolates both curves over 10,000 thresholds.
        values["auc"] = pytest.approx(sk.roc_auc_score(labels, scores, sample_weight=weights), abs=0.01)
        precision = sk.average_precision_score(labels, scores, sample_weight=weights)
        values["pr_auc"] = pytest.approx(precision, abs=0.05)
    return values


def multiclass(rows, fares, model, weights):
    classes = COLOURS[model]
    exps = np.exp(np.stack([model * fares, -fares, np.full_like(fares, -0.5)][: len(classes)], -1))
    scores = exps / exps.sum(-1, keepdims=True)
    labels = [row["colour"].encode() for row in rows]
    ids = np.array([classes.index(label) if label in classes else -1 for label in labels])
    # To an unknown class, as the only ones that the champion knows are green and red, it gives nothing.
    told = np.where(ids >= 0, scores[np.arange(len(ids)), ids], 1e-7)
    found = scores.argmax(-1)
    return {
        "accuracy": sk.accuracy_score(ids, found, sample_weight=weights),
        "balanced_accuracy": sk.balanced_accuracy_score(
            labels, [classes[i] for i in found], sample_weight=weights
        ),
        "log_loss": np.average(-np.log(told), weights=weights),
    }


def regression(rows, fares, model, weights):
    labels, found = np.array([row["price"] for row in rows]), MEAN_PRICE + model * PRICE * fares
    values = {
        "label_variance": variance(labels, weights),
        "mae": sk.mean_absolute_error(labels, found, sample_weight=weights),
        "rmse": sk.root_mean_squared_error(labels, found, sample_weight=weights),
    }
    if values["label_variance"]:
        values["r2"] = sk.r2_score(labels, found, sample_weight=weights)
    return values


EXPECTED = {"binary": binary, "multiclass": multiclass, "regression": regression}
# The SavedModel answers prices in float32, of which the next is 0.125 higher.
TOLERANCE = {"binary": 1e-5, "multiclass": 1e-5, "regression": 0.02}


def check(task, metrics, rows, model, weighted):
    slices = by_slice(rows)
    assert metrics.keys() == slices.keys() and "company=ann,span=3" in slices
    for name, members in slices.items():
        words = np.array([len(row["Trip Words"] or []) for row in members])
        fares = np.array([row["fare"] or 0.0 for row in members]) + 1e-3 * (words - 1)
        weights = np.array([row["weight"] if weighted else 1.0 for row in members])
        wanted = EXPECTED[task](members, fares, model, weights) | {"example_count": len(members)}
        assert metrics[name] == {
            metric: pytest.approx(value, abs=TOLERANCE[task]) if isinstance(value, float | int) else value
            for metric, value in wanted.items()
        }, name


@pytest.mark.parametrize("task", LABELS)
def test_candidate_and_champion_are_told_apart(task, of_both, evaluate, examples, save_model, held_out):
    models = [save_model(task), save_model(task, weight=-1.0)]
    label = Label(name=LABELS[task], task=task)
    evaluation = of_both if task == "binary" else evaluate(examples, label, models)
    check(task, read_metrics(evaluation.uri, CANDIDATE), held_out, 1.0, weighted=False)
    check(task, read_metrics(evaluation.uri, CHAMPION), held_out, -1.0, weighted=False)


@pytest.mark.parametrize("task", LABELS)
def test_a_model_alone_and_examples_with_weights(task, of_one, evaluate, examples, save_model, held_out):
    label = Label(name=LABELS[task], task=task, example_weight="weight")
    evaluation = of_one if task == "binary" else evaluate(examples, label, [save_model(task)])
    check(task, read_metrics(evaluation.uri, None), held_out, 1.0, weighted=True)


def test_what_compares_labels_is_not_measured_where_they_are_all_the_same(of_both):
    metrics = read_metrics(of_both.uri, CANDIDATE)
    assert "auc" in metrics["span=1"] and "auc" not in metrics["span=3"]


@pytest.mark.parametrize("model", [CANDIDATE, CHAMPION])
def test_metrics_that_are_not_there_are_no_empty_metrics(of_one, model, tmp_path):
    with pytest.raises(RetrainError, match=f"{of_one.uri}: it holds no metrics of {model}"):
        read_metrics(of_one.uri, model)
    with pytest.raises(RetrainError, match=str(tmp_path)):
        read_metrics(str(tmp_path), model)


@pytest.mark.parametrize("task", LABELS)
def test_tfma_takes_the_classes_that_are_named(task):
    names = [name for name, metric in METRICS.items() if task in metric.tasks]
    config = eval_config(Label(name="y", task=task), names, [], baseline=True)
    found = {
        instance.name: type(instance)
        for _, _, instance in metric_specs.keys_and_metrics_from_specs(config, config.metrics_specs)
    }
    for name, path in measured(task, names).items():
        if "." in path:
            assert f"{found[name].__module__}.{found[name].__name__}" == path


def moments(labels, predictions, weights):
    made = Moments()
    for parts in zip(labels, predictions, weights, strict=True):
        made.add(*parts)
    return made


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_moments_do_not_depend_on_the_parts_that_they_are_merged_of(parts):
    rng = np.random.default_rng(parts)
    labels = 1e9 + rng.normal(size=70)
    found, weights = labels + 0.5 * rng.normal(size=70), rng.integers(0, 3, 70).astype(float)
    merged = Moments()
    for part in np.split(np.arange(70), parts):
        merged.merge(moments(labels[part], found[part], weights[part]))
    assert merged.r2() == pytest.approx(sk.r2_score(labels, found, sample_weight=weights), abs=1e-6)
    assert merged.label_variance() == pytest.approx(variance(labels, weights), rel=1e-6)
    assert merged.mae() == pytest.approx(sk.mean_absolute_error(labels, found, sample_weight=weights))


def test_equal_labels_have_no_variance_and_no_r2():
    made = moments([0.1] * 9, [0.2] * 9, [0.3] * 9)
    made.merge(moments([0.1] * 5, [0.2] * 5, [7.0] * 5))
    assert made.label_variance() == 0.0 and math.isnan(made.r2()) and made.mae() == pytest.approx(0.1)


def test_a_prediction_that_is_no_number_makes_no_number():
    made = moments([1.0, 2.0], [math.nan, 2.0], [1.0, 1.0])
    assert math.isnan(made.mae()) and math.isnan(made.rmse()) and math.isnan(made.r2())
    outcomes = Outcomes()
    outcomes.add(b"a", np.array([b"a", b"b"], object), np.array([math.nan, math.nan]), 1.0)
    assert math.isnan(outcomes.log_loss()) and outcomes.accuracy() == 0.0


def test_without_examples_or_with_weights_of_0_nothing_is_measured():
    outcomes = Outcomes()
    outcomes.add(b"a", np.array([b"a"], object), np.array([1.0]), 0.0)
    for made in (Moments(), moments([1.0, 2.0], [1.0, 2.0], [0.0, 0.0])):
        assert all(math.isnan(v) for v in (made.mae(), made.rmse(), made.r2(), made.label_variance()))
    for made in (Outcomes(), outcomes):
        assert all(math.isnan(v) for v in (made.accuracy(), made.balanced_accuracy(), made.log_loss()))


def test_a_class_that_the_model_does_not_know_is_never_right_and_costs_what_an_impossible_one_does():
    classes = np.array([b"only"], object)
    unknown, known = Outcomes(), Outcomes()
    unknown.add(b"other", classes, np.array([1.0]), 1.0)
    known.add(b"only", classes, np.array([1.0]), 3.0)
    assert unknown.accuracy() == 0.0 and unknown.log_loss() == pytest.approx(-math.log(1e-7))
    known.merge(unknown)
    assert (known.accuracy(), known.balanced_accuracy()) == (0.75, 0.5)
    assert known.log_loss() == pytest.approx(-math.log(1e-7) / 4)
