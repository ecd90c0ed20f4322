"""One deployment = one YAML file = one validated `Deployment`.

Every field has a type, a default or none, and one sentence. Whatever is wrong with a file is
reported at once: the file, the key, what was seen and what is allowed.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from components.errors import RetrainError
from components.features import Feature

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
FilePath = Annotated[Path, Field(strict=False)]


class Section(BaseModel):
    """A part of a deployment: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Data(Section):
    path: FilePath = Field(description="Folder of the spans.")
    pattern: str = Field(
        "{SPAN}/*", description="Files of one span, below the folder; {SPAN} stands for its number."
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
        if pattern.count("{SPAN}") != 1 or pattern.startswith("/"):
            raise ValueError("needs {SPAN} exactly once, and must be relative to data.path")
        return pattern


class Label(Section):
    name: str = Field(description="Name of the label's feature.")
    expression: str | None = Field(
        None,
        description="Computes the label from columns, such as 'a > 0.2 * b'; without it the label is a column.",
    )

    @field_validator("expression")
    @classmethod
    def _parses(cls, text: str | None) -> str | None:
        if text is not None:
            from components.ingest.expression import parse

            try:
                parse(text)
            except RetrainError as error:
                raise ValueError(str(error)) from None
        return text


class NumericFeature(Section):
    type: Literal["numeric"] = Field(description="A number: z-score, 0 and a flag where it is missing.")
    column: str | None = Field(None, description="The raw column; by default the one of the feature's name.")
    log: bool = Field(False, description="Take log(1 + x) first, for amounts and durations.")


class CategoricalFeature(Section):
    type: Literal["categorical"] = Field(
        description="A category: a vocabulary, a weight and an embedding a term."
    )
    column: str | None = Field(None, description="The raw column; by default the one of the feature's name.")
    top_k: Positive = Field(1000, description="Largest vocabulary, most frequent terms first.")
    min_count: Positive = Field(1, description="Terms seen less often are out of vocabulary.")
    oov_buckets: Positive = Field(1, description="Buckets that share the terms out of vocabulary.")


class IdentityFeature(Section):
    type: Literal["identity"] = Field(description="A small integer that is its own index, such as an hour.")
    column: str | None = Field(None, description="The raw column; by default the one of the feature's name.")
    min: int = Field(0, description="Smallest value.")
    max: int = Field(description="Largest value; what lies outside shares a bucket with what is missing.")

    @model_validator(mode="after")
    def _ordered(self) -> IdentityFeature:
        if not self.min <= self.max < self.min + 100_000:
            raise ValueError(f"needs min <= max < min + 100000, got min {self.min} and max {self.max}")
        return self


AnyFeature = Annotated[NumericFeature | CategoricalFeature | IdentityFeature, Field(discriminator="type")]


class Preprocessing(Section):
    features: Annotated[dict[str, AnyFeature], Field(min_length=1)] = Field(
        description="What the model sees: a feature's name -> how it is made of a column."
    )

    def specs(self) -> list[Feature]:
        """The features as transform and train take them, in the order of the file."""
        return [
            Feature(
                name, feature.column or name, feature.type, **feature.model_dump(exclude={"type", "column"})
            )
            for name, feature in self.features.items()
        ]


class Model(Section):
    type: Literal["wide_and_deep"] = Field("wide_and_deep", description="The built-in model to train.")
    hidden: Annotated[list[Positive], Field(min_length=1)] = Field(
        [64, 32], description="Units of each dense layer of the deep part."
    )
    embedding_dim: Positive = Field(8, description="Length of a category's embedding.")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.3, description="Share of units dropped in training."
    )
    batch_norm: bool = Field(True, description="Batch normalization after each dense layer.")


class Training(Section):
    batch_size: Positive = Field(64, description="Examples a step, new and replayed together.")
    epochs: Positive = Field(15, description="Passes over the new examples at a cold start.")
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
    seed: int = Field(0, ge=0, description="Of initial weights, dropout and shuffles.")


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
    seed: int = Field(0, ge=0, description="Of the sample; a buffer keeps the seed that it began with.")


class Drift(Section):
    severity: Literal["warning", "error"] = Field(
        "error", description="Schema anomalies from this severity on stop the run before training."
    )


class Trigger(Section):
    on_drift: bool = Field(
        True, description="Drift of any feature with a comparator in the schema is a reason to train."
    )
    min_rows: Positive = Field(1, description="So many new training examples are a reason to train.")


class MetricGate(Section):
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
    metrics: Annotated[
        dict[Literal["auc", "pr_auc", "accuracy", "log_loss"], MetricGate], Field(min_length=1)
    ] = Field(
        {"auc": MetricGate(min_value=0.6, max_drop=0.03, max_past_drop=0.05, max_slice_drop=0.05)},
        description="Metric -> what a candidate must keep to.",
    )
    min_examples: Positive = Field(100, description="Slices with fewer held-out examples are not judged.")

    @model_validator(mode="after")
    def _a_floor(self) -> Gates:
        if all(gate.min_value is None for gate in self.metrics.values()):
            raise ValueError(
                "at least one metric needs min_value: a cold start has no champion to compare with"
            )
        return self


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
    label: Label = Field(description="What is predicted: 1 or 0.")
    preprocessing: Preprocessing = Field(description="How columns become the model's inputs.")
    model: Model = Field(Model(), description="The model.")
    training: Training = Field(Training(), description="How it is trained.")
    warm_start: WarmStart = Field(WarmStart(), description="How training goes on from the champion.")
    replay: Replay = Field(Replay(), description="What is remembered of past spans.")
    drift: Drift = Field(Drift(), description="What makes data too strange to learn from.")
    trigger: Trigger = Field(Trigger(), description="What is a reason to train.")
    gates: Gates = Field(Gates(), description="What a candidate must keep to, to be served.")
    slices: list[Annotated[list[str], Field(min_length=1)]] = Field(
        [], description="Combinations of columns whose values are judged one by one."
    )
    registry: RegistryConfig = Field(RegistryConfig(), description="The model registry.")
    serving: Serving = Field(Serving(), description="The server.")
    engine: Engine = Field(Engine(), description="What the pipeline runs on.")

    @property
    def registry_uri(self) -> str:
        return self.registry.uri or f"sqlite:///{self.state / 'registry.sqlite'}"

    @property
    def registry_name(self) -> str:
        return self.registry.name or self.name

    @property
    def registry_artifacts(self) -> str:
        """Where MLflow keeps its copies of models; empty with a server, which knows for itself."""
        return "" if self.registry.uri else str(self.state / "mlflow")

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
    content = _read_yaml(path)
    try:
        deployment = Deployment.model_validate(content)
    except ValidationError as error:
        lines = [_explain(problem, content) for problem in error.errors()]
        raise RetrainError(
            f"{path} is not a valid deployment:\n" + "\n".join(f"  {line}" for line in lines)
        ) from None
    folder = path.resolve().parent
    at = {
        "schema_path": _resolve(folder, deployment.schema_path),
        "state": state.resolve() if state else _resolve(folder, deployment.state),
        "data": deployment.data.model_copy(
            update={"path": data.resolve() if data else _resolve(folder, deployment.data.path)}
        ),
        "serving": deployment.serving.model_copy(
            update={"path": _resolve(folder, deployment.serving.path) if deployment.serving.path else None}
        ),
    }
    if not at["schema_path"].is_file():
        raise RetrainError(f"{path}: schema: no file {at['schema_path']}; name a TFDV schema (pbtxt)")
    return deployment.model_copy(update=at)


def _resolve(folder: Path, path: Path) -> Path:
    return Path(folder / path.expanduser()).resolve()


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise RetrainError(
            f"no such file: {path}; name a deployment's YAML file, such as configs/NAME.yaml"
        ) from None
    except IsADirectoryError:
        raise RetrainError(f"{path} is a folder; name a deployment's YAML file in it") from None
    except UnicodeDecodeError as error:
        raise RetrainError(f"{path} is not UTF-8 text: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RetrainError(f"{path}{where}: not valid YAML: {error.problem}") from None
    if not isinstance(content, dict):
        raise RetrainError(f"{path}: got {type(content).__name__}, expected `key: value` lines; see configs/")
    return content


def _explain(problem: Any, content: dict[str, Any]) -> str:
    """One line for one problem: key, what was seen, what is allowed."""
    # A discriminated union adds its tag to the location; it is no key of the file.
    location: list[Any] = []
    value: Any = content
    for part in problem["loc"]:
        if isinstance(value, dict) and part not in value and part in ("numeric", "categorical", "identity"):
            continue
        location.append(part)
        value = value.get(part) if isinstance(value, dict) else None
    key = ".".join(str(part) for part in location) or "(the whole file)"
    kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        allowed = _keys_beside(location)
        close = difflib.get_close_matches(str(location[-1]), allowed, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{key}: unknown key{hint} (allowed here: {', '.join(allowed)})"
    if kind == "missing":
        return f"{key}: missing, and has no default. {_sentence(location)}"
    if kind == "union_tag_not_found":
        return f"{key}: `type` is missing, expected one of numeric, categorical, identity"
    if kind == "union_tag_invalid":
        return f"{key}.type: got {problem['ctx']['tag']!r}, expected one of {problem['ctx']['expected_tags']}"
    if kind == "literal_error":
        expected = problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return f"{key}: got {problem['input']!r}, expected one of {expected}"
    seen = problem["input"]
    shown = f"got {seen!r}: " if not isinstance(seen, (dict, list, BaseModel)) else ""
    return f"{key}: {shown}{message[:1].lower()}{message[1:]}. {_sentence(location)}".rstrip()


def _field(location: list[Any]) -> FieldInfo | None:
    """The field of the model that a location in the file names."""
    section: Any = Deployment
    found: FieldInfo | None = None
    for part in location:
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return None
        found = next((f for name, f in section.model_fields.items() if part in (name, f.alias)), None)
        if found is None:
            return None
        section = found.annotation
    return found


def _sentence(location: list[Any]) -> str:
    found = _field(location)
    return (found.description or "") if found else ""


def _keys_beside(location: list[Any]) -> list[str]:
    if location[:2] == ["preprocessing", "features"] and len(location) == 4:
        sections: list[Any] = [NumericFeature, CategoricalFeature, IdentityFeature]
    elif location[:2] == ["gates", "metrics"] and len(location) == 4:
        sections = [MetricGate]
    elif location[:2] == ["engine", "metadata"] and len(location) == 3:
        sections = [Database]
    else:
        parent = _field(location[:-1])
        sections = [parent.annotation if parent else Deployment]
    return list(
        dict.fromkeys(f.alias or name for section in sections for name, f in section.model_fields.items())
    )
