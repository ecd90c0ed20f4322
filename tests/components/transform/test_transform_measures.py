"""What statistics tell of new data, against what can be counted by hand."""

import math

import pytest
from column_statistics import number, of, text

from components.features import Bucketized, Categorical, Hashed, Numeric, Tensor, Text
from components.transform.measures import oov_share, spread, unknown

X = Numeric(name="x")


@pytest.mark.parametrize(
    "feature", [X, Bucketized(name="x"), Tensor(name="x", shape=[1, 1, 2])], ids=lambda f: f.type
)
def test_mean_and_deviation_are_tfdvs(feature):
    found = spread(feature, of(number("x", [(0, 1, 5), (1, 9, 5)], mean=2.5, deviation=3.0)))
    assert (found.mean, found.deviation, found.low, found.high) == (2.5, 3.0, 0, 9)


def test_of_a_logarithm_they_are_those_of_the_histogram_as_the_graph_takes_it():
    found = spread(
        Numeric(name="x", log=True),
        of(number("x", [(-4, -1, 3), (math.e - 1, math.e - 1, 1)], mean=7.0, deviation=8.0)),
    )
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0, 1))
    assert found.deviation == pytest.approx(math.sqrt(0.25 * 0.75))


def test_even_values_have_their_deviation():
    found = spread(Numeric(name="x", log=True), of(number("x", [(0, math.e**12 - 1, 7)])))
    assert (found.mean, found.deviation) == pytest.approx((6, 12 / math.sqrt(12)))


@pytest.mark.parametrize(
    ("low", "high", "share"),
    [(0, 40, 0), (0, 19, 0.5), (0, 20, 0), (15, 40, 0.5), (0, 5, 0.5), (50, 60, 1), (-9, -5, 1)],
)
def test_what_is_outside_of_a_range_for_certain_counts(low, high, share):
    found = spread(X, of(number("x", [(0, 10, 5), (20, 30, 5)])))
    assert found.outside(low, high) == pytest.approx(share)


def test_one_large_amount_does_not_take_the_last_tenth_along():
    pieces = [(i, i + 1, 10) for i in range(9)] + [(9, 1000, 10)]
    column = number(
        "x", pieces, wide=[(0, 100, 99), *((i, i + 100, i // 900) for i in range(100, 1000, 100))]
    )
    assert spread(X, of(column)).outside(0, 20) == pytest.approx(0.01)


def test_columns_of_one_tensor_are_one():
    levels = Tensor(name="levels", columns=["low", "high"], shape=[1, 1, 2])
    found = spread(
        levels,
        of(
            number("low", [(0, 2, 30)], mean=1.0, deviation=0.0),
            number("high", [(9, 9, 10)], mean=9.0, deviation=0.0),
        ),
    )
    assert (found.mean, found.deviation) == pytest.approx((3, math.sqrt(0.75 * 4 + 0.25 * 36)))
    assert found.outside(0, 2) == pytest.approx(0.25)
    assert found.outside(0, 9) == 0


def test_integers_that_are_counted_are_numbers_too():
    found = spread(X, of(text("x", {"4": 3, "-8": 1})))
    assert (found.mean, found.low, found.high) == (1, -8, 4)


@pytest.mark.parametrize("columns", [{}, of(number("x", []))], ids=["no_column", "no_value"])
def test_without_values_there_is_nothing_to_tell(columns):
    assert spread(X, columns) is None
    assert oov_share(Categorical(name="x"), columns, ["a"]) is None
    assert unknown("x", columns, ["a"]) == []


def test_values_that_are_not_finite_do_not_count():
    found = spread(X, of(number("x", [(-math.inf, 0, 1), (0, 4, 8), (4, math.inf, 1)], mean=math.inf)))
    assert (found.mean, found.low, found.high) == (2, 0, 4)


def test_the_share_out_of_vocabulary_is_of_values_and_not_of_terms():
    columns = of(text("x", {"a": 6, "çyd": 3, "__BYTES_VALUE__": 1}))
    assert oov_share(Categorical(name="x"), columns, {"a", "b"}) == pytest.approx(0.4)
    assert unknown("x", columns, {"a"}) == ["çyd", "__BYTES_VALUE__"]


@pytest.mark.parametrize(
    "feature",
    [Categorical(name="x", separator="|"), Text(name="x"), Hashed(name="x"), X],
    ids=["separator", "text", "hashed", "number"],
)
def test_what_statistics_cannot_tell_is_not_told(feature):
    assert oov_share(feature, of(text("x", {"1": 6})), {"2"}) is None
    assert spread(Categorical(name="x"), of(number("x", [(0, 1, 1)]))) is None
