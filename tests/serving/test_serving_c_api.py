"""Arrays through TensorFlow and back, and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf

from serving.c_api import SavedModel
from serving.errors import Code, RequestError

KINDS = ["float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "uint16",
         "uint32", "uint64", "bool", "complex64", "complex128"]  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A SavedModel that returns what it gets, one tensor a dtype, and text; and one that fails."""

    class Echo(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec(None, tf.as_dtype(kind), name=kind) for kind in [*KINDS, "string"]]
        )
        def echo(self, *tensors):
            return {tensor.dtype.name: tf.identity(tensor) for tensor in tensors}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def fail(self, text):
            with tf.control_dependencies([tf.debugging.assert_equal(text, "fine", message="not fine")]):
                return {"text": tf.strings.join([text, text])}

    folder = str(tmp_path_factory.mktemp("echo"))
    echo = Echo()
    tf.saved_model.save(echo, folder, signatures={"echo": echo.echo, "fail": echo.fail})
    model = SavedModel(folder, "serve", b"", b"")
    yield model
    model.close()


@pytest.fixture(scope="module")
def call(loaded):
    """Calls a signature with arrays by name."""
    from tensorflow.core.protobuf import meta_graph_pb2

    definitions = meta_graph_pb2.MetaGraphDef.FromString(loaded.meta_graph).signature_def

    def run(name, **arrays):
        definition = definitions[name]
        feeds = [loaded.output(definition.inputs[key].name) for key in arrays]
        fetches = [loaded.output(definition.outputs[key].name) for key in definition.outputs]
        return dict(zip(definition.outputs, loaded.function(feeds, fetches)(*arrays.values()), strict=True))

    return run


def arrays(shape):
    """One of every dtype; no two values of one are alike, as far as it goes."""
    size = int(np.prod(shape))
    made = {kind: np.arange(size).astype(tf.as_dtype(kind).as_numpy_dtype).reshape(shape) for kind in KINDS}
    # Short texts lie in the tensor itself, long ones elsewhere.
    texts = np.empty(size, np.object_)
    texts[:] = [b"\xff\x00" * (7 * place) for place in range(size)]
    return {**made, "string": texts.reshape(shape)}


@pytest.mark.parametrize("shape", [(), (1,), (0,), (5,), (2, 3), (2, 0, 3), (1, 1, 1, 1)])
def test_every_dtype_and_shape_goes_through(call, shape):
    sent = arrays(shape)
    got = call("echo", **sent)
    for name, array in sent.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].tolist() == array.tolist(), name


def test_arrays_that_lie_in_memory_otherwise_go_through(call):
    sent = arrays((3, 4))
    views = {name: array.T[::2] for name, array in sent.items()}
    views["float32"].flags.writeable = False
    got = call("echo", **views)
    for name, array in views.items():
        assert got[name].tolist() == array.tolist(), name


def test_what_was_got_outlives_its_tensors(call):
    got = call("echo", **arrays((1000,)))
    for _ in range(20):
        call("echo", **{name: array[::-1] for name, array in arrays((1000,)).items()})
    assert got["int64"].tolist() == list(range(1000))
    assert got["string"].tolist() == arrays((1000,))["string"].tolist()


def test_errors_have_tensorflows_code_and_message(call):
    with pytest.raises(RequestError, match="not fine") as error:
        call("fail", text=np.array([b"\xff\xfe"], np.object_))
    assert error.value.code is Code.INVALID_ARGUMENT
    assert call("fail", text=np.array([b"fine"], np.object_))["text"].tolist() == [b"finefine"]


def test_an_array_of_another_dtype_or_text_that_is_none_is_refused(call):
    with pytest.raises(RequestError) as error:
        call("fail", text=np.array([1.0]))
    assert error.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(TypeError):
        call("fail", text=np.array([1], np.object_))


def test_a_tensor_that_is_not_there_is_named(loaded):
    with pytest.raises(RequestError, match="there is no tensor nope:0"):
        loaded.output("nope:0")
    beyond = loaded.output("fail_text:7")
    with pytest.raises(RequestError, match="does not have output 7") as error:
        loaded.function([], [beyond])()
    assert error.value.code is Code.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("tag", "code", "message"),
    [
        (
            "serve",
            Code.NOT_FOUND,
            "Could not find SavedModel .pb or .pbtxt at supplied export directory path",
        ),
        ("other", Code.NOT_FOUND, "Could not find meta graph def matching supplied tags: { other }"),
    ],
)
def test_what_does_not_load_is_said(loaded, tmp_path, tmp_path_factory, tag, code, message):
    folder = tmp_path
    if tag == "other":
        folder = tmp_path / "small"
        tf.saved_model.save(tf.Module(), str(folder))
    with pytest.raises(RequestError) as error:
        SavedModel(str(folder), tag, b"", b"")
    assert error.value.code is code and message in error.value.message


def test_a_configuration_that_is_none_is_refused(tmp_path):
    with pytest.raises(RequestError) as error:
        SavedModel(str(tmp_path), "serve", b"\xff\xff", b"")
    assert error.value.code is Code.INVALID_ARGUMENT
