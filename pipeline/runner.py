"""Runs one pipeline under TFX's BeamDagRunner, stage by stage in sight of a person."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler.compiler import Compiler
from tfx.orchestration.beam.beam_dag_runner import BeamDagRunner, PipelineNodeAsDoFn
from tfx.orchestration.pipeline import Pipeline

from components import beam_memory
from components.errors import RetrainError
from pipeline.run_metadata import Results, of_the_run_alone

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
        with _orchestrate_in_memory(), beam_memory.remembered(), of_the_run_alone():
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
