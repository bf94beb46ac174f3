"""The linear regression every network is stacked from."""

from __future__ import annotations

from typing import Any

from .. import initializers, regularizers
from ..errors import InvalidType, InvalidValue, explain
from ..graph import Tensor
from ..settings import flag
from ..specs import written
from .activation import Function, activated, get
from .layer import Layer


class Dense(Layer):
    """activation(x W + B), with kernel W of shape (d_in, units) and bias B of shape (units,).

    Input (batch, …, d_in), output (batch, …, units). d_in comes from the data, or from `input_shape` in the first layer.
    """

    takes = "one"

    def __init__(
        self,
        units: int,
        activation: str | Function | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if isinstance(units, bool) or not hasattr(units, "__index__"):
            raise InvalidType(explain("units, the layer's width, is a whole number.", received=repr(units), fix="af.Dense(4)"))
        if units < 1:
            raise InvalidValue(explain("units, the layer's width, must be 1 or more.", received=units, fix="af.Dense(4)"))
        self.units = units.__index__()
        self.activation = get(activation)
        self.use_bias = flag("use_bias", use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)

    def build(self, input_shape: Any) -> None:
        if len(input_shape) < 2:
            raise InvalidValue(
                explain(
                    f"layer {self.name!r} takes a batch of vectors.",
                    expected="shape (batch, d_in)",
                    received=f"shape {written(input_shape)}",
                    fix="x[None] adds a batch axis to one sample",
                )
            )
        self.kernel = self.add_weight([input_shape[-1], self.units], self.kernel_initializer, "kernel")
        self.bias = self.add_weight([self.units], self.bias_initializer, "bias") if self.use_bias else None

    def forward(self, x: Tensor) -> Tensor:
        if not x.shape or x.shape[-1] != self.kernel.shape[0]:
            raise InvalidValue(
                explain(
                    f"layer {self.name!r} does not fit what it is given.",
                    expected=f"vectors of {self.kernel.shape[0]} (its kernel is {written(self.kernel.shape)})",
                    received=f"shape {written(x.shape)}",
                    fix=f"a new af.Dense({self.units}) takes its size from the data",
                )
            )
        y = x @ self.kernel
        if self.bias is not None:
            y = y + self.bias
        for weight, penalty in ((self.kernel, self.kernel_regularizer), (self.bias, self.bias_regularizer)):
            if penalty is not None and weight is not None:
                self.add_loss(penalty(weight))
        return activated(self.activation, y, self)
