"""The call of a layer: what it is given, the weights it declares then, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import device as devices
from ..errors import InvalidState, InvalidType, InvalidValue, explain, located, nearest
from ..graph import Tensor, apply, current_layer, tracing, within
from ..graph.place import is_tracing
from ..graph.tensor import now
from ..ops.operands import as_tensor
from ..settings import takes
from ..specs import BATCH, FLOATS, TIME, fits, written
from .context import Context, current

if TYPE_CHECKING:
    from .layer import Layer


@dataclass(frozen=True, eq=False)
class Call:
    """One use of a layer: what it was called on, and what it gave. Models are made of these."""

    layer: Layer
    inputs: tuple[Any, ...]
    outputs: tuple[Tensor, ...]


Attempts = list[tuple["Layer", dict[str, Any]]]  # layers, and what they were

_built: ContextVar[Attempts | None] = ContextVar("built", default=None)
_TOLD = "training"  # the parameter of a forward that is no input


@contextmanager
def revertible(layer: Layer | None = None) -> Iterator[Attempts]:
    """If what is inside fails, this layer and those that were built inside are what they were before. Gives these."""
    built = [] if layer is None else [(layer, layer.snapshot())]
    outer, token = _built.get(), _built.set(built)
    try:
        yield built
    except BaseException:
        for each, before in reversed(built):
            each.restore(before)
        raise
    finally:
        _built.reset(token)
    if outer is not None:
        outer.extend(built)


def flattened(value: Any) -> list[Tensor]:
    """The tensors in a tensor, a list or a dict of them."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for each in value for tensor in flattened(each)]
    return [value]


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same list, dict or single value, with the function applied to what is in it."""
    if isinstance(value, Mapping):
        return {key: mapped(each, function) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [mapped(each, function) for each in value]
    return function(value)


def with_named(layer: Layer, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """The inputs of a call in their order, of which some were given by name."""
    names, given, left = _names(type(layer).forward), list(inputs), dict(named)
    for name in names[len(inputs) :]:
        if name not in left:
            break
        given.append(left.pop(name))
    if left:
        unknown = next(iter(left))
        own = signature(type(layer).forward).parameters
        if unknown in names[: len(inputs)]:
            raise InvalidType(
                explain(f"layer {layer.name!r} is given {unknown!r} twice.", expected=", ".join(names), fix=f"{unknown} once")
            )
        if unknown in own and own[unknown].kind is Parameter.KEYWORD_ONLY:
            raise InvalidType(
                explain(
                    f"layer {layer.name!r} takes {unknown!r} by name only, and models keep inputs by their order.",
                    expected=f"def forward(self, {', '.join([*names, unknown])})",
                    received="a parameter after *",
                    fix=f"{unknown} among the other inputs, or a setting of the layer: self.{unknown}",
                )
            )
        options = [p.name for p in signature(type(layer).__call__).parameters.values() if p.kind is p.KEYWORD_ONLY]
        near = nearest(unknown, [*names, *options])
        raise InvalidType(
            explain(
                f"layer {layer.name!r} has no input {unknown!r}"
                + (" that can be given without those before it." if unknown in names else "."),
                expected=", ".join([*names, *options]),
                received=f"{unknown}=…",
                fix=f"{near}=…" if near is not None and unknown not in names else f"layer({', '.join(names)})",
            )
        )
    return tuple(given)


def _names(forward: Callable[..., Any]) -> list[str]:
    """What a forward calls its inputs."""
    own = list(signature(forward).parameters.values())[1:]
    return [p.name for p in own if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != _TOLD]


def arity_of(forward: Callable[..., Any]) -> tuple[float, float]:
    """The fewest and the most inputs a forward takes."""
    own = signature(forward).parameters
    if any(p.kind is p.VAR_POSITIONAL for p in own.values()):
        return 0, float("inf")
    names = _names(forward)
    return sum(own[name].default is Parameter.empty for name in names), len(names)


def apply_updates(context: Context, outputs: Sequence[Tensor]) -> None:
    """After a call by hand, give the weights that it updates their new values, as a training step of a model would."""
    if any(x.symbolic for x in outputs):
        return
    for variable, value in context.updates.items():
        devices.write(variable, devices.check_values(variable, value.numpy()), variable.device or devices.CPU)


def _as_input(x: Any, kind: str) -> Any:
    """An input as tensors: one, or a list or dict of them. Matrices in a list are inputs of their own, rows make one input."""
    several = isinstance(x, Mapping) or (isinstance(x, (list, tuple)) and any(isinstance(each, Tensor) for each in x))
    if not several and kind != "one" and isinstance(x, (list, tuple)):
        several = bool(x) and all(isinstance(each, np.ndarray) and each.ndim > 1 for each in x)
    return mapped(x, as_tensor) if several else as_tensor(x)


def _check_count(layer: Layer, inputs: tuple[Any, ...]) -> None:
    low, high = layer.arity
    if not low <= len(inputs) <= high:
        raise InvalidValue(
            explain(
                f"layer {layer.name!r} was called with the wrong number of inputs.",
                expected=f"{low}" if low == high else f"{low} to {high}",
                received=f"{len(inputs)}: " + ", ".join(_described(x) for x in inputs),
                fix=f"{layer.name}([a, b])" if layer.takes == "list" else None,
            )
        )
    if not inputs:
        return
    first = inputs[0]
    if layer.takes == "one" and not isinstance(first, Tensor):
        raise InvalidValue(
            explain(
                f"layer {layer.name!r} takes one tensor.",
                received=_described(first),
                fix=f"{layer.name}(af.Concatenate()([a, b])) makes one of several",
            )
        )
    if layer.takes == "list" and (not isinstance(first, list) or len(first) < 2):
        raise InvalidValue(
            explain(
                f"layer {layer.name!r} takes a list of two tensors or more.",
                received=_described(first),
                fix=f"af.{type(layer).__name__}()([a, b])",
            )
        )


def _check_given_shape(layer: Layer, tensors: Sequence[Tensor]) -> None:
    """Refuse to build a layer for something else than its input_shape."""
    given = layer.given_input_shape
    if given is None or len(tensors) != 1:
        return
    expected = (BATCH, *(TIME if size is None else size for size in given))
    if not fits(tensors[0].shape[1:], expected[1:]):
        raise InvalidValue(
            explain(
                f"layer {layer.name!r} is called on something else than its input_shape says.",
                expected=f"shape {written(expected)}",
                received=written(tensors[0].shape),
                fix=f"input_shape={[None if size == TIME else size for size in tensors[0].shape[1:]]}, or none",
            )
        )


def _check_outputs(layer: Layer, out: Any) -> list[Tensor]:
    """The tensors in what a forward gave."""
    outputs = flattened(out)
    for tensor in outputs:
        if not isinstance(tensor, Tensor):
            raise InvalidType(
                explain(
                    f"the forward of layer {layer.name!r} must return a tensor.",
                    expected="what operators and af.ops functions give",
                    received=type(tensor).__name__,
                    fix="return y" if tensor is None else "return operators and af.ops functions of x",
                )
            )
    return outputs


def _described(value: Any) -> str:
    tensors = flattened(value)
    shapes = ", ".join(written(x.shape) for x in tensors)
    return shapes if isinstance(value, Tensor) else f"{type(value).__name__} of {len(tensors)}: {shapes}"


def _endless(path: str) -> str:
    """The text of the error for layers whose forwards call one another in a circle."""
    names = path.split("/")
    circle = names[: next((i for i, name in enumerate(names) if i and name == names[0]), len(names)) + 1]
    return explain(
        "layers call each other without end: " + " → ".join(circle) + ".",
        expected="an order in which each can run; only a value of the step before may come back",
        fix="back = af.Feedback([units]), and back.connect(value) for what comes back a step later",
    )


def _check_parts(layer: Layer, built: Sequence[Layer]) -> None:
    """Refuse layers with weights that were built in a forward without being a part of its layer."""
    parts = {id(each) for each in (layer, *layer.all_sublayers())}
    for each in built:
        if id(each) not in parts and each.weights:
            raise InvalidState(
                explain(
                    f"layer {each.name!r} is used in {layer.name!r} but is no part of it: its weights would be neither trained "
                    "nor saved.",
                    expected="layers that are made once, in __init__ or build, and kept in attributes",
                    received=f"{each!r}, which no attribute of {layer.name!r} holds",
                    fix=f"self.{each.name} = af.{type(each).__name__}(…) in __init__, and self.{each.name}(x) in forward",
                )
            )


@lru_cache(256)
def _takes_a_shape(build: Callable[..., Any]) -> bool:
    return takes(build, 2)  # the layer, and the shape


def _build(layer: Layer, shapes: Sequence[Any]) -> None:
    given = shapes[0] if len(shapes) == 1 else shapes
    if not _takes_a_shape(type(layer).build):
        own = ", ".join(p.name for p in signature(layer.build).parameters.values())
        raise InvalidType(
            explain(
                f"the build of layer {layer.name!r} takes one argument: the shape of its input, or a list of shapes.",
                expected="def build(self, input_shape)",
                received=f"def build(self{', ' * bool(own)}{own})",
                fix=f"def build(self, input_shape){f': {own} = input_shape' if ', ' in own else ''}",
            )
        )
    layer.build(given)


def building(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that declares the layer's weights before its first use, and labels what it computes with the layer.

    One with a parameter `training` is told whether it runs in a training step.
    """
    own = list(signature(forward).parameters.values())[1:]
    told = next((p for p in own if p.name == _TOLD), None)
    place_of_told = own.index(told) if told is not None and told.kind is not told.KEYWORD_ONLY else None

    def run(self: Layer, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if told is None:
            return forward(self, *inputs)
        is_training = options.get(_TOLD, current().training)
        if place_of_told is None or place_of_told > len(inputs):
            return forward(self, *inputs, training=is_training)
        return forward(self, *inputs[:place_of_told], is_training, *inputs[place_of_told:])

    @wraps(forward)
    def call(self: Layer, *given: Any, **options: Any) -> Any:
        is_own = type(self).forward is call  # not a forward reached through super()
        if not is_own and place_of_told is not None and len(given) > place_of_told:  # super().forward(x, training)
            options[_TOLD] = given[place_of_told]
            given = given[:place_of_told] + given[place_of_told + 1 :]
        while given and given[-1] is None:  # as if it were left out
            given = given[:-1]
        inputs = tuple(_as_input(x, self.takes) for x in given)
        if is_own:
            _check_count(self, inputs)
        tensors = [x for each in inputs for x in flattened(each)]
        outer = current_layer()
        place = within(layer=f"{outer}/{self.name}" if outer else self.name)
        is_first = not self.built
        attempt: AbstractContextManager[Attempts] = revertible(self) if is_first else nullcontext([])
        # One step of a loop is symbolic also where numbers flow through the loop itself.
        symbolic = current().carrier is None and any(x.symbolic for x in tensors)
        with located("layer", self.name), place, tracing(symbolic), attempt as built:
            if is_first:
                _check_given_shape(self, tensors)
                dtypes = {x.dtype for x in tensors}
                self.dtype = next((dtype for dtype in FLOATS if dtype in dtypes), self.dtype)
                _build(self, [mapped(x, lambda tensor: tensor.shape) for x in inputs])
                self.built = True
                if not self.trainable:  # also what it made just now
                    self.trainable = False
            began = now()
            try:
                out = run(self, inputs, options)
            except RecursionError:
                raise InvalidState(_endless(current_layer())) from None
            outputs = _check_outputs(self, out)
            if is_first:
                _check_parts(self, [each for each, _ in built])
        if outer or is_tracing() or not any(x.symbolic for x in outputs):
            return out
        # A layer that gives back something older than this call gives a value of its own: models follow these.
        fresh = {id(x): apply("identity", x) if x.serial < began or x.call is not None else x for x in outputs}
        record = Call(self, inputs, tuple(fresh[id(x)] for x in outputs))
        for x in record.outputs:
            x.call = record
        return mapped(out, lambda x: fresh[id(x)])

    return call
