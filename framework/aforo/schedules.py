"""Learning rates that follow the step. A schedule is a callable of the step, a tensor in float64 that counts from 0; it is
part of the training step's graph. Any function of tensors will do: af.SGD(lambda step: 0.1 / (1.0 + 0.01 * step))."""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi
from typing import Any

from . import ops
from .errors import InvalidType, explain
from .graph import Tensor
from .settings import number, strict, whole

_ANY = float("inf")


class Schedule:
    """The base of schedules."""

    def __call__(self, step: Tensor) -> Tensor:
        raise InvalidType(
            explain(f"{type(self).__name__} has no rate.", fix="def __call__(self, step): return 0.1 / (1.0 + step)")
        )


class Constant(Schedule):
    """The same rate at every step."""

    @strict
    def __init__(self, rate: float) -> None:
        self.rate = number("rate", rate, 0.0, _ANY)

    def __call__(self, step: Tensor) -> Tensor:
        return step * 0.0 + self.rate


class StepDecay(Schedule):
    """rate · factor^⌊step / every⌋."""

    @strict
    def __init__(self, rate: float, every: int, factor: float = 0.1) -> None:
        self.rate = number("rate", rate, 0.0, _ANY)
        self.every = whole("every", every, 1)
        self.factor = number("factor", factor, 0.0, _ANY, open_low=True)

    def __call__(self, step: Tensor) -> Tensor:
        return self.rate * ops.exp(ops.floor(step / float(self.every)) * log(self.factor))


class ExponentialDecay(Schedule):
    """rate · factor^(step / every)."""

    @strict
    def __init__(self, rate: float, every: int, factor: float) -> None:
        self.rate = number("rate", rate, 0.0, _ANY)
        self.every = whole("every", every, 1)
        self.factor = number("factor", factor, 0.0, _ANY, open_low=True)

    def __call__(self, step: Tensor) -> Tensor:
        return self.rate * ops.exp(step * (log(self.factor) / self.every))


class CosineDecay(Schedule):
    """From rate to `end` along half a cosine, in `steps` steps; `end` from there on (Loshchilov and Hutter, 2017)."""

    @strict
    def __init__(self, rate: float, steps: int, end: float = 0.0) -> None:
        self.rate = number("rate", rate, 0.0, _ANY)
        self.steps = whole("steps", steps, 1)
        self.end = number("end", end, 0.0, _ANY)

    def __call__(self, step: Tensor) -> Tensor:
        part = ops.minimum(step / float(self.steps), 1.0)
        return self.end + (self.rate - self.end) * 0.5 * (1.0 + ops.cos(part * pi))


class WarmUp(Schedule):
    """From 0 to the rate of another schedule in a straight line, in `steps` steps; then that schedule, from its start."""

    @strict
    def __init__(self, then: Any, steps: int) -> None:
        self.then: Callable[[Tensor], Tensor] = then if callable(then) else Constant(then)
        self.steps = whole("steps", steps, 1)

    def __call__(self, step: Tensor) -> Tensor:
        part = ops.minimum((step + 1.0) / float(self.steps), 1.0)
        return part * self.then(ops.maximum(step - float(self.steps), 0.0))
