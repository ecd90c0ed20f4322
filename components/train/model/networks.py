"""The built-in models, in Keras. Each is a function of a blueprint and its settings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from components.custom import load_module
from components.errors import RetrainError
from components.features import Feature
from components.models import Cnn, Custom, Linear, Mlp, TwoTower, WideAndDeep
from components.train.model.blueprint import Blueprint, Key, embedding_keys, number_keys


def build_model(blueprint: Blueprint, settings: Any) -> keras.Model:
    """The model that the settings name.

    Layers are named after what they are for, so that two models of the same settings have the same
    variable paths whatever their vocabularies are; with a `-`, which no feature's name has.

    Returns:
        An uncompiled model: a dict of the blueprint's inputs, or some of them, in; float32 [batch,
        outputs] out: logits, or of a regression the z-score.

    Raises:
        RetrainError: the user's own model is not of that kind.
    """
    if isinstance(settings, Custom):
        return _custom(blueprint, settings)
    if isinstance(settings, TwoTower):
        return two_tower(blueprint, settings)
    output = _MAKERS[type(settings)](blueprint, settings)
    return keras.Model(dict(blueprint.inputs), output, name="model")


def linear(blueprint: Blueprint, settings: Linear) -> Any:
    """One weight a number and a category."""
    numbers = [*blueprint.numbers(), *blueprint.flat()]
    parts = blueprint.weights()
    if numbers:
        parts.append(
            keras.layers.Dense(blueprint.outputs, name="linear-numbers")(_together(numbers, "all-numbers"))
        )
    return _sum(parts)


def mlp(blueprint: Blueprint, settings: Mlp) -> Any:
    """Numbers, tensors flattened, and embeddings through dense layers."""
    inputs = [*blueprint.numbers(), *blueprint.flat(), *blueprint.embeddings(settings.embedding_dim)]
    return _head(_dense(_together(inputs, "all-inputs"), settings), blueprint.outputs)


def wide_and_deep(blueprint: Blueprint, settings: WideAndDeep) -> Any:
    """`mlp` with a weight a category beside it (Cheng et al., 2016, arXiv:1606.07792)."""
    return _sum([*blueprint.weights(), mlp(blueprint, settings)])  # type: ignore[arg-type]


def cnn(blueprint: Blueprint, settings: Cnn) -> Any:
    """Convolutions over the one tensor, the other features beside what comes out of them."""
    (image,) = blueprint.tensors()
    for i, filters in enumerate(settings.filters):
        image = keras.layers.Conv2D(filters, settings.kernel, padding="same", name=f"conv-{i}")(image)
        if settings.batch_norm:
            image = keras.layers.BatchNormalization(name=f"conv-norm-{i}")(image)
        image = keras.layers.Activation("relu", name=f"conv-relu-{i}")(image)
        if i + 1 < len(settings.filters) and min(image.shape[1:3]) > 1:
            image = keras.layers.MaxPooling2D(2, name=f"pool-{i}")(image)
    others = [*blueprint.numbers(), *blueprint.embeddings(settings.embedding_dim)]
    flat = keras.layers.Flatten(name="image-flat")(image)
    return _head(_dense(_together([*others, flat], "all-inputs"), settings), blueprint.outputs)


def first_layers(features: Sequence[Feature], settings: Any) -> dict[str, list[Key]]:
    """What the rows of each kernel are that takes the features: layer -> keys, in their order.

    The rows of a `cnn`'s flattened image are behind these, and have none. Of the user's own model nothing
    is known.
    """
    if isinstance(settings, Custom):
        return {}
    if isinstance(settings, Linear):
        return {"linear-numbers": number_keys(features)}
    sides = {"": [feature.name for feature in features]}
    if isinstance(settings, TwoTower):
        sides = {"user-": settings.user, "item-": settings.item}
    layers = {}
    for prefix, names in sides.items():
        seen = [feature for feature in features if feature.name in names]
        numbers = number_keys(seen, tensors=not isinstance(settings, Cnn))
        layers[f"{prefix}dense-0"] = numbers + embedding_keys(seen, settings.embedding_dim)
    return layers


_MAKERS: Mapping[Any, Callable[[Blueprint, Any], Any]] = {
    WideAndDeep: wide_and_deep,
    Mlp: mlp,
    Linear: linear,
    Cnn: cnn,
}


def two_tower(blueprint: Blueprint, settings: TwoTower) -> keras.Model:
    """Two towers and their dot product (Yi et al., 2019, doi:10.1145/3298689.3346996)."""
    sides = {"user": settings.user, "item": settings.item}
    parts = {side: blueprint.only(names) for side, names in sides.items()}
    towers = {side: _tower(part, settings, side) for side, (part, _) in parts.items()}
    user, item = (towers[side](select(blueprint.inputs)) for side, (_, select) in parts.items())
    similarity = keras.layers.Dot(axes=1, name="pair-similarity")([user, item])
    if settings.negatives == "in_batch":  # labels of single rows then train the score's scale alone
        similarity = ops.stop_gradient(similarity)
    score = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(5.0), name="pair-score")
    model = TwoTowerModel(dict(blueprint.inputs), score(similarity), name="model")
    model.selections = {side: select for side, (_, select) in parts.items()}
    model.temperature = settings.temperature if settings.negatives == "in_batch" else None
    return model


class TwoTowerModel(keras.Model):
    """A two-tower model; with in-batch negatives its loss is that of finding the item of each user.

    Of a row with label 1, every other item of the batch is a negative: softmax cross-entropy over the
    batch's items by similarity / temperature. An item that is in the batch twice is no negative of
    itself: it has the same inputs. The loss over single rows trains the score's scale and bias beside it.

    Attributes:
        selections: side -> what selects its tower's inputs from the model's.
        temperature: of the softmax; None: the negatives are the rows with label 0.
    """

    selections: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]]
    temperature: float | None = None

    def embed(self, side: str, inputs: Mapping[str, Any], training: bool = False) -> Any:
        """Unit vectors [batch, dim] that the tower of a side (`user`, `item`) makes of the model's inputs."""
        return self.get_layer(f"{side}-tower")(self.selections[side](inputs), training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The loss of one batch, as Keras asks for it."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if self.temperature is None:
            return loss
        user, item = (self.embed(side, x, training) for side in ("user", "item"))
        # In float32, whatever the towers compute in: this is a loss.
        logits = ops.cast(ops.matmul(user, ops.transpose(item)), "float32") / self.temperature
        itself = ops.eye(ops.shape(logits)[0], dtype="bool")
        again = ops.logical_and(_equal_rows(self.selections["item"](x)), ops.logical_not(itself))
        likelihood = ops.log_softmax(ops.where(again, -1e9, logits))
        missed = -ops.sum(ops.where(itself, likelihood, 0.0), axis=1)
        weight = ops.reshape(ops.cast(y, missed.dtype), (-1,))
        if sample_weight is not None:
            weight = weight * ops.reshape(ops.cast(sample_weight, missed.dtype), (-1,))
        found = ops.sum(missed * weight) / ops.maximum(ops.sum(weight), 1.0)
        # Of a batch divided among replicas, the losses of its parts are added up.
        return loss + found / tf.distribute.get_strategy().num_replicas_in_sync


def _equal_rows(inputs: Mapping[str, Any]) -> Any:
    """Which pairs of rows are equal in all inputs: bool [batch, batch]."""
    flat = [ops.reshape(value, (ops.shape(value)[0], -1)) for value in inputs.values()]
    equal = [ops.all(ops.equal(rows[:, None], rows[None]), axis=2) for rows in flat]
    return functools.reduce(ops.logical_and, equal)


def _tower(blueprint: Blueprint, settings: TwoTower, name: str) -> keras.Model:
    inputs = [*blueprint.numbers(), *blueprint.embeddings(settings.embedding_dim)]
    hidden = _dense(_together(inputs, f"{name}-inputs"), settings, f"{name}-")
    output = keras.layers.Dense(settings.output_dim, name=f"{name}-output")(hidden)
    return keras.Model(
        dict(blueprint.inputs),
        keras.layers.UnitNormalization(name=f"{name}-unit")(output),
        name=f"{name}-tower",
    )


def _custom(blueprint: Blueprint, settings: Custom) -> keras.Model:
    what = f"model.module: {settings.module}.build_model"
    model = load_module(settings.module).build_model(blueprint, dict(settings.params))  # type: ignore[union-attr]
    if not isinstance(model, keras.Model):
        raise RetrainError(f"{what} gave {type(model).__name__}, expected a keras.Model")
    inputs = getattr(model, "input", None)  # a subclassed model has none
    if not isinstance(inputs, dict) or any(
        blueprint.inputs.get(name) is not tensor for name, tensor in inputs.items()
    ):
        raise RetrainError(
            f"{what} gave a model of other inputs than blueprint.inputs; expected "
            "keras.Model({name: blueprint.inputs[name], ...}, output)"
        )
    shape = tuple(getattr(model.output, "shape", ()))
    if shape != (None, blueprint.outputs):
        raise RetrainError(
            f"{what} gave a model whose output has shape {shape}, expected (None, {blueprint.outputs}): one "
            "logit, or one a class, or of a regression one number, without an activation behind it"
        )
    return model


def _dense(hidden: Any, settings: Any, prefix: str = "") -> Any:
    for i, units in enumerate(settings.hidden):
        hidden = keras.layers.Dense(units, name=f"{prefix}dense-{i}")(hidden)
        if settings.batch_norm:
            hidden = keras.layers.BatchNormalization(name=f"{prefix}norm-{i}")(hidden)
        hidden = keras.layers.Activation("relu", name=f"{prefix}relu-{i}")(hidden)
        if settings.dropout:
            hidden = keras.layers.Dropout(settings.dropout, seed=i, name=f"{prefix}dropout-{i}")(hidden)
    return hidden


def _head(hidden: Any, outputs: int) -> Any:
    return keras.layers.Dense(outputs, name="to-output")(hidden)


def _together(parts: list[Any], name: str) -> Any:
    return keras.layers.Concatenate(name=name)(parts) if len(parts) > 1 else parts[0]


def _sum(parts: list[Any]) -> Any:
    return keras.layers.Add(name="sum-of-parts")(parts) if len(parts) > 1 else parts[0]
