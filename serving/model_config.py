"""TF Serving's model config file: which models are served, in which versions, under which labels.

Imports no TensorFlow, so what only writes the file (a promotion) starts fast.

A label may lead a version that is not loaded yet. The embedded server then moves the label when the
version is available, and until then leaves it where it was. tensorflow_model_server is stricter: it refuses
the whole file when a label moves to a version that is not yet available (tensorflow/serving#1230), and at
its start it wants --allow_version_labels_for_unavailable_models. So labels move over gRPC, in two steps
that both accept (components/push/servers.py).
"""

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.errors import ModelConfigError

PLATFORM = "tensorflow"


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions on disk are served.

    Attributes:
      latest: this many of the highest; None unless the policy is `latest`.
      specific: exactly these; None unless the policy is `specific`.
      Both None: all of them.
    """

    latest: int | None = 1
    specific: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ModelConfig:
    """One model of a model config file."""

    name: str
    base_path: Path
    """Holds one folder a version, `<base_path>/<integer>/`. Where the file's is not there, and a folder of
    its name beside the file is, that one: the file is for servers that have it mounted elsewhere."""
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)


def read_model_config(path: Path) -> tuple[ModelConfig, ...]:
    """Reads a model config file.

    Raises:
      FileNotFoundError: there is no such file.
      ModelConfigError: it does not parse, or asks for what cannot be served.
    """
    return parse_model_config(path.read_bytes(), path)


def parse_model_config(text: bytes, path: Path) -> tuple[ModelConfig, ...]:
    """Parses the text of the model config file at `path`, which relative base paths start from.

    Raises:
      ModelConfigError: it does not parse, or asks for what cannot be served.
    """
    return models_from_proto(_parse(text, path), path)


def models_from_proto(
    proto: model_server_config_pb2.ModelServerConfig, path: Path
) -> tuple[ModelConfig, ...]:
    """Checks a `ModelServerConfig` by TF Serving's rules.

    Args:
      proto: the configuration.
      path: the model config file: named in errors, and the start of relative base paths.

    Raises:
      ModelConfigError: it asks for what cannot be served.
    """
    if proto.WhichOneof("config") == "custom_model_config":
        raise ModelConfigError(f"{path}: got custom_model_config, expected model_config_list")
    models = tuple(_model(entry, path) for entry in proto.model_config_list.config)
    names = [model.name for model in models]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ModelConfigError(f"{path}: model {', '.join(twice)} is listed more than once, list each once")
    return models


def write_model_config(
    path: Path,
    name: str,
    base_path: Path | str,
    versions: Iterable[int],
    labels: Mapping[str, int] | None = None,
) -> None:
    """Sets one model in a model config file to `specific` versions and labels, atomically.

    Other models in the file stay as they are. A reader sees the old file or the new one, also after a
    crash. A file that says so already is not touched. One writer at a time.

    Args:
      path: the file; made if it is not there, with its folder.
      name: the model's name.
      base_path: written as given; a relative one starts from the file's folder.
      versions: the versions to serve, at least one.
      labels: label to version; each version must be among `versions`.

    Raises:
      ModelConfigError: the arguments contradict each other, or the file is there and does not parse.
    """
    wanted = sorted(set(versions))
    _check_writable(path, name, wanted, labels or {})
    config = model_server_config_pb2.ModelServerConfig()
    if path.exists():
        config = _parse(path.read_bytes(), path)
    entry = model_server_config_pb2.ModelConfig(
        name=name, base_path=str(base_path), model_platform=PLATFORM, version_labels=labels or {}
    )
    entry.model_version_policy.specific.versions.extend(wanted)
    # In its place, so that models of several writers do not change places with each write.
    entries = {model.name: model for model in config.model_config_list.config} | {name: entry}
    written = model_server_config_pb2.ModelServerConfig()
    written.model_config_list.config.extend(entries.values())
    if written != config:
        _replace(path, text_format.MessageToString(written))


def _parse(text: bytes, path: Path) -> model_server_config_pb2.ModelServerConfig:
    try:
        return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ModelConfigError(
            f"{path}: not a ModelServerConfig in text format ({error}); expected "
            "model_config_list { config { name base_path model_platform } }"
        ) from error


def _model(entry: model_server_config_pb2.ModelConfig, path: Path) -> ModelConfig:
    if not entry.name or not entry.base_path:
        raise ModelConfigError(
            f"{path}: a config needs name and base_path, got {entry.name=}, {entry.base_path=}"
        )
    if entry.model_platform != PLATFORM:
        raise ModelConfigError(
            f"{path}: model {entry.name} has model_platform {entry.model_platform!r}, expected {PLATFORM!r}"
        )
    if any(not label for label in entry.version_labels):
        raise ModelConfigError(f"{path}: model {entry.name} has an empty version label, name it")
    return ModelConfig(
        name=entry.name,
        base_path=_locate(path.parent, entry.base_path),
        policy=_policy(entry, path),
        labels=dict(entry.version_labels),
    )


def _locate(folder: Path, base_path: str) -> Path:
    """The base path; where another machine has it under another path, the folder beside the file."""
    written, beside = folder / base_path, folder / Path(base_path).name
    return beside if beside.is_dir() and not written.exists() else written


def _policy(entry: model_server_config_pb2.ModelConfig, path: Path) -> VersionPolicy:
    policy = entry.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice in (None, "latest"):
        return VersionPolicy(latest=max(policy.latest.num_versions, 1))
    if choice == "all":
        return VersionPolicy(latest=None)
    if choice == "specific":
        return VersionPolicy(latest=None, specific=tuple(sorted(set(policy.specific.versions))))
    raise ModelConfigError(
        f"{path}: model {entry.name} has version policy {choice}, expected one of latest, all, specific"
    )


def _check_writable(path: Path, name: str, versions: Sequence[int], labels: Mapping[str, int]) -> None:
    if not name:
        raise ModelConfigError(f"{path}: got an empty model name, give one")
    if not versions or versions[0] < 0:
        raise ModelConfigError(
            f"{path}: model {name} got versions {versions}, expected at least one, none negative"
        )
    for label, version in labels.items():
        if not label or version not in versions:
            raise ModelConfigError(
                f"{path}: model {name} got label {label!r} on version {version}, "
                f"expected a name on one of the versions {versions}"
            )


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(aside, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # The rename itself must survive a crash, too.
    finally:
        os.close(folder)
