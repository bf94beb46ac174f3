"""Normalization."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..errors import InvalidValue, explain
from ..graph import Tensor
from ..parameter import Parameter
from ..settings import number
from ..specs import Dim, written
from .layer import Layer


def _last_size(layer: Layer, shape: Any) -> int:
    if len(shape) < 2 or isinstance(shape[-1], Dim):
        raise InvalidValue(
            explain(
                f"layer {layer.name!r} takes vectors of a known size.",
                expected="(batch, …, d)",
                received=written(tuple(shape)),
                fix="af.Input([d])",
            )
        )
    return int(shape[-1])


def _check_size(layer: Layer, weight: Parameter | None, x: Tensor) -> None:
    """Vectors of another size than a weight has would be broadcast."""
    if weight is not None and (not x.shape or x.shape[-1] != weight.shape[0]):
        raise InvalidValue(
            explain(
                f"layer {layer.name!r} does not fit what it is given.",
                expected=f"vectors of {weight.shape[0]} (its {weight.name} is {written(weight.shape)})",
                received=f"shape {written(x.shape)}",
                fix=f"a new af.{type(layer).__name__}() takes its size from the data",
            )
        )


class BatchNormalization(Layer):
    """γ (x − mean) / √(variance + ε) + β, with mean and variance of each feature (the last axis) over the batch.

    Ioffe and Szegedy (2015). Training moves running averages by 1 − momentum towards the batch's statistics (the biased
    variance); predictions use the averages.
    """

    takes = "one"

    def __init__(self, momentum: float = 0.99, epsilon: float = 1e-3, center: bool = True, scale: bool = True, **options: Any):
        super().__init__(**options)
        self.momentum = number("momentum", momentum, 0.0, 1.0)
        self.epsilon = number("epsilon", epsilon, 0.0, 1.0)
        self.center = center
        self.scale = scale

    def build(self, input_shape: Any) -> None:
        size = [_last_size(self, input_shape)]
        self.gamma = self.add_weight(size, "ones", "gamma") if self.scale else None
        self.beta = self.add_weight(size, "zeros", "beta") if self.center else None
        self.moving_mean = self.add_weight(size, "zeros", "moving_mean", trainable=False)
        self.moving_variance = self.add_weight(size, "ones", "moving_variance", trainable=False)

    def forward(self, x: Tensor) -> Tensor:
        _check_size(self, self.moving_mean, x)
        if self.training and self.trainable:
            axes = range(x.ndim - 1)
            mean = ops.mean(x, axes)
            centered = x - mean
            variance = ops.mean(ops.square(centered), axes)
            for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
                self.add_update(moving, self.pending(moving) * self.momentum + ops.stop_gradient(now) * (1.0 - self.momentum))
        else:
            centered, variance = x - self.moving_mean, self.moving_variance
        factor = ops.reciprocal(ops.sqrt(variance + self.epsilon))
        y = centered * (factor if self.gamma is None else factor * self.gamma)
        return y if self.beta is None else y + self.beta


class LayerNormalization(Layer):
    """γ (x − mean) / √(variance + ε) + β, with mean and variance of each sample's last axis (Ba et al., 2016)."""

    takes = "one"

    def __init__(self, epsilon: float = 1e-3, center: bool = True, scale: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.epsilon = number("epsilon", epsilon, 0.0, 1.0)
        self.center = center
        self.scale = scale

    def build(self, input_shape: Any) -> None:
        size = [_last_size(self, input_shape)]
        self.gamma = self.add_weight(size, "ones", "gamma") if self.scale else None
        self.beta = self.add_weight(size, "zeros", "beta") if self.center else None

    def forward(self, x: Tensor) -> Tensor:
        _check_size(self, self.beta if self.gamma is None else self.gamma, x)
        centered = x - ops.mean(x, -1, keepdims=True)
        variance = ops.mean(ops.square(centered), -1, keepdims=True)
        y = centered * ops.reciprocal(ops.sqrt(variance + self.epsilon))
        y = y if self.gamma is None else y * self.gamma
        return y if self.beta is None else y + self.beta
