"""The stage behind training where outputs are remembered: what the model said of the buffer's examples."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.utils.shared import Shared
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import types
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec
from tfx.utils import path_utils

from components.artifacts import folder_of
from components.names import EXAMPLE_ID, LOGITS
from components.replay.beam import Kept, ReadRows, WriteInOrder, numbers, records
from components.replay.component import SPLITS, files_of, read_meta, write_meta
from components.replay.logic import sample_keys

_BATCH = 512


class Executor(base_beam_executor.BaseBeamExecutor):
    """Stamps the outputs of the model into the training examples that have none, in one Beam job."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        remembered = artifact_utils.get_single_instance(input_dict["buffer"])
        output = artifact_utils.get_single_instance(output_dict["remembered"])
        saved_model = path_utils.serving_model_path(folder_of(input_dict["model"]))
        meta = read_meta(remembered.uri)
        output.split_names = artifact_utils.encode_split_names(list(SPLITS))
        train, held_out = (artifact_utils.get_split_uri([output], split) for split in SPLITS)
        with self._make_beam_pipeline() as pipeline:
            (
                pipeline
                | ReadRows(files_of(remembered, "train"), {LOGITS: schema_pb2.FLOAT}, records=True)
                | "Stamp" >> beam.ParDo(Stamp(saved_model, meta["seed"]))
                | "Write" >> WriteInOrder(os.path.join(train, "data_tfrecord"))
            )
        shutil.copytree(artifact_utils.get_split_uri([remembered], "eval"), held_out, dirs_exist_ok=True)
        write_meta(output.uri, meta)


class Stamp(beam.DoFn):
    """Batches of examples -> the same examples, all with outputs.

    Args:
        saved_model: with the attribute `logits`: serialized examples [batch] -> float32 [batch, outputs].
        seed: of the sample.
    """

    def __init__(self, saved_model: str, seed: int) -> None:
        self._saved_model, self._seed, self._shared = saved_model, seed, Shared()

    def setup(self) -> None:
        """Loads the model, once a worker."""
        self._model = self._shared.acquire(self._load, tag=self._saved_model)

    def _load(self) -> Any:
        import tensorflow as tf

        return tf.saved_model.load(self._saved_model)

    def process(self, batch: pa.RecordBatch) -> Iterator[Kept]:
        """The examples of one batch; those that have outputs are the same bytes."""
        examples = records(batch).to_pylist()
        lengths = pc.fill_null(pc.list_value_length(batch.column(LOGITS)), 0).to_numpy()
        without = np.flatnonzero(lengths == 0)
        for begin in range(0, len(without), _BATCH):
            rows = without[begin : begin + _BATCH]
            outputs = self._model.logits([examples[row] for row in rows]).numpy()
            for row, logits in zip(rows, outputs, strict=True):
                examples[row] = stamped(examples[row], logits)
        keys = sample_keys(numbers(batch, EXAMPLE_ID), self._seed)
        yield keys, pa.array(examples, pa.binary())


def stamped(example: bytes, logits: np.ndarray) -> bytes:
    """A serialized tf.Example with the outputs of a model, float32 [outputs], as one more feature."""
    import tensorflow as tf

    message = tf.train.Example.FromString(example)
    message.features.feature[LOGITS].float_list.value.extend(logits.tolist())
    return bytes(message.SerializeToString(deterministic=True))


class RememberSpec(ComponentSpec):
    PARAMETERS: dict[str, Any] = {}
    INPUTS = {
        "buffer": ChannelParameter(type=standard_artifacts.Examples),
        "model": ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {"remembered": ChannelParameter(type=standard_artifacts.Examples)}


class Remember(base_beam_component.BaseBeamComponent):
    """A buffer and the model that has just learned -> the buffer with the model's outputs in its examples.

    Dark experience replay (Buzzega et al., 2020) holds a model to what it said of an example when it
    learned it. An example has the outputs of the first version after which it was in the buffer with
    this stage in the pipeline, and keeps them. Held-out examples have none.

    Args:
        buffer: of this version.
        model: that this version trained, whose SavedModel has a function `logits`.

    Outputs:
    - `remembered`: as `Replay` makes it, with the feature `components.names.LOGITS` in the split `train`.
    """

    SPEC_CLASS = RememberSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, buffer: types.BaseChannel, model: types.BaseChannel) -> None:
        super().__init__(
            RememberSpec(
                buffer=buffer,
                model=model,
                remembered=types.Channel(type=standard_artifacts.Examples),
            )
        )
