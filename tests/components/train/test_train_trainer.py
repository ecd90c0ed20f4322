"""`run_fn`, as the stock Trainer calls it."""

import hashlib
import math

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.errors import RetrainError
from components.train.trainer import StopDiverging

pytestmark = pytest.mark.xdist_group("transform_graph")

COLD_STEPS = 8 * 6  # 240 rows in batches of 32; 6 epochs


def curve(run, name):
    """What TensorBoard shows, an epoch a value."""
    (folder,) = {file.parent for file in (run.folder / "model_run").rglob("*tfevents*")}
    events = EventAccumulator(str(folder)).Reload()
    return [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(name)]


def predictions(run, examples):
    model = tf.saved_model.load(str(run.saved_model))
    return model.signatures["serving_default"](tf.constant(examples))["predictions"].numpy()


def contents(folder):
    return {f: hashlib.sha256(f.read_bytes()).digest() for f in folder.rglob("*") if f.is_file()}


def test_a_cold_start(cold, before, serialize):
    assert cold.state["step"] == COLD_STEPS
    assert cold.state["vocabularies"]["company"] == before.terms("company")
    losses = curve(cold, "epoch_loss")
    assert len(losses) == 6 and losses[-1] < 0.5 * losses[0]
    assert math.isclose(curve(cold, "epoch_learning_rate")[-1], 0.1 * 0.02, rel_tol=0.05)
    answers = predictions(cold, serialize(before.rows))
    label = np.array([row["big"] for row in before.rows])
    assert answers[label == 1].min() > answers[label == 0].max()


def test_a_warm_start_goes_on_from_the_champion(cold, make_run, before, after, tmp_path, serialize):
    champion = contents(cold.folder)
    run = make_run(tmp_path, after, cold, new=after.rows, buffer=before.rows)(watermark=1)
    assert run.state["step"] == COLD_STEPS + 15 * 2  # 16 new rows a batch; 2 epochs
    assert run.state["vocabularies"]["company"] == after.terms("company")
    losses = curve(run, "epoch_loss")
    assert len(losses) == 2 and losses[-1] < losses[0] < curve(cold, "epoch_loss")[0]
    halfway, end = curve(run, "epoch_learning_rate")  # counted from the run's first step
    assert 0.4 * 0.01 < halfway < 0.7 * 0.01 and math.isclose(end, 0.1 * 0.01, rel_tol=0.1)
    assert contents(cold.folder) == champion
    # Terms the champion knew are still told apart without a look at what is new.
    rows = [row | {"company": name} for row in before.rows[:20] for name in ("ann", "bob ")]
    answers = predictions(run, serialize(rows))
    assert answers[::2].min() > answers[1::2].max()


def test_the_same_inputs_and_seed_give_the_same_weights(cold, make_run, before, tmp_path):
    again = make_run(tmp_path, before, new=before.rows)()
    first, second = cold.variables(), again.variables()
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_a_loss_that_is_not_a_number_leaves_no_model(make_run, before, tmp_path):
    rows = [*before.rows, before.rows[1] | {"fare": math.inf}]
    run = make_run(tmp_path, before, new=rows)
    with pytest.raises(
        RetrainError, match=r"the loss became nan at step \d+\. Lower training\.learning_rate"
    ):
        run()
    assert not run.saved_model.exists() and not run.checkpoint.exists()


def test_a_loss_that_grows_leaves_no_model(cold, make_run, before, tmp_path):
    new = [row | {"span": 2} for row in before.rows]
    run = make_run(tmp_path, before, cold, new=new, buffer=before.rows)
    # One step an epoch, so the first loss is that of the weights untouched: not the champion's, which
    # knows these rows by heart.
    with pytest.raises(RetrainError, match=r"diverged: it began at 0\.[5-9]\d+ and epoch 2 ended at .*Lower"):
        run(watermark=1, warm_start={"enabled": False}, training={"learning_rate": 300.0, "batch_size": 480})
    assert not run.saved_model.exists() and not run.checkpoint.exists()


def test_nothing_new_to_learn(make_run, before, tmp_path):
    with pytest.raises(RetrainError, match="no training example is newer than span 1"):
        make_run(tmp_path, before, new=before.rows)(watermark=1)


def test_a_champion_that_does_not_fit_is_refused(cold, make_run, before, tmp_path):
    run = make_run(tmp_path, before, cold, new=before.rows)
    with pytest.raises(RetrainError, match=r"the model changed: hidden was \[16\], is \[16, 8\]"):
        run(model={"hidden": [16, 8]})
    assert not run.saved_model.exists()


class Epochs:
    """Feeds losses to the callback as Keras does: the mean of the epoch so far."""

    def __init__(self, limit):
        self.callback = StopDiverging(limit)

    def __call__(self, *losses):
        for epoch, values in enumerate(losses):
            for batch in range(len(values)):
                logs = {"loss": sum(values[: batch + 1]) / (batch + 1)}
                self.callback.on_train_batch_end(batch, logs)
            self.callback.on_epoch_end(epoch, logs)


def test_divergence_is_measured_against_the_first_ten_steps():
    Epochs(2.0)([1.0] * 10 + [2.9] * 10)
    Epochs(2.0)([0.5] * 3, [0.9] * 3)  # an epoch shorter than that: against all of it
    Epochs(2.0)([1.0] * 12, [1.9] * 12, [0.1] * 12, [1.9] * 12)
    for losses in ([[1.0] * 10 + [3.2] * 10], [[0.5] * 3, [1.1] * 3], [[1.0] * 12, [0.1] * 12, [2.1] * 12]):
        with pytest.raises(RetrainError, match="diverged: it began at"):
            Epochs(2.0)(*losses)
