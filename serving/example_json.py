"""The JSON bodies of TF Serving's classify and regress: tf.Examples feature by feature, and their results.

(tensorflow_serving/util/json_tensor.cc.)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

from serving.errors import invalid
from serving.json_values import base64_bytes, is_base64, json_type, parse_object, show, text_bytes
from serving.tensors import to_json

_INT64, _UINT64 = 2**63, 2**64
_FLOAT32 = float(np.finfo(np.float32).max)
_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


@dataclass(frozen=True)
class ExamplesBody:
    """The body of a classify or regress request."""

    signature_name: str
    """Empty for the default signature."""
    input: input_pb2.Input


def parse_examples(body: bytes) -> ExamplesBody:
    """Parses the body of a classify or regress request.

    Args:
      body: JSON, in UTF-8: `examples`, a list of objects from features to values or lists of values, and
        optionally `context`, an object of the features that all have, and `signature_name`.

    Raises:
      RequestError: INVALID_ARGUMENT, with what is wrong.
    """
    document, signature_name = parse_object(body)
    parsed = input_pb2.Input()
    target: Any = parsed.example_list
    if "context" in document:
        target = parsed.example_list_with_context
        _fill_example(target.context, document["context"])
    examples = document.get("examples")
    if "examples" not in document:
        problem = "When method is classify, key 'examples' is expected and was not found"
    elif not isinstance(examples, list):
        problem = "Expecting 'examples' value to be an list/array"
    elif not examples:
        problem = "'examples' value is an empty array"
    else:
        for example in examples:
            _fill_example(target.examples.add(), example)
        return ExamplesBody(signature_name, parsed)
    raise invalid(f"JSON Value: {show(document)} {problem}")


def format_classification(result: classification_pb2.ClassificationResult) -> bytes:
    """Returns the JSON of a classification: for each example a list of [label, score]."""
    rows = [
        [[entry.label, score] for entry, score in zip(of.classes, _scores(of.classes), strict=True)]
        for of in result.classifications
    ]
    return _dump(rows)


def format_regression(result: regression_pb2.RegressionResult) -> bytes:
    """Returns the JSON of a regression: the value of each example."""
    return _dump(_decimals([of.value for of in result.regressions]))


def _scores(classes: Any) -> list[float]:
    return _decimals([entry.score for entry in classes])


def _decimals(values: list[float]) -> list[float]:
    decimals: list[float] = to_json("value", np.array(values, np.float32))
    return decimals


def _dump(results: list[Any]) -> bytes:
    return json.dumps({"results": results}, separators=(",", ":"), ensure_ascii=False).encode()


def _fill_example(example: example_pb2.Example, value: Any) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {json_type(value)}")
    for name, content in value.items():
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            _add(feature, name, item)


def _add(feature: feature_pb2.Feature, name: str, value: Any) -> None:
    if isinstance(value, str):
        _list(feature, name, "bytes_list").append(text_bytes(value))
    elif is_base64(value):
        _list(feature, name, "bytes_list").append(base64_bytes(value))
    elif isinstance(value, bool):
        _list(feature, name, "int64_list").append(int(value))
    elif isinstance(value, int) and -_INT64 <= value < _UINT64:
        values = _list(feature, name, "int64_list")
        if value >= _INT64:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        values.append(value)
    elif isinstance(value, int | float):
        values = _list(feature, name, "float_list")
        if isinstance(value, int) or (np.isfinite(value) and abs(value) > _FLOAT32):
            raise invalid(f"Cannot convert JSON value: {show(value)} to float without loss of precision.")
        values.append(value)
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")


def _list(feature: feature_pb2.Feature, name: str, kind: str) -> Any:
    """The values of a feature, which has those of one kind."""
    there = feature.WhichOneof("kind")
    if there not in (None, kind):
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {_KINDS[there]}")
    return getattr(feature, kind).value
