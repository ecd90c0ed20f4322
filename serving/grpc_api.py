"""TF Serving's gRPC services."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, TypeVar

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving import inference
from serving.auth import HEADER, REFUSAL, Token
from serving.errors import Code, RequestError, ServerError, invalid, shorten
from serving.metrics import Metrics
from serving.options import Limits, Tls
from serving.queries import SIGNATURE_DEF, metadata, model_status
from serving.service import Service, Spec

_GRPC_CODES = {Code(code.value[0]): code for code in grpc.StatusCode}
_ENTRYPOINT = "GRPC"
_Reply = TypeVar("_Reply")


def create_server(
    service: Service,
    reload: Callable[[Any], None],
    threads: futures.ThreadPoolExecutor,
    address: tuple[str, int],
    *,
    limits: Limits,
    tls: Tls | None,
    token: Token | None,
    key_header: str,
) -> tuple[grpc.Server, int]:
    """Returns a server that is bound and not started, and its port.

    Args:
      service: answers.
      reload: takes a ModelServerConfig and returns when it is accepted.
      threads: run the requests.
      address: host and port; port 0 for any that is free.
      limits, tls, token: see `ModelServer`.
      key_header: whose value the log gets.

    Raises:
      ServerError: the port is taken or not allowed.
    """
    server = grpc.server(
        threads,
        interceptors=[_Doorkeeper(token, service.metrics)] if token else [],
        options=[
            ("grpc.so_reuseport", 0),  # Else a second server would share the port, and the requests.
            ("grpc.max_receive_message_length", limits.max_body_bytes),
            ("grpc.max_send_message_length", -1),
        ],
        maximum_concurrent_rpcs=limits.max_concurrent,
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(service, key_header), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(service, reload), server)
    host, port = address
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if tls is None:
            return server, server.add_insecure_port(target)
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        return server, server.add_secure_port(target, grpc.ssl_server_credentials([pair]))
    except RuntimeError as error:
        raise ServerError(
            f"gRPC: cannot listen on {host}:{port} ({error}); the port must be free and allowed: "
            "stop what listens there, or choose another port (0 picks a free one)"
        ) from error


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def __init__(self, service: Service, key_header: str) -> None:
        self._service = service
        self._key_header = key_header.lower()  # As gRPC has its metadata.

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs one signature of one version."""
        return self._infer("Predict", inference.predict, request, context)

    def Classify(
        self, request: classification_pb2.ClassificationRequest, context: grpc.ServicerContext
    ) -> classification_pb2.ClassificationResponse:
        """Runs a signature for classification over tf.Examples."""
        return self._infer("Classify", inference.classify, request, context)

    def Regress(
        self, request: regression_pb2.RegressionRequest, context: grpc.ServicerContext
    ) -> regression_pb2.RegressionResponse:
        """Runs a signature for regression over tf.Examples."""
        return self._infer("Regress", inference.regress, request, context)

    def MultiInference(
        self, request: inference_pb2.MultiInferenceRequest, context: grpc.ServicerContext
    ) -> inference_pb2.MultiInferenceResponse:
        """Runs several signatures for classification and regression over the same tf.Examples."""

        def answer() -> inference_pb2.MultiInferenceResponse:
            first = request.tasks[0] if request.tasks else inference_pb2.InferenceTask()
            with self._service.use(_choice(first.model_spec), "MultiInference", _ENTRYPOINT) as model:
                response, runs = inference.multi_inference(model, request)
                for run in runs:
                    self._service.metrics.ran(model.name, "MultiInference", run.seconds)
            return response

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
            return metadata(self._service.catalog, *spec)

        return _guard(answer, context)

    def _infer(
        self,
        api: str,
        ask: Callable[[Any, Any], tuple[_Reply, inference.Run]],
        request: Any,
        context: grpc.ServicerContext,
    ) -> _Reply:
        def answer() -> _Reply:
            with self._service.use(_spec(request), api, _ENTRYPOINT) as model:
                response, run = ask(model, request)
                key = _value(context.invocation_metadata(), self._key_header)
                self._service.answered(model, api.lower(), run, key)
            return response

        return _guard(answer, context)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(self, service: Service, reload: Callable[[Any], None]) -> None:
        self._catalog = service.catalog
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
            self._reload(request.config)
            return model_management_pb2.ReloadConfigResponse()

        return _guard(answer, context)


class _Doorkeeper(grpc.ServerInterceptor):
    """Lets in who bears the token."""

    def __init__(self, token: Token, metrics: Metrics) -> None:
        self._token = token
        self._metrics = metrics
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        if self._token.admits(_value(handler_call_details.invocation_metadata, HEADER)):
            return continuation(handler_call_details)
        self._metrics.rejected(_ENTRYPOINT, "token")
        return self._refusal


def _refuse(_: Any, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)


def _value(metadata: Sequence[tuple[str, Any]] | None, name: str) -> str | None:
    """The first value of that name which is text."""
    return next((value for key, value in metadata or () if key == name and isinstance(value, str)), None)


def _spec(request: Any) -> Spec:
    """Returns name, version and label of a request; of the last two at most one is not None."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return _choice(request.model_spec)


def _choice(spec: model_pb2.ModelSpec) -> Spec:
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
