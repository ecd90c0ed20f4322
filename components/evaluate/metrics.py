"""Metrics of our own, computed by TFMA; `components.evaluate.logic.METRICS` names them.

Of a regression and of several classes TFMA 0.52 measures nothing that a gate could rely on. Its mean
errors pass over predictions that are NaN and count the first of several accumulators twice; Keras'
R2Score adds up squares in float32, which gives 0 for labels of 1,000,000 to 1,000,002; and a label that
the model does not know has a cross entropy of 0 and counts as the first class in the accuracy.

Of a binary task it is the cost: with every slice of a past span, and each of two models, 20 ms for the areas
under curves, which go through 10,000 thresholds in Python, and 6 ms for a Keras loss. Fewer thresholds,
which lie evenly from 0 to 1, would tell too little: with 1,000 of them an AUC is off by 0.04 where 1 label in
1,000 is a 1, and even TFMA's 10,000 are off by 0.02 where 1 in 10,000 is. TFMA's own binary cross entropy has
no value for a probability of exactly 1.

These here add up in float64, in one pass for all metrics of a task, and what is NaN stays NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.evaluate.accumulators import Moments, Outcomes, Probabilities
from components.names import CLASSES, SCORES


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


class _CombineNumbers(_Combine):
    def add_input(self, accumulator: Any, element: Any) -> Any:
        for parts in metric_util.to_label_prediction_example_weight(
            element,
            eval_config=self._eval_config,
            model_name=self._key.model_name,
            example_weighted=self._key.example_weighted,
        ):
            accumulator.add(*(float(part.item()) for part in parts))
        return accumulator


class _CombineMoments(_CombineNumbers):
    accumulator = Moments


class _CombineProbabilities(_CombineNumbers):
    accumulator = Probabilities


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


class BinaryLabelVariance(metric_types.Metric):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(_derived(_CombineProbabilities, Probabilities.label_variance), name=name)


class BinaryAUC(metric_types.Metric):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(_derived(_CombineProbabilities, Probabilities.auc), name=name)


class BinaryPRAUC(metric_types.Metric):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(_derived(_CombineProbabilities, Probabilities.pr_auc), name=name)


class BinaryLogLoss(metric_types.Metric):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(_derived(_CombineProbabilities, Probabilities.log_loss), name=name)


class RegressionLabelVariance(metric_types.Metric):  # type: ignore[misc]
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
