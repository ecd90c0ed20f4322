"""All that a training exports: the SavedModel, what warms it up, and what it must answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import keras
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog as Log

from components.names import CLASSIFY, EMBEDDING, EXPECTED_ANSWERS, REGRESS, SERVING_DEFAULT, SERVING_RAW
from components.train.examples import heldout
from components.train.export import answers
from components.train.export.requests import Requests, answered
from components.train.export.saved_model import export
from components.train.material import Material, checkpoint_of
from components.train.model.networks import TwoTowerModel

WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")
"""Where TF Serving looks for requests that it answers itself before it lets others in."""
_BATCHES = (1, 4, 32)
_WARM_UP_BYTES = 1 << 20  # of the largest batch, at most: images may be large
_MOST_ROWS = 32  # that are told to Classify and Regress: the other signatures answer them all


def write(material: Material, model: keras.Model, saved_model: str) -> None:
    """Writes the SavedModel with its warm-up requests, and beside it the answers that it must give.

    Both hold examples as they are in the data, without what no request holds, such as the label.

    Args:
        material: of the training.
        model: trained.
        saved_model: the folder.
    """
    towers = _towers(material, model)
    graph, task = material.graph, material.label.task
    export(model, graph.layer, graph.kinds, material.label, graph.classes, towers, saved_model)
    rows = _rows(material)
    methods = (
        [CLASSIFY] if task == "multiclass" else [REGRESS] if task == "regression" else [CLASSIFY, REGRESS]
    )
    embeddings = {f"{side}_{EMBEDDING}": columns for side, columns in towers.items()}
    requests = Requests(graph.kinds, {SERVING_RAW: list(graph.kinds), **embeddings})
    own = [SERVING_DEFAULT, SERVING_RAW, *embeddings]
    batches = _batches(rows)
    _write(
        Path(saved_model) / WARM_UP,
        (requests.of(name, rows[:size]) for name in [*own, *methods] for size in batches),
    )
    known = answers.of(material, model, rows)
    few = {name: values[:_MOST_ROWS] for name, values in known.items()}
    expected = [answered(requests.of(name, rows), known) for name in (SERVING_DEFAULT, SERVING_RAW)]
    expected += [requests.of(name, rows) for name in embeddings]
    expected += [answered(requests.of(name, rows[:_MOST_ROWS]), few) for name in methods]
    _write(checkpoint_of(saved_model) / EXPECTED_ANSWERS, expected)


def _towers(material: Material, model: keras.Model) -> dict[str, list[str]]:
    """Of a two-tower model, side -> its raw columns."""
    sides = ("user", "item") if isinstance(model, TwoTowerModel) else ()
    return {
        side: sorted(
            {c for f in material.features if f.name in material.config["model"][side] for c in f.columns}
        )
        for side in sides
    }


def _rows(material: Material) -> Sequence[bytes]:
    """Held-out examples, chosen by a hash; where there is none, new ones of the training."""
    most, records = material.config["smoke"]["examples"], material.held_out()
    return heldout.draw([records.new, records.old], most) or heldout.draw([material.records.new], most)


def _batches(rows: Sequence[bytes]) -> list[int]:
    most = max(_WARM_UP_BYTES // max(map(len, rows)), 1)
    return sorted({min(size, most, len(rows)) for size in _BATCHES})


def _write(file: Path, logs: Iterable[Log]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for log in logs:
            writer.write(log.SerializeToString(deterministic=True))
