"""From the folder of a version to a loaded, warmed-up model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, prediction_log_pb2

from serving.errors import Code, RequestError
from serving.models import LoadedModel, Signature
from serving.protos import DTYPE_NAMES, predict
from serving.tensors import TensorSpec
from serving.versions import SAVED_MODEL

WARMUP_REQUESTS = Path("assets.extra", "tf_serving_warmup_requests")
_MAX_WARMUP_RECORDS = 1000  # TF Serving's limit.
_TAG = "serve"


def load(name: str, version: int, folder: Path) -> LoadedModel:
    """Loads a SavedModel and runs its warm-up requests.

    Raises:
      RequestError: it does not load, or a warm-up request fails.
    """
    try:
        signature_defs = _read_signature_defs(folder)
        root = tf.saved_model.load(str(folder), tags=[_TAG])
        signatures = {
            key: _signature(key, root.signatures[key], definition)
            for key, definition in signature_defs.items()
            if key in root.signatures  # The initialiser's is in the file only.
        }
        metadata = get_model_metadata_pb2.SignatureDefMap(signature_def=signature_defs)
        model = LoadedModel(name, version, root, signatures, metadata)
        _warm_up(model, folder / WARMUP_REQUESTS)
    except RequestError:
        raise
    except tf.errors.OpError as error:
        raise RequestError(Code(error.error_code), error.message) from error
    except Exception as error:  # A broken SavedModel fails in many ways, and none may end the server.
        raise RequestError(Code.UNKNOWN, f"{type(error).__name__}: {error}") from error
    return model


def _read_signature_defs(folder: Path) -> Mapping[str, Any]:
    path = folder / SAVED_MODEL
    try:
        saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except DecodeError as error:
        raise RequestError(Code.DATA_LOSS, f"Can't parse {path} as binary proto") from error
    for graph in saved_model.meta_graphs:
        if set(graph.meta_info_def.tags) == {_TAG}:
            return dict(graph.signature_def)
    raise RequestError(
        Code.NOT_FOUND, f"Could not find meta graph def matching supplied tags: {{ {_TAG} }} in {path}"
    )


def _signature(name: str, call: Any, definition: Any) -> Signature:
    return Signature(
        name=name,
        inputs={key: _spec(key, info) for key, info in sorted(definition.inputs.items())},
        outputs=tuple(sorted(definition.outputs)),
        dtypes={key: tf.as_dtype(info.dtype) for key, info in definition.inputs.items()},
        defaults={key: tf.constant(tf.make_ndarray(value)) for key, value in definition.defaults.items()},
        call=call,
    )


def _spec(name: str, info: Any) -> TensorSpec:
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else tuple(dim.size if dim.size >= 0 else None for dim in shape.dim)
    return TensorSpec(name, DTYPE_NAMES.get(info.dtype, str(info.dtype)), sizes)


def _warm_up(model: LoadedModel, path: Path) -> None:
    if not path.is_file():
        return
    for count, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator(), start=1):
        if count > _MAX_WARMUP_RECORDS:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Number of warmup records exceeds the maximum ({_MAX_WARMUP_RECORDS}) at {path}",
            )
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.WhichOneof("log_type") == "predict_log":  # The other methods are not served here.
            predict(model, log.predict_log.request)
