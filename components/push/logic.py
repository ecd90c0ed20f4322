"""A SavedModel in the serving folder: there whole, or not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from components.errors import RetrainError


def push(saved_model: Path, base: Path, version: int) -> Path:
    """Copies a SavedModel to `base/VERSION`, where a model server finds it.

    Written aside and renamed, so a server never sees a part of it; a version that is there already
    is whole and stays.

    Raises:
        RetrainError: there is no SavedModel to copy.
    """
    target = base / str(version)
    if target.exists():
        return target
    if not (saved_model / "saved_model.pb").exists():
        raise RetrainError(
            f"push: version {version} has no SavedModel in {saved_model}. Restore the folder, or choose "
            "another version (`retrain history`)"
        )
    # Beside the base path, on the same file system: a server that lists the base path never meets it.
    aside = base.parent / f".{base.name}-{version}"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(saved_model, aside)
    for path in aside.rglob("*"):
        if path.is_file():
            flush(path)
    base.mkdir(parents=True, exist_ok=True)
    os.rename(aside, target)
    flush(base)
    return target


def prune(base: Path, keep: set[int], newest: int) -> list[int]:
    """Removes old versions from the serving folder; they stay in the registry and can be pushed again.

    Args:
        base: the serving folder of one model.
        keep: versions never removed.
        newest: how many of the highest versions to keep besides.

    Returns:
        The versions removed.
    """
    there = sorted((int(entry.name) for entry in base.iterdir() if entry.name.isdigit()), reverse=True)
    gone = [version for version in there[newest:] if version not in keep]
    for version in gone:
        # Renamed first: a folder that is half removed must not look like a version.
        aside = base.parent / f".{base.name}-{version}"
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(base / str(version), aside)
        shutil.rmtree(aside)
    return gone


def flush(path: Path) -> None:
    """Has a file, or what a folder lists, survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
