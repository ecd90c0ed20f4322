"""What a run asks ML Metadata, against a store that holds the history of several."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ml_metadata.proto import metadata_store_pb2 as proto
from tfx.orchestration import metadata
from tfx.orchestration.portable.input_resolution import channel_resolver
from tfx.orchestration.portable.mlmd import execution_lib

from pipeline.run_metadata import Results, connection, of_the_run_alone

RUNS, NODES = 3, ("ingest", "train")


@pytest.fixture
def history(tmp_path: Path) -> Any:
    """`store`, with an execution of each node in each run, and `contexts` by name."""
    with metadata.Metadata(connection(tmp_path, None)) as handle:
        store = handle.store
        kinds = {
            kind: store.put_context_type(proto.ContextType(name=kind))
            for kind in ("pipeline", "pipeline_run", "node")
        }
        names = {"shop": "pipeline"} | dict.fromkeys(NODES, "node")
        names |= {f"run-{run}": "pipeline_run" for run in range(RUNS)}
        made = [proto.Context(type_id=kinds[kind], name=name) for name, kind in names.items()]
        contexts = {context.name: context for context in store.get_contexts_by_id(store.put_contexts(made))}
        kind = store.put_execution_type(proto.ExecutionType(name="node"))
        for run, node in itertools.product(range(RUNS), NODES):
            store.put_execution(
                proto.Execution(type_id=kind, name=f"{run}-{node}"),
                [],
                [contexts["shop"], contexts[f"run-{run}"], contexts[node]],
            )
        yield SimpleNamespace(handle=handle, store=store, contexts=contexts)


def asked(history: Any, *names: str) -> list[list[str]]:
    """The executions that are in all of these contexts, as both ways of TFX to ask give them."""
    contexts = [history.contexts[name] for name in names]
    found = (
        channel_resolver._get_executions_by_all_contexts(history.store, contexts),
        execution_lib.get_executions_associated_with_all_contexts(history.handle, contexts),
    )
    return [sorted(execution.name for execution in executions) for executions in found]


@pytest.mark.parametrize(
    ("names", "executions"),
    [
        (("shop", "run-1", "train"), ["1-train"]),
        (("shop", "run-1"), ["1-ingest", "1-train"]),
        (("run-0", "run-1"), []),
        (("shop", "train"), ["0-train", "1-train", "2-train"]),
    ],
)
def test_the_answers_are_those_of_tfx(history: Any, names: tuple[str, ...], executions: list[str]) -> None:
    assert asked(history, *names) == [executions, executions]
    with of_the_run_alone():
        assert asked(history, *names) == [executions, executions]
    assert asked(history, *names) == [executions, executions]


def test_of_other_runs_nothing_is_read(history: Any) -> None:
    read = mock.Mock(wraps=history.store.get_executions_by_context)
    with mock.patch.object(history.store, "get_executions_by_context", read), of_the_run_alone():
        asked(history, "shop", "run-1", "train")
    assert {call.args for call in read.call_args_list} == {(history.contexts["run-1"].id,)}


def test_the_executions_of_a_run(history: Any, tmp_path: Path) -> None:
    by_name = {execution.name: execution.id for execution in history.store.get_executions()}
    found = Results(connection(tmp_path, None), "run-2").executions()
    assert found.keys() == {by_name["2-ingest"], by_name["2-train"]}
    assert Results(connection(tmp_path, None), "run-9").executions() == {}
