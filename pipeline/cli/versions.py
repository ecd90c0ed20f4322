"""Commands about versions: what there is, what is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    pass


def status(words: Words = None, state: State = None, data: Data = None, json: Json = False) -> None:
    """What is served, and what is waiting. [CONFIG]"""
    from pipeline import views

    make_terminal(json).show(*views.status(find_all(words, state, data)))


def history(words: Words = None, state: State = None, data: Data = None, json: Json = False) -> None:
    """Every version: what it learned, from which parent, how it did, what became of it. [CONFIG]"""
    from pipeline import views

    versions, table = views.history(find_all(words, state, data))
    terminal = make_terminal(json)
    if not json:
        terminal.show(None, table)
    for version in versions if json else []:
        terminal.show(version, "")


def show(words: Words = None, state: State = None, data: Data = None, json: Json = False) -> None:
    """Everything about one version. [CONFIG] VERSION"""
    from pipeline import views

    deployment, number = find_one(words, state, data)
    make_terminal(json).show(*views.show(deployment, number))


def promote(words: Words = None, state: State = None, data: Data = None, json: Json = False) -> None:
    """Serve a version, whatever the gate said of it. [CONFIG] VERSION"""
    from pipeline import champion
    from pipeline.lock import locked

    deployment, number = find_one(words, state, data)
    with locked(deployment.state):
        version = champion.promote(deployment, number)
    done = f"version {version.number} is served; the next run starts from it, after span {version.watermark}"
    make_terminal(json).show({"served": version.number, "watermark": version.watermark}, done)


def rollback(
    words: Words = None,
    reason: Annotated[str, typer.Option(help="Why; kept with the version that is left.")] = "",
    state: State = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Go back to the parent of what is served, or to VERSION. [CONFIG] [VERSION]"""
    from pipeline import champion
    from pipeline.lock import locked
    from pipeline.spans.pattern import spans_text

    if not reason.strip():
        raise RetrainError("rollback: say why, with --reason TEXT; it is kept in the history")
    deployment, number = find(words, state, data)
    with locked(deployment.state):
        left, served, aside = champion.rollback(deployment, number, reason)
    done = f"version {served.number} is served in place of {left.number}; the next run starts from it"
    if aside:
        done += (
            f". What had been learned since is set aside: span {spans_text(aside)} (`retrain run --retry` "
            "learns it again)"
        )
    make_terminal(json).show(
        {"served": served.number, "left": left.number, "reason": reason, "set_aside": list(aside)}, done
    )
