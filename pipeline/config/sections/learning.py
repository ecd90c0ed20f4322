"""How a version is learned: training, warm start, replay, and what holds it to what is known."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.settings import Positive, Section, Share


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
        description="Most held-out examples kept of all spans together. With many spans each keeps fewer; "
        "where that would be less than gates.min_examples, some spans are left out: half of those that stay "
        "are the newest, half a random choice of the older ones.",
    )
    seed: int = Field(0, ge=0, description="Seed of the sample; a buffer keeps the one that it began with.")


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
