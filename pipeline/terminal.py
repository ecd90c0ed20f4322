"""What a person sees: progress and tables; and where everything else that is printed goes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from rich import progress
from rich.console import Console


class Terminal:
    """Standard output and error of a command, kept apart from what libraries print.

    Args:
        as_json: print JSON lines, and nothing for a person but errors.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._out: TextIO = sys.stdout
        self._err: TextIO = sys.stderr
        # Names, paths and reasons are the user's: [brackets] and :colons: in them mean themselves.
        plain: Any = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
        self.console = Console(file=self._out, **plain)
        self.notes = Console(file=self._err, **plain)

    def show(self, data: Any, text: Any) -> None:
        """Prints `data` as a line of JSON, or `text` (anything rich prints) for a person."""
        if self.as_json:
            self._out.write(json.dumps(_finite(data), allow_nan=False, default=str) + "\n")
            self._out.flush()
        else:
            self.console.print(text)

    def note(self, text: str) -> None:
        """Prints a line on standard error, for a person only."""
        if not self.as_json:
            self.notes.print(text)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """A line that says what is going on, on a terminal; elsewhere it says nothing."""
        line = Progress(self.notes)
        try:
            yield line
        finally:
            line.stop()

    @contextlib.contextmanager
    def captured(self, log: Path | None = None) -> Iterator[None]:
        """Sends what anything in this process prints to a file, save through this terminal.

        TensorFlow and its like write to the file descriptors from C++, so these are what moves.

        Args:
            log: the file; None: from the first call of `log_to` on.
        """
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        outer, saved = (self._out, self._err), [os.dup(1), os.dup(2)]
        with contextlib.ExitStack() as stack:
            # Within another `captured` the descriptors lead to its log already.
            places = saved if self._out is sys.stdout else [stream.fileno() for stream in outer]
            self._out, self._err = (stack.enter_context(os.fdopen(os.dup(place), "w")) for place in places)
            self.console.file, self.notes.file = self._out, self._err
            try:
                if log is not None:
                    self.log_to(log)
                yield
            finally:
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
                for descriptor, original in zip((1, 2), saved, strict=True):
                    os.dup2(original, descriptor)
                    os.close(original)
                self._out, self._err = outer
                self.console.file, self.notes.file = self._out, self._err

    @staticmethod
    def log_to(log: Path) -> None:
        """Within `captured`: goes on in another file."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)


def _finite(data: Any) -> Any:
    """Plain data with null for what JSON has no number for, such as the loss of a model that diverged."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data


class Progress:
    """One line with what is being done and for how long."""

    def __init__(self, console: Console) -> None:
        self._line = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}", markup=False),
            progress.TimeElapsedColumn(),
            console=console,
            transient=True,
            # It would catch what Python prints meanwhile, which is for the log.
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not console.is_terminal,
        )

    def update(self, text: str) -> None:
        """Says what begins now."""
        self._line.start()
        for task in self._line.task_ids:
            self._line.remove_task(task)
        self._line.add_task(text, total=None)

    def stop(self) -> None:
        """Clears the line."""
        self._line.stop()
