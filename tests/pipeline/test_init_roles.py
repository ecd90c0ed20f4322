import datetime

import numpy as np
import pyarrow as pa
import pytest

from pipeline.init.roles import find_roles
from pipeline.init.target import find_target
from tests.pipeline.init_tables import role_of, scanned

RANDOM = np.random.default_rng(0)
ROWS = 2_000
DAY = 86_400


def words(count):
    return " ".join(RANDOM.choice(["good", "bad", "film", "plot", "scene", "actor"], count))


def times(step, count=ROWS, first=datetime.datetime(2020, 1, 1)):
    return [(first + i * step).isoformat(sep=" ") for i in range(count)]


TEXTS = [words(8) + f" {i}" for i in range(ROWS)]
TAGS = ["|".join(sorted(RANDOM.choice(list("abcdefg"), 3, replace=False))) for _ in range(ROWS)]
HOUR = datetime.timedelta(hours=1)


@pytest.mark.parametrize(
    ("name", "values", "role", "settings"),
    [
        ("x", RANDOM.normal(size=ROWS), "numeric", {}),
        ("x", RANDOM.lognormal(3, 1.5, ROWS), "numeric", {"log": True}),
        ("x", RANDOM.integers(0, 17, ROWS), "numeric", {}),
        ("population", RANDOM.permutation(10**6)[:ROWS], "numeric", {}),
        ("trip_hour", RANDOM.integers(0, 24, ROWS), "identity", {"max": 23}),
        ("Month", RANDOM.integers(1, 12, ROWS), "identity", {"min": 1, "max": 12}),
        ("startDay", RANDOM.integers(1, 8, ROWS), "identity", {"min": 1, "max": 7}),
        ("area_code", RANDOM.integers(5, 78, ROWS), "identity", {"min": 5, "max": 77}),
        ("tract", RANDOM.integers(0, 40, ROWS) + 17031081500, "categorical", {}),
        ("city", RANDOM.choice(["a", "b", "c"], ROWS), "categorical", {}),
        ("flag", RANDOM.choice(["true", "false"], ROWS), "categorical", {}),
        ("zip", [f"{i:05d}" for i in RANDOM.integers(0, 90, ROWS)], "categorical", {}),
        ("review", TEXTS, "text", {}),
        ("genres", TAGS, "categorical", {"separator": "|"}),
        ("when", times(HOUR), "timestamp", {"parts": ["hour", "day_of_week"]}),
        ("when", times(24 * HOUR, 100) * 20, "timestamp", {"parts": ["day_of_week"]}),
        ("when", times(24 * HOUR, 1_000) * 2, "timestamp", {"parts": ["day_of_week", "month"]}),
        ("created_at", 1_600_000_000 + RANDOM.integers(0, 30 * DAY, ROWS), "timestamp", {}),
        ("created_at", (1_600_000_000 + RANDOM.integers(0, 30 * DAY, ROWS)) * 1000, "timestamp", {}),
        ("when", times(24 * HOUR, 7) * 300, "ignored", None),
        ("day", ["03/09/2013", "04/09/2013"] * 1000, "ignored", None),
        ("date", RANDOM.choice([20130309, 20130410], ROWS), "ignored", None),
        ("row", range(ROWS), "ignored", None),
        ("user_id", RANDOM.permutation(ROWS) * 7919, "ignored", None),
        ("email", [f"u{i}@example.org" for i in range(ROWS)], "ignored", None),
        ("x", [""] * ROWS, "ignored", None),
        ("x", ["7"] * ROWS, "ignored", None),
        ("x", ["7"] * 3 + [""] * ROWS, "ignored", None),
    ],
)
def test_a_column_is_to_the_model_what_it_holds(name, values, role, settings):
    found = role_of([v for v in values], name)  # noqa: C416 - numpy's numbers, too
    assert found.role == role, found
    if settings is None:
        assert not found.used
    else:
        assert settings.items() <= found.settings.items()


def test_very_many_values_that_come_again_are_hashed():
    found = role_of([f"user {i}" for i in RANDOM.integers(0, 8_000, 40_000)], sample=40_000)
    assert found.role == "hashed"
    assert 8_000 < found.settings["buckets"] <= 131_072


def test_rare_values_are_out_of_the_vocabulary():
    found = role_of([f"t{i}" for i in RANDOM.zipf(1.5, ROWS)])
    assert found.settings == {"type": "categorical", "min_count": 2}


def test_commas_in_sentences_are_no_lists():
    assert role_of([f"{words(3)}, {words(2)} {i}" for i in range(ROWS)]).role == "text"


def test_numbers_that_say_something_one_by_one_are_codes():
    codes = RANDOM.integers(0, 12, ROWS)
    label = (RANDOM.random(ROWS) < np.where(codes % 2, 0.8, 0.2)).astype(int)
    assert role_of(codes.tolist(), label=label.tolist()).role == "identity"
    in_order = (RANDOM.random(ROWS) < codes / 12).astype(int)
    assert role_of(codes.tolist(), label=in_order.tolist()).role == "numeric"


def test_many_small_numbers_alike_are_measurements():
    pixels = {f"p{i}": RANDOM.integers(0, 16, ROWS).tolist() for i in range(30)}
    label = (np.array(pixels["p0"]) % 2).tolist()
    label[:200] = RANDOM.integers(0, 2, 200).tolist()
    profile = scanned({**pixels, "y": label})
    roles = find_roles(profile, find_target(profile, "y", None, 0.5), "y", None)
    assert {role.role for role in roles} == {"numeric", "label"}


@pytest.mark.parametrize("of", ["text", "number", "inverse", "missing"])
def test_what_gives_the_label_away_is_left_out(of):
    label = RANDOM.integers(0, 2, ROWS)
    values = {
        "text": np.where(label, "refunded", "kept").tolist(),
        "number": (label * 10 + RANDOM.random(ROWS)).tolist(),
        "inverse": (-label * 10 + RANDOM.random(ROWS)).tolist(),
        "missing": ["" if one else str(x) for one, x in zip(label, RANDOM.random(ROWS), strict=True)],
    }[of]
    found = role_of(values, label=label.tolist())
    assert (found.role, found.used) == ("leak?", False)
    assert "AUC 1.000" in found.why


def test_the_label_in_other_words_leaks_in_every_task():
    y = RANDOM.normal(size=ROWS)
    assert role_of((2 * y + 1).tolist(), label=y.tolist()).role == "leak?"
    classes = RANDOM.choice(["a", "b", "c"], ROWS)
    assert role_of([f"{c}{c}" for c in classes], label=classes.tolist()).role == "leak?"


def test_a_strong_column_stays_and_is_told():
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    columns = {name: data.data[:, i].tolist() for i, name in enumerate(data.feature_names)}
    profile = scanned({**columns, "y": data.target.tolist()})
    roles = find_roles(profile, find_target(profile, "y", None, 0.5), "y", None)
    assert all(role.used for role in roles if role.column != "y")
    assert next(role for role in roles if role.column == "worst radius").alone.startswith("AUC 0.9")


def test_few_rows_accuse_no_column():
    label = [0, 1] * 20
    assert role_of([float(one) + i / 1000 for i, one in enumerate(label)], label=label).role == "numeric"


LISTS = {
    "tags": pa.array([["a", "b"], ["c"], []] * 100),
    "basket": pa.array([[1, 2], [3], [4, 5, 6]] * 100),
    "image": pa.array([[float(i)] * 64 for i in range(300)]),
    "vector": pa.array([[float(i)] * 50 for i in range(300)]),
    "walk": pa.array([[0.5] * (i % 3 + 1) for i in range(300)]),
    "odd": pa.array([{"a": 1}] * 300),
}


@pytest.mark.parametrize(
    ("name", "role", "settings"),
    [
        ("tags", "categorical", {"type": "categorical", "multivalent": True}),
        ("basket", "categorical", {"type": "categorical", "multivalent": True}),
        ("image", "tensor", {"type": "tensor", "shape": [8, 8, 1]}),
        ("vector", "ignored", None),
        ("walk", "ignored", None),
        ("odd", "ignored", None),
    ],
)
def test_lists(name, role, settings):
    found = role_of(LISTS[name], name)
    assert (found.role, found.settings) == (role, settings)


def test_one_image_alone_is_an_image():
    profile = scanned({"a": LISTS["image"], "b": LISTS["image"], "y": [0, 1] * 150})
    roles = find_roles(profile, find_target(profile, "y", None, 0.5), "y", None)
    assert [role.role for role in roles] == ["tensor", "ignored", "label"]
