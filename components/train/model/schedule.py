"""The learning rate over one run."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("retrain")
class RunSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then cosine decay (Loshchilov and Hutter, 2017) to a share of the peak.

    A warm start continues the champion's step count, so the schedule counts from the run's first
    step: every run warms up and decays anew, however many came before it.

    Args:
        peak: the highest rate.
        first_step: the optimizer's step as the run begins.
        steps: how many steps the run takes.
        warmup: the share of the run that warms up, 0 to 1.
        final: the share of the peak at the end, 0 to 1; 1 is a constant rate.
    """

    def __init__(self, peak: float, first_step: int, steps: int, warmup: float, final: float) -> None:
        self.peak, self.first_step, self.steps = peak, first_step, max(steps, 1)
        self.warmup, self.final = warmup, final

    def __call__(self, step: Any) -> Any:
        # Less the first step while both are integers: float32 counts to 16.7 million.
        done = ops.cast(step - self.first_step, "float32") / self.steps
        rising = ops.minimum((done * self.steps + 1.0) / max(self.warmup * self.steps, 1.0), 1.0)
        decayed = ops.clip((done - self.warmup) / max(1.0 - self.warmup, 1e-6), 0.0, 1.0)
        falling = self.final + (1.0 - self.final) * 0.5 * (1.0 + ops.cos(math.pi * decayed))
        return self.peak * rising * falling

    def get_config(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "first_step": self.first_step,
            "steps": self.steps,
            "warmup": self.warmup,
            "final": self.final,
        }
