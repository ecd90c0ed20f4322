"""A champion's arrays as those of its successor: each axis of a variable moved to where its keys are now.

A variable is its path here, such as `embedding-city/embeddings`, and an array of its shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from components.train.carryover import keys
from components.train.carryover.keys import Fold, Move
from components.train.model.blueprint import layer_of, wide_table

Arrays = Mapping[str, np.ndarray]

POWERS = {"momentum": 1, "velocity": 2, "accumulator": 2}
"""What an optimizer keeps of each weight -> the power of its gradient that it is the mean or the sum of:
mean gradients of Adam, AdamW, Nadam and SGD; squares of Adam, AdamW, Nadam, RMSprop and Adagrad."""


@dataclass(frozen=True)
class Carry:
    """How the variables of one model become those of another.

    Attributes:
        moves: path of a variable that carries over -> axis -> move, of the axes that change.
        folds: layer -> what became of the numbers that it takes.
        classes: the columns of the output; None: they are as they were.
        shapes: of all variables of the new model, by path.
    """

    moves: Mapping[str, Mapping[int, Move]]
    folds: Mapping[str, Fold]
    classes: Move | None
    shapes: Mapping[str, tuple[int, ...]]

    def weights(self, old: Arrays, initial: Arrays) -> dict[str, np.ndarray]:
        """The variables that carry over, by path.

        Args:
            old: the champion's.
            initial: the new model's, as they were initialised. A row or column that nothing moves to
                stays so in tables and vectors; in a kernel it is 0, so that it has no say yet.
        """
        carried = {}
        for path in self.moves:
            begin = initial[path]
            carried[path] = self._moved(path, old[path], np.zeros_like(begin) if is_kernel(path) else begin)
        for layer, fold in self.folds.items():
            kernel, bias = f"{layer}/kernel", f"{layer}/bias"
            if kernel in carried:
                carried[kernel], carried[bias] = fold.weights(carried[kernel], carried[bias])
        if self.classes is not None:
            self._seat_new_classes(carried, self.classes)
        return {path: value.astype(initial[path].dtype) for path, value in carried.items()}

    def slot(self, path: str, old: np.ndarray, power: int, initial: np.ndarray) -> np.ndarray:
        """What an optimizer keeps of the gradients of a variable that carries over, or of their squares.

        Args:
            path: of the variable.
            old: in the champion's shape.
            power: 1 of gradients, 2 of squares.
            initial: what stays where nothing moves to.
        """
        value = self._moved(path, old, initial)
        fold = self.folds.get(layer_of(path)) if is_kernel(path) else None
        return (fold.slot(value, power) if fold else value).astype(initial.dtype)

    def slots(self, old: Arrays, initial: Arrays) -> dict[str, np.ndarray]:
        """The variables of an optimizer, by path: slots go with their weights, the step stays.

        Args:
            old: those of the champion's optimizer, of the same kind.
            initial: of the new one, as they were initialised: what stays where nothing moves to.
        """
        owners = {
            f"optimizer/{path.replace('/', '_')}_{slot}": (path, power)
            for path in self.shapes
            for slot, power in POWERS.items()
        }
        carried = {}
        for name in old.keys() & initial.keys():
            path, power = owners.get(name, (None, 0))
            if path is None:
                carried[name] = old[name]
            elif path in self.moves:
                carried[name] = self.slot(path, old[name], power, initial[name])
        return carried

    def importances(self, old: Arrays) -> dict[str, np.ndarray]:
        """Mean squared gradients (a Fisher diagonal) of the champion's variables as the new model's.

        They move like squares in a slot; but what the champion did not know - a new term, class or input -
        matters nothing to what it knew, and is 0. A variable that does not carry over is left out.
        """
        moved = {}
        for path in old.keys() & self.moves.keys():
            value = self.slot(path, old[path], 2, np.zeros(self.shapes[path], np.float32))
            known = _mesh(self.shapes[path], {a: m.kept for a, m in self.moves[path].items()})
            moved[path] = np.where(known, value, np.float32(0))
        return moved

    def _moved(self, path: str, old: np.ndarray, initial: np.ndarray) -> np.ndarray:
        moves = self.moves[path]
        value = np.asarray(old, np.float64) if layer_of(path) in self.folds else old
        for axis, move in moves.items():
            value = move.apply(value, axis)
        return np.where(_mesh(self.shapes[path], {a: m.filled for a, m in moves.items()}), value, initial)

    def _seat_new_classes(self, carried: dict[str, np.ndarray], classes: Move) -> None:
        """Gives every new class about 1 % where the biases alone speak; the others keep their ratios.

        A model without a bias (no number among its features) has it in a table of weights: each example
        finds a row there.
        """
        new = ~classes.filled
        heads = [
            path for path, moves in self.moves.items() if moves.get(len(self.shapes[path]) - 1) is classes
        ]
        biases = [path for path in heads if path.endswith("/bias")]
        known = sum((carried[path][~new] for path in biases), np.zeros(int((~new).sum())))
        seats = biases or [path for path in heads if layer_of(path).startswith(wide_table(""))]
        for i, path in enumerate(seats):
            carried[path][..., new] = 0.0 if i else keys.level_of_new(known)


def _mesh(shape: tuple[int, ...], marked: Mapping[int, np.ndarray]) -> np.ndarray:
    """Where all of the marked axes are: bool, of a shape that goes with the variable's."""
    mask = np.ones((), bool)
    for axis, entries in marked.items():
        mask = mask & entries.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return mask


def is_kernel(path: str) -> bool:
    return path.endswith("/kernel")
