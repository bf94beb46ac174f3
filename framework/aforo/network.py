"""Networks: layers between inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import RLock
from typing import Any

import numpy as np

from . import device as devices
from .errors import InvalidState, InvalidType, InvalidValue, explain
from .graph import BATCH as BATCH_ROLE
from .graph import Tensor, Variable
from .layers.call import Call, flattened
from .layers.layer import Layer
from .recurrence import Cycle
from .settings import strict, whole
from .specs import TIME, Size, fits, written
from .topology import Structure, Topology, capture

Array = np.ndarray[Any, Any]


class Network(Layer):
    """Layers between inputs and outputs, and their weights: what a model is, before it is trained."""

    remembers = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in vars(cls):
            raise InvalidType(
                explain(
                    f"{cls.__name__} has a forward of its own, but a model's is that of its layers.",
                    expected="a class derived from af.Layer, for a forward that is written",
                    received=f"class {cls.__name__}({cls.__base__.__name__ if cls.__base__ else ''})",
                    fix=f"class {cls.__name__}(af.Layer), and af.Sequential([{cls.__name__}(…)]) to train it",
                )
            )

    @strict
    def __init__(self, inputs: Any, outputs: Any, *, steps: int | None = None, name: str | None = None) -> None:
        super().__init__(name=name)
        self._start(None if steps is None else whole("steps", steps, 1))
        self._topology: Topology = capture(flattened(inputs), flattened(outputs), self.steps)
        self._name_layers()
        given, produced = self._topology.inputs, self._topology.outputs
        single = len(given) == 1
        self._inputs = Structure.of(
            inputs, [x.variable.name or ("x" if single else f"input_{i + 1}") for i, x in enumerate(given)]
        )
        self._outputs = Structure.of(outputs, _unique([x.call.layer.name if x.call else "output" for x in produced]))
        for label, x in zip(self._inputs.names, given, strict=True):
            variable = Variable(label, x.shape, x.dtype, BATCH_ROLE, owner="batch")
            variable.limit = x.variable.limit
            self.inputs.append(variable)
        self.built = True

    def _start(self, length: int | None = None) -> None:
        """What there is before its layers. length: time steps, where no input has a time axis."""
        self.steps = length
        self.inputs: list[Variable] = []
        self.lock = RLock()
        self._device = devices.CPU

    def _name_layers(self) -> None:
        """Give layers names that differ. Those that have one, from their user or from another model, keep it."""
        taken: dict[str, Layer] = {}
        for layer in self._topology.layers:
            if layer.is_named:
                other = taken.setdefault(layer.name, layer)
                if other is not layer and layer.given_name is not None and other.given_name is not None:
                    raise InvalidValue(
                        explain(
                            f"two layers are named {layer.name!r}.",
                            expected="names that differ",
                            received=f"{layer.name!r} twice",
                            fix="give each layer a name of its own",
                        )
                    )
        for layer in self._topology.layers:
            if not layer.is_named:
                number, base = 1, layer.name
                while taken.setdefault(layer.name, layer) is not layer:
                    layer.name = f"{base}_{number}"
                    number += 1
                layer.is_named = True

    # --- structure ----------------------------------------------------------------------------------------------------

    @property
    def layers(self) -> list[Layer]:
        """Every layer once, in the order of first call."""
        return self._topology.layers

    def sublayers(self) -> Iterator[Layer]:
        yield from self.layers

    def rows(self) -> list[tuple[Layer, tuple[Tensor, ...]]]:
        """Every use of a layer, and what it gives."""
        return [(call.layer, call.outputs) for call in self._topology.calls]

    def records(self) -> tuple[tuple[Tensor, ...], tuple[Call | Tensor, ...]]:
        """The symbolic inputs; every use of a layer and every operation between layers, in an order in which they can run."""
        return self._topology.inputs, self._topology.records

    @property
    def outputs(self) -> list[Tensor]:
        """The symbolic outputs: their shapes and dtypes are those of predictions."""
        return list(self._topology.outputs)

    @property
    def cycles(self) -> list[Cycle]:
        """What of it depends on itself, through feedback edges."""
        return self._topology.cycles

    def replay(self, values: Sequence[Tensor], steps: Size = TIME) -> list[Tensor]:
        """The outputs for other inputs."""
        return self._topology.replay(values, steps)

    def given_parts(self, x: Any) -> list[Any]:
        """What its inputs are given, in their order."""
        return self._inputs.split(x, f"the input of {self.name!r}")

    def forward(self, x: Any) -> Any:
        values = self.given_parts(x)
        for variable, value in zip(self.inputs, values, strict=True):
            if variable.dtype == "bool" != value.dtype:
                raise InvalidType(
                    explain(
                        f"model {self.name!r} does not fit what it is given.",
                        expected=f"{variable.name}: {written(variable.shape)} bool",
                        received=f"{written(value.shape)} {value.dtype}",
                        fix=f"{variable.name} > 0",
                    )
                )
            if not fits(value.shape[1:], variable.shape[1:]):
                raise InvalidValue(
                    explain(
                        f"model {self.name!r} does not fit what it is given.",
                        expected=f"{variable.name}: {written(variable.shape)}",
                        received=written(value.shape),
                        fix=f"a model made for samples of shape {written(value.shape[1:])}",
                    )
                )
        return self._outputs.joined(self.replay(values, self.steps or TIME))

    def require_built(self) -> None:
        if not self.built:
            raise InvalidState(
                explain(
                    f"model {self.name!r} does not know its input size yet.",
                    expected="an input shape, or data",
                    fix="af.Dense(4, input_shape=[d_in]) as the first layer, or model.build((None, d_in))",
                )
            )

    def build_from(self, x: Any) -> None:
        """Take the sizes from data, if they are not known yet."""

    @property
    def input_shape(self) -> Any:
        self.require_built()
        return self._inputs.joined([(None, *variable.shape[1:]) for variable in self.inputs])

    @property
    def output_shape(self) -> Any:
        self.require_built()
        return self._outputs.joined([(None, *x.shape[1:]) for x in self.outputs])

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._outputs.names

    def split_inputs(self, x: Any, what: str) -> list[Any]:
        """One array for each input."""
        return self._inputs.split(x, what)

    def split_targets(self, y: Any, what: str) -> list[Any]:
        """One array for each output."""
        return self._outputs.split(y, what)

    def joined(self, values: Sequence[Any]) -> Any:
        """One value for each output, in the form the model was given its outputs."""
        return self._outputs.joined(values)

    # --- weights ------------------------------------------------------------------------------------------------------

    def count_params(self) -> int:
        self.require_built()
        return sum(weight.size for weight in self.weights)

    def get_weights(self) -> list[Array]:
        """Copies of all weights, in the order layers were first called, kernel before bias."""
        self.require_built()
        return [weight.numpy() for weight in self.weights]

    def set_weights(self, arrays: Sequence[Any]) -> None:
        """Give all weights new values. Nothing changes unless all of them fit."""
        self.require_built()
        with self.lock:
            super().set_weights(arrays)


def _unique(names: Sequence[str]) -> list[str]:
    """The names, numbered where one comes up again."""
    return [name if names.count(name) == 1 else f"{name}_{names[:i].count(name) + 1}" for i, name in enumerate(names)]
