"""The JSON bodies of TF Serving's predict: `instances` (rows) and `inputs` (columns), and their answers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.errors import Code, RequestError, invalid
from serving.json_values import is_base64, parse_object, show
from serving.tensors import TensorSpec, format_shape, to_array, to_json


@dataclass(frozen=True)
class PredictBody:
    """The body of a predict request."""

    signature_name: str
    """Empty for the default signature."""
    inputs: dict[str, np.ndarray]
    by_row: bool
    """The request came as `instances`, so the response goes as `predictions`."""


def parse_predict(body: bytes, signature_inputs: Callable[[str], Mapping[str, TensorSpec]]) -> PredictBody:
    """Parses the body of a predict request.

    Args:
      body: JSON, in UTF-8. NaN, Infinity and -Infinity are numbers.
      signature_inputs: gives the inputs of the signature of that name, which is empty for the default.

    Raises:
      RequestError: INVALID_ARGUMENT, naming the instance and the key where it can; UNIMPLEMENTED for an
        input whose dtype has no JSON form.
    """
    document, signature_name = parse_object(body)
    specs = signature_inputs(signature_name)
    if not specs:
        raise invalid(f"Failed to get input map for signature: {signature_name or 'DEFAULT'}")
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {show(document)} "
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
        )
    if "instances" in document:
        return PredictBody(signature_name, _from_instances(document["instances"], specs), by_row=True)
    if "inputs" in document:
        return PredictBody(signature_name, _from_inputs(document["inputs"], specs), by_row=False)
    raise invalid("Missing 'inputs' or 'instances' key")


def format_predictions(outputs: Mapping[str, np.ndarray], by_row: bool) -> bytes:
    """Returns the JSON of a predict response: one output as bare values, several as objects.

    Args:
      outputs: by name, of any shape; by row they all need the same first dimension.
      by_row: `predictions`, a list with an entry a row, or else `outputs`, whole columns.

    Raises:
      RequestError: INVALID_ARGUMENT if the outputs have no such form.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    if by_row:
        _check_batch(outputs)
    columns = {name: to_json(name, array) for name, array in sorted(outputs.items())}
    single = len(columns) == 1
    if not by_row:
        return _dump({"outputs": next(iter(columns.values())) if single else columns})
    if single:
        return _dump({"predictions": next(iter(columns.values()))})
    rows = zip(*columns.values(), strict=True)
    return _dump({"predictions": [dict(zip(columns, row, strict=True)) for row in rows]})


def _from_instances(instances: Any, specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {show(instances)} Expecting 'instances' to be a list/array")
    if not instances:
        raise invalid("JSON Value: [] No values in 'instances' array")
    if not _is_named(instances[0]):
        if len(specs) > 1:
            raise invalid(
                "instances is a plain list, but expecting list of objects as multiple "
                f"input tensors required as per tensorinfo_map: {', '.join(sorted(specs))}"
            )
        for index, instance in enumerate(instances):
            if _is_named(instance):
                raise invalid(f"Expecting value/list but got object at item {index} of input list")
        (spec,) = specs.values()
        return {spec.name: _column(instances, spec, key="")}
    for index, instance in enumerate(instances):
        _check_keys(index, instance, specs)
    return {name: _column([row[name] for row in instances], spec, name) for name, spec in specs.items()}


def _check_keys(index: int, instance: Any, specs: Mapping[str, TensorSpec]) -> None:
    if not _is_named(instance):
        raise invalid(f"Expecting object but got list at item {index} of input list")
    if instance.keys() == specs.keys():
        return
    for key in instance:
        if key not in specs:
            raise invalid(
                f"Failed to process element: {index} key: {key} of 'instances' list. "
                f"Error: INVALID_ARGUMENT: JSON object: does not have named input: {key}"
            )
    raise invalid(
        f"Failed to process element: {index} of 'instances' list. JSON object: {show(instance)} "
        f"keys must be equal to: {','.join(sorted(specs))}"
    )


def _column(values: list[Any], spec: TensorSpec, key: str) -> np.ndarray:
    """Stacks one input of all instances; if that fails, names the instance to blame."""
    try:
        return to_array(values, spec)
    except RequestError as error:
        if error.code is not Code.INVALID_ARGUMENT:
            raise
    index, reason = _blame(values, spec)
    where = f" key: {key}" if key else ""
    raise invalid(
        f"Failed to process element: {index}{where} of 'instances' list. Error: INVALID_ARGUMENT: {reason}"
    )


def _blame(values: list[Any], spec: TensorSpec) -> tuple[int, str]:
    """Returns the first of some values that do not stack which is wrong, or unlike the first, and why."""
    first: tuple[int, ...] | None = None
    for index, value in enumerate(values):
        try:
            shape = to_array(value, spec).shape
        except RequestError as error:
            return index, error.message
        first = shape if first is None else first
        if shape != first:
            return index, f"Expecting shape {format_shape(first)} but got: {format_shape(shape)}"
    raise AssertionError(f"values of one shape {first} did not stack")


def _from_inputs(inputs: Any, specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    if not _is_named(inputs):
        if len(specs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple "
                f"input tensors required as per tensorinfo_map: {', '.join(sorted(specs))}"
            )
        (spec,) = specs.values()
        return {spec.name: to_array(inputs, spec)}
    arrays = {}
    for name, spec in specs.items():
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        try:
            arrays[name] = to_array(inputs[name], spec)
        except RequestError as error:
            raise RequestError(
                error.code, f"Failed to process key: {name} of 'inputs'. Error: {error}"
            ) from error
    return arrays


def _check_batch(outputs: Mapping[str, np.ndarray]) -> None:
    size = None
    for name, array in sorted(outputs.items()):
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if array.shape[0] == 0:
            raise invalid(f"Tensor name: {name} has invalid batch size: 0")
        if size not in (None, array.shape[0]):
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {array.shape[0]} expecting: {size}"
            )
        size = array.shape[0]


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
