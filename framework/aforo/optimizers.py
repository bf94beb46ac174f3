"""Optimizers: how a weight follows its gradient. An optimizer is `init` and `apply` for one weight, both in the graph."""

from __future__ import annotations

from functools import partial
from math import isfinite
from typing import Any

import numpy as np

from . import device
from .errors import InvalidType, InvalidValue, explain, unknown_name
from .graph import STATE, Tensor, Variable, leaf

Slots = dict[str, Tensor]


def number(name: str, value: Any, low: float, high: float, *, open_low: bool = False) -> float:
    """A hyperparameter, checked."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InvalidType(explain(f"{name} must be a number.", received=repr(value)))
    found = float(value)
    if not isfinite(found) or not low <= found <= high or (open_low and found == low):
        bounds = f"{'more than' if open_low else 'at least'} {low:g}" + (f", less than {high:g}" if isfinite(high) else "")
        raise InvalidValue(explain(f"{name} is out of range.", expected=bounds, received=found))
    return found


class Optimizer:
    """The base of optimizers.

    A subclass gives `init(weight)`, the names and starting values of its slots, and `apply(weight, gradient, slots, rate)`,
    the weight and the slots after one step. `rate` is the learning rate, a tensor of shape ().
    """

    proportional = False
    """Whether a step is −rate · gradient and nothing else. Then the rate is folded into the loss's gradient: one pass less."""

    def __init__(self, learning_rate: float = 0.01) -> None:
        self._rate = number("learning_rate", learning_rate, 0.0, float("inf"))
        self._variables: dict[str, Variable] = {}

    @property
    def learning_rate(self) -> float:
        return self._rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._rate = number("learning_rate", value, 0.0, float("inf"))
        for variable in self._variables.values():
            variable.initial = partial(float, self._rate)
            if variable.storage is not None:
                device.write(variable, np.asarray(self._rate, variable.dtype), variable.device)

    def rate(self, dtype: str) -> Tensor:
        """The learning rate as a value of the graph, so that it can change without a new program."""
        if dtype not in self._variables:
            self._variables[dtype] = Variable("learning_rate", (), dtype, STATE, owner="optimizer")
            self._variables[dtype].initial = partial(float, self._rate)
        return leaf(self._variables[dtype])

    @property
    def variables(self) -> list[Variable]:
        return list(self._variables.values())

    def init(self, weight: Tensor) -> dict[str, float]:
        """Slots for one weight: name -> starting value. Each has the weight's shape."""
        return {}

    def apply(self, weight: Tensor, gradient: Tensor, slots: Slots, rate: Tensor) -> tuple[Tensor, Slots]:
        raise NotImplementedError


class SGD(Optimizer):
    """Gradient descent: w ← w − lr·g.

    With momentum μ: v ← μv + g, w ← w − lr·v; with Nesterov momentum w ← w − lr·(g + μv) (Sutskever et al., 2013).
    weight_decay λ adds λw to the gradient.
    """

    def __init__(
        self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        super().__init__(learning_rate)
        self.momentum = number("momentum", momentum, 0.0, 1.0)
        self.nesterov = bool(nesterov)
        self.weight_decay = number("weight_decay", weight_decay, 0.0, float("inf"))
        if nesterov and not momentum:
            raise InvalidValue(
                explain(
                    "Nesterov momentum needs a momentum.",
                    received="momentum=0",
                    fix="af.SGD(momentum=0.9, nesterov=True)",
                )
            )
        self.proportional = not self.momentum and not self.weight_decay

    def init(self, weight: Tensor) -> dict[str, float]:
        return {"velocity": 0.0} if self.momentum else {}

    def apply(self, weight: Tensor, gradient: Tensor, slots: Slots, rate: Tensor) -> tuple[Tensor, Slots]:
        g = gradient + weight * self.weight_decay if self.weight_decay else gradient
        if not self.momentum:
            return weight - g * rate, {}
        v = slots["velocity"] * self.momentum + g
        step = v * self.momentum + g if self.nesterov else v
        return weight - step * rate, {"velocity": v}


_KNOWN: dict[str, type[Optimizer]] = {"sgd": SGD}


def get(identifier: str | Optimizer) -> Optimizer:
    """A new optimizer of that name with its usual settings, or the optimizer itself."""
    if isinstance(identifier, str):
        if identifier.lower() not in _KNOWN:
            raise unknown_name("optimizer", identifier, _KNOWN)
        return _KNOWN[identifier.lower()]()
    if isinstance(identifier, type) and issubclass(identifier, Optimizer):
        raise InvalidType(explain("this is an optimizer's class, not an optimizer.", fix=f"af.{identifier.__name__}()"))
    if not isinstance(identifier, Optimizer):
        raise InvalidType(
            explain("this is no optimizer.", expected="a name such as 'sgd', or af.SGD(…)", received=repr(identifier))
        )
    return identifier
