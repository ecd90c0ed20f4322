"""Commands about the deployment's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.errors import RetrainError
from pipeline.cli.shared import (
    Config,
    Data,
    Json,
    load,
    make_terminal,
)

app = typer.Typer(help="Check or explain a deployment's file.", no_args_is_help=True)


@app.command("check")
def config_check(
    config: Config,
    every: Annotated[
        bool, typer.Option("--all", help="Look at all files, not only at one of the first and last span.")
    ] = False,
    rows: Annotated[int, typer.Option(min=1, help="Rows to look at in a file.")] = 10_000,
    data: Data = None,
    json: Json = False,
) -> None:
    """Hold a deployment against its schema and its data, without running anything."""
    from pipeline.config import check as checks

    deployment, terminal = load(config, None, data), make_terminal(json)
    with terminal.progress() as progress:
        progress.update("looking at the data")
        report = checks.check(deployment, every, rows)
    terminal.show(checks.to_json(report), checks.to_text(report))
    if report.of("error"):
        raise typer.Exit(1)


@app.command("explain")
def config_explain(
    words: Annotated[list[str] | None, typer.Argument(metavar="[CONFIG] [KEY]", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Every key with its value, its default and what it is for. [CONFIG] [KEY]

    Without CONFIG it is a reference of all keys; KEY, such as replay or
    preprocessing.features.numeric, narrows it.
    """
    from pipeline.config import load, reference
    from pipeline.config.yaml_file import read_yaml

    files = [word for word in words or [] if word.endswith((".yaml", ".yml")) or Path(word).is_file()]
    keys = [word for word in words or [] if word not in files]
    if len(files) > 1 or len(keys) > 1:
        raise RetrainError(f"got {' '.join(words or [])}; expected at most one CONFIG and one KEY")
    path = Path(files[0]) if files else None
    parts = reference.explain(load(path), read_yaml(path)) if path else reference.reference()
    parts = reference.narrow(parts, keys[0]) if keys else parts
    terminal = make_terminal(json)
    if json:
        for told in reference.to_json(parts, path is not None):
            terminal.show(told, "")
        return
    terminal.show(None, reference.to_text(parts, path is not None, min(terminal.console.width, 100)))
    if path:
        terminal.note(f"* is set in {path}; the rest are defaults")
