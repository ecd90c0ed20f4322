"""One deployment = one YAML file = one validated `Deployment`.

Every field has a type, a default or none, and one sentence. Whatever is wrong with a file is
reported at once: the file, the key, what was seen and what is allowed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from components.errors import RetrainError
from components.features import NUMERIC, NUMERIC_MISSING, Feature
from components.names import BOOKKEEPING
from pipeline.yaml_file import read_yaml, shown

_SQLITE = "sqlite:///"  # before a path
_TRANSFORMED = (NUMERIC, NUMERIC_MISSING)  # names that the transform graph gives itself

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
FilePath = Annotated[Path, Field(strict=False)]


class Section(BaseModel):
    """A part of a deployment: unknown keys, wrong types and numbers without end are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


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
        before, _, after = pattern.partition("{SPAN}")
        if pattern.count("{SPAN}") != 1 or "*" in before or pattern[:1] == "/" or after[-1:] == "/":
            raise ValueError(
                f"got {pattern!r}, expected {{SPAN}} once, no * before it, no / at the start or the end, "
                "such as {SPAN}/*.csv"
            )
        return pattern


class Label(Section):
    name: str = Field(description="Name of the label's feature.")
    expression: str | None = Field(
        None,
        description="Computes the label of columns, such as 'a > 0.2 * b'; without it the label is a column.",
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

    @field_validator("name")
    @classmethod
    def _not_taken(cls, name: str) -> str:
        if name in BOOKKEEPING or name in _TRANSFORMED:
            raise ValueError(f"got {name!r}, which is the pipeline's own, expected another")
        return name


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
            raise ValueError(f"got min {self.min} and max {self.max}, expected min <= max < min + 100000")
        return self


_FEATURES = {"numeric": NumericFeature, "categorical": CategoricalFeature, "identity": IdentityFeature}
AnyFeature = Annotated[NumericFeature | CategoricalFeature | IdentityFeature, Field(discriminator="type")]


class Preprocessing(Section):
    features: Annotated[dict[str, AnyFeature], Field(min_length=1)] = Field(
        description="What the model sees: a feature's name -> how it is made of a column."
    )

    @field_validator("features")
    @classmethod
    def _not_taken(cls, features: dict[str, AnyFeature]) -> dict[str, AnyFeature]:
        for name in _TRANSFORMED:
            if name in features:
                raise ValueError(
                    f"got {name!r}, which is the pipeline's own, expected another (the column's is `column`)"
                )
        return features

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
                "got no min_value, expected one in at least one metric: a cold start has no champion to "
                "compare with"
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

    @model_validator(mode="after")
    def _consistent(self) -> Deployment:
        label, features = self.label.name, self.preprocessing.features
        if label in features:
            raise ValueError(
                f"preprocessing.features.{label}: got the label's name, expected another for the feature"
            )
        judged, kept = self.gates.min_examples, self.replay.holdout_per_span
        if kept < judged and any(gate.max_past_drop is not None for gate in self.gates.metrics.values()):
            raise ValueError(
                f"replay.holdout_per_span: got {kept}, expected at least gates.min_examples, {judged}: "
                "with fewer, max_past_drop would judge no past span"
            )
        if self.serving.rest_port == self.serving.grpc_port != 0:
            raise ValueError(
                f"serving.grpc_port: got {self.serving.grpc_port}, expected another port than rest_port's"
            )
        return self

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
        lines = [_explain(problem) for problem in error.errors()]
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


_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text (in quotes, where it looks like something else)",
    "invalid_key": "text (in quotes, where it looks like something else)",
    "bool_type": "true or false",
    "path_type": "a path",
    "list_type": "a list",
    "dict_type": "`key: value` lines",
    "model_type": "`key: value` lines",
    "model_attributes_type": "`key: value` lines",
    "too_short": "at least one entry",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "string_pattern_mismatch": "text that matches {pattern}",
}


def _explain(problem: Any) -> str:
    """One line for one problem: key, what was seen, what is allowed."""
    keys, allowed, sentence = _locate(problem["loc"])
    key, kind, seen = ".".join(keys), problem["type"], problem["input"]
    if kind == "extra_forbidden" or (kind == "literal_error" and problem["loc"][-1] == "[key]"):
        return f"{key}: unknown key{_nearest(keys[-1], allowed)} (allowed here: {', '.join(allowed)})"
    if kind == "missing":
        return f"{key}: missing, and has no default. {sentence}"
    if kind == "union_tag_not_found":
        return f"{key}.type: missing, expected one of {', '.join(_FEATURES)}"
    if kind == "union_tag_invalid":
        tag = seen["type"]
        return (
            f"{key}.type: got {shown(tag)}, expected one of {', '.join(_FEATURES)}{_nearest(tag, _FEATURES)}"
        )
    if kind == "literal_error":
        options = re.findall(r"'(.*?)'", problem["ctx"]["expected"])
        hint = _nearest(seen, options) if len(options) > 1 else ""
        return f"{key}: got {shown(seen)}, expected one of {', '.join(options)}{hint}"
    if kind == "value_error":  # a validator of ours, which says it all
        return f"{key}: {problem['ctx']['error']}".removeprefix(": ")
    expected = _EXPECTED[kind].format(**problem.get("ctx", {})) if kind in _EXPECTED else problem["msg"]
    return f"{key}: got {shown(seen)}, expected {expected}. {sentence}".rstrip()


def _nearest(name: object, options: Collection[str]) -> str:
    close = difflib.get_close_matches(name.lower(), options, 1) if isinstance(name, str) else []
    return f"; did you mean {close[0]}?" if close else ""


def _locate(location: Sequence[Any]) -> tuple[list[str], list[str], str]:
    """A place in the file, as pydantic names it: its keys, the keys allowed there, and what it is for."""
    here: Any = Deployment
    keys: list[str] = []
    allowed: list[str] = []
    sentence = ""
    for part in location:
        if part == "[key]":
            continue
        if here is AnyFeature:  # pydantic adds the type, which is no key of the file
            here = _FEATURES[part]
            continue
        keys.append(str(part))
        if isinstance(here, type) and issubclass(here, Section):
            fields = {field.alias or name: field for name, field in here.model_fields.items()}
            allowed = list(fields)
            here = fields[part].annotation if part in fields else None
            sentence = (fields[part].description or "") if part in fields else ""
        elif get_origin(here) is dict:
            names, here = get_args(here)
            allowed = list(get_args(names))
        else:
            here = next(iter(get_args(here)), None)
        if type(None) in get_args(here):
            here = get_args(here)[0]
    return keys, allowed, sentence
