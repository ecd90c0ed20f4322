import numpy as np
import pyarrow as pa
import pytest

from components.errors import RetrainError
from pipeline.init.power import Target, power, straight
from pipeline.init.target import find_target, identifier, percent
from tests.pipeline.init_tables import scanned

RANDOM = np.random.default_rng(0)


def found(values, task=None, text=True, name="y"):
    return find_target(scanned({name: values, "x": ["1"] * len(values)}, name, text=text), name, task, 0.5)


@pytest.mark.parametrize(
    ("values", "task", "name", "expression", "kind"),
    [
        ([0, 1] * 50, "binary", "y", None, "INT"),
        (["0.0", "1.0"] * 50, "binary", "y", None, "INT"),
        ([1, 1, 2] * 50, "binary", "y_is_2", "`y` == 2", "INT"),
        ([-1, 1] * 50, "binary", "y_is_1", "`y` == 1", "INT"),
        (["DOWN", "UP", "UP"] * 50, "binary", "y_is_UP", "`y` == 'UP'", "BYTES"),
        (["no", "yes", "yes"] * 50, "binary", "y_is_yes", "`y` == 'yes'", "BYTES"),
        (["stay", "stay", "it's"] * 50, "binary", "y_is_it_s", "`y` == 'it\\'s'", "BYTES"),
        (["a", "b", "c"] * 50, "multiclass", "y", None, "BYTES"),
        ([0, 1, 2] * 50, "multiclass", "y", None, "INT"),
        ([3, 4, 5, 6, 8] * 50, "multiclass", "y", None, "INT"),
        (list(range(25)) * 5, "regression", "y", None, "INT"),
        ([10, 200, 3000] * 50, "regression", "y", None, "INT"),
        ([0.5, 1.5, 2.5] * 50, "regression", "y", None, "FLOAT"),
    ],
)
def test_the_task_is_what_the_label_says(values, task, name, expression, kind):
    result = found(values)
    label = result.label
    assert (label.task, label.name, label.expression, result.kind) == (task, name, expression, kind)


def test_the_expression_gives_the_target():
    from components.expression import parse

    values = ["stay", "stay", "it's"] * 50
    result = found(values)
    computed = parse(result.label.expression).evaluate({"y": pa.array(values)})
    assert computed.to_pylist() == result.target.values.tolist()
    assert result.counts == {"0": 100, "1": 50}


def test_a_task_can_be_given():
    assert found([0, 1, 2] * 50, "regression").label.task == "regression"
    assert found(["a", "b"] * 50, "multiclass").label.task == "multiclass"
    assert found([0.0, 1.0, 2.0] * 50, "multiclass", text=False).kind == "INT"


def test_amounts_are_learned_by_their_logarithm():
    amounts = RANDOM.lognormal(3, 1.5, 500)
    assert found(amounts.tolist()).label.log
    assert not found(RANDOM.normal(100, 10, 500).tolist()).label.log
    assert not found((-amounts).tolist()).label.log


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        ([""] * 50, None, "is empty in all 50 rows"),
        (["7"] * 50, None, "is '7' in every row"),
        ([1], None, "there is 1 row .* at least 20 are needed"),
        ([1, 0] * 5 + [""] * 3, None, "there are 10 rows"),
        ([1, 0] * 20 + [""] * 60, None, "missing in 60 of 100 rows"),
        ([f"c{i}" for i in range(3_000)], None, "3,000 different values.*id or free text.*'other'"),
        ([f"c{i}" for i in range(10_000)], None, "about 10,000 different values"),
        (list(range(3_000)), "multiclass", "3,000 different values.*--task regression"),
        (["a", "b"] * 50, "regression", "is text, such as 'a'"),
        ([1, 2, 3] * 50, "binary", "has 3 values"),
        ([0.5, 1.5] * 50, "multiclass", "has fractions, such as 0.5"),
    ],
)
def test_labels_that_cannot_be_learned(values, task, message):
    with pytest.raises(RetrainError, match=message):
        found(values, task)


def test_a_label_of_lists_is_refused():
    lists = pa.array([[1, 2]] * 50)
    with pytest.raises(RetrainError, match="holds lists"):
        find_target(scanned({"y": ["1"] * 50, "l": lists}, "y"), "l", None, 0.5)


def test_rare_classes_are_told():
    (note,) = found(["a"] * 50 + ["b"] * 50 + ["c"] * 3).notes
    assert "1 of 3 classes have fewer than 10 rows ('c')" in note


def test_rows_without_a_label_are_counted():
    result = found([0, 1] * 50 + ["", "NA"] * 3)
    assert result.missing == 6
    assert np.isnan(result.target.values[-6:]).all()


def target(values):
    return Target("binary", np.array(values, dtype=np.float64), 2)


def test_the_power_of_a_column_is_that_of_a_model_on_unseen_rows():
    from sklearn.metrics import roc_auc_score

    x = RANDOM.normal(size=20_000)
    y = (x + RANDOM.normal(size=20_000) > 0).astype(float)
    expected = roc_auc_score(y, x)
    assert power(pa.array(x), target(y), as_category=False) == pytest.approx(expected, abs=0.01)
    assert straight(pa.array(x), target(y)) == pytest.approx(expected, abs=1e-6)
    noise = pa.array(RANDOM.normal(size=20_000))
    assert power(noise, target(y), as_category=False) == pytest.approx(0.5, abs=0.02)


def test_values_seen_once_foretell_nothing():
    y = RANDOM.integers(0, 2, 5_000)
    assert power(pa.array([f"u{i}" for i in range(5_000)]), target(y), as_category=True) < 0.52


def test_power_of_the_other_tasks():
    classes = RANDOM.integers(0, 3, 5_000).astype(float)
    names = pa.array([f"c{int(c)}" for c in classes])
    assert power(names, Target("multiclass", classes, 3), as_category=True) == 1.0
    x = RANDOM.normal(size=5_000)
    line = Target("regression", 3 * x - 1)
    assert power(pa.array(x), line, as_category=False) > 0.9995
    assert power(names, line, as_category=True) == pytest.approx(0.0, abs=0.02)


def test_missing_is_a_value_that_can_leak():
    y = np.array([0.0, 1.0] * 500)
    values = pa.array([None if label else 3.5 for label in y])
    assert power(values, target(y), as_category=False) == 1.0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Trip Seconds", "trip_seconds"),
        ("größe", "grosse"),
        ("1st", "c_1st"),
        ("!!", "c"),
        ("年", "c"),
        ("mean radius", "mean_radius"),
    ],
)
def test_identifiers(text, name):
    assert identifier(text) == name


@pytest.mark.parametrize(
    ("share", "text"), [(0.5, "50 %"), (0.034, "3 %"), (0.003, "0.3 %"), (0, "0 %"), (1, "100 %")]
)
def test_percent(share, text):
    assert percent(share) == text
