"""What data and candidates must keep to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from components.errors import RetrainError
from components.settings import Positive, Section, Share


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


class Smoke(Section):
    """What the SavedModel of a candidate is asked before it is registered, in a process of its own."""

    examples: Positive = Field(100, description="Held-out examples that it is asked.")
    max_seconds: Annotated[float, Field(gt=0.0)] = Field(
        300.0, description="Longest time of it all, the load included."
    )
    max_memory_mb: Positive = Field(8192, description="Most memory of the process, in MiB.")
    max_difference: Annotated[float, Field(gt=0.0)] = Field(
        1e-5,
        description="Largest difference of its answers from the trained model's; of a regression, as a share "
        "of the largest answer.",
    )
    max_latency_ms: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="Largest median latency of one example; by default any."
    )
    max_p99_ms: Annotated[float, Field(gt=0.0)] | None = Field(
        None,
        description="Largest 99th percentile of that latency; by default any: a busy machine shows in it.",
    )


class Edge(Section):
    """A TFLite model beside the SavedModel, for devices."""

    quantization: Literal["none", "float16", "dynamic", "int8"] = Field(
        "none",
        description="`float16`: of all constants; `dynamic`: of the layers' weights, to int8; `int8`: of "
        "what flows through the layers, too, in the ranges that examples of the replay buffer have.",
    )
    examples: Positive = Field(500, description="Held-out examples that it is compared on.")
    max_difference: Annotated[float, Field(ge=0.0)] = Field(
        0.02,
        description="Largest mean difference of its predictions from the SavedModel's: of probabilities; of "
        "a regression as a share of the predictions' standard deviation.",
    )
    max_drop: Annotated[float, Field(ge=0.0)] = Field(
        0.01,
        description="Largest loss of the first gate's metric against the SavedModel; a share of it where "
        "that gate is `relative`.",
    )
    required: bool = Field(
        False, description="Reject a version whose TFLite model fails; otherwise it goes on without one."
    )
    max_seconds: Annotated[float, Field(gt=0.0)] = Field(
        600.0, description="Longest time of the process that converts and compares."
    )
    max_memory_mb: Positive = Field(8192, description="Most memory of that process, in MiB.")
