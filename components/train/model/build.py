"""A model and its optimizer, made of what a version's state says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from components import features as feature_specs
from components import models
from components.train.model.blueprint import Blueprint, make_inputs
from components.train.model.networks import build_model
from components.train.model.schedule import RunSchedule
from components.train.model.state import TrainingState

Built = tuple[keras.Model, keras.optimizers.Optimizer]


def build(
    state: TrainingState, own: Mapping[str, Any], training: Mapping[str, Any], precision: str = "float32"
) -> Built:
    """The model and the optimizer of a state, built and seeded.

    Args:
        state: what the model knows.
        own: what the user's `preprocessing_fn` gave, as TensorFlow's parsing specifications.
        training: the section.
        precision: of the computation, a Keras dtype policy; variables are float32.
    """
    # Keras numbers layers without a name, such as a user's, through the whole process: the champion's
    # and its successor's must have the same ones.
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(training["seed"])
    features = feature_specs.from_json(state.features)
    blueprint = Blueprint(
        inputs=make_inputs(features, own),
        features=features,
        rows={
            f.name: f.rows(len(state.vocabularies.get(f.name, []))) for f in feature_specs.indexed(features)
        },
        outputs=state.outputs,
    )
    keras.config.set_dtype_policy(precision)
    model = build_model(blueprint, models.from_json(state.model))
    keras.config.set_dtype_policy("float32")
    # A schedule from the start: with a plain number the optimizer would hold one variable more.
    optimizer = keras.optimizers.get(
        {
            "class_name": state.optimizer,
            "config": {
                "name": "optimizer",
                "clipnorm": training["clipnorm"],
                "learning_rate": RunSchedule(0.0, 0, 1, 0.0, 1.0),
            },
        }
    )
    optimizer.build(model.trainable_variables)
    return model, optimizer
