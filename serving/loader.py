"""From the folder of a version to a loaded, warmed-up model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, prediction_log_pb2

from serving.batching import Batcher
from serving.errors import Code, RequestError, invalid
from serving.inference import classify, multi_inference, predict, regress
from serving.models import LoadedModel, Signature, Tensors
from serving.options import Batching
from serving.protos import DTYPE_NAMES
from serving.session import Session
from serving.tensors import TensorSpec

WARMUP_REQUESTS = Path("assets.extra", "tf_serving_warmup_requests")
_MAX_WARMUP_RECORDS = 1000  # TF Serving's limit.


def load(name: str, version: int, folder: Path, batching: Batching | None = None) -> LoadedModel:
    """Loads a SavedModel and runs its warm-up requests.

    Raises:
      RequestError: it does not load, or a warm-up request fails.
    """
    try:
        session = Session(folder)
        try:
            model = _model(name, version, session, batching)
            _warm_up(model, folder / WARMUP_REQUESTS)
        except BaseException:
            session.close()
            raise
    except RequestError:
        raise
    except tf.errors.OpError as error:
        raise RequestError(Code(error.error_code), error.message) from error
    except Exception as error:  # A broken SavedModel fails in many ways, and none may end the server.
        raise RequestError(Code.UNKNOWN, f"{type(error).__name__}: {error}") from error
    return model


def _model(name: str, version: int, session: Session, batching: Batching | None) -> LoadedModel:
    signatures = {
        key: _signature(key, session, definition, batching)
        for key, definition in session.signature_defs.items()
        if definition.method_name  # The initialiser's has none.
    }
    metadata = get_model_metadata_pb2.SignatureDefMap(signature_def=session.signature_defs)
    return LoadedModel(name, version, signatures, metadata, session.close)


def _signature(
    name: str, session: Session, definition: meta_graph_pb2.SignatureDef, batching: Batching | None
) -> Signature:
    inputs = {key: _spec(key, info) for key, info in sorted(definition.inputs.items())}
    outputs = {key: _spec(key, info) for key, info in sorted(definition.outputs.items())}
    call = _by_name(session, definition, tuple(inputs), tuple(outputs))
    if batching is not None and Batcher.suits(inputs, outputs):
        call = Batcher(call, batching)
    return Signature(
        name=name,
        method=definition.method_name,
        inputs=inputs,
        outputs=outputs,
        defaults={key: tf.make_ndarray(value) for key, value in definition.defaults.items()},
        call=call,
    )


def _by_name(
    session: Session,
    definition: meta_graph_pb2.SignatureDef,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
) -> Callable[[Tensors], dict[str, np.ndarray]]:
    run = session.callable(
        [definition.inputs[name].name for name in inputs], [definition.outputs[name].name for name in outputs]
    )

    def call(tensors: Tensors) -> dict[str, np.ndarray]:
        return dict(zip(outputs, run(*(tensors[name] for name in inputs)), strict=True))

    return call


def _spec(name: str, info: Any) -> TensorSpec:
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else tuple(dim.size if dim.size >= 0 else None for dim in shape.dim)
    return TensorSpec(name, DTYPE_NAMES.get(info.dtype, str(info.dtype)), sizes)


def _warm_up(model: LoadedModel, path: Path) -> None:
    if not path.is_file():
        return
    # Not a `tf.data` pipeline: to trace one takes the interpreter's lock from requests for some milliseconds.
    for count, record in enumerate(tf.compat.v1.io.tf_record_iterator(str(path)), start=1):
        if count > _MAX_WARMUP_RECORDS:
            raise invalid(f"Number of warmup records exceeds the maximum ({_MAX_WARMUP_RECORDS}) at {path}")
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record)
        except DecodeError as error:
            raise invalid(f"Failed to parse warmup record: {record[:100]!r} from {path}") from error
        _replay(model, log)


def _replay(model: LoadedModel, log: prediction_log_pb2.PredictionLog) -> None:
    """Asks again what a record of a request log has asked."""
    match log.WhichOneof("log_type"):
        case "predict_log":
            predict(model, log.predict_log.request)
        case "classify_log":
            classify(model, log.classify_log.request)
        case "regress_log":
            regress(model, log.regress_log.request)
        case "multi_inference_log":
            multi_inference(model, log.multi_inference_log.request)
        case other:
            raise RequestError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {other}")
