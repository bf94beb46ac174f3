"""A model as plain data: values, and the functions between them, with the names they have on a whiteboard.

X is what goes in, t1 = X·W1 + B1 what the first layer computes of it, h1 = tanh(t1) what its activation makes of that, N what
comes out. Tables, pictures and formulas are written from this; it can be made by hand as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from .graph import Spelling, Tensor, apply, leaf
from .layers import Activation, Add, BatchNormalization, Concatenate, Dense, Dropout, Flatten, Multiply, Reshape
from .layers.activation import KNOWN
from .layers.call import Call, flattened, mapped
from .layers.layer import Layer
from .network import Network
from .ops.elementwise import scalar_source
from .recurrence import Feedback, Start
from .specs import Dim, Shape

if TYPE_CHECKING:
    from .model import Model
    from .parameter import Parameter

DENSE, EACH, JOIN, MIXED = "dense", "each", "join", "mixed"

_SYMBOLS = {
    "kernel": "W", "bias": "B", "gamma": "γ", "beta": "β", "moving_mean": "μ", "moving_variance": "v", "embeddings": "V",
    "recurrent_kernel": "U", "initial_state": "s",
}  # fmt: skip
_LETTERS: dict[type[Layer], str] = {Concatenate: "c", Add: "s", Multiply: "m", Dropout: "d", Flatten: "r", Reshape: "r"}
_SIGNS = {"add": "+", "subtract": "−", "multiply": "⊙", "divide": "/", "matmul": "·"}
_ELEMENTWISE = {
    "relu",
    "sigmoid",
    "tanh",
    "sin",
    "cos",
    "tan",
    "exp",
    "square",
    "softplus",
    "leaky_relu",
    "elu",
    "gelu",
    "silu",
}


@dataclass(frozen=True)
class Value:
    """What flows along an edge. `units` numbers for each sample (and for each time step, where there is a time axis)."""

    name: str
    shape: Shape
    units: int
    tensor: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """A function from values to values.

    function    how it is written over an arrow
    links       how units hang together: "dense" (through a kernel), "each" (one to one), "join" (one to one, one input after
                the other), "mixed" (all with all)
    late        whether what it gives is what it was given one time step ago; `start` is what that was at first, if not zeros,
                and `mask` says when it moves on, if not always
    """

    name: str
    kind: str
    function: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    links: str = MIXED
    activation: str = ""
    weights: tuple[tuple[str, tuple[int, ...]], ...] = ()
    parameters: int = 0
    kernel: Parameter | None = None
    late: bool = False
    feedback: Feedback | None = None
    start: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Outline:
    """Values by number; the steps in an order in which they can run."""

    name: str
    values: tuple[Value, ...]
    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def readers(self, value: int) -> list[Step]:
        return [step for step in self.steps if value in step.inputs]


def shape_text(shape: Shape) -> str:
    """b × 4, as the course writes it."""
    return " × ".join({"batch": "b", "time": "T"}.get(str(size), str(size)) for size in shape) or "1"


def units(shape: Shape) -> int:
    return prod(int(size) for size in shape if not isinstance(size, Dim))


def activation_name(function: Any) -> str:
    """How an activation is called; "" for none."""
    name = next((name for name, known in KNOWN.items() if known is function), None)
    if name is None:
        name = getattr(function, "__name__", type(function).__name__)
    return {"linear": "", "<lambda>": "f"}.get(name, name)


def weight_name(weight: Parameter, number: int) -> str:
    return f"{_SYMBOLS.get(weight.name, weight.name)}{number}"


def numbered(layers: list[Layer]) -> dict[int, int]:
    """The number of each layer that has weights, by identity: that of W1, B1, t1."""
    found: dict[int, int] = {}
    for starts in (False, True):  # states to start from count for themselves
        own = [layer for layer in dict.fromkeys(layers) if layer.weights and isinstance(layer, Start) is starts]
        found.update((id(layer), number) for number, layer in enumerate(own, 1))
    return found


def before_activation(layer: Dense, out: Tensor) -> Tensor:
    """x W + B in the graph of what a Dense gave."""
    found, stack = {id(out): out}, [out]
    while stack:  # no further than the layer
        for x in stack.pop().inputs:
            if id(x) not in found and x.place.layer == out.place.layer and x.inputs:
                found[id(x)] = x
                stack.append(x)
    own = sorted(found.values(), key=lambda node: node.serial)
    t = next((node for node in own if any(x is layer.kernel for x in node.inputs)), out)
    for node in own:
        grows = node.op == "add" and any(b is layer.bias for x in node.inputs for b in (x, *x.inputs))
        if any(x is t for x in node.inputs) and (node.op == "reshape" or grows):
            t = node
    return t


class _Builder:
    def __init__(self, model: Model, split: bool, again: bool, inside: bool) -> None:
        self.split = split
        self.again = again
        self.inside = inside
        self.now: dict[int, Tensor] = {}  # what a tensor of the model is in this trace, by its identity
        self.numbers = numbered([*model.all_sublayers()] if inside else model.layers)
        self.values: list[Value] = []
        self.steps: list[Step] = []
        self.where: dict[int, int] = {}  # the value a tensor stands for, by the tensor's identity
        # The target, the error and the weights have these names; an input that is called so gets a number.
        letters = [f"{letter}{number}" for number in self.numbers.values() for letter in "WB"]
        self.names: Counter[str] = Counter(["y", "E", *letters])
        self.feedbacks: list[Feedback] = []
        self.output_names: dict[int, str] = {}

    def value(self, name: str, tensor: Tensor, symbolic: Tensor | None = None) -> int:
        self.names[name] += 1
        unique = name if self.names[name] == 1 else f"{name}_{self.names[name]}"
        self.values.append(Value(unique, tensor.shape, units(tensor.shape), tensor))
        if symbolic is not None:
            self.where[id(symbolic)] = len(self.values) - 1
            self.now[id(symbolic)] = tensor
        return len(self.values) - 1

    def known(self, value: Any) -> tuple[int, ...]:
        tensors = flattened(value)
        for x in tensors:
            if id(x) not in self.where and isinstance(x, Feedback):
                self.feedbacks.append(x)
                self.value("", x, x)
        return tuple(self.where[id(x)] for x in tensors if id(x) in self.where)

    def close(self) -> None:
        """Say what each feedback is one step late, now that all values are there."""
        for x in self.feedbacks:
            assert x.connected is not None
            (source,) = self.known(x.connected)
            place, given = self.where[id(x)], x.variable.name
            name = f"{self.values[source].name}(t−1)" if given == "Feedback" else given
            self.values[place] = replace(self.values[place], name=name)
            start, mask = (None if given is None else self.current(given) for given in (x.initial_state, x.mask))
            late = {"late": True, "feedback": x, "start": start, "mask": mask}
            self.steps.append(Step(name, "Feedback", "one step late", (source,), (place,), EACH, **late))  # type: ignore[arg-type]

    def letter(self, layer: Layer, inputs: tuple[int, ...]) -> str:
        if id(layer) in self.numbers:
            return f"h{self.numbers[id(layer)]}"
        if isinstance(layer, Activation) and inputs:
            before = self.values[inputs[0]].name
            if before.startswith("t") and before[1:].isdigit():
                return "h" + before[1:]
        letter = next((letter for kind, letter in _LETTERS.items() if isinstance(layer, kind)), "v")
        self.names[f"#{letter}"] += 1
        return f"{letter}{self.names[f'#{letter}']}"

    def current(self, x: Tensor) -> Tensor:
        origin = x.variable.origin if x.op == "variable" else None
        return self.now.get(id(x), x if origin is None else leaf(origin))

    def made(self, call: Call) -> tuple[Tensor, ...]:
        """What the layer gives: in the model's own graph, or traced again."""
        if not self.again:
            return call.outputs
        return tuple(flattened(call.layer.forward(*[mapped(x, self.current) for x in call.inputs])))

    def record(self, record: Call | Tensor) -> None:
        if isinstance(record, Call):
            if not self.entered(record):
                self.call(record)
        elif record.symbolic:
            self.operation(record)
        elif self.again:
            self.now[id(record)] = apply(record.op, *map(self.current, record.inputs), **record.attributes)

    def entered(self, call: Call) -> bool:
        """The steps of a model within the model, if they are wanted and it has no cycles."""
        model = call.layer
        if not self.inside or not isinstance(model, Network):
            return False
        sources, records = model.records()
        given = model.given_parts(call.inputs[0])
        read = [
            x for record in records for x in (flattened(list(record.inputs)) if isinstance(record, Call) else record.inputs)
        ]
        if any(isinstance(x, Feedback) for x in read) or any(
            x.shape != own.shape for x, own in zip(sources, given, strict=True)
        ):
            return False
        for x, own in zip(sources, given, strict=True):
            self._same(x, own)
        for record in records:
            self.record(record)
        for out, own in zip(call.outputs, model.outputs, strict=True):
            self._same(out, own)
        return True

    def _same(self, x: Tensor, known: Tensor) -> None:
        """Let a tensor stand for what another one stands for."""
        (self.where[id(x)],) = self.known(known)
        self.now[id(x)] = self.current(known)

    def call(self, call: Call) -> None:
        layer, made = call.layer, self.made(call)
        if isinstance(layer, Start):  # no step: it is a weight
            self.now.update((id(out), own) for out, own in zip(call.outputs, made, strict=True))
            return
        inputs = self.known(list(call.inputs))
        number = self.numbers.get(id(layer), 0)
        weights = tuple((weight_name(w, number), tuple(map(int, w.shape))) for w in layer.weights)
        parameters = sum(w.size for w in layer.weights)
        kind = type(layer).__name__
        if isinstance(layer, Dense):
            active = activation_name(layer.activation)
            linear = f"· {weights[0][0]}" + (f" + {weights[1][0]}" if len(weights) > 1 else "")
            (out,) = call.outputs
            if self.split and active:
                t = before_activation(layer, made[0])
                middle = self.value(f"t{number}", t)
                self.steps.append(
                    Step(layer.name, kind, linear, inputs, (middle,), DENSE, "", weights, parameters, layer.kernel)
                )
                end = self.value(self.output_names.get(id(out), f"h{number}"), made[0], out)
                links = EACH if active in _ELEMENTWISE else MIXED
                self.steps.append(Step(f"{layer.name} activation", "Activation", active, (middle,), (end,), links, active))
                return
            end = self.value(self.output_names.get(id(out), f"{'h' if active else 't'}{number}"), made[0], out)
            function = f"{linear}, {active}" if active else linear
            self.steps.append(
                Step(layer.name, kind, function, inputs, (end,), DENSE, active, weights, parameters, layer.kernel)
            )
            return
        name = self.letter(layer, inputs)
        outputs = tuple(
            self.value(self.output_names.get(id(out), name), own, out) for out, own in zip(call.outputs, made, strict=True)
        )
        links, function, active = MIXED, kind, ""
        if isinstance(layer, Activation):
            active = function = activation_name(layer.activation) or "identity"
            links = EACH if active in _ELEMENTWISE or active == "identity" else MIXED
        elif isinstance(layer, Concatenate):
            function, links = "concatenate", JOIN if layer.axis in (-1, call.outputs[0].ndim - 1) else MIXED
        elif isinstance(layer, (Add, Multiply)):
            function, links = "+" if isinstance(layer, Add) else "⊙", EACH
        elif isinstance(layer, Dropout):
            function, links = f"dropout {layer.rate:g}", EACH
        elif isinstance(layer, (Flatten, Reshape)):
            function, links = kind.lower(), EACH
        elif isinstance(layer, BatchNormalization):
            links = EACH
        self.steps.append(Step(layer.name, kind, function, inputs, outputs, links, active, weights, parameters))

    def operation(self, node: Tensor) -> None:
        """An expression that is written between layers."""
        inputs = self.known(list(node.inputs))
        if not inputs:
            return
        own = node
        if self.again:
            own = apply(node.op, *map(self.current, node.inputs), **node.attributes)
            if node.spelling is not None:
                own.spelling = Spelling(node.spelling.name, tuple(map(self.current, node.spelling.inputs)))
        name = node.spelling.name if node.spelling is not None else node.op
        self.names["#v"] += 1
        end = self.value(self.output_names.get(id(node), f"v{self.names['#v']}"), own, node)
        same = all(self.values[i].units == self.values[end].units for i in inputs)
        links = EACH if same and (name in _SIGNS or name in _ELEMENTWISE) and name != "matmul" else MIXED
        weights = tuple(
            (x.variable.name, tuple(map(int, x.shape))) for x in node.inputs if x.op == "variable" and not x.symbolic
        )
        sign = _SIGNS.get(name, name)
        for x in node.inputs:
            number = scalar_source(x)
            if (
                number is not None
                and number.op == "constant"
                and (number.attributes["times"], number.attributes["per"]) == (1, 1)
            ):
                sign += f" {number.attributes['value']:g}"
        self.steps.append(Step(name, "operation", sign, inputs, (end,), links, weights=weights))


def outline(model: Model, split: bool = False, inputs: Sequence[Tensor] | None = None, inside: bool = False) -> Outline:
    """What a built model is made of.

    split: a Dense with an activation is two steps, t = x W + B and h = f(t). inputs: trace the model again, for these; the
    values' tensors are then those of the new trace. inside: a model within it is the steps that it consists of.
    """
    model.require_built()
    sources, records = model.records()
    builder = _Builder(model, split, inputs is not None, inside)
    single = len(model.outputs) == 1
    for x, name in zip(model.outputs, ["N"] if single else model.output_names, strict=True):
        builder.output_names[id(x)] = name
    unnamed = len(sources) == 1 and not sources[0].variable.name.strip("x")
    given = tuple(
        builder.value("X" if unnamed else variable.name, own, x)
        for x, own, variable in zip(sources, inputs or sources, model.inputs, strict=True)
    )
    for record in records:
        builder.record(record)
    outputs = tuple(builder.where[id(x)] for x in model.outputs)
    builder.close()
    return Outline(model.name, tuple(builder.values), tuple(builder.steps), given, outputs)
