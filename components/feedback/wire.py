"""The messages of a prediction log, as protobuf has them on the wire: read without TensorFlow.

The modules that tensorflow-serving-api ships import all of TensorFlow, which takes 7 seconds; here are the
same messages, less the fields that nobody reads here. Their numbers and types are those of
tensorflow_serving/apis/prediction_log.proto, logging.proto, model.proto and predict.proto, and of
tensorflow/core/framework/tensor.proto and tensorflow/core/example/example.proto.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_PACKAGE = "retrain"
_SCALARS = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12,
    "uint32": 13,
}  # fmt: skip
_MESSAGE, _OPTIONAL, _REPEATED = 11, 1, 3

# Message -> field -> (number, type); * before a type: repeated, % : a map from text.
_MESSAGES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "Int64Value": {"value": (1, "int64")},
    "ModelSpec": {"name": (1, "string"), "version": (2, "Int64Value"), "signature_name": (3, "string")},
    "LogMetadata": {
        "model_spec": (1, "ModelSpec"),
        "timestamp_secs": (4, "int64"),
        "request_origin": (6, "string"),
    },
    "Dim": {"size": (1, "int64")},
    "TensorShape": {"dim": (2, "*Dim")},
    "Tensor": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "TensorShape"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "*float"),
        "double_val": (6, "*double"),
        "int_val": (7, "*int32"),
        "string_val": (8, "*bytes"),
        "int64_val": (10, "*int64"),
        "bool_val": (11, "*bool"),
        "uint32_val": (16, "*uint32"),
        "uint64_val": (17, "*uint64"),
    },
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "%Tensor")},
    "PredictResponse": {"outputs": (1, "%Tensor"), "model_spec": (2, "ModelSpec")},
    "PredictLog": {"request": (1, "PredictRequest"), "response": (2, "PredictResponse")},
    "PredictionLog": {"log_metadata": (1, "LogMetadata"), "predict_log": (6, "PredictLog")},
    "BytesList": {"value": (1, "*bytes")},
    "FloatList": {"value": (1, "*float")},
    "Int64List": {"value": (1, "*int64")},
    "Feature": {
        "bytes_list": (1, "BytesList"),
        "float_list": (2, "FloatList"),
        "int64_list": (3, "Int64List"),
    },
    "Features": {"feature": (1, "%Feature")},
    "Example": {"features": (1, "Features")},
}
_STRING = 7
# DataType -> numpy's, and the field of the values where they are not in `tensor_content`.
_DTYPES = {
    1: ("<f4", "float_val"), 2: ("<f8", "double_val"), 3: ("<i4", "int_val"), 4: ("u1", "int_val"),
    5: ("<i2", "int_val"), 6: ("i1", "int_val"), 9: ("<i8", "int64_val"), 10: ("?", "bool_val"),
    17: ("<u2", "int_val"), 22: ("<u4", "uint32_val"), 23: ("<u8", "uint64_val"),
}  # fmt: skip


@functools.cache
def message(name: str) -> Any:
    """The class of a message, such as `PredictionLog` or `Example`."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


@functools.cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(
        name="retrain/prediction_log.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            if kind[0] == "%":
                entry = described.nested_type.add(name=_entry_name(field))
                entry.options.map_entry = True
                _add_field(entry, "key", 1, "string")
                _add_field(entry, "value", 2, kind[1:])
                kind = f"*{name}.{entry.name}"
            _add_field(described, field, number, kind)
    # A pool of its own: in TensorFlow's these names stand for TensorFlow's.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _entry_name(field: str) -> str:
    return "".join(part.capitalize() for part in field.split("_")) + "Entry"


def _add_field(described: Any, name: str, number: int, kind: str) -> None:
    repeated, kind = kind[0] == "*", kind.lstrip("*")
    field = described.field.add(name=name, number=number, label=_REPEATED if repeated else _OPTIONAL)
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _MESSAGE, f".{_PACKAGE}.{kind}"


def to_array(tensor: Any) -> np.ndarray:
    """The values of a `Tensor`; text is bytes in an array of dtype object.

    Raises:
        ValueError: it is of a dtype that no column has, or its values do not fill its shape.
    """
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype == _STRING:
        array = np.empty(len(tensor.string_val), np.object_)
        array[:] = tensor.string_val
        return array.reshape(shape)
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"a tensor of dtype {tensor.dtype}, which no column has")
    dtype, field = _DTYPES[tensor.dtype]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values = np.array(getattr(tensor, field), dtype)
    missing = math.prod(shape) - len(values)
    if missing > 0 and len(values):  # TensorFlow's rule: the last value stands for all that follow.
        values = np.concatenate([values, np.repeat(values[-1:], missing)])
    return values.reshape(shape)
