"""Metrics of our own, computed by TFMA; `components.evaluate.logic.METRICS` names them.

Of a regression and of several classes TFMA 0.52 measures nothing that a gate could rely on. Its mean
errors pass over predictions that are NaN and count the first of several accumulators twice; Keras'
R2Score adds up squares in float32, which gives 0 for labels of 1,000,000 to 1,000,002; and a label that
the model does not know has a cross entropy of 0 and counts as the first class in the accuracy. These
here add up in float64, in one pass for all metrics of a task, and what is NaN stays NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.names import CLASSES, SCORES

LEAST_PROBABILITY = 1e-7
"""A smaller one counts as this in the log loss, as Keras has it: an impossible class costs 16.1."""


@dataclass
class Moments:
    """Of labels and predictions that are numbers.

    Attributes:
        weight: of the examples, in all.
        label: the mean label.
        spread: sum of weight * (label - mean)^2; exactly 0 where all labels are the same.
        absolute, squared: sums of weight * |label - prediction|, and of its square.
    """

    weight: float = 0.0
    label: float = 0.0
    spread: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0

    def add(self, label: float, prediction: float, weight: float) -> None:
        error = label - prediction
        self.merge(Moments(weight, label, 0.0, weight * abs(error), weight * error**2))

    def merge(self, other: Moments) -> None:
        """Chan, Golub and LeVeque (1983): a large mean does not swallow a small variance."""
        weight = self.weight + other.weight
        share = other.weight / weight if weight else 0.0
        apart = other.label - self.label
        self.spread += other.spread + apart**2 * self.weight * share
        self.label += apart * share
        self.weight = weight
        self.absolute += other.absolute
        self.squared += other.squared

    def label_variance(self) -> float:
        return _ratio(self.spread, self.weight)

    def mae(self) -> float:
        return _ratio(self.absolute, self.weight)

    def rmse(self) -> float:
        return math.sqrt(_ratio(self.squared, self.weight))

    def r2(self) -> float:
        """1 - squared error / variance of the label; NaN where the label does not vary."""
        return 1.0 - _ratio(self.squared, self.spread)


@dataclass
class Outcomes:
    """Of labels that are classes, known to the model or not.

    Attributes:
        weight: label -> weight of its examples; so many labels as there are in the held-out examples.
        right: label -> weight of those whose most likely class it was.
        loss: sum of weight * -log(probability of the label).
    """

    weight: dict[bytes, float] = field(default_factory=dict)
    right: dict[bytes, float] = field(default_factory=dict)
    loss: float = 0.0

    def add(self, label: bytes, classes: np.ndarray, scores: np.ndarray, weight: float) -> None:
        """Counts one example.

        Args:
            label: the true class.
            classes: the model's, [C].
            scores: their probabilities, [C].
            weight: the example's.
        """
        # Of no class where it knows none, as where a class came with this span: never right.
        (known,) = np.nonzero(classes == label)
        probability = float(scores[known[0]]) if known.size else 0.0
        # Python's max(x, nan) would be x.
        self.loss -= weight * float(np.log(np.maximum(probability, LEAST_PROBABILITY)))
        right = known.size and np.isfinite(scores).all() and np.argmax(scores) == known[0]
        self._count(label, weight, weight if right else 0.0)

    def merge(self, other: Outcomes) -> None:
        self.loss += other.loss
        for label, weight in other.weight.items():
            self._count(label, weight, other.right[label])

    def _count(self, label: bytes, weight: float, right: float) -> None:
        self.weight[label] = self.weight.get(label, 0.0) + weight
        self.right[label] = self.right.get(label, 0.0) + right

    def accuracy(self) -> float:
        return _ratio(sum(self.right.values()), sum(self.weight.values()))

    def balanced_accuracy(self) -> float:
        """The mean over the labels that occur of the share of each that was recognized."""
        shares = [self.right[label] / weight for label, weight in self.weight.items() if weight > 0.0]
        return _ratio(sum(shares), len(shares))

    def log_loss(self) -> float:
        return _ratio(self.loss, sum(self.weight.values()))


def _ratio(total: float, by: float) -> float:
    return total / by if by > 0.0 else math.nan


class _Combine(beam.CombineFn):  # type: ignore[misc]
    """Examples of one model -> what they add up to, under `key`."""

    accumulator: type[Any]

    def __init__(self, key: Any, eval_config: Any) -> None:
        self._key, self._eval_config = key, eval_config

    def create_accumulator(self) -> Any:
        return self.accumulator()

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        total = self.accumulator()
        for accumulator in accumulators:
            total.merge(accumulator)
        return total

    def extract_output(self, accumulator: Any) -> dict[Any, Any]:
        return {self._key: accumulator}


class _CombineMoments(_Combine):
    accumulator = Moments

    def add_input(self, accumulator: Moments, element: Any) -> Moments:
        for parts in metric_util.to_label_prediction_example_weight(
            element,
            eval_config=self._eval_config,
            model_name=self._key.model_name,
            example_weighted=self._key.example_weighted,
        ):
            accumulator.add(*(float(part.item()) for part in parts))
        return accumulator


class _CombineOutcomes(_Combine):
    accumulator = Outcomes

    def add_input(self, accumulator: Outcomes, element: Any) -> Outcomes:
        model = self._key.model_name
        outputs: Mapping[str, np.ndarray] = element.get_predictions(model)
        weight = element.get_example_weights(model) if self._key.example_weighted else 1.0
        accumulator.add(
            np.asarray(element.get_labels(model)).item(),
            outputs[CLASSES].ravel(),
            outputs[SCORES].ravel(),
            float(np.asarray(weight).item()),
        )
        return accumulator


def _derived(combine: type[_Combine], value: Callable[[Any], float]) -> Any:
    """The computations of a metric: one pass, shared by all metrics with the same `combine`, then `value`."""

    def computations(
        name: str,
        eval_config: Any = None,
        model_name: str = "",
        example_weighted: bool = False,
    ) -> list[Any]:
        def key(name: str) -> Any:
            return metric_types.MetricKey(name, model_name=model_name, example_weighted=example_weighted)

        # TFMA writes no metric whose name begins with _.
        shared, own = key(f"_{combine.accumulator.__name__.lower()}"), key(name)
        return [
            metric_types.MetricComputation([shared], None, combine(shared, eval_config)),
            metric_types.DerivedMetricComputation([own], lambda values: {own: value(values[shared])}),
        ]

    return metric_util.merge_per_key_computations(computations)


# TFMA prefers its own class to a module's of the same name, so no name here may be one of TFMA's.


class LabelVariance(metric_types.Metric):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(_derived(_CombineMoments, Moments.label_variance), name=name)


class RegressionMAE(metric_types.Metric):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(_derived(_CombineMoments, Moments.mae), name=name)


class RegressionRMSE(metric_types.Metric):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(_derived(_CombineMoments, Moments.rmse), name=name)


class RegressionR2(metric_types.Metric):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(_derived(_CombineMoments, Moments.r2), name=name)


class MulticlassAccuracy(metric_types.Metric):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(_derived(_CombineOutcomes, Outcomes.accuracy), name=name)


class MulticlassBalancedAccuracy(metric_types.Metric):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(_derived(_CombineOutcomes, Outcomes.balanced_accuracy), name=name)


class MulticlassLogLoss(metric_types.Metric):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(_derived(_CombineOutcomes, Outcomes.log_loss), name=name)
