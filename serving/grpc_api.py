"""TF Serving's gRPC services over a catalog."""

from collections.abc import Callable
from concurrent import futures
from typing import Any, TypeVar

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.catalog import Catalog
from serving.errors import Code, RequestError, ServerError, invalid, shorten
from serving.protos import predict

SIGNATURE_DEF = "signature_def"
_GRPC_CODES = {Code(code.value[0]): code for code in grpc.StatusCode}
_Reply = TypeVar("_Reply")


def create_server(
    catalog: Catalog,
    reload: Callable[[Any], None],
    threads: futures.ThreadPoolExecutor,
    host: str,
    port: int,
) -> tuple[grpc.Server, int]:
    """Returns a server that is bound and not started, and its port.

    Args:
      reload: takes a ModelServerConfig and returns when it is served.
      threads: run the requests.
      port: 0 for any that is free.

    Raises:
      ServerError: the port is taken or not allowed.
    """
    server = grpc.server(
        threads,
        options=[
            ("grpc.so_reuseport", 0),  # Else a second server would share the port, and the requests.
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(catalog), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(catalog, reload), server)
    try:
        return server, server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as error:
        raise ServerError(
            f"gRPC: cannot listen on {host}:{port} ({error}); the port must be free and allowed: "
            "stop what listens there, or choose another port (0 picks a free one)"
        ) from error


def model_status(
    catalog: Catalog, name: str, version: int | None, label: str | None
) -> get_model_status_pb2.GetModelStatusResponse:
    """Returns the status of one version, or of all.

    Raises:
      RequestError: NOT_FOUND.
    """
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, status in catalog.statuses(name, version, label).items():
        entry = response.model_version_status.add(version=number, state=int(status.state))
        entry.status.error_code = int(status.code)
        entry.status.error_message = shorten(status.message)
    return response


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs one signature of one version."""

        def answer() -> predict_pb2.PredictResponse:
            with self._catalog.use(*_spec(request)) as model:
                return predict(model, request)

        return _guard(answer, context)

    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Returns the signatures of one version."""

        def answer() -> get_model_metadata_pb2.GetModelMetadataResponse:
            spec = _spec(request)
            if not request.metadata_field:
                raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
            for field in request.metadata_field:
                if field != SIGNATURE_DEF:
                    raise invalid(f"Metadata field {field} is not supported")
            return metadata(self._catalog, *spec)

        return _guard(answer, context)

    def Classify(self, request: Any, context: grpc.ServicerContext) -> None:
        """Is not served."""
        _unimplemented("Classify", context)

    def Regress(self, request: Any, context: grpc.ServicerContext) -> None:
        """Is not served."""
        _unimplemented("Regress", context)

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> None:
        """Is not served."""
        _unimplemented("MultiInference", context)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(self, catalog: Catalog, reload: Callable[[Any], None]) -> None:
        self._catalog = catalog
        self._reload = reload

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns how far each version is."""
        return _guard(lambda: model_status(self._catalog, *_spec(request)), context)

    def HandleReloadConfigRequest(
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        """Serves another config, until the model config file changes."""

        def answer() -> model_management_pb2.ReloadConfigResponse:
            if request.config.WhichOneof("config") != "model_config_list":
                raise invalid(
                    "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                    "Only ModelConfigList is currently supported"
                )
            self._reload(request.config)
            return model_management_pb2.ReloadConfigResponse()

        return _guard(answer, context)


def metadata(
    catalog: Catalog, name: str, version: int | None, label: str | None
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Returns the signatures of one version.

    Raises:
      RequestError: NOT_FOUND, or INVALID_ARGUMENT for an unknown label.
    """
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with catalog.use(name, version, label) as model:
        response.model_spec.name = model.name
        response.model_spec.version.value = model.version
        response.metadata[SIGNATURE_DEF].Pack(model.signature_defs)
    return response


def _spec(request: Any) -> tuple[str, int | None, str | None]:
    """Returns name, version and label of a request; of the last two at most one is not None."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    spec: model_pb2.ModelSpec = request.model_spec
    choice = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _guard(answer: Callable[[], _Reply], context: grpc.ServicerContext) -> _Reply:
    try:
        return answer()
    except RequestError as error:
        context.abort(_GRPC_CODES[error.code], shorten(error.message))
        raise  # Not reached: abort raises.


def _unimplemented(method: str, context: grpc.ServicerContext) -> None:
    context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        f"{method} is not served by the embedded server: call Predict, which runs any signature",
    )
