"""One command at a time, and no lock that outlives its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components.errors import RetrainError
from pipeline.lock import locked

HOLD = """
import sys
from pathlib import Path
from pipeline.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held_by_another(state: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with held_by_another(state) as holder:
        for _ in range(2):  # being refused takes nothing from the holder
            with pytest.raises(RetrainError) as error, locked(state):
                pass
            assert f"(process {holder.pid}, lock {state / 'lock'})" in str(error.value)
        holder.communicate("done\n")
    with locked(state):
        assert (state / "lock").read_text() == str(os.getpid())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_holder_that_is_killed_holds_nothing(tmp_path: Path, how: signal.Signals) -> None:
    with held_by_another(tmp_path) as holder:
        holder.send_signal(how)
        assert holder.wait() == -how
        with locked(tmp_path):
            assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_it_is_let_go_of_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        _ = 1 / 0
    with locked(tmp_path):
        pass


def test_not_even_the_same_process_gets_it_twice(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(RetrainError, match=rf"process {os.getpid()},"),
        locked(tmp_path),
    ):
        pass


def test_other_deployments_are_free(tmp_path: Path) -> None:
    with held_by_another(tmp_path / "a"), locked(tmp_path / "b"):
        pass
