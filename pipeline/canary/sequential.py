"""Bounds that hold at every moment at once, so that one may look as often as one likes.

A test for one look at the end errs far more often than it says when it is asked after each request. These
bounds are confidence sequences: with probability 1 - alpha the truth is inside *at all sample sizes
together*, whatever makes one stop. None assumes a normal distribution or a large sample.

They come from mixtures of likelihood ratios, or of exponential supermartingales, and Ville's inequality
(Robbins, 1970, "Statistical methods related to the law of the iterated logarithm"): what starts at 1 and is
expected never to rise exceeds 1 / alpha at any time with probability alpha at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

_HALF = 0.5  # of the Dirichlet and Beta priors: Jeffreys', Krichevsky and Trofimov's
_TYPICAL_VARIANCE = 10.0  # where the bound on a mean is tightest: some 200 losses with a deviation of 0.2


def share_bounds(hits: int, n: int, alpha: float) -> tuple[float, float]:
    """Where the probability of a hit lies, after `n` tries.

    The likelihood under p against its mean over a Beta(1/2, 1/2) prior: the binomial case of Lindon and
    Malek (2022), "Anytime-valid inference for multinomial count data" (NeurIPS).

    Args:
        hits: 0 to n.
        n: tries; with none, nothing is known.
        alpha: the chance that the interval ever misses, in (0, 1).

    Returns:
        Lower and upper bound, in [0, 1].

    >>> share_bounds(0, 0, 0.05)
    (0.0, 1.0)
    >>> [round(bound, 3) for bound in share_bounds(5, 5, 0.01)]
    [0.301, 1.0]
    """
    if n == 0:
        return 0.0, 1.0
    mean = hits / n
    lower = _boundary(lambda p: excludes(hits, n, p, alpha), 0.0, mean) if hits else 0.0
    return lower, _boundary(lambda p: excludes(hits, n, p, alpha), 1.0, mean) if hits < n else 1.0


def excludes(hits: int, n: int, p: float, alpha: float) -> bool:
    """Whether `hits` of `n` speak so much against the probability p that it is outside of `share_bounds`."""
    misses = n - hits
    mixture = _log_beta(hits + _HALF, misses + _HALF) - _log_beta(_HALF, _HALF)
    likelihood = (hits * math.log(p) if hits else 0.0) + (misses * math.log1p(-p) if misses else 0.0)
    return mixture - likelihood >= -math.log(alpha)


def quantile_bounds(
    counts: Mapping[int, int], edge: Callable[[int], float], quantile: float, alpha: float
) -> tuple[float, float]:
    """Where a quantile lies, without any assumption about the distribution.

    As in Howard and Ramdas (2022), "Sequential estimation of quantiles with applications to A/B testing and
    best-arm identification" (Bernoulli 28), for one quantile fixed beforehand: the quantile is above an edge
    where a larger share than 1 - quantile lies above it, and that share has `share_bounds`.

    Args:
        counts: bin -> how many values; a bin's values are above the edge of the bin before, and not above
            its own.
        edge: of a bin, rising.
        quantile: such as 0.99.
        alpha: the chance that the interval ever misses.

    Returns:
        Lower and upper bound, in the unit of the edges; 0 and infinity where nothing is known.
    """
    n, above, share = sum(counts.values()), 0, 1 - quantile
    lower, upper = 0.0, math.inf
    for index in sorted(counts, reverse=True):
        if above < share * n and excludes(above, n, share, alpha):  # so many lie above the bin's edge
            upper = edge(index)
        above += counts[index]
        if above > share * n and excludes(above, n, share, alpha):  # and so many above that of the bin before
            lower = edge(index - 1)
            break
    return lower, upper


@dataclass(frozen=True)
class Moments:
    """What `mean_radius` needs of values in [0, 1], however many there were.

    Attributes:
        n: how many.
        total: their sum.
        variance: the sum of the squared differences of each from the mean of those before it (0.5 at
            first), which is what makes the bound adapt to a small variance.
    """

    n: int = 0
    total: float = 0.0
    variance: float = 0.0

    @property
    def mean(self) -> float:
        """Of the values; 0.5 without any."""
        return self.total / self.n if self.n else 0.5

    def add(self, values: Sequence[float]) -> Moments:
        """With more values, in the order in which they came."""
        if not len(values):
            return self
        new = np.clip(np.asarray(values, float), 0.0, 1.0)
        before = self.n + np.arange(len(new))
        sums = self.total + np.concatenate([[0.0], np.cumsum(new)[:-1]])
        expected = np.where(before > 0, sums / np.maximum(before, 1), 0.5)
        return replace(
            self,
            n=self.n + len(new),
            total=self.total + float(new.sum()),
            variance=self.variance + float(np.square(new - expected).sum()),
        )


def mean_radius(moments: Moments, alpha: float) -> float:
    """How far the mean of all values there could be lies above what was seen, at most; and below, likewise.

    The empirical Bernstein bound of Howard, Ramdas, McAuliffe and Sekhon (2021), "Time-uniform,
    nonparametric, nonasymptotic confidence sequences" (Annals of Statistics 49), Theorem 4, with their
    gamma-exponential mixture (Proposition 9) as the boundary. The values are in [0, 1] and may depend on
    each other, if only the expectation of each, given those before it, is the mean.

    Args:
        moments: of the values.
        alpha: the chance that the mean is ever further away on that one side.

    Returns:
        In [0, 1].
    """
    if moments.n == 0:
        return 1.0
    from scipy.special import gammainc, gammaln

    v, log_alpha = moments.variance, math.log(1 / alpha)
    rho = _TYPICAL_VARIANCE / (2 * log_alpha + math.log1p(2 * log_alpha))

    def log_mixture(s: float) -> float:
        start = rho * math.log(rho) - gammaln(rho) - math.log(gammainc(rho, rho))
        end = gammaln(v + rho) + math.log(gammainc(v + rho, s + v + rho))
        return float(start + end - (v + rho) * math.log(s + v + rho) + s + v)

    far = float(moments.n)
    if log_mixture(far) < log_alpha:
        return 1.0
    return _boundary(lambda s: log_mixture(s) >= log_alpha, far, 0.0) / moments.n


def divergence(first: Sequence[int], second: Sequence[int]) -> float:
    """The Jensen-Shannon divergence of two counted distributions, in bits: 0 alike, 1 nothing in common.

    >>> divergence([5, 5], [50, 50]), divergence([5, 0], [0, 50])
    (0.0, 1.0)
    """
    if not sum(first) or not sum(second):
        return 0.0
    p, q = (np.asarray(counts, float) / sum(counts) for counts in (first, second))
    middle = (p + q) / 2
    parts = [(x[x > 0] * np.log2(x[x > 0] / middle[x > 0])).sum() for x in (p, q)]
    return float(min(max(sum(parts) / 2, 0.0), 1.0))


def likely_divergence(first: Sequence[int], second: Sequence[int]) -> float:
    """The divergence of two samples, less what it is on average where nothing but chance tells them apart.

    That is (k - 1) / (8 ln 2) (1 / n + 1 / m) bits for k outcomes, as the divergence is close to a chi-square
    statistic then (as Miller, 1955, has it for the entropy).
    """
    if not sum(first) or not sum(second):
        return 0.0
    outcomes = sum(1 for counts in zip(first, second, strict=True) if any(counts))
    chance = (outcomes - 1) / (8 * math.log(2)) * (1 / sum(first) + 1 / sum(second))
    return max(divergence(first, second) - chance, 0.0)


def least_divergence(first: Sequence[int], second: Sequence[int], alpha: float) -> float:
    """The smallest Jensen-Shannon divergence, in bits, of the distributions that two samples may come from.

    The divergence of two samples is larger than that of their distributions, the more so the smaller the
    samples are. So each distribution gets a confidence set, the multinomials of Lindon and Malek (2022): a
    ball KL(sample || distribution) <= r. The root of the Jensen-Shannon divergence is a metric (Endres and
    Schindelin, 2003, IEEE Transactions on Information Theory 49), hence

        sqrt(JS(P, Q)) >= sqrt(JS(samples)) - sqrt(JS(sample of P, P)) - sqrt(JS(sample of Q, Q)),

    and JS(sample, P) in bits is at most KL(sample || P) / 2 in nats, as the ratio of the two functions that
    generate these divergences is nowhere above ln(2) / 2.

    Args:
        first, second: how often each of the same outcomes came.
        alpha: the chance that the bound is ever above the truth, half of it for each sample.
    """
    if not sum(first) or not sum(second):
        return 0.0
    away = sum(math.sqrt(_ball(counts, alpha / 2) / 2) for counts in (first, second))
    return max(math.sqrt(divergence(first, second)) - away, 0.0) ** 2


def _ball(counts: Sequence[int], alpha: float) -> float:
    """The radius of a sample's confidence set, in nats."""
    from scipy.special import gammaln

    seen = np.asarray(counts, float)
    n, k = seen.sum(), len(seen)
    mixture = gammaln(_HALF * k) - gammaln(n + _HALF * k) + (gammaln(seen + _HALF) - gammaln(_HALF)).sum()
    best = (seen[seen > 0] * np.log(seen[seen > 0] / n)).sum()
    return float((best - mixture - math.log(alpha)) / n)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _boundary(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where `excluded` ends on the way inside, to 32 halvings; the bound on the outer, safe side."""
    for _ in range(32):
        middle = (outside + inside) / 2
        if not middle > 0.0:
            break
        outside, inside = (middle, inside) if excluded(middle) else (outside, middle)
    return outside
