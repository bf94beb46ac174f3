"""Layers."""

from .activation import Activation
from .dense import Dense
from .layer import Layer

__all__ = ["Activation", "Dense", "Layer"]
