"""Predictions for the rows of a CSV file, asked of a model server over REST."""

from __future__ import annotations

import csv
import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.errors import RetrainError
from components.names import MISSING_INT, SERVING_RAW

_BATCH = 512
_KINDS = {"DT_INT64": int, "DT_FLOAT": float, "DT_STRING": str}


class Client:
    """One model of a server that speaks TF Serving's REST protocol.

    Args:
        url: of the server, such as `http://127.0.0.1:8501`.
        model: its name.
    """

    def __init__(self, url: str, model: str) -> None:
        self.url = f"{url.rstrip('/')}/v1/models/{model}"

    def call(self, path: str, body: Any = None) -> Any:
        """Asks, and gives the answer's JSON.

        Raises:
            RetrainError: the server does not answer, or answers with an error.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            reason = error.read().decode("utf-8", "replace")[:500]
            raise RetrainError(f"{self.url}{path}: {error.code}: {reason}") from None
        except (urllib.error.URLError, OSError) as error:
            raise RetrainError(
                f"{self.url}{path}: no answer ({error}); is `retrain serve` running?"
            ) from None

    def answers(self) -> bool:
        """Whether the server is there and serves the model."""
        try:
            states = self.call("")["model_version_status"]
        except RetrainError:
            return False
        return any(state["state"] == "AVAILABLE" for state in states)

    def served(self) -> int:
        """The version that answers."""
        return int(self.call("/metadata")["model_spec"]["version"])

    def columns(self) -> dict[str, type]:
        """The raw columns that the served version reads, with their types."""
        signatures = self.call("/metadata")["metadata"]["signature_def"]["signature_def"]
        inputs = signatures[SERVING_RAW]["inputs"]
        return {name: _KINDS[spec["dtype"]] for name, spec in inputs.items()}

    def predict(self, instances: list[dict[str, Any]]) -> list[Any]:
        """One prediction an instance."""
        body = {"signature_name": SERVING_RAW, "instances": instances}
        predictions: list[Any] = self.call(":predict", body)["predictions"]
        return predictions


def read_instances(
    path: Path, columns: Mapping[str, type]
) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    """The rows of a CSV file as the server takes them.

    Yields:
        The line, the instance, and what is wrong with the row (then without an instance).

    Raises:
        RetrainError: the file is not there, or lacks a column.
    """
    try:
        file = open(path, newline="", encoding="utf-8-sig")
    except OSError as error:
        raise RetrainError(f"{path}: {error.strerror}; name a CSV file with a header") from None
    with file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or [])]
        if missing:
            raise RetrainError(
                f"{path}: missing column {', '.join(missing)}; the served version reads {', '.join(columns)}, and the "
                f"file has {', '.join(reader.fieldnames or ['no header'])}"
            )
        for row in reader:
            try:
                yield (
                    reader.line_num,
                    {name: _value(row[name] or "", name, kind) for name, kind in columns.items()},
                    "",
                )
            except ValueError as error:
                yield reader.line_num, None, str(error)


def _value(text: str, name: str, kind: type) -> Any:
    if kind is str:
        return text
    if not text.strip():
        return MISSING_INT if kind is int else math.nan
    try:
        number = float(text)
        if kind is float and math.isfinite(number):
            return number
        if kind is int and number.is_integer():
            return int(text) if text.strip().lstrip("+-").isdigit() else int(number)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{name}: {text!r} is not {'a whole number' if kind is int else 'a number'}")


def predict_file(client: Client, path: Path) -> Iterator[dict[str, Any]]:
    """One object a row, in order: `line`, `prediction` and `error`, one of the last two None."""
    batch: list[tuple[int, dict[str, Any] | None, str]] = []
    for item in read_instances(path, client.columns()):
        batch.append(item)
        if len(batch) == _BATCH:
            yield from _answered(client, batch)
            batch = []
    yield from _answered(client, batch)


def _answered(
    client: Client, batch: list[tuple[int, dict[str, Any] | None, str]]
) -> Iterator[dict[str, Any]]:
    instances = [instance for _, instance, _ in batch if instance is not None]
    answers = iter(client.predict(instances) if instances else [])
    for line, instance, error in batch:
        prediction = next(answers) if instance is not None else None
        yield {"line": line, "prediction": prediction, "error": error or None}
