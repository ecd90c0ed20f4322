"""Commands about versions: what there is, what is served."""

from __future__ import annotations

from typing import Annotated

import typer

from components.errors import RetrainError
from pipeline.cli.shared import (
    Data,
    Json,
    State,
    Words,
    find,
    find_all,
    find_one,
    make_terminal,
)


def status(words: Words = None, state: State = None, data: Data = None, json: Json = False) -> None:
    """What is served, and what is waiting. [CONFIG]"""
    from pipeline import views

    make_terminal(json).show(*views.status(find_all(words, state, data)))


def history(
    words: Words = None,
    moves: Annotated[
        bool, typer.Option("--moves", help="Every move of an alias instead: when, by whom, and why.")
    ] = False,
    state: State = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Every version: what it learned, from which parent, how it did, what became of it. [CONFIG]"""
    from pipeline import views

    deployment, terminal = find_all(words, state, data), make_terminal(json)
    rows, table = views.moves(deployment) if moves else views.history(deployment)
    if not json:
        terminal.show(None, table)
    for row in rows if json else []:
        terminal.show(row, "")


def show(words: Words = None, state: State = None, data: Data = None, json: Json = False) -> None:
    """Everything about one version. [CONFIG] VERSION"""
    from pipeline import views

    deployment, number = find_one(words, state, data)
    make_terminal(json).show(*views.show(deployment, number))


def promote(
    words: Words = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also what the gate rejected, or was rolled back or turned back; needs --reason."
        ),
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; kept with the move of the alias.")] = "",
    state: State = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Serve a version. [CONFIG] VERSION"""
    from pipeline import champion
    from pipeline.lock import locked

    if force and not reason.strip():
        raise RetrainError("promote: --force needs --reason TEXT; it is kept in the history")
    deployment, number = find_one(words, state, data)
    terminal = make_terminal(json)
    with locked(deployment.state), terminal.progress() as progress:
        version = champion.promote(
            deployment, number, progress.update, why=reason.strip() or "promoted by hand", force=force
        )
    done = f"version {version.number} is served; the next run starts from it, after span {version.watermark}"
    terminal.show({"served": version.number, "watermark": version.watermark}, done)


def rollback(
    words: Words = None,
    reason: Annotated[str, typer.Option(help="Why; kept with the version that is left.")] = "",
    keep_spans: Annotated[
        bool,
        typer.Option(
            "--keep-spans", help="The next run learns again what only the versions left behind had learned."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also to what the gate rejected, or was rolled back itself.")
    ] = False,
    state: State = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Go back to the parent of what is served, or to VERSION. [CONFIG] [VERSION]"""
    from pipeline import rollback as rolling
    from pipeline.lock import locked

    if not reason.strip():
        raise RetrainError("rollback: say why, with --reason TEXT; it is kept in the history")
    deployment, number = find(words, state, data)
    terminal = make_terminal(json)
    with locked(deployment.state), terminal.progress() as progress:
        back = rolling.rollback(
            deployment, number, reason, progress.update, keep_spans=keep_spans, force=force
        )
    terminal.show(back.to_json(), back.describe())


def gc(
    words: Words = None,
    keep: Annotated[int, typer.Option(min=1, help="Versions to keep besides those that are in use.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    state: State = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Remove the files of old versions. [CONFIG]"""
    from pipeline import gc as collecting
    from pipeline.views.collected import collected_table

    deployment, terminal = find_all(words, state, data), make_terminal(json)
    with terminal.progress() as progress:
        collected = collecting.collect(deployment, keep, dry_run, progress.update)
    terminal.show(collected.to_json(), collected_table(collected))


def forget(
    words: Words = None,
    where: Annotated[
        str, typer.Option(help="Which records, by raw columns, such as \"customer = 'A17'\".")
    ] = "",
    reason: Annotated[str, typer.Option(help="Why; kept with the new version.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    state: State = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Remove records from what is remembered: the replay buffer and the held-out examples. [CONFIG]"""
    from pipeline import forget as forgetting
    from pipeline.learn import new_log

    if not where.strip():
        raise RetrainError("forget: say which records, with --where \"column = 'value'\"")
    deployment, terminal = find_all(words, state, data), make_terminal(json)
    log = new_log(deployment.state, "forget")
    with terminal.captured(log), terminal.progress() as progress:
        forgotten = forgetting.forget(deployment, where, reason, dry_run, progress.update, log)
    terminal.show(forgotten.to_json(), forgotten.describe())


def release(
    words: Annotated[list[str] | None, typer.Argument(metavar="[CONFIG] SPAN...", show_default=False)] = None,
    reason: Annotated[str, typer.Option(help="Why; kept with the spans.")] = "",
    state: State = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Let quarantined spans be learned after all. [CONFIG] SPAN..."""
    from pipeline import release as releasing
    from pipeline.lock import locked
    from pipeline.spans import pattern

    if not reason.strip():
        raise RetrainError("release: say why, with --reason TEXT; it is kept with the spans")
    files = [word for word in words or [] if word.endswith((".yaml", ".yml"))]
    deployment = find_all(files, state, data)
    named = pattern.parse(deployment.data.pattern)
    spans = [named.read("SPAN", word) for word in words or [] if word not in files]
    if not spans:
        raise RetrainError("release: which spans? `retrain status` lists those that are set aside")
    with locked(deployment.state):
        releasing.release(deployment, spans, reason)
    label = f"span{'s' * (len(spans) > 1)} {named.label(tuple(spans))}"
    make_terminal(json).show(
        {"released": spans, "reason": reason}, f"{label} released; the next run learns it"
    )
