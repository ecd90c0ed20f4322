"""When the champion's graph is used again, and what is said of it."""

import pytest
from column_statistics import number, of, text

from components.features import Categorical, Numeric, to_json
from components.transform import policy as policies
from components.transform.policy import Fit, GraphPolicy, Measure, changes, decide, describe, measure

AUTO = GraphPolicy()
FEATURES = [Numeric(name="x"), Categorical(name="word")]
LABEL = {"name": "y", "task": "binary", "log": False, "example_weight": None}
MADE = {"features": to_json(FEATURES), "label": LABEL, "columns": {"x": "FLOAT"}, "code": "1"}
TERMS = {"word": {"a", "b"}}
FIT = Fit(MADE, {"x": {"mean": 10.0, "deviation": 2.0, "low": 0.0, "high": 20.0}}, {"word": 0.05})


def look(buckets=((8, 12, 1),), mean=10.0, deviation=2.0, words=None, fit=FIT):
    """What is measured of numbers and words: (feature, measure) -> value."""
    columns = of(number("x", buckets, mean, deviation), text("word", words or {"a": 1}))
    return {(m.feature, m.measure): m for m in measure(fit, FEATURES, columns, TERMS, AUTO)}


def test_like_data_has_nothing_that_differs():
    found = look()
    assert {key: one.value for key, one in found.items()} == {
        ("x", "out_of_range"): 0.0,
        ("x", "mean_shift"): 0.0,
        ("x", "scale_change"): 1.0,
        ("word", "oov_increase"): 0.0,
    }
    assert {one.limit for one in found.values()} == {0.02, 0.05, 0.5, 2.0}


@pytest.mark.parametrize(
    ("what", "key", "value", "said"),
    [
        (
            {"words": {"a": 6, "c": 4}},
            ("word", "oov_increase"),
            0.35,
            "word: 40.0% of the values are out of its vocabulary, 5.0% when the graph was fitted",
        ),
        (
            {"buckets": [(10, 20, 1), (21, 30, 1)]},
            ("x", "out_of_range"),
            0.5,
            "x: at least 50.0% of the values are outside of 0 to 20, its range when the graph was fitted",
        ),
        (
            {"mean": 8.5},
            ("x", "mean_shift"),
            0.75,
            "x: its mean has moved by 0.75 standard deviations since the graph was fitted",
        ),
        (
            {"deviation": 0.5},
            ("x", "scale_change"),
            4.0,
            "x: its standard deviation is 0.25 times that which the graph was fitted on",
        ),
        ({"deviation": 8.0}, ("x", "scale_change"), 4.0, "x: its standard deviation is 4.00 times"),
    ],
    ids=["oov", "range", "mean", "narrower", "wider"],
)
def test_each_difference_is_measured_and_said(what, key, value, said):
    found = look(**what)
    assert found[key].value == pytest.approx(value) and said in found[key].text
    assert next(iter(found)) == key  # the one nearest to its limit comes first


def test_fewer_strange_values_than_at_the_fit_are_none_too_many():
    assert look(words={"a": 1}, fit=Fit(MADE, FIT.numbers, {"word": 0.9}))["word", "oov_increase"].value == 0


def test_a_number_that_had_no_value_or_only_one_is_out_of_range_with_the_first_other():
    none = look(fit=Fit(MADE, {}, {}))
    assert none["x", "out_of_range"].value == 1 and "no value" in none["x", "out_of_range"].text
    constant = Fit(MADE, {"x": {"mean": 8.0, "deviation": 0.0, "low": 8.0, "high": 8.0}}, {})
    assert look([(8, 8, 1), (8.5, 9, 3)], fit=constant)["x", "out_of_range"].value == 0.75
    assert look([(8, 8, 4)], 8.0, 0.0, fit=constant)["x", "out_of_range"].value == 0
    assert ("x", "mean_shift") not in look(fit=constant)
    assert ("x", "scale_change") not in look([(8, 8, 4)], 8.0, 0.0)  # constant only now


def test_a_vocabulary_that_nothing_was_there_for_has_no_term():
    assert look(words={"c": 3}, fit=Fit(MADE, FIT.numbers, {}))["word", "oov_increase"].value == 1


def test_a_refit_unites_the_ranges_and_takes_the_rest_from_the_new_spans():
    columns = of(number("x", [(15, 25, 1)], 20.0, 1.0), text("word", {"a": 1, "c": 3}))
    fit = describe(MADE, FEATURES, columns, TERMS, before=FIT)
    assert fit.numbers == {"x": {"mean": 20.0, "deviation": 1.0, "low": 0.0, "high": 25.0}}
    assert fit.oov == {"word": 0.75}
    assert describe(MADE, FEATURES, columns, TERMS, before=None).numbers["x"]["low"] == 15.0
    assert describe(MADE, FEATURES, of(), TERMS, before=FIT).numbers == FIT.numbers  # nothing new of it
    logs = [Numeric(name="x", log=True), FEATURES[1]]
    assert (
        describe(MADE, logs, columns, TERMS, before=FIT).numbers["x"]["low"] > 2.0
    )  # it is another number now


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"features": to_json(FEATURES[:1])}, ["the feature word is gone"]),
        ({"features": to_json([*FEATURES, Numeric(name="z")])}, ["the feature z is new"]),
        ({"features": to_json([Numeric(name="x", log=True), FEATURES[1]])}, ["the feature x has changed"]),
        ({"features": to_json(FEATURES[::-1])}, ["the order of the features has changed"]),
        ({"label": {**LABEL, "task": "regression"}}, ["label.task has changed"]),
        ({"columns": {"x": "INT"}}, ["the column x was FLOAT in the schema, is INT"]),
        ({"columns": {"x": "FLOAT", "z": "INT"}}, ["the column z was none in the schema, is INT"]),
        ({"code": "2"}, ["the code of the preprocessing has changed"]),
        ({}, []),
    ],
    ids=["gone", "new", "changed", "order", "label", "type", "column", "code", "nothing"],
)
def test_what_made_a_graph_is_held_against_what_would_now(other, said):
    assert changes(MADE, {**MADE, **other}) == said


NEAR, BEYOND = (Measure("x", "mean_shift", value, 0.5, f"x is {value} off") for value in (0.4, 0.6))


@pytest.mark.parametrize(
    ("policy", "changed", "measures", "action", "reasons"),
    [
        ("auto", [], [NEAR], "reused", ["the champion's graph fits; nearest to its limit: x is 0.4 off"]),
        ("auto", [], [], "reused", ["the champion's graph fits"]),
        ("auto", [], [BEYOND, NEAR], "refitted", ["x is 0.6 off (transform.max_mean_shift 0.5)"]),
        ("auto", ["a class"], [BEYOND], "refitted", ["a class"]),
        ("reuse", [], [BEYOND], "reused", ["transform.policy is reuse"]),
        ("reuse", ["a class"], [], "refitted", ["a class"]),  # the head must grow
        ("refit", [], [NEAR], "refitted", ["transform.policy is refit"]),
    ],
    ids=["fits", "unmeasured", "beyond", "changed", "reuse", "reuse_changed", "refit"],
)
def test_the_decision(policy, changed, measures, action, reasons):
    decision = decide(GraphPolicy(policy=policy), changed, measures, reuses=3)
    assert (decision.action, decision.reasons) == (action, reasons)
    assert decision.reuses == (4 if action == "reused" else 0)
    assert decision.to_json()["measures"] == [
        {"feature": "x", "measure": "mean_shift", "value": m.value, "limit": 0.5} for m in measures
    ]


def test_after_so_many_versions_it_is_fitted_anew():
    policy = GraphPolicy(max_reuses=2)
    assert [decide(policy, [], [], n).action for n in (0, 1, 2)] == ["reused", "reused", "refitted"]
    assert decide(policy, [], [], 2).reasons == [
        "2 versions have used the graph again (transform.max_reuses)"
    ]


def test_every_limit_is_named_as_its_key():
    assert {f"max_{one.measure}" for one in look().values()} < policies.GraphPolicy.model_fields.keys()
