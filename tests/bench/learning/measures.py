"""What the literature reads off a fold: accuracy, transfer and forgetting, from the R matrix.

R[i][j] is the metric on span j after span i was learned; more is better. A row that is missing was not
measured: a model that is made once has one row. Definitions: Lopez-Paz and Ranzato (2017) for ACC, BWT and
FWT, Chaudhry et al. (2018) for forgetting.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

Matrix = Mapping[int, Mapping[int, float]]  # after which span -> on which span -> the metric


def acc(r: Matrix) -> float:
    """The mean over all spans after the last was learned.

    >>> acc({1: {1: 0.9}, 2: {1: 0.7, 2: 0.8}})
    0.75
    """
    return statistics.fmean(r[max(r)].values())


def bwt(r: Matrix) -> float | None:
    """Backward transfer: the mean change since a span was learned; None where no R[j][j] is before the last.

    >>> round(bwt({1: {1: 0.9}, 2: {1: 0.7, 2: 0.8}}), 3)
    -0.2
    """
    return _mean(r[max(r)][j] - r[j][j] for j in _past(r))


def forgetting(r: Matrix) -> float | None:
    """The mean loss against the best that a span had before the last was learned; None as `bwt` has it.

    >>> round(forgetting({1: {1: 0.5}, 2: {1: 0.9, 2: 0.8}, 3: {1: 0.8, 2: 0.7, 3: 0.9}}), 3)
    0.1
    """
    last = max(r)
    return _mean(max(r[i][j] for i in r if j <= i < last) - r[last][j] for j in _past(r))


def fwt(before: Iterable[float], chance: float) -> float | None:
    """Forward transfer: the mean advantage over chance on spans that were not learned yet.

    Args:
        before: the metric on each span but the first, just before it was learned.
        chance: of a model that knows nothing.

    >>> round(fwt([0.7, 0.9], 0.5), 3)
    0.3
    """
    return _mean(value - chance for value in before)


def share(examples: Sequence[int], reference: Sequence[int]) -> float:
    """Training examples as a share of the reference's, both a run in the order of the spans.

    >>> share([10, 5, 5], [10, 20, 30])
    0.3333333333333333
    """
    return sum(examples) / sum(reference)


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation of the sample; no deviation of one value.

    >>> spread([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _past(r: Matrix) -> list[int]:
    return [j for j in r if j < max(r)]


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return statistics.fmean(listed) if listed else None
