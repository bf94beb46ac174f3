"""Optimizers: how a weight follows its gradient. An optimizer is `init` and `apply` for one weight, both in the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from . import device, ops
from .errors import InvalidType, InvalidValue, explain, unknown_name
from .graph import STATE, Tensor, Variable, leaf
from .ops.operands import as_tensor
from .schedules import Schedule
from .settings import number, refuse_options

Slots = dict[str, Tensor]
_ANY = float("inf")


class Optimizer:
    """The base of optimizers.

    A subclass gives `init(weight)`, the names and starting values of its slots, and `apply(weight, gradient, slots, rate,
    step)`, the weight and the slots after one step. `rate` is the learning rate and `step` the number of the step, from 1, in
    float64; both are tensors of shape ().

    learning_rate: a number, or a schedule: a callable of the step. clipvalue: gradients are cut to ±clipvalue. clipnorm: the
    gradient of each weight is scaled down to this Euclidean norm. global_clipnorm: all gradients together are.
    """

    proportional = False
    """Whether a step is −rate · gradient and nothing else. Then the rate is folded into the loss's gradient: one pass less."""

    def __init__(
        self,
        learning_rate: float | Schedule | Callable[[Tensor], Tensor] = 0.01,
        *,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        **unknown: Any,
    ) -> None:
        refuse_options(self, unknown)
        self._rate = self._checked(learning_rate)
        # The rate of each model that uses the optimizer, by the model's counter of steps: models may live on different devices.
        self._variables: WeakKeyDictionary[Variable, Variable] = WeakKeyDictionary()
        limits = {"clipvalue": clipvalue, "clipnorm": clipnorm, "global_clipnorm": global_clipnorm}
        given = {name: number(name, value, 0.0, _ANY, open_low=True) for name, value in limits.items() if value is not None}
        if len(given) > 1:
            raise InvalidValue(explain("an optimizer clips in one way.", received=" and ".join(given), fix="leave one of them"))
        self.clip = next(iter(given.items()), None)

    @staticmethod
    def _checked(rate: Any) -> Any:
        return rate if callable(rate) else number("learning_rate", rate, 0.0, _ANY)

    @property
    def learning_rate(self) -> Any:
        return self._rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        if callable(self._rate) or callable(value):
            raise InvalidValue(
                explain("a schedule is part of the training step.", fix="model.compile(…, optimizer=af.SGD(schedule)) anew")
            )
        self._rate = self._checked(value)
        for variable in self._variables.values():
            variable.initial = partial(float, self._rate)
            if variable.storage is not None:
                device.write(variable, np.asarray(self._rate, variable.dtype), variable.device)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_variables"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._variables = WeakKeyDictionary()

    def twin(self) -> Optimizer:
        """An optimizer like this one, for another model: from then on, each has a learning rate of its own."""
        return copy(self)

    def rate(self, dtype: str, step: Tensor, counter: Variable) -> Tensor:
        """The learning rate as a value of the graph, so that it can change without a new program."""
        if callable(self._rate):
            value = self._rate(step - 1.0)
            return ops.cast(value if isinstance(value, Tensor) else as_tensor(value, "float64"), dtype)
        if counter not in self._variables:
            self._variables[counter] = Variable("learning_rate", (), dtype, STATE, owner="optimizer")
            self._variables[counter].initial = partial(float, self._rate)
        return leaf(self._variables[counter])

    def variables(self, counter: Variable) -> list[Variable]:
        """What a model with this counter of steps holds of the optimizer itself."""
        return [self._variables[counter]] if counter in self._variables else []

    def clipped(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The gradients within the limits."""
        if self.clip is None:
            return list(gradients)
        kind, limit = self.clip
        if kind == "clipvalue":
            return [ops.maximum(ops.minimum(g, limit), -limit) for g in gradients]
        squares = [ops.sum(ops.square(g)) for g in gradients]
        if kind == "global_clipnorm":
            total = squares[0]
            for square in squares[1:]:
                total = total + square
            squares = [total] * len(squares)
        return [g * (limit / ops.maximum(ops.sqrt(square), limit)) for g, square in zip(gradients, squares, strict=True)]

    def init(self, weight: Tensor) -> dict[str, float]:
        """Slots for one weight: name -> starting value. Each has the weight's shape."""
        return {}

    def apply(self, weight: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, step: Tensor) -> tuple[Tensor, Slots]:
        raise InvalidType(
            explain(f"{type(self).__name__} has no apply.", fix="def apply(self, weight, gradient, slots, rate, step): …")
        )


class SGD(Optimizer):
    """Gradient descent: w ← w − lr·g.

    With momentum μ: v ← μv + g, w ← w − lr·v; with Nesterov momentum w ← w − lr·(g + μv) (Sutskever et al., 2013).
    weight_decay λ adds λw to the gradient.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        **clipping: Any,
    ) -> None:
        super().__init__(learning_rate, **clipping)
        self.momentum = number("momentum", momentum, 0.0, 1.0)
        self.nesterov = bool(nesterov)
        self.weight_decay = number("weight_decay", weight_decay, 0.0, _ANY)
        if nesterov and not momentum:
            raise InvalidValue(
                explain("Nesterov momentum needs a momentum.", received="momentum=0", fix="af.SGD(momentum=0.9, nesterov=True)")
            )
        self.proportional = not self.momentum and not self.weight_decay and self.clip is None

    def init(self, weight: Tensor) -> dict[str, float]:
        return {"velocity": 0.0} if self.momentum else {}

    def apply(self, weight: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, step: Tensor) -> tuple[Tensor, Slots]:
        g = gradient + weight * self.weight_decay if self.weight_decay else gradient
        if not self.momentum:
            return weight - g * rate, {}
        v = slots["velocity"] * self.momentum + g
        move = v * self.momentum + g if self.nesterov else v
        return weight - move * rate, {"velocity": v}


class Adam(Optimizer):
    """Kingma and Ba (2015): m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², w ← w − lr · m̂ / (√v̂ + ε), with m̂ = m / (1 − β₁ᵗ),
    v̂ = v / (1 − β₂ᵗ)."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **clipping: Any,
    ) -> None:
        super().__init__(learning_rate, **clipping)
        self.beta_1 = number("beta_1", beta_1, 0.0, 1.0, open_high=True)
        self.beta_2 = number("beta_2", beta_2, 0.0, 1.0, open_high=True)
        self.epsilon = number("epsilon", epsilon, 0.0, _ANY)

    def init(self, weight: Tensor) -> dict[str, float]:
        return {"m": 0.0, "v": 0.0}

    def apply(self, weight: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, step: Tensor) -> tuple[Tensor, Slots]:
        m = slots["m"] * self.beta_1 + gradient * (1.0 - self.beta_1)
        v = slots["v"] * self.beta_2 + ops.square(gradient) * (1.0 - self.beta_2)
        short, long = (1.0 - _constant_power(beta, step) for beta in (self.beta_1, self.beta_2))
        scale = ops.cast(ops.cast(rate, "float64") / short, weight.dtype)
        root = ops.sqrt(v) * ops.cast(ops.reciprocal(ops.sqrt(long)), weight.dtype) + self.epsilon
        return weight - m / root * scale, {"m": m, "v": v}


def _constant_power(base: float, exponent: Tensor) -> Tensor:
    """base to a varying power; base may be 0."""
    return ops.exp(exponent * float(np.log(base))) if base else exponent * 0.0


class AdamW(Adam):
    """Adam with decoupled weight decay: w ← w − lr·λw beside Adam's step (Loshchilov and Hutter, 2019)."""

    def __init__(self, learning_rate: Any = 0.001, weight_decay: float = 0.004, **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self.weight_decay = number("weight_decay", weight_decay, 0.0, _ANY)

    def apply(self, weight: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, step: Tensor) -> tuple[Tensor, Slots]:
        return super().apply(weight - weight * (rate * self.weight_decay), gradient, slots, rate, step)


class RMSprop(Optimizer):
    """v ← ρv + (1 − ρ)g², w ← w − lr · g / (√v + ε) (Tieleman and Hinton, 2012). With momentum μ the step is accumulated:
    u ← μu + g / (√v + ε), w ← w − lr·u."""

    def __init__(
        self, learning_rate: Any = 0.001, rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7, **clipping: Any
    ) -> None:
        super().__init__(learning_rate, **clipping)
        self.rho = number("rho", rho, 0.0, 1.0)
        self.momentum = number("momentum", momentum, 0.0, 1.0)
        self.epsilon = number("epsilon", epsilon, 0.0, _ANY)

    def init(self, weight: Tensor) -> dict[str, float]:
        return {"v": 0.0, "u": 0.0} if self.momentum else {"v": 0.0}

    def apply(self, weight: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, step: Tensor) -> tuple[Tensor, Slots]:
        v = slots["v"] * self.rho + ops.square(gradient) * (1.0 - self.rho)
        move = gradient / (ops.sqrt(v) + self.epsilon)
        if not self.momentum:
            return weight - move * rate, {"v": v}
        u = slots["u"] * self.momentum + move
        return weight - u * rate, {"v": v, "u": u}


class Adagrad(Optimizer):
    """a ← a + g², w ← w − lr · g / (√a + ε) (Duchi et al., 2011)."""

    def __init__(
        self, learning_rate: Any = 0.01, initial_accumulator_value: float = 0.1, epsilon: float = 1e-7, **clipping: Any
    ) -> None:
        super().__init__(learning_rate, **clipping)
        self.initial_accumulator_value = number("initial_accumulator_value", initial_accumulator_value, 0.0, _ANY)
        self.epsilon = number("epsilon", epsilon, 0.0, _ANY)

    def init(self, weight: Tensor) -> dict[str, float]:
        return {"a": self.initial_accumulator_value}

    def apply(self, weight: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, step: Tensor) -> tuple[Tensor, Slots]:
        a = slots["a"] + ops.square(gradient)
        return weight - gradient / (ops.sqrt(a) + self.epsilon) * rate, {"a": a}


_KNOWN: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "adagrad": Adagrad}


def get(identifier: str | Optimizer) -> Optimizer:
    """A new optimizer of that name with its usual settings, or the optimizer itself."""
    if isinstance(identifier, str):
        if identifier.lower() not in _KNOWN:
            raise unknown_name("optimizer", identifier, _KNOWN, fix='model.compile(loss="mse", optimizer="sgd")')
        return _KNOWN[identifier.lower()]()
    if isinstance(identifier, type) and issubclass(identifier, Optimizer):
        raise InvalidType(explain("this is an optimizer's class, not an optimizer.", fix=f"af.{identifier.__name__}()"))
    if not isinstance(identifier, Optimizer):
        raise InvalidType(
            explain(
                "this is no optimizer.",
                expected="a name such as 'sgd', or af.SGD(…)",
                received=repr(identifier),
                fix='model.compile(loss="mse", optimizer="sgd")',
            )
        )
    return identifier
