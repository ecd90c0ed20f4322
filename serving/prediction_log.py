"""What the server answered, kept as TF Serving's request log has it: TFRecord files of PredictionLog."""

import functools
import hashlib
import logging
import queue
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import prediction_log_pb2

from serving.errors import ServerError
from serving.log_columns import LogColumns, UnknownColumnsError
from serving.log_files import LogFiles

_log = logging.getLogger(__name__)
_WAITING = 10_000
_WAITING_BYTES = 64 << 20
_PAUSE_SECONDS = 1.0  # After a write that failed.


@dataclass(frozen=True)
class _Answered:
    when: float
    model: str
    version: int
    signature: str
    method: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    key: str
    size: int


class PredictionLog:
    """A log of requests and their answers, one PredictionLog (`predict_log`) a request.

    `record` never waits: one thread writes, and what it cannot keep up with is dropped and counted. `start`
    it and `stop` it with the server; it may be used as a context.

    Attributes:
      logged: requests written.
      dropped: requests that were to be logged and are not: too many waited, the disk is full, or their
        columns cannot be told apart (see `LogColumns`). What the share leaves out is in neither.
      bytes: written.
      torn: files that a killed process had left with a torn end; `start` has cut it off.
      problem: why the last request was dropped; None while all is well.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        share: float = 1.0,
        file_bytes: int = 64 << 20,
        file_seconds: float = 300.0,
        max_bytes: int = 4 << 30,
        columns: LogColumns | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
          folder: made if it is not there; several servers may share it.
          name: begins the files' names.
          share: of the requests that are logged, chosen by a hash of the key, so that all servers choose
            the same; without a key at random.
          file_bytes: a file ends at this size,
          file_seconds: or at this age.
          max_bytes: of the folder; the oldest files go.
          columns: what becomes of them; None: they are logged as they are.
        """
        self.logged = self.dropped = self.bytes = self.torn = 0
        self.problem: str | None = None
        self._share = share
        self._columns = columns or LogColumns()
        self._folder = folder
        self._files = LogFiles(folder, name, file_bytes, file_seconds, max_bytes)
        self._queue: queue.SimpleQueue[_Answered | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # Of the counters, and of what waits.
        self._waiting = self._waiting_bytes = 0
        self._thread: threading.Thread | None = None
        self._not_before = 0.0

    def start(self) -> None:
        """Brings in order what killed processes left, and starts to write.

        Raises:
          ServerError: the folder cannot be made, read or written.
        """
        try:
            self.torn += self._files.recover()
        except OSError as error:
            raise ServerError(
                f"prediction log: {error.filename or self._folder}: {error.strerror}; required is a folder "
                "that this process may write: mend it, or set serving.prediction_log.path"
            ) from error
        self._thread = threading.Thread(target=self._write, name="prediction-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Writes what waits, and closes the file."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def __enter__(self) -> Self:
        """Starts."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops."""
        self.stop()

    def record(
        self,
        model: str,
        version: int,
        signature: str,
        method: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        key: str | None,
    ) -> None:
        """Takes one answered request, from any thread, without waiting.

        Args:
          model: its name.
          version: that answered.
          signature: its name; `serving_default` where the request named none.
          method: predict, classify or regress. A classification's or regression's inputs are serialized
            tf.Examples.
          inputs: by name; the first dimension is the rows. Not to be changed afterwards.
          outputs: by name, likewise.
          key: of the request; None: it had none.
        """
        if not self._chosen(key):
            return
        size = sum(map(_size, inputs.values())) + sum(map(_size, outputs.values()))
        answered = _Answered(time.time(), model, version, signature, method, inputs, outputs, key or "", size)
        with self._lock:
            full = self._waiting >= _WAITING or (
                self._waiting and self._waiting_bytes + size > _WAITING_BYTES
            )
            if full:
                self.dropped += 1
                self.problem = f"{self._waiting} requests wait to be written already"
                return
            self._waiting += 1
            self._waiting_bytes += size
        self._queue.put(answered)

    def _chosen(self, key: str | None) -> bool:
        if self._share >= 1.0:
            return True
        if not key:
            return random.random() < self._share
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._share * 2**64

    def _write(self) -> None:
        while True:
            left = self._files.seconds_left
            try:
                answered = self._queue.get(timeout=None if left is None else max(left, 0.0))
            except queue.Empty:
                self._close()
                continue
            if answered is None:
                self._close()
                return
            written, problem = self._append(answered)
            if problem and problem != self.problem:
                _log.warning("prediction log: %s", problem)
            with self._lock:
                self._waiting -= 1
                self._waiting_bytes -= answered.size
                self.logged += written > 0
                self.dropped += not written
                self.bytes += written
                self.problem = problem
            if left is not None and left <= 0:
                self._close()

    def _append(self, answered: _Answered) -> tuple[int, str | None]:
        """The bytes written, and why there are none."""
        if time.monotonic() < self._not_before:
            return 0, self.problem
        try:
            return self._files.append(self._message(answered).SerializeToString()), None
        except UnknownColumnsError as error:
            return 0, f"while columns are dropped or hashed, this is not logged: {error}"
        except OSError as error:
            self._not_before = time.monotonic() + _PAUSE_SECONDS
            return 0, f"{error.filename or self._folder}: {error.strerror}"
        except Exception as error:  # A defect must not end the thread, and with it the log.
            _log.exception("prediction log")
            return 0, repr(error)

    def _close(self) -> None:
        try:
            self._files.close()
        except OSError as error:
            self.problem = f"{error.filename or self._folder}: {error.strerror}"
            _log.warning("prediction log: %s", self.problem)

    def _message(self, answered: _Answered) -> prediction_log_pb2.PredictionLog:
        inputs = self._columns.logged(answered.signature, answered.method, answered.inputs)
        message = prediction_log_pb2.PredictionLog()
        metadata, predicted = message.log_metadata, message.predict_log
        metadata.timestamp_secs = int(answered.when)
        metadata.request_origin = answered.key.encode("utf-8", "replace").decode()
        metadata.sampling_config.sampling_rate = self._share
        for spec in (metadata.model_spec, predicted.request.model_spec, predicted.response.model_spec):
            spec.name, spec.version.value = answered.model, answered.version
            spec.signature_name = answered.signature
        for name, array in inputs.items():
            _fill(predicted.request.inputs[name], array)
        for name, array in answered.outputs.items():
            _fill(predicted.response.outputs[name], array)
        return message


def _fill(proto: tensor_pb2.TensorProto, array: np.ndarray) -> None:
    """As `tf.make_tensor_proto` and ten times as fast; `protos.fill_proto` writes for clients."""
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    if array.dtype == np.object_:
        proto.dtype = tf.string.as_datatype_enum
        proto.string_val.extend(array.ravel().tolist())
    else:
        proto.dtype = _enum(array.dtype)
        proto.tensor_content = array.tobytes()


@functools.cache
def _enum(dtype: np.dtype) -> int:
    return int(tf.as_dtype(dtype).as_datatype_enum)


def _size(array: np.ndarray) -> int:
    return sum(map(len, array.flat)) if array.dtype == np.object_ else int(array.nbytes)
