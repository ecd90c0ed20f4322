"""Predictions for the rows of a file, asked of a model server over REST."""

from __future__ import annotations

import csv
import http.client
import io
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import RetrainError
from components.names import CLASSES, PREDICTIONS, SCORES, SERVING_RAW
from pipeline.request_rows import Input, RowsFile

if TYPE_CHECKING:
    from pipeline.terminal import Terminal

_KINDS: dict[str, Any] = {"DT_INT64": "INT", "DT_FLOAT": "FLOAT", "DT_STRING": "BYTES"}


@dataclass(frozen=True)
class Served:
    """A version that answers.

    Attributes:
        version: its number.
        inputs: what it takes, by name in a request.
        multiclass: whether it answers with classes and their scores.
    """

    version: int
    inputs: Mapping[str, Input]
    multiclass: bool


@dataclass(frozen=True)
class Answer:
    """What became of one row.

    Attributes:
        line: where it begins in a CSV file; its number, from 1, in others.
        prediction: a probability, a class, or a number in the label's unit; None with an error.
        error: why the row could not be read, or None.
        scores: of every class, where the model is multiclass.
    """

    line: int
    prediction: Any
    error: str | None = None
    scores: Mapping[str, float] | None = None

    @property
    def score(self) -> float | None:
        """Of the class that is predicted."""
        return None if self.scores is None else self.scores[self.prediction]

    def cells(self, served: Served) -> list[Any]:
        """As `csv_header` names them."""
        return [self.line, self.prediction, *([self.score] if served.multiclass else [])]

    def to_json(self, served: Served) -> dict[str, Any]:
        scores = {"scores": self.scores} if served.multiclass else {}
        told = {"line": self.line, "prediction": self.prediction, "error": self.error, **scores}
        return {**told, "version": served.version}


class Client:
    """One model of a server that speaks TF Serving's REST protocol.

    Args:
        url: of the server, such as `http://127.0.0.1:8501`.
        model: its name.
        token: that the requests bear; None: none.
        ca: what signed the server's certificate (PEM); None: what the system trusts.

    Raises:
        RetrainError: `ca` cannot be read.
    """

    def __init__(self, url: str, model: str, token: str | None = None, ca: Path | None = None) -> None:
        self.url = f"{url.rstrip('/')}/v1/models/{model}"
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        try:
            self._trusted = ssl.create_default_context(cafile=ca) if url.startswith("https:") else None
        except OSError as error:
            raise RetrainError(
                f"serving.tls.ca: got {ca} ({error}), expected the certificates (PEM) that have signed the "
                "servers' own"
            ) from None

    def call(self, path: str, body: Any = None) -> Any:
        """Asks, and gives the answer's JSON.

        Raises:
            RetrainError: the server does not answer, or answers with an error.
        """
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url + path, data, self._headers)
            with urllib.request.urlopen(request, timeout=60, context=self._trusted) as response:
                # What is no number, which JSON has no word for, is no answer.
                return json.load(response, parse_constant=lambda _: None)
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

    def served(self, requested: Mapping[str, str]) -> Served:
        """The version that answers.

        Args:
            requested: raw column -> its name in a request.

        Raises:
            RetrainError: it is none that this pipeline made.
        """
        told = self.call("/metadata")
        signature = told["metadata"]["signature_def"]["signature_def"].get(SERVING_RAW)
        outputs = {} if signature is None else signature["outputs"]
        if PREDICTIONS not in outputs:
            raise RetrainError(
                f"{self.url}: the model has no signature {SERVING_RAW} with an output {PREDICTIONS}; only "
                "models that this pipeline made take rows"
            )
        columns = {name: column for column, name in requested.items()}
        inputs = {
            name: Input(columns.get(name, name), _KINDS[spec["dtype"]], len(spec["tensor_shape"]["dim"]) == 2)
            for name, spec in signature["inputs"].items()
        }
        return Served(int(told["model_spec"]["version"]), inputs, {CLASSES, SCORES} <= outputs.keys())

    def predict(self, version: int, inputs: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """The outputs of one version by name, a value a row, for inputs by name."""
        body = {"signature_name": SERVING_RAW, "inputs": inputs}
        outputs = self.call(f"/versions/{version}:predict", body)["outputs"]
        return outputs if isinstance(outputs, dict) else {PREDICTIONS: outputs}


def predict_rows(client: Client, served: Served, file: RowsFile) -> Iterator[list[Answer]]:
    """What became of every row, in order, a request's worth at a time.

    One version answers them all, also while another takes its place.
    """
    for request in file.requests(served.inputs):
        answers = [Answer(line, None, error) for line, error in request.errors.items()]
        if request.lines:
            outputs = client.predict(served.version, request.inputs)
            answers += _answers(request.lines, outputs, served.multiclass)
        yield sorted(answers, key=lambda answer: answer.line)


def _answers(lines: list[int], outputs: Mapping[str, list[Any]], multiclass: bool) -> Iterator[Answer]:
    scores: Iterable[Any] = [None] * len(lines)
    if multiclass:
        scores = (dict(zip(*row, strict=True)) for row in zip(outputs[CLASSES], outputs[SCORES], strict=True))
    for line, prediction, of_classes in zip(lines, outputs[PREDICTIONS], scores, strict=True):
        yield Answer(line, prediction, scores=of_classes)


def csv_header(served: Served) -> list[str]:
    """The columns of `as_csv`, without `error`."""
    return ["line", "prediction", "score"] if served.multiclass else ["line", "prediction"]


def as_csv(rows: Iterable[Iterable[Any]]) -> str:
    """Lines of CSV, each with its line break."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def check_output(path: Path, file: Path) -> None:
    """Refuses a file to write to before any work is done for it.

    Raises:
        RetrainError: it is a folder, its folder is not there, or it is what is read.
    """
    if path.is_dir() or not path.parent.is_dir():
        seen = "is a folder" if path.is_dir() else f"{path.parent} is no folder"
        raise RetrainError(f"--output {path}: {seen}; name a file in a folder that is there")
    if path.exists() and path.samefile(file):
        raise RetrainError(f"--output {path}: this is the file with the rows; name another")


def write_answers(path: Path, served: Served, answers: Iterable[list[Answer]]) -> tuple[int, int]:
    """Writes answers to a file, as JSON lines if its name ends in .jsonl, else as CSV with errors in it.

    It is written aside, and takes its name when all of it is there.

    Returns:
        How many rows there were, and how many could not be read.

    Raises:
        RetrainError: what `answers` raises, or there is no room or no right to write there.
    """
    count = bad = 0
    as_json = path.suffix == ".jsonl"
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "w", encoding="utf-8", newline="") as out:
            if not as_json:
                out.write(as_csv([[*csv_header(served), "error"]]))
            for some in answers:
                if as_json:
                    out.writelines(json.dumps(answer.to_json(served)) + "\n" for answer in some)
                else:
                    out.write(as_csv([*answer.cells(served), answer.error] for answer in some))
                count += len(some)
                bad += sum(answer.error is not None for answer in some)
        aside.replace(path)
    except OSError as error:
        raise RetrainError(f"--output {path}: {error.strerror}; name a file that can be written") from None
    finally:
        aside.unlink(missing_ok=True)
    return count, bad


def show_answers(terminal: Terminal, served: Served, answers: Iterable[list[Answer]]) -> tuple[int, int]:
    """Prints answers, and for a person what went wrong on standard error.

    Returns:
        How many rows there were, and how many could not be read.
    """
    count = bad = 0
    if not terminal.as_json:
        terminal.show(None, ",".join(csv_header(served)))
    for some in answers:
        for answer in some:
            terminal.show(answer.to_json(served), as_csv([answer.cells(served)]).removesuffix("\n"))
            if answer.error is not None:
                terminal.note(f"line {answer.line}: {answer.error}")
                bad += 1
        count += len(some)
    return count, bad
