"""A SavedModel in a TensorFlow session, loaded and run as TF Serving does it.

Why not `tf.saved_model.load`: it rebuilds every function in Python, and a call goes through Python again. For
a wide-and-deep model of 14 columns that is 0.8 s and 0.9 ms of the interpreter's lock, in which no other
request goes on. `tf.compat.v1.saved_model.load` still takes the lock for up to 90 ms at a time. The C API
loads in 0.3 s without it, and a call takes 0.2 ms of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap

from serving.c_api import SavedModel

_TAG = "serve"
_SIGNATURES = meta_graph_pb2.MetaGraphDef.SIGNATURE_DEF_FIELD_NUMBER
_FEW_BYTES = 1 << 20  # Of parameters: to start the operations takes longer than what they compute.
# Ops run in the thread that asks: to hand them to others takes a small model longer than to run them, and a
# large one is parallel within its ops.
_IN_CALLER = config_pb2.RunOptions(inter_op_thread_pool=-1)


def _config(parameter_bytes: int) -> config_pb2.ConfigProto:
    """What a session does with a graph before its first run: the more, the longer a load keeps a processor.

    For a wide-and-deep model of 14 columns and its four signatures TensorFlow's defaults take 1.7 s of one,
    this 0.3 s, and a prediction a fifth less than with the defaults.
    """
    config = config_pb2.ConfigProto(allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    # Else a function stays a call within the graph, and is made ready by itself as often as it is called.
    config.graph_options.optimizer_options.do_function_inlining = True
    rewrite = config.graph_options.rewrite_options
    # What is fused pays with many parameters; to look for it takes as long as the rest of a load.
    rewrite.disable_meta_optimizer = parameter_bytes < _FEW_BYTES
    rewrite.function_optimization = rewriter_config_pb2.RewriterConfig.OFF  # So they are inlined already.
    # What takes time and finds nothing: a second round, the same again in MLIR, memory to be saved on a GPU.
    rewrite.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    rewrite.disable_tfg_optimizer = True
    rewrite.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    return config


class Session:
    """One loaded SavedModel.

    Attributes:
      signature_defs: its signatures by name, also those that nobody can call, such as the initialiser's.
    """

    def __init__(self, folder: Path) -> None:
        """Loads it.

        Raises:
          RequestError: it does not load, with TensorFlow's code and message.
        """
        config = _config(sum(file.stat().st_size for file in folder.glob("variables/*.data-*")))
        self._model = SavedModel(
            str(folder), _TAG, config.SerializeToString(), _IN_CALLER.SerializeToString()
        )
        self.signature_defs: Mapping[str, Any] = _signature_defs(self._model.meta_graph)

    def callable(self, feeds: Sequence[str], fetches: Sequence[str]) -> Callable[..., list[np.ndarray]]:
        """Returns a function from the values of some tensors, an argument each, to those of others.

        Its first run takes longer: it makes the graph between them ready.

        Raises:
          RequestError: INVALID_ARGUMENT, there are no such tensors.
        """
        return self._model.function(
            [self._model.output(name) for name in feeds], [self._model.output(name) for name in fetches]
        )

    def close(self) -> None:
        """Frees its memory. Nothing may use it or its callables any more."""
        self._model.close()


def _signature_defs(meta_graph: bytes) -> dict[str, meta_graph_pb2.SignatureDef]:
    """Reads them alone: all of a MetaGraphDef takes the interpreter's lock for some milliseconds."""
    fields = UnknownFieldSet(Empty.FromString(meta_graph))
    entries = [
        SignatureDefMap.SignatureDefEntry.FromString(field.data)
        for field in fields
        if field.field_number == _SIGNATURES
    ]
    return {entry.key: entry.value for entry in entries}
