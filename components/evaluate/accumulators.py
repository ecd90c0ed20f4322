"""What examples add up to, in float64 and whatever parts it is merged of, and the metrics of that."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

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


MOST_SCORES = 10_000
"""Of so many different ones an AUC is exact; more move it by 2e-5 at most, as far as measured."""


@dataclass
class Probabilities:
    """Of labels that are 0 or 1, and the probabilities of a 1.

    Of more than `MOST_SCORES` different ones, neighbours count as equal, in groups of about the same share
    of the examples of either label: so it does not matter how rare one is, or where the probabilities lie.

    Attributes:
        scores: [n, 3], ascending: a probability, and the weight of its examples of label 1 and of label 0.
        waiting: further rows of that kind, in no order.
        loss: sum of weight * -log(probability of the label).
    """

    scores: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    waiting: list[tuple[float, float, float]] = field(default_factory=list)
    loss: float = 0.0

    def add(self, label: float, score: float, weight: float) -> None:
        one, zero = label, 1.0 - label  # so that a label that is no number makes none
        probability = one * score + zero * (1.0 - score)
        # Python's max(x, nan) would be x.
        self.loss -= weight * float(np.log(np.maximum(probability, LEAST_PROBABILITY)))
        self.waiting.append((score, weight * one, weight * zero))
        if len(self.waiting) >= MOST_SCORES:
            self._settle()

    def merge(self, other: Probabilities) -> None:
        self.loss += other.loss
        self._settle(other.scores, np.reshape(other.waiting, (-1, 3)))

    def log_loss(self) -> float:
        _, ones, zeros = self._columns()
        return _ratio(self.loss, float(ones.sum() + zeros.sum()))

    def label_variance(self) -> float:
        _, ones, zeros = self._columns()
        return _ratio(float(ones.sum() * zeros.sum()), float(ones.sum() + zeros.sum()) ** 2)

    def auc(self) -> float:
        """The share of the pairs of one example of each label that are in order; half of those that tie."""
        scores, ones, zeros = self._columns()
        ordered = np.sum(ones * (np.cumsum(zeros) - zeros / 2))
        return _ratio(float(ordered), float(ones.sum() * zeros.sum())) if _are_known(scores) else math.nan

    def pr_auc(self) -> float:
        """The area under precision over recall, interpolated as TFMA and Keras do (Davis and Goadrich, 2006).

        From one score to the next, examples of label 0 come in evenly among those of label 1.
        """
        scores, ones, zeros = self._columns()
        ones, both = ones[::-1], (ones + zeros)[::-1]
        share = np.divide(ones, both, out=np.zeros_like(ones), where=both > 0.0)
        found, taken = np.cumsum(ones) - ones, np.cumsum(both) - both  # above the score, without its own
        growth = np.divide(taken + both, taken, out=np.ones_like(taken), where=taken > 0.0)
        area = np.sum(share * (ones + (found - share * taken) * np.log(growth)))
        return _ratio(float(area), float(ones.sum())) if _are_known(scores) else math.nan

    def _columns(self) -> np.ndarray:
        if self.waiting:
            self._settle()
        return self.scores.T

    def _settle(self, *others: np.ndarray) -> None:
        rows = np.concatenate([self.scores, *others, np.reshape(self.waiting, (-1, 3))])
        scores, place = np.unique(rows[:, 0], return_inverse=True)
        self.scores, self.waiting = _sums(rows, place, scores), []
        if len(scores) > MOST_SCORES:
            group = _groups(self.scores[:, 1:])
            # The mean of each, which a NaN makes NaN: what comes later falls to both sides of it.
            self.scores = _sums(self.scores, group, np.bincount(group, scores) / np.bincount(group))


def _sums(rows: np.ndarray, place: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rows with a score each: the weights of those rows whose place is theirs."""
    return np.stack([scores, *(np.bincount(place, rows[:, i], len(scores)) for i in (1, 2))], axis=1)


def _groups(weights: np.ndarray) -> np.ndarray:
    """The group of each score, from 0 and without a gap: at most `MOST_SCORES`, of about equal shares.

    What ties in a group costs an AUC half of the sum of ones * zeros, as shares of all; and of two scores or
    more, no group has a mean share of over 2 / MOST_SCORES.
    """
    totals = weights.sum(axis=0)
    share = (weights / np.where(totals > 0.0, totals, 1.0)).mean(axis=1)
    middle = (np.cumsum(share) - share / 2) / (share.sum() or 1.0)
    return np.unique((middle * MOST_SCORES).astype(int), return_inverse=True)[1]


def _are_known(scores: np.ndarray) -> bool:
    return not bool(np.isnan(scores).any())


def _ratio(total: float, by: float) -> float:
    return total / by if by > 0.0 else math.nan
