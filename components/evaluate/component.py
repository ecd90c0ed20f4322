"""The evaluate stage: what TFMA is asked to measure, and the gate over what it measured."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.artifacts import EdgeModel, RegisteredVersion, folder_of, read_json, write_json
from components.errors import RetrainError
from components.evaluate import logic, retention
from components.label import Label, read_label_state
from components.names import EDGE_FILE, PREDICTIONS, SERVING_DEFAULT, SMOKE_FILE, SPAN

CANDIDATE, CHAMPION = "candidate", "champion"
VERDICT_FILE = "verdict.json"


def eval_config(label: Label, metrics: Iterable[str], slices: Sequence[Sequence[str]], baseline: bool) -> Any:
    """The stock Evaluator's configuration: both models, overall, by span, and by configured slice.

    It holds no thresholds: TFMA's say neither how a past span fared nor which number decided, so
    the gate judges the metrics that TFMA computed. Examples count as `label.example_weight` says, in
    all but their number: `gates.min_examples` is about how many there are.

    Args:
        label: what is predicted.
        metrics: names of `components.evaluate.logic.METRICS`, of the label's task.
        slices: combinations of columns; every combination of their values is a slice.
        baseline: whether there is a champion to compare with.
    """
    import tensorflow_model_analysis as tfma

    def model(name: str, is_baseline: bool) -> Any:
        return tfma.ModelSpec(
            name=name,
            model_type=tfma.TF_GENERIC,
            signature_name=SERVING_DEFAULT,
            label_key=label.name,
            prediction_key=PREDICTIONS,
            example_weight_key=label.example_weight or "",
            is_baseline=is_baseline,
        )

    def metric(name: str, path: str) -> Any:
        module, _, class_name = path.rpartition(".")
        return tfma.MetricConfig(class_name=class_name, module=module, config=json.dumps({"name": name}))

    wanted = [metric(name, path) for name, path in logic.measured(label.task, metrics).items()]
    return tfma.EvalConfig(
        model_specs=[model(CANDIDATE, False)] + ([model(CHAMPION, True)] if baseline else []),
        slicing_specs=[tfma.SlicingSpec(), tfma.SlicingSpec(feature_keys=[SPAN])]
        + [tfma.SlicingSpec(feature_keys=list(columns)) for columns in slices],
        metrics_specs=[
            tfma.MetricsSpec(
                metrics=[metric(logic.EXAMPLE_COUNT, "ExampleCount")],
                example_weights={"unweighted": True},
            ),
            tfma.MetricsSpec(metrics=wanted),
        ],
    )


def read_metrics(uri: str, model: str | None) -> dict[str, dict[str, float]]:
    """Slice -> metric -> value, of one model of a ModelEvaluation artifact; None: of its only one.

    Where all labels are the same, what compares them is left out.

    Raises:
        RetrainError: there are none.
    """
    import tensorflow_model_analysis as tfma

    result = tfma.load_eval_result(uri, model_name=model)
    metrics: dict[str, dict[str, float]] = {}
    for key, outputs in result.slicing_metrics:
        name = ",".join(f"{column}={_text(value)}" for column, value in key) or logic.OVERALL
        values = metrics.setdefault(name, {})
        for subkeys in outputs.values():
            for by_metric in subkeys.values():
                values |= {
                    k: float(v["doubleValue"])
                    for k, v in by_metric.items()
                    if "doubleValue" in v and not k.endswith("_diff")  # to the baseline's
                }
    if not metrics:
        raise RetrainError(f"evaluation {uri}: it holds no metrics of {model or 'the candidate'}")
    return {name: logic.only_defined(values) for name, values in metrics.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class Executor(base_executor.BaseExecutor):
    """Reads TFMA's metrics, judges, writes `verdict.json` and the blessing."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        uri = folder_of(input_dict["evaluation"])
        settings = json.loads(exec_properties["gates"])
        # TFMA forgets the name of a model that it evaluates alone.
        candidate = read_metrics(uri, CANDIDATE if settings["baseline"] else None)
        champion = read_metrics(uri, CHAMPION) if settings["baseline"] else None
        metrics, min_examples = settings["metrics"], settings["min_examples"]
        # The rows of spans that are learned now start anew; a shadow goes on with those of the line.
        new = [logic.span_slice(span) for span in settings["new_spans"]] if not settings["shadow"] else []
        before = _row_of(input_dict)
        held_out = [logic.span_slice(span) for span in (*settings["new_spans"], *settings["past_spans"])]
        line = retention.inherit(before, champion, new, held_out, metrics, min_examples)
        verdict = logic.judge(
            candidate,
            champion,
            metrics,
            settings["new_spans"],
            settings["past_spans"],
            min_examples,
            line,
            self._influence(input_dict, settings),
        )
        smoke = read_json(folder_of(input_dict["smoke"]), SMOKE_FILE)
        broken = list(smoke["problems"])
        if input_dict.get("edge"):
            edge = read_json(folder_of(input_dict["edge"]), EDGE_FILE)
            broken += [f"TFLite model: {problem}" for problem in edge["problems"]]
        if broken:
            verdict = replace(verdict, blessed=False, reasons=[*broken, *verdict.reasons])
        again = [logic.span_slice(span) for span in settings["again"]]
        unseen = [name for name in new if name not in again]
        row = retention.extend(line, candidate, champion, unseen, metrics, min_examples)
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        blessing.set_int_custom_property("blessed", int(verdict.blessed))
        found = verdict.to_json() | {
            "only_forgetting": verdict.only_forgetting and not broken,
            "candidate": candidate,
            "champion": champion,
            "retention": row,
            "learning": retention.learning(row, line, metrics, self._classes(input_dict, settings["task"])),
        }
        write_json(blessing.uri, SMOKE_FILE, smoke)
        write_json(blessing.uri, VERDICT_FILE, found)
        # What TFX's own components look for.
        open(os.path.join(blessing.uri, "BLESSED" if verdict.blessed else "NOT_BLESSED"), "w").close()

    def _influence(
        self, input_dict: dict[str, list[types.Artifact]], settings: dict[str, Any]
    ) -> list[logic.Check]:
        limit, expected = settings["max_influence"], settings["past_spans"] and not settings["shadow"]
        if limit is None:
            return []
        checkpoint = os.path.join(folder_of(input_dict["model"]), "checkpoint")
        if os.path.exists(os.path.join(checkpoint, "influence.json")):
            slices = read_json(checkpoint, "influence.json")["slices"]
            return logic.judge_influence(slices, limit, settings["min_examples"])
        return [logic.not_measured("max_influence", logic.LOSS, logic.PAST_SPANS, limit)] if expected else []

    def _classes(self, input_dict: dict[str, list[types.Artifact]], task: str) -> int | None:
        if task != "multiclass":
            return 2 if task == "binary" else None
        state = read_label_state(folder_of(input_dict["model"]))
        return len(state.classes) if state else None


def _row_of(input_dict: dict[str, list[types.Artifact]]) -> retention.Row:
    """The champion's row; a version made before there were rows has none."""
    if not input_dict.get("base_record"):
        return {}
    verdict = read_json(folder_of(input_dict["base_record"]), "record.json")["verdict"]
    return dict(verdict.get("retention", {}))


class GateSpec(ComponentSpec):
    PARAMETERS = {"gates": ExecutionParameter(type=str)}
    INPUTS = {
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "smoke": ChannelParameter(type=standard_artifacts.InfraBlessing),
        "edge": ChannelParameter(type=EdgeModel, optional=True),
        "base_record": ChannelParameter(type=RegisteredVersion, optional=True),
    }
    OUTPUTS = {"blessing": ChannelParameter(type=standard_artifacts.ModelBlessing)}


class Gate(base_component.BaseComponent):
    """TFMA's metrics of candidate and champion -> blessed or not, and the numbers that decided.

    The stock Evaluator's thresholds can't look at the worst of the past spans, leave out slices
    that are too small to judge, or say which values they compared; and without a threshold it
    blesses nothing and refuses nothing (tfx#5148). This gate fails closed.

    Args:
        evaluation: the stock Evaluator's output.
        model: the candidate.
        smoke: what the smoke test found; a candidate that fails it is rejected with its reasons.
        gates: metric -> limits, as `components.evaluate.logic.judge` takes them.
        new_spans, past_spans: what was just learned, and what had been learned before.
        again: those of `new_spans` that had been learned before, too.
        min_examples: slices with fewer held-out examples are not judged.
        baseline: whether the evaluation holds a champion's metrics.
        task: of the label.
        edge: a TFLite model that must be good enough, too; None: none must.
        base_record: the champion's `RegisteredVersion`: what its line has kept so far.
        max_influence: how much of the loss on what was known before may be the new data's doing; the
            trainer measured it.
        shadow: the candidate was trained from scratch, on spans that the champion's line has learned.

    Outputs:
    - `blessing`: with the custom property `blessed`, 1 or 0, and `verdict.json`; beside it what the smoke
      test found, for the record.

    Raises:
        RetrainError: `gates` names a metric or a limit that there is not.
    """

    SPEC_CLASS = GateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        evaluation: types.BaseChannel,
        model: types.BaseChannel,
        smoke: types.BaseChannel,
        gates: dict[str, dict[str, Any]],
        new_spans: Sequence[int],
        past_spans: Sequence[int],
        min_examples: int,
        baseline: bool,
        task: str,
        again: Sequence[int] = (),
        base_record: types.BaseChannel | None = None,
        edge: types.BaseChannel | None = None,
        max_influence: float | None = None,
        shadow: bool = False,
    ) -> None:
        for metric, limits in gates.items():
            if metric not in logic.METRICS:
                raise RetrainError(f"gates: got {metric!r}, expected one of {', '.join(logic.METRICS)}")
            for limit in limits:
                if limit not in logic.SETTINGS:
                    raise RetrainError(
                        f"gates.{metric}: got {limit!r}, expected one of {', '.join(logic.SETTINGS)}"
                    )
        settings = {
            "metrics": gates,
            "new_spans": list(new_spans),
            "past_spans": list(past_spans),
            "again": list(again),
            "min_examples": min_examples,
            "baseline": baseline,
            "task": task,
            "max_influence": max_influence,
            "shadow": shadow,
        }
        super().__init__(
            GateSpec(
                evaluation=evaluation,
                model=model,
                smoke=smoke,
                edge=edge,
                base_record=base_record,
                gates=json.dumps(settings, sort_keys=True),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
            )
        )
