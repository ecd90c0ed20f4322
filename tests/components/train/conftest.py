"""One version trained for real, which the tests of this room start from, and what a run is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from components.features import raw_columns, to_json
from components.label import Label
from components.models import WideAndDeep
from pipeline.config.sections import Poisoning, Regularization, Training, WarmStart

BIG = Label(name="big")
SMALL = WideAndDeep(hidden=[16], embedding_dim=4, dropout=0.1)


class Run:
    """What TFX gives to `run_fn`, in a folder of its own; calling it trains."""

    def __init__(
        self,
        folder: Path,
        graph: Any,
        records: Mapping[str, Sequence[bytes]],
        held_out: Mapping[str, Sequence[bytes]],
        features: Any,
        columns: Collection[str],
        label: Label,
        model: Any,
        base: Run | None,
        spans: Collection[int],
    ) -> None:
        import tensorflow as tf

        self.folder, self.saved_model, self.checkpoint = (
            folder,
            folder / "model/Format-Serving",
            folder / "model/checkpoint",
        )
        for split, artifacts in {"train": records, "eval": held_out}.items():
            for name, examples in artifacts.items():
                file = folder / name / f"Split-{split}/data_tfrecord-00000-of-00001.gz"
                file.parent.mkdir(parents=True)
                with tf.io.TFRecordWriter(str(file), "GZIP") as writer:
                    for example in examples:
                        writer.write(example)
        self.config = {
            "features": to_json(features),
            "columns": raw_columns(features, columns),
            "label": label.model_dump(),
            "model": model.model_dump(),
            "training": Training(batch_size=32, epochs=6, learning_rate=0.02).model_dump(),
            "warm_start": WarmStart(epochs=2, learning_rate=0.01).model_dump(),
            "replay": {"ratio": 0.5},
            "regularization": Regularization().model_dump(),
            "poisoning": Poisoning().model_dump(),
            "smoke": {"examples": 100},
            "new_spans": sorted(spans),
            "resume_dir": str(folder / "steps"),
        }
        self.arguments = SimpleNamespace(
            train_files=[str(folder / name / "Split-train/*") for name in records],
            eval_files=[str(folder / name / "Split-eval/*") for name in records],
            transform_output=str(graph.path),
            serving_model_dir=str(self.saved_model),
            model_run_dir=str(folder / "model_run"),
            base_model=str(base.saved_model) if base else None,
        )

    def __call__(self, **changes: Mapping[str, Any]) -> Run:
        """Trains, with changes to sections of the configuration."""
        from components.train.trainer import run_fn

        for section, change in changes.items():
            self.config[section] = {**self.config[section], **change} if isinstance(change, dict) else change
        # TFX hands the configuration over as JSON.
        run_fn(SimpleNamespace(**vars(self.arguments), custom_config=json.loads(json.dumps(self.config))))
        return self

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.checkpoint / "state.json").read_text())

    def variables(self) -> dict[str, Any]:
        """Every tensor of the checkpoint."""
        import tensorflow as tf

        reader = tf.train.load_checkpoint(str(self.checkpoint / "weights"))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.fixture(scope="session")
def make_run(graph_features: Any, serialize: Callable) -> Callable[..., Run]:
    def make(
        folder: Path,
        graph: Any,
        base: Run | None = None,
        features: Any = graph_features,
        columns: Collection[str] = (),
        label: Label = BIG,
        model: Any = SMALL,
        held_out: Mapping[str, Sequence[Any]] = MappingProxyType({}),
        **rows: Sequence[Any],
    ) -> Run:
        """A run over rows, and held-out rows, by the name of the artifact that brings them."""
        spans = {row["span"] for row in rows["new"]}
        records, held_out = (
            {name: serialize(some, graph.types) for name, some in artifacts.items()}
            for artifacts in (rows, held_out)
        )
        return Run(folder, graph, records, held_out, features, columns, label, model, base, spans)

    return make


@pytest.fixture(scope="session")
def cold(make_run: Callable[..., Run], before: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A version that was trained from nothing on span 1. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("cold"), before, new=before.rows)()
