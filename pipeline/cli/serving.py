"""Commands that serve and predict."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import RetrainError
from pipeline.cli.shared import (
    Config,
    Json,
    State,
    follow_alias,
    load,
    make_terminal,
)

if TYPE_CHECKING:
    from pipeline.config import Deployment
    from pipeline.terminal import Terminal


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

    deployment, terminal = load(config, state, None), make_terminal(json)
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

    deployment, terminal = load(config, state, None), make_terminal(json)
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


@contextlib.contextmanager
def _server(deployment: Deployment, rest_port: int, grpc_port: int, on_event: Any) -> Iterator[Any]:
    follow_alias(deployment)
    from serving.server import ModelServer

    with ModelServer(
        deployment.model_config_file, deployment.serving.host, grpc_port, rest_port, on_event=on_event
    ) as server:
        yield server
