"""What every layer has in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from .. import initializers
from ..errors import InvalidState, InvalidType, explain
from ..graph import PARAMETERS, Tensor, Variable, within
from ..ops.elementwise import as_tensor
from ..parameter import Parameter
from ..random import new_stream
from ..specs import FLOATS, Shape, as_shape


class Layer:
    """A function with weights. Write `forward`; the backward is derived.

    A subclass declares its weights in `build(input_shape)` with `add_weight`, and uses them in `forward(x)`. `build` runs
    once, at the first call, when the sizes are known. `input_shape` includes the batch axis.
    """

    def __init__(self, *, name: str | None = None, input_shape: Any = None) -> None:
        self.given_name = name
        self._name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(self).__name__).lower()
        self.input_shape: Shape | None = None if input_shape is None else as_shape(input_shape, "input_shape")
        self.dtype = "float32"
        self.built = False
        self.weights: list[Parameter] = []
        self._stream = new_stream()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in cls.__dict__:
            cls.forward = _building(cls.__dict__["forward"])  # type: ignore[method-assign]

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = name
        for weight in self.weights:
            weight.variable.owner = name

    def build(self, input_shape: Any) -> None:
        """Declare the weights. Layers without weights need not define it."""

    def forward(self, x: Any) -> Tensor:
        raise InvalidType(explain(f"{type(self).__name__} has no forward.", fix="def forward(self, x): return x @ self.kernel"))

    def __call__(self, *inputs: Any) -> Tensor:
        return self.forward(*inputs)

    def add_weight(
        self, shape: Any, initializer: Any = "glorot_uniform", name: str | None = None, trainable: bool = True
    ) -> Parameter:
        """Declare a weight of this shape. Its values are drawn when they are first needed."""
        sizes = as_shape(shape, f"the shape of a weight of {self.name!r}")
        name = name or f"weight_{len(self.weights)}"
        draw, stream, dtype = initializers.get(initializer), self._stream, self.dtype

        def initial() -> Any:
            return draw(sizes, dtype, stream.generator(name))  # type: ignore[arg-type]

        variable = Variable(name, sizes, dtype, PARAMETERS, initial, owner=self.name, trainable=trainable)
        weight = Parameter(variable)
        self.weights.append(weight)
        return weight

    def count_params(self) -> int:
        """How many numbers its weights hold."""
        if not self.built:
            raise InvalidState(
                explain(
                    f"layer {self.name!r} does not know its size yet.",
                    fix="give it input_shape=[…], or call it on data first",
                )
            )
        return sum(weight.size for weight in self.weights)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def _building(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that declares the layer's weights before its first use, and labels what it computes with the layer."""

    @wraps(forward)
    def call(self: Layer, *inputs: Any) -> Tensor:
        tensors = [
            [as_tensor(each) for each in x] if isinstance(x, (list, tuple)) and any(isinstance(i, Tensor) for i in x)
            else as_tensor(x)
            for x in inputs
        ]  # fmt: skip
        with within(layer=self.name):
            if not self.built:
                first = tensors[0] if len(tensors) == 1 else tensors
                shape = [x.shape for x in first] if isinstance(first, list) else first.shape  # type: ignore[union-attr]
                dtypes = {x.dtype for x in (first if isinstance(first, list) else [first])}  # type: ignore[union-attr]
                self.dtype = next((dtype for dtype in FLOATS if dtype in dtypes), self.dtype)
                self.build(shape)
                self.built = True
            out = forward(self, *tensors)
        if not isinstance(out, Tensor):
            raise InvalidType(
                explain(
                    f"the forward of layer {self.name!r} must return a tensor.",
                    expected="what operators and af.ops functions give",
                    received=type(out).__name__,
                )
            )
        return out

    return call
