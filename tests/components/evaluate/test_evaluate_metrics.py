"""What the stock Evaluator measures with our configuration, against scikit-learn and numpy."""

import numpy as np
import pytest
from sklearn import metrics as sk
from tensorflow_model_analysis.metrics import metric_specs
from tiny_models import COLOURS, LABELS, MEAN_PRICE, PRICE

from components.errors import RetrainError
from components.evaluate.component import CANDIDATE, CHAMPION, eval_config, read_metrics
from components.evaluate.logic import METRICS, measured
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
        # The model's sigmoids of equal fares differ in the last bit, by their place in the batch: no ties.
        values["auc"] = pytest.approx(sk.roc_auc_score(labels, scores, sample_weight=weights), abs=2e-3)
        # A sum of steps; between them ours is a curve, and lower.
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
