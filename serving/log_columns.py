"""Columns that must not reach the prediction log as they are: dropped, or hashed with a key."""

import hashlib
import hmac
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

import numpy as np

SERVING_RAW = "serving_raw"
_TOWERS = "_embedding"
_EXAMPLES = frozenset({"serving_default", "classify", "regress"})
"""Signatures of serialized tf.Examples; the two above take one tensor a column."""


class UnknownColumnsError(Exception):
    """Nobody can say where in a request the columns are that must not be logged."""


class LogColumns:
    """What becomes of the columns of a request on their way into the log.

    Args:
      drop: columns that are not logged.
      hashed: text columns of which HMAC-SHA-256 is logged, as 64 hexadecimal digits; what is empty, and so
        missing, stays so.
      salt: the key of that HMAC. The same value has the same digest as long as the salt is the same.
      request_names: column -> its name in a request, where that is another.
    """

    def __init__(
        self,
        drop: Collection[str] = (),
        hashed: Collection[str] = (),
        salt: bytes = b"",
        request_names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._drop, self._hashed, self._salt = frozenset(drop), frozenset(hashed), salt
        self._drop_inputs = {request_names.get(name, name) for name in drop}
        self._hashed_inputs = {request_names.get(name, name) for name in hashed}

    def logged(
        self, signature: str, method: str, inputs: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        """The inputs of a request as they may be logged.

        Args:
          signature: its name.
          method: predict, classify or regress; the last two take serialized tf.Examples.
          inputs: by name.

        Raises:
          UnknownColumnsError: some columns are not to be logged, and the signature is none that says where
            they are, or an input is not what the signature takes.
        """
        if not self._drop and not self._hashed:
            return inputs
        if method != "predict" or signature in _EXAMPLES:
            return {name: self._each(array, self._example) for name, array in inputs.items()}
        if signature != SERVING_RAW and not signature.endswith(_TOWERS):
            raise UnknownColumnsError(f"signature {signature}: its inputs may hold any column")
        return {
            name: self._each(array, self._digest) if name in self._hashed_inputs else array
            for name, array in inputs.items()
            if name not in self._drop_inputs
        }

    def _each(self, array: np.ndarray, change: Callable[[bytes], bytes]) -> np.ndarray:
        if array.dtype != np.object_:
            raise UnknownColumnsError(f"got {array.dtype.name} where text is to be hashed")
        changed = np.empty(array.size, np.object_)
        changed[:] = [change(value) for value in array.flat]
        return changed.reshape(array.shape)

    def _digest(self, value: bytes) -> bytes:
        return hmac.new(self._salt, value, hashlib.sha256).hexdigest().encode() if value else value

    def _example(self, serialized: bytes) -> bytes:
        from google.protobuf.message import DecodeError
        from tensorflow.core.example import example_pb2

        try:
            example = example_pb2.Example.FromString(serialized)
        except DecodeError as error:
            raise UnknownColumnsError("an input is no serialized tf.Example") from error
        features = example.features.feature
        for name in self._drop & features.keys():
            del features[name]
        for name in self._hashed & features.keys():
            values = [self._digest(value) for value in features[name].bytes_list.value]
            features[name].bytes_list.value[:] = values  # Of numbers, which are no text, nothing is left.
        return example.SerializeToString(deterministic=True)
