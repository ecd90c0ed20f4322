"""Model servers that serve the same, and the model config file that they start from."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from components.errors import RetrainError
from components.push.logic import flush
from components.settings import Section

STABLE, CANARY = "stable", "canary"
"""Labels: on the version that is champion, and on the one that is to become it."""


class Pool(Section):
    """What is to be known of the servers; plain data, as it is a parameter of a TFX component.

    Attributes:
        model: name of the model.
        config_file: what the servers read when they start.
        folder: the serving folder as the servers see it; the versions are in `folder/model`.
        servers: HOST:PORT of their gRPC protocols.
        quorum: so many of them must serve a version.
        deadline_seconds: longest time that one may take to.
        tls, ca, token_env: as of `components.push.model_service.Access`.
        champion: the version that they go on with where a new one fails; None: there is none yet.
    """

    model: str
    config_file: Path
    folder: str
    servers: tuple[str, ...]
    quorum: int
    deadline_seconds: float
    tls: bool = False
    ca: Path | None = None
    token_env: str | None = None
    champion: int | None = None

    @property
    def base_path(self) -> str:
        return f"{self.folder}/{self.model}"

    def told(self, versions: Collection[int], labels: Mapping[str, int]) -> Any:
        """The ModelServerConfig that a server is told: these versions of the model, none where `versions` is
        empty, and the file's other models, which the server would drop if they were left out.

        Raises:
            RetrainError: the file does not parse.
        """
        config = self._with(versions, labels)
        for model in config.model_config_list.config:
            if "://" not in model.base_path:
                # A path in the file may be relative; the server itself takes none but absolute ones.
                model.base_path = os.path.join(self.folder, model.base_path)
        return config

    def write(self, number: int | None = None, label: str = STABLE) -> None:
        """Lets servers that start serve a version, or none; the file is written anew only where it changes.

        Raises:
            RetrainError: the file is there and does not parse.
        """
        from google.protobuf import text_format

        wanted = self._with([number], {label: number}) if number is not None else self._with([], {})
        if self.config_file.exists() and wanted == self._read():
            return
        self.config_file.parent.mkdir(parents=True, exist_ok=True)
        aside = self.config_file.with_name(f".{self.config_file.name}.new")
        aside.write_text(text_format.MessageToString(wanted))
        flush(aside)
        os.replace(aside, self.config_file)
        flush(self.config_file.parent)

    def _with(self, versions: Collection[int], labels: Mapping[str, int]) -> Any:
        from tensorflow_serving.config import model_server_config_pb2

        models = {model.name: model for model in self._read().model_config_list.config}
        if versions:
            model = model_server_config_pb2.ModelConfig(
                name=self.model, base_path=self.base_path, model_platform="tensorflow", version_labels=labels
            )
            model.model_version_policy.specific.versions.extend(sorted(versions))
            models[self.model] = model
        else:
            models.pop(self.model, None)
        config = model_server_config_pb2.ModelServerConfig()
        # Set also where nothing is in it: a server takes that for "serve nothing", and an unset one for no
        # configuration at all.
        config.model_config_list.SetInParent()
        config.model_config_list.config.extend(models.values())
        return config

    def _read(self) -> Any:
        from google.protobuf import text_format
        from tensorflow_serving.config import model_server_config_pb2

        config = model_server_config_pb2.ModelServerConfig()
        if not self.config_file.exists():
            return config
        try:
            return text_format.Parse(self.config_file.read_bytes(), config)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise RetrainError(
                f"{self.config_file}: not a ModelServerConfig in text format ({error}). Mend it, or remove "
                "it: it is written anew"
            ) from None
