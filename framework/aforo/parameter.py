"""Weights: tensors whose value outlives a program, and can be read and assigned."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from . import device
from .graph import PRIMITIVES, Place, Tensor, Variable


class Parameter(Tensor):
    """A weight of a layer."""

    __slots__ = ()

    def __init__(self, variable: Variable) -> None:
        super().__init__(
            PRIMITIVES["variable"], (), {"variable": variable}, variable.shape, variable.dtype, Place(variable.owner)
        )

    @property
    def name(self) -> str:
        return self.variable.name

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return prod(map(int, self.shape))

    @property
    def trainable(self) -> bool:
        return self.variable.trainable

    @property
    def device(self) -> str:
        return str(self.variable.device or device.CPU)

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy of its value, as a NumPy array."""
        return device.read(self.variable)

    def assign(self, values: Any) -> None:
        """Give it new values of the same shape."""
        device.write(self.variable, device.check_values(self.variable, values), self.variable.device or device.CPU)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:  # type: ignore[override]
        return np.asarray(self.numpy(), dtype)

    def __repr__(self) -> str:
        return f"<Parameter {self.variable.owner}/{self.name} {self.shape} {self.dtype}>"
