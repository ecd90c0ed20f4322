"""ML Metadata, as one run sees it: where it is, what the run made, and no other run's history."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.orchestration.portable.input_resolution import channel_resolver
from tfx.orchestration.portable.mlmd import execution_lib

from components.errors import RetrainError

_RUN = "pipeline_run"  # the type of the context that all executions of a run are in


def connection(state: Path, database: Any) -> Any:
    """ML Metadata's connection: SQLite in the state folder, or a configured server.

    Raises:
        RetrainError: the environment variable of the password is not set.
    """
    if database is None:
        return metadata.sqlite_metadata_connection_config(str(state / "metadata.sqlite"))
    password = ""
    if database.password_env:
        if database.password_env not in os.environ:
            raise RetrainError(
                f"engine.metadata.password_env: the environment variable {database.password_env} is not set"
            )
        password = os.environ[database.password_env]
    if database.type == "mysql":
        return metadata.mysql_metadata_connection_config(
            database.host, database.port, database.database, database.user, password
        )
    return metadata_store_pb2.ConnectionConfig(
        postgresql=metadata_store_pb2.PostgreSQLDatabaseConfig(
            host=database.host,
            port=str(database.port),
            user=database.user,
            password=password,
            dbname=database.database,
        )
    )


class Results:
    """What one run left in ML Metadata.

    Args:
        connection: of ML Metadata.
        run_id: of the run.
    """

    def __init__(self, connection: Any, run_id: str) -> None:
        self._connection, self._run_id = connection, run_id

    def executions(self) -> dict[int, int]:
        """The executions of the run so far, by id, with their states."""
        with metadata.Metadata(self._connection) as handle:
            context = handle.store.get_context_by_type_and_name(_RUN, self._run_id)
            found = handle.store.get_executions_by_context(context.id) if context else []
        return {execution.id: execution.last_known_state for execution in found}

    def artifact(self, type_name: str) -> Any:
        """The run's artifact of a type, new or from the cache; None where it made none."""
        with metadata.Metadata(self._connection) as handle:
            context = handle.store.get_context_by_type_and_name(_RUN, self._run_id)
            found = [a for a in handle.store.get_artifacts_by_context(context.id) if a.type == type_name]
        return max(found, key=lambda artifact: artifact.id) if found else None

    def read(self, type_name: str, file: str) -> Any:
        """The content of a JSON file of the run's artifact of a type."""
        return json.loads((Path(self.artifact(type_name).uri) / file).read_text())


@contextlib.contextmanager
def of_the_run_alone() -> Iterator[None]:
    """Within it, TFX finds a run's executions among those of the run. Changes no result.

    To find the one execution of a node in this run, TFX 1.21 reads all of the pipeline's and all of the
    node's, since the first run, and intersects them, for each input of each node: a run took a tenth longer
    after fifty, and longer with each one more. (Elsewhere it asks the database to intersect them, but
    ml-metadata's wheels have no ZetaSQL, and it falls back to the same.)
    """
    of_channel = channel_resolver._get_executions_by_all_contexts
    of_node = execution_lib.get_executions_associated_with_all_contexts
    channel_resolver._get_executions_by_all_contexts = lambda store, contexts: _executions(
        store, contexts, lambda: of_channel(store, contexts)
    )
    execution_lib.get_executions_associated_with_all_contexts = lambda handle, contexts: _executions(
        handle.store, contexts, lambda: of_node(handle, contexts)
    )
    try:
        yield
    finally:
        channel_resolver._get_executions_by_all_contexts = of_channel
        execution_lib.get_executions_associated_with_all_contexts = of_node


def _executions(store: Any, contexts: Iterable[Any], otherwise: Callable[[], list[Any]]) -> list[Any]:
    """The executions that are in all of some contexts.

    Args:
        store: ML Metadata's.
        contexts: of a pipeline, a run, a node.
        otherwise: finds them where none of these is a run.
    """
    asked = list(contexts)
    run = next((context.id for context in asked if context.type == _RUN), None)
    if run is None:
        return otherwise()
    wanted = {context.id for context in asked}
    return [
        execution
        for execution in store.get_executions_by_context(run)
        if wanted <= {context.id for context in store.get_contexts_by_execution(execution.id)}
    ]
