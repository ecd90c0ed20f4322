"""Commands that learn, or look at what there is to learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import RetrainError
from pipeline.cli.feedback import tell_skew
from pipeline.cli.shared import (
    Config,
    Data,
    Json,
    State,
    follow_alias,
    load,
    make_terminal,
)

if TYPE_CHECKING:
    from pipeline.config import Deployment
    from pipeline.terminal import Terminal


def run(
    config: Config,
    until: Annotated[
        str | None, typer.Option(metavar="SPAN", help="The last span to learn, by number or date.")
    ] = None,
    together: Annotated[bool, typer.Option("--together", help="Learn all pending spans in one run.")] = False,
    span: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help="Learn only this span, by number or date, whatever the triggers say; spans before it stay "
            "pending.",
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Learn --span again, if its files have changed (or --force).")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Train even where no trigger asks for it.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Learn spans that were set aside, too.")] = False,
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch",
            help="Train a shadow: anew, on all that the served version learned, to see what that lacks.",
        ),
    ] = False,
    state: State = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Learn what is new since the served version."""
    from pipeline.views import outcomes_table

    if again and span is None:
        raise RetrainError("--again: which span? Name it with --span (`retrain status` tells what changed)")
    if span is not None and (until is not None or together):
        raise RetrainError("--span names the one span to learn; leave --until and --together out")
    if from_scratch and (span is not None or until is not None or together or force or retry):
        raise RetrainError("--from-scratch learns what the served version has learned; leave the others out")
    deployment, terminal = load(config, state, data), make_terminal(json)
    options = {"until": until, "together": together, "span": span, "again": again}
    options["from_scratch"] = from_scratch
    if _under_test(deployment, terminal):
        return
    outcomes = []
    for outcome in _learn(deployment, terminal, forced=force, retry=retry, **options):
        outcomes.append(outcome)
        if json:
            terminal.show(outcome.to_json(), "")
        else:
            terminal.note(_line(outcome))
        if outcome.action == "refuse":
            raise RetrainError(_refusal(outcome, deployment))
    if not outcomes:
        champion = follow_alias(deployment)
        served = "no version is served" if champion is None else f"version {champion} is served"
        terminal.note(f"nothing new to learn; {served}")
    elif not json:
        terminal.show(None, outcomes_table(outcomes))


def check(
    config: Config,
    until: Annotated[
        str | None, typer.Option(metavar="SPAN", help="The last span to look at, by number or date.")
    ] = None,
    state: State = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Look at all pending data - validation, drift, the decision with its reasons - and train nothing."""
    from pipeline.views import decision_view

    deployment, terminal = load(config, state, data), make_terminal(json)
    outcomes = list(_learn(deployment, terminal, check=True, together=True, until=until))
    if not outcomes:
        terminal.note("nothing new to look at")
    for outcome in outcomes:
        terminal.show(outcome.to_json(), decision_view(outcome))
        if outcome.action == "refuse":
            raise RetrainError(_refusal(outcome, deployment))


def _learn(deployment: Deployment, terminal: Terminal, **options: Any) -> Iterator[Any]:
    """Runs what is pending, with progress on the terminal and everything else in the log."""
    from pipeline.learn import Learner
    from pipeline.lock import locked
    from pipeline.spans import pattern
    from pipeline.views import late_lines

    named = pattern.parse(deployment.data.pattern)
    for name in ("until", "span"):
        if options.get(name) is not None:
            options[name] = named.read(f"--{name}", options[name])
    learner = Learner(deployment, log_to=terminal.log_to, **options)
    waiting = learner.waiting()
    for span, why in learner.left_out.items():
        terminal.note(f"span {named.label([span])} is {_left_out(why, learner.from_scratch)}")
    for difference in learner.changed.values():
        terminal.note(f"{difference}; the shadow learns it as it is now")
    late = [span for span in learner.late() if span.span not in waiting]
    for line in late_lines(late, named):
        terminal.note(line)
    if late and terminal.as_json:
        terminal.show({"late": [span.to_json(named) for span in late]}, "")
    if waiting or learner.check:  # of the version that is served now: what is learned now knows no skew yet
        tell_skew(deployment, terminal)
    if not waiting:
        if learner.span is not None and not learner.left_out:
            name = named.label([learner.span])
            terminal.note(f"span {name} is learned, and has not changed since (--again --force learns it)")
        return
    with locked(deployment.state), terminal.captured(), terminal.progress() as progress:
        learner.on_stage = progress.update
        yield from learner.outcomes()


def _under_test(deployment: Deployment, terminal: Terminal) -> bool:
    """Whether a challenger is under test; then this run is over."""
    from pipeline.champion import open_registry

    challenger = open_registry(deployment).challenger() if deployment.serving.canary else None
    if challenger is None:
        return False
    champion = follow_alias(deployment)
    terminal.show(
        {"challenger": challenger.number, "served": champion, "decision": "wait"},
        f"version {challenger.number} is under test against version {champion}; nothing is learned until it "
        "is champion or turned back (`retrain canary status`)",
    )
    return True


def _left_out(why: str, from_scratch: bool) -> str:
    if from_scratch:
        return f"left out of the shadow: {why}"
    return f"set aside: {why} (--retry looks at it again, `retrain release` takes it as it is)"


def _line(outcome: Any) -> str:
    took = f"{sum(outcome.seconds.values()):.0f} s"
    what = f"span {outcome.label}: {outcome.action}"
    if outcome.version is None:
        return f"{what} ({took}): {'; '.join(outcome.decision['reasons'])}"
    became = "was rejected"
    if outcome.challenger:
        became = "is the challenger; `retrain canary run` tests it"
    elif outcome.blessed:
        became = "is served" if outcome.served == outcome.version else "is the shadow"
    again = f", attempt {outcome.attempt}" if outcome.attempt > 1 else ""
    return f"{what} ({took}{again}): version {outcome.version} {became}"


def _refusal(outcome: Any, deployment: Deployment) -> str:
    reasons = "\n".join(f"  {reason}" for reason in outcome.decision["reasons"])
    return (
        f"span {outcome.label} was refused; the schema does not allow what it holds:\n{reasons}\n"
        f"Mend the data, or the schema {deployment.schema_path} if this is how the data is now. "
        f"Nothing was learned from it, and what is served stays. Log: {outcome.log}"
    )
