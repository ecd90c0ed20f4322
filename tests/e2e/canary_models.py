"""Tiny SavedModels to challenge a champion with: `python -m tests.e2e.canary_models FOLDER NAME...`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

MODELS: dict[str, dict[str, float]] = {
    "champion": {"slope": 2.0},
    "good": {"slope": 2.1},
    "errs": {"slope": 2.0, "fails_above": 0.0},
    "slow": {"slope": 2.0, "sleeps": 0.1},
    "shifts": {"slope": 2.0, "offset": 4.0},
    "worse": {"slope": -2.0},
}
"""Name -> what it does: answers sigmoid(slope x + offset); fails where x is above a number; sleeps first, in
seconds. The worse one's predictions are distributed as the champion's are, as x is symmetric."""


def export(
    folder: Path, slope: float, offset: float = 0.0, fails_above: float = 1e9, sleeps: float = 0.0
) -> None:
    """Writes one, with the signature that takes a number a column."""
    import tensorflow as tf
    from tensorflow.python.data.experimental.ops import testing

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def raw(self, x: Any) -> Any:
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x < fails_above), [x])]):
                x = tf.identity(x)
            if sleeps:
                asleep = tf.data.Dataset.from_tensors(x).apply(testing.sleep(int(1e6 * sleeps)))
                x = asleep.get_single_element()
            return {"predictions": tf.sigmoid(slope * x + offset)}

    model = Model()
    tf.saved_model.save(
        model, str(folder), signatures={"serving_default": model.raw, "serving_raw": model.raw}
    )


if __name__ == "__main__":
    for name in sys.argv[2:]:
        export(Path(sys.argv[1]) / name, **MODELS[name])  # type: ignore[arg-type]
