"""One bash session of a reader, who types one command after the other."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path


class Shell:
    """Runs commands in order; what one starts in the background goes on, until the session ends.

    Args:
        folder: where it begins.
        environment: of all its commands.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGTERM)
        try:
            self._bash.communicate(timeout=30)  # until all that it started has ended
        except subprocess.TimeoutExpired:
            os.killpg(self._bash.pid, signal.SIGKILL)
            self._bash.communicate()

    def run(self, command: str, seconds: float) -> tuple[str, int]:
        """Types a command, and waits until it is done.

        Returns:
            What it printed, on both streams, and its exit code.

        Raises:
            TimeoutError: it takes longer.
        """
        assert self._bash.stdin is not None
        end = uuid.uuid4().hex
        # Its input is empty, or it could read what is typed next.
        typed = f"{{\n{command}\n}} </dev/null\nprintf '\\n{end} %s\\n' $?\n"
        self._bash.stdin.write(typed.encode())
        self._bash.stdin.flush()
        deadline, printed = time.monotonic() + seconds, b""
        while True:
            before, found, after = printed.partition(f"\n{end} ".encode())
            if found and b"\n" in after:
                return before.decode("utf-8", "replace"), int(after.split(b"\n")[0])
            printed += self._read(deadline, printed)

    def _read(self, deadline: float, printed: bytes) -> bytes:
        assert self._bash.stdout is not None
        some, _, _ = select.select([self._bash.stdout], [], [], max(0.0, deadline - time.monotonic()))
        text = printed.decode("utf-8", "replace")
        if not some:
            raise TimeoutError(f"it is not done; it printed:\n{text}")
        read = os.read(self._bash.stdout.fileno(), 1 << 16)
        if not read:
            raise EOFError(f"it ended the session; it printed:\n{text}")
        return read
