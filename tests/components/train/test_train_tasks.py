"""Real runs of other tasks and models than `cold`: what they learn, serve and hand on."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

from components.features import (
    Categorical,
    Hashed,
    Numeric,
    Tensor,
    Text,
    Timestamp,
    from_json,
    request_names,
)
from components.label import Label, LabelState
from components.models import Cnn, Custom, Mlp, TwoTower
from components.names import (
    CLASSES,
    EMBEDDING,
    EXPECTED_ANSWERS,
    MISSING_INT,
    PREDICTIONS,
    SCORES,
    SERVING_DEFAULT,
    SERVING_RAW,
)
from components.smoke import ask
from components.train.carryover import warm_start
from components.train.model.blueprint import densify, own_outputs
from components.train.model.build import build
from components.train.model.state import check_compatible, load_state
from pipeline.config.sections import WarmStart

pytestmark = pytest.mark.xdist_group("train_tasks")

EMPTY = {"INT": MISSING_INT, "FLOAT": math.nan, "BYTES": b""}
DTYPES = {"INT": tf.int64, "FLOAT": tf.float32, "BYTES": tf.string}
FAST = {"epochs": 25, "learning_rate": 0.03, "batch_size": 60}


@pytest.fixture(scope="session")
def learn(fit, make_run, tmp_path_factory):
    """Fits a graph on a table and trains on it: (the graph, the run). Not to be changed."""

    def learn(rows, types, features, label, model, base=None, **config):
        folder = tmp_path_factory.mktemp("learn")
        known = base and LabelState(**base.state["label"]).model_dump()
        graph = fit({"graph": rows}, folder, types, features, label, label_state=known, **config)["graph"]
        run = make_run(folder / "run", graph, base, features=features, label=label, model=model, new=rows)
        run(training=FAST, warm_start={"epochs": 1, "learning_rate": 0.01})
        # Whatever the task and the model: loaded as a server does, it answers as the trained one.
        request = {"saved_model": str(run.saved_model), "expected": str(run.checkpoint / EXPECTED_ANSWERS)}
        assert ask.look(request | {"max_difference": 1e-5}, lambda _: None)["problems"] == []
        return graph, run

    return learn


def served(run):
    return tf.saved_model.load(str(run.saved_model)).signatures


def request(rows, graph, columns):
    """Rows as `serving_raw` takes them."""
    tensors = {}
    for column, name in request_names(columns).items():
        kind, many = graph.types[column], columns[column]
        empty = EMPTY[kind]
        values = [row.get(column) for row in rows]
        values = [[] if v is None else v if isinstance(v, list) else [v] for v in values]
        width = max(map(len, values), default=0) + 1 if many else 1  # one more, so that all rows have padding
        padded = [(v + [empty] * width)[:width] for v in values]
        shape = [len(rows), width] if many else [len(rows)]
        tensors[name] = tf.reshape(tf.constant(padded, DTYPES[kind]), shape)
    return tensors


def answers(run, graph, rows, serialize):
    """What both signatures answer, which must be the same, and the Keras model's output."""
    signatures = served(run)
    default = signatures[SERVING_DEFAULT](examples=tf.constant(serialize(rows, graph.types)))
    raw = signatures[SERVING_RAW](**request(rows, graph, run.config["columns"]))
    assert set(default) == set(raw)
    for name in default:
        np.testing.assert_array_equal(default[name], raw[name], err_msg=name)
    model, _ = restored(run, graph)
    spec = {name: graph.output.raw_feature_spec()[name] for name in run.config["columns"]}
    inputs = graph.layer(tf.io.parse_example(tf.constant(serialize(rows, graph.types)), spec))
    output = model(densify(inputs, [tensor.name for tensor in model.inputs]), training=False)
    return {name: value.numpy() for name, value in default.items()}, output.numpy()


def build_of(run, graph):
    own = own_outputs(graph.output.transformed_feature_spec(), from_json(run.config["features"]))
    return functools.partial(build, own=own, training={"clipnorm": 1.0, "seed": 0})


def restored(run, graph):
    """The model and the optimizer of a run, from its checkpoint."""
    state = load_state(run.checkpoint)
    check_compatible(state, state)
    return warm_start.start(state, run.checkpoint, build_of(run, graph), WarmStart().model_dump())[:2]


# --- several classes, an image, odd columns ---

IMAGE_TYPES = {"Bild é": "FLOAT", "1st words": "BYTES", "class no": "INT", "kind": "BYTES", "span": "INT"}
IMAGE_FEATURES = [
    Tensor(name="image", column="Bild é", shape=[3, 3, 1]),
    Text(name="words", column="1st words", min_count=1),
    Hashed(name="codes", column="class no", multivalent=True, buckets=8),
]


def image_rows(span, kinds, rows=180):
    """Where the bright row of the image is, says which kind it is."""
    random = np.random.default_rng(span)
    table = []
    for i in range(rows):
        which = i % len(kinds)
        pixels = random.normal(size=(3, 3)) * 0.3
        pixels[which % 3] += 3 if which < 3 else -3
        words = None if i % 5 == 0 else f"word {i % 7}"
        codes = [[1, 2], [], [i % 4]][i % 3]
        table.append(
            {
                "Bild é": pixels.ravel().tolist(),
                "1st words": words,
                "class no": codes,
                "kind": kinds[which],
                "span": span,
            }
        )
    return table


KINDS = ["top", "middlé", "low"]


@pytest.fixture(scope="module")
def image(learn):
    label = Label(name="kind", task="multiclass", class_weights="balanced")
    model = Cnn(filters=[8], hidden=[16], embedding_dim=3, dropout=0.1)
    return learn(image_rows(1, KINDS), IMAGE_TYPES, IMAGE_FEATURES, label, model)


def test_a_cnn_learns_classes_and_serves_all_of_them(image, serialize):
    graph, run = image
    answer, logits = answers(run, graph, graph.rows, serialize)
    assert set(answer) == {PREDICTIONS, CLASSES, SCORES}
    assert run.state["label"]["classes"] == graph.terms("label") and set(graph.terms("label")) == set(KINDS)
    names = np.array([name.encode() for name in graph.terms("label")])
    assert (answer[CLASSES] == names).all() and answer[CLASSES].shape == (len(graph.rows), 3)
    np.testing.assert_allclose(answer[SCORES], tf.nn.softmax(logits), atol=1e-6)
    assert (answer[PREDICTIONS] == names[answer[SCORES].argmax(axis=1)]).all()
    truth = np.array([row["kind"].encode() for row in graph.rows])
    assert (answer[PREDICTIONS] == truth).mean() > 0.95


def test_a_request_without_anything_is_answered(image, serialize):
    graph, run = image
    answer, _ = answers(run, graph, [{}, {"Bild é": [1.0]}, {"class no": [7, 8, 9]}], serialize)
    np.testing.assert_allclose(answer[SCORES].sum(axis=1), 1, rtol=1e-5)
    none = served(run)[SERVING_RAW](**request([], graph, run.config["columns"]))
    assert none[SCORES].shape == (0, 3)


def test_a_new_class_comes_last_and_leaves_the_others_answers(image, learn, serialize):
    graph, run = image
    rows = image_rows(2, ["low", "middlé", "new", "top"])
    later, after = learn(
        rows, IMAGE_TYPES, IMAGE_FEATURES, Label.model_validate(run.config["label"]),
        Cnn.model_validate(run.config["model"]), base=run,
    )  # fmt: skip
    assert after.state["label"]["classes"] == [*graph.terms("label"), "new"]
    assert after.state["step"] == run.state["step"] + 3
    # Before its first step: the champion's logits, and one more.
    start = load_state(after.checkpoint)
    model, optimizer = warm_start.start(
        start, run.checkpoint, build_of(after, later), WarmStart().model_dump()
    )[:2]
    assert int(optimizer.iterations) == run.state["step"]
    without = later.rows[:40]
    _, known = answers(run, graph, without, serialize)
    spec = {name: later.output.raw_feature_spec()[name] for name in run.config["columns"]}
    # The images' scale is fitted anew, and is not what is compared here: they go through the first graph.
    inputs = graph.layer(tf.io.parse_example(tf.constant(serialize(without, later.types)), spec))
    inputs["words"] = later.layer(tf.io.parse_example(tf.constant(serialize(without, later.types)), spec))[
        "words"
    ]
    output = model(densify(inputs, [tensor.name for tensor in model.inputs]), training=False)
    assert output.shape == (40, 4)
    np.testing.assert_allclose(output[:, :3], known, atol=1e-5)
    answer, _ = answers(after, later, later.rows, serialize)
    assert answer[SCORES].shape == (len(rows), 4)


# --- a number, weighted rows ---

TRIP_TYPES = {
    "self": "FLOAT",
    "Trip start": "BYTES",
    "zone": "BYTES",
    "fare": "FLOAT",
    "counts": "FLOAT",
    "span": "INT",
}
TRIP_FEATURES = [
    Numeric(name="miles", column="self"),
    Timestamp(name="start", column="Trip start", parts=["hour"]),
    Categorical(name="zone"),
]


def trip_rows(span, shift=0.0):
    """10 and 2 a mile, times 3 in a third of the zones; and rows that should hardly count."""
    return [
        {
            "self": float(i % 20),
            "Trip start": None if i % 9 == 0 else f"2024-01-{i % 28 + 1:02}T{i % 24:02}:00:00",
            "zone": "abc"[i % 3],
            "fare": 1000.0 if i % 5 == 4 else (10 + 2 * (i % 20)) * (3 if i % 3 == 2 else 1) + shift,
            "counts": 0.0001 if i % 5 == 4 else None,
            "span": span,
        }
        for i in range(240)
    ]


@pytest.fixture(scope="module")
def fares(learn):
    label = Label(name="fare", task="regression", log=True, example_weight="counts")
    return learn(trip_rows(1), TRIP_TYPES, TRIP_FEATURES, label, Mlp(hidden=[32], dropout=0.0))


def test_a_number_is_served_in_its_own_unit_and_weights_count(fares, serialize):
    graph, run = fares
    answer, z = answers(run, graph, graph.rows, serialize)
    kept = run.state["label"]
    np.testing.assert_allclose(
        answer[PREDICTIONS], np.expm1(z[:, 0] * kept["scale"] + kept["mean"]), rtol=1e-4
    )
    counted = [i for i, row in enumerate(graph.rows) if row["counts"] is None]
    truth = np.array([graph.rows[i]["fare"] for i in counted])
    # The others, a fifth of the rows and 20 times as much, would be seen.
    assert np.sqrt(np.mean((answer[PREDICTIONS][counted] - truth) ** 2)) < 0.3 * np.std(truth)
    assert list(answer) == [PREDICTIONS] and answer[PREDICTIONS].dtype == np.float32


def test_a_warm_start_keeps_the_scale(fares, learn, serialize):
    run = fares[1]
    label = Label.model_validate(run.config["label"])
    later, after = learn(
        trip_rows(2, shift=500.0),
        TRIP_TYPES,
        TRIP_FEATURES,
        label,
        Mlp.model_validate(run.config["model"]),
        base=run,
    )
    assert after.state["label"] == run.state["label"] and after.state["step"] == run.state["step"] + 4
    answer, z = answers(after, later, later.rows[:20], serialize)
    kept = run.state["label"]
    np.testing.assert_allclose(
        answer[PREDICTIONS], np.expm1(z[:, 0] * kept["scale"] + kept["mean"]), rtol=1e-4
    )


# --- two towers; a model of one's own ---

PAIR_TYPES = {
    "user id": "INT",
    "trip_miles": "FLOAT",
    "trip_seconds": "INT",
    "genres": "BYTES",
    "year": "INT",
    "liked": "INT",
    "span": "INT",
}
PAIR_FEATURES = [
    Categorical(name="user_id", column="user id"),
    Numeric(name="trip_miles"),
    Categorical(name="genres", multivalent=True),
    Numeric(name="year"),
]
PAIRS = {"features": PAIR_FEATURES, "columns": ("trip_seconds",), "label": Label(name="liked")}
MODELS = {
    "logged": TwoTower(
        user=["user_id", "trip_miles"], item=["genres", "year"], hidden=[16], output_dim=5, dropout=0.0
    ),
    "in_batch": TwoTower(
        user=["user_id", "trip_miles"],
        item=["genres", "year"],
        hidden=[16],
        output_dim=5,
        dropout=0.0,
        negatives="in_batch",
    ),
    "custom": Custom(module="tests.custom_model", params={"dim": 4, "hidden": 16}),
}


def pair_rows(span, users=6):
    """A user likes the genre that the id stands for."""
    genres = ["comedy", "drama", "thriller"]
    return [
        {
            "user id": i % users,
            "trip_miles": None if i % 7 == 0 else float(i % 5),
            "trip_seconds": 60 * (i % 11),
            "genres": [genres[i // users % 3], *(["long"] if i % 4 == 0 else [])],
            "year": 1990 + i // users % 3,
            "liked": int(i // users % 3 == i % users % 3),
            "span": span,
        }
        for i in range(240)
    ]


@pytest.fixture(scope="module")
def pairs(fit, tmp_path_factory):
    """A graph that is fitted once, with what the custom model needs, and one of other users."""
    return fit(
        {"before": pair_rows(1), "after": pair_rows(2, users=8)[::-1]},
        tmp_path_factory.mktemp("pairs"),
        types=PAIR_TYPES,
        features=PAIR_FEATURES,
        label=Label(name="liked"),
        module="tests.custom_model",
    )


@pytest.fixture(scope="module")
def pair_run(pairs, make_run, tmp_path_factory):
    """A run of a model; made once."""

    @functools.cache
    def pair_run(name):
        graph, folder = pairs["before"], tmp_path_factory.mktemp("pair")
        run = make_run(folder, graph, **PAIRS, model=MODELS[name], new=graph.rows)
        return run(training=FAST)

    return pair_run


def likes(rows):
    return np.array([row["liked"] for row in rows])


@pytest.mark.parametrize("name", ["logged", "in_batch", "custom"])
def test_who_likes_what_is_learned_and_served(pairs, pair_run, serialize, name):
    graph, run = pairs["before"], pair_run(name)
    answer, logits = answers(run, graph, graph.rows, serialize)
    np.testing.assert_allclose(answer[PREDICTIONS], 1 / (1 + np.exp(-logits[:, 0])), atol=1e-6)
    truth = likes(graph.rows)
    assert answer[PREDICTIONS][truth == 1].mean() > answer[PREDICTIONS][truth == 0].mean() + 0.4


@pytest.mark.parametrize("name", ["logged", "in_batch"])
def test_both_towers_are_served(pairs, pair_run, serialize, name):
    graph, run = pairs["before"], pair_run(name)
    rows = [*graph.rows[:30], {}, {"user id": 99, "genres": ["unknown", "drama"]}]
    signatures, columns = served(run), run.config["columns"]
    sides = {"user": ["user id", "trip_miles"], "item": ["genres", "year"]}
    embedded = {}
    for side, names in sides.items():
        asked = request(rows, graph, {name: columns[name] for name in names})
        answer = signatures[f"{side}_{EMBEDDING}"](**asked)
        assert list(answer) == [EMBEDDING]
        embedded[side] = answer[EMBEDDING].numpy()
    _, logits = answers(run, graph, rows, serialize)
    model, _ = restored(run, graph)
    scale, bias = (float(w.numpy().ravel()[0]) for w in model.get_layer("pair-score").weights)
    np.testing.assert_allclose(np.linalg.norm(embedded["user"], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        np.sum(embedded["user"] * embedded["item"], axis=1) * scale + bias, logits[:, 0], rtol=1e-3, atol=1e-4
    )
    assert embedded["item"].shape == (len(rows), 5)


def test_a_model_of_ones_own_goes_on_from_the_champion(pairs, pair_run, make_run, serialize, tmp_path):
    graph = pairs["after"]
    run = make_run(tmp_path, graph, pair_run("custom"), **PAIRS, model=MODELS["custom"], new=graph.rows)
    run(training=FAST)
    assert run.state["step"] == 4 * 25 + 4 * 2
    answer, _ = answers(run, graph, graph.rows, serialize)
    truth = likes(graph.rows)
    assert answer[PREDICTIONS][truth == 1].mean() > answer[PREDICTIONS][truth == 0].mean() + 0.4
