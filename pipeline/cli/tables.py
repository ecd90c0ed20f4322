"""Commands that make a deployment of a table."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.shared import (
    Json,
    make_terminal,
)

_EVERY = "day, week, month, quarter or year; or, without a time column, a number of rows such as 500rows."


def init(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="One table: CSV, Parquet or TFRecord of tf.Examples."),
    ],
    label: Annotated[str, typer.Option(help="The column to predict.")],
    time: Annotated[str | None, typer.Option(help="The time column that tells spans apart.")] = None,
    every: Annotated[str | None, typer.Option(help=_EVERY)] = None,
    name: Annotated[str | None, typer.Option(help="Of the deployment; by default the file's.")] = None,
    task: Annotated[
        Literal["binary", "multiclass", "regression"] | None,
        typer.Option(help="What the label sets; by default its values say so."),
    ] = None,
    dir: Annotated[Path, typer.Option(help="Where configs/, schemas/ and data/ are.")] = Path(),
    sample_rows: Annotated[
        int, typer.Option(min=1_000, help="Rows that are looked at in depth; types and counts are of all.")
    ] = 100_000,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there of that name.")] = False,
    json: Json = False,
) -> None:
    """Make a deployment of a table: its schema, its configuration, its spans."""
    from pipeline.init import command

    terminal = make_terminal(json)
    request = command.Request(tuple(files), label, time, every, name, task, dir, sample_rows, force)
    with tempfile.TemporaryDirectory() as folder, terminal.captured(Path(folder, "log")):
        with terminal.progress() as progress:
            written = command.init(request, progress.update)
        terminal.show(command.to_json(written), command.table(written))
        if not json:
            terminal.show(None, command.summary(written))


def split(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="One table: CSV, Parquet or TFRecord of tf.Examples."),
    ],
    every: Annotated[str, typer.Option(help=_EVERY)],
    out: Annotated[Path, typer.Option(help="Where the spans' folders go.")],
    time: Annotated[str | None, typer.Option(help="The time column; without it rows are counted.")] = None,
    origin: Annotated[
        str | None, typer.Option(help="A day (YYYY-MM-DD) of span 1; by default the first one's.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace span folders that are there already.")] = False,
    json: Json = False,
) -> None:
    """Split a table by time, or by rows, into span folders, OUT/1, OUT/2, ..."""
    from rich.table import Table

    from pipeline.spans.split import split_files

    terminal = make_terminal(json)
    with terminal.progress() as progress:
        progress.update(f"splitting {', '.join(map(str, files))}")
        result = split_files(files, every, out, time_column=time, origin=origin, force=force)
    table = Table()
    for column in ("span", "period", "rows", "files"):
        table.add_column(column)
    for part in result.parts:
        paths = [str(path) for path in part.paths]
        if json:
            terminal.show({"span": part.span, "label": part.label, "rows": part.rows, "paths": paths}, "")
        table.add_row(str(part.span), part.label, str(part.rows), "\n".join(paths))
    if not json:
        terminal.show(None, table)
    if result.unreadable:
        there = ", ".join(map(str, result.unreadable_paths))
        terminal.note(f"{result.unreadable} rows have no readable time; they are in {there}")
