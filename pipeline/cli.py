"""The command `retrain`."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
_EVERY = "day, week, month, quarter or year; or, without a time column, a number of rows such as 500rows."


def main() -> None:
    """Entry point: a user's mistake is a message and exit code 1; a defect of ours is a traceback."""
    from serving.errors import ServerError

    try:
        app()
    except (RetrainError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _load(config: Path, state: Path | None, data: Path | None) -> Deployment:
    from pipeline.config import load

    return load(config, state, data)


def _find(words: list[str] | None, state: Path | None, data: Path | None) -> tuple[Deployment, int | None]:
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
    return _load(Path(paths[0]), state, data), int(numbers[0]) if numbers else None


def _find_one(words: list[str] | None, state: Path | None, data: Path | None) -> tuple[Deployment, int]:
    deployment, number = _find(words, state, data)
    if number is None:
        raise RetrainError("which version? Name its number; `retrain history` lists them")
    return deployment, number


def _find_all(words: list[str] | None, state: Path | None, data: Path | None) -> Deployment:
    deployment, number = _find(words, state, data)
    if number is not None:
        raise RetrainError(
            f"got {number}, expected at most a CONFIG; `retrain show {number}` tells of one version"
        )
    return deployment


def _terminal(as_json: bool) -> Terminal:
    from pipeline.terminal import Terminal

    return Terminal(as_json)


@app.command()
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

    terminal = _terminal(json)
    request = command.Request(tuple(files), label, time, every, name, task, dir, sample_rows, force)
    with tempfile.TemporaryDirectory() as folder, terminal.captured(Path(folder, "log")):
        with terminal.progress() as progress:
            written = command.init(request, progress.update)
        terminal.show(command.to_json(written), command.table(written))
        if not json:
            terminal.show(None, command.summary(written))


@app.command()
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

    terminal = _terminal(json)
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
        terminal.note(f"span {named.label([span])} is set aside: {why} (--retry learns it again)")
    late = [span for span in learner.late() if span.span not in waiting]
    for line in late_lines(late, named):
        terminal.note(line)
    if late and terminal.as_json:
        terminal.show({"late": [span.to_json(named) for span in late]}, "")
    if not waiting:
        if learner.span is not None and not learner.left_out:
            name = named.label([learner.span])
            terminal.note(f"span {name} is learned, and has not changed since (--again --force learns it)")
        return
    with locked(deployment.state), terminal.captured(), terminal.progress() as progress:
        learner.on_stage = progress.update
        yield from learner.outcomes()


@app.command()
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
    deployment, terminal = _load(config, state, data), _terminal(json)
    options = {"until": until, "together": together, "span": span, "again": again}
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
        champion = _follow_alias(deployment)
        served = "no version is served" if champion is None else f"version {champion} is served"
        terminal.note(f"nothing new to learn; {served}")
    elif not json:
        terminal.show(None, outcomes_table(outcomes))


def _line(outcome: Any) -> str:
    took = f"{sum(outcome.seconds.values()):.0f} s"
    what = f"span {outcome.label}: {outcome.action}"
    if outcome.version is None:
        return f"{what} ({took}): {'; '.join(outcome.decision['reasons'])}"
    return f"{what} ({took}): version {outcome.version} {'is served' if outcome.blessed else 'was rejected'}"


def _refusal(outcome: Any, deployment: Deployment) -> str:
    reasons = "\n".join(f"  {reason}" for reason in outcome.decision["reasons"])
    return (
        f"span {outcome.label} was refused; the schema does not allow what it holds:\n{reasons}\n"
        f"Mend the data, or the schema {deployment.schema_path} if this is how the data is now. "
        f"Nothing was learned from it, and what is served stays. Log: {outcome.log}"
    )


@app.command()
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

    deployment, terminal = _load(config, state, data), _terminal(json)
    outcomes = list(_learn(deployment, terminal, check=True, together=True, until=until))
    if not outcomes:
        terminal.note("nothing new to look at")
    for outcome in outcomes:
        terminal.show(outcome.to_json(), decision_view(outcome))
        if outcome.action == "refuse":
            raise RetrainError(_refusal(outcome, deployment))


config_app = typer.Typer(help="Check or explain a deployment's file.", no_args_is_help=True)
app.add_typer(config_app, name="config")


@config_app.command("check")
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

    deployment, terminal = _load(config, None, data), _terminal(json)
    with terminal.progress() as progress:
        progress.update("looking at the data")
        report = checks.check(deployment, every, rows)
    terminal.show(checks.to_json(report), checks.to_text(report))
    if report.of("error"):
        raise typer.Exit(1)


@config_app.command("explain")
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
    terminal = _terminal(json)
    if json:
        for told in reference.to_json(parts, path is not None):
            terminal.show(told, "")
        return
    terminal.show(None, reference.to_text(parts, path is not None, min(terminal.console.width, 100)))
    if path:
        terminal.note(f"* is set in {path}; the rest are defaults")


@app.command()
def status(words: Words = None, state: State = None, data: Data = None, json: Json = False) -> None:
    """What is served, and what is waiting. [CONFIG]"""
    from pipeline import views

    _terminal(json).show(*views.status(_find_all(words, state, data)))


@app.command()
def history(words: Words = None, state: State = None, data: Data = None, json: Json = False) -> None:
    """Every version: what it learned, from which parent, how it did, what became of it. [CONFIG]"""
    from pipeline import views

    versions, table = views.history(_find_all(words, state, data))
    terminal = _terminal(json)
    if not json:
        terminal.show(None, table)
    for version in versions if json else []:
        terminal.show(version, "")


@app.command()
def show(words: Words = None, state: State = None, data: Data = None, json: Json = False) -> None:
    """Everything about one version. [CONFIG] VERSION"""
    from pipeline import views

    deployment, number = _find_one(words, state, data)
    _terminal(json).show(*views.show(deployment, number))


@app.command()
def promote(words: Words = None, state: State = None, data: Data = None, json: Json = False) -> None:
    """Serve a version, whatever the gate said of it. [CONFIG] VERSION"""
    from pipeline import champion
    from pipeline.lock import locked

    deployment, number = _find_one(words, state, data)
    with locked(deployment.state):
        version = champion.promote(deployment, number)
    done = f"version {version.number} is served; the next run starts from it, after span {version.watermark}"
    _terminal(json).show({"served": version.number, "watermark": version.watermark}, done)


@app.command()
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
    deployment, number = _find(words, state, data)
    with locked(deployment.state):
        left, served, aside = champion.rollback(deployment, number, reason)
    done = f"version {served.number} is served in place of {left.number}; the next run starts from it"
    if aside:
        done += (
            f". What had been learned since is set aside: span {spans_text(aside)} (`retrain run --retry` "
            "learns it again)"
        )
    _terminal(json).show(
        {"served": served.number, "left": left.number, "reason": reason, "set_aside": list(aside)}, done
    )


def _follow_alias(deployment: Deployment) -> int | None:
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


@contextlib.contextmanager
def _server(deployment: Deployment, rest_port: int, grpc_port: int, on_event: Any) -> Iterator[Any]:
    _follow_alias(deployment)
    from serving.server import ModelServer

    with ModelServer(
        deployment.model_config_file, deployment.serving.host, grpc_port, rest_port, on_event=on_event
    ) as server:
        yield server


@app.command()
def serve(
    config: Config,
    rest_port: Annotated[
        int | None, typer.Option(help="In place of the YAML's; 0 takes a free port.")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="In place of the YAML's; 0 takes a free port.")
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Serve the champion with the embedded server, and follow it when it changes."""
    import signal

    from pipeline.learn import new_log

    deployment, terminal = _load(config, state, None), _terminal(json)
    serving = deployment.serving

    def tell(event: str) -> None:
        terminal.show({"event": event}, event)

    ports = [
        default if given is None else given
        for given, default in ((rest_port, serving.rest_port), (grpc_port, serving.grpc_port))
    ]
    log = new_log(deployment.state, "serve")
    with terminal.captured(log), _server(deployment, ports[0], ports[1], tell) as server:
        # Raised in the main thread, so that requests in flight end before the process does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        rest, grpc = f"http://{serving.host}:{server.rest_port}", f"{serving.host}:{server.grpc_port}"
        terminal.show(
            {"rest": rest, "grpc": grpc, "model": deployment.name},
            f"REST {rest}/v1/models/{deployment.name}   gRPC {grpc}   (Ctrl-C ends it)",
        )
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()


@app.command()
def predict(
    config: Config,
    file: Annotated[
        Path, typer.Argument(help="CSV, Parquet or TFRecord of tf.Examples with the model's columns.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Write here instead: JSON lines if the name ends in .jsonl, else CSV."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="A running server; by default the configured one, else one for this command."),
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Predictions of the served version for the rows of a file, asked of a model server."""
    from pipeline.champion import open_registry
    from pipeline.learn import new_log
    from pipeline.predict import Client, check_output
    from pipeline.request_rows import RowsFile

    deployment, terminal = _load(config, state, None), _terminal(json)
    serving = deployment.serving
    rows = RowsFile(file, deployment.columns)
    if output is not None:
        check_output(output, file)
    client = Client(url or f"http://{serving.host}:{serving.rest_port}", deployment.name)
    if url or (serving.rest_port and client.answers()):
        _predict(deployment, client, rows, output, terminal)
        return
    if open_registry(deployment).champion() is None:
        raise RetrainError(f"predict: no version is served yet; `retrain run {config}` makes the first one")
    with terminal.captured(new_log(deployment.state, "predict")), terminal.progress() as progress:
        progress.update("starting a server")
        with _server(deployment, 0, 0, lambda _: None) as server:
            server.wait_until_available(deployment.name)
            progress.stop()
            client = Client(f"http://{serving.host}:{server.rest_port}", deployment.name)
            _predict(deployment, client, rows, output, terminal)


def _predict(deployment: Deployment, client: Any, rows: Any, output: Path | None, terminal: Terminal) -> None:
    from components.features import request_names
    from pipeline.predict import predict_rows, show_answers, write_answers

    served = client.served(request_names(deployment.columns))
    answers = predict_rows(client, served, rows)
    with terminal.progress() as progress:
        if output is not None or not terminal.console.is_terminal:  # else the rows show how far it is
            progress.update(f"predicting {rows.path}")
        if output is None:
            count, bad = show_answers(terminal, served, answers)
        else:
            count, bad = write_answers(output, served, answers)
    unread = f"; {bad} of {count} rows could not be read" if bad else ""
    by = f"predicted by version {served.version} of {client.url}{unread}"
    if output is None:
        terminal.note(by)
    else:
        told = {"output": str(output), "rows": count, "unreadable": bad, "version": served.version}
        terminal.show(told, f"{output}: {count} rows, {by}")


if __name__ == "__main__":
    main()
