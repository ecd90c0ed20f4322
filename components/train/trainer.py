"""`run_fn` of the stock TFX Trainer: warm start, fit, checkpoint, SavedModel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from components.train import influence, lesson
from components.train.carryover import checkpoint, warm_start
from components.train.carryover.warm_start import Started
from components.train.export import version
from components.train.fit.callbacks import Progress, values
from components.train.fit.place import variables
from components.train.material import Material, checkpoint_of, step_checkpoints
from components.train.objective import ewc

COST = "training.json"


def run_fn(fn_args: Any) -> None:
    """Trains one version.

    `fn_args.custom_config` holds `features`, `columns`, `label`, `model`, `training`, `warm_start`, `replay`,
    `regularization`, `poisoning` (the sections of the deployment), `smoke` (how many `examples` the smoke
    test asks), `new_spans` and `resume_dir`, the folder of step checkpoints. `fn_args.base_model`, where
    there is one, is the champion's SavedModel.

    Raises:
        RetrainError: no new examples, labels that are none, a champion whose weights do not fit, or a
            diverging loss.
    """
    if fn_args.custom_config["training"]["deterministic"]:
        tf.config.experimental.enable_op_determinism()
    material, checkpoints = Material(fn_args), step_checkpoints(fn_args)
    warm = material.config["warm_start"]
    started = warm_start.start(
        material.state, material.champion if warm["enabled"] else None, material.build, warm
    )
    held = lesson.importances(material, started)
    plan = lesson.plan(material, started)
    built = started.model, started.optimizer
    start = values(variables(built)) if influence.is_wanted(material) else []
    progress, resumed_at = lesson.fit(
        material,
        started,
        held,
        built,
        plan,
        early_stopping=lesson.early_stopping(material),
        checkpoints=checkpoints,
        callbacks=[
            keras.callbacks.TensorBoard(fn_args.model_run_dir, write_graph=False, update_freq="epoch")
        ],
    )

    folder = checkpoint_of(fn_args.serving_model_dir)
    save(material, started, held, folder)
    write(folder / warm_start.REPORT, started.report)
    write(folder / COST, cost(material, progress, resumed_at))
    version.write(material, started.model, fn_args.serving_model_dir)
    if influence.is_wanted(material):  # after all that is kept of the candidate: nothing here can change it
        write(folder / influence.INFLUENCE, influence.measure(material, started, held, plan, start))
    checkpoints.remove()


def save(material: Material, started: Started, held: lesson.Importances, folder: Path) -> None:
    """Writes what the next version starts from."""
    state = replace(material.state, step=int(started.optimizer.iterations))
    checkpoint.save(folder, started.model, started.optimizer, state)
    settings = material.config["regularization"]["ewc"]
    if settings["strength"]:
        own = lesson.fisher(material, started.model, material.batches(material.parser(started.model)))
        ewc.save(folder, ewc.consolidate(held, own, settings["decay"]))


def write(file: Path, content: Mapping[str, Any]) -> None:
    """A report as JSON."""
    file.write_text(json.dumps(content, indent=1))


def cost(material: Material, progress: Progress, resumed_at: int | None) -> dict[str, Any]:
    """What `training.json` says."""
    records = material.records
    return {
        "steps": progress.step,
        "epochs": round(progress.step / material.mix.steps, 3),
        "batch_size": material.config["training"]["batch_size"],
        "examples": material.mix.examples(records.new_rows, progress.step, material.full),
        "new_rows": records.new_rows,
        "replayed_rows": records.old_rows,
        "replay_ratio": material.ratio,
        "seconds": round(progress.seconds, 3),
        "stopped": progress.stopped,
        "resumed_at": resumed_at,
        "best_epoch": progress.best_epoch,
        "losses": {"first": progress.first_loss, "last": progress.last_loss},
    }
