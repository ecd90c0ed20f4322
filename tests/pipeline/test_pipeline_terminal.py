"""What a person sees is kept apart from what libraries print, down to the file descriptors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.terminal import Terminal

PRINT = """
import os, subprocess, sys
from pathlib import Path
from pipeline.terminal import Terminal

def noise(name):
    "As Python, C++ and a child print it."
    print(f"{name} print")
    print(f"{name} print to stderr", file=sys.stderr)
    os.write(1, f"{name} write to 1\\n".encode())
    os.write(2, f"{name} write to 2\\n".encode())
    subprocess.run([sys.executable, "-c", f"print('{name} child')"], check=True)

terminal = Terminal(as_json=len(sys.argv) > 2)
def say(text):
    terminal.show({"said": text}, text)
    terminal.note(f"note {text}")

"""


def run(tmp_path: Path, code: str, *args: str) -> tuple[list[str], list[str], int]:
    """Standard output, standard error, through pipes, and the exit code."""
    done = subprocess.run(
        [sys.executable, "-c", PRINT + code, str(tmp_path), *args],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.splitlines(), done.stderr.splitlines(), done.returncode


NOISE = {"print", "print to stderr", "write to 1", "write to 2", "child"}


def noise(name: str) -> set[str]:
    return {f"{name} {kind}" for kind in NOISE}


def test_libraries_go_to_the_log_and_the_terminal_is_as_before_afterwards(tmp_path: Path) -> None:
    out, err, code = run(
        tmp_path,
        """
say("before")
with terminal.captured(Path(sys.argv[1]) / "logs" / "a.log"):
    noise("inside")
    say("inside")
noise("after")
say("after")
""",
    )
    assert code == 0
    assert [line for line in out if " " not in line] == ["before", "inside", "after"]
    assert {line for line in out if " " in line} == {"after print", "after write to 1", "after child"}
    assert set(err) == {
        "note before",
        "note inside",
        "note after",
        "after print to stderr",
        "after write to 2",
    }
    log = (tmp_path / "logs" / "a.log").read_text().splitlines()
    assert len(log) == 5 and set(log) == noise("inside")


def test_a_log_is_added_to_and_can_change_on_the_way(tmp_path: Path) -> None:
    out, _, code = run(
        tmp_path,
        """
folder = Path(sys.argv[1])
for _ in range(2):
    with terminal.captured(folder / "a.log"):
        noise("first")
        terminal.log_to(folder / "b.log")
        noise("second")
        say("here")
""",
    )
    assert (code, out) == (0, ["here", "here"])
    for name, part in (("a.log", "first"), ("b.log", "second")):
        log = (tmp_path / name).read_text().splitlines()
        assert len(log) == 10 and set(log) == noise(part)


def test_one_within_another(tmp_path: Path) -> None:
    out, err, code = run(
        tmp_path,
        """
folder = Path(sys.argv[1])
with terminal.captured(folder / "outer.log"):
    noise("outer")
    with terminal.captured(folder / "inner.log"):
        noise("inner")
        say("inner")
    noise("outer again")
    say("outer")
say("after")
""",
    )
    assert (code, out) == (0, ["inner", "outer", "after"])
    assert err == ["note inner", "note outer", "note after"]
    assert set((tmp_path / "inner.log").read_text().splitlines()) == noise("inner")
    assert set((tmp_path / "outer.log").read_text().splitlines()) == noise("outer") | noise("outer again")


def test_an_error_reaches_the_real_standard_error(tmp_path: Path) -> None:
    out, err, code = run(
        tmp_path,
        """
with terminal.captured(Path(sys.argv[1]) / "a.log"):
    noise("inside")
    raise ValueError("the reason")
""",
    )
    assert (code, out) == (1, [])
    assert err[-1] == "ValueError: the reason"
    assert set((tmp_path / "a.log").read_text().splitlines()) == noise("inside")


def test_json_lines_are_alone_on_standard_output(tmp_path: Path) -> None:
    out, err, code = run(
        tmp_path,
        """
say("before")
with terminal.captured(Path(sys.argv[1]) / "a.log"):
    noise("inside")
    say("inside")
say(float("nan"))
""",
        "json",
    )
    assert (code, err) == (0, [])
    assert [json.loads(line) for line in out] == [{"said": "before"}, {"said": "inside"}, {"said": None}]


def test_everything_is_restored_after_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    descriptors = len(os.listdir("/proc/self/fd"))

    def fail() -> None:
        os.write(1, b"inside\n")
        raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError), terminal.captured(tmp_path / "a.log"):
            fail()
        os.write(1, b"outside\n")
        terminal.show(None, "shown")
    assert capfd.readouterr().out.splitlines() == ["outside", "shown"] * 3
    assert (tmp_path / "a.log").read_text() == "inside\n" * 3
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_log_that_can_not_be_written_leaves_the_terminal_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    terminal = Terminal()
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="file"), terminal.captured(tmp_path / "file" / "a.log"):
        pytest.fail("it can not begin")
    terminal.show(None, "still here")
    os.write(1, b"and here\n")
    assert capfd.readouterr().out == "still here\nand here\n"
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_json_is_plain(capfd: pytest.CaptureFixture[str]) -> None:
    Terminal(as_json=True).show(
        {"a": [1, float("inf"), (float("nan"), 0.5)], "b": {"c": float("-inf")}, "d": Path("/x"), "e": "é"},
        "",
    )
    out, err = capfd.readouterr()
    assert json.loads(out) == {"a": [1, None, [None, 0.5]], "b": {"c": None}, "d": "/x", "e": "é"}
    assert out.count("\n") == 1 and err == ""


def test_text_is_shown_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    text = "company=[red] :car: /data/[old]/1 " + "long " * 60
    terminal.show(None, text)
    terminal.note(text)
    out, err = capfd.readouterr()
    assert out == err == text + "\n"  # one line, however narrow the terminal


def test_progress_says_nothing_where_no_one_watches(capfd: pytest.CaptureFixture[str]) -> None:
    with Terminal().progress() as progress:
        progress.update("training")
        progress.update("judging")
    assert capfd.readouterr() == ("", "")


def test_progress_is_seen_on_a_terminal_though_the_rest_goes_to_the_log(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    code = """
with terminal.captured(Path(sys.argv[1]) / "a.log"), terminal.progress() as progress:
    progress.update("span 3: training")
    noise("inside")
    progress.update("span 3: judging")
"""
    done = subprocess.run(
        [sys.executable, "-c", PRINT + code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
        check=True,
    )
    os.close(theirs)
    seen = b""
    while chunk := _read(ours):
        seen += chunk
    os.close(ours)
    assert b"span 3: training" in seen and b"span 3: judging" in seen
    assert b"inside" not in seen and done.stdout == b""
    assert set((tmp_path / "a.log").read_text().splitlines()) == noise("inside")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how Linux says that the other end of a terminal is closed
        return b""
