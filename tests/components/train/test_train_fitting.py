"""How a training is done - its stretches, budgets, checkpoints, place - on a model of a few weights."""

import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from components.train.examples.dataset import Mix, batches
from components.train.examples.heldout import HeldOutLoss, draw
from components.train.fit import resume
from components.train.fit.callbacks import Count, Progress, values
from components.train.fit.fitting import EarlyStopping, Lesson, Stretch, stretches, train
from components.train.fit.place import Place, variables
from components.train.fit.resume import StepCheckpoints
from components.train.model.schedule import RunSchedule

ROWS, BATCH, STEPS = 58, 8, 8  # the last batch of a pass has two rows
RATE = RunSchedule(0.05, 0, 6 * STEPS, 0.1, 0.1)


def parse(serialized, is_new):
    """A row is the number of a point, whose inputs and label are made of it."""
    number = tf.strings.to_number(serialized)[:, None]
    x = tf.concat([tf.sin(number), tf.cos(3 * number), tf.ones_like(number)], axis=1)
    return {"x": x}, tf.cast(x[:, :1] * x[:, 1:2] > 0, tf.float32)


def points(first, rows):
    return tf.data.Dataset.from_tensor_slices(tf.constant([str(i) for i in range(first, first + rows)]))


def stream(done, full=False):
    mix = Mix(BATCH - 1, 1, -(-ROWS // (BATCH - 1)))
    return batches(points(0, ROWS), points(1000, 9), mix, 20, 0, parse, done, full)


def built(dropout=0.3):
    keras.utils.set_random_seed(0)
    x = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(8, activation="relu", name="body")(x)
    hidden = keras.layers.BatchNormalization(name="norm")(hidden)
    hidden = keras.layers.Dropout(dropout, seed=1)(hidden)
    model = keras.Model({"x": x}, keras.layers.Dense(1, name="head")(hidden))
    optimizer = keras.optimizers.Adam(RunSchedule(0.0, 0, 1, 0.0, 1.0))
    optimizer.build(model.trainable_variables)
    return model, optimizer


LESSON = Lesson(
    epochs=6,
    steps=9,
    loss=keras.losses.BinaryCrossentropy(from_logits=True),
    learning_rate=RATE,
    stream=stream,
    xla=False,
    frozen=frozenset(),
    head_steps=0,
    body=frozenset({"body", "norm"}),
    max_seconds=None,
    divergence=100.0,
    chance=100.0,
)


@pytest.fixture(scope="module")
def whole():
    """The variables, and the progress, of a training that nothing interrupts. Not to be changed."""
    model = built()
    progress, resumed_at = train(model, LESSON)
    assert resumed_at is None and progress.step == 54
    return values(variables(model)), progress


def assert_equal(model, expected, tolerance=0.0):
    for variable, array in zip(variables(model), expected, strict=True):
        np.testing.assert_allclose(variable, array, rtol=tolerance, atol=tolerance, err_msg=variable.path)


# --- in how many calls of fit ---


@given(
    epochs=st.integers(1, 6), steps=st.integers(1, 12), done=st.integers(0, 80), head_steps=st.integers(0, 80)
)
def test_stretches_are_what_is_left_of_a_training(epochs, steps, done, head_steps):
    shown = [
        (stretch.epoch + epoch, stretch.first + epoch * stretch.steps + i, stretch.head_only)
        for stretch in stretches(epochs, steps, done, head_steps)
        for epoch in range(stretch.epochs)
        for i in range(stretch.steps)
    ]
    assert shown == [(step // steps, step, step < head_steps) for step in range(done, epochs * steps)]


def test_a_training_without_anything_special_is_one_call():
    assert list(stretches(5, 29, 0, 0)) == [Stretch(0, 0, 5, 29, False)]


# --- killed and taken up again ---


class KilledError(Exception):
    pass


class KillAt(keras.callbacks.Callback):
    """Ends the training as a kill would: nothing is tidied up."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            raise KilledError


@pytest.mark.parametrize(("step", "taken_up"), [(5, None), (17, 14), (37, 35), (38, 35), (45, 42)])
def test_a_killed_training_ends_as_if_nothing_had_happened(whole, tmp_path, step, taken_up):
    """Nine steps an epoch; weights, averages, dropout, shuffles, slots and losses go on where they were."""
    with pytest.raises(KilledError):
        train(built(), LESSON, checkpoints=StepCheckpoints(tmp_path, "mine", 7), callbacks=[KillAt(step)])
    model = built()
    progress, resumed_at = train(model, LESSON, checkpoints=StepCheckpoints(tmp_path, "mine", 7))
    assert resumed_at == taken_up and progress.step == 54
    assert_equal(model, whole[0], 1e-6)
    ours, theirs = progress, whole[1]
    assert ours.first_loss == pytest.approx(theirs.first_loss)
    assert ours.last_loss == pytest.approx(theirs.last_loss)


def test_a_training_that_was_killed_after_its_end_is_not_done_again(whole, tmp_path):
    lesson = replace(LESSON, stream=stream)
    train(built(), lesson, checkpoints=StepCheckpoints(tmp_path, "mine", 54))
    model = built()
    progress, resumed_at = train(
        model, replace(lesson, stream=None), checkpoints=StepCheckpoints(tmp_path, "mine", 54)
    )
    assert resumed_at == 54 and progress.step == 54
    assert_equal(model, whole[0])


def test_a_training_is_known_by_its_configuration_and_its_inputs_content(tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "a").write_text("1")
    known = resume.key({"x": 1}, [folder])
    assert resume.key({"x": 1}, [folder]) == known and len(known) == 32
    assert resume.key({"x": 2}, [folder]) != known
    folder.rename(tmp_path / "other")  # where it lies does not count
    assert resume.key({"x": 1}, [tmp_path / "other"]) == known
    (tmp_path / "other/a").write_text("2")
    assert resume.key({"x": 1}, [tmp_path / "other"]) != known


def test_a_step_checkpoint_is_whole_or_not_there(tmp_path):
    steps = StepCheckpoints(tmp_path, "mine", 10)
    assert steps.read() is None
    steps.write(10, {"step": 10}, {"variable-0": np.ones(3)})
    steps.write(20, {"step": 20}, {"variable-0": np.full(3, 2.0)})
    (tmp_path / "mine/.30").mkdir()  # killed while it was written
    progress, arrays = StepCheckpoints(tmp_path, "mine", 10).read()
    assert progress == {"step": 20} and arrays["variable-0"].tolist() == [2.0] * 3
    steps.write(30, {"step": 30}, {})
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["30"]


def test_the_checkpoints_of_another_training_are_neither_used_nor_kept(tmp_path):
    StepCheckpoints(tmp_path, "mine", 10).write(10, {"step": 10}, {})
    other = StepCheckpoints(tmp_path, "other", 10)
    assert other.read() is None and not list(tmp_path.iterdir())
    other.remove()  # also where it has written none


# --- budgets ---


def test_a_training_out_of_time_keeps_what_it_has_learned():
    model = built()
    progress, _ = train(model, replace(LESSON, epochs=10_000, max_seconds=1.0))
    assert progress.stopped == "max_seconds"
    assert 0 < progress.step == int(model[1].iterations) < 90_000 and 1 <= progress.seconds < 60


def test_time_before_a_kill_counts():
    progress = Progress(step=3, seconds=9.5)
    count = Count(progress, max_seconds=9.6)
    count.set_model(model := keras.Model())
    model.stop_training = False
    count._began -= 0.2
    count.on_train_batch_end(0)
    assert model.stop_training and progress.stopped == "max_seconds" and progress.step == 4


# --- early stopping ---


class Given:
    """Losses on held-out rows as told, and what the variables were then."""

    def __init__(self, *losses):
        self.losses, self.seen = list(losses), []

    def __call__(self, model):
        def loss():
            self.seen.append([np.array(weight) for weight in model.weights])
            return self.losses[len(self.seen) - 1]

        return loss


def test_it_stops_after_epochs_without_a_smaller_loss_and_goes_back_to_the_best():
    model, given = built(), Given(5.0, 3.0, 4.0, 3.0, 1.0)
    progress, _ = train(model, LESSON, early_stopping=EarlyStopping(2, given))
    assert (progress.stopped, progress.step, progress.best_epoch) == ("early_stopping", 4 * 9, 2)
    for weight, best in zip(model[0].weights, given.seen[1], strict=True):
        np.testing.assert_array_equal(weight, best)
    assert int(model[1].iterations) == 2 * 9  # slots and step are of the same point in time


def test_a_training_that_gets_better_goes_on_to_its_end(whole):
    model = built()
    progress, _ = train(model, LESSON, early_stopping=EarlyStopping(1, Given(6.0, 5.0, 4.0, 3.0, 2.0, 1.0)))
    assert (progress.stopped, progress.best_epoch) == ("done", 6)
    assert_equal(model, whole[0])


def test_early_stopping_survives_a_kill(tmp_path):
    losses = (5.0, 3.0, 4.0, 4.5, 6.0)
    one, other = built(), built()
    train(one, LESSON, early_stopping=EarlyStopping(3, Given(*losses)))
    with pytest.raises(KilledError):
        train(
            built(),
            LESSON,
            early_stopping=EarlyStopping(3, Given(*losses)),
            checkpoints=StepCheckpoints(tmp_path, "mine", 9),  # at an epoch's end, which has told its loss
            callbacks=[KillAt(29)],
        )
    checkpoints = StepCheckpoints(tmp_path, "mine", 9)
    progress, at = train(
        other, LESSON, early_stopping=EarlyStopping(3, Given(*losses[3:])), checkpoints=checkpoints
    )
    assert at == 27 and (progress.stopped, progress.step) == ("early_stopping", 45)
    assert_equal(other, values(variables(one)))


def test_held_out_rows_are_the_same_in_whatever_order_they_come():
    rows = [b"%d" % i for i in range(300)]
    one, other = (
        draw(
            [tf.data.Dataset.from_tensor_slices(some[:100]), tf.data.Dataset.from_tensor_slices(some[100:])],
            40,
        )
        for some in (rows, rows[::-1])
    )
    assert one == other and len(set(one)) == 40 and set(one) < set(rows)
    assert one[:10] == draw([tf.data.Dataset.from_tensor_slices(rows)], 10)


def test_a_held_out_loss_is_the_mean_over_rows_whatever_the_batches():
    model, _ = built()
    model.compile(loss="mse")
    rows = points(0, 50)
    losses = [
        HeldOutLoss(model)(rows.batch(size).map(lambda s: parse(s, tf.zeros_like(s, tf.bool))))
        for size in (50, 7)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# --- what is not trained ---


def changed(model, before):
    """The layers whose weights, averages too, are not what they were."""
    return {
        weight.path.split("/")[0]
        for weight, array in zip(model.weights, before, strict=True)
        if np.any(np.array(weight) != array)
    }


def test_frozen_layers_stay_as_they_are():
    model, optimizer = built()
    before = values(model.weights)
    train((model, optimizer), replace(LESSON, frozen=frozenset({"body", "norm"})))
    assert changed(model, before) == {"head"}
    assert all(layer.trainable for layer in model.layers)  # the version that comes next decides for itself


@pytest.mark.parametrize("head_steps", [4, 9, 13])
def test_the_output_layers_are_trained_alone_at_first(head_steps):
    """Also across the end of an epoch; then everything, with one optimizer."""
    model, optimizer = built()
    before = values(model.weights)
    train((model, optimizer), replace(LESSON, epochs=1, steps=head_steps, head_steps=head_steps))
    assert changed(model, before) == {"head"}
    again = built()
    progress, _ = train(again, replace(LESSON, epochs=2, head_steps=head_steps))
    assert changed(again[0], before) == {"head", "body", "norm"}
    assert progress.step == int(again[1].iterations) == 18


# --- where, and in what precision ---

PLAIN = {"precision": "float32", "strategy": "default", "batch_size": BATCH}


def test_nothing_is_copied_where_nothing_is_asked_for():
    kept = built()
    with Place(PLAIN).trained(kept, build=None) as trained:
        assert trained is kept


def bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return built()
    finally:
        keras.config.set_dtype_policy("float32")


def test_what_is_trained_in_half_precision_is_kept_in_single(whole):
    kept = built()
    with Place({**PLAIN, "precision": "mixed_bfloat16"}).trained(kept, bfloat16) as trained:
        assert trained[0].layers[-1].compute_dtype == "bfloat16"
        progress, _ = train(trained, LESSON)
    assert progress.last_loss == pytest.approx(whole[1].last_loss, abs=0.1)
    assert {weight.dtype for weight in kept[0].weights} == {"float32"}
    assert kept[0].layers[-1].compute_dtype == "float32"
    assert int(kept[1].iterations) == 54
    model, _ = built()
    for weight, before in zip(kept[0].trainable_weights, model.trainable_weights, strict=True):
        assert np.any(np.array(weight) != np.array(before)), weight.path


def test_a_compiled_step_learns_the_same():
    def full(done):
        return stream(done, full=True)

    losses = [
        train(built(0.0), replace(LESSON, epochs=2, stream=full, xla=xla))[0].last_loss
        for xla in (False, True)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


# Logical devices can only be made before TensorFlow begins.
ON_TWO_DEVICES = """
import sys, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
tf.config.experimental.enable_op_determinism()
from dataclasses import replace
import tests.components.train.test_train_fitting as t
from components.errors import RetrainError
from components.train.examples.graph import IS_NEW, WHEN_LEARNED
from components.train.objective.regularize import Regularized, anchor, distillation

lesson = replace(t.LESSON, stream=lambda done: t.stream(done, full=True), epochs=2)

def trained(strategy):
    kept, teacher = t.built(0.0), t.built(0.0)[0]
    teacher.layers[-1].bias.assign([2.0])

    def wrap(model):
        ones = {v.path: np.ones(()) for v in model.trainable_variables}
        other = t.built(0.0)[0]
        other.set_weights(teacher.get_weights())
        settings = {"weight": 1.0, "temperature": 2.0, "on": "all"}
        return Regularized(model, [anchor(0.1, model, ones), distillation(settings, other, "binary", 1)])

    def marked(done):
        return lesson.stream(done).map(lambda x, y: ({
            **x, IS_NEW: tf.ones([8]), WHEN_LEARNED: tf.fill([8, 1], np.nan)
        }, y))

    with t.Place({**t.PLAIN, "strategy": strategy}).trained(kept, lambda: t.built(0.0)) as built:
        replicas = built[0].distribute_strategy.num_replicas_in_sync
        loss = lambda model: lambda: t.HeldOutLoss(model)(t.stream(0).take(3))
        progress, _ = t.train(
            built, replace(lesson, stream=marked), wrap, early_stopping=t.EarlyStopping(5, loss)
        )
    return replicas, progress, t.values(kept[0].weights)

replicas, progress, weights = trained("mirrored")
_, alone, expected = trained("default")
assert replicas == 2, replicas
assert alone.first_loss > 0.9  # the label's loss, and what holds back
np.testing.assert_allclose(progress.first_loss, alone.first_loss, rtol=0.05)
np.testing.assert_allclose(progress.last_loss, alone.last_loss, rtol=0.1)
assert progress.step == 18 and progress.best_loss is not None
for one, other in zip(trained("default")[2], expected):
    np.testing.assert_array_equal(one, other)
try:
    t.Place({**t.PLAIN, "strategy": "mirrored", "batch_size": 1})
except RetrainError as error:
    print(error)
"""


def test_a_batch_is_divided_among_the_devices():
    """And, in the same process: the same again, bit by bit, where that is asked for."""
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "training.batch_size: got 1, expected at least 2" in done.stdout
