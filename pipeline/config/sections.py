"""The parts of a deployment's file. What features, label and model are is defined in `components/`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from components.errors import RetrainError
from components.features import AnyFeature, Feature
from components.settings import Positive, Section, Share
from pipeline.config.yaml_file import shown
from pipeline.spans.pattern import parse as parse_pattern

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
    max_seconds: Positive | None = Field(
        None,
        description="Longest time of a run's training; what it has learned by then is judged. Without it "
        "the steps say.",
    )
    early_stopping: Positive | None = Field(
        None,
        description="Stops after so many epochs without a smaller loss on held-out rows, and keeps the best "
        "weights. Without it every epoch is trained.",
    )
    checkpoint_steps: Positive = Field(
        500, description="Steps between checkpoints of a running training; a killed one goes on from there."
    )
    shuffle_rows: Positive = Field(100_000, description="Examples that a shuffle holds in memory.")
    divergence: Annotated[float, Field(gt=1.0)] = Field(
        3.0, description="A run fails when an epoch's mean loss exceeds its first loss this many times."
    )
    precision: Literal["float32", "mixed_bfloat16"] = Field(
        "float32", description="Of the computation; weights and outputs are float32 in any case."
    )
    xla: bool = Field(False, description="Compile the training step with XLA; it pays on accelerators.")
    strategy: Literal["default", "mirrored"] = Field(
        "default",
        description="`mirrored` divides each batch among all accelerators of the machine "
        "(tf.distribute.MirroredStrategy).",
    )
    deterministic: bool = Field(
        False, description="The same inputs train the same weights, bit by bit; slower on accelerators."
    )
    seed: int = Field(0, ge=0, description="Seed of initial weights, dropout and shuffles.")


class NewClasses(Section):
    """How a class that the champion does not know is learned."""

    freeze_steps: int = Field(
        0, ge=0, description="So many first steps train the output layer alone, where a class is new."
    )
    learning_rate: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="Highest learning rate of a run with a new class; by default the warm start's."
    )


class WarmStart(Section):
    enabled: bool = Field(True, description="Start from the champion's weights, optimizer slots and step.")
    epochs: Positive = Field(5, description="Passes over the new examples.")
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(5e-4, description="Highest learning rate.")
    schedule: Literal["restart", "continue"] = Field(
        "restart",
        description="`restart`: the learning rate warms up and decays in every run; `continue`: it stays "
        "where the cold start's decay ended, at training.learning_rate * final_learning_rate.",
    )
    new_terms: Literal["oov", "mean", "random"] = Field(
        "oov",
        description="What the row of a term new to a vocabulary starts from: the out-of-vocabulary row that "
        "the champion served it from, the mean of the known rows, or random numbers.",
    )
    changed_model: Literal["carry", "scratch", "refuse"] = Field(
        "carry",
        description="Where features or model differ from the champion's: carry over what fits by name and "
        "shape, start from scratch, or refuse to run.",
    )
    freeze: list[str] = Field(
        [], description="Layers that a warm start does not train, by name; * stands for anything."
    )
    new_classes: NewClasses = Field(
        NewClasses(), description="Multiclass: how a class that the champion does not know is learned."
    )


class Ewc(Section):
    """Elastic weight consolidation (Kirkpatrick et al., 2017), online (Schwarz et al., 2018)."""

    strength: Annotated[float, Field(ge=0.0)] = Field(0.0, description="Weight of the penalty; 0: none.")
    decay: Share = Field(0.9, description="What is left of older versions' importances in each version.")
    examples: Positive = Field(300, description="Examples that a version's importances are measured on.")


class Distillation(Section):
    """Learning without forgetting: the champion's outputs are targets (Li and Hoiem, 2016)."""

    weight: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Weight of the difference to the champion's outputs; 0: none."
    )
    temperature: Annotated[float, Field(gt=0.0)] = Field(
        2.0, description="Softens the outputs that are compared; 1 leaves them as they are."
    )
    on: Literal["all", "new", "replayed"] = Field("all", description="The examples it is measured on.")


class Regularization(Section):
    """What holds a warm start close to the champion, beside replay; every part can be combined."""

    l2_sp: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Weight of half the squared distance to the champion's weights (L2-SP); 0: none."
    )
    ewc: Ewc = Field(
        Ewc(), description="The same distance, by how much each weight matters to what is known (EWC)."
    )
    distillation: Distillation = Field(
        Distillation(), description="The champion's outputs as targets beside the labels."
    )
    dark_experience: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="Weight of the distance to the outputs that replayed examples had when learned, which "
        "are kept in the buffer (DER++); 0: none.",
    )


class Replay(Section):
    scheme: Literal["reservoir", "balanced", "recency", "per_span"] = Field(
        "reservoir",
        description="How the buffer samples what was learned: uniformly over all examples so far; as many of "
        "each value of `by`; newer spans more (see `half_life`); or as many of each span.",
    )
    by: list[str] = Field(
        [], description="Scheme `balanced`: the columns whose values are balanced; by default the label."
    )
    half_life: Annotated[float, Field(gt=0.0)] = Field(
        8.0,
        description="Scheme `recency`: so many spans later, an example is half as likely to be kept; of "
        "spans that are dates, so many hours, days, months or years later.",
    )
    capacity: Positive = Field(20_000, description="Most training examples in the buffer.")
    ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.5, description="Share of a batch that is replayed."
    )
    holdout_per_span: Positive = Field(
        500, description="Most held-out examples kept of each span, for the gate."
    )
    holdout_capacity: Positive = Field(
        20_000,
        description="Most held-out examples kept of all spans together; with many spans each keeps fewer, "
        "and with fewer than gates.min_examples it is not judged any more.",
    )
    seed: int = Field(0, ge=0, description="Seed of the sample; a buffer keeps the one that it began with.")


class Poisoning(Section):
    """What a span must keep to before the buffer takes it in; see components/validate/poison.py."""

    max_label_shift: Annotated[float, Field(gt=0.0)] | None = Field(
        None,
        description="Largest change of any one class's share of the labels against the newest span learned; "
        "of a regression, of the mean, in standard deviations. Beyond it a span goes into quarantine.",
    )
    max_duplicates: Share | None = Field(
        None,
        description="Largest share of a span's rows that repeat another one of it. Beyond it the span goes "
        "into quarantine.",
    )
    max_influence: Annotated[float, Field(ge=0.0)] | None = Field(
        None,
        description="Largest rise of the loss on past held-out rows that is the new data's doing: against a "
        "control that trains as long on replayed examples alone, as a share of its loss. Trains twice.",
    )
    trusted: str | None = Field(
        None,
        description="Rows whose labels are known to be good, such as \"source == 'audit'\": the influence is "
        "measured on the held-out ones of them, too.",
    )

    @model_validator(mode="after")
    def _trusted_is_used(self) -> Poisoning:
        if self.trusted is None:
            return self
        if self.max_influence is None:
            raise ValueError(
                "trusted: got one without max_influence, and only the influence is measured on it; set "
                "max_influence, or remove it"
            )
        from components.expression import parse

        try:
            parse(self.trusted)
        except RetrainError as error:
            raise ValueError(f"trusted: {error}") from None
        return self


class Shadow(Section):
    """`retrain run --from-scratch`: a version trained on everything, to measure what the champion lacks."""

    window: Positive | None = Field(
        None, description="Newest spans that it is trained on; by default all that the champion learned."
    )
    promote_above: Annotated[float, Field(ge=0.0)] | None = Field(
        None,
        description="It is promoted where it is better than the champion by more than this, in the first "
        "gate's metric; by default never.",
    )


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
    max_forgetting: float | None = Field(
        None,
        ge=0.0,
        description="Largest loss on any past span against the best that any version of the champion's line "
        "had there.",
    )
    min_bwt: float | None = Field(
        None,
        description="Smallest backward transfer: the mean, over past spans, of the metric now less what it "
        "was when the span was learned; such as -0.02.",
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
    retry_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        None,
        description="Where only forgetting has failed, a second attempt with this replay ratio; by default "
        "none.",
    )

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
