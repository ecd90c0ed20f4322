"""Makes a TFLite model and asks it: what the edge stage does in a process of its own."""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components import bounded, raw_columns
from components.edge import logic
from components.features import request_names
from components.names import PREDICTIONS, SERVING_RAW

_CALIBRATION = 200  # examples that the ranges of int8 are taken from
_LAYERS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "BATCH_MATMUL")


def main(folder: str) -> None:
    """Does what the request in the folder says, and hands over what was found."""
    request, stage = bounded.request_of(folder)
    stage("importing TensorFlow")
    import tensorflow as tf  # noqa: F401

    bounded.answer(folder, look(request, stage))


def look(request: Mapping[str, Any], stage: Callable[[str], None]) -> dict[str, Any]:
    """Converts `serving_raw` of a SavedModel, and holds the two against each other.

    Args:
        request: `saved_model`, its folder; `file`, for the TFLite model; `quantization`; `calibration` and
            `held_out`, patterns of gzipped TFRecords; `examples`, how many of the latter; `columns`, those
            that a request holds; `label` and `task`; `metric`, and whether it is `relative`.
        stage: told what begins.

    Returns:
        `size` in bytes and `operations`, those of TensorFlow's own that it needs; `why` it could not be
        asked, or what `components.edge.logic.problems` takes.
    """
    import tensorflow as tf

    stage("reading examples")
    served = tf.saved_model.load(request["saved_model"]).signatures[SERVING_RAW]
    inputs = _inputs(served.structured_input_signature[1], request["columns"])
    rows = _read(request["held_out"], request["examples"])
    if not rows:
        return {"why": "there is no held-out example to compare it on"}
    stage("converting")
    try:
        content = _converted(request, inputs)
    except Exception as error:  # the converter raises what it likes
        return {"why": f"it could not be converted: {_missing(error) or _line(error)}"}
    Path(request["file"]).write_bytes(content)
    operations = _flex(content)
    told = {"size": len(content), "operations": operations}
    stage("asking the TFLite model")
    columns = raw_columns.of_examples(rows, inputs)
    expected = {k: v.numpy() for k, v in served(**{k: tf.constant(v) for k, v in columns.items()}).items()}
    try:
        answers, latency = _answers(content, columns)
    except RuntimeError as error:
        return {**told, "why": _cannot_run(operations, error)}
    labels = [_label(row, request["label"], request["task"]) for row in rows]
    return {**told, "latency_ms": latency, **compared(request, answers, expected, labels)}


def compared(
    request: Mapping[str, Any], answers: logic.Answers, expected: logic.Answers, labels: Sequence[Any]
) -> dict[str, Any]:
    """What `components.edge.logic.problems` takes."""
    task, metric = request["task"], request["metric"]
    numbers = answers["scores"] if task == "multiclass" else answers[PREDICTIONS]
    not_finite = int(np.count_nonzero(~np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1)))
    found = {"examples": len(labels), "not_finite": not_finite, "metric": metric}
    if not_finite:
        return found | {"difference": None, "value": None, "base": None, "drop": None}
    value, base = (logic.measure(metric, some, labels, task) for some in (answers, expected))
    fall = logic.drop(metric, value, base, request["relative"])
    defined = not math.isnan(fall)
    return found | {
        "difference": logic.mean_difference(answers, expected, task),
        "value": value if defined else None,
        "base": base if defined else None,
        "drop": fall if defined else None,
    }


def _inputs(specs: Mapping[str, Any], columns: Sequence[str]) -> dict[str, tuple[str, Any, bool]]:
    """Name -> its column, type, and whether it takes lists."""
    column_of = {name: column for column, name in request_names(columns).items()}
    return {name: (column_of[name], spec.dtype, spec.shape.rank == 2) for name, spec in specs.items()}


def _read(pattern: str, most: int) -> list[bytes]:
    """The first examples of the files: a buffer has them in the order of a hash."""
    import tensorflow as tf

    files = sorted(tf.io.gfile.glob(pattern))
    records = tf.data.TFRecordDataset(tf.constant(files, tf.string), compression_type="GZIP")
    return list(records.take(most).as_numpy_iterator())


def _converted(request: Mapping[str, Any], inputs: Mapping[str, tuple[str, Any, bool]]) -> bytes:
    import tensorflow as tf

    from components.edge.graph import lite

    with tempfile.TemporaryDirectory(prefix="retrain-") as folder:
        rebuilt = os.path.join(folder, "saved_model")
        lite(request["saved_model"], SERVING_RAW, rebuilt)
        converter = tf.lite.TFLiteConverter.from_saved_model(rebuilt, signature_keys=[SERVING_RAW])
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,  # named then, and not only missed
        ]
        if request["quantization"] != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if request["quantization"] == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if request["quantization"] == "int8":
            rows = _read(request["calibration"], _CALIBRATION)
            return _calibrated(converter, raw_columns.of_examples(rows, inputs))
        return bytes(converter.convert())


def _calibrated(converter: Any, columns: Mapping[str, np.ndarray]) -> bytes:
    """Int8 in the layers that hold the weights, in the ranges that examples have there.

    All else stays in float32: a missing number is NaN in a request, which no integer can be, and raw columns
    have ranges in which 256 steps are too coarse.
    """
    import tensorflow as tf
    from tensorflow.lite.python import schema_py_generated as schema

    converter.representative_dataset = lambda: _one_by_one(columns)
    others = [name for name in vars(schema.BuiltinOperator) if name.isupper() and name not in _LAYERS]
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=converter.representative_dataset,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=others),
    )
    return bytes(debugger.get_nondebug_quantized_model())


def _one_by_one(columns: Mapping[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for i in range(len(next(iter(columns.values())))):
        yield SERVING_RAW, {name: values[i : i + 1] for name, values in columns.items()}


def _flex(content: bytes) -> list[str]:
    """The operations of TensorFlow's own that a TFLite model needs."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    codes = (model.OperatorCodes(i).CustomCode() for i in range(model.OperatorCodesLength()))
    return sorted({code.decode().removeprefix("Flex") for code in codes if code})


def _answers(
    content: bytes, columns: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The answers to all rows, asked one by one, as a device does, and how long one took."""
    import tensorflow as tf

    ask = tf.lite.Interpreter(model_content=content, num_threads=1).get_signature_runner(SERVING_RAW)
    answers, took = [], []
    for _, row in _one_by_one(columns):
        begun = time.perf_counter()
        answers.append(ask(**row))
        took.append((time.perf_counter() - begun) * 1000)
    p50, p99 = np.percentile(took, [50, 99])
    together = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    return together, {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def _label(row: bytes, name: str, task: str) -> Any:
    """The label of a serialized example."""
    import tensorflow as tf

    feature = tf.train.Example.FromString(row).features.feature[name]
    value = [*feature.int64_list.value, *feature.float_list.value, *feature.bytes_list.value][0]
    if task != "multiclass":
        return float(value)
    return value if isinstance(value, bytes) else str(value).encode()


def _cannot_run(operations: Sequence[str], error: BaseException) -> str:
    if operations:
        return (
            f"it needs operations of TensorFlow ({', '.join(operations)}) that the interpreter here does not "
            "have, so it could not be compared"
        )
    return f"it does not run: {_line(error)}"


def _missing(error: BaseException) -> str:
    """The operations that a failed conversion names."""
    found = re.findall(r"^(?:Custom|TF Select|Flex) ops: (.*)$", str(error), re.MULTILINE)
    return f"there is no {', '.join(found)} in TFLite" if found else ""


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]


if __name__ == "__main__":
    main(sys.argv[1])
