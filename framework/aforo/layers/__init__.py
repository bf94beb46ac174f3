"""Layers."""

from .activation import Activation
from .dense import Dense
from .dropout import Dropout
from .embedding import Embedding
from .layer import Layer
from .normalization import BatchNormalization, LayerNormalization
from .recurrent import GRU, LSTM, SimpleRNN
from .shaping import Add, Concatenate, Flatten, Lambda, Multiply, Reshape

__all__ = [
    "GRU", "LSTM", "Activation", "Add", "BatchNormalization", "Concatenate", "Dense", "Dropout", "Embedding", "Flatten",
    "Lambda", "Layer", "LayerNormalization", "Multiply", "Reshape", "SimpleRNN",
]  # fmt: skip
