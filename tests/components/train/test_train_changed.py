"""What a warm start does where the configuration changed, or a class came: carried by key, name and shape."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from components.errors import RetrainError
from components.features import Bucketized, Categorical, Hashed, Identity, Numeric, Tensor, Timestamp, to_json
from components.label import LabelState
from components.models import Cnn, Linear, Mlp, WideAndDeep
from components.train.carryover import checkpoint, warm_start
from components.train.model.build import build as build_of
from components.train.model.state import TrainingState
from pipeline.config.sections import WarmStart

build = functools.partial(build_of, own={}, training={"clipnorm": 1.0, "seed": 0})

X, Y, CITY, DAY = Numeric(name="x"), Numeric(name="y"), Categorical(name="city"), Identity(name="day", max=3)
AT, LEVEL = Timestamp(name="at", parts=["hour"]), Bucketized(name="level", buckets=3)
TAGS = Hashed(name="tags", buckets=5)
IMAGE = Tensor(name="image", shape=[2, 2, 1])
FEATURES = [X, CITY, Y, DAY, AT, LEVEL]
SMALL = {"hidden": [8], "embedding_dim": 3, "dropout": 0.0}
DEEP = WideAndDeep(**SMALL)
CLASSES = ("a", "b", "c")


def state_of(features=FEATURES, model=DEEP, classes=(), cities=("p", "q"), optimizer="adam"):
    return TrainingState(
        features=to_json(features),
        model=model.model_dump(),
        optimizer=optimizer,
        vocabularies={"city": list(cities)} if any(f.name == "city" for f in features) else {},
        step=0,
        task="multiclass" if classes else "binary",
        label=LabelState(classes=list(classes)).model_dump(),
        fit={
            "numeric": {f.name: {"mean": 1.0, "scale": 2.0} for f in features if f.form == "numeric"},
            "buckets": {f.name: [0.0, 1.0] for f in features if f.type == "bucketized"},
            "tensor": {
                f.name: {"mean": [0.0] * f.size, "scale": [1.0] * f.size} for f in features if f is IMAGE
            },
        },
    )


def begin(state, champion=None, **settings):
    return warm_start.start(state, champion, build, WarmStart(**settings).model_dump())


@pytest.fixture
def champion(tmp_path):
    """A checkpoint of a state in which no number is 0 or equals another."""

    def champion(state):
        model, optimizer, *_ = begin(state)
        random = np.random.default_rng(5)
        for variable in (*model.weights, *optimizer.variables[1:]):
            variable.assign(random.uniform(0.1, 1, variable.shape))
        optimizer.iterations.assign(7)
        checkpoint.save(tmp_path, model, optimizer, state)
        return model, optimizer

    return champion


def inputs_of(model, features, rows=20):
    """The same values of a feature wherever its column is."""

    def of(name, shape=(), high=None):
        random = np.random.default_rng(sum(map(ord, name)))
        shape = (rows, *shape)
        return random.normal(size=shape) if high is None else random.integers(0, high, shape)

    numbers = [f.name for f in features if f.form == "numeric"]
    values = {
        "numeric": np.stack([of(name) for name in numbers], axis=1) if numbers else None,
        "numeric_missing": np.stack([of(f"{name}?", (), 2) for name in numbers], axis=1) if numbers else None,
        "city": of("city", (), 2),
        "day": of("day", (), 4),
        "level": of("level", (), 3),
        "tags": of("tags", (), 5),
        "at": of("at", (3,)),
        "image": of("image", (2, 2, 1)),
    }
    return {t.name: tf.cast(values[t.name], t.dtype) for t in model.inputs}


def answers(model, features):
    return model(inputs_of(model, features)).numpy()


# --- features and model ---

CHANGES = {
    "reordered": FEATURES[::-1],
    "a number came": [Numeric(name="z"), *FEATURES],
    "a category came": [TAGS, *FEATURES],
    "a tensor came": [*FEATURES, IMAGE],
}


@pytest.mark.parametrize("model", [Linear(), Mlp(**SMALL), WideAndDeep(**SMALL)], ids=lambda m: m.type)
@pytest.mark.parametrize("change", CHANGES)
def test_a_feature_that_came_has_no_say_and_the_others_the_one_they_had(champion, tmp_path, model, change):
    features = CHANGES[change]
    old, _ = champion(state_of(FEATURES, model))
    started = begin(state_of(features, model), tmp_path)
    assert started.report["start"] == "warm" and "the features changed" in started.report["reason"]
    np.testing.assert_allclose(answers(started.model, features), answers(old, FEATURES), atol=1e-5)
    came = {"a category came": {"embedding-tags/embeddings", "wide-tags/embeddings"}}.get(change, set())
    assert set(started.report["fresh"]) <= came and started.report["dropped"] == []


def test_a_feature_that_went_takes_its_rows_along(champion, tmp_path):
    features = [f for f in FEATURES if f not in (X, CITY)]
    old, _ = champion(state_of())
    started = begin(state_of(features), tmp_path)
    inputs = inputs_of(old, FEATURES)
    for name, value in inputs.items():
        if name in ("numeric", "numeric_missing"):
            inputs[name] = value * [0.0, 1.0]
    table, wide = old.get_layer("embedding-city"), old.get_layer("wide-city")
    for layer in (table, wide):
        layer.embeddings.assign(tf.zeros_like(layer.embeddings))
    np.testing.assert_allclose(answers(started.model, features), old(inputs).numpy(), atol=1e-5)
    assert started.report["dropped"] == ["embedding-city/embeddings", "wide-city/embeddings"]


def test_what_a_feature_was_under_its_name_is_not_what_it_is(champion, tmp_path):
    """Of another column, or a logarithm: its rows begin with no say, its tables anew."""
    champion(state_of())
    features = [Numeric(name="x", log=True), Categorical(name="city", column="town"), *FEATURES[2:]]
    started = begin(state_of(features), tmp_path)
    kernel = np.array(started.model.get_layer("dense-0").kernel)
    assert (kernel[[0, 2]] == 0).all() and (kernel[[1, 3]] != 0).all()  # x and its flag; y and its flag
    assert started.report["fresh"] == ["embedding-city/embeddings", "wide-city/embeddings"]
    assert (np.array(started.model.get_layer("wide-city").embeddings) == 0).all()


def test_values_of_an_identity_and_length_of_an_embedding_are_keys_too(champion, tmp_path):
    features = [*FEATURES[:3], Identity(name="day", min=1, max=5), *FEATURES[4:]]
    old, _ = champion(state_of())
    started = begin(state_of(features, WideAndDeep(**SMALL | {"embedding_dim": 5})), tmp_path)
    was, now = (np.array(m.get_layer("embedding-day").embeddings) for m in (old, started.model))
    np.testing.assert_array_equal(now[:, :3], was[[1, 2, 3, 4, 4, 4]])  # 4: out of range, as 4 and 5 were
    inputs, later = inputs_of(old, FEATURES), inputs_of(started.model, features)
    later["day"] = tf.where(inputs["day"] > 0, inputs["day"] - 1, 5)
    known = inputs["day"].numpy() > 0  # 0 is out of range now
    given, expected = started.model(later).numpy(), old(inputs).numpy()
    np.testing.assert_allclose(given[known], expected[known], atol=1e-5)


def test_of_another_model_what_fits_by_name_and_shape_is_carried(champion, tmp_path):
    old, _ = champion(state_of())
    started = begin(state_of(model=Mlp(**SMALL | {"hidden": [8, 4]})), tmp_path)
    report = started.report
    assert report["reason"] == "the model changed: type was 'wide_and_deep', is 'mlp'"
    assert report["fresh"] == [
        *(f"dense-1/{name}" for name in ("bias", "kernel")),
        *(f"norm-1/{name}" for name in ("beta", "gamma", "moving_mean", "moving_variance")),
        "to-output/kernel",
    ]
    assert {"to-output/kernel", "wide-day/embeddings"} <= set(report["dropped"])
    kernels = [np.array(m.get_layer("dense-0").kernel) for m in (old, started.model)]
    np.testing.assert_array_equal(*kernels)
    assert report["carried"] == len(started.model.weights) - len(report["fresh"])


def test_another_optimizer_takes_the_weights_and_begins_anew(champion, tmp_path):
    old, _ = champion(state_of())
    started = begin(state_of(optimizer="rmsprop"), tmp_path)
    assert started.report["slots"] == "fresh" and int(started.optimizer.iterations) == 0
    np.testing.assert_array_equal(answers(started.model, FEATURES), answers(old, FEATURES))


def test_a_changed_model_may_start_from_scratch_or_be_refused(champion, tmp_path):
    champion(state_of())
    changed = state_of(model=WideAndDeep(**SMALL | {"hidden": [9]}))
    started = begin(changed, tmp_path, changed_model="scratch")
    reason = "the model changed: hidden was [8], is [9]"
    assert started.report == {"start": "scratch", "reason": reason} and started.carry is None
    with pytest.raises(RetrainError, match="the model changed: hidden was"):
        begin(changed, tmp_path, changed_model="refuse")


@pytest.mark.parametrize("changed_model", ["carry", "scratch", "refuse"])
def test_another_task_is_another_problem(champion, tmp_path, changed_model):
    champion(state_of())
    with pytest.raises(RetrainError, match=r"label\.task was binary, is multiclass"):
        begin(state_of(classes=CLASSES), tmp_path, changed_model=changed_model)


def test_a_state_of_another_layout_is_refused_in_words(champion, tmp_path):
    champion(state_of())
    file = tmp_path / "state.json"
    file.write_text(file.read_text().replace('"fit"', '"scales"'))
    with pytest.raises(RetrainError, match="another version of retrain: it lacks fit and has scales, too"):
        begin(state_of(), tmp_path)


@pytest.mark.parametrize("new_terms", ["oov", "mean", "random"])
def test_a_new_term_starts_as_the_configuration_says(champion, tmp_path, new_terms):
    model, _ = champion(state_of(cities=["p", "q", "r"]))
    fresh = begin(state_of(cities=["r", "new", "p"])).model
    started = begin(state_of(cities=["r", "new", "p"]), tmp_path, new_terms=new_terms)
    was, random, now = (
        np.array(m.get_layer("embedding-city").embeddings) for m in (model, fresh, started.model)
    )
    expected = {"oov": was[3], "mean": was[:3].mean(axis=0), "random": random[1]}[new_terms]
    np.testing.assert_allclose(now, [was[2], expected, was[0], was[3]], rtol=1e-6)
    assert started.report["grown"]["city"] == {"kept": 2, "new": 1, "dropped": 1}


# --- classes ---


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("model", "features"),
    [
        (Linear(), FEATURES),
        (Linear(), [CITY, DAY]),  # without a bias
        (WideAndDeep(**SMALL), FEATURES),
        (Cnn(**SMALL, filters=[3]), [*FEATURES, IMAGE]),
        (Mlp(**SMALL | {"hidden": [3]}), FEATURES),  # as many units as there are classes
    ],
    ids=["linear", "linear without numbers", "wide_and_deep", "cnn", "mlp of three units"],
)
def test_a_new_class_leaves_the_old_ones_their_scores(champion, tmp_path, model, features):
    old, _ = champion(state_of(features, model, CLASSES))
    classes = ("c", "new", "a", "b")  # wherever they stand
    started = begin(state_of(features, model, classes), tmp_path)
    was, now = answers(old, features), answers(started.model, features)
    np.testing.assert_allclose(now[:, [2, 3, 0]], was, atol=1e-5)
    assert np.ptp(now[:, 1]) < 1e-5
    assert started.report["grown"]["label"] == {"kept": 3, "new": 1, "dropped": 0}
    assert started.report["fresh"] == []


def test_a_new_class_begins_with_one_percent_of_what_the_biases_say(champion, tmp_path):
    champion(state_of(classes=CLASSES))
    started = begin(state_of(classes=(*CLASSES, "d")), tmp_path)
    share = softmax(np.array(started.model.get_layer("to-output").bias)[None])[0]
    assert share[3] == pytest.approx(1 / 101)
    kernel, table = (started.model.get_layer(n).weights[0] for n in ("to-output", "wide-day"))
    assert (np.array(kernel)[:, 3] == 0).all() and (np.array(table)[:, 3] == 0).all()


def test_slots_of_a_new_class_are_empty_and_the_others_kept(champion, tmp_path):
    _, old = champion(state_of(classes=CLASSES))
    started = begin(state_of(classes=(*CLASSES, "d")), tmp_path)
    was, now = ({v.path: np.array(v) for v in o.variables} for o in (old, started.optimizer))
    for slot in ("momentum", "velocity"):
        path = f"optimizer/to-output_kernel_{slot}"
        np.testing.assert_array_equal(now[path], np.pad(was[path], [(0, 0), (0, 1)]))
    assert now["optimizer/iteration"] == 7


def test_the_body_is_all_but_what_a_class_made_wider(champion, tmp_path):
    model = Mlp(**SMALL | {"hidden": [3]})
    champion(state_of(model=model, classes=CLASSES))
    started = begin(state_of(model=model, classes=(*CLASSES, "d")), tmp_path)
    tables = {f"embedding-{name}" for name in ("city", "day", "level")}
    assert started.body == {"dense-0", "norm-0", *tables}
    assert begin(state_of(model=model, classes=CLASSES), tmp_path).body == frozenset()


# --- what else moves, and what stays ---


def test_importances_move_as_squares_and_what_is_new_matters_nothing(champion, tmp_path):
    features = [X, CITY]
    state = state_of(features, classes=CLASSES)
    model, _ = champion(state)
    fit = {**state.fit, "numeric": {"x": {"mean": 1.0, "scale": 6.0}}}  # three times as wide
    later = state_of(features, classes=(*CLASSES, "d"), cities=("new", "q"))
    started = begin(dataclasses.replace(later, fit=fit), tmp_path)
    old = {w.path: np.array(w) for w in model.trainable_weights}
    moved = started.carry.importances(old)
    assert moved.keys() == {w.path for w in started.model.trainable_weights}
    assert all(moved[w.path].shape == w.shape for w in started.model.trainable_weights)
    np.testing.assert_allclose(moved["dense-0/kernel"][0], old["dense-0/kernel"][0] / 9, rtol=1e-6)
    np.testing.assert_array_equal(moved["dense-0/kernel"][1:], old["dense-0/kernel"][1:])
    table = old["embedding-city/embeddings"]
    np.testing.assert_array_equal(moved["embedding-city/embeddings"], [0 * table[0], table[1], table[2]])
    np.testing.assert_array_equal(
        moved["to-output/kernel"], np.pad(old["to-output/kernel"], [(0, 0), (0, 1)])
    )
    assert moved["to-output/bias"][3] == 0


def test_the_same_state_is_carried_bit_by_bit(champion, tmp_path):
    model, optimizer = champion(state_of(classes=CLASSES))
    started = begin(state_of(classes=CLASSES), tmp_path)
    pairs = (model.weights, started.model.weights), (optimizer.variables, started.optimizer.variables)
    for old, new in pairs:
        for a, b in zip(old, new, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=a.path)
    report = started.report
    assert (report["rescaled"], report["kept_scale"], report["fresh"], report["dropped"]) == ([], [], [], [])


def test_layers_are_frozen_by_pattern():
    model = begin(state_of()).model
    assert warm_start.frozen(model, ["embedding-*", "dense-0"]) == {
        "dense-0",
        *(f"embedding-{name}" for name in ("city", "day", "level")),
    }
    assert warm_start.frozen(model, []) == frozenset()
    with pytest.raises(RetrainError, match=r"'dense-9' names no layer of the model, .*dense-0"):
        warm_start.frozen(model, ["dense-*", "dense-9"])
