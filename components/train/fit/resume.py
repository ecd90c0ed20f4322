"""Step checkpoints of a running training: a killed one goes on where the last one was written.

A checkpoint lies in a folder named after everything that the training is made of - configuration, examples,
transform graph, champion, the user's own module - so that no other training takes it for its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_ARRAYS, _PROGRESS = "arrays.npz", "progress.json"


def key(config: Mapping[str, Any], inputs: Iterable[str | Path]) -> str:
    """32 hexadecimal characters that change with the configuration or with the content of the inputs.

    Args:
        config: plain data.
        inputs: files and folders; where they lie does not count, their order does.
    """
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    whole = hashlib.blake2b(json.dumps([versions, config], sort_keys=True).encode(), digest_size=16)
    for start in map(Path, inputs):
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            if path.is_file():
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, hashlib.blake2b).digest()  # type: ignore[arg-type]
                whole.update(path.relative_to(start).as_posix().encode() + content)
    return whole.hexdigest()


class StepCheckpoints:
    """The step checkpoints of one training.

    Args:
        folder: of all trainings of a deployment, of which one runs at a time; what others left is removed.
        name: of this one, as `key` gives it.
        every: steps between checkpoints.
    """

    def __init__(self, folder: Path, name: str, every: int) -> None:
        self._folder, self.every = folder / name, every
        for other in folder.glob("*"):
            if other != self._folder:
                shutil.rmtree(other)

    def write(self, step: int, progress: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Writes one aside, renames it, and removes the one before.

        Args:
            step: of this training.
            progress: plain data.
            arrays: by name.
        """
        aside, final = self._folder / f".{step}", self._folder / str(step)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        np.savez(aside / _ARRAYS, **arrays)  # type: ignore[arg-type]
        (aside / _PROGRESS).write_text(json.dumps(progress))
        os.rename(aside, final)
        for other in self._folder.glob("*"):
            if other != final:
                shutil.rmtree(other)

    def read(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """Progress and arrays of the newest; None where there is none."""
        whole = [path for path in self._folder.glob("*") if path.name.isdecimal()]
        if not whole:
            return None
        newest = max(whole, key=lambda path: int(path.name))
        with np.load(newest / _ARRAYS) as arrays:
            return json.loads((newest / _PROGRESS).read_text()), dict(arrays)

    def remove(self) -> None:
        """The training is done."""
        shutil.rmtree(self._folder, ignore_errors=True)
