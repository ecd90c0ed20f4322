"""What a server may be told to serve, by TF Serving's rules and in its words.

(tensorflow_serving/model_servers: model_service_impl.cc, server_core.cc.)
"""

from __future__ import annotations

from pathlib import Path

from tensorflow_serving.config import model_server_config_pb2

from serving.catalog import Catalog
from serving.errors import Code, ModelConfigError, RequestError, invalid
from serving.model_config import PLATFORM, ModelConfig, models_from_proto

_SOURCE = Path("HandleReloadConfigRequest")  # Named in errors, where a file's path would be.


def check_reload(
    config: model_server_config_pb2.ModelServerConfig, catalog: Catalog
) -> tuple[ModelConfig, ...]:
    """Returns the models of a HandleReloadConfigRequest, if they may be served.

    Unlike in a model config file, a label may only lead to a version that is available already.

    Raises:
      RequestError: INVALID_ARGUMENT, or FAILED_PRECONDITION for a label on a version that is not available.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    seen: set[str] = set()
    for entry in config.model_config_list.config:
        if entry.name in seen:
            raise invalid(f"Illegal to list model {entry.name} multiple times in config list")
        seen.add(entry.name)
        if not Path(entry.base_path).is_absolute():
            raise invalid(
                f"Expected model {entry.name} to have an absolute path or URI; "
                f"got base_path()={entry.base_path}"
            )
        _check_platform(entry, catalog)
        _check_labels(entry, catalog)
    try:
        return models_from_proto(config, _SOURCE)
    except ModelConfigError as error:
        raise invalid(str(error)) from error


def _check_platform(entry: model_server_config_pb2.ModelConfig, catalog: Catalog) -> None:
    platform = entry.model_platform
    if not platform:
        raise invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform."
        )
    if platform == PLATFORM:
        return
    if entry.name in catalog.names():
        raise invalid(
            f"Illegal to change a model's platform. For model {entry.name} platform was {PLATFORM} and new "
            f"platform requested is {platform}"
        )
    raise invalid(f"Model {entry.name} requests unsupported platform {platform}")


def _check_labels(entry: model_server_config_pb2.ModelConfig, catalog: Catalog) -> None:
    available = catalog.serving(entry.name).versions
    for _, version in sorted(entry.version_labels.items()):
        if version not in available:
            raise RequestError(
                Code.FAILED_PRECONDITION,
                f"Request to assign label to version {version} of model {entry.name}, which is not currently "
                "available for inference",
            )
