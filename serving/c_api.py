"""What a server needs of TensorFlow's C API (tensorflow/c/c_api.h), which its Python package brings along.

Arrays have the dtypes of numpy; text has dtype object and holds bytes.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.errors import Code, RequestError

_LIBRARY = str(Path(tf.sysconfig.get_lib(), "libtensorflow_cc.so.2"))
# A function of the one lets go of the interpreter's lock; of the other not, as it takes less time than that.
_SLOW, _QUICK = ctypes.CDLL(_LIBRARY), ctypes.PyDLL(_LIBRARY)
_STRING = tf.string.as_datatype_enum
_STRING_BYTES = 24  # sizeof(TF_TString)

_int, _size, _text, _pointer = ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p


class Output(ctypes.Structure):
    """TF_Output: one output of an operation."""

    _fields_ = (("operation", _pointer), ("index", _int))


class _Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = (("data", _pointer), ("length", _size), ("deallocator", _pointer))


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function


_new_status = _function(_QUICK, "TF_NewStatus", _pointer)
_delete_status = _function(_QUICK, "TF_DeleteStatus", None, _pointer)
_get_code = _function(_QUICK, "TF_GetCode", _int, _pointer)
_get_message = _function(_QUICK, "TF_Message", _text, _pointer)
_new_buffer = _function(_QUICK, "TF_NewBuffer", ctypes.POINTER(_Buffer))
_buffer_of = _function(_QUICK, "TF_NewBufferFromString", ctypes.POINTER(_Buffer), _text, _size)
_delete_buffer = _function(_QUICK, "TF_DeleteBuffer", None, ctypes.POINTER(_Buffer))
_new_graph = _function(_QUICK, "TF_NewGraph", _pointer)
_delete_graph = _function(_SLOW, "TF_DeleteGraph", None, _pointer)
_find_operation = _function(_QUICK, "TF_GraphOperationByName", _pointer, _pointer, _text)
_new_options = _function(_QUICK, "TF_NewSessionOptions", _pointer)
_set_config = _function(_QUICK, "TF_SetConfig", None, _pointer, _text, _size, _pointer)
_delete_options = _function(_QUICK, "TF_DeleteSessionOptions", None, _pointer)
_load_session = _function(
    _SLOW, "TF_LoadSessionFromSavedModel", _pointer, _pointer, _pointer, _text, ctypes.POINTER(_text), _int,
    _pointer, ctypes.POINTER(_Buffer), _pointer,
)  # fmt: skip
_close_session = _function(_SLOW, "TF_CloseSession", None, _pointer, _pointer)
_delete_session = _function(_SLOW, "TF_DeleteSession", None, _pointer, _pointer)
_run_session = _function(
    _SLOW, "TF_SessionRun", None, _pointer, ctypes.POINTER(_Buffer), _pointer, _pointer, _int, _pointer,
    _pointer, _int, _pointer, _int, _pointer, _pointer,
)  # fmt: skip
_allocate_tensor = _function(_QUICK, "TF_AllocateTensor", _pointer, _int, _pointer, _int, _size)
_parse_tensor = _function(_QUICK, "TF_TensorFromProto", None, ctypes.POINTER(_Buffer), _pointer, _pointer)
_delete_tensor = _function(_QUICK, "TF_DeleteTensor", None, _pointer)
_tensor_type = _function(_QUICK, "TF_TensorType", _int, _pointer)
_tensor_rank = _function(_QUICK, "TF_NumDims", _int, _pointer)
_tensor_size = _function(_QUICK, "TF_Dim", ctypes.c_int64, _pointer, _int)
_tensor_bytes = _function(_QUICK, "TF_TensorByteSize", _size, _pointer)
_tensor_data = _function(_QUICK, "TF_TensorData", _pointer, _pointer)
_string_data = _function(_QUICK, "TF_StringGetDataPointer", _pointer, _pointer)
_string_size = _function(_QUICK, "TF_StringGetSize", _size, _pointer)


class SavedModel:
    """A SavedModel that TensorFlow has loaded: its graph, and a session with its variables and tables.

    Attributes:
      meta_graph: its serialized MetaGraphDef.
    """

    def __init__(self, folder: str, tag: str, config: bytes, run_options: bytes) -> None:
        """Loads it.

        Args:
          folder: of the SavedModel.
          tag: of the one of its graphs that is wanted.
          config: a serialized ConfigProto.
          run_options: serialized RunOptions of every run.

        Raises:
          RequestError: it does not load, with TensorFlow's code and message.
        """
        self._graph, self._session = _new_graph(), None
        self._run_options = _buffer_of(run_options, len(run_options))
        options, meta_graph = _new_options(), _new_buffer()
        try:
            with _checked() as status:
                _set_config(options, config, len(config), status)
            with _checked() as status:
                tags = (_text * 1)(tag.encode())
                self._session = _load_session(
                    options, None, folder.encode(), tags, 1, self._graph, meta_graph, status
                )
            self.meta_graph = ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length)
        except BaseException:
            self.close()
            raise
        finally:
            _delete_options(options)
            _delete_buffer(meta_graph)

    def output(self, name: str) -> Output:
        """Returns the output of an operation that `OPERATION:INDEX` names.

        Raises:
          RequestError: INVALID_ARGUMENT, there is none.
        """
        operation, _, index = name.partition(":")
        found = _find_operation(self._graph, operation.encode())
        if not found:
            raise RequestError(Code.INVALID_ARGUMENT, f"there is no tensor {name} in the graph")
        return Output(found, int(index or 0))

    def function(self, feeds: Sequence[Output], fetches: Sequence[Output]) -> Callable[..., list[np.ndarray]]:
        """Returns a function from the values of some tensors, an argument each, to those of others.

        It raises:
          RequestError: the run fails, with TensorFlow's code and message.
        """
        inputs, outputs = (Output * len(feeds))(*feeds), (Output * len(fetches))(*fetches)
        input_values, output_values = _pointer * len(feeds), _pointer * len(fetches)

        def run(*values: np.ndarray) -> list[np.ndarray]:
            given, got = input_values(), output_values()
            try:
                for place, value in enumerate(values):
                    given[place] = _to_tensor(value)
                with _checked() as status:
                    _run_session(
                        self._session, self._run_options, inputs, given, len(feeds), outputs, got,
                        len(fetches), None, 0, None, status,
                    )  # fmt: skip
                return [_to_array(tensor) for tensor in got]
            finally:
                for tensor in (*given, *got):
                    if tensor is not None:
                        _delete_tensor(tensor)

        return run

    def close(self) -> None:
        """Frees its memory. Nothing may use it or its functions any more."""
        if self._session is not None:
            with _checked() as status:
                _close_session(self._session, status)
            with _checked() as status:
                _delete_session(self._session, status)
            self._session = None
        if self._graph is not None:
            _delete_graph(self._graph)
            _delete_buffer(self._run_options)
            self._graph = None


@contextmanager
def _checked() -> Iterator[Any]:
    """A status for a call; raises what it says then."""
    status = _new_status()
    try:
        yield status
        if code := _get_code(status):
            raise RequestError(Code(code), _get_message(status).decode(errors="replace"))
    finally:
        _delete_status(status)


def _to_tensor(array: np.ndarray) -> Any:
    if array.dtype == np.object_:
        return _to_strings(array)
    content = array.tobytes()  # In order, however the array lies in memory.
    # The dtype is that of the array, whatever is asked for: so nothing is read beyond its end.
    tensor = _allocate_tensor(_enum(array.dtype), _dimensions(array.shape), array.ndim, len(content))
    if content:
        ctypes.memmove(_tensor_data(tensor), content, len(content))
    return tensor


def _to_strings(array: np.ndarray) -> Any:
    proto = tensor_pb2.TensorProto(dtype=_STRING, string_val=array.ravel().tolist())
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    content = proto.SerializeToString()
    buffer, tensor = _buffer_of(content, len(content)), _allocate_tensor(_STRING, None, 0, _STRING_BYTES)
    try:
        with _checked() as status:
            _parse_tensor(buffer, tensor, status)
    except BaseException:
        _delete_tensor(tensor)
        raise
    finally:
        _delete_buffer(buffer)
    return tensor


def _to_array(tensor: Any) -> np.ndarray:
    shape = [_tensor_size(tensor, dimension) for dimension in range(_tensor_rank(tensor))]
    data, dtype = _tensor_data(tensor), _tensor_type(tensor)
    if dtype != _STRING:
        content = ctypes.string_at(data, _tensor_bytes(tensor)) if data else b""
        return np.frombuffer(content, _numpy(dtype)).reshape(shape)
    texts = np.empty(math.prod(shape), np.object_)
    for place in range(texts.size):
        text = data + place * _STRING_BYTES
        texts[place] = ctypes.string_at(_string_data(text), _string_size(text))
    return texts.reshape(shape)


@functools.lru_cache(1024)
def _dimensions(shape: tuple[int, ...]) -> Any:
    return (ctypes.c_int64 * len(shape))(*shape)


@functools.cache
def _enum(dtype: np.dtype) -> int:
    return int(tf.as_dtype(dtype).as_datatype_enum)


@functools.cache
def _numpy(enum: int) -> np.dtype:
    return np.dtype(tf.as_dtype(enum).as_numpy_dtype)
