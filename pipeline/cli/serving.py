"""Commands that serve and predict."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import RetrainError
from pipeline.cli.model_server import address_of, configured_server, own_server, token_of
from pipeline.cli.shared import (
    Config,
    Json,
    State,
    load,
    make_terminal,
)

if TYPE_CHECKING:
    from pipeline.config import Deployment
    from pipeline.terminal import Terminal


def serve(
    config: Config,
    canary: Annotated[
        bool,
        typer.Option(
            "--canary", help="Serve the challenger, on the address of the first of `serving.canary.servers`."
        ),
    ] = False,
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
    import os
    import signal

    from pipeline.learn import new_log

    # Read when TensorFlow is loaded: each refused request would leave a line in the log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    deployment, terminal = load(config, state, None), make_terminal(json)
    address = address_of(deployment, canary, rest_port, grpc_port)

    def tell(event: str) -> None:
        terminal.show({"event": event}, event)

    log = new_log(deployment.state, "serve")
    with terminal.captured(log), configured_server(deployment, address, tell, canary) as server:
        from serving.server import tune_interpreter

        tune_interpreter()
        # Raised in the main thread, so that requests in flight end before the process does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        scheme = "https" if deployment.serving.tls else "http"
        rest, grpc = f"{scheme}://{address.host}:{server.rest_port}", f"{address.host}:{server.grpc_port}"
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
    scheme = "https" if serving.tls else "http"
    client = Client(
        url or f"{scheme}://{serving.host}:{serving.rest_port}",
        deployment.name,
        token=token_of(deployment),
        ca=serving.tls.ca if serving.tls else None,
    )
    if url or (serving.rest_port and client.answers()):
        _predict(deployment, client, rows, output, terminal)
        return
    if open_registry(deployment).champion() is None:
        raise RetrainError(f"predict: no version is served yet; `retrain run {config}` makes the first one")
    with terminal.captured(new_log(deployment.state, "predict")), terminal.progress() as progress:
        progress.update("starting a server")
        with own_server(deployment) as server:
            server.wait_until_available(deployment.name)
            progress.stop()
            client = Client(f"http://127.0.0.1:{server.rest_port}", deployment.name)
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
