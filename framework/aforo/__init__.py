"""Aforo: a deep-learning framework whose memory plan is the program.

You write the forward; it derives the backward, plans every byte, and runs that plan on NumPy or CuPy.
"""

from . import callbacks, datasets, initializers, losses, memory, metrics, ops, optimizers
from .errors import Error
from .layers import Activation, Dense, Layer
from .model import Sequential
from .optimizers import SGD, Optimizer
from .random import set_seed

__version__ = "0.1.0"

__all__ = [
    "SGD", "Activation", "Dense", "Error", "Layer", "Optimizer", "Sequential", "callbacks", "datasets", "initializers",
    "losses", "memory", "metrics", "ops", "optimizers", "set_seed",
]  # fmt: skip
