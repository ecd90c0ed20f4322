"""`run_fn`, as the stock Trainer calls it."""

import hashlib
import math
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.errors import RetrainError
from components.label import Label
from components.train import trainer
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
    run = make_run(tmp_path, after, cold, new=after.rows, buffer=before.rows)()
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
        run(warm_start={"enabled": False}, training={"learning_rate": 300.0, "batch_size": 480})
    assert not run.saved_model.exists() and not run.checkpoint.exists()


def test_nothing_new_to_learn(make_run, before, tmp_path):
    with pytest.raises(RetrainError, match=r"the spans \[2\] have no training example"):
        make_run(tmp_path, before, new=before.rows)(new_spans=[2])


def test_a_champion_that_does_not_fit_is_refused(cold, make_run, before, tmp_path):
    run = make_run(tmp_path, before, cold, new=before.rows)
    with pytest.raises(RetrainError, match=r"the model changed: hidden was \[16\], is \[16, 8\]"):
        run(model={"hidden": [16, 8]})
    assert not run.saved_model.exists()


class Epochs:
    """Feeds losses to the callback as Keras does: the mean of the epoch so far."""

    def __init__(self, limit, chance=0.0):
        self.callback = StopDiverging(limit, chance)

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
    # What begins next to nothing may grow to what a model that knows nothing has.
    Epochs(2.0, chance=0.69)([0.01] * 12, [0.68] * 12)
    with pytest.raises(RetrainError, match="diverged: it began at"):
        Epochs(2.0, chance=0.69)([0.01] * 12, [0.7] * 12)
    for losses in ([[1.0] * 10 + [3.2] * 10], [[0.5] * 3, [1.1] * 3], [[1.0] * 12, [0.1] * 12, [2.1] * 12]):
        with pytest.raises(RetrainError, match="diverged: it began at"):
            Epochs(2.0)(*losses)


# --- what counts how much ---


def class_weights(weights, counts=None, task="multiclass", classes=("a", "b", "c")):
    label = Label(name="y", task=task, class_weights=weights)
    found = trainer._class_weights(label, list(classes), counts)
    return None if found is None else found.tolist()


def test_balanced_classes_count_alike():
    counts = {"a": 60, "b": 30, "c": 10}
    weights = class_weights("balanced", counts)
    assert weights == pytest.approx([100 / 180, 100 / 90, 100 / 30])
    assert len({round(w * n) for w, n in zip(weights, counts.values(), strict=True)}) == 1
    two = class_weights("balanced", {"0": 9, "1": 1}, "binary", ())
    assert two == pytest.approx([10 / 18, 10 / 2])


def test_a_class_without_examples_counts_one():
    assert class_weights("balanced", Counter(a=5, b=5)) == [1.0, 1.0, 1.0]


def test_classes_count_as_told_and_others_one():
    assert class_weights({"c": 2.5}) == [1.0, 1.0, 2.5]
    assert class_weights({"1": 4.0}, None, "binary", ()) == [1.0, 4.0]
    assert class_weights(None) is None


def test_a_weight_of_no_class_is_refused():
    with pytest.raises(
        RetrainError, match=r"class_weights: got 'd', which is no class of 'y', expected some of a, b, c"
    ):
        class_weights({"d": 2.0})


def test_a_rows_weight_is_its_own_times_its_classs():
    """Through a graph that passes three columns on."""

    def graph(columns):
        return {name: tf.sparse.to_dense(column)[:, 0] for name, column in columns.items()}

    def parse(label, weights):
        spec = {"label": tf.io.VarLenFeature(tf.int64), "example_weight": tf.io.VarLenFeature(tf.float32)}
        rows = [
            tf.train.Example(
                features=tf.train.Features(
                    feature={
                        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[i])),
                        "example_weight": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5 + i])),
                    }
                )
            ).SerializeToString()
            for i in (0, 2, 1)
        ]
        _, target, *weight = trainer._parser(graph, spec, [], label, weights)(tf.constant(rows))
        return target.numpy().tolist(), *(w.numpy().tolist() for w in weight)

    told = np.array([1.0, 10.0, 100.0], np.float32)
    plain, weighted = (Label(name="y", task="multiclass", example_weight=name) for name in (None, "w"))
    assert parse(plain, None) == ([0, 2, 1],)
    assert parse(plain, told) == ([0, 2, 1], [1.0, 100.0, 10.0])
    assert parse(weighted, None) == ([0, 2, 1], [0.5, 2.5, 1.5])
    assert parse(weighted, told) == ([0, 2, 1], [0.5, 250.0, 15.0])
    assert parse(Label(name="y"), None) == ([[0], [2], [1]],)


class Vocabulary:
    """A transform graph, as far as its classes go."""

    def __init__(self, *classes):
        self.vocabulary_by_name = lambda name: [c.encode() for c in classes]


def test_too_many_classes_are_refused_and_too_few():
    label = Label(name="kind", task="multiclass", max_classes=3)
    assert trainer._classes(Vocabulary("b", "a", "ü"), label) == ["b", "a", "ü"]
    for classes in ("abcd", "a"):
        with pytest.raises(
            RetrainError, match=rf"'kind' has {len(classes)} classes .*expected 2 to 3 \(label\.max"
        ):
            trainer._classes(Vocabulary(*classes), label)
