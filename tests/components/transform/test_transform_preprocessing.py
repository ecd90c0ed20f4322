"""The preprocessing as a transform graph that TensorFlow Transform really fitted."""

import numpy as np
import pytest
import tensorflow as tf

from components.features import LABEL, NUMERIC, NUMERIC_MEAN, NUMERIC_MISSING, NUMERIC_SCALE, Numeric
from components.label import Label

pytestmark = pytest.mark.xdist_group("transform_graph")

NUMBERS = ["fare", "miles", "passengers", "tolls"]  # in the order of the features


def values(rows, column):
    return np.array([np.nan if row[column] is None else row[column] for row in rows], np.float64)


@pytest.mark.parametrize("column", ["fare", "miles", "passengers"])
def test_numbers_become_z_scores_of_the_values_that_are_there(before, column):
    x = values(before.rows, column)
    assert 0 < np.isnan(x).sum() < len(x)
    if column == "fare":
        x = np.log1p(np.maximum(x, 0.0))
    expected = (x - np.nanmean(x)) / np.nanstd(x)
    scaled = before(before.rows)[NUMERIC][:, NUMBERS.index(column)]
    np.testing.assert_allclose(scaled, np.nan_to_num(expected, nan=0.0), atol=1e-4)


@pytest.mark.parametrize("column", NUMBERS)
def test_a_z_score_is_the_value_less_the_mean_by_the_scale_exactly(before, column):
    out, i = before(before.rows), NUMBERS.index(column)
    mean, scale = out[NUMERIC_MEAN][:, i], out[NUMERIC_SCALE][:, i]
    assert (mean == mean[0]).all() and (scale == scale[0]).all()
    x = values(before.rows, column).astype(np.float32)
    if column == "fare":
        x = tf.math.log1p(tf.maximum(x, 0.0)).numpy()
    if column == "tolls":  # no row has one
        assert mean[0] == scale[0] == 0.0
    else:
        np.testing.assert_array_equal(out[NUMERIC][:, i], np.nan_to_num((x - mean) / scale))


def test_the_constants_are_the_same_without_any_value(before):
    (mean,), (row, *_) = before([{}])[NUMERIC_MEAN], before(before.rows)[NUMERIC_MEAN]
    np.testing.assert_array_equal(mean, row)


def test_a_flag_tells_which_numbers_are_missing(before):
    flags = before(before.rows)[NUMERIC_MISSING]
    np.testing.assert_array_equal(flags, np.stack([np.isnan(values(before.rows, c)) for c in NUMBERS], 1))


def test_nan_is_missing_and_below_zero_has_the_logarithm_of_zero(before):
    rows = [{"fare": float("nan")}, {}, {"fare": -5.0}, {"fare": 0.0}, {"fare": 1.0}]
    out = before(rows)
    assert out[NUMERIC_MISSING][:, 0].tolist() == [1, 1, 0, 0, 0]
    z = out[NUMERIC][:, 0]
    assert z[0] == z[1] == 0.0 and z[2] == z[3] < z[4]


def test_a_number_that_no_row_had_is_not_one_later(before):
    out = before([{"tolls": 3.0}, {"tolls": None}])
    assert out[NUMERIC][:, NUMBERS.index("tolls")].tolist() == [0.0, 0.0]
    assert out[NUMERIC_MISSING][:, NUMBERS.index("tolls")].tolist() == [0.0, 1.0]


def test_terms_are_indexed_by_frequency_and_missing_is_one(before):
    terms = ["ann", "bob ", "<missing>", "çyd", "dan"]
    assert before.terms("company") == terms
    index = before([{"company": None if term == "<missing>" else term} for term in terms])["company"]
    assert index.tolist() == [0, 1, 2, 3, 4] and index.dtype == np.int64


def test_other_terms_share_the_buckets_behind_the_vocabulary(before):
    strangers = [{"company": f"company {i}"} for i in range(60)]
    index = before(strangers)["company"]
    assert set(index.tolist()) == {5, 6, 7}
    assert before(strangers)["company"].tolist() == index.tolist()
    # A line feed cannot be in a vocabulary of lines; a term that ends in a space can, and is another.
    told = before([{"company": "d\nd"}, {"company": "bob"}])["company"]
    assert (told >= 5).all()


def test_integers_are_terms_too_and_the_largest_vocabulary_is_kept(before):
    assert before.terms("area_code") == ["7", "-8", "9"]
    rows = [{"area": area} for area in (7, -8, 9, 70, None)]
    assert before(rows)["area_code"].tolist() == [0, 1, 2, 3, 3]


def test_a_vocabulary_that_no_term_is_frequent_enough_for(before):
    index = before([{"rare": "q"}, {"rare": None}, {"rare": "w"}])["rare"]
    assert set(index.tolist()) == {len(before.terms("rare"))}  # the one bucket behind it


def test_small_integers_are_their_own_index(before):
    hours = [1, 2, 3, 4, 0, 5, -(2**63), 2**63 - 1, None]
    index = before([{"hour": hour} for hour in hours])["hour"]
    assert index.tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 4] and index.dtype == np.int64


def test_a_binary_label_passes_through(before):
    label = before(before.rows)[LABEL]
    assert label.tolist() == [row["big"] for row in before.rows] and label.dtype == np.float32


def test_a_request_has_no_label_and_gives_the_same_inputs(before):
    served, trained = before(before.rows, without=["big"]), before(before.rows)
    inputs = {NUMERIC, NUMERIC_MISSING, "company", "area_code", "hour", "rare"}
    assert set(served) == inputs | {NUMERIC_MEAN, NUMERIC_SCALE} == set(trained) - {LABEL}
    for name, array in served.items():
        np.testing.assert_array_equal(array, trained[name])


def test_only_the_first_of_several_values_counts(before):
    out = before([{"hour": [3, 1], "company": ["dan", "ann"], "tolls": []}])
    assert out["hour"].tolist() == [2] and out["company"].tolist() == [4]
    assert out[NUMERIC_MISSING][0, NUMBERS.index("tolls")] == 1.0


def test_refitting_moves_terms_and_nothing_else(before, after):
    assert after.terms("company") == ["eve", "çyd", "bob ", "fay", "<missing>", "gus", "ann", "hal"]
    assert after.terms("area_code") == ["12", "9", "7"]
    a, b = before(before.rows), after(before.rows)
    for name in (NUMERIC, NUMERIC_MISSING, "hour", "rare"):
        np.testing.assert_array_equal(a[name], b[name])
    assert (a["company"] != b["company"]).any()


def test_a_column_of_one_value_says_nothing_until_the_graph_is_fitted_anew(fit, tmp_path):
    """In float32 such a column has a deviation of millionths, and 0.5 would lie 50,000 of them away."""
    rows = [{"level": 0.422915, "fare": float(i % 7), "big": i % 2} for i in range(20_000)]
    types = {"level": "FLOAT", "fare": "FLOAT", "big": "INT"}
    features = [Numeric(name="level"), Numeric(name="fare")]
    graph = fit({"flat": rows}, tmp_path, types=types, features=features, label=Label(name="big"))["flat"]
    out = graph([{"level": 0.5, "fare": 3.0, "big": 0}, {"fare": 0.0, "big": 0}])
    assert out[NUMERIC_SCALE][0, 0] == 0 and out[NUMERIC_SCALE][0, 1] == pytest.approx(2.0, abs=0.02)
    assert out[NUMERIC][:, 0].tolist() == [0, 0]
