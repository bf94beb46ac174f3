"""Aforo: a deep-learning framework whose memory plan is the program.

You write the forward; it derives the backward, plans every byte, and runs that plan on NumPy or CuPy.
"""

from typing import TYPE_CHECKING, Any

from . import callbacks, initializers, losses, metrics, ops, optimizers, regularizers, schedules
from .device import devices
from .errors import Error
from .evaluate import from_dlpack, grad, tensor
from .graph import Tensor
from .layers import (
    GRU,
    LSTM,
    Activation,
    Add,
    BatchNormalization,
    Concatenate,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Lambda,
    Layer,
    LayerNormalization,
    Multiply,
    Reshape,
    SimpleRNN,
)
from .model import Model
from .optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from .random import set_seed
from .recurrence import Feedback
from .sequential import Sequential
from .topology import Input

if TYPE_CHECKING:
    from . import datasets, memory
    from .io import load_model

__version__ = "0.1.0"

__all__ = [
    "GRU", "LSTM", "SGD", "Activation", "Adagrad", "Adam", "AdamW", "Add", "BatchNormalization", "Concatenate", "Dense",
    "Dropout", "Embedding", "Error", "Feedback", "Flatten", "Input", "Lambda", "Layer", "LayerNormalization", "Model",
    "Multiply", "Optimizer", "RMSprop", "Reshape", "Sequential", "SimpleRNN", "Tensor", "callbacks", "datasets", "devices",
    "from_dlpack", "grad", "initializers", "load_model", "losses", "memory", "metrics", "ops", "optimizers", "regularizers",
    "schedules", "set_seed", "tensor",
]  # fmt: skip

_LATER = ("datasets", "memory")  # loaded at their first use, to keep the import short


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    if name == "load_model":
        from .io import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
