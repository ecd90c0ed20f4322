"""What the model learns, by task, and what of it a warm start keeps."""

import numpy as np
import pytest

from components.features import LABEL, LABEL_MEAN, LABEL_SCALE, Numeric
from components.label import Label, LabelState

pytestmark = pytest.mark.xdist_group("transform_kinds")

CLASSES = ["red", "grün", "blue", "red", "blue", "red", "red", "grün", "grün", "top 1"]
FARES = [2.0, 4.0, 6.0, 8.0, 0.0, -0.5]


@pytest.fixture(scope="module")
def fitted(fit, tmp_path_factory):
    """label column's values, label, what is kept -> the fitted graph."""

    def fitted(values, label, state=None):
        rows = [{"x": float(i), "y": value} for i, value in enumerate(values)]
        kind = "BYTES" if label.task == "multiclass" else "FLOAT"
        return fit(
            {"label": rows},
            tmp_path_factory.mktemp("label"),
            types={"x": "FLOAT", "y": kind},
            features=[Numeric(name="x")],
            label=label,
            label_state=state and state.model_dump(),
        )["label"]

    return fitted


@pytest.fixture(scope="module")
def colours(fitted):
    return fitted(CLASSES, Label(name="y", task="multiclass"))


def test_classes_are_in_the_order_of_their_frequency(colours):
    assert colours.terms("label") == ["red", "grün", "blue", "top 1"]
    learned = colours(colours.rows)[LABEL]
    assert learned.tolist() == [0, 1, 2, 0, 2, 0, 0, 1, 1, 3] and learned.dtype == np.int64


def test_a_class_that_no_row_had_is_minus_one(colours):
    assert colours([{"y": "pink"}, {"y": "Red"}])[LABEL].tolist() == [-1, -1]


def test_the_champions_classes_come_first_and_stay(fitted):
    known = ["blue", "gone", "red", b"\xff".decode("utf-8", "surrogateescape")]
    graph = fitted(CLASSES, Label(name="y", task="multiclass"), LabelState(classes=known))
    assert graph.terms("label") == [*known, "grün", "top 1"]
    assert graph(graph.rows)[LABEL].tolist() == [2, 4, 0, 2, 0, 2, 2, 4, 4, 5]


def test_a_number_is_a_z_score_and_its_scale_is_told(fitted):
    graph = fitted(FARES, Label(name="y", task="regression"))
    out = graph(graph.rows)
    np.testing.assert_allclose(out[LABEL], (FARES - np.mean(FARES)) / np.std(FARES), rtol=1e-5)
    assert out[LABEL_MEAN] == pytest.approx([np.mean(FARES)] * 6)
    assert out[LABEL_SCALE] == pytest.approx([np.std(FARES)] * 6)
    served = graph([{"x": 1.0}, {}, {}], without=["y"])  # what a request needs to answer in the label's unit
    assert served[LABEL_MEAN] == pytest.approx([np.mean(FARES)] * 3) and LABEL not in served


def test_the_logarithm_of_a_number_is(fitted):
    graph = fitted(FARES, Label(name="y", task="regression", log=True))
    out, logs = graph(graph.rows), np.log1p(FARES)
    np.testing.assert_allclose(out[LABEL], (logs - logs.mean()) / logs.std(), rtol=1e-5)
    assert out[LABEL_MEAN][0] == pytest.approx(logs.mean())
    assert np.isfinite(graph([{"y": -1.0}, {"y": -9.0}])[LABEL]).all()  # no number has such a logarithm


def test_a_number_that_is_always_the_same(fitted):
    graph = fitted([7.0] * 4, Label(name="y", task="regression"))
    out = graph([{"y": 7.0}, {"y": 9.0}])
    assert out[LABEL].tolist() == [0.0, 2.0]
    assert out[LABEL_MEAN].tolist() == [7.0, 7.0] and out[LABEL_SCALE].tolist() == [1.0, 1.0]


def test_the_champions_scale_is_kept(fitted):
    graph = fitted(FARES, Label(name="y", task="regression"), LabelState(mean=100.0, scale=10.0))
    assert graph([{"y": 120.0}, {"y": 95.0}])[LABEL].tolist() == [2.0, -0.5]
    served = graph([{}], without=["y"])
    assert served[LABEL_MEAN].tolist() == [100.0] and served[LABEL_SCALE].tolist() == [10.0]
