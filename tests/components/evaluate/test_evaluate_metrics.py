"""What the stock Evaluator measures with our configuration, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, log_loss, roc_auc_score

from components.errors import RetrainError
from components.evaluate.component import CANDIDATE, CHAMPION, read_metrics

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


def expected(rows, weight):
    labels = np.array([row["big"] for row in rows])
    scores = 1 / (1 + np.exp(-weight * np.array([row["fare"] or 0.0 for row in rows])))
    values = {
        "example_count": len(rows),
        "mean_label": labels.mean(),
        "accuracy": accuracy_score(labels, scores > 0.5),
        "log_loss": log_loss(labels, scores, labels=[0, 1]),
    }
    if 0 < labels.mean() < 1:
        # TFMA interpolates both curves over 10,000 thresholds.
        values["auc"] = roc_auc_score(labels, scores)
        values["pr_auc"] = average_precision_score(labels, scores)
    return values


def check(metrics, rows, weight):
    slices = by_slice(rows)
    assert metrics.keys() == slices.keys() and "company=ann,span=3" in slices
    for name, members in slices.items():
        wanted = expected(members, weight)
        tolerance = {"auc": 0.01, "pr_auc": 0.03}
        assert metrics[name] == {
            metric: pytest.approx(value, abs=tolerance.get(metric, 1e-5)) for metric, value in wanted.items()
        }, name
    assert "auc" in metrics["span=1"] and "auc" not in metrics["span=3"]  # where all labels are 1


def test_candidate_and_champion_are_told_apart(of_both, held_out):
    check(read_metrics(of_both.uri, CANDIDATE), held_out, 1.0)
    check(read_metrics(of_both.uri, CHAMPION), held_out, -1.0)


def test_a_model_alone(of_one, held_out):
    check(read_metrics(of_one.uri, None), held_out, 1.0)


@pytest.mark.parametrize("model", [CANDIDATE, CHAMPION])
def test_metrics_that_are_not_there_are_no_empty_metrics(of_one, model, tmp_path):
    with pytest.raises(RetrainError, match=f"{of_one.uri}: it holds no metrics of {model}"):
        read_metrics(of_one.uri, model)
    with pytest.raises(RetrainError, match=str(tmp_path)):
        read_metrics(str(tmp_path), model)
