"""Tensors with a value of their own: weights, and arrays a user brings."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from copy import deepcopy
from math import prod
from typing import Any

import numpy as np

from . import device as devices
from .errors import InvalidState, InvalidType, explain
from .graph import PRIMITIVES, Place, Tensor, Variable
from .graph.place import current_layer, is_tracing
from .specs import wider


class Leaf(Tensor):
    """A tensor whose value can be assigned: `assign`, or w -= 0.1 * g."""

    __slots__ = ()

    def __init__(self, variable: Variable) -> None:
        super().__init__(
            PRIMITIVES["variable"], (), {"variable": variable}, variable.shape, variable.dtype, Place(variable.owner)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.variable,)

    def __deepcopy__(self, memo: Any) -> Leaf:
        return type(self)(deepcopy(self.variable, memo))

    def used(self) -> Tensor:
        """In a model, the weight itself; in an expression, the value it has now, whatever is assigned to it later."""
        if is_tracing():
            return self
        variable = self.variable
        known = variable.snapshot() if variable.snapshot is not None else None
        if known is not None:
            return known  # type: ignore[no-any-return]
        snapshot = Variable(variable.name, variable.shape, variable.dtype, variable.role, owner=variable.owner)
        snapshot.source = snapshot.origin = variable
        leaf = Tensor(self.primitive, (), {"variable": snapshot}, self.shape, self.dtype, self.place)
        variable.snapshot = weakref.ref(leaf)
        return leaf

    @property
    def device(self) -> str:
        return str(self.variable.device or devices.CPU)

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy of its value, as a NumPy array."""
        return devices.read(self.variable)

    def assign(self, values: Any) -> None:
        """Give it new values of the same shape: numbers, or a tensor, which is computed here and remembered without lineage."""
        array = values.numpy() if isinstance(values, Tensor) else values
        devices.write(self.variable, devices.check_values(self.variable, array), self.variable.device or devices.CPU)

    def __iadd__(self, other: Any) -> Leaf:
        return self._becomes("+", lambda: self + other)

    def __isub__(self, other: Any) -> Leaf:
        return self._becomes("-", lambda: self - other)

    def __imul__(self, other: Any) -> Leaf:
        return self._becomes("*", lambda: self * other)

    def __itruediv__(self, other: Any) -> Leaf:
        return self._becomes("/", lambda: self / other)

    def _becomes(self, operator: str, computed: Callable[[], Tensor]) -> Leaf:
        """Itself, with a value computed from its own. What was computed from it before keeps the old one."""
        if is_tracing() or current_layer():
            raise InvalidState(
                explain(
                    f"{operator}= changes a tensor from outside, which a forward may not do.",
                    expected="what a forward gives, as something new",
                    received=f"{operator}= on {self!r}",
                    fix=f"y = x {operator} …; add_update(w, value) for what each training step does to a weight",
                )
            )
        value = computed()
        if wider(value.dtype, self.dtype) != self.dtype:
            raise InvalidType(
                explain(
                    f"a tensor of {self.dtype} cannot hold what {operator}= gives.",
                    expected=self.dtype,
                    received=value.dtype,
                    fix=f"t = t {operator} …, or a tensor of {value.dtype}",
                )
            )
        self.assign(value)
        return self

    def __repr__(self) -> str:
        return f"<Tensor {self.shape} {self.dtype} on {self.device}>"


class Parameter(Leaf):
    """A weight of a layer."""

    __slots__ = ()

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

    def __repr__(self) -> str:
        return f"<Parameter {self.variable.owner}/{self.name} {self.shape} {self.dtype}>"
