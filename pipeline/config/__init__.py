"""One deployment = one YAML file = one validated `Deployment`.

Every field has a type, a default or none, and one sentence. Whatever is wrong with a file is
reported at once: the file, the key, what was seen and what is allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from components.errors import RetrainError
from components.evaluate.logic import FORGETTING, METRICS
from components.features import raw_columns
from components.label import Label
from components.models import AnyModel, Cnn, Custom, TwoTower, WideAndDeep
from components.settings import Section
from components.transform.policy import GraphPolicy
from pipeline.config.problems import explain
from pipeline.config.sections import (
    DEFAULT_GATES,
    Data,
    Drift,
    Edge,
    Engine,
    Feedback,
    FilePath,
    Gates,
    MetricGate,
    Poisoning,
    Preprocessing,
    RegistryConfig,
    Regularization,
    Replay,
    Serving,
    Shadow,
    Smoke,
    Training,
    Trigger,
    WarmStart,
)
from pipeline.config.yaml_file import read_yaml

_SQLITE = "sqlite:///"  # before a path


class Deployment(Section):
    """Everything that is to be known of one deployment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")] = Field(
        description="The deployment's name, also that of the served model."
    )
    schema_path: FilePath = Field(
        alias="schema", description="TFDV schema (pbtxt) with the drift comparators in it."
    )
    state: FilePath = Field(description="Folder that holds everything this deployment makes.")
    data: Data = Field(description="Where the data comes from.")
    label: Label = Field(description="What is predicted.")
    preprocessing: Preprocessing = Field(description="How columns become the model's inputs.")
    model: AnyModel = Field(WideAndDeep(), description="The model; by default a `wide_and_deep` one.")
    training: Training = Field(Training(), description="How it is trained.")
    transform: GraphPolicy = Field(GraphPolicy(), description="When preprocessing is fitted anew.")
    warm_start: WarmStart = Field(WarmStart(), description="How training goes on from the champion.")
    regularization: Regularization = Field(
        Regularization(), description="What holds a warm start close to the champion, beside replay."
    )
    replay: Replay = Field(Replay(), description="What is remembered of past spans.")
    poisoning: Poisoning = Field(
        Poisoning(), description="What new data must keep to before it is remembered; by default nothing."
    )
    shadow: Shadow = Field(Shadow(), description="The version that is trained from scratch to compare with.")
    drift: Drift = Field(Drift(), description="What makes data too strange to learn from.")
    trigger: Trigger = Field(Trigger(), description="What is a reason to train.")
    gates: Gates = Field(Gates(), description="What a candidate must keep to, to be served.")
    slices: list[Annotated[list[str], Field(min_length=1)]] = Field(
        [],
        description="Columns, or combinations of them, each of whose values is judged, such as "
        "[[country], [country, device]].",
    )
    smoke: Smoke = Field(Smoke(), description="What the exported model must do before it is registered.")
    edge: Edge | None = Field(None, description="A TFLite model of each version; by default none.")
    registry: RegistryConfig = Field(RegistryConfig(), description="The model registry.")
    serving: Serving = Field(Serving(), description="The server.")
    feedback: Feedback = Field(Feedback(), description="How labels find the requests that they belong to.")
    engine: Engine = Field(Engine(), description="What the pipeline runs on.")

    @model_validator(mode="after")
    def _consistent(self) -> Deployment:
        learning = (self._check_features, self._check_model, self._check_replay, self._check_gates)
        for check in (*learning, self._check_canary):
            problem = check()
            if problem:
                raise ValueError(problem)
        if self.serving.rest_port == self.serving.grpc_port != 0:
            raise ValueError(
                f"serving.grpc_port: got {self.serving.grpc_port}, expected another port than rest_port's"
            )
        return self

    def _check_features(self) -> str | None:
        features, label, own = self.preprocessing.features, self.label, isinstance(self.model, Custom)
        if label.name in features:
            return (
                f"preprocessing.features.{label.name}: got the label's name, expected another for the feature"
            )
        if self.preprocessing.columns and not own:
            return (
                "preprocessing.columns: got columns for a `preprocessing_fn` of your own, which only a model "
                "of type custom has; make features of them"
            )
        weight = label.example_weight
        if weight and (weight == label.name or any(weight in f.columns for f in features.values())):
            what = "the label" if weight == label.name else "a feature, too"
            return f"label.example_weight: got {weight!r}, which is {what}, expected a column of its own"
        if not features and not own:
            return "preprocessing.features: got none, expected at least one entry"
        return None

    def _check_model(self) -> str | None:
        features, model = self.preprocessing.features, self.model
        tensors = [name for name, feature in features.items() if feature.form == "tensor"]
        if isinstance(model, Cnn) and len(tensors) != 1:
            return f"model.type: got cnn for {len(tensors)} features of type tensor, expected exactly one"
        if tensors and isinstance(model, TwoTower):
            return f"model.type: got two_tower for the tensor {tensors[0]!r}, expected another type"
        if isinstance(model, TwoTower):
            named = {"user": model.user, "item": model.item}
            for tower, names in named.items():
                for name in names:
                    if name not in features:
                        return f"model.{tower}: got {name!r}, which is not in preprocessing.features"
            idle = [name for name in features if name not in (*model.user, *model.item)]
            if idle:
                return f"model: {idle[0]!r} is in neither tower; put it into `user` or `item`, or remove it"
            if self.label.task != "binary":
                return f"label.task: got {self.label.task} for a two_tower model, expected binary"
        return None

    def _check_replay(self) -> str | None:
        replay, label = self.replay, self.label
        if replay.by and replay.scheme != "balanced":
            return f"replay.by: got columns for the scheme {replay.scheme}, which only balanced has"
        if replay.scheme == "balanced" and not replay.by and label.task == "regression":
            return (
                "replay.by: got none, expected columns to balance: the label of a regression has as many "
                "values as examples"
            )
        return None

    def _check_gates(self) -> str | None:
        task = self.label.task
        for metric in self.gates.metrics:
            if task not in METRICS[metric].tasks:
                options = [name for name, known in METRICS.items() if task in known.tasks]
                return (
                    f"gates.metrics.{metric}: not a metric of a {task} task, expected one of "
                    f"{', '.join(options)}"
                )
        judged = self.gates.min_examples
        limits = {name for gate in self.gate_metrics.values() for name in gate.model_dump(exclude_none=True)}
        idle = [name for name in FORGETTING if name in limits]
        for key in ("holdout_per_span", "holdout_capacity"):
            kept = getattr(self.replay, key)
            if kept < judged and idle:
                return (
                    f"replay.{key}: got {kept}, expected at least gates.min_examples, {judged}: with fewer, "
                    f"{idle[0]} would judge no past span"
                )
        first, second = self.replay.ratio, self.gates.retry_ratio
        if second is not None and second <= first:
            return f"gates.retry_ratio: got {second:g}, expected more than replay.ratio, {first:g}"
        return None

    def _check_canary(self) -> str | None:
        serving, canary = self.serving, self.serving.canary
        if canary is None:
            return None
        if not serving.servers:
            own = {serving.rest_port, serving.grpc_port}
            if 0 in own:
                return (
                    "serving.rest_port: got 0, expected fixed ports: a canary's nginx must know the server's"
                )
            taken = own & {canary.rest_port, canary.grpc_port}
            if taken:
                return f"serving.canary.rest_port: got {min(taken)}, which the server has, expected another"
        hidden = next((server.grpc for server in serving.servers if server.rest is None), None)
        if hidden:
            return f"serving.servers: got no `rest` for {hidden}, expected it: a canary asks over REST"
        both = {server.grpc for server in serving.servers} & {server.grpc for server in canary.servers}
        if both:
            return (
                f"serving.canary.servers: got {min(both)}, which is in serving.servers, expected servers "
                "of its own"
            )
        if canary.labels and serving.prediction_log is None:
            return (
                "serving.canary.labels: got a folder without serving.prediction_log, expected both: labels "
                "are joined with what was logged"
            )
        return None

    @property
    def gate_metrics(self) -> dict[str, MetricGate]:
        """Metric -> what a candidate must keep to."""
        named: dict[str, MetricGate] = {str(metric): gate for metric, gate in self.gates.metrics.items()}
        return named or DEFAULT_GATES[self.label.task]

    @property
    def holdout_spans(self) -> int:
        """Of how many spans held-out examples are kept, so that each can have enough to be judged by."""
        return max(self.replay.holdout_capacity // self.gates.min_examples, 1)

    @property
    def columns(self) -> dict[str, bool]:
        """Raw column that a request holds -> whether it may be a list."""
        return raw_columns(self.preprocessing.specs(), self.preprocessing.columns)

    @property
    def registry_uri(self) -> str:
        return self.registry.uri or f"{_SQLITE}{self.state / 'registry.sqlite'}"

    @property
    def registry_name(self) -> str:
        return self.registry.name or self.name

    @property
    def registry_artifacts(self) -> str:
        """Where MLflow keeps its copies of models; empty with a server, which knows for itself."""
        return str(self.state / "mlflow") if self.registry_uri.startswith(_SQLITE) else ""

    @property
    def serving_path(self) -> Path:
        """The folder that the model server watches."""
        return self.serving.path or self.state / "serving"

    @property
    def model_config_file(self) -> Path:
        """What tells the model server which version to serve."""
        return self.serving_path / "models.config"

    @property
    def base_path(self) -> Path:
        """The serving folder of this deployment's model: one folder a version."""
        return self.serving_path / self.name


def load(path: Path, state: Path | None = None, data: Path | None = None) -> Deployment:
    """Reads and validates a deployment.

    Args:
        path: the YAML file; relative paths in it start from its folder.
        state, data: in place of the file's `state` and `data.path`.

    Raises:
        RetrainError: naming the file, and for each problem the key, what was seen and what is allowed.
    """
    content = read_yaml(path)
    try:
        deployment = Deployment.model_validate(content)
    except ValidationError as error:
        lines = explain(Deployment, error.errors())
        raise RetrainError(
            f"{path} is not a valid deployment:\n" + "\n".join(f"  {line}" for line in lines)
        ) from None
    folder = path.resolve().parent
    schema = _resolve(folder, deployment.schema_path)
    if not schema.is_file():
        raise RetrainError(f"{path}: schema: got {schema}, which is no file, expected a TFDV schema (pbtxt)")
    uri = deployment.registry.uri
    if uri and uri.startswith(_SQLITE):
        uri = f"{_SQLITE}{_resolve(folder, Path(uri.removeprefix(_SQLITE)))}"
    at = {
        "schema_path": schema,
        "state": state.resolve() if state else _resolve(folder, deployment.state),
        "data": deployment.data.model_copy(
            update={"path": data.resolve() if data else _resolve(folder, deployment.data.path)}
        ),
        "registry": deployment.registry.model_copy(update={"uri": uri}),
        "serving": _resolve_paths(folder, deployment.serving),
    }
    return deployment.model_copy(update=at)


def _resolve_paths(folder: Path, section: Section) -> Section:
    """The section with every path of it, and of the sections in it, from the root."""
    at: dict[str, Any] = {}
    for name, value in section:
        if isinstance(value, Path):
            at[name] = _resolve(folder, value)
        elif isinstance(value, Section):
            at[name] = _resolve_paths(folder, value)
    return section.model_copy(update=at)


def _resolve(folder: Path, path: Path) -> Path:
    return Path(folder / path.expanduser()).resolve()
