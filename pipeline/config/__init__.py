"""One deployment = one YAML file = one validated `Deployment`.

Every field has a type, a default or none, and one sentence. Whatever is wrong with a file is
reported at once: the file, the key, what was seen and what is allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from components.errors import RetrainError
from components.evaluate.logic import METRICS
from components.features import AnyFeature, Feature, raw_columns
from components.label import Label
from components.models import AnyModel, Cnn, Custom, TwoTower, WideAndDeep
from components.settings import Positive, Section, Share
from pipeline.config.problems import explain
from pipeline.config.yaml_file import read_yaml, shown
from pipeline.spans.pattern import parse as parse_pattern

_SQLITE = "sqlite:///"  # before a path

FilePath = Annotated[Path, Field(strict=False)]


class Data(Section):
    path: FilePath = Field(description="Folder of the spans.")
    pattern: str = Field(
        "{SPAN}/*",
        description="Files of one span, below the folder: {SPAN} stands for its number, or {YYYY}, {MM}, "
        "{DD} and {HH} for its date; {VERSION}, after it, for versions of it, of which the highest counts.",
    )
    eval_share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.2, description="Share of the rows held out from training, chosen by a stable hash of the row."
    )
    max_quarantine_share: Share = Field(
        0.02, description="Largest share of a span's rows that may be unreadable before the run stops."
    )

    @field_validator("pattern")
    @classmethod
    def _one_span(cls, pattern: str) -> str:
        parse_pattern(pattern)
        return pattern


class Preprocessing(Section):
    features: dict[str, AnyFeature] = Field(
        description="What the model sees: a name for each feature -> how it is made of columns."
    )
    columns: list[str] = Field(
        [], description="Columns that the `preprocessing_fn` of your own module reads, beside the features'."
    )

    @field_validator("features", mode="before")
    @classmethod
    def _named(cls, features: Any) -> Any:
        """Tells each feature its name, which is its key."""
        if not isinstance(features, dict):
            return features
        for name, feature in features.items():
            if not isinstance(name, str):
                raise ValueError(
                    f"got the name {shown(name)}, expected text (in quotes, where it looks like a number)"
                )
            if isinstance(feature, dict) and "name" in feature:
                raise ValueError(
                    f"{name}.name: unknown key; a feature's name is its key, and `column` its raw column"
                )
        return {
            name: {"name": name, **feature} if isinstance(feature, dict) else feature
            for name, feature in features.items()
        }

    def specs(self) -> list[Feature]:
        """The features in the order of the file."""
        return list(self.features.values())


class Training(Section):
    batch_size: Positive = Field(64, description="Examples a step, new and replayed together.")
    epochs: Positive = Field(15, description="Passes over the new examples at a cold start.")
    max_steps: Positive | None = Field(
        None,
        description="Most steps of a run, cold or warm, however many rows are new: fewer epochs, or part of "
        "one. Without it the epochs say.",
    )
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(
        1e-3, description="Highest learning rate at a cold start."
    )
    warmup: Share = Field(0.05, description="Share of a run's steps over which the learning rate rises.")
    final_learning_rate: Share = Field(
        0.1, description="Learning rate at the end of a run, as a share of the highest; 1 keeps it constant."
    )
    optimizer: Literal["adam", "adamw", "rmsprop", "adagrad", "sgd", "nadam"] = Field(
        "adam", description="Keras optimizer."
    )
    clipnorm: Annotated[float, Field(gt=0.0)] = Field(
        1.0, description="Largest norm of a variable's gradient."
    )
    shuffle_rows: Positive = Field(100_000, description="Examples that a shuffle holds in memory.")
    divergence: Annotated[float, Field(gt=1.0)] = Field(
        3.0, description="A run fails when an epoch's mean loss exceeds its first loss this many times."
    )
    seed: int = Field(0, ge=0, description="Seed of initial weights, dropout and shuffles.")


class WarmStart(Section):
    enabled: bool = Field(True, description="Start from the champion's weights, optimizer slots and step.")
    epochs: Positive = Field(5, description="Passes over the new examples.")
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(5e-4, description="Highest learning rate.")


class Replay(Section):
    scheme: Literal["reservoir"] = Field(
        "reservoir",
        description="How the buffer samples what was learned: uniformly over all examples so far.",
    )
    capacity: Positive = Field(20_000, description="Most training examples in the buffer.")
    ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.5, description="Share of a batch that is replayed."
    )
    holdout_per_span: Positive = Field(
        500, description="Most held-out examples kept of each span, for the gate."
    )
    seed: int = Field(0, ge=0, description="Seed of the sample; a buffer keeps the one that it began with.")


class Drift(Section):
    severity: Literal["warning", "error"] = Field(
        "error", description="Schema anomalies from this severity on stop the run before training."
    )


class Trigger(Section):
    on_drift: bool = Field(
        True, description="Whether drift of a feature with a comparator in the schema is a reason to train."
    )
    min_rows: Positive = Field(1, description="So many new training examples are a reason to train.")


class MetricGate(Section):
    relative: bool = Field(
        False, description="Drops are shares of the champion's value, for metrics with a unit such as rmse."
    )
    min_value: float | None = Field(
        None, description="Required of the candidate on each new span (for a loss: the largest allowed)."
    )
    max_drop: float | None = Field(
        None, ge=0.0, description="Largest loss against the champion, overall and on each new span."
    )
    max_past_drop: float | None = Field(
        None, ge=0.0, description="Largest loss against the champion on any past span."
    )
    max_slice_drop: float | None = Field(
        None, ge=0.0, description="Largest loss against the champion on any configured slice."
    )


class Gates(Section):
    metrics: dict[
        Literal["auc", "pr_auc", "accuracy", "balanced_accuracy", "log_loss", "r2", "mae", "rmse"], MetricGate
    ] = Field(
        {},
        description="Metric -> what a candidate must keep to; by default `auc`, `accuracy` or `r2`, by task.",
    )
    min_examples: Positive = Field(100, description="Slices with fewer held-out examples are not judged.")

    @model_validator(mode="after")
    def _a_floor(self) -> Gates:
        if self.metrics and all(gate.min_value is None for gate in self.metrics.values()):
            raise ValueError(
                "got no min_value, expected one in at least one metric: a cold start has no champion to "
                "compare with"
            )
        return self


_DROPS: Any = {"max_drop": 0.03, "max_past_drop": 0.05, "max_slice_drop": 0.05}
DEFAULT_GATES = {
    "binary": {"auc": MetricGate(min_value=0.6, **_DROPS)},
    "multiclass": {"accuracy": MetricGate(min_value=0.3, **_DROPS)},
    "regression": {"r2": MetricGate(min_value=0.0, **_DROPS)},
}


class RegistryConfig(Section):
    uri: str | None = Field(None, description="MLflow's address; by default SQLite in the state folder.")
    name: str | None = Field(None, description="Registered model; by default the deployment's name.")


class Serving(Section):
    host: str = Field("127.0.0.1", description="Address that the embedded server listens on.")
    rest_port: int = Field(8501, ge=0, le=65535, description="Port of the REST protocol; 0 takes a free one.")
    grpc_port: int = Field(8500, ge=0, le=65535, description="Port of the gRPC protocol; 0 takes a free one.")
    path: FilePath | None = Field(
        None, description="Serving folder; by default `serving` in the state folder."
    )
    keep: Positive = Field(
        3, description="Versions kept in the serving folder, the newest; the champion always stays."
    )


class Database(Section):
    type: Literal["mysql", "postgresql"] = Field(description="Kind of the server.")
    host: str = Field(description="Its host.")
    port: int = Field(ge=1, le=65535, description="Its port.")
    database: str = Field(description="The database, which must exist.")
    user: str = Field(description="The user.")
    password_env: str | None = Field(None, description="Environment variable that holds the password.")


class Engine(Section):
    beam_args: list[str] = Field(
        ["--direct_running_mode=in_memory", "--direct_num_workers=1"],
        description="Options of the Beam jobs inside the stages; they choose the runner.",
    )
    metadata: Database | None = Field(
        None, description="Server of ML Metadata; by default SQLite in the state folder."
    )


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
    warm_start: WarmStart = Field(WarmStart(), description="How training goes on from the champion.")
    replay: Replay = Field(Replay(), description="What is remembered of past spans.")
    drift: Drift = Field(Drift(), description="What makes data too strange to learn from.")
    trigger: Trigger = Field(Trigger(), description="What is a reason to train.")
    gates: Gates = Field(Gates(), description="What a candidate must keep to, to be served.")
    slices: list[Annotated[list[str], Field(min_length=1)]] = Field(
        [],
        description="Columns, or combinations of them, each of whose values is judged, such as "
        "[[country], [country, device]].",
    )
    registry: RegistryConfig = Field(RegistryConfig(), description="The model registry.")
    serving: Serving = Field(Serving(), description="The server.")
    engine: Engine = Field(Engine(), description="What the pipeline runs on.")

    @model_validator(mode="after")
    def _consistent(self) -> Deployment:
        for check in (self._check_features, self._check_model, self._check_gates):
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
        if tensors and not isinstance(model, Cnn | Custom):
            return f"model.type: got {model.type} for the tensor {tensors[0]!r}, expected cnn or custom"
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

    def _check_gates(self) -> str | None:
        task = self.label.task
        for metric in self.gates.metrics:
            if task not in METRICS[metric].tasks:
                options = [name for name, known in METRICS.items() if task in known.tasks]
                return (
                    f"gates.metrics.{metric}: not a metric of a {task} task, expected one of "
                    f"{', '.join(options)}"
                )
        judged, kept = self.gates.min_examples, self.replay.holdout_per_span
        if kept < judged and any(gate.max_past_drop is not None for gate in self.gate_metrics.values()):
            return (
                f"replay.holdout_per_span: got {kept}, expected at least gates.min_examples, {judged}: "
                "with fewer, max_past_drop would judge no past span"
            )
        return None

    @property
    def gate_metrics(self) -> dict[str, MetricGate]:
        """Metric -> what a candidate must keep to."""
        named: dict[str, MetricGate] = {str(metric): gate for metric, gate in self.gates.metrics.items()}
        return named or DEFAULT_GATES[self.label.task]

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
        "serving": deployment.serving.model_copy(
            update={"path": _resolve(folder, deployment.serving.path) if deployment.serving.path else None}
        ),
    }
    return deployment.model_copy(update=at)


def _resolve(folder: Path, path: Path) -> Path:
    return Path(folder / path.expanduser()).resolve()
