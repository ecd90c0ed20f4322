"""What a session does with a graph, by the size of the model."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving import session as session_module
from serving.session import Session, _config


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saves a perceptron of some width with two signatures; gives its folder and what it computes."""

    def save(width):
        random = np.random.default_rng(width)
        kernel = tf.Variable(random.normal(size=(4, width)).astype(np.float32))
        back = tf.Variable(random.normal(size=(width, 1)).astype(np.float32) / width)
        module = tf.Module()
        module.variables_ = [kernel, back]

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def compute(x):
            return {"y": tf.nn.relu(x @ kernel) @ back}

        folder = tmp_path_factory.mktemp("saved") / str(width)
        tf.saved_model.save(module, str(folder), signatures={"serving_default": compute, "again": compute})
        return folder, lambda x: np.maximum(x @ kernel.numpy(), 0) @ back.numpy()

    return save


@pytest.mark.parametrize(("width", "is_small"), [(8, True), (60_000, False)])
def test_small_and_large_models_answer_what_they_compute(saved, monkeypatch, width, is_small):
    folder, expected = saved(width)
    made = []
    monkeypatch.setattr(session_module, "_config", lambda size: made.append(_config(size)) or made[0])
    session = Session(folder)
    assert made[0].graph_options.rewrite_options.disable_meta_optimizer is is_small
    x = np.ones((3, 4), np.float32)
    for name in ("serving_default", "again"):
        definition = session.signature_defs[name]
        call = session.callable([definition.inputs["x"].name], [definition.outputs["y"].name])
        np.testing.assert_allclose(call(x)[0], expected(x), rtol=1e-4, atol=1e-5)
    session.close()


def test_signatures_are_those_of_the_meta_graph(saved):
    folder, _ = saved(8)
    session = Session(folder)
    whole = meta_graph_pb2.MetaGraphDef.FromString(session._model.meta_graph)
    assert dict(session.signature_defs) == dict(whole.signature_def)
    assert {"serving_default", "again"} <= session.signature_defs.keys()
    session.close()
