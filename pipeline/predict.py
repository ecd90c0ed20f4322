"""Predictions for the rows of a CSV file, asked of a model server over REST."""

from __future__ import annotations

import csv
import http.client
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
        try:
            request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            reason = error.read().decode("utf-8", "replace")[:500]
            raise RetrainError(f"{self.url}{path}: {error.code}: {reason}") from None
        except OSError as error:
            raise RetrainError(
                f"{self.url}{path}: no answer ({error}); is `retrain serve` running?"
            ) from None
        except (http.client.HTTPException, ValueError) as error:
            raise RetrainError(
                f"{self.url}{path}: no answer of a model server's REST port ({str(error)[:100]}); name it as "
                "http://HOST:PORT"
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
        if SERVING_RAW not in signatures:
            raise RetrainError(
                f"{self.url}: the model has no signature {SERVING_RAW}; only models that this pipeline made "
                "take rows"
            )
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
        RetrainError: the file is not there, is no CSV, or lacks a column.
    """
    try:
        yield from _read(path, columns)
    except OSError as error:
        raise RetrainError(f"{path}: {error.strerror}; name a CSV file with a header") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RetrainError(f"{path}: not a CSV file in UTF-8 ({error})") from None


def _read(path: Path, columns: Mapping[str, type]) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        header = reader.fieldnames or []
        missing = [name for name in columns if name not in header]
        if missing:
            raise RetrainError(
                f"{path}: missing column {', '.join(missing)}; the served version reads "
                f"{', '.join(columns)}, and the file has {', '.join(header) or 'no header'}"
            )
        for row in reader:
            instance, problems = {}, []
            if None in row or None in row.values():
                problems.append(f"not as many cells as the header, {len(header)}")
            else:
                for name, kind in columns.items():
                    try:
                        instance[name] = _value(row[name], name, kind)
                    except ValueError as error:
                        problems.append(str(error))
            yield reader.line_num, None if problems else instance, "; ".join(problems)


def _value(text: str, name: str, kind: type) -> Any:
    """A cell as ingest reads it, so that the model gets what it was trained on."""
    from components.ingest.cells import BAD, float_cell, int_cell

    if kind is str:
        return text
    value = int_cell(text) if kind is int else float_cell(text)
    if value is BAD:
        raise ValueError(f"{name}: {text!r} is not {'a whole number' if kind is int else 'a number'}")
    if value is None:
        return MISSING_INT if kind is int else math.nan
    return value


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
