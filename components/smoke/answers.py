"""What is wrong with an answer, and how far it is from what is expected; NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from components.names import CLASSES, PREDICTIONS, SCORES

Arrays = Mapping[str, np.ndarray]  # output -> [batch, ...]


def problems(signature: str, answer: Arrays, rows: int) -> list[str]:
    """What no model may answer: another number of rows, numbers without end, probabilities that are none.

    Args:
        signature: its name, for the text.
        answer: to `rows` rows.
    """
    found = [_wrong(f"{signature}: {output}", answer[output], rows, output) for output in sorted(answer)]
    if not any(found) and {CLASSES, SCORES, PREDICTIONS} <= answer.keys():
        likely = np.take_along_axis(answer[CLASSES], answer[SCORES].argmax(axis=1)[:, np.newaxis], axis=1)
        differing = np.count_nonzero(likely[:, 0] != answer[PREDICTIONS])
        if differing:
            found.append(
                f"{signature}: {PREDICTIONS}: {differing} of {rows} are not the class of the largest score"
            )
    return [problem for problem in found if problem]


def _wrong(what: str, values: np.ndarray, rows: int, output: str) -> str:
    if values.shape[:1] != (rows,):
        return f"{what}: {rows} examples were answered with shape {values.shape}"
    if values.dtype == object:  # texts
        return ""
    if not np.isfinite(values).all():
        return f"{what}: {np.count_nonzero(~np.isfinite(values))} of {values.size} answers are not finite"
    if output == SCORES and not np.allclose(values.sum(axis=-1), 1.0, atol=1e-4):
        worst = values.sum(axis=-1)[np.argmax(np.abs(values.sum(axis=-1) - 1.0))]
        return f"{what}: the probabilities of an example add up to {worst:.4g}, expected 1"
    return ""


class Comparison:
    """Holds answers against others, and knows the largest difference so far.

    Differences are shares of a unit: 1 for probabilities; of a regression the largest number expected, as
    float32 rounds a small one as coarsely that is the difference of two large ones.

    Args:
        most: the largest difference allowed, in units.
        is_probability: whether the numbers are probabilities.
    """

    def __init__(self, most: float, is_probability: bool) -> None:
        self.largest = 0.0
        self._most, self._is_probability = most, is_probability

    def hold(self, signature: str, answer: Arrays, expected: Arrays, of: str) -> list[str]:
        """What is wrong with an answer.

        Args:
            signature: its name, for the text.
            answer, expected: of the second, every output must be in the first.
            of: whose answer is expected, for the text.
        """
        found = []
        for output in sorted(expected):
            what, wanted = f"{signature}: {output}", expected[output]
            if output not in answer:
                found.append(f"{what}: there is no such output, only {', '.join(sorted(answer))}")
            elif answer[output].shape != wanted.shape:
                found.append(f"{what}: has shape {answer[output].shape}, that {of} {wanted.shape}")
            elif wanted.dtype == object:
                differing = np.count_nonzero(answer[output] != wanted)
                found += [f"{what}: {differing} of {wanted.size} texts differ from those {of}"] * bool(
                    differing
                )
            else:
                found += self._numbers(what, answer[output], wanted, of)
        return found

    def _numbers(self, what: str, answer: np.ndarray, wanted: np.ndarray, of: str) -> list[str]:
        unit = 1.0 if self._is_probability else float(np.abs(wanted).max(initial=0.0)) or 1.0
        difference = np.abs(answer.astype(np.float64) - wanted.astype(np.float64))
        # What is not finite is told by `problems`.
        largest = float(np.where(np.isfinite(difference), difference, 0.0).max(initial=0.0))
        self.largest = max(self.largest, largest / unit)
        if largest <= self._most * unit:
            return []
        return [f"{what}: differs from that {of} by up to {largest:.3g}, allowed {self._most * unit:.3g}"]


def rows_of(inputs: Arrays) -> int:
    """How many rows a request has."""
    return len(next(iter(inputs.values())))
