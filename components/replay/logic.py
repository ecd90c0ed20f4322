"""An exact uniform sample over everything learned so far, that a fold can carry along.

Every example has a random key, a function of its id and a seed. The sample is the examples with
the k smallest keys (bottom-k sampling: Cohen and Kaplan, 2007). Because a key never changes, the
bottom k of everything is the bottom k of (the bottom k of what came before, and what is new), so a
version's buffer follows from its parent's buffer and the new rows alone.

The largest key that may be in the sample, its threshold, goes with it. Rows at or above it were
dropped once, and stay out for good even when the capacity is raised later: otherwise rows of old
spans would be rarer in the sample than rows of new ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EVERYTHING = 2**64  # the threshold below which every key is
_STEP = 0x9E3779B97F4A7C15


def sample_keys(ids: np.ndarray, seed: int) -> np.ndarray:
    """A uniformly distributed key for every example id.

    Args:
        ids: int64, any shape.
        seed: of the sample; two seeds give independent samples.

    Returns:
        uint64 of the same shape (SplitMix64's finalizer: Steele et al., 2014).
    """
    with np.errstate(over="ignore"):
        x = ids.astype(np.uint64) + np.uint64((seed + 1) * _STEP % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Sample:
    """What is known of one bottom-k sample, beside its examples.

    Attributes:
        seen: how many examples it was drawn from.
        threshold: every key in the sample is below it, and every example seen with a key below it
            is in the sample; 0 to `EVERYTHING`.
    """

    seen: int = 0
    threshold: int = EVERYTHING

    def add(self, keys: np.ndarray, count: int, capacity: int) -> Sample:
        """The sample after more examples were seen.

        Args:
            keys: keys below `self.threshold`, of old and new examples together: all of them, or
                at least the capacity + 1 smallest; uint64, any order.
            count: how many examples were seen that were not seen before.
            capacity: the most examples to keep, at least 1.
        """
        threshold = self.threshold
        if len(keys) > capacity:
            threshold = int(np.partition(keys, capacity)[capacity])
        return Sample(self.seen + count, threshold)

    def without(self, count: int) -> Sample:
        """The sample of what is left when `count` of the examples seen are taken out of it.

        The threshold stays: which of the others are below it was drawn independently of what goes.
        Where nothing is left there is nothing that it was drawn from.
        """
        return Sample(self.seen - count, self.threshold) if count < self.seen else Sample()


def below(keys: np.ndarray, threshold: int) -> np.ndarray:
    """Which keys are in the sample: bool, of the same shape."""
    return keys <= np.uint64(threshold - 1) if threshold > 0 else np.zeros(keys.shape, bool)


def smallest(keys: np.ndarray, count: int) -> np.ndarray:
    """The `count` smallest keys, in no order; all of them where there are fewer."""
    return keys if len(keys) <= count else np.partition(keys, count - 1)[:count]
