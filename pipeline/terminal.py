"""What a person sees: progress and tables; and where everything else that is printed goes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.status import Status


class Terminal:
    """Standard output and error of a command, kept apart from what libraries print.

    Args:
        as_json: print JSON lines, and nothing for a person but errors.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._out: TextIO = sys.stdout
        self._err: TextIO = sys.stderr
        self.console = Console(file=self._out, highlight=False, soft_wrap=True)
        self.notes = Console(file=self._err, highlight=False, soft_wrap=True)

    def show(self, data: Any, text: Any) -> None:
        """Prints `data` as a line of JSON, or `text` (anything rich prints) for a person."""
        if self.as_json:
            self._out.write(json.dumps(data, allow_nan=False, default=str) + "\n")
            self._out.flush()
        else:
            self.console.print(text)

    def note(self, text: str) -> None:
        """Prints a line on standard error, for a person only."""
        if not self.as_json:
            self.notes.print(text, markup=False)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """A line that says what is going on, on a terminal; elsewhere it says nothing."""
        progress = Progress(self.notes)
        try:
            yield progress
        finally:
            progress.stop()

    @contextlib.contextmanager
    def captured(self, log: Path) -> Iterator[None]:
        """Sends what anything in this process prints to a file, save through this terminal.

        TensorFlow and its like write to the file descriptors from C++, so these are what moves.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        saved = [os.dup(1), os.dup(2)]
        with contextlib.ExitStack() as stack:
            self._out = stack.enter_context(os.fdopen(os.dup(saved[0]), "w"))
            self._err = stack.enter_context(os.fdopen(os.dup(saved[1]), "w"))
            self.console.file, self.notes.file = self._out, self._err
            with open(log, "ab") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            try:
                yield
            finally:
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
                for descriptor, original in zip((1, 2), saved, strict=True):
                    os.dup2(original, descriptor)
                    os.close(original)
                self._out, self._err = sys.stdout, sys.stderr
                self.console.file, self.notes.file = self._out, self._err


class Progress:
    """One line with what is being done and for how long."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._since = 0.0

    def update(self, text: str) -> None:
        """Says what begins now."""
        if not self._console.is_terminal:
            return
        self._since = time.monotonic()
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        self._status.update(text)

    def stop(self) -> None:
        """Clears the line."""
        if self._status is not None:
            self._status.stop()
            self._status = None
