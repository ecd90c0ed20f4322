"""What holds a warm start close to the champion: each term does what its paper says, on small problems."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.errors import RetrainError
from components.models import TwoTower
from components.train.examples.graph import IS_NEW, WHEN_LEARNED
from components.train.model.schedule import RunSchedule
from components.train.objective import ewc
from components.train.objective.regularize import (
    Batch,
    Regularized,
    active,
    anchor,
    dark_experience,
    distillation,
    terms,
)
from pipeline.config.sections import Regularization
from tests.components.train.test_train_models import (
    MODELS,
    SMALL,
    TOWERS,
    building,
    make_data,
    state_of,
    target,
)

LOSSES = {
    "binary": keras.losses.BinaryCrossentropy(from_logits=True),
    "multiclass": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "regression": keras.losses.MeanSquaredError(),
}
NAN = float("nan")


def linear(inputs=2, outputs=1, bias=False):
    keras.utils.set_random_seed(0)
    x = keras.Input((inputs,), name="x")
    layer = keras.layers.Dense(outputs, use_bias=bias, kernel_initializer="zeros", name="layer")
    return keras.Model({"x": x}, layer(x))


def mlp(outputs=1, inputs=2):
    keras.utils.set_random_seed(0)
    x = keras.Input((inputs,), name="x")
    hidden = keras.layers.Dense(32, activation="tanh", name="body")(x)
    return keras.Model({"x": x}, keras.layers.Dense(outputs, name="head")(hidden))


def batch(outputs, is_new=None, when_learned=None, x=None):
    rows = len(outputs)
    outputs = tf.constant(outputs, tf.float32)
    return Batch(
        {"x": tf.zeros([rows, 2]) if x is None else tf.constant(x, tf.float32)},
        outputs,
        tf.constant([True] * rows if is_new is None else is_new),
        tf.fill(outputs.shape, NAN) if when_learned is None else tf.constant(when_learned, tf.float32),
    )


def fit(model, added, x, y, task="binary", steps=300, is_new=None, when_learned=None, rate=0.05):
    """Trains on one batch over and over."""
    outputs = model.output.shape[1]
    rows = {
        "x": tf.constant(x, tf.float32),
        IS_NEW: tf.constant([True] * len(x) if is_new is None else is_new),
        WHEN_LEARNED: tf.constant(
            np.full((len(x), outputs), NAN) if when_learned is None else when_learned, tf.float32
        ),
    }
    model.compile(keras.optimizers.Adam(rate), LOSSES[task])
    trained = Regularized(model, added or [lambda _: tf.zeros([])])
    trained.compile(model.optimizer)
    trained.fit(
        tf.data.Dataset.from_tensors((rows, tf.constant(y))).repeat(),
        epochs=1,
        steps_per_epoch=steps,
        verbose=0,
    )
    return model


def loss_on(model, x, y, task="binary"):
    return float(LOSSES[task](tf.constant(y), model({"x": tf.constant(x, tf.float32)})))


# --- L2-SP ---


def test_l2_sp_is_half_the_squared_distance_to_the_start():
    model = linear()
    model.layers[-1].kernel.assign([[1.0], [2.0]])
    term = anchor(0.5, model, {"layer/kernel": np.ones(())})
    assert float(term(batch([[0.0]]))) == 0
    model.layers[-1].kernel.assign([[4.0], [-2.0]])
    assert float(term(batch([[0.0]]))) == pytest.approx(0.5 * 0.5 * (9 + 16))


def test_l2_sp_ends_where_ridge_regression_around_the_start_does():
    """Squared loss: (w - w0)'(w - w0) a/2 + |Xw - y|^2/n has a closed solution."""
    random = np.random.default_rng(0)
    x, start = random.normal(size=(50, 2)), np.array([[3.0], [-1.0]])
    y = x @ [[0.5], [2.0]]
    model = linear()
    model.layers[-1].kernel.assign(start)
    fit(model, [anchor(0.7, model, {"layer/kernel": np.ones(())})], x, y, "regression", steps=600)
    gram = 2 * x.T @ x / 50
    expected = np.linalg.solve(gram + 0.7 * np.eye(2), 2 * x.T @ y / 50 + 0.7 * start)
    np.testing.assert_allclose(model.layers[-1].kernel, expected, atol=1e-3)


# --- EWC ---


def test_the_fisher_of_logistic_regression():
    """Its expectation is the mean of p (1 - p) x^2 (Kirkpatrick et al.; McCullagh and Nelder)."""
    random = np.random.default_rng(1)
    x = random.normal(size=(1000, 2)).astype(np.float32) * [1.0, 3.0]
    model = linear()
    model.layers[-1].kernel.assign([[0.5], [-0.2]])
    p = 1 / (1 + np.exp(-x @ [[0.5], [-0.2]]))
    expected = np.mean(p * (1 - p) * x**2, axis=0)
    found = ewc.fisher(model, examples(x), "binary", seed=0)
    np.testing.assert_allclose(found["layer/kernel"][:, 0], expected, rtol=0.2)
    again = ewc.fisher(model, examples(x[:50]), "binary", seed=0)
    np.testing.assert_array_equal(
        again["layer/kernel"], ewc.fisher(model, examples(x[:50]), "binary", seed=0)["layer/kernel"]
    )


def test_the_fisher_of_several_classes_and_of_a_regression():
    random = np.random.default_rng(2)
    x = random.normal(size=(1000, 2)).astype(np.float32)
    model = linear(outputs=3)
    kernel = random.normal(size=(2, 3)).astype(np.float32)
    model.layers[-1].kernel.assign(kernel)
    p = np.exp(x @ kernel) / np.exp(x @ kernel).sum(axis=1, keepdims=True)
    expected = np.mean((p * (1 - p))[:, None, :] * x[:, :, None] ** 2, axis=0)
    found = ewc.fisher(model, examples(x), "multiclass", 0)["layer/kernel"]
    np.testing.assert_allclose(found, expected, rtol=0.35)
    number = ewc.fisher(linear(), examples(x), "regression", 0)["layer/kernel"]
    np.testing.assert_allclose(number[:, 0], np.mean(x**2, axis=0), rtol=0.25)


def test_a_row_of_a_table_matters_as_often_as_it_is_looked_up():
    index = keras.Input((), dtype="int64", name="i")
    model = keras.Model({"i": index}, keras.layers.Embedding(3, 1, name="table")(index))
    rows = tf.data.Dataset.from_tensor_slices({"i": np.array([0, 0, 0, 1] * 300)}).batch(1)
    found = ewc.fisher(model, rows, "regression", 0)["table/embeddings"][:, 0]
    assert (
        found[2] == 0
        and found[0] == pytest.approx(0.75, abs=0.1)
        and found[1] == pytest.approx(0.25, abs=0.06)
    )


def examples(x):
    return tf.data.Dataset.from_tensor_slices({"x": x.astype(np.float32)}).batch(1)


def two_tasks():
    """One after the other: the first is decided by x0 alone, the second by x1 alone."""
    random = np.random.default_rng(3)
    tasks = []
    for column in (0, 1):
        x = np.zeros((200, 2), np.float32)
        x[:, column] = random.choice([-1.0, 1.0], 200)
        x[:, 1 - column] = random.normal(size=200) * 0.1
        if column:  # what the second says of x0 is wrong
            x[:, 0] = -np.sign(x[:, 1]) * 0.7
        tasks.append((x, (x[:, column:][:, :1] > 0).astype(np.float32)))
    return tasks


def test_ewc_remembers_a_task_that_fine_tuning_forgets():
    """Where L2-SP of the same strength on unimportant weights costs the new task: the point of the paper."""
    (x1, y1), (x2, y2) = two_tasks()

    def learned(strength, decay=0.9):
        model = linear()
        fit(model, [], x1, y1)
        fisher = ewc.fisher(model, examples(x1), "binary", 0)
        fit(model, [anchor(strength, model, fisher)] if strength else [], x2, y2)
        return loss_on(model, x1, y1), loss_on(model, x2, y2)

    forgot, kept = learned(0.0), learned(1000.0)
    assert forgot[0] > 0.5 and kept[0] < 0.1
    assert kept[1] < 0.35  # and the second is learned, by the weight that did not matter to the first


def test_importances_decay_from_version_to_version():
    one, two = {"w": np.array([1.0, 0.0])}, {"w": np.array([0.0, 1.0]), "new": np.array([2.0])}
    after = ewc.consolidate(ewc.consolidate({}, one, 0.5), two, 0.5)
    assert after["w"].tolist() == [0.5, 1.0] and after["new"].tolist() == [2.0]


def test_importances_lie_beside_the_weights(tmp_path):
    assert ewc.load(tmp_path) is None
    ewc.save(tmp_path, {"embedding-city/embeddings": np.ones((2, 3), np.float32)})
    assert ewc.load(tmp_path)["embedding-city/embeddings"].shape == (2, 3)


# --- distillation ---

DISTILLATION = {"weight": 1.0, "temperature": 2.0, "on": "all"}


class Fixed:
    """A teacher that says the same of every row of a batch."""

    def __init__(self, *outputs):
        self.outputs = tf.constant(outputs, tf.float32)

    def __call__(self, inputs, training):
        assert training is False
        return self.outputs


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_student_that_answers_as_its_teacher_costs_nothing(task):
    taught = [[0.3], [-2.0]] if task != "multiclass" else [[0.3, -1.0, 2.0], [1.0, 1.0, 5.0]]
    term = distillation(DISTILLATION, Fixed(*taught), task, 3)
    assert float(term(batch(taught))) == pytest.approx(0, abs=1e-6)
    assert float(term(batch(2.0 * np.array(taught)))) > 0.01


def test_distillation_is_the_divergence_of_softened_probabilities():
    def softened(logits):
        e = np.exp(np.array(logits) / 2.0)
        return e / e.sum()

    term = distillation(DISTILLATION, Fixed([1.0, 2.0, 0.0]), "multiclass", 3)
    p, q = softened([1.0, 2.0, 0.0]), softened([0.0, 0.0, 3.0])
    assert float(term(batch([[0.0, 0.0, 3.0]]))) == pytest.approx(4 * np.sum(p * np.log(p / q)), rel=1e-5)
    two = distillation(DISTILLATION, Fixed([1.5]), "binary", 1)
    p, q = softened([0.0, 1.5]), softened([0.0, -1.0])
    assert float(two(batch([[-1.0]]))) == pytest.approx(4 * np.sum(p * np.log(p / q)), rel=1e-5)


def test_a_class_that_the_champion_did_not_know_is_not_distilled():
    term = distillation(DISTILLATION, Fixed([1.0, 2.0, -50.0]), "multiclass", 2)
    assert float(term(batch([[1.0, 2.0, 50.0]]))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("on", "expected"), [("all", 2.5), ("new", 4.5), ("replayed", 0.5)])
def test_distillation_counts_the_rows_that_it_is_measured_on(on, expected):
    term = distillation({**DISTILLATION, "on": on, "weight": 2.0}, Fixed([0.0], [0.0]), "regression", 1)
    assert float(term(batch([[3.0], [1.0]], [True, False]))) == pytest.approx(2 * expected)
    alone = distillation({**DISTILLATION, "on": "replayed"}, Fixed([0.0]), "regression", 1)
    assert float(alone(batch([[3.0]], [True]))) == 0  # none of them in the batch


def test_distillation_keeps_the_old_answers_while_new_rows_are_learned():
    """Learning without forgetting: no old example is seen again."""
    random = np.random.default_rng(4)
    old_x, new_x = (random.normal([side, 0.0], 1.0, (200, 2)).astype(np.float32) for side in (-2.0, 2.0))
    old_y, new_y = ((x[:, 1:] > 0).astype(np.float32) for x in (old_x, -new_x))

    teacher = fit(mlp(), [], old_x, old_y, steps=200, rate=0.02)

    def learned(weight):
        model = mlp()
        model.set_weights(teacher.get_weights())
        settings = {**DISTILLATION, "weight": weight}
        added = [distillation(settings, teacher, "binary", 1)] if weight else []
        fit(model, added, new_x, new_y, steps=100, rate=0.02)
        before = teacher({"x": old_x}).numpy()
        change = np.mean((tf.sigmoid(model({"x": old_x})) - tf.sigmoid(before)) ** 2)
        return change, loss_on(model, new_x, new_y), loss_on(teacher, new_x, new_y)

    alone, held = learned(0.0), learned(1.0)
    assert held[0] < 0.7 * alone[0]
    assert alone[1] < held[1] < 0.5 * held[2]  # the new rows are learned, less far


# --- DER++ ---


def test_dark_experience_is_the_squared_distance_to_what_was_stored():
    term = dark_experience(0.5)
    stored = [[1.0, 0.0], [0.0, 3.0], [NAN, NAN]]
    outputs = [[2.0, 0.0], [0.0, 0.0], [9.0, 9.0]]
    # of the rows that have some: (1/2 + 9/2) / 2
    assert float(term(batch(outputs, [False] * 3, stored))) == pytest.approx(0.5 * 2.5)
    assert float(term(batch(outputs, [True] * 3, stored))) == 0  # new ones have none of their own
    assert float(term(batch(outputs, [False] * 3))) == 0


def test_an_output_that_came_later_is_held_to_nothing():
    term = dark_experience(1.0)
    assert float(term(batch([[1.0, 2.0, 50.0]], [False], [[1.0, 3.0, NAN]]))) == pytest.approx(0.5)


def test_what_is_not_stored_gives_no_gradient_that_is_no_number():
    outputs = tf.Variable([[1.0, 2.0], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        loss = dark_experience(1.0)(
            Batch({}, outputs, tf.constant([False, False]), tf.constant([[0.0, NAN], [NAN, NAN]]))
        )
    np.testing.assert_allclose(tape.gradient(loss, outputs), [[2.0, 0.0], [0.0, 0.0]])


def test_dark_experience_keeps_what_the_model_said_of_replayed_rows():
    """Beside wrong new labels at the same points: the stored outputs are what tells them apart."""
    random = np.random.default_rng(5)
    x = random.normal(size=(100, 2)).astype(np.float32)
    y = (x[:, :1] > 0).astype(np.float32)
    model = mlp()
    fit(model, [], x, y, steps=100, rate=0.02)
    stored = model({"x": x}).numpy()

    def after(added):
        other = mlp()
        other.set_weights(model.get_weights())
        both, labels = np.concatenate([x, x]), np.concatenate([1 - y, y])
        logits = np.concatenate([np.full_like(stored, NAN), stored])
        is_new = [True] * 100 + [False] * 100
        fit(other, added, both, labels, steps=100, is_new=is_new, when_learned=logits, rate=0.02)
        return np.mean((other({"x": x}).numpy() - stored) ** 2)

    assert after([dark_experience(1.0)]) < 0.3 * after([])


# --- together, and around models of any kind ---


def test_terms_add_up_and_start_at_nothing():
    settings = Regularization.model_validate(
        {"l2_sp": 0.1, "ewc": {"strength": 2.0}, "distillation": {"weight": 1.0}, "dark_experience": 0.5}
    ).model_dump()
    model, teacher = mlp(), mlp()
    fisher = {v.path: np.ones(v.shape, np.float32) for v in model.trainable_variables}
    added = terms(settings, model, teacher, fisher, "binary", 1)
    assert len(added) == 4 and active(settings)
    x = np.random.default_rng(6).normal(size=(5, 2)).astype(np.float32)
    outputs = model({"x": x}).numpy()
    for term in added:
        assert float(term(batch(outputs, [False] * 5, outputs, x))) == pytest.approx(0, abs=1e-6)
    nothing = Regularization().model_dump()
    assert terms(nothing, model, None, {}, "binary", 1) == [] and not active(nothing)


class OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 7.0 + super().compute_loss(x, y, y_pred, sample_weight, training)


class OwnStep(keras.Model):
    def train_step(self, data):
        raise NotImplementedError


def rows_of(x):
    return {
        "x": tf.constant(x),
        IS_NEW: tf.ones([len(x)], tf.bool),
        WHEN_LEARNED: tf.fill([len(x), 1], NAN),
    }


def test_a_model_with_a_loss_of_its_own_keeps_it():
    x = keras.Input((2,), name="x")
    model = OwnLoss({"x": x}, keras.layers.Dense(1, kernel_regularizer="l2")(x))
    model.compile("sgd", LOSSES["binary"])
    trained = Regularized(model, [lambda _: tf.constant(100.0)])
    trained.compile(model.optimizer)
    rows, y = rows_of(np.ones((3, 2), np.float32)), tf.ones([3, 1])
    outputs = trained(rows)
    own = model.compute_loss({"x": rows["x"]}, y, outputs)
    assert own > 7.0
    assert float(trained.compute_loss(rows, y, outputs)) == pytest.approx(100 + float(own))


def test_a_model_with_a_step_of_its_own_is_refused():
    x = keras.Input((2,), name="x")
    with pytest.raises(RetrainError, match=r"OwnStep with a train_step of its own, .*write a"):
        Regularized(OwnStep({"x": x}, keras.layers.Dense(1)(x)), [])


def test_the_wrapper_trains_the_models_own_variables_and_none_of_the_teachers():
    model, teacher = mlp(), mlp()
    added = [distillation(DISTILLATION, teacher, "binary", 1)]
    model.compile("sgd", LOSSES["binary"])
    trained = Regularized(model, added)
    assert [id(v) for v in trained.trainable_variables] == [id(v) for v in model.trainable_variables]


OF_EVERY_KIND = [
    *zip(MODELS.values(), [*LOSSES, "binary", "multiclass"], strict=True),
    (TwoTower(**SMALL, **TOWERS, negatives="in_batch"), "binary"),
]


@pytest.mark.parametrize(("settings", "task"), OF_EVERY_KIND, ids=[*MODELS, "two_tower"])
def test_every_model_can_be_held_back(settings, task):
    """Where everything holds it, and hard, it answers as before; its own loss still counts."""
    inputs, score = make_data(64)
    make = functools.partial(building(settings), state_of(settings, task))
    (model, optimizer), (teacher, _) = make(), make()
    teacher.set_weights(model.get_weights())
    rows = {tensor.name: tf.constant(inputs[tensor.name]) for tensor in model.inputs}
    before = teacher(rows).numpy()
    start = [np.array(weight) for weight in model.trainable_weights]
    optimizer.learning_rate = RunSchedule(0.01, 0, 10, 0.0, 1.0)
    model.compile(optimizer, LOSSES[task])
    weights = {
        "l2_sp": 10.0,
        "ewc": {"strength": 10.0},
        "distillation": {"weight": 1.0},
        "dark_experience": 1.0,
    }
    held = Regularization.model_validate(weights).model_dump()
    ones = {variable.path: np.ones(variable.shape) for variable in model.trainable_variables}
    trained = Regularized(model, terms(held, model, teacher, ones, task, model.output.shape[1]))
    trained.compile(optimizer)
    rows |= {IS_NEW: tf.constant([1.0, 0.0] * 32), WHEN_LEARNED: tf.constant(before)}
    batches = tf.data.Dataset.from_tensors((rows, tf.constant(target(score, task))))
    losses = trained.fit(batches.repeat(), epochs=4, steps_per_epoch=1, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[0] > 0
    moved = [np.abs(weight - at).max() for weight, at in zip(model.trainable_weights, start, strict=True)]
    assert 0 < max(moved) < 0.05
