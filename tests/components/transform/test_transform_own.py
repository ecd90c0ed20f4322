"""A `preprocessing_fn` of the user's own, beside the configured features."""

import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from components.errors import RetrainError
from components.features import LABEL, NUMERIC, NUMERIC_MEAN, NUMERIC_SCALE, Hashed, Numeric
from components.label import Label
from components.transform.preprocessing import preprocessing_fn

pytestmark = pytest.mark.xdist_group("transform_kinds")


def test_what_it_gives_stands_beside_the_features(fit, tmp_path):
    rows = [{"trip_miles": 2.0 * i, "trip_seconds": 600 * (i % 3), "tip": i % 2} for i in range(12)]
    rows[4] = {"tip": 1}
    types_ = {"trip_miles": "FLOAT", "trip_seconds": "INT", "tip": "INT"}
    graph = fit(
        {"own": rows},
        tmp_path,
        types=types_,
        features=[Numeric(name="trip_miles")],
        label=Label(name="tip"),
        module="tests.custom_model",
    )["own"]
    hours = [row.get("trip_seconds", 0) / 3600 for row in rows]
    speed = np.array(
        [min(row.get("trip_miles", 0) / h, 100) if h else 0 for row, h in zip(rows, hours, strict=True)]
    )
    out = graph(rows)
    np.testing.assert_allclose(out["speed"][:, 0], (speed - speed.mean()) / speed.std(), atol=1e-5)
    assert set(out) == {"speed", NUMERIC, "numeric_missing", NUMERIC_MEAN, NUMERIC_SCALE, LABEL}
    alone = graph([{}], without=["tip"])
    np.testing.assert_allclose(alone["speed"], [[-speed.mean() / speed.std()]], atol=1e-5)


@pytest.fixture
def module(monkeypatch):
    """A module of this name whose `preprocessing_fn` gives something."""

    def module(given):
        own = types.ModuleType("own_module")
        own.build_model = lambda blueprint, params: None
        own.preprocessing_fn = lambda inputs: given
        monkeypatch.setitem(sys.modules, "own_module", own)
        return "own_module"

    return module


def preprocess(module):
    config = {
        "features": [Hashed(name="city").model_dump()],
        "label": Label(name="y").model_dump(),
        "label_state": None,
        "module": module,
        "kept": {},
    }
    with tf.Graph().as_default():  # as TFX traces it
        kinds = {"city": tf.string, "y": tf.int64}
        inputs = {name: tf.compat.v1.sparse_placeholder(k, [None, None]) for name, k in kinds.items()}
        return preprocessing_fn(inputs, config)


@pytest.mark.parametrize("name", ["city", "numeric", "label", "example_weight"])
def test_a_name_that_is_taken_is_refused(module, name):
    given = module({name: tf.zeros([2]), "another": tf.zeros([2])})
    with pytest.raises(RetrainError, match=rf"own_module\.preprocessing_fn gave '{name}', which is taken"):
        preprocess(given)


@pytest.mark.parametrize(
    ("given", "what"), [(None, "NoneType"), ([1], "list"), ({1: 2}, "dict")], ids=["none", "list", "keys"]
)
def test_what_is_no_dict_of_tensors_is_refused(module, given, what):
    with pytest.raises(
        RetrainError, match=f"preprocessing_fn gave {what}, expected a dict of tensors by name"
    ):
        preprocess(module(given))


def test_a_module_need_not_have_one(monkeypatch):
    own = types.ModuleType("own_module")
    own.build_model = lambda blueprint, params: None
    monkeypatch.setitem(sys.modules, "own_module", own)
    assert set(preprocess("own_module")) == {"city", LABEL}
