"""The served version: what the registry says, brought to the serving folder and the model server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import RetrainError
from components.promote.moves import person
from components.promote.registry import ARTIFACTS, Registry, Version, refusal
from components.push.logic import prune, push
from pipeline.config import Deployment

if TYPE_CHECKING:
    from components.push.pool import Pool
    from components.push.servers import Report
    from pipeline.config.sections.server import Server


def open_registry(deployment: Deployment) -> Registry:
    """The deployment's registry; nothing is connected to before it is asked."""
    return Registry(deployment.registry_uri, deployment.registry_name, deployment.registry_artifacts or None)


def saved_model(version: Version) -> Path:
    """The SavedModel of a version, as the Trainer left it."""
    return Path(version.uris["model"]) / "Format-Serving"


def sync_serving(deployment: Deployment, champion: Version | None) -> list[Report]:
    """Makes the serving folder, its files and the servers follow the aliases.

    Safe at any time: what a process left undone that was killed anywhere in a promotion is mended here, also
    on servers that were started anew since.

    Args:
        deployment: the configuration.
        champion: what is served; None: nothing happens.

    Returns:
        The configured servers that do not serve what they should, and why; each is logged, too.

    Raises:
        RetrainError: the SavedModel of a version is gone, or a model config file does not parse.
    """
    if champion is None:
        return []
    challenger = open_registry(deployment).challenger() if deployment.serving.canary else None
    for version in filter(None, (champion, challenger)):
        push(saved_model(version), deployment.base_path, version.number)
    behind = []
    if stable := stable_pool(deployment):
        from components.push.servers import follow

        behind += follow(stable, champion.number)
    else:
        _write_config(deployment, champion.number)
    if canary := _canary_pool(deployment):
        from components.push.pool import CANARY, STABLE
        from components.push.servers import follow

        tried, label = (challenger, CANARY) if challenger else (champion, STABLE)
        behind += follow(canary, tried.number, label)
    prune(
        deployment.base_path,
        {version.number for version in (champion, challenger) if version},
        deployment.serving.keep,
    )
    return behind


def _write_config(deployment: Deployment, number: int) -> None:
    """Tells a server that watches the serving folder, where there is none that is told."""
    from serving.model_config import write_model_config

    name, seen_at = deployment.name, deployment.serving.seen_at
    # Relative, so that the folder can be mounted elsewhere; but TF Serving itself takes absolute paths alone.
    write_model_config(deployment.model_config_file, name, f"{seen_at}/{name}" if seen_at else name, [number])


def stable_pool(deployment: Deployment) -> Pool | None:
    """The servers that must serve a version before it is champion; None: none is told of it."""
    servers = deployment.serving.servers
    if not servers:
        return None
    champion = open_registry(deployment).champion()
    return _pool(
        deployment,
        servers,
        deployment.model_config_file,
        quorum=deployment.serving.quorum or len(servers),
        champion=champion.number if champion else None,
    )


def _canary_pool(deployment: Deployment) -> Pool | None:
    canary = deployment.serving.canary
    if canary is None:
        return None
    file = deployment.model_config_file.with_name("canary.config")
    return _pool(deployment, canary.servers, file, quorum=len(canary.servers), champion=None)


def _pool(
    deployment: Deployment, servers: Sequence[Server], file: Path, *, quorum: int, champion: int | None
) -> Pool:
    from components.push.pool import Pool

    serving = deployment.serving
    return Pool(
        model=deployment.name,
        config_file=file,
        folder=serving.seen_at or str(deployment.serving_path),
        servers=tuple(server.grpc for server in servers),
        quorum=quorum,
        deadline_seconds=serving.deadline_seconds,
        tls=serving.tls is not None,
        ca=serving.tls.ca if serving.tls else None,
        token_env=serving.token_env,
        champion=champion,
    )


def promote(
    deployment: Deployment,
    number: int,
    on_step: Callable[[str], None] = lambda _: None,
    *,
    why: str = "promoted by hand",
    by: str | None = None,
    force: bool = False,
) -> Version:
    """Makes a version the champion.

    Args:
        deployment: the configuration.
        number: the version.
        on_step: told what begins.
        why: kept with the move of the alias.
        by: who or what promotes it; None: the user of this process.
        force: also where the gate rejected the version, or where it, or what it was made of, was rolled back
            or turned back; who did it and why is kept with the version.

    Raises:
        RetrainError: there is no such version, it is not to be served, or its files are gone.
    """
    registry = open_registry(deployment)
    version = registry.get(number)
    although = check_servable(registry, version, force, "promote")
    if although:
        forced = {"by": by or person(), "why": why, "when": time.time(), "although": although[:1000]}
        registry.tag(number, forced=json.dumps(forced, ensure_ascii=False))
    if version.collected:  # its files are back
        registry.tag(number, collected="")
    confirm_servers(deployment, version, on_step)
    registry.make_champion(number, f"forced: {why}" if although else why, by)
    sync_serving(deployment, version)
    return version


def check_servable(registry: Registry, version: Version, force: bool, command: str) -> str:
    """What speaks against serving a version, where it is to be served all the same; else empty.

    Args:
        registry: of the deployment.
        version: which one.
        force: a person insists.
        command: named in the message.

    Raises:
        RetrainError: something speaks against it, and nobody insists; or its files were removed.
    """
    _check_files(version)
    although = refusal(version, registry.versions(), registry.champion())
    if although and not force:
        raise RetrainError(
            f"{command}: version {version.number} is not to be served: {although}. If it shall be all the "
            f"same, say `retrain {command} {version.number} --force --reason TEXT`; the reason is kept"
        )
    return although


def _check_files(version: Version) -> None:
    """What `retrain gc` removed may be back from a backup."""
    gone = [name for name in (*ARTIFACTS, "record") if not Path(version.uris[name]).is_dir()]
    if version.collected and gone:
        when = time.strftime("%Y-%m-%d", time.localtime(version.collected["when"]))
        where = ", ".join(f"{name} ({version.uris[name]})" for name in gone)
        raise RetrainError(
            f"version {version.number} has no files any more: `retrain gc` removed them on {when}. Missing: "
            f"{where}. Restore these folders from a backup, or choose a version that is whole (`retrain "
            "history`)"
        )


def confirm_servers(
    deployment: Deployment, version: Version, on_step: Callable[[str], None] = lambda _: None
) -> None:
    """Has a version in the serving folder, and served by the configured servers: then its alias may move.

    Args:
        deployment: the configuration.
        version: which one.
        on_step: told what begins.

    Raises:
        RetrainError: its SavedModel is gone, or too few servers serve it; then they go on as before.
    """
    on_step(f"copying version {version.number} to the serving folder")
    push(saved_model(version), deployment.base_path, version.number)
    if pool := stable_pool(deployment):
        from components.push.servers import serve_on

        on_step(f"waiting for {len(pool.servers)} servers to serve version {version.number}")
        serve_on(pool, version.number)
