"""The built-in model: wide and deep (Cheng et al., 2016, arXiv:1606.07792), in Keras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from components.features import NUMERIC, NUMERIC_MISSING, Feature


def build_model(features: Sequence[Feature], rows: Mapping[str, int], spec: Mapping[str, Any]) -> keras.Model:
    """A wide-and-deep binary classifier over transformed features.

    The wide part is one weight a category; the deep part is embeddings and numeric inputs through
    dense layers. Layers are named after their feature, so that two models of the same features
    have the same variable paths whatever their vocabularies are.

    Args:
        features: the configured features.
        rows: categorical or identity feature -> number of rows of its tables.
        spec: `hidden` (units a layer), `embedding_dim`, `dropout` (0 to 1), `batch_norm`.

    Returns:
        An uncompiled model: a dict of `components.features.outputs` in, probabilities of shape [batch, 1]
        out.
    """
    inputs: dict[str, Any] = {}
    wide, deep = [], []
    numeric = sum(feature.kind == "numeric" for feature in features)
    for name in (NUMERIC, NUMERIC_MISSING) if numeric else ():
        inputs[name] = keras.Input((numeric,), dtype="float32", name=name)
        deep.append(inputs[name])
    for feature in features:
        if feature.kind == "numeric":
            continue
        index = inputs[feature.name] = keras.Input((), dtype="int64", name=feature.name)
        size, name = rows[feature.name], feature.name
        weight = keras.layers.Embedding(size, 1, embeddings_initializer="zeros", name=wide_table(name))
        wide.append(weight(index))
        deep.append(keras.layers.Embedding(size, spec["embedding_dim"], name=deep_table(name))(index))
    hidden = keras.layers.Concatenate(name="deep_inputs")(deep) if len(deep) > 1 else deep[0]
    for i, units in enumerate(spec["hidden"]):
        hidden = keras.layers.Dense(units, name=f"dense_{i}")(hidden)
        if spec["batch_norm"]:
            hidden = keras.layers.BatchNormalization(name=f"batch_norm_{i}")(hidden)
        hidden = keras.layers.Activation("relu", name=f"relu_{i}")(hidden)
        if spec["dropout"]:
            hidden = keras.layers.Dropout(spec["dropout"], seed=i, name=f"dropout_{i}")(hidden)
    logit = keras.layers.Dense(1, name="deep_logit")(hidden)
    if wide:
        logit = keras.layers.Add(name="logit")([*wide, logit])
    return keras.Model(inputs, keras.layers.Activation("sigmoid", name="probability")(logit), name="model")


def wide_table(feature: str) -> str:
    """The name of the layer that holds a feature's weight a category."""
    return f"wide_{feature}"


def deep_table(feature: str) -> str:
    """The name of the layer that holds a feature's embedding."""
    return f"embedding_{feature}"
