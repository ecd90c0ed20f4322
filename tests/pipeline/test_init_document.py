import numpy as np
import pytest
import yaml

from pipeline.config import Deployment
from pipeline.init.document import feature_names, write_document
from pipeline.init.roles import Role, find_roles
from pipeline.init.sizes import fit_sizes
from pipeline.init.target import find_target
from tests.pipeline.init_tables import scanned

RANDOM = np.random.default_rng(0)


def planned(rows, label=None, spans=None, **columns):
    """Sizes, roles and label of a table with these columns beside a number."""
    label = RANDOM.integers(0, 2, rows).tolist() if label is None else label
    numbers = RANDOM.normal(size=rows).tolist()
    profile = scanned({"x": numbers, **columns, "y": label}, sample=rows)
    found = find_target(profile, "y", None, 0.5)
    roles = find_roles(profile, found, "y", None)
    return fit_sizes(profile, found, roles, spans or [rows]), roles, found


@pytest.mark.parametrize(
    ("rows", "model"), [(178, "linear"), (569, "linear"), (1_797, "mlp"), (45_000, "mlp")]
)
def test_training_is_a_few_thousand_steps_whatever_the_rows(rows, model):
    sizes, _, _ = planned(rows)
    assert sizes.model["type"] == model
    steps = rows * (1 - sizes.eval_share) / sizes.training["batch_size"] * sizes.training["epochs"]
    assert 1_000 <= steps <= 5_000


def test_categories_make_the_model_wide_and_deep():
    rows = 5_000
    sizes, _, _ = planned(rows, city=RANDOM.choice(["a", "b"], rows).tolist())
    assert sizes.model["type"] == "wide_and_deep"


@pytest.mark.parametrize("rows", [20, 35, 178, 5_000])
def test_what_is_held_out_is_enough_to_be_judged(rows):
    sizes, _, _ = planned(rows)
    assert sizes.min_examples <= sizes.held_out
    assert sizes.replay["holdout_per_span"] >= sizes.min_examples


@pytest.mark.parametrize(
    ("label", "metric", "floor"),
    [
        ([0] * 90 + [1] * 10, "auc", 0.55),
        (["a"] * 60 + ["b"] * 30 + ["c"] * 10, "accuracy", 0.62),
        (np.random.default_rng(3).normal(size=100).tolist(), "r2", 0.0),
    ],
)
def test_the_floor_is_above_what_looks_at_nothing(label, metric, floor):
    sizes, _, _ = planned(100, label)
    assert (sizes.metric, sizes.gate["min_value"]) == (metric, floor)
    assert sizes.gate["max_drop"] < sizes.gate["max_slice_drop"]


@pytest.mark.parametrize(
    ("rare", "min_examples", "per_span", "capacity"),
    [(4_000, 100, 500, None), (500, 800, 800, 40_000), (40, 2_400, 4_000, 100_000)],
)
def test_what_is_held_out_has_some_of_a_rare_class(rare, min_examples, per_span, capacity):
    sizes, _, _ = planned(20_000, [1] * rare + [0] * (20_000 - rare))
    assert sizes.min_examples == min_examples
    assert sizes.replay["holdout_per_span"] == per_span
    assert sizes.replay.get("holdout_capacity") == capacity
    assert sizes.gate["max_drop"] >= planned(20_000)[0].gate["max_drop"]


def test_losses_allowed_are_smaller_with_more_rows():
    few, many = planned(200)[0].gate, planned(20_000)[0].gate
    assert few["max_drop"] > 2 * many["max_drop"]


def test_slices_are_of_values_that_can_be_judged():
    rows = 3_000
    sizes, _, _ = planned(
        rows,
        even=RANDOM.choice(["a", "b", "c"], rows).tolist(),
        odd=RANDOM.choice(["a", "b"], rows, p=[0.7, 0.3]).tolist(),
        lone=["a"] * (rows - 20) + ["b"] * 20,
        many=RANDOM.choice([f"v{i}" for i in range(50)], rows).tolist(),
    )
    assert sizes.slices in (["even", "odd"], ["odd", "even"])
    assert planned(100, even=["a", "b"] * 50)[0].slices == []


def test_features_get_names_that_can_be():
    assert feature_names(["fare", "Trip Seconds", "trip_seconds", "größe", "Fare"], "tip") == {
        "fare": "fare",
        "Fare": "Fare_2",
        "trip_seconds": "trip_seconds",
        "Trip Seconds": "trip_seconds_2",
        "größe": "grosse",
    }
    assert feature_names(["numeric", "label", "tip"], "tip") == {
        "numeric": "numeric_column",
        "label": "label_column",
        "tip": "tip_column",
    }


ODD = [
    "no",
    "1e5",
    "a: b",
    "#x",
    "- y",
    "{z}",
    'q"uote',
    "new\nline",
    "'",
    "ünï",
    "tab\t",
    "null",
    "true",
    "\\",
]


def test_any_name_survives_the_file():
    rows = 1_000
    city = RANDOM.choice(["p", "q"], rows).tolist()
    sizes, roles, found = planned(rows, **dict.fromkeys(ODD, city), **{"odd\nempty": [""] * rows})
    text = write_document("n", "f\nile.csv", found, found.why, roles, sizes, "one\nspan.")
    deployment = Deployment.model_validate(yaml.safe_load(text))
    columns = {feature.column for feature in deployment.preprocessing.specs()}
    assert columns == {"x", *ODD}
    assert all(set(names) <= set(ODD) for names in deployment.slices)


def test_every_section_and_every_feature_says_why():
    sizes, roles, found = planned(300)
    roles = [*roles, Role("row", "ignored", "an id"), Role("gone", "leak?", "tells the label")]
    text = write_document("n", "a.csv", found, found.why, roles, sizes, "All rows are one span.")
    assert "    x: {type: numeric}  # numbers from" in text
    assert "    #   row: an id" in text and "    #   gone: LEAK? tells the label" in text
    lines = text.splitlines()
    for section in ("data:", "label:", "preprocessing:", "model:", "warm_start:", "replay:", "gates:"):
        assert lines[lines.index(section) - 1].startswith("# "), section
