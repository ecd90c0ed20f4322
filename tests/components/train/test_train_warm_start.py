"""The champion's weights, slots and step, carried to where the refitted vocabulary put its terms."""

import dataclasses
import functools
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import RetrainError
from components.features import Categorical, Identity, Numeric, from_json, raw_columns, to_json
from components.label import Label, LabelState
from components.models import WideAndDeep
from components.train.carryover import checkpoint, warm_start
from components.train.carryover.keys import by_term
from components.train.carryover.plan import hash_bucket
from components.train.examples.graph import Graph
from components.train.export import saved_model as export
from components.train.model.build import build as build_of
from components.train.model.schedule import RunSchedule
from components.train.model.state import TrainingState, check_compatible, load_state
from pipeline.config.sections import WarmStart

pytestmark = pytest.mark.xdist_group("transform_graph")

MODEL = WideAndDeep(hidden=[8], embedding_dim=3, dropout=0.0).model_dump()
NO_STATE = LabelState().model_dump()
OPTIMIZERS = ["adam", "adamw", "rmsprop", "adagrad", "sgd", "nadam"]  # all that a deployment may name
STRANGERS = [f"company {i}" for i in range(12)]


@pytest.fixture(scope="module")
def state_of(graph_features):
    """The state of a model that is fed by a graph."""

    def state_of(graph, features=None, optimizer="adam", **model):
        return TrainingState(
            features=to_json(features or graph_features),
            model=MODEL | model,
            optimizer=optimizer,
            vocabularies={f.name: graph.terms(f.name) for f in graph_features if f.has_vocabulary},
            step=0,
            task="binary",
            label=NO_STATE,
            fit=Graph(str(graph.path), graph_features, columns, Label(name="big")).fit(),
        )

    columns = raw_columns(graph_features)
    return state_of


build = functools.partial(build_of, own={}, training={"clipnorm": 1.0, "seed": 0})


def begin(state, champion=None, **settings):
    started = warm_start.start(state, champion, build, WarmStart(**settings).model_dump())
    started.optimizer.learning_rate = RunSchedule(0.05, 0, 100, 0.0, 1.0)
    return started


def start(state, champion=None, **settings):
    started = begin(state, champion, **settings)
    return started.model, started.optimizer


def train(model, optimizer, inputs, labels, steps):
    inputs = {tensor.name: inputs[tensor.name] for tensor in model.inputs}
    for _ in range(steps):
        with tf.GradientTape() as tape:
            loss = keras.losses.BinaryCrossentropy(from_logits=True)(labels, model(inputs, training=True))
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [weight.value for weight in weights]), weights)


@pytest.fixture(scope="module")
def data(before):
    """What the champion learns: also companies out of vocabulary, so that their rows have moved, too."""
    rows = before.rows + [row | {"company": STRANGERS[i % 12]} for i, row in enumerate(before.rows[:60])]
    return before(rows), np.array([[row["big"]] for row in rows], np.float32)


class Champion:
    """A model after its checkpoint, and after a step more that was taken without a restart."""

    def __init__(self, state, data, folder, steps=3):
        self.state, self.folder = replace(state, step=steps), folder
        self.model, self.optimizer = start(state)
        train(self.model, self.optimizer, *data, steps)
        checkpoint.save(folder, self.model, self.optimizer, self.state)
        self.weights, self.slots = arrays(self.model.weights), arrays(self.optimizer.variables)
        train(self.model, self.optimizer, *data, 1)
        self.next_weights, self.next_slots = arrays(self.model.weights), arrays(self.optimizer.variables)


@pytest.fixture(scope="module")
def champion_of(before, state_of, data, tmp_path_factory):
    """The champion of an optimizer and a dropout; trained once. Not to be changed."""

    @functools.cache
    def champion_of(optimizer="adam", dropout=0.0):
        state = state_of(before, optimizer=optimizer, dropout=dropout)
        return Champion(state, data, tmp_path_factory.mktemp("champion"))

    return champion_of


def arrays(variables):
    # Without the number that Keras gives to a variable without a name.
    return {
        variable.path.split("_")[0] if variable.path.startswith("variable") else variable.path: np.array(
            variable
        )
        for variable in variables
    }


# --- which row a row starts from ---


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=6) | st.text(max_size=6).map(str.encode), unique=True, min_size=1))
def test_terms_start_from_the_row_that_the_real_graph_gives_them(before, terms):
    known = [b"ann", "çyd".encode(), b"bob "]
    terms = known + [term for term in terms if term not in known]
    texts = [term.decode("utf-8", "surrogateescape") for term in terms]
    bucket_of = functools.partial(hash_bucket, buckets=3)
    move = by_term(before.terms("company"), 3, texts, 3, bucket_of)
    assert move.of[: len(terms)].tolist() == before([{"company": term} for term in terms])["company"].tolist()


# --- weights, slots and step ---


def test_through_its_own_graph_the_new_model_answers_as_the_champion(
    cold, before, after, state_of, graph_features, serialize, tmp_path
):
    """SavedModel against SavedModel: terms are reordered, and some are new to the second graph."""
    state = replace(state_of(after), features=cold.config["features"], model=cold.config["model"])
    model, _ = start(state, cold.checkpoint)
    spec = after.output.raw_feature_spec()
    columns = {name: (spec[name].dtype, many) for name, many in cold.config["columns"].items()}
    export.export(model, after.layer, columns, Label(name="big"), [], {}, str(tmp_path / "next"))
    answers = [
        tf.saved_model.load(str(folder)).signatures["serving_default"]
        for folder in (cold.saved_model, tmp_path / "next")
    ]

    def ask(rows):
        return [answer(examples=tf.constant(serialize(rows)))["predictions"].numpy() for answer in answers]

    rows = [row for row in before.rows + after.rows if row["company"] != "dan" and row["area"] != -8]
    rows += [row | {"company": STRANGERS[i % 12]} for i, row in enumerate(rows[:24])]
    ours, theirs = ask(rows)
    assert len({row["company"] for row in rows}) == 9 + 12 and np.ptp(ours) > 0.5
    np.testing.assert_allclose(ours, theirs, atol=1e-5)

    # A term that is no longer in the vocabulary is answered as the champion answers a stranger.
    buckets = before([{"company": name} for name in STRANGERS])["company"] - len(before.terms("company"))
    dan = after([{"company": "dan"}])["company"][0] - len(after.terms("company"))
    stranger = STRANGERS[buckets.tolist().index(dan)]
    dans, strangers = ([row | {"company": name} for row in rows[:20]] for name in ("dan", stranger))
    np.testing.assert_allclose(ask(dans)[1], ask(strangers)[0], atol=1e-5)
    assert np.abs(ask(dans)[0] - ask(dans)[1]).max() > 1e-3  # it had a row of its own


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rows_and_slots_follow_their_terms_and_the_rest_stays(
    before, after, state_of, champion_of, optimizer
):
    champion = champion_of(optimizer)
    model, opt = start(state_of(after, optimizer=optimizer), champion.folder)
    # The oracle is the champion's own graph: the row that it would have looked up.
    source = {
        feature: before([{column: kind(term)} for term in after.terms(feature)])[feature]
        for feature, column, kind in (("company", "company", as_company), ("area_code", "area", int))
    }
    assert len({row for row in source["company"] if row >= 5}) > 1  # new terms of several buckets
    weights, slots = arrays(model.weights), arrays(opt.variables)
    assert weights.keys() == champion.weights.keys() and slots.keys() == champion.slots.keys()
    moved = [
        follows(path, champion.weights[path], new, source, "/embeddings") for path, new in weights.items()
    ]
    assert sum(moved) == 4  # a weight and an embedding for each of the two
    moved = [follows(path, champion.slots[path], new, source, "_embeddings_") for path, new in slots.items()]
    assert sum(moved) == 4 * {"rmsprop": 1, "adagrad": 1, "sgd": 0}.get(optimizer, 2)
    assert slots["optimizer/iteration"] == 3
    assert all(
        np.abs(weights[f"norm-0/moving_{of}"] - at).max() > 0 for of, at in (("mean", 0), ("variance", 1))
    )


def as_company(term):
    return None if term == "<missing>" else term


def follows(path, old, new, source, mark):
    """Whether a variable has rows that moved; asserts that all of it is where it belongs."""
    for feature, rows in source.items():
        if f"-{feature}{mark}" in path:
            terms, buckets = len(rows), len(new) - len(rows)
            np.testing.assert_array_equal(new[:terms], old[rows], err_msg=path)
            np.testing.assert_array_equal(new[terms:], old[len(old) - buckets :], err_msg=path)
            assert len(np.unique(old, axis=0)) > 3, path  # else any row would do
            return True
    np.testing.assert_array_equal(new, old, err_msg=path)
    return False


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_after_the_restart_is_the_step_without_it(champion_of, data, optimizer):
    champion = champion_of(optimizer)
    model, opt = start(champion.state, champion.folder)
    train(model, opt, *data, 1)
    for now, expected, before in (
        (arrays(model.weights), champion.next_weights, champion.weights),
        (arrays(opt.variables), champion.next_slots, champion.slots),
    ):
        assert now.keys() == expected.keys()
        for path, array in now.items():
            np.testing.assert_array_equal(array, expected[path], err_msg=path)
        assert any((array != before[path]).any() for path, array in now.items())


@pytest.mark.parametrize(("was", "becomes"), [(0.3, 0.3), (0.3, 0.0)])
def test_dropout_does_not_matter_however_many_models_there_were(before, state_of, champion_of, was, becomes):
    champion = champion_of(dropout=was)
    start(state_of(before, dropout=0.2))
    model, optimizer = start(state_of(before, dropout=becomes), champion.folder)
    for path, array in arrays(model.weights).items():
        np.testing.assert_array_equal(array, champion.weights[path], err_msg=path)
    assert int(optimizer.iterations) == 3


def test_buckets_and_vocabularies_may_grow_and_shrink(before, state_of, champion_of, graph_features):
    champion = champion_of()
    table = champion.weights["embedding-company/embeddings"]
    for buckets, expected in ((5, [5, 6, 7, 5, 6]), (1, [5])):
        features = [
            Categorical(name="company", oov_buckets=buckets, top_k=5, min_count=2)
            if f.name == "company"
            else f
            for f in graph_features
        ]
        state = state_of(before, features)
        state.vocabularies["company"] = ["dan", "ann"]
        model, _ = start(state, champion.folder)
        rows = arrays(model.weights)["embedding-company/embeddings"]
        np.testing.assert_array_equal(rows, table[[4, 0, *expected]])


def test_a_name_that_begins_anothers_does_not_take_its_slots(tmp_path):
    features = [
        Identity(name="a_embeddings", max=1),
        *(Categorical(name=name) for name in ("a", "a_embeddings_momentum")),
    ]
    inputs = {f.name: np.arange(12) % n for f, n in zip(features, (3, 4, 3), strict=True)}
    labels = (np.arange(12)[:, None] % 5 == 0).astype(np.float32)
    terms = {"a": ["p", "q", "r"], "a_embeddings_momentum": ["s", "t"]}
    old = TrainingState(to_json(features), MODEL, "adam", terms, 0, "binary", NO_STATE, {"tensor": {}})
    champion = Champion(old, (inputs, labels), tmp_path)
    terms = {"a": ["r", "p", "q"], "a_embeddings_momentum": ["t", "s"]}
    _, again = start(replace(old, vocabularies=terms), tmp_path)
    was, now = champion.slots, arrays(again.variables)
    for name, rows in (
        ("a", [2, 0, 1, 3]),
        ("a_embeddings", [0, 1, 2]),
        ("a_embeddings_momentum", [1, 0, 2]),
    ):
        for slot in ("momentum", "velocity"):
            path = f"optimizer/embedding-{name}_embeddings_{slot}"
            np.testing.assert_array_equal(now[path], was[path][rows], err_msg=path)


# --- what is refused ---


def changed(feature, **values):
    return lambda features: [f.model_copy(update=values) if f.name == feature else f for f in features]


FEATURES_CHANGED = {
    "log_fare.log was True, is False": changed("log_fare", log=False),
    "miles.column was 'miles', is 'fare'": changed("miles", column="fare"),
    "hour.max was 4, is 5": changed("hour", max=5),
    "company.type was 'categorical', is 'numeric'": lambda features: [
        Numeric(name="company") if f.name == "company" else f for f in features
    ],
    "hour is gone": lambda features: [f for f in features if f.name != "hour"],
    "day is new": lambda features: [*features, Identity(name="day", max=6)],
    "company is gone; firm is new": changed("company", name="firm"),
    # The columns of the numeric input would change places, and no shape would tell.
    "their order was log_fare, company, miles": lambda features: features[::-1],
}


@pytest.mark.parametrize("fact", FEATURES_CHANGED)
def test_other_features_are_refused(before, state_of, graph_features, fact):
    old, new = state_of(before), state_of(before, FEATURES_CHANGED[fact](graph_features))
    with pytest.raises(RetrainError) as error:
        check_compatible(old, new)
    assert f"the features changed: {fact}" in str(error.value) and "enabled: false" in str(error.value)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"hidden": [8, 4]}, "hidden was [8], is [8, 4]"),
        ({"embedding_dim": 5}, "embedding_dim was 3, is 5"),
        ({"batch_norm": False}, "batch_norm was True, is False"),
        ({"optimizer": "sgd"}, "optimizer was 'adam', is 'sgd'"),
        (
            {"hidden": [4], "optimizer": "sgd"},
            "hidden was [8], is [4]; optimizer was 'adam', is 'sgd'",
        ),
    ],
)
def test_another_model_is_refused(before, state_of, change, fact):
    with pytest.raises(RetrainError) as error:
        check_compatible(state_of(before), state_of(before, **change))
    assert f"the model changed: {fact}. " in str(error.value)


def test_what_a_run_may_change(before, state_of, graph_features):
    features = [
        f.model_copy(update={"top_k": 9, "min_count": 3, "oov_buckets": 2}) if f.has_vocabulary else f
        for f in graph_features
    ]
    check_compatible(state_of(before), state_of(before, features, dropout=0.4))


def test_there_is_no_checkpoint(before, state_of, tmp_path):
    with pytest.raises(RetrainError, match=f"the champion has no checkpoint in {tmp_path}"):
        start(state_of(before), tmp_path)


def remove(folder):
    for file in folder.glob("weights*"):
        file.unlink()


def cut(folder):
    (file,) = folder.glob("weights.data*")
    file.write_bytes(file.read_bytes()[:-40])


@pytest.mark.parametrize("damage", [remove, cut])
def test_a_checkpoint_that_is_not_whole_is_refused(before, state_of, tmp_path, damage):
    state = state_of(before)
    model, optimizer = start(state)
    checkpoint.save(tmp_path, model, optimizer, state)
    start(state, tmp_path)
    damage(tmp_path)
    with pytest.raises(RetrainError, match=f"checkpoint in {tmp_path} is not whole: "):
        start(state, tmp_path)


def test_the_state_is_kept_as_it_was(before, state_of, tmp_path):
    state = state_of(before)
    state.vocabularies["company"].append(b"\xff\n".decode("utf-8", "surrogateescape"))
    model, optimizer = build(state)
    checkpoint.save(tmp_path, model, optimizer, replace(state, step=7))
    assert load_state(tmp_path) == replace(state, step=7)
    assert from_json(load_state(tmp_path).features) == from_json(state.features)


def test_a_label_on_another_scale_is_refused(before, state_of):
    state = state_of(before)
    other = dataclasses.replace(state, label={**state.label, "log": True})
    with pytest.raises(RetrainError, match=r"label\.log was False, is True"):
        check_compatible(state, other)
