"""Commands about the canary: the process that tests a challenger, and what a person has to say."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import RetrainError
from pipeline.cli.shared import Config, Json, State, load, make_terminal

if TYPE_CHECKING:
    from pipeline.canary.controller import Controller
    from pipeline.canary.manual import Action
    from pipeline.canary.state import State as CanaryState
    from pipeline.config import Deployment
    from pipeline.terminal import Terminal

app = typer.Typer(
    help="Test a challenger on a growing part of the requests, until it is champion or turned back.",
    no_args_is_help=True,
)
Reason = Annotated[str, typer.Option(help="Why; kept in the history.")]
_TAKEN = 60.0  # seconds that a running controller may need to take a request
_PAUSE = 10.0  # seconds after what somebody must mend


@app.command("run")
def canary_run(
    config: Config,
    once: Annotated[bool, typer.Option("--once", help="One look, as for cron; else until Ctrl-C.")] = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Control the canary: route requests, watch the challenger, advance, revert or promote."""
    import signal

    from pipeline.canary.controller import Controller
    from pipeline.canary.lock import alone

    deployment, terminal = load(config, state, None), make_terminal(json)
    controller = Controller(deployment, terminal.show)
    with alone(deployment):
        seen = controller.look()
        if once:
            if not json:
                terminal.console.print(_now(seen))
            return
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            _watch(deployment, controller, seen, terminal)
        except KeyboardInterrupt:
            terminal.note(
                "the controller ends; nginx goes on as it is (`retrain canary run` takes over again)"
            )


def _watch(deployment: Deployment, controller: Controller, seen: CanaryState, terminal: Terminal) -> None:
    from pipeline.canary.controller import settings

    often = min(1.0, settings(deployment).step_seconds / 10)
    problem = ""
    with terminal.progress() as progress:
        while True:
            progress.update(_now(seen))
            time.sleep(often if seen.phase == "testing" else min(5 * often, 2.0))
            try:
                seen, problem = controller.look(), ""
            except RetrainError as error:  # mended without it, such as a registry that is away for a while
                if str(error) != problem:
                    terminal.show({"event": "problem", "message": str(error)}, f"problem: {error}")
                problem = str(error)
                time.sleep(min(10 * often, _PAUSE))


def _now(seen: CanaryState) -> str:
    """What is going on, in a line."""
    waits = "; ".join(seen.waits)
    if seen.trial is None:
        return waits
    return f"version {seen.trial.challenger} at {seen.trial.step.percent:g} %, {seen.phase}: {waits}"


@app.command("status")
def canary_status(config: Config, state: State = None, json: Json = False) -> None:
    """The step, what was seen of both versions, how sure that is, and what the controller waits for."""
    from pipeline.canary import views

    make_terminal(json).show(*views.status(load(config, state, None)))


@app.command("advance")
def canary_advance(config: Config, reason: Reason = "", state: State = None, json: Json = False) -> None:
    """To the next step by hand; after the last one the challenger is champion."""
    _by_hand(load(config, state, None), "advance", reason, make_terminal(json))


@app.command("abort")
def canary_abort(config: Config, reason: Reason = "", state: State = None, json: Json = False) -> None:
    """Turn the challenger back by hand: all requests go to the champion, at once."""
    _by_hand(load(config, state, None), "abort", reason, make_terminal(json))


def _by_hand(deployment: Deployment, action: Action, reason: str, terminal: Terminal) -> None:
    from components.promote.moves import person
    from pipeline.canary import manual
    from pipeline.canary.controller import STATE_FILE, Controller, settings
    from pipeline.canary.front import folder
    from pipeline.canary.lock import AnotherError, alone
    from pipeline.canary.state import load as load_state

    if not reason.strip():
        raise RetrainError(f"canary {action}: say why, with --reason TEXT; it is kept in the history")
    settings(deployment)
    place, wish = folder(deployment), manual.Wish(action, reason, person())
    if load_state(place / STATE_FILE).phase not in ("testing", "promoting"):
        raise RetrainError(
            f"canary {action}: no challenger is under test (`retrain canary status`); nothing was changed"
        )
    try:
        with alone(deployment):
            Controller(deployment, lambda data, text: None).look(wish)
    except AnotherError:
        _leave(place, wish, terminal)
    left = load_state(place / STATE_FILE)
    events = [event for event in left.history if event.get("wish") == wish.id]
    if not events:
        how = "is begun, and goes on at the next look" if left.wish == wish.id else "was not done"
        raise RetrainError(f"canary {action}: it {how}: {'; '.join(left.waits)} (`retrain canary status`)")
    last = events[-1]
    told = f"version {last['challenger']}: {last['event']} at {last['percent']:g} % of the requests"
    terminal.show(last, told)


def _leave(place: Any, wish: Any, terminal: Terminal) -> None:
    """Asks the controller that runs, and waits until it has taken the request."""
    from pipeline.canary import manual

    manual.leave(place, wish)
    ends = time.monotonic() + _TAKEN
    with terminal.progress() as progress:
        progress.update("waiting for the controller")
        while (waiting := manual.left(place)) and waiting.id == wish.id:
            if time.monotonic() > ends:
                raise RetrainError(
                    f"canary {wish.action}: the controller has not taken it for {_TAKEN:.0f} s; it does when "
                    "it looks next (`retrain canary status` tells what keeps it)"
                )
            time.sleep(0.05)
