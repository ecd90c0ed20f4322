"""`run_fn`, as the stock Trainer calls it."""

import hashlib
import json
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.errors import RetrainError
from components.label import Label
from components.names import LOGITS
from components.train import lesson
from components.train.carryover import warm_start
from components.train.examples import graph as graphs
from components.train.fit.callbacks import Progress, StopDiverging
from components.train.fit.resume import StepCheckpoints
from components.train.material import Material, step_checkpoints
from components.train.objective import ewc, losses

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


class Epochs:
    """Feeds losses to the callback as Keras does: the mean of the epoch so far."""

    def __init__(self, limit, chance=0.0):
        self.callback = StopDiverging(limit, chance, Progress())

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
    for epochs in (
        [[1.0] * 10 + [3.2] * 10],
        [[0.5] * 3, [1.1] * 3],
        [[1.0] * 12, [0.1] * 12, [2.1] * 12],
    ):
        with pytest.raises(RetrainError, match="diverged: it began at"):
            Epochs(2.0)(*epochs)


# --- what counts how much ---


def class_weights(weights, counts=None, task="multiclass", classes=("a", "b", "c")):
    label = Label(name="y", task=task, class_weights=weights)
    found = losses.class_weights(label, list(classes), counts)
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
        transformed = graph(tf.io.parse_example(rows, spec))
        _, target, *weight = graphs.rows(transformed, [], label, weights)
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
    assert graphs.classes(Vocabulary("b", "a", "ü"), label) == ["b", "a", "ü"]
    for classes in ("abcd", "a"):
        with pytest.raises(
            RetrainError, match=rf"'kind' has {len(classes)} classes .*expected 2 to 3 \(label\.max"
        ):
            graphs.classes(Vocabulary(*classes), label)


# --- what a run says and keeps of itself ---


def report(run, name="training"):
    return json.loads((run.checkpoint / f"{name}.json").read_text())


def test_what_a_cold_start_cost(cold):
    cost = report(cold)
    assert (cost["steps"], cost["epochs"], cost["examples"]) == (COLD_STEPS, 6, 6 * 240)
    assert (cost["new_rows"], cost["replayed_rows"], cost["replay_ratio"]) == (240, 0, 0.0)
    assert (cost["stopped"], cost["resumed_at"], cost["best_epoch"]) == ("done", None, None)
    assert cost["seconds"] > 0 and cost["losses"]["last"] < cost["losses"]["first"]
    assert report(cold, "warm_start")["start"] == "cold"


def test_a_killed_run_goes_on_where_it_was(cold, make_run, before, tmp_path, monkeypatch):
    run = make_run(tmp_path, before, new=before.rows)
    write, written = StepCheckpoints.write, []

    def write_and_die(*args):
        write(*args)
        written.append(args[1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StepCheckpoints, "write", write_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(training={"checkpoint_steps": 21})
    assert written == [21] and not run.saved_model.exists()
    run()
    assert report(run)["resumed_at"] == 21
    for name, array in cold.variables().items():
        np.testing.assert_allclose(run.variables()[name], array, rtol=1e-6, atol=1e-6, err_msg=name)
    assert not list((tmp_path / "steps").iterdir())


def test_a_step_checkpoint_is_of_one_training_alone(cold, make_run, before, after, tmp_path):
    """Whatever a training is made of is in the name of its step checkpoints."""
    run = make_run(tmp_path / "run", before, cold, new=before.rows, buffer=before.rows[:50])
    other = make_run(tmp_path / "other", after, new=after.rows)
    data = make_run(tmp_path / "data", before, cold, new=before.rows, buffer=before.rows[:49])

    def name(run, **changes):
        return step_checkpoints(
            SimpleNamespace(**{**vars(run.arguments), "custom_config": run.config} | changes)
        )._folder.name

    config = {**run.config, "training": {**run.config["training"], "seed": 1}}
    elsewhere = {**run.config, "resume_dir": str(tmp_path / "elsewhere")}
    same = name(run)
    assert name(run, custom_config=elsewhere) == same
    assert (
        len(
            {
                same,
                name(run, custom_config=config),
                name(data),
                name(run, base_model=None),
                name(run, transform_output=other.arguments.transform_output),
            }
        )
        == 5
    )


def flipped(rows):
    """Rows whose labels are the opposite: what is learned of the others makes them worse."""
    return [row | {"big": 1 - row["big"]} for row in rows]


def test_a_run_stops_when_held_out_rows_are_served_no_better(make_run, before, tmp_path):
    run = make_run(tmp_path, before, held_out={"new": flipped(before.rows[:90])}, new=before.rows)
    run(training={"early_stopping": 2, "epochs": 9})
    cost = report(run)
    assert (cost["stopped"], cost["steps"], cost["best_epoch"]) == ("early_stopping", 3 * 8, 1)
    assert run.state["step"] == 8


def test_early_stopping_without_a_held_out_row_is_refused(make_run, before, tmp_path):
    run = make_run(tmp_path, before, new=before.rows)
    with pytest.raises(RetrainError, match=r"early_stopping: there is no held-out row .* data\.eval_share"):
        run(training={"early_stopping": 1})


def test_faster_arithmetic_learns_and_what_is_served_is_float32(cold, make_run, before, tmp_path, serialize):
    run = make_run(tmp_path, before, new=before.rows)
    run(training={"precision": "mixed_bfloat16", "xla": True})
    losses = report(run)["losses"]
    assert losses["last"] < 0.5 * losses["first"]
    assert {array.dtype.name for array in run.variables().values()} <= {"float32", "int64", "int32"}
    answer = predictions(run, serialize(before.rows))
    # More bits than a bfloat16 has.
    assert answer.dtype == np.float32
    assert np.any(answer != tf.cast(tf.cast(answer, tf.bfloat16), tf.float32).numpy())
    np.testing.assert_allclose(answer, predictions(cold, serialize(before.rows)), atol=0.5)


EVERYTHING = {
    "l2_sp": 1e-3,
    "ewc": {"strength": 10.0, "decay": 0.5, "examples": 40},
    "distillation": {"weight": 0.5, "temperature": 2.0, "on": "all"},
    "dark_experience": 0.5,
}


def with_logits(rows, serialize, run, types):
    """Replayed rows as the buffer holds them: with what the champion said of them."""
    model = tf.saved_model.load(str(run.saved_model))
    logits = model.logits(tf.constant(serialize(rows, types)))
    return [row | {LOGITS: one.tolist()} for row, one in zip(rows, logits.numpy(), strict=True)]


@pytest.mark.long
def test_a_run_with_everything_against_forgetting(cold, make_run, before, after, tmp_path, serialize):
    old = with_logits(before.rows, serialize, cold, before.types)
    graph = SimpleNamespace(**vars(after) | {"types": {**after.types, LOGITS: "FLOAT"}})
    artifacts = {
        "held_out": {
            "new": after.rows[:60],
            "buffer": [*before.rows[:40], *([before.rows[1] | {"span": 0}] * 9)],
        },
        "new": after.rows,
        "buffer": old,
    }
    plain = make_run(tmp_path / "plain", graph, cold, **artifacts)(regularization=EVERYTHING)
    checked = make_run(tmp_path / "checked", graph, cold, **artifacts)(
        regularization=EVERYTHING, poisoning={"max_influence": 0.1, "trusted": "company == 'ann'"}
    )
    # The check changes nothing of what it checks.
    ours, theirs = plain.variables(), checked.variables()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    assert not (plain.checkpoint / "influence.json").exists()
    told = report(checked, "influence")
    ann = sum(row["company"] == "ann" for row in [*after.rows[:60], *artifacts["held_out"]["buffer"]])
    examples = {name: values["examples"] for name, values in told["slices"].items()}
    assert examples == {"past": 49, "span=0": 9, "span=1": 40, "trusted": ann} and ann
    assert told["metric"] == "loss"
    assert all(
        v["with"] > 0 and v["without"] > 0 and v["with"] != v["without"] for v in told["slices"].values()
    )
    # Importances are kept for the next version, of what is trained and of nothing else.
    fisher = ewc.load(checked.checkpoint)
    assert {"embedding-company/embeddings", "to-output/kernel"} <= fisher.keys()
    assert all((value >= 0).all() for value in fisher.values())
    assert max(value.max() for value in fisher.values()) > 0
    # Which is held to them, where they belong now.
    run = make_run(tmp_path / "next", graph, checked, **artifacts)
    run.config["regularization"] = checked.config["regularization"]
    material = Material(SimpleNamespace(**vars(run.arguments), custom_config=run.config))
    started = warm_start.start(
        material.state, material.champion, material.build, material.config["warm_start"]
    )
    held = lesson.importances(material, started)
    for name, value in fisher.items():
        np.testing.assert_allclose(held[name], value, rtol=1e-6, err_msg=name)


def test_poisoned_rows_raise_the_loss_of_past_ones(cold, make_run, before, tmp_path):
    new = flipped([row | {"span": 2} for row in before.rows])
    held_out = {"buffer": before.rows[:80]}
    run = make_run(tmp_path, before, cold, new=new, buffer=before.rows, held_out=held_out)
    told = report(run(poisoning={"max_influence": 0.1}), "influence")["slices"]["span=1"]
    assert told["with"] > 0.1 + told["without"]


def test_frozen_layers_are_the_champions_and_a_rate_that_continues_stays(cold, make_run, before, tmp_path):
    new = [row | {"span": 2} for row in before.rows]
    run = make_run(tmp_path, before, cold, new=new)
    run(
        warm_start={"freeze": ["embedding-*", "dense-0"], "schedule": "continue"},
        training={"final_learning_rate": 0.25},
    )
    assert curve(run, "epoch_learning_rate") == pytest.approx([0.25 * 0.02] * 2)
    for name, array in run.variables().items():
        if name.startswith("model/"):
            same = np.array_equal(array, cold.variables()[name])
            assert same == name.startswith(("model/embedding-", "model/dense-0")), name
