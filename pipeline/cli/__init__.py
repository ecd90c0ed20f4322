"""The command `retrain`."""

from __future__ import annotations

import sys

from components.errors import RetrainError
from pipeline.cli import canary, config, feedback, runs, serving, tables, versions
from pipeline.cli.shared import app

for command in (
    tables.init,
    tables.split,
    runs.run,
    runs.check,
    versions.status,
    versions.history,
    versions.show,
    versions.promote,
    versions.rollback,
    versions.gc,
    versions.release,
    versions.forget,
    feedback.feedback,
    serving.serve,
    serving.predict,
):
    app.command()(command)
app.add_typer(config.app, name="config")
app.add_typer(canary.app, name="canary")


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
