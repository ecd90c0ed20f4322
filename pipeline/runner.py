"""Runs one pipeline under TFX's BeamDagRunner, stage by stage in sight of a person."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler.compiler import Compiler
from tfx.orchestration import metadata
from tfx.orchestration.beam.beam_dag_runner import BeamDagRunner, PipelineNodeAsDoFn
from tfx.orchestration.pipeline import Pipeline

from components import beam_memory
from components.errors import RetrainError

# Registering a version and moving the alias act on the registry, which may have changed since:
# they are idempotent, and never taken from TFX's cache. The smoke test measures this machine, too.
_NEVER_CACHED = frozenset({"smoke", "register", "push", "promote"})


class Watch:
    """What the stages of one run tell as they go.

    Attributes:
        seconds: stage -> how long it took; one taken from the cache took next to nothing.
        failed: the stage that raised, and what it raised: Beam hands on only a text.
        run_id: of the run in ML Metadata.
        skipped: the stages whose condition did not hold, and all that is below them.
    """

    def __init__(self, on_stage: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self.failed: tuple[str, BaseException] | None = None
        self.run_id = ""
        self.skipped: set[str] = set()
        self._on_stage = on_stage

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._on_stage(name)
        begun = time.monotonic()
        try:
            yield
        except BaseException as error:
            self.failed = (name, error)
            raise
        finally:
            self.seconds[name] = round(time.monotonic() - begun, 2)


class _WatchedNode(PipelineNodeAsDoFn):
    """A node of the DAG that tells the run's `Watch`.

    BeamDagRunner makes and pickles its nodes itself, so the watch hangs on the class: the DAG runs
    in this process, one run at a time.
    """

    watch: Watch

    def _run_node(self) -> None:
        watch = type(self).watch
        watch.run_id = self._pipeline_runtime_spec.pipeline_run_id.field_value.string_value
        # A condition over what a skipped node would have made is neither true nor false, and TFX
        # fails the node or skips it, as a map's order has it. Below a skipped node all is skipped.
        if watch.skipped & set(self._pipeline_node.upstream_nodes):
            watch.skipped.add(self._node_id)
            return
        results = Results(self._mlmd_connection_config, watch.run_id)
        with watch.stage(self._node_id):
            before = results.executions()
            super()._run_node()
            made = {i: state for i, state in results.executions().items() if i not in before}
            # TFX records a node whose inputs can't be resolved as failed, and then goes on.
            if metadata_store_pb2.Execution.FAILED in made.values():
                raise RuntimeError(f"the inputs of {self._node_id} could not be resolved")
        if not made:
            watch.skipped.add(self._node_id)


class _WatchedRunner(BeamDagRunner):
    _PIPELINE_NODE_DO_FN_CLS = _WatchedNode


def execute(pipeline: Pipeline, watch: Watch, log: Path) -> None:
    """Runs every stage whose condition holds; stages done before with the same inputs are not done again.

    Args:
        pipeline: as `pipeline.graph.build` makes it.
        watch: told of every stage.
        log: where this process's output goes, named in errors.

    Raises:
        RetrainError: what a stage found the user can mend, as the stage said it.
        StageError: anything else, with the stage's name and the log.
    """
    graph = Compiler().compile(pipeline)
    for node in graph.nodes:
        if node.pipeline_node.node_info.id in _NEVER_CACHED:
            node.pipeline_node.execution_options.caching_options.enable_cache = False
    _WatchedNode.watch = watch
    try:
        with _orchestrate_in_memory(), beam_memory.remembered():
            _WatchedRunner().run_with_ir(graph)
    except Exception as error:
        if watch.failed is None:
            raise StageError("the pipeline", error, log) from error
        stage, cause = watch.failed
        if isinstance(cause, RetrainError):
            raise RetrainError(f"{cause}\nThe log is {log}") from None
        raise StageError(stage, cause, log) from cause


class StageError(RetrainError):
    """A stage failed for a reason that it has no words for; the log has the traceback."""

    def __init__(self, stage: str, cause: BaseException, log: Path) -> None:
        logging.getLogger(__name__).error("stage %s failed", stage, exc_info=cause)
        reason = next((line for line in reversed(str(cause).strip().splitlines()) if line.strip()), "")
        super().__init__(
            f"stage {stage} failed: {type(cause).__name__}: {reason.strip()[:500]}\n"
            f"The log is {log}. Nothing was registered or promoted by this run; the same command tries again"
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
            context = handle.store.get_context_by_type_and_name("pipeline_run", self._run_id)
            found = handle.store.get_executions_by_context(context.id) if context else []
        return {execution.id: execution.last_known_state for execution in found}

    def artifact(self, type_name: str) -> Any:
        """The run's artifact of a type, new or from the cache; None where it made none."""
        with metadata.Metadata(self._connection) as handle:
            context = handle.store.get_context_by_type_and_name("pipeline_run", self._run_id)
            found = [a for a in handle.store.get_artifacts_by_context(context.id) if a.type == type_name]
        return max(found, key=lambda artifact: artifact.id) if found else None

    def read(self, type_name: str, file: str) -> Any:
        """The content of a JSON file of the run's artifact of a type."""
        return json.loads((Path(self.artifact(type_name).uri) / file).read_text())


@contextlib.contextmanager
def _orchestrate_in_memory() -> Iterator[None]:
    """BeamDagRunner makes its own Beam pipeline with the options of the command line, and has no
    other way to be told that Beam shall not look for another local runner to download."""
    argv = sys.argv
    sys.argv = [argv[0], "--direct_running_mode=in_memory", "--direct_num_workers=1"]
    try:
        yield
    finally:
        sys.argv = argv


def metadata_connection(state: Path, database: Any) -> Any:
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
