"""A prediction log of the deployment `shop`, as its server would write it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from components.feedback import wire
from serving.log_files import framed


def write_log(
    folder: Path, keys: Iterable[str], when: float, version: int = 1, model: str = "shop", **inputs: Any
) -> None:
    """One closed file with a request of one row for each key, all answered at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i, key in enumerate(keys):
        message = wire.message("PredictionLog")()
        message.log_metadata.timestamp_secs = int(when)
        message.log_metadata.request_origin = key
        spec = message.log_metadata.model_spec
        spec.name, spec.version.value, spec.signature_name = model, version, "serving_raw"
        row = {"n": np.array([i]), "x": np.array([i + 0.1], np.float32), "word": b"a, b"} | inputs
        for name, value in row.items():
            tensor = message.predict_log.request.inputs[name]
            tensor.tensor_shape.dim.add().size = 1
            if isinstance(value, bytes):
                tensor.dtype = 7
                tensor.string_val.append(value)
            else:
                tensor.dtype = 9 if value.dtype.kind == "i" else 1
                tensor.tensor_content = value.tobytes()
        answer = message.predict_log.response.outputs["predictions"]
        answer.dtype, answer.tensor_content = 1, np.array([0.5], np.float32).tobytes()
        answer.tensor_shape.dim.add().size = 1
        records.append(framed(message.SerializeToString()))
    number = len(list(folder.iterdir()))
    (folder / f"{model}-20260101T{number:06d}-1-1.tfrecord").write_bytes(b"".join(records))
