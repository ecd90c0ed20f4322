"""Two transform graphs fitted on unlike data, and a model of each: the same row gets the same answer."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.features import (
    Bucketized,
    Categorical,
    Cross,
    Hashed,
    Identity,
    Numeric,
    Tensor,
    Text,
    Timestamp,
    raw_columns,
    to_json,
)
from components.label import Label, LabelState
from components.models import Cnn, Linear, Mlp, TwoTower, WideAndDeep
from components.train.carryover import checkpoint, warm_start
from components.train.examples.graph import Graph
from components.train.model.blueprint import densify
from components.train.model.build import build as build_of
from components.train.model.schedule import RunSchedule
from components.train.model.state import TrainingState
from pipeline.config.sections import WarmStart

pytestmark = pytest.mark.xdist_group("transform_graph")

TYPES = {
    "fare": "FLOAT",
    "miles": "FLOAT",
    "late": "FLOAT",
    "gone": "FLOAT",
    "age": "FLOAT",
    "level": "FLOAT",
    "city": "BYTES",
    "words": "BYTES",
    "tags": "BYTES",
    "hour": "INT",
    "at": "INT",
    "pixels": "FLOAT",
    "big": "INT",
}
IMAGE = Tensor(name="image", column="pixels", shape=[4, 2, 1])
FEATURES = [
    Numeric(name="fare", log=True),
    Categorical(name="city", oov_buckets=2),
    Numeric(name="miles"),
    Numeric(name="late"),  # without any value when the champion was fitted
    Numeric(name="gone"),  # without any value later
    Bucketized(name="level", buckets=4),  # its boundaries stay
    IMAGE,
    Identity(name="hour", max=5),
    Hashed(name="tags", buckets=7, separator="|"),
    Text(name="words", min_count=1),
    Timestamp(name="at", parts=["hour"]),
    Cross(name="pair", columns=["city", "hour"], buckets=9),
]
SMALL = {"hidden": [12, 6], "embedding_dim": 3, "dropout": 0.1}
SIDES = {
    "user": ["fare", "city", "late", "level", "at"],
    "item": ["gone", "hour", "tags", "miles", "words", "pair"],
}
MODELS = {
    "linear": Linear(),
    "mlp": Mlp(**SMALL),
    "wide_and_deep": WideAndDeep(**SMALL | {"batch_norm": False}),
    "two_tower": TwoTower(**SMALL, **SIDES, output_dim=4),
    "cnn": Cnn(**SMALL, filters=[3, 2]),
}


def make_rows(cities, words, fare, miles, pixels, late, gone):
    random = np.random.default_rng(len(cities))

    def some(value):
        return None if random.random() < 0.2 else float(np.float32(value))

    return [
        {
            "fare": some(random.lognormal(fare, 1)),
            "miles": some(random.normal(*miles)),
            "late": some(random.normal(8, 3)) if late else None,
            "gone": some(random.normal(2, 5)) if gone else None,
            "level": None if i % 9 == 0 else float(i % 8),
            "city": None if i % 11 == 0 else str(random.choice(cities.split())),
            "words": " ".join(random.choice(words.split(), 3)),
            "tags": "|".join(random.choice(["p", "q", "r", "s"], 1 + i % 3)),
            "hour": i % 7,
            "at": 1_600_000_000 + 5000 * i,
            "pixels": random.normal(*pixels, 8).tolist(),
            "big": int(random.random() < 0.4),
        }
        for i in range(160)
    ]


TABLES = {
    "before": make_rows("rome oslo bonn", "a b c", 1.0, (3, 2), (0, 1), late=False, gone=True),
    "after": make_rows("lima oslo rome kyiv", "c d a", 3.0, (-5, 9), (4, 3), late=True, gone=False),
}


def features_of(settings):
    return [f for f in FEATURES if f is not IMAGE or not isinstance(settings, TwoTower)]


def told(graph, features):
    return Graph(str(graph.path), features, raw_columns(features), Label(name="big"))


@pytest.fixture(scope="module")
def refit(fit, tmp_path_factory):
    """Both graphs, and the second as it is fitted for a cnn, whose image keeps its scale."""
    folder = tmp_path_factory.mktemp("refit")
    found = fit(TABLES, folder, TYPES, FEATURES)
    kept = told(found["before"], FEATURES).fit()["tensor"]
    return found | fit({"cnn": TABLES["after"]}, folder, TYPES, FEATURES, kept=kept)


def state_of(graph, settings, **changes):
    features = features_of(settings)
    known = told(graph, features)
    values = {
        "features": to_json(features),
        "model": settings.model_dump(),
        "optimizer": "adam",
        "vocabularies": known.vocabularies(),
        "step": 0,
        "task": "binary",
        "label": LabelState().model_dump(),
        "fit": known.fit(),
    }
    return TrainingState(**values | changes)


build = functools.partial(build_of, own={}, training={"clipnorm": 1.0, "seed": 0})


def start(state, champion=None, **settings):
    started = warm_start.start(state, champion, build, WarmStart(**settings).model_dump())
    started.optimizer.learning_rate = RunSchedule(0.02, 0, 100, 0.0, 1.0)
    return started


@pytest.fixture(scope="module")
def inputs_of(serialize):
    def inputs_of(graph, model, rows):
        examples = tf.constant(serialize(rows, TYPES))
        transformed = graph.layer(tf.io.parse_example(examples, graph.output.raw_feature_spec()))
        return densify(transformed, [tensor.name for tensor in model.inputs])

    return inputs_of


def train(model, optimizer, inputs, labels, steps=12):
    for _ in range(steps):
        with tf.GradientTape() as tape:
            loss = keras.losses.BinaryCrossentropy(from_logits=True)(labels, model(inputs, training=True))
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [weight.value for weight in weights]), weights)


@pytest.fixture(scope="module")
def champion_of(refit, inputs_of, tmp_path_factory):
    """A model of each kind, trained on the first table, and its checkpoint. Not to be changed."""

    @functools.cache
    def champion_of(name):
        state, folder = state_of(refit["before"], MODELS[name]), tmp_path_factory.mktemp(name)
        model, optimizer, *_ = start(state)
        labels = tf.constant([[float(row["big"])] for row in TABLES["before"]])
        train(model, optimizer, inputs_of(refit["before"], model, TABLES["before"]), labels)
        checkpoint.save(folder, model, optimizer, state)
        return model, optimizer, folder

    return champion_of


def known_rows():
    """Rows of both tables, less the terms that are gone, and values of the column that has none later."""
    rows = [row | {"gone": None} for table in TABLES.values() for row in table]
    return [row for row in rows if row["city"] != "bonn" and "b" not in row["words"]]


@pytest.mark.parametrize("name", MODELS)
def test_before_its_first_step_a_model_answers_as_the_champion(name, refit, champion_of, inputs_of):
    champion, _, folder = champion_of(name)
    after = refit[name if name in refit else "after"]
    started = start(state_of(after, MODELS[name]), folder)
    rows = known_rows()
    assert len(rows) > 100 and {row["city"] for row in rows} >= {None, "lima", "rome"}
    expected = champion(inputs_of(refit["before"], champion, rows)).numpy()
    given = started.model(inputs_of(after, started.model, rows)).numpy()
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(given, expected, atol=1e-4)

    report = started.report
    assert report["start"] == "warm" and report["fresh"] == report["dropped"] == []
    numbers = ["fare", "miles", "late", "gone"]
    folded = {"cnn": numbers, "two_tower": numbers}.get(name, [*numbers, "image"])
    assert sorted(report["rescaled"]) == sorted(folded)
    assert report["kept_scale"] == (["image"] if name == "cnn" else [])
    assert report["grown"]["city"] == {"kept": 3, "new": 2, "dropped": 1}
