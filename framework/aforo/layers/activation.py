"""Activations: any differentiable function between layers. They have no weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import ops
from ..errors import InvalidType, explain, unknown_name
from ..graph import Tensor
from .layer import Layer

Function = Callable[[Tensor], Tensor]


def linear(x: Tensor) -> Tensor:
    """x itself."""
    return x.used()


KNOWN: dict[str, Function] = {
    "linear": linear,
    "none": linear,
    "relu": ops.relu,
    "sigmoid": ops.sigmoid,
    "tanh": ops.tanh,
    "softmax": ops.softmax,
    "log_softmax": ops.log_softmax,
    "sin": ops.sin,
    "cos": ops.cos,
    "tan": ops.tan,
    "exp": ops.exp,
    "square": ops.square,
    "softplus": ops.softplus,
    "leaky_relu": ops.leaky_relu,
    "elu": ops.elu,
    "gelu": ops.gelu,
    "silu": ops.silu,
    "swish": ops.silu,
}


def get(identifier: str | Function | None) -> Function:
    """The activation of that name, or the callable itself."""
    if identifier is None:
        return linear
    if isinstance(identifier, str):
        if identifier.lower() not in KNOWN:
            raise unknown_name(
                "activation",
                identifier,
                KNOWN,
                fix="any callable will do, e.g. activation=lambda z: af.ops.sin(z) * z",
            )
        return KNOWN[identifier.lower()]
    if isinstance(identifier, type):
        raise InvalidType(
            explain(
                "this activation is a class, not a function.",
                expected="a name, a callable tensor -> tensor, or None",
                received=identifier.__name__,
                fix='activation="relu", or an instance of the class',
            )
        )
    if not callable(identifier):
        raise InvalidType(
            explain(
                "this is no activation.",
                expected="a name, a callable tensor -> tensor, or None",
                received=repr(identifier),
                fix="activation=lambda z: af.ops.sin(z) * z",
            )
        )
    return identifier


def activated(function: Function, x: Tensor, layer: Layer) -> Tensor:
    """function(x); explains itself when the function is not one of tensors."""
    out: Any = function(x)
    if not isinstance(out, Tensor):
        name = getattr(function, "__name__", type(function).__name__)
        raise InvalidType(
            explain(
                f"the activation {name!r} of layer {layer.name!r} must return a tensor.",
                expected="what operators and af.ops functions give",
                received=type(out).__name__,
                fix="activation=lambda z: af.ops.sin(z) * z",
            )
        )
    return out


class Activation(Layer):
    """An activation as a layer of its own.

    activation: one of the names Dense takes, or a callable tensor -> tensor.
    """

    takes = "one"

    def __init__(self, activation: str | Function | None, **options: Any) -> None:
        super().__init__(**options)
        self.activation = get(activation)

    def forward(self, x: Tensor) -> Tensor:
        return activated(self.activation, x, self)
