"""The data sets, as spans, and the methods, as changes of a deployment's file."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tests.bench import scores
from tests.bench.prequential import taxi_csv
from tests.bench.tables import ELEC2
from tests.e2e.harness import ROOT, retrain

HERE = Path(__file__).parent
MNIST = ROOT.parent / "shared/data/mnist-t10k"

Changes = Mapping[str, Mapping[str, Any]]  # section of the deployment -> keys to change


@dataclass(frozen=True)
class Method:
    """A way to keep a model current.

    Attributes:
        how: `first`: learn the first span and no other; `each`: one run a span, each from the version that
            the one before made; `anew`: after each span a cold start on all spans so far; `joint`: one cold
            start on all spans.
        changes: what it changes of the deployment.
    """

    how: Literal["first", "each", "anew", "joint"]
    changes: Changes = field(default_factory=dict)


NO_REPLAY: Changes = {"replay": {"ratio": 0.0}}


@dataclass(frozen=True)
class Problem:
    """A data set, cut into spans.

    Attributes:
        title: what it is.
        config: the deployment's file.
        spans: how many there are.
        write: writes them into a folder, one folder a span.
        metric: of R.
        chance: what a model that knows nothing has of it; None: nothing is comparable before it is learned.
        methods: by name.
        reference: the method that the others' training examples are a share of.
        score: a served model on all rows of a span's file.
        ahead: every version is also scored on all rows of the span after those that it learned.
        changes: of the file, for every method.
        needs: the files without which it is left out.
    """

    title: str
    config: Path
    spans: int
    write: Callable[[Path], None]
    metric: str
    chance: float | None
    methods: Mapping[str, Method]
    reference: str
    score: Callable[[Path, Path], dict[str, Any]]
    ahead: bool
    changes: Changes = field(default_factory=dict)
    needs: tuple[Path, ...] = ()


def _split(file: Path, *options: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        done = retrain("split", file, *options, "--out", folder)
        if done.code:
            raise RuntimeError(done.err)

    return write


def _score_taxi(model: Path, file: Path) -> dict[str, Any]:
    import pandas as pd

    trips = pd.read_csv(file)
    return scores.binary((trips.tips > 0.2 * trips.fare).to_numpy(), scores.predictions(model, file))


def _score_elec2(model: Path, file: Path) -> dict[str, Any]:
    import pandas as pd

    return scores.binary(pd.read_csv(file)["class"].to_numpy() == 1, scores.predictions(model, file))


def _score_digits(model: Path, file: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    labels = np.asarray(pq.read_table(file, columns=["digit"])["digit"].to_pylist())
    return scores.multiclass(labels, scores.predictions(model, file))


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [10000, 784] and digits uint8 [10000]."""
    images, labels = (gzip.decompress((MNIST / f"t10k-{name}-ubyte.gz").read_bytes()) for name in _IDX)
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784),
        np.frombuffer(labels, np.uint8, offset=8),
    )


_IDX = ("images-idx3", "labels-idx1")


def write_permuted(folder: Path, tasks: int = 10) -> None:
    """All images in every span, the pixels in another order in each; in the first as they are."""
    images, digits = _digits()
    random = np.random.default_rng(0)
    for task in range(1, tasks + 1):
        order = np.arange(images.shape[1]) if task == 1 else random.permutation(images.shape[1])
        _write_digits(folder / str(task), images[:, order], digits)


def write_pairs(folder: Path) -> None:
    """The digits 0 and 1 in the first span, 2 and 3 in the second, and so on."""
    images, digits = _digits()
    for task in range(1, 6):
        chosen = (digits // 2) + 1 == task
        _write_digits(folder / str(task), images[chosen], digits[chosen])


def _write_digits(folder: Path, images: np.ndarray, digits: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    values = pa.array(images.reshape(-1))
    offsets = pa.array(np.arange(0, images.size + 1, images.shape[1], dtype=np.int32))
    columns = {"image": pa.ListArray.from_arrays(offsets, values), "digit": list(map(str, digits))}
    pq.write_table(pa.table(columns), folder / "images.parquet")


def _gates(metric: str) -> Changes:
    """Every version is served, so that R has all its rows."""
    return {"gates": {"metrics": {metric: {"min_value": 0.0}}, "min_examples": 1}}


_REGULARIZED: Changes = {"regularization": {"distillation": {"weight": 0.5}}}
_DARK: Changes = {"regularization": {"dark_experience": 0.5}}

_DRIFT: Mapping[str, Method] = {
    "static": Method("first"),
    "fine-tuning": Method("each", NO_REPLAY),
    "replay": Method("each"),
    "replay + distillation": Method("each", _REGULARIZED),
    "from scratch": Method("anew"),
}
"""Of the problems whose spans are times of one stream."""

PROBLEMS: Mapping[str, Problem] = {
    "taxi": Problem(
        title="Chicago taxi trips, 16 quarters",
        config=ROOT / "configs/taxi.yaml",
        spans=16,
        write=_split(taxi_csv(), "--time", "trip_start_timestamp", "--every", "quarter"),
        metric="auc",
        chance=0.5,
        methods=_DRIFT,
        reference="from scratch",
        score=_score_taxi,
        ahead=True,
        changes=_gates("auc"),
    ),
    "elec2": Problem(
        title="Elec2, 34 windows of four weeks",
        config=ROOT / "configs/elec2.yaml",
        spans=34,
        write=_split(ELEC2, "--every", "1344rows"),
        metric="auc",
        chance=0.5,
        methods=_DRIFT,
        reference="from scratch",
        score=_score_elec2,
        ahead=True,
        changes={
            **_gates("auc"),
            # For four times the rows of the file's spans.
            "data": {"eval_share": 0.2},
            "training": {"batch_size": 64, "epochs": 15},
            "warm_start": {"epochs": 5, "learning_rate": 0.001},
            "replay": {"ratio": 0.25, "holdout_per_span": 270, "holdout_capacity": 9180},
        },
        needs=(ELEC2,),
    ),
    "permuted_mnist": Problem(
        title="Permuted MNIST, 10 tasks",
        config=HERE / "permuted_mnist.yaml",
        spans=10,
        write=write_permuted,
        metric="accuracy",
        chance=0.1,
        methods={
            "static": Method("first"),
            "fine-tuning": Method("each", NO_REPLAY),
            "replay": Method("each"),
            "replay + DER++": Method("each", _DARK),
            "joint": Method("joint"),
        },
        reference="joint",
        score=_score_digits,
        ahead=False,
        needs=(MNIST,),
    ),
    "split_mnist": Problem(
        title="Split MNIST, 5 tasks of two digits, class-incremental",
        config=HERE / "split_mnist.yaml",
        spans=5,
        write=write_pairs,
        metric="accuracy",
        chance=None,
        methods={
            "static": Method("first"),
            "fine-tuning": Method("each", NO_REPLAY),
            "replay 200": Method("each", {"replay": {"capacity": 200}}),
            "replay 500": Method("each"),
            "replay 200 + DER++": Method("each", {"replay": {"capacity": 200}, **_DARK}),
            "replay 500 + DER++": Method("each", _DARK),
            "joint": Method("joint"),
        },
        reference="joint",
        score=_score_digits,
        ahead=False,
        needs=(MNIST,),
    ),
}
