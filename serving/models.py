"""One loaded version of a model: its signatures, and how many requests are using it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from serving.errors import Code, RequestError, invalid
from serving.tensors import TensorSpec, format_shape

DEFAULT_SIGNATURE = "serving_default"
# What TensorFlow puts before the message proper when an op inside a function fails.
_PREAMBLE_END = "<stack traces unavailable>\n"
_OP_SUFFIX = re.compile(r" \[Op:[^\]]*\]\s*$")  # And after it.


@dataclass(frozen=True)
class Signature:
    """One signature of a SavedModel."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: tuple[str, ...]
    dtypes: Mapping[str, tf.DType]
    """Of the inputs."""
    defaults: Mapping[str, tf.Tensor]
    """Values of the inputs that a request may leave out."""
    call: Callable[..., Mapping[str, tf.Tensor]]

    def run(
        self, inputs: Mapping[str, np.ndarray], output_filter: Sequence[str] = ()
    ) -> dict[str, tf.Tensor]:
        """Runs the model.

        Args:
          inputs: by name, of the dtypes in `inputs`; `check_names` has passed.
          output_filter: names of the outputs to return; empty for all.

        Raises:
          RequestError: INVALID_ARGUMENT for a wrong shape or filter, else what TensorFlow says.
        """
        wanted = self._wanted(output_filter)
        feed = dict(self.defaults)
        for name, array in inputs.items():
            if not self.inputs[name].fits(array.shape):
                spec = self.inputs[name]
                raise invalid(f"input {name}: expected {spec}, got {spec.dtype} {format_shape(array.shape)}")
            feed[name] = tf.constant(array, self.dtypes[name])
        try:
            outputs = self.call(**feed)
        except tf.errors.OpError as error:
            raise RequestError(Code(error.error_code), _clean(error.message)) from error
        except UnicodeDecodeError as error:  # TensorFlow's message, quoting bytes of an input.
            raise invalid(_clean(error.object.decode(errors="replace"))) from error
        return {name: outputs[name] for name in wanted}

    def check_names(self, names: Sequence[str]) -> None:
        """Checks the names of the inputs of a request.

        Raises:
          RequestError: INVALID_ARGUMENT, with those that are missing and those not expected.
        """
        extra = sorted(set(names) - self.inputs.keys())
        missing = sorted(self.inputs.keys() - self.defaults.keys() - set(names))
        if extra or missing:
            raise invalid(
                f"input size does not match signature: {len(names)}!={len(self.inputs)} "
                f"len({{{','.join(sorted(names))}}}) != len({{{','.join(sorted(self.inputs))}}}). "
                f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
            )

    def _wanted(self, output_filter: Sequence[str]) -> Sequence[str]:
        for name in output_filter:
            if name not in self.outputs:
                raise invalid(
                    f"output tensor alias not found in signature: {name} "
                    f"Outputs expected to be in the set {{{','.join(self.outputs)}}}."
                )
        if len(set(output_filter)) != len(output_filter):
            raise invalid(f"duplicate output tensor alias in {','.join(output_filter)}")
        return output_filter or self.outputs


class LoadedModel:
    """A version in memory. Use it only between an `acquire` that said yes and its `release`."""

    def __init__(
        self, name: str, version: int, root: Any, signatures: Mapping[str, Signature], signature_defs: Any
    ) -> None:
        """Takes what the loader made.

        Args:
          root: what `tf.saved_model.load` returned: it owns the variables.
          signature_defs: a SignatureDefMap, for metadata requests.
        """
        self.name = name
        self.version = version
        self.signature_defs = signature_defs
        self._root = root
        self._signatures = dict(signatures)
        self._lock = threading.Lock()
        self._users = 0
        self._on_idle: Callable[[LoadedModel], None] | None = None

    def signature(self, name: str) -> Signature | None:
        """Returns the signature of that name, or of the default name if empty; None if there is none."""
        return self._signatures.get(name or DEFAULT_SIGNATURE)

    @property
    def users(self) -> int:
        """How many requests are using it."""
        return self._users

    def acquire(self) -> bool:
        """Counts one more request in, unless the version is retired."""
        with self._lock:
            if self._on_idle is not None:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        """Counts a request out. The last one out of a retired version reports that it is idle."""
        with self._lock:
            self._users -= 1
            on_idle = self._on_idle if self._users == 0 else None
        if on_idle is not None:
            on_idle(self)

    def retire(self, on_idle: Callable[[LoadedModel], None]) -> None:
        """Lets no request in any more; calls `on_idle` with this model, once, when the last is out."""
        with self._lock:
            self._on_idle = on_idle
            idle = self._users == 0
        if idle:
            on_idle(self)

    def unload(self) -> None:
        """Drops the model. The memory is free when this returns: nothing else refers to it."""
        self._signatures = {}
        self._root = None


def _clean(message: str) -> str:
    return _OP_SUFFIX.sub("", message.rpartition(_PREAMBLE_END)[2])
