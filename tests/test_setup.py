"""The Makefile makes .venv when it is due and leaves it alone when it is not; errors name the cure."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIGHT_SETUP = """
mkdir -p .venv/bin
ln -sf {python} .venv/bin/python
pwd -P >.venv/.ready
echo made
"""


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")} | environment
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The real Makefile around a set-up script that only leaves an interpreter and .ready."""
    folder = tmp_path / "a project"
    (folder / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "uv.lock"):
        (folder / name).touch()
    (folder / "deploy/setup.sh").write_text(LIGHT_SETUP.format(python=sys.executable))
    return folder


def made(folder: Path) -> bool:
    done = run(folder, "make", "setup")
    assert done.returncode == 0, done.stderr
    return "made" in done.stdout.splitlines()


def test_second_setup_does_nothing(project: Path) -> None:
    assert [made(project), made(project)] == [True, False]


@pytest.mark.parametrize("name", ["pyproject.toml", "uv.lock", "deploy/setup.sh"])
def test_setup_follows_what_it_depends_on(project: Path, name: str) -> None:
    made(project)
    later = (project / ".venv/.ready").stat().st_mtime + 10
    os.utime(project / name, (later, later))
    assert made(project)


def test_setup_runs_again_in_a_moved_folder(project: Path) -> None:
    made(project)
    moved = project.rename(project.with_name("moved"))
    assert [made(moved), made(moved)] == [True, False]


def test_setup_runs_again_when_python_is_gone(project: Path) -> None:
    made(project)
    (project / ".venv/bin/python").unlink()
    assert [made(project), made(project)] == [True, False]


def test_setup_runs_again_for_the_python_that_is_named(project: Path) -> None:
    made(project)
    assert "made" in run(project, "make", "setup", f"PYTHON={sys.executable}").stdout.splitlines()


def test_clean_keeps_other_deployments(project: Path) -> None:
    for name in (".venv/bin", ".tools/uv", "bench", "data/taxi", "state/taxi", "data/mine", "state/mine"):
        (project / name).mkdir(parents=True)
    for name in ("components", "pipeline", "serving", "tests/__pycache__"):
        (project / name).mkdir(parents=True)
    done = run(project, "make", "clean")
    assert done.returncode == 0, done.stderr
    left = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_dir()}
    assert left == {
        "components",
        "data",
        "data/mine",
        "deploy",
        "pipeline",
        "serving",
        "state",
        "state/mine",
        "tests",
    }


def test_help_names_every_target() -> None:
    lines = run(ROOT, "make", "help").stdout.splitlines()
    assert [line.split()[1] for line in lines] == [
        "help",
        "setup",
        "demo",
        "test",
        "test-long",
        "test-docs",
        "conformance",
        "lint",
        "bench",
        "bench-learning",
        "reference",
        "image",
        "clean",
    ]


def test_unusable_python_is_named(project: Path) -> None:
    shutil.copy(ROOT / "deploy/setup.sh", project / "deploy")
    done = run(project, "make", "setup", PYTHON="/nowhere/python3.9")
    assert done.returncode != 0
    assert "tried /nowhere/python3.9" in done.stderr
    assert "PYTHON=/path/to/python" in done.stderr
    assert not (project / ".venv").exists()
