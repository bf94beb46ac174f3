"""What every layer has in common."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

from .. import device as devices
from .. import initializers
from ..errors import InvalidState, InvalidType, InvalidValue, Missing, explain, nearest
from ..graph import PARAMETERS, Tensor, Variable, current_layer
from ..graph.place import is_tracing
from ..parameter import Parameter
from ..random import Stream, new_stream
from ..settings import flag, refuse_options, strict, title
from ..specs import Dim, Shape, as_sample, as_shape, written
from .call import apply_updates, arity_of, building, flattened, with_named
from .config import checked, plain, recorded
from .context import Context, collecting, current, under_way

_INTERNAL = {"all_sublayers", "arity", "changes", "identify", "identity", "restore", "snapshot", "sublayers"}
_UNBUILT = "give it input_shape=[…], or call it on data first"


class Layer:
    """A function with weights. Write `forward`; the backward is derived.

    A subclass declares its weights in `build(input_shape)` with `add_weight`, and uses them in `forward(x)`. `build` runs
    once, at the first call, when the sizes are known; `input_shape` includes the batch axis. Layers kept in attributes, or in
    lists and dicts there, are part of the layer. A forward with a parameter `training` is told whether it runs in a training
    step; so is `self.training`.
    """

    takes: ClassVar[str] = "any"
    """What an input is: "one" tensor, a "list" of them, or "any" of both."""

    arity: ClassVar[tuple[float, float]] = (1, 1)
    """The fewest and the most inputs; follows from `forward`."""

    remembers: ClassVar[bool] = True
    """Whether what it was made with is its configuration."""

    reads_sequences: ClassVar[bool] = False
    """Whether `input_shape` may begin with None: a time axis, of any length."""

    any_length: ClassVar[bool] = False
    """Whether what a stack with it is given is taken for a sequence of any length, when only data say the shape."""

    instead: ClassVar[Mapping[str, str]] = {}
    """What does what options of other frameworks would do."""

    changes = 0
    """Counts changes of layers that models may hold, anywhere: they look at it to know when to look at their own layers."""

    def __init__(self, *, name: str | None = None, input_shape: Any = None, trainable: bool = True, **unknown: Any) -> None:
        refuse_options(self, unknown)
        self.given_name = title(name)
        self.is_named = name is not None  # by its user, or by the first model it was put into
        self._name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(self).__name__).lower()
        as_given = as_sample if self.reads_sequences else as_shape
        if not self.reads_sequences and isinstance(input_shape, (list, tuple)) and None in input_shape:
            sizes = [size for size in input_shape if size is not None]
            raise InvalidType(
                explain(
                    f"input_shape of layer {self._name!r} must hold whole numbers, without the batch axis.",
                    expected=f"input_shape={sizes}",
                    received=repr(input_shape),
                    fix=f"input_shape={sizes}; for sequences of any length, af.Sequential([af.Input({list(input_shape)}), …])",
                )
            )
        self.given_input_shape: Shape | None = None if input_shape is None else as_given(input_shape, "input_shape")
        self.dtype = "float32"
        self.built = False
        self._trainable = flag("trainable", trainable)
        self._own: list[Parameter] = []
        self._stream = new_stream()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        taken = _INTERNAL & vars(cls).keys() if not cls.__module__.startswith("aforo.") else ()
        for name in sorted(taken):
            raise InvalidType(
                explain(
                    f"{name!r} is something that every layer has, so {cls.__name__} cannot have one of its own.",
                    expected="another name",
                    received=f"{cls.__name__}.{name}",
                    fix=f"own_{name}",
                )
            )
        if "__init__" in cls.__dict__ and cls.remembers:
            cls.__init__ = recorded(cls.__dict__["__init__"])  # type: ignore[method-assign]
        if "forward" in cls.__dict__:
            cls.arity = arity_of(cls.__dict__["forward"])
            cls.forward = building(cls.__dict__["forward"])  # type: ignore[method-assign]

    if not TYPE_CHECKING:  # a type checker would take every attribute for a known one

        def __getattr__(self, name: str) -> Any:
            if "_own" not in vars(self) and not name.startswith("__"):
                kind = type(self).__name__
                raise InvalidState(
                    explain(
                        f"the __init__ of {kind} does not begin with that of af.Layer.",
                        expected="super().__init__() before anything else",
                        received=f"a {kind} without {name!r}",
                        fix="def __init__(self, …): super().__init__()",
                    )
                )
            if name.startswith("__"):
                raise AttributeError(name)
            near = nearest(name, [each for each in dir(type(self)) if not each.startswith("_")])
            waits = not self.built and near is None
            what = f"layer {self.name!r} has no {name!r}" + " yet: its weights depend on its input" * waits
            raise Missing(explain(f"{what}.", fix=_UNBUILT if waits else near), name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _RESERVED:
            raise InvalidType(
                explain(
                    f"{name!r} is something that every layer has, so {type(self).__name__} cannot keep {name!r} there.",
                    expected="an attribute of another name",
                    received=f"self.{name} = {value!r}",
                    fix=f"self.own_{name} = …",
                )
            )
        held = vars(self).get(name)
        if isinstance(held, Parameter) and not isinstance(value, Parameter):
            raise InvalidType(
                explain(
                    f"layer {self.name!r} keeps its weight {name!r}: a value is assigned to it.",
                    expected=f"new values of shape {written(held.shape)}",
                    received=f"another {name}: {value!r}",
                    fix=f"layer.{name}.assign(values), or layer.{name} -= change",
                )
            )
        if isinstance(held, Layer) and held is not value:
            Layer.changes += 1  # models that hold it look again
        super().__setattr__(name, value)

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = title(name) or self._name
        for weight in self._own:
            weight.variable.owner = name

    def sublayers(self) -> Iterator[Layer]:
        """The layers in its attributes, and in the lists and dicts there, however deep."""
        for name, value in vars(self).items():
            if isinstance(value, (Layer, dict, list, tuple)) and name != "made_with":
                yield from _layers_in(value)

    def all_sublayers(self) -> Iterator[Layer]:
        """The layers in it, and those in them, each once, in the order in which they are met."""
        seen = {id(self)}
        stack = [*self.sublayers()][::-1]
        while stack:
            layer = stack.pop()
            if id(layer) not in seen:
                seen.add(id(layer))
                yield layer
                stack += [*layer.sublayers()][::-1]

    @property
    def weights(self) -> list[Parameter]:
        """Every weight once: its own in the order of declaration, then those of its sublayers."""
        return list({id(weight): weight for layer in (self, *self.all_sublayers()) for weight in layer._own}.values())

    @property
    def trainable_weights(self) -> list[Parameter]:
        return [weight for weight in self.weights if weight.trainable]

    @property
    def trainable(self) -> bool:
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        chosen = flag("trainable", value)
        for layer in (self, *self.all_sublayers()):
            layer._trainable = chosen
            for weight in layer._own:
                weight.variable.trainable = chosen and weight.variable.trained
        Layer.changes += 1

    def build(self, input_shape: Any) -> None:
        """Declare the weights. Layers without weights need not define it."""

    def forward(self, x: Any) -> Any:
        raise InvalidType(explain(f"{type(self).__name__} has no forward.", fix="def forward(self, x): return x @ self.kernel"))

    def __call__(self, *inputs: Any, training: bool | None = None, **named: Any) -> Any:
        """Apply the layer. `training` says how dropout and batch statistics behave; models decide it for their layers.

        Inputs may be given by the names that `forward` has for them.
        """
        if named:
            inputs = with_named(self, inputs, named)
        if training is None:
            return self.forward(*inputs)
        if under_way():
            with collecting(replace(current(), training=training)):
                return self.forward(*inputs)
        with collecting(Context(training=training)) as context:
            out = self.forward(*inputs)
        if not is_tracing() and not current_layer():
            apply_updates(context, flattened(out))
        return out

    @property
    def training(self) -> bool:
        """Whether the forward under way is part of a training step."""
        return current().training

    @strict
    def add_weight(
        self, shape: Any, initializer: Any = "glorot_uniform", name: str | None = None, trainable: bool = True
    ) -> Parameter:
        """Declare a weight of this shape. Its values are drawn when they are first needed."""
        if self.built and current_layer():
            raise InvalidState(
                explain(
                    f"the forward of layer {self.name!r} declares a weight, which would be a new one at every call.",
                    expected="add_weight in build, which runs once",
                    received=f"add_weight({shape!r}) in forward",
                    fix="def build(self, input_shape): self.w = self.add_weight(…), and self.w in forward",
                )
            )
        sizes = as_shape(shape, f"the shape of a weight of {self.name!r}")
        if any(isinstance(size, Dim) for size in sizes):
            raise InvalidValue(
                explain(
                    f"layer {self.name!r} would need a weight whose size follows the data.",
                    expected="sizes known before the data",
                    received=written(sizes),
                    fix="af.Input([None, d]): the last axis of a sequence holds its features",
                )
            )
        name = title(name) or f"weight_{len(self._own)}"
        draw = initializers.get(initializer)
        whole = tuple(map(int, sizes))
        initial = partial(initializers.drawn, draw, whole, self.dtype, self._stream, name, f"{self.name}.{name}")
        trained = flag("trainable", trainable)
        variable = Variable(name, sizes, self.dtype, PARAMETERS, initial, owner=self.name, trainable=trained)
        variable.trainable = trained and self._trainable
        weight = Parameter(variable)
        self._own.append(weight)
        return weight

    def pending(self, weight: Parameter) -> Tensor:
        """A weight that is not trained, as it will be after what this step has done to it so far."""
        return current().updates.get(weight.variable, weight)

    def add_update(self, weight: Parameter, value: Tensor) -> None:
        """Give a weight that is not trained a new value at the end of each training step."""
        current().updates[weight.variable] = value

    def add_loss(self, penalty: Tensor) -> None:
        """Add a number to the loss that the model is trained for."""
        current().penalties.append(penalty)

    def snapshot(self) -> dict[str, Any]:
        """Its attributes, for `restore`."""
        return {name: copy(value) if type(value) in (list, dict) else value for name, value in vars(self).items()}

    def restore(self, before: dict[str, Any]) -> None:
        """Be what it was before it was built in vain."""
        vars(self).clear()
        vars(self).update(before)

    def get_config(self) -> dict[str, Any]:
        """What it was made with, as data. A function of the user's own stays a function."""
        made_with: dict[str, Any] = {"name": self.name, **vars(self).get("made_with", {})}
        return {name: plain(value) for name, value in {**made_with, "name": self.name}.items()}

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """A new layer, made as the one that gave this configuration; its weights are drawn anew."""
        given = checked(config, cls.__name__)
        takes = signature(cls.__init__).parameters
        named = "name" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())
        name = given.get("name") if named else given.pop("name", None)
        layer = cls(**given)
        layer.name = name or layer.name
        return layer

    def identity(self) -> tuple[str, int, int, bool]:
        """What its configuration does not say: its name, the stream of its random numbers, whether it is trained."""
        return self.name, self._stream.seed, self._stream.turn, self._trainable

    def identify(self, name: str, seed: int, turn: int, trainable: bool) -> None:
        """Be the layer with this `identity`. Layers in it have their own."""
        self.name, self.is_named, self._stream, self._trainable = name, True, Stream(seed, turn), trainable
        for weight in self._own:
            weight.variable.trainable = trainable and weight.variable.trained
        Layer.changes += 1

    def get_weights(self) -> list[Any]:
        """Copies of its weights, in the order of `weights`."""
        return [weight.numpy() for weight in self.weights]

    def set_weights(self, arrays: Sequence[Any]) -> None:
        """Give its weights new values. Nothing changes unless all of them fit."""
        weights = self.weights
        if not isinstance(arrays, (list, tuple)):
            raise InvalidType(
                explain(
                    "set_weights takes a list of arrays, one for each weight.",
                    expected=f"a list of {len(weights)}",
                    received=type(arrays).__name__,
                    fix="arrays in the order of get_weights()",
                )
            )
        if len(arrays) != len(weights):
            raise InvalidValue(
                explain(
                    "the number of arrays differs from that of the weights.",
                    expected=len(weights),
                    received=len(arrays),
                    fix="arrays in the order of get_weights()" if self.built else _UNBUILT,
                )
            )
        checked = [devices.check_values(weight.variable, values) for weight, values in zip(weights, arrays, strict=True)]
        for weight, values in zip(weights, checked, strict=True):
            devices.write(weight.variable, values, weight.variable.device or devices.CPU)

    def count_params(self) -> int:
        """How many numbers its weights hold."""
        if not self.built:
            raise InvalidState(explain(f"layer {self.name!r} does not know its size yet.", fix=_UNBUILT))
        return sum(weight.size for weight in self.weights)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def _layers_in(value: Any, within: tuple[int, ...] = ()) -> Iterator[Layer]:
    if isinstance(value, Layer):
        yield value
    elif isinstance(value, (dict, list, tuple)) and id(value) not in within:
        for each in value.values() if isinstance(value, dict) else value:
            yield from _layers_in(each, (*within, id(value)))


_RESERVED = {
    name
    for name, held in vars(Layer).items()
    if not name.startswith("_") and not (isinstance(held, property) and held.fset is not None)
}
