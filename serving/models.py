"""One loaded version of a model: its signatures, and how many requests are using it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.errors import invalid
from serving.tensors import TensorSpec, format_shape

DEFAULT_SIGNATURE = "serving_default"
Tensors = Mapping[str, np.ndarray]
"""Arrays by name; text has dtype object and holds bytes."""


@dataclass(frozen=True)
class Signature:
    """One signature of a SavedModel."""

    name: str
    method: str
    """TF Serving's name of what it is for: tensorflow/serving/predict, .../classify or .../regress."""
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    defaults: Tensors
    """Values of the inputs that a request may leave out."""
    call: Callable[[Tensors], dict[str, np.ndarray]]
    """From all inputs to all outputs."""

    def run(self, inputs: Tensors, output_filter: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Runs the model.

        Args:
          inputs: by name, of the dtypes in `inputs`; `check_names` has passed.
          output_filter: names of the outputs to return; empty for all.

        Raises:
          RequestError: INVALID_ARGUMENT for a wrong shape or filter, else what TensorFlow says.
        """
        wanted = self._wanted(output_filter)
        for name, array in inputs.items():
            spec = self.inputs[name]
            if not spec.fits(array.shape):
                raise invalid(f"input {name}: expected {spec}, got {spec.dtype} {format_shape(array.shape)}")
        outputs = self.call({**self.defaults, **inputs})
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
        seen = set()
        for name in output_filter:
            if name not in self.outputs:
                raise invalid(
                    f"output tensor alias not found in signature: {name} "
                    f"Outputs expected to be in the set {{{','.join(self.outputs)}}}."
                )
            if name in seen:
                raise invalid(f"duplicate output tensor alias: {name}")
            seen.add(name)
        return output_filter or tuple(self.outputs)


class LoadedModel:
    """A version in memory. Use it only between an `acquire` that said yes and its `release`."""

    def __init__(
        self,
        name: str,
        version: int,
        signatures: Mapping[str, Signature],
        signature_defs: Any,
        close: Callable[[], None],
    ) -> None:
        """Takes what the loader made.

        Args:
          name: of the model.
          version: its number.
          signatures: those that can be called, by name.
          signature_defs: a SignatureDefMap of all, for metadata requests.
          close: frees what the signatures run in.
        """
        self.name = name
        self.version = version
        self.signature_defs = signature_defs
        self._signatures = dict(signatures)
        self._close = close
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
        self._close()
        self._close = _nothing


def _nothing() -> None:
    """What is left to close of a model that is unloaded."""
