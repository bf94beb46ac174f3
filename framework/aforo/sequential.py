"""Stacks of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from . import device as devices
from .errors import InvalidState, InvalidType, InvalidValue, explain, unknown_name
from .graph import BATCH as BATCH_ROLE
from .graph import Tensor, Variable, leaf, tracing
from .layers.call import Call, revertible
from .layers.config import checked
from .layers.context import Context, collecting
from .layers.layer import Layer
from .model import Model
from .recurrence import Cycle
from .settings import strict
from .specs import BATCH, FLOATS, TIME, Shape, Size, as_dtype, as_sample, written
from .topology import Structure


class Sequential(Model):
    """A stack of layers, each fed by the one before.

    layers: what to start with; `add` and `pop` change the stack. dtype: "float32", or "float64" for checks.
    """

    @strict
    def __init__(self, layers: Sequence[Layer] | None = None, *, name: str | None = None, dtype: Any = "float32") -> None:
        Layer.__init__(self, name=name)
        self.dtype = as_dtype(dtype)
        if self.dtype not in FLOATS:
            raise InvalidType(
                explain(
                    "a model computes with floating-point numbers.",
                    expected=" or ".join(FLOATS),
                    received=dtype,
                    fix='af.Sequential(dtype="float32")',
                )
            )
        self._stack: list[Layer] = []
        self._names: dict[str, Layer] = {}
        self._numbers: dict[str, int] = {}  # where the search for a free name goes on
        self._stages: list[Tensor] = []  # the symbolic input, then the output of each layer
        self._inputs = Structure(("x",), "one")
        self._outputs = Structure(("y",), "one")
        self._start()
        if isinstance(layers, Layer):
            raise InvalidType(
                explain(
                    "a stack is made of a list of layers.",
                    expected="[af.Dense(4), …]",
                    received=repr(layers),
                    fix="af.Sequential([layer, …])",
                )
            )
        for layer in layers or []:
            self.add(layer)

    def get_config(self) -> dict[str, Any]:
        """Its name, its dtype, the shape of its input if that is known, and the class and configuration of each layer."""
        layers = [{"class": type(layer).__name__, "config": layer.get_config()} for layer in self._stack]
        shape = [None if size == TIME else size for size in self.inputs[0].shape[1:]] if self.inputs else None
        return {"name": self.name, "dtype": self.dtype, "input_shape": shape, "layers": layers}

    @classmethod
    def from_config(cls, config: Any, custom_objects: Mapping[str, type[Layer]] | None = None) -> Sequential:
        """A new stack, made as the one that gave this configuration. `custom_objects` names classes of the user's own."""
        given = checked(config, "Sequential")
        model = cls(name=given.get("name"), dtype=given.get("dtype", "float32"))
        known = {**{each.__name__: each for each in _classes(Layer)}, **(custom_objects or {})}
        for entry in given.get("layers", []):
            if entry["class"] not in known:
                raise unknown_name("layer", entry["class"], known, fix=f'custom_objects={{"{entry["class"]}": …}}')
            model.add(known[entry["class"]].from_config(entry["config"]))
        if given.get("input_shape") and not model.built:
            model.build((None, *given["input_shape"]))
        return model

    @property
    def layers(self) -> list[Layer]:
        return list(self._stack)

    def rows(self) -> list[tuple[Layer, tuple[Tensor, ...]]]:
        self.require_built()
        return [(layer, (stage,)) for layer, stage in zip(self._stack, self._stages[1:], strict=True)]

    def records(self) -> tuple[tuple[Tensor, ...], tuple[Call | Tensor, ...]]:
        self.require_built()
        stages = zip(self._stack, self._stages, self._stages[1:], strict=False)
        return (self._stages[0],), tuple(Call(layer, (before,), (after,)) for layer, before, after in stages)

    @property
    def outputs(self) -> list[Tensor]:
        self.require_built()
        return [self._stages[-1]]

    @property
    def cycles(self) -> list[Cycle]:
        return []

    @strict
    def add(self, layer: Any) -> None:
        """Put a layer on top. If the sizes are known, they are checked here."""
        if not isinstance(layer, Layer):
            if isinstance(layer, type) and issubclass(layer, Layer):
                raise InvalidType(explain("this is a layer's class, not a layer.", fix=f"model.add(af.{layer.__name__}(…))"))
            if isinstance(layer, Tensor) and layer.symbolic and layer.op == "variable" and not self._stack:
                self._set_input(layer.shape[1:], layer.dtype)
                return
            raise InvalidType(
                explain(
                    "a model is made of layers.",
                    expected="e.g. af.Dense(4)",
                    received=repr(layer),
                    fix="model.add(af.Activation(f)) makes a layer of a function"
                    if callable(layer)
                    else "model.add(af.Dense(4))",
                )
            )
        self.require_free("add")
        if layer is self or any(each is self for each in layer.all_sublayers()):
            raise InvalidValue(explain("a model cannot be one of its own layers.", fix="af.Sequential([model, …])"))
        with revertible(self):
            self._add(layer)

    def _add(self, layer: Layer) -> None:
        again = self._names.get(layer.name) is layer  # a layer may stand in the stack twice, and shares its weights
        if layer.given_name is None and not again and (not layer.is_named or layer.name in self._names):
            layer.name = self._free_name(layer.name)
        elif not again and layer.name in self._names:
            raise InvalidValue(explain(f"two layers are named {layer.name!r}.", fix="give each layer a name of its own"))
        self._check_given_shape(layer)
        if not layer.built:
            layer.dtype = self.dtype  # unless what it is given says otherwise
        if not self.trainable:
            layer.trainable = False
        if self._stages:
            with tracing(), collecting(Context()):
                self._stages.append(_single(layer, layer.forward(self._stages[-1])))
        layer.is_named = True
        self._stack.append(layer)
        self._names[layer.name] = layer
        self._follow_stack()

    def _check_given_shape(self, layer: Layer) -> None:
        given = layer.given_input_shape
        if given is None and isinstance(layer, Model) and layer.built and not self._stack:
            given = layer.inputs[0].shape[1:]
        if given is None:
            return
        if not self._stack:
            own = layer.inputs[0].dtype if isinstance(layer, Model) else getattr(layer, "input_dtype", self.dtype)
            self._set_input(given, own)
        elif self._stages and given != self._stages[-1].shape[1:]:
            expected = self._stages[-1].shape[1:]
            raise InvalidValue(
                explain(
                    f"layer {layer.name!r} does not fit what comes before it.",
                    expected=f"input_shape {written(expected)}, what {self._stack[-1].name!r} gives",
                    received=written(given),
                    fix="leave input_shape out: it follows from the layer before",
                )
            )

    def pop(self) -> Layer:
        """Take the top layer off; the rest keeps its training."""
        self.require_free("pop")
        if not self._stack:
            raise InvalidState(explain("there is no layer to take off.", fix="model.add(af.Dense(4))"))
        if len(self._stages) > len(self._stack):
            self._stages.pop()
        layer = self._stack.pop()
        if layer not in self._stack:
            del self._names[layer.name]
        self._numbers.clear()
        self._follow_stack()
        return layer

    def _follow_stack(self) -> None:
        self.built = bool(self._stack) and len(self._stages) > len(self._stack)
        self._outputs = Structure((self._stack[-1].name,) if self._stack else ("y",), "one")
        for head in self.heads:
            head.target = None
        if self._device is not devices.CPU:  # elsewhere, what nobody has placed goes where it is first used
            devices.move([weight.variable for weight in self.weights if weight.variable.device is None], self._device, {})
        self._changed()
        Layer.changes += 1

    def restore(self, before: dict[str, Any]) -> None:
        was_built = self.built
        super().restore(before)
        if was_built != self.built:
            self._make_heads()  # theirs are targets of other sizes
            self._changed()

    def _free_name(self, name: str) -> str:
        if name not in self._names:
            return name
        number = self._numbers.get(name, 1)
        while f"{name}_{number}" in self._names:
            number += 1
        self._numbers[name] = number + 1
        return f"{name}_{number}"

    def _set_input(self, shape: Shape, dtype: str) -> None:
        self.inputs = [Variable("x", (BATCH, *shape), dtype, BATCH_ROLE, owner="batch")]
        self._stages = [leaf(self.inputs[0])]

    def build(self, input_shape: Any) -> None:
        """Tell the model the shape of a sample, batch axis first (None): (None, d_in). Draws no weights."""
        if not self._stack:
            raise InvalidState(explain("the model has no layers.", fix="model.add(af.Dense(4))"))
        if len(self._stages) > len(self._stack):
            self.built = True
            return
        if not isinstance(input_shape, (tuple, list)):
            raise InvalidType(
                explain(
                    "build takes the shape of a batch.",
                    expected="(None, d_in)",
                    received=repr(input_shape),
                    fix="model.build((None, d_in))",
                )
            )
        with revertible(self), tracing(), collecting(Context()):
            sizes = as_sample(input_shape[1:], "input_shape")
            self._set_input(sizes, getattr(self._stack[0], "input_dtype", self.dtype))
            for layer in self._stack:
                self._stages.append(_single(layer, layer.forward(self._stages[-1])))
            self._follow_stack()

    def build_from(self, x: Any) -> None:
        if not self.built:
            from .checks import as_array

            array = as_array(x, "x")
            if array.ndim < 2:
                raise InvalidValue(
                    explain(
                        "x must hold a batch of samples.",
                        expected="shape (n, d_in)",
                        received=f"shape {written(array.shape)}",
                        fix="x[None] adds a batch axis to one sample, x[:, None] makes a column",
                    )
                )
            if not len(array):
                raise InvalidValue(
                    explain(
                        "x is empty.",
                        expected="shape (n, d_in), n at least 1",
                        received=f"shape {written(array.shape)}",
                        fix="print(len(x)) where x is made: a filter may have dropped every row",
                    )
                )
            layers = [each for layer in self._stack for each in (layer, *layer.all_sublayers())]
            is_sequence = array.ndim > 2 or any(layer.reads_sequences for layer in self._stack[:1])
            if is_sequence and any(each.any_length for each in layers):
                with suppress(Exception):  # a layer, perhaps a user's, that needs to know the length: that of these data
                    self.build((None, None, *array.shape[2:]))
                    return
            self.build(array.shape)

    def replay(self, values: Sequence[Tensor], steps: Size = TIME) -> list[Tensor]:
        (x,) = values
        for layer in self._stack:
            x = _single(layer, layer.forward(x))
        return [x]


def _classes(base: type[Layer]) -> Iterator[type[Layer]]:
    """Every kind of layer there is."""
    for each in base.__subclasses__():
        yield each
        yield from _classes(each)


def _single(layer: Layer, out: Any) -> Tensor:
    """What a layer of a stack gives: one tensor."""
    if not isinstance(out, Tensor):
        raise InvalidValue(
            explain(
                f"layer {layer.name!r} gives several tensors; in a stack each layer gives one.",
                expected="one tensor",
                received=type(out).__name__,
                fix="af.Model(inputs, outputs) connects layers freely",
            )
        )
    return out
