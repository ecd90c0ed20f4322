"""Which versions a server should hold, given what is configured, on disk and loaded.

Everything but `find_versions` and `fingerprint` is pure.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.model_config import VersionPolicy

SAVED_MODEL = "saved_model.pb"


@dataclass(frozen=True)
class Transition:
    """What to do next: versions to load, highest first, and versions that may go now."""

    load: tuple[int, ...] = ()
    unload: tuple[int, ...] = ()


def find_versions(base_path: Path) -> dict[int, Path] | None:
    """Returns the folder of each version that is ready, or None if the base path cannot be read.

    A version is ready when its folder has an integer for a name and holds `saved_model.pb`, which whoever
    pushes a version writes last. Everything else is ignored.
    """
    try:
        names = sorted(os.listdir(base_path))
    except OSError:
        return None
    ready = {}
    for name in names:
        if name.isascii() and name.isdigit() and (base_path / name / SAVED_MODEL).is_file():
            ready[int(name)] = base_path / name
    return ready


def fingerprint(folder: Path) -> frozenset[tuple[str, int, int]]:
    """Returns (path, bytes, modification time in ns) of every file below: differs when a version changed."""
    files = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            try:
                stat = os.stat(path)
            except FileNotFoundError:  # Being written just now: the next look sees another set of files.
                continue
            files.append((os.path.relpath(path, folder), stat.st_size, stat.st_mtime_ns))
    return frozenset(files)


def aspired_versions(policy: VersionPolicy, ready: Collection[int]) -> set[int]:
    """Returns the versions to serve.

    >>> sorted(aspired_versions(VersionPolicy(latest=2), {3, 11, 4}))
    [4, 11]
    >>> aspired_versions(VersionPolicy(latest=None, specific=(3, 9)), {3, 11, 4})
    {3}
    """
    if policy.specific is not None:
        return set(policy.specific) & set(ready)
    if policy.latest is not None:
        return set(sorted(ready)[-policy.latest :])
    return set(ready)


def missing_versions(policy: VersionPolicy, ready: Collection[int]) -> list[int]:
    """Returns the versions that the policy names and that are not ready."""
    return sorted(set(policy.specific or ()) - set(ready))


def plan(
    aspired: Collection[int], loaded: Collection[int], failed: Collection[int], held: Collection[int]
) -> Transition:
    """Returns the next transition, which never takes away the last version that can answer.

    A version goes only when one that is aspired is loaded. If none of them is there or loads, what is
    loaded goes on serving.

    Args:
      aspired: versions to serve.
      loaded: versions that are available.
      failed: versions that did not load; not tried again.
      held: versions that a label still leads to.

    >>> plan(aspired={5}, loaded={4}, failed=(), held={4})
    Transition(load=(5,), unload=())
    >>> plan(aspired={5}, loaded={4, 5}, failed=(), held={5})
    Transition(load=(), unload=(4,))
    """
    load = set(aspired) - set(loaded) - set(failed)
    replaced = bool(set(aspired) & set(loaded))
    unload = set(loaded) - set(aspired) - set(held) if replaced else set()
    return Transition(tuple(sorted(load, reverse=True)), tuple(sorted(unload)))


def effective_labels(
    wanted: Mapping[str, int], current: Mapping[str, int], loaded: Collection[int]
) -> dict[str, int]:
    """Returns where each label leads: to its version if that is loaded, else where it led before.

    >>> effective_labels({"champion": 5, "shadow": 6}, {"champion": 4}, loaded={4})
    {'champion': 4}
    """
    labels = {}
    for label, version in wanted.items():
        if version in loaded:
            labels[label] = version
        elif label in current and current[label] in loaded:
            labels[label] = current[label]
    return labels
