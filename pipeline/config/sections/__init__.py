"""The parts of a deployment's file. What features, label and model are is defined in `components/`."""

from pipeline.config.sections.canary import Canary
from pipeline.config.sections.data import Data, FilePath, Preprocessing
from pipeline.config.sections.engine import Engine
from pipeline.config.sections.feedback import Feedback, PredictionLog
from pipeline.config.sections.judging import (
    DEFAULT_GATES,
    Drift,
    Edge,
    Gates,
    MetricGate,
    Poisoning,
    Smoke,
    Trigger,
)
from pipeline.config.sections.learning import Regularization, Replay, Shadow, Training, WarmStart
from pipeline.config.sections.server import Server
from pipeline.config.sections.serving import RegistryConfig, Serving

__all__ = [
    "DEFAULT_GATES",
    "Canary",
    "Data",
    "Drift",
    "Edge",
    "Engine",
    "Feedback",
    "FilePath",
    "Gates",
    "MetricGate",
    "Poisoning",
    "PredictionLog",
    "Preprocessing",
    "RegistryConfig",
    "Regularization",
    "Replay",
    "Server",
    "Serving",
    "Shadow",
    "Smoke",
    "Training",
    "Trigger",
    "WarmStart",
]
