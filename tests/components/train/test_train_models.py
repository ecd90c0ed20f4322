"""The models, on transformed features made up here; their real runs are in test_train_tasks.py."""

import functools
import math
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.errors import RetrainError
from components.features import Categorical, Hashed, Identity, Numeric, Tensor, Text, Timestamp, to_json
from components.label import LabelState
from components.models import Cnn, Custom, Linear, Mlp, TwoTower, WideAndDeep
from components.train.carryover import checkpoint, warm_start
from components.train.model.blueprint import PADDING, Lookup, densify
from components.train.model.build import build as build_of
from components.train.model.schedule import RunSchedule
from components.train.model.state import TrainingState
from components.train.objective.losses import LOSSES
from pipeline.config.sections import WarmStart

FEATURES = [
    Numeric(name="x"),
    Categorical(name="city"),
    Hashed(name="tags", multivalent=True, buckets=5),
    Timestamp(name="at", parts=["hour"]),
    Numeric(name="noise"),
]
IMAGE = Tensor(name="image", shape=[4, 5, 1])
SAME = {"mean": 0.0, "scale": 1.0}
FIT = {
    "numeric": {"x": SAME, "noise": SAME},
    "buckets": {},
    "tensor": {"image": {"mean": [0.0] * 20, "scale": [1.0] * 20}},
}
CITIES = ["<missing>", "a", "b", "c"]
SMALL = {"hidden": [16], "embedding_dim": 4, "dropout": 0.1}
MODELS = {
    "linear": Linear(),
    "mlp": Mlp(**SMALL),
    "wide_and_deep": WideAndDeep(**SMALL),
    "cnn": Cnn(**SMALL, filters=[4, 4, 4]),  # halved twice, the image has a height of 1
    "custom": Custom(module="tests.custom_model", params={"dim": 4, "hidden": 16}),
}
TOWERS = {"user": ["x", "city", "noise"], "item": ["tags", "at"], "output_dim": 6}
SPEED = {"speed": tf.io.FixedLenFeature([1], tf.float32)}
OUTPUTS = {"binary": 1, "multiclass": 3, "regression": 1}


def state_of(settings, task="binary", cities=CITIES, classes=("u", "v", "w")):
    return TrainingState(
        features=to_json([*FEATURES, IMAGE] if isinstance(settings, Cnn) else FEATURES),
        model=settings.model_dump(),
        optimizer="adam",
        vocabularies={"city": cities},
        step=0,
        task=task,
        label=LabelState(classes=list(classes) if task == "multiclass" else []).model_dump(),
        fit=FIT,
    )


def build(settings, *args, **kwargs):
    """A model of the settings, and its optimizer."""
    return building(settings)(state_of(settings, *args, **kwargs))


def building(settings):
    own = SPEED if isinstance(settings, Custom) else {}
    return functools.partial(build_of, own=own, training={"clipnorm": 1.0, "seed": 0})


def make_data(rows=256):
    """Transformed features, and what is learned of them: a number that x, city, tags and image make."""
    random = np.random.default_rng(1)
    numbers = random.normal(size=(rows, 2))
    city = random.integers(0, 5, rows)
    tags = random.integers(0, 6, (rows, 3))
    tags[:, 1:][random.random((rows, 2)) < 0.5] = PADDING
    tags[:, 2][tags[:, 1] == PADDING] = PADDING
    inputs = {
        "numeric": numbers,
        "numeric_missing": np.zeros((rows, 2)),
        "at": random.normal(size=(rows, 3)),
        "image": random.normal(size=(rows, 4, 5, 1)),
        "speed": random.normal(size=(rows, 1)),
    }
    inputs = {name: value.astype(np.float32) for name, value in inputs.items()} | {"city": city, "tags": tags}
    score = numbers[:, 0] + np.array([0, -1, 1, 2, -2])[city] + np.array([0, 1, -1, 0, 2, -2])[tags[:, 0]]
    return inputs, ((score - score.mean()) / score.std()).astype(np.float32)


def target(score, task):
    if task == "regression":
        return score[:, None]
    if task == "binary":
        return (score > 0).astype(np.float32)[:, None]
    return np.searchsorted([-0.5, 0.5], score)


def fit(model, optimizer, task, inputs, labels):
    """The mean loss of every epoch."""
    inputs = {tensor.name: inputs[tensor.name] for tensor in model.inputs}
    optimizer.learning_rate = RunSchedule(0.03, 0, 100, 0.0, 0.1)
    model.compile(optimizer, LOSSES[task](), jit_compile=False)
    return model.fit(inputs, labels, epochs=20, batch_size=64, verbose=0).history["loss"]


@pytest.mark.parametrize("task", OUTPUTS)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_what_every_task_wants(name, task):
    model, _ = build(MODELS[name], task)
    inputs, _ = make_data(3)
    inputs = {tensor.name: tf.constant(inputs[tensor.name]) for tensor in model.inputs}
    assert model.output.shape == (None, OUTPUTS[task]) and model(inputs).shape == (3, OUTPUTS[task])


# The others learn in real runs.
@pytest.mark.parametrize(("name", "task"), [("linear", "regression"), ("wide_and_deep", "multiclass")])
def test_a_model_learns(name, task):
    model, optimizer = build(MODELS[name], task)
    inputs, score = make_data()
    chance = {"multiclass": math.log(3), "regression": 1.0}[task]
    assert fit(model, optimizer, task, inputs, target(score, task))[-1] < 0.6 * chance


def test_a_pairs_logit_is_made_of_the_dot_product_of_its_unit_vectors():
    model, _ = build(TwoTower(**SMALL, **TOWERS))
    inputs, _ = make_data(20)
    inputs = {tensor.name: tf.constant(inputs[tensor.name]) for tensor in model.inputs}
    user, item = (model.embed(side, inputs).numpy() for side in ("user", "item"))
    assert user.shape == item.shape == (20, 6)
    np.testing.assert_allclose(np.linalg.norm(user, axis=1), 1, rtol=1e-5)
    scale, bias = (w.numpy() for w in model.get_layer("pair-score").weights)
    expected = np.sum(user * item, axis=1) * scale[0, 0] + bias[0]
    np.testing.assert_allclose(model(inputs).numpy()[:, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "others"), [("user", ["tags", "at"]), ("item", ["numeric", "city"])])
def test_a_tower_sees_its_own_features_alone(side, others):
    model, _ = build(TwoTower(**SMALL, **TOWERS))
    inputs, _ = make_data(20)
    changed = {name: inputs[name] for name in inputs} | {name: inputs[name][::-1] for name in others}
    one, other = (model.embed(side, {k: tf.constant(v) for k, v in i.items()}) for i in (inputs, changed))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0, 0.5, 1.0, 3.0]], ids=["alike", "weighted"])
def test_the_in_batch_loss_is_that_of_finding_each_users_item(weights):
    settings = TwoTower(
        **SMALL | {"dropout": 0.0, "batch_norm": False}, **TOWERS, negatives="in_batch", temperature=0.2
    )
    model, _ = build(settings)
    model.compile(loss=LOSSES["binary"]())
    inputs, _ = make_data(6)
    inputs["tags"] = np.array([[1, PADDING], [2, 3], [1, PADDING], [4, PADDING], [2, PADDING], [2, 3]])
    inputs["at"][:] = 0.5  # rows 0 and 2, 1 and 5 are of one item
    inputs = {tensor.name: tf.constant(inputs[tensor.name]) for tensor in model.inputs}
    labels = np.array([1, 0, 1, 1, 1, 1], np.float32)
    weight = np.ones(6) if weights is None else np.array(weights)

    logits = model.embed("user", inputs).numpy() @ model.embed("item", inputs).numpy().T / 0.2
    for a, b in ((0, 2), (2, 0), (1, 5), (5, 1)):
        logits[a, b] = -np.inf
    missed = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    expected = np.sum(missed * labels * weight) / np.sum(labels * weight)

    answer = model(inputs)
    given = None if weights is None else tf.constant(weights)
    args = {"y": tf.constant(labels[:, None]), "y_pred": answer, "sample_weight": given}
    rows = keras.Model.compute_loss(model, inputs, **args)
    assert float(model.compute_loss(inputs, **args)) == pytest.approx(float(rows) + expected, rel=1e-4)


def test_a_batch_without_a_1_has_no_in_batch_loss():
    model, _ = build(TwoTower(**SMALL, **TOWERS, negatives="in_batch"))
    model.compile(loss=LOSSES["binary"]())
    inputs, _ = make_data(4)
    inputs = {tensor.name: tf.constant(inputs[tensor.name]) for tensor in model.inputs}
    zeros, answer = tf.zeros([4, 1]), model(inputs)
    rows = keras.Model.compute_loss(model, inputs, zeros, answer)
    assert float(model.compute_loss(inputs, zeros, answer)) == pytest.approx(float(rows))


def test_a_list_is_looked_up_as_the_mean_of_its_rows():
    table = Lookup(4, 3)
    indexes = np.array([[0, 3, PADDING], [2, PADDING, PADDING], [1, 1, 2], [PADDING] * 3])
    found = table(tf.constant(indexes)).numpy()
    rows = table.embeddings.numpy()
    expected = [(rows[0] + rows[3]) / 2, rows[2], (2 * rows[1] + rows[2]) / 3, np.zeros(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(table(tf.constant([3, 0])).numpy(), rows[[3, 0]])


def test_lists_are_padded_with_what_is_no_index():
    indexes = tf.sparse.from_dense([[5, 6], [7, 0]])
    numbers = tf.sparse.from_dense([[0.5, 0.25], [1.0, 0.0]])
    dense = densify({"a": indexes, "b": numbers, "c": tf.constant([1]), "d": 0}, ["a", "b", "c"])
    assert dense["a"].numpy().tolist() == [[5, 6], [7, PADDING]]
    assert dense["b"].numpy().tolist() == [[0.5, 0.25], [1.0, 0.0]]
    assert dense["c"].numpy().tolist() == [1] and "d" not in dense


@pytest.mark.parametrize("settings", [*MODELS.values(), TwoTower(**SMALL, **TOWERS)], ids=lambda s: s.type)
def test_variables_have_the_same_names_whatever_the_vocabulary_and_however_many_models_there_were(settings):
    (one, first), (other, second) = build(settings), build(settings, cities=[*CITIES, "d", "e"])
    assert [w.path for w in one.weights] == [w.path for w in other.weights]
    assert [v.path for v in first.variables] == [v.path for v in second.variables]
    assert len({w.path for w in one.weights}) == len(one.weights)
    for a, b in zip(one.weights, other.weights, strict=True):  # and begin alike
        assert tuple(a.shape) != tuple(b.shape) or np.array_equal(a, b)


@pytest.mark.parametrize("settings", [*MODELS.values(), TwoTower(**SMALL, **TOWERS)], ids=lambda s: s.type)
def test_a_successor_answers_as_its_champion_before_its_first_step(settings, tmp_path):
    """With another order of terms, a new term, and, of several classes, a new one."""
    task = "binary" if isinstance(settings, TwoTower) else "multiclass"
    before = state_of(settings, task)
    model, optimizer = building(settings)(before)
    random = np.random.default_rng(3)
    for variable in (*model.weights, *optimizer.variables[2:]):  # neither the step nor the learning rate
        variable.assign(random.uniform(0.1, 1, variable.shape))
    optimizer.iterations.assign(7)
    checkpoint.save(tmp_path, model, optimizer, before)

    cities = ["c", "new", "<missing>", "b"]  # "a" is gone
    after = state_of(settings, task, cities=cities, classes=["u", "v", "w", "x"])
    successor, its_optimizer, *_ = warm_start.start(
        after, tmp_path, building(settings), WarmStart().model_dump()
    )
    inputs, _ = make_data(30)
    inputs["city"] = random.integers(0, 5, 30)
    known = {0: 3, 1: 4, 2: 0, 3: 2, 4: 4}  # the row of a term now -> before; 4: out of vocabulary
    old = inputs | {"city": np.vectorize(known.get)(inputs["city"])}

    def output(model, inputs):
        return model({t.name: tf.constant(inputs[t.name]) for t in model.inputs}).numpy()

    expected, given = output(model, old), output(successor, inputs)
    assert given.shape[1] == (1 if task == "binary" else 4)
    np.testing.assert_allclose(given[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-4)
    assert int(its_optimizer.iterations) == 7
    slots = sum(float(np.sum(v)) for v in its_optimizer.variables[2:])
    assert slots > 0


ODD = [Numeric(name=n, column=f"{n} é") for n in ("class_", "self", "Model", "input")]
ODD += [
    Identity(name=n, max=3) for n in ("score", "user", "output", "inputs", "sum", "numbers", "similarity")
]
ODD += [Text(name="wide")]


@pytest.mark.parametrize("kind", [Linear, Mlp, WideAndDeep, TwoTower], ids=lambda k: k.__name__)
def test_a_feature_may_be_named_like_a_part_of_the_model(kind):
    names = [feature.name for feature in ODD]
    settings = TwoTower(**SMALL, user=names[::2], item=names[1::2]) if kind is TwoTower else kind()
    state = TrainingState(
        to_json(ODD),
        settings.model_dump(),
        "adam",
        {"wide": ["a"]},
        0,
        "binary",
        LabelState().model_dump(),
        {},
    )
    model, _ = build_of(state, {}, {"clipnorm": 1.0, "seed": 0})
    inputs = {t.name: tf.zeros([2, *(s or 3 for s in t.shape[1:])], t.dtype) for t in model.inputs}
    assert model(inputs).shape == (2, 1)


# --- the user's own ---


@pytest.fixture
def own(monkeypatch):
    """Builds a model with a `build_model` of one's own."""

    def own(build_model):
        module = types.ModuleType("own_module")
        module.build_model = build_model
        monkeypatch.setitem(sys.modules, "own_module", module)
        return build(Custom(module="own_module", params={"units": 3}))[0]

    return own


def test_it_gets_the_blueprint_and_its_params_and_may_leave_inputs_out(own):
    def build_model(blueprint, params):
        assert params == {"units": 3} and blueprint.outputs == 1
        assert blueprint.rows == {"city": 5, "tags": 6}
        assert set(blueprint.inputs) == {"numeric", "numeric_missing", "city", "tags", "at", "speed"}
        x = blueprint.inputs["numeric"]
        return keras.Model({"numeric": x}, keras.layers.Dense(1)(x))

    model = own(build_model)
    assert [tensor.name for tensor in model.inputs] == ["numeric"]


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs["numeric"][:, :1]


def of_a_list(blueprint, params):
    x = blueprint.inputs["numeric"]
    return keras.Model([x], keras.layers.Dense(1)(x))


def of_new_inputs(name):
    def build_model(blueprint, params):
        x = keras.Input((2,), name=name)
        return keras.Model({name: x}, keras.layers.Dense(1)(x))

    return build_model


def with_outputs(make):
    def build_model(blueprint, params):
        return keras.Model(dict(blueprint.inputs), make(blueprint.inputs["numeric"]))

    return build_model


NO_MODEL = {
    "a layer": (lambda blueprint, params: keras.layers.Dense(1), "gave Dense, expected a keras.Model"),
    "nothing": (lambda blueprint, params: None, "gave NoneType, expected a keras.Model"),
    "a class of its own": (lambda blueprint, params: Subclassed(), "other inputs than blueprint.inputs"),
    "a list": (of_a_list, "other inputs than blueprint.inputs"),
    "foreign inputs": (of_new_inputs("mine"), "other inputs than blueprint.inputs"),
    "foreign inputs of a known name": (of_new_inputs("numeric"), "other inputs than blueprint.inputs"),
    "two outputs": (with_outputs(lambda x: [x, x]), r"has shape \(\), expected \(None, 1\)"),
    "a wide output": (with_outputs(lambda x: x), r"has shape \(None, 2\), expected \(None, 1\)"),
    "a flat output": (with_outputs(lambda x: x[:, 0]), r"has shape \(None,\), expected \(None, 1\)"),
}


@pytest.mark.parametrize("case", NO_MODEL)
def test_what_is_no_such_model_is_refused(own, case):
    build_model, message = NO_MODEL[case]
    with pytest.raises(RetrainError, match=rf"model\.module: own_module\.build_model .*{message}"):
        own(build_model)


def test_text_of_a_preprocessing_fn_is_refused():
    state = TrainingState(
        [], MODELS["custom"].model_dump(), "adam", {}, 0, "binary", LabelState().model_dump(), {}
    )
    with pytest.raises(RetrainError, match="preprocessing_fn gave text as 'city'"):
        build_of(state, {"city": tf.io.VarLenFeature(tf.string)}, {"clipnorm": 1.0, "seed": 0})
