"""Nested JSON lists, to and from numpy, by the rules of TF Serving. Knows nothing of TensorFlow.

Arrays of strings have dtype object and hold bytes.
"""

import base64
import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from serving.errors import Code, RequestError, invalid
from serving.json_values import base64_bytes, is_base64, json_type, show, text_bytes

# TF's name of a dtype, as its messages have it, to numpy's. What is not here has no JSON form in TF Serving.
JSON_DTYPES: dict[str, type[np.generic]] = {
    "float": np.float32,
    "double": np.float64,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "string": np.object_,
}
# The Python types that the JSON values of a dtype parse to; integers for a dtype that is not here.
_LEAF_TYPES: dict[str, set[type]] = {
    "string": {str, dict},
    "bool": {bool},
    "float": {int, float},
    "double": {int, float},
}
_STRUCT = {"float": "f", "double": "d"}  # with "=", without which too large a float becomes infinite
_MAX_RANK = 32  # numpy has a limit, and a signature with more dimensions is not to be expected.


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a signature."""

    name: str
    dtype: str
    """TF's short name: float, int64, string, ..."""
    shape: tuple[int | None, ...] | None
    """None for an unknown dimension, or for an unknown rank."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Says whether an array of that shape may be fed."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            w in (None, g) for w, g in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.dtype} {format_shape(self.shape)}"


def format_shape(shape: tuple[int | None, ...] | None) -> str:
    """Returns a shape as TF Serving prints it, e.g. [-1,3]."""
    if shape is None:
        return "[?]"
    return f"[{','.join('-1' if size is None else str(size) for size in shape)}]"


def to_array(value: Any, spec: TensorSpec) -> np.ndarray:
    """Converts parsed JSON to an array of the dtype of `spec`, whose shape is not looked at.

    Args:
      value: a scalar, or lists of one depth and one width a level. Bytes are a string or {"b64": ...}.

    Raises:
      RequestError: INVALID_ARGUMENT for ragged lists, values of another type, and numbers that the dtype
        cannot hold; UNIMPLEMENTED for a dtype that has no JSON form.
    """
    if spec.dtype not in JSON_DTYPES:
        raise RequestError(
            Code.UNIMPLEMENTED, f"Conversion of JSON Value: {show(value)} to type: {spec.dtype}"
        )
    leaves: list[Any] = [value]
    shape: list[int] = []
    while leaves and type(leaves[0]) is list:
        if len(shape) == _MAX_RANK:
            raise invalid(f"Encountered list at unexpected level: {_MAX_RANK} expected < {_MAX_RANK}")
        _check_level(leaves, depth=len(shape))
        shape.append(len(leaves[0]))
        leaves = list(chain.from_iterable(leaves))
    return _leaves(leaves, spec.dtype).reshape(shape)


def _check_level(lists: list[Any], depth: int) -> None:
    # set(map(...)) runs in C; the loop only runs to find what to blame.
    if set(map(type, lists)) == {list} and len(set(map(len, lists))) == 1:
        return
    size = len(lists[0])
    for item in lists:
        if type(item) is not list:
            raise invalid(
                f"JSON Value: {show(item)} found at incorrect level: {depth + 1} in the JSON DOM. "
                "Expected a list as in its neighbours"
            )
        if len(item) != size:
            raise invalid(
                f"Encountered list at unexpected size: {len(item)} at level: {depth} expected size: {size}"
            )


def _leaves(leaves: list[Any], dtype: str) -> np.ndarray:
    allowed = _LEAF_TYPES.get(dtype, {int})
    types = set(map(type, leaves))
    if not types <= allowed:
        _blame(leaves, lambda leaf: type(leaf) in allowed, dtype)
    if dtype == "string":
        array = np.empty(len(leaves), np.object_)
        array[:] = [_bytes(leaf) for leaf in leaves]
        return array
    if dtype in ("float", "double"):
        return _decimals(leaves, types, dtype)
    if dtype != "bool" and leaves:
        limits = _iinfo(dtype)
        if min(leaves) < limits.min or max(leaves) > limits.max:
            _blame(leaves, lambda leaf: limits.min <= leaf <= limits.max, dtype)
    return np.array(leaves, JSON_DTYPES[dtype])


def _decimals(leaves: list[Any], types: set[type], dtype: str) -> np.ndarray:
    limits = _finfo(dtype)
    exact = 2 ** (limits.nmant + 1) - 1  # Whole numbers beyond it have gaps.
    if int in types:
        for leaf in leaves:
            if type(leaf) is int and abs(leaf) > exact:
                raise invalid(
                    f"Cannot convert JSON value: {show(leaf)} to {dtype} without loss of precision."
                )
    # Not by way of numpy, which takes three times as long for the one value of a row.
    try:
        content = struct.pack(f"={len(leaves)}{_STRUCT[dtype]}", *leaves)
    except OverflowError:
        value = next(leaf for leaf in leaves if _overflows(leaf, dtype))
        raise invalid(
            f"Cannot convert JSON value: {show(value)} to {dtype} without loss of precision."
        ) from None
    return np.frombuffer(content, JSON_DTYPES[dtype])


def _overflows(leaf: float, dtype: str) -> bool:
    try:
        struct.pack(f"={_STRUCT[dtype]}", leaf)
    except OverflowError:
        return True
    return False


@functools.cache
def _iinfo(dtype: str) -> np.iinfo:
    return np.iinfo(JSON_DTYPES[dtype])  # type: ignore[arg-type, type-var]


@functools.cache
def _finfo(dtype: str) -> np.finfo:
    return np.finfo(JSON_DTYPES[dtype])  # type: ignore[arg-type, type-var]


def _bytes(leaf: str | dict[str, Any]) -> bytes:
    if isinstance(leaf, str):
        return text_bytes(leaf)
    if not is_base64(leaf):
        raise invalid(f"JSON Value: {show(leaf)} not formatted correctly for base64 data")
    return base64_bytes(leaf)


def _blame(leaves: list[Any], good: Callable[[Any], bool], dtype: str) -> None:
    leaf = next(leaf for leaf in leaves if not good(leaf))
    raise invalid(f"JSON Value: {show(leaf)} Type: {json_type(leaf)} is not of expected type: {dtype}")


def to_json(name: str, array: np.ndarray) -> Any:
    """Converts an array to nested lists that `json.dumps` takes.

    Args:
      name: of the output. One that ends in `_bytes` has its strings in base64.

    Raises:
      RequestError: INVALID_ARGUMENT for text that is not UTF-8, or a dtype that has no JSON form.
    """
    if array.dtype == np.object_:
        return _strings(name, array)
    if array.dtype.kind in "biu" or array.dtype == np.float64:
        return array.tolist()
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        # By way of text: 0.2 in single precision must print as 0.2, not as 0.20000000298023224.
        return array.astype(np.float32).astype(np.str_).astype(np.float64).tolist()
    raise invalid(f"Failed to write JSON value for tensor {name} of type: {array.dtype.name}")


def _strings(name: str, array: np.ndarray) -> Any:
    if name.endswith("_bytes"):
        return _nest([{"b64": base64.b64encode(value).decode()} for value in array.flat], array.shape)
    try:
        return _nest([value.decode() for value in array.flat], array.shape)
    except UnicodeDecodeError as error:
        raise invalid(
            f"Tensor name: {name} holds bytes that are not UTF-8 ({error}); name the output {name}_bytes, "
            "and it comes in base64, or use gRPC"
        ) from error


def _nest(values: list[Any], shape: tuple[int, ...]) -> Any:
    nested = np.empty(len(values), np.object_)
    nested[:] = values
    return nested.reshape(shape).tolist()
