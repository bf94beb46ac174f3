"""Dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import device as devices
from ..graph import TENSOR, Tensor, Variable
from ..ops.random import below
from ..parameter import Leaf
from ..settings import number
from .context import current
from .layer import Layer

_TURNS = 2**20  # time steps that are told apart


class Dropout(Layer):
    """In training, each value is 0 with probability `rate`, and 1 / (1 − rate) times itself otherwise; x itself elsewhere.

    Srivastava et al. (2014). The mask depends on the seed, the layer, the step, the row and the time step: the same on every
    device.
    """

    takes = "one"

    def __init__(self, rate: float, **options: Any) -> None:
        super().__init__(**options)
        self.rate = number("rate", rate, 0.0, 1.0, open_high=True)
        self._calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        context = current()
        number_of_step = context.step() if context.step is not None else self._own_step(x)
        turn = context.carrier.turn() if context.carrier is not None else None
        if turn is not None:  # on a cycle, each time step draws anew
            number_of_step = number_of_step * _TURNS + turn
        use = context.draws.get(id(self), 0)  # a layer that stands in a net twice draws anew
        context.draws[id(self)] = use + 1
        key = self._stream.key(f"dropout/{use}" if use else "dropout")
        keep = below(self.rate, x.shape, number_of_step, key, context.row and context.row())
        return x * keep * (1.0 / (1.0 - self.rate))

    def _own_step(self, x: Tensor) -> Tensor:
        """Outside of a model each call is a step."""
        self._calls += 1
        number_of_call = self._calls
        variable = Variable("call", (), "int64", TENSOR, lambda: np.int64(number_of_call), owner=self.name)
        if not x.symbolic:
            variable.device = devices.device(x.device)
        return Leaf(variable)
