"""A Python module in a process of its own, with bounds on its time and its memory.

What it does may crash, hang or grow: code in C++ aborts, a graph may loop for ever. So it is a fresh
interpreter, not a fork (TensorFlow's threads do not survive one), and its end, whatever it is, is told in
words. Its memory is what is resident, as Linux's /proc has it: an address-space limit would count what
TensorFlow reserves and never touches.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.02
_RESULT, _STAGE, _REQUEST = "result.json", "stage", "request.json"
_PR_SET_PDEATHSIG = 1
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    """How the process ended.

    Attributes:
        result: what it had to say; None: it did not come to its end.
        why: then, why not, in words; otherwise empty.
        seconds: how long it ran.
        memory_mb: the most memory that it had resident, in MiB, rounded up.
    """

    result: dict[str, Any] | None
    why: str
    seconds: float
    memory_mb: int


def run(module: str, request: Mapping[str, Any], max_seconds: float, max_memory_mb: float) -> Ended:
    """Runs `module` with a request, to its end or until it is over a bound.

    Nothing that it prints is taken for its result; what it prints goes to this process's standard error.

    Args:
        module: dotted path; its `__main__` calls `answer`.
        request: plain data.
        max_seconds: the longest time, from its start.
        max_memory_mb: the most resident memory, in MiB.
    """
    with tempfile.TemporaryDirectory(prefix="retrain-") as folder:
        (Path(folder) / _REQUEST).write_text(json.dumps(request))
        printed = Path(folder) / "printed"
        begun = time.monotonic()
        with open(printed, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, folder],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            over, memory = _watch(process, begun, max_seconds, max_memory_mb)
        finally:
            process.kill()  # also where this process is interrupted
            process.wait()
        seconds = time.monotonic() - begun
        text = printed.read_text(errors="replace")
        sys.stderr.write(text)
        result = Path(folder) / _RESULT
        if not over and process.returncode == 0 and result.exists():
            return Ended(json.loads(result.read_text()), "", seconds, memory)
        stage = _read(Path(folder) / _STAGE)
        why = over or _why(process.returncode, text, seconds, memory)
        return Ended(None, why + (f", while {stage}" if stage else ""), seconds, memory)


def _environment() -> dict[str, str]:
    known = os.environ.get("PYTHONPATH")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(_ROOT), *([known] if known else [])]),
        # The process that trains may hold all of an accelerator's memory.
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Without it TensorFlow's import brings Keras and all that Keras imports, a third of the whole.
        "TF_USE_LEGACY_KERAS": "1",
    }


def _watch(
    process: subprocess.Popen[bytes], begun: float, max_seconds: float, max_memory_mb: float
) -> tuple[str, int]:
    """Until the process has ended or is over a bound: over which, empty for none, and its peak of memory."""
    memory = 0
    while process.poll() is None:
        memory = max(memory, _peak_mb(process.pid))
        if memory > max_memory_mb:
            return f"its process had {memory:,.0f} MiB of memory, allowed {max_memory_mb:,.0f}", memory
        if time.monotonic() - begun > max_seconds:
            return f"it was not done after {max_seconds:g} s", memory
        time.sleep(_POLL_SECONDS)
    return "", memory


def _peak_mb(pid: int) -> int:
    """The most MiB that a process has had resident; 0 where there is none any more.

    Rounded up: what is told of a process that was stopped for its memory is more than what was allowed.
    """
    try:
        with open(f"/proc/{pid}/status") as file:
            found = next((line for line in file if line.startswith("VmHWM:")), None)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return math.ceil(int(found.split()[1]) / 1024) if found else 0


def _why(code: int, printed: str, seconds: float, memory: int) -> str:
    at = f"after {seconds:.1f} s, with {memory:,.0f} MiB of memory"
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (the system had no memory left?)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint} {at}"
    last = next((line for line in reversed(printed.splitlines()) if line.strip()), "")
    return f"its process ended with code {code} {at}: {last.strip()[:300]}"


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


class Stages:
    """Tells what is being done, so that what never ends can be named."""

    def __init__(self, folder: str) -> None:
        self._file = Path(folder) / _STAGE

    def __call__(self, stage: str) -> None:
        """Tells what begins, such as `loading the SavedModel`."""
        new = self._file.with_suffix(".new")
        new.write_text(stage)
        new.rename(self._file)


def request_of(folder: str) -> tuple[dict[str, Any], Stages]:
    """In the process: the request, and where to tell what is being done.

    From here on the process ends when the one that started it does, and is the first that the system ends
    where memory is short.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    adjustment = Path("/proc/self/oom_score_adj")
    if adjustment.exists():
        adjustment.write_text("1000")
    request: dict[str, Any] = json.loads((Path(folder) / _REQUEST).read_text())
    return request, Stages(folder)


def answer(folder: str, result: Mapping[str, Any]) -> None:
    """In the process: hands over its result, as its last act."""
    (Path(folder) / _RESULT).write_text(json.dumps(result))
