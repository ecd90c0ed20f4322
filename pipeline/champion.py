"""The served version: what the registry says, brought to the serving folder and the model server."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from components.errors import RetrainError
from components.promote.registry import Registry, Version, lineage
from components.push.logic import prune, push
from pipeline.config import Deployment


def open_registry(deployment: Deployment) -> Registry:
    """The deployment's registry; nothing is connected to before it is asked."""
    return Registry(deployment.registry_uri, deployment.registry_name, deployment.registry_artifacts or None)


def saved_model(version: Version) -> Path:
    """The SavedModel of a version, as the Trainer left it."""
    return Path(version.uris["model"]) / "Format-Serving"


def sync_serving(deployment: Deployment, champion: Version | None) -> None:
    """Makes the serving folder and the server's configuration follow the alias.

    Safe at any time: a process killed between the move of the alias and this leaves nothing that
    the next command does not mend.
    """
    if champion is None:
        return
    from serving.model_config import read_model_config, write_model_config

    push(saved_model(champion), deployment.base_path, champion.number)
    file = deployment.model_config_file
    served = {model.name: model.policy.specific for model in read_model_config(file)} if file.exists() else {}
    if served.get(deployment.name) != (champion.number,):
        # Relative, so that the folder can be mounted elsewhere.
        write_model_config(file, deployment.name, deployment.name, [champion.number])
    prune(deployment.base_path, {champion.number}, deployment.serving.keep)


def promote(deployment: Deployment, number: int, on_step: Callable[[str], None] = lambda _: None) -> Version:
    """Makes a version the champion, whatever the gate said of it.

    Raises:
        RetrainError: there is no such version, or its SavedModel is gone.
    """
    registry = open_registry(deployment)
    version = registry.get(number)
    on_step(f"copying version {number} to the serving folder")
    _serve(deployment, registry, version)
    return version


def _serve(deployment: Deployment, registry: Registry, version: Version) -> None:
    push(saved_model(version), deployment.base_path, version.number)
    registry.make_champion(version.number)
    # After the alias: killed in between, no span of what was rolled back is learned again.
    for ancestor in lineage(registry.versions(), version.number):
        if ancestor.set_aside:
            registry.tag(ancestor.number, set_aside="")
    sync_serving(deployment, version)


def rollback(
    deployment: Deployment, number: int | None, reason: str
) -> tuple[Version, Version, tuple[int, ...]]:
    """Moves the alias back, and sets the spans aside that only what is rolled back had learned.

    Args:
        deployment: the configuration.
        number: the version to go back to; None: the champion's parent.
        reason: kept with the versions that are rolled back.

    Returns:
        The version left, the version now served, and the spans set aside, ascending.

    Raises:
        RetrainError: nothing is served, or there is nothing to go back to.
    """
    registry = open_registry(deployment)
    champion = registry.champion()
    if champion is None:
        raise RetrainError("rollback: no version is served yet; `retrain run` makes the first one")
    if number is None:
        if champion.parent is None:
            raise RetrainError(
                f"rollback: version {champion.number} was a cold start and has no parent; name the "
                "version to serve (`retrain history`)"
            )
        number = champion.parent
    if number == champion.number:
        raise RetrainError(
            f"rollback: version {number} is the one that is served; name another (`retrain history`)"
        )
    target, versions = registry.get(number), registry.versions()
    kept = {version.number for version in lineage(versions, number)}
    left = [version for version in lineage(versions, champion.number) if version.number not in kept]
    push(saved_model(target), deployment.base_path, number)  # fails before anything is set aside
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime())
    # Before the alias: killed in between, the spans of the champion's own line count as learned.
    for version in left:
        registry.tag(
            version.number, set_aside=f"version {version.number} was rolled back on {when}: {reason}"
        )
    _serve(deployment, registry, target)
    learned = {span for version in lineage(versions, number) for span in version.spans}
    return champion, target, tuple(sorted({span for version in left for span in version.spans} - learned))
