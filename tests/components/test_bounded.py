"""Real processes that do what they should not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components import bounded

ROOT = Path(__file__).parents[2]


def run(act, max_seconds=30.0, max_memory_mb=1000.0):
    return bounded.run("tests.components.acts", {"act": act}, max_seconds, max_memory_mb)


def test_what_comes_to_its_end_hands_over_its_result():
    ended = run("answer")
    assert ended.result == {"got": "answer", "number": 0.1} and ended.why == ""
    assert 0 < ended.seconds < 30


def test_a_crash_is_told_with_its_signal():
    ended = run("crash")
    assert ended.result is None
    assert ended.why.startswith("its process was ended by SIGSEGV after ")
    assert ended.why.endswith(" MiB of memory, while doing crash")


def test_an_exception_is_told():
    ended = run("raise")
    assert ended.result is None and ended.why.startswith("its process ended with code 1 after ")
    assert "ZeroDivisionError: division by zero" in ended.why


def test_to_end_without_a_result_is_none():
    ended = run("say nothing")
    assert ended.result is None and ended.why.startswith("its process ended with code 0 after ")


def test_what_hangs_is_stopped():
    ended = run("hang", max_seconds=1.0)
    assert ended.result is None and ended.why == "it was not done after 1 s, while doing hang"
    assert 1.0 <= ended.seconds < 10


def test_what_grows_is_stopped_before_it_has_much_more():
    ended = run("grow", max_memory_mb=150.0)
    assert ended.result is None
    assert ended.why.endswith(" MiB of memory, allowed 150, while doing grow")
    assert 150 < ended.memory_mb < 400


def test_it_does_not_outlive_the_one_that_started_it():
    script = "from components import bounded; bounded.run('tests.components.acts', {'act': 'hang'}, 999, 999)"
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    child = wait_for(lambda: child_of(parent.pid))
    # From here on it is bound to its parent.
    wait_for(lambda: Path(f"/proc/{child}/oom_score_adj").read_text() == "1000\n")
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(child))


def child_of(pid):
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(text[0]) if text else None


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(what, seconds=30):
    begun = time.monotonic()
    while not (found := what()):
        assert time.monotonic() - begun < seconds
        time.sleep(0.02)
    return found


def test_an_interruption_ends_it(monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[0])
    monkeypatch.setattr(time, "sleep", lambda _: signal.raise_signal(signal.SIGINT))
    # Who runs the tests in the background of a shell has them ignore it.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run("hang")
    finally:
        signal.signal(signal.SIGINT, ours)
    assert started[0].returncode == -signal.SIGKILL
