"""The command `retrain` itself, and what its parts share."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.errors import RetrainError

if TYPE_CHECKING:
    from pipeline.config import Deployment
    from pipeline.terminal import Terminal

app = typer.Typer(
    help="Keeps a served TensorFlow model current: learns new data on top of what the served version knows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The deployment's YAML file.")]
Words = Annotated[list[str] | None, typer.Argument(show_default=False)]
State = Annotated[Path | None, typer.Option(help="State folder, in place of the YAML's.")]
Data = Annotated[Path | None, typer.Option(help="Folder of the spans, in place of the YAML's.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]


def load(config: Path, state: Path | None, data: Path | None) -> Deployment:
    from pipeline import config as deployments

    return deployments.load(config, state, data)


def find(words: list[str] | None, state: Path | None, data: Path | None) -> tuple[Deployment, int | None]:
    """`[CONFIG] [VERSION]` in either order. Without CONFIG: $RETRAIN_CONFIG, or the only one in configs/."""
    numbers = [word for word in words or [] if word.isdigit()]
    paths = [word for word in words or [] if not word.isdigit()]
    if len(numbers) > 1 or len(paths) > 1:
        raise RetrainError(f"got {' '.join(words or [])}; expected at most one CONFIG and one VERSION")
    if not paths and os.environ.get("RETRAIN_CONFIG"):
        paths = [os.environ["RETRAIN_CONFIG"]]
    if not paths:
        paths = sorted(str(path) for path in Path("configs").glob("*.yaml"))
        if len(paths) != 1:
            found = f"configs/ holds {', '.join(paths)}" if paths else "there is no configs/*.yaml here"
            raise RetrainError(f"which deployment? {found}; name its YAML file, or set RETRAIN_CONFIG")
    return load(Path(paths[0]), state, data), int(numbers[0]) if numbers else None


def find_one(words: list[str] | None, state: Path | None, data: Path | None) -> tuple[Deployment, int]:
    deployment, number = find(words, state, data)
    if number is None:
        raise RetrainError("which version? Name its number; `retrain history` lists them")
    return deployment, number


def find_all(words: list[str] | None, state: Path | None, data: Path | None) -> Deployment:
    deployment, number = find(words, state, data)
    if number is not None:
        raise RetrainError(
            f"got {number}, expected at most a CONFIG; `retrain show {number}` tells of one version"
        )
    return deployment


def make_terminal(as_json: bool) -> Terminal:
    from pipeline.terminal import Terminal

    return Terminal(as_json)


def follow_alias(deployment: Deployment) -> int | None:
    """Mends what a process left undone that was killed after it had moved the alias; gives the champion."""
    from pipeline.champion import open_registry, sync_serving
    from pipeline.lock import LockedError, locked

    champion = open_registry(deployment).champion()
    if champion is None:
        return None
    # A command that holds the lock does this itself when it is done.
    with contextlib.suppress(LockedError), locked(deployment.state):
        sync_serving(deployment, champion)
    return champion.number
