"""Nets: what lies between the inputs and the outputs of a model, so that it can be applied again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InvalidType, InvalidValue, explain
from .graph import BATCH as BATCH_ROLE
from .graph import Tensor, Variable, apply, leaf
from .layers.call import Call
from .layers.context import Context, collecting
from .layers.layer import Layer
from .recurrence import Cycle, Feedback, Record, needed, ordered, read_by, replayed, turn
from .settings import strict
from .specs import BATCH, TIME, Shape, Size, as_dtype, as_sample, replaced, written


@strict
def Input(shape: Any, dtype: Any = "float32", name: str | None = None) -> Tensor:
    """What a model is fed: a symbolic tensor of shape (batch, *shape), to call layers on.

    The first size may be None: a time axis, of any length. All sequences of a model have the same number of steps.
    """
    sizes: Shape = (BATCH, *as_sample(shape, "the shape of an Input"))
    return leaf(Variable(name or "", sizes, as_dtype(dtype), BATCH_ROLE, owner="batch"))


@dataclass(frozen=True)
class Topology:
    """Layers and operations in an order in which they can run."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    records: tuple[Record, ...]
    runs: tuple[Record | Cycle, ...]  # the same in an order in which they can run, those of a cycle together

    @property
    def layers(self) -> list[Layer]:
        """Every layer once, in the order of first call."""
        return list(dict.fromkeys(record.layer for record in self.records if isinstance(record, Call)))

    @property
    def calls(self) -> list[Call]:
        return [record for record in self.records if isinstance(record, Call)]

    @property
    def cycles(self) -> list[Cycle]:
        return [run for run in self.runs if isinstance(run, Cycle)]

    def replay(self, values: Sequence[Tensor], steps: Size = TIME) -> list[Tensor]:
        """The outputs for other inputs. steps: how long cycles run that no input drives."""
        now: dict[int, Tensor] = {id(x): value for x, value in zip(self.inputs, values, strict=True)}
        weights = {weight.variable: weight for layer in self.layers for weight in layer.weights}

        def current(x: Tensor) -> Tensor:
            if id(x) not in now:
                now[id(x)] = self._leaf(x, weights, sizes)
            return now[id(x)]

        sizes: dict[str, Size] = {"time": steps}
        for x, value in zip(self.inputs, values, strict=True):
            sizes |= {symbol: size for symbol, axis in _symbols(x) for size in [value.shape[axis]]}
        for run in self.runs:
            if isinstance(run, Cycle):
                given = {id(x): current(x) for x in run.sources}
                now |= run.run(given, sizes.get("batch", BATCH), sizes["time"], current)
            else:
                replayed([run], now, current, sizes)
        return [current(x) for x in self.outputs]

    def _leaf(self, x: Tensor, weights: Mapping[Variable, Tensor], sizes: Mapping[str, Size]) -> Tensor:
        """What is computed from nothing: weights as they are now; constants, which may count rows or steps, at these sizes."""
        if x.op != "variable":
            attributes = {key: replaced(value, sizes) for key, value in x.attributes.items()}
            return x if attributes == x.attributes else apply(x.op, **attributes)
        # A weight in an expression between layers is the weight itself, not its value when this was written.
        origin = x.variable.origin
        return x if origin is None else weights[origin] if origin in weights else leaf(origin)


def _symbols(x: Tensor) -> list[tuple[str, int]]:
    """Which axes of an input are the batch and time."""
    return [(symbol, x.shape.index(size)) for symbol, size in (("batch", BATCH), ("time", TIME)) if size in x.shape]


def capture(inputs: Sequence[Tensor], outputs: Sequence[Tensor], steps: int | None = None) -> Topology:
    """Follow the outputs back to the inputs."""
    for x in inputs:
        if not isinstance(x, Tensor) or x.op != "variable" or not x.symbolic or isinstance(x, Feedback):
            fix = "x = af.Input([d_in])"
            raise InvalidType(explain("a model starts from inputs.", expected="af.Input([d_in])", received=repr(x), fix=fix))
    for x in outputs:
        if not isinstance(x, Tensor) or not x.symbolic:
            raise InvalidType(
                explain(
                    "a model ends with what its layers give.",
                    expected="a tensor computed from an Input",
                    received=repr(x),
                    fix="x = af.Input([d_in]); model = af.Model(x, af.Dense(4)(x))",
                )
            )
    given = {id(x) for x in inputs}
    reached: set[int] = set()
    records: dict[int, Record] = {}
    feedbacks: list[Feedback] = []
    seen = {id(x) for x in outputs}
    stack = list(outputs)
    while stack:
        x = stack.pop()
        if id(x) in given:
            reached.add(id(x))
            continue
        if isinstance(x, Feedback):
            feedbacks.append(x)
            before = needed(x)
        elif x.call is not None:
            records[id(x.call)] = x.call
            before = needed(x.call)
        else:
            if x.op == "variable" and x.symbolic:
                raise InvalidValue(
                    explain(
                        f"the output depends on an input that the model is not given: {_named(x)}.",
                        expected="every Input on the way to the output in the model's first argument",
                        received=", ".join(_named(i) for i in inputs),
                        fix="af.Model([a, b], y)",
                    )
                )
            if x.inputs:  # also what is computed beside the inputs, from weights or arrays: at every step anew
                records[id(x)] = x
            before = list(x.inputs)
        for each in before:
            if id(each) not in seen:
                seen.add(id(each))
                stack.append(each)
    for x in inputs:
        if id(x) not in reached:
            raise InvalidValue(
                explain(
                    f"the output does not depend on the input {_named(x)}.",
                    expected="layers that lead from every input to an output",
                    received="no path",
                    fix="leave the input out, or use it: af.Concatenate()([h, x])",
                )
            )

    for record in records.values():
        for x in read_by(record):
            _follow(x)
    found = sorted(records.values(), key=turn)
    topology = Topology(tuple(inputs), tuple(outputs), tuple(found), tuple(ordered(found, feedbacks, outputs)))
    _check_length(topology, steps)
    return topology


def _follow(x: Tensor) -> None:
    """Let a weight in an expression between layers be the weight itself from here on: nobody keeps what it was."""
    weight = x.variable.origin if x.op == "variable" else None
    if weight is not None:
        if weight.snapshot is not None and weight.snapshot() is x:
            weight.snapshot = None
        x.variable.source, x.variable.storage, x.variable.array = weight, None, None


def _check_length(topology: Topology, steps: int | None) -> None:
    """A model with cycles knows how long they run, and they can run step by step."""
    timed = [x for x in topology.inputs if TIME in x.shape]
    if steps is not None and (timed or not topology.cycles):
        raise InvalidValue(
            explain(
                "steps says how long cycles run that no input drives.",
                expected="no steps: " + (f"the length follows from {_named(timed[0])}" if timed else "the model has no cycle"),
                received=f"steps={steps}",
                fix="af.Model(x, y)",
            )
        )
    if topology.cycles and not timed and steps is None:
        raise InvalidValue(
            explain(
                "no input has a time axis, so it is not known how many steps the cycle runs.",
                expected="an input of shape (batch, time, …), or steps",
                received=", ".join(map(_named, topology.inputs)),
                fix="af.Model(x, y, steps=10)",
            )
        )
    for cycle in topology.cycles:
        with collecting(Context(training=True)):
            cycle.check()
        cycle.cut()


def _named(x: Tensor) -> str:
    return f"{x.variable.name or 'Input'} {written(x.shape)}"


@dataclass(frozen=True)
class Structure:
    """How several inputs or outputs are given: one, a list of them, or a dict by name."""

    names: tuple[str, ...]
    kind: str  # "one", "list" or "dict"

    @staticmethod
    def of(value: Any, names: Sequence[str]) -> Structure:
        if isinstance(value, Mapping):
            return Structure(tuple(value), "dict")
        return Structure(tuple(names), "list" if isinstance(value, (list, tuple)) else "one")

    def split(self, data: Any, what: str) -> list[Any]:
        """One piece of data for each name."""
        if self.kind == "one" and not isinstance(data, Mapping):
            return [data]
        if isinstance(data, Mapping):
            missing, extra = set(self.names) - set(data), set(data) - set(self.names)
            if missing or extra:
                raise InvalidValue(
                    explain(
                        f"{what} has other names than the model.",
                        expected=", ".join(self.names),
                        received=", ".join(map(str, data)),
                        fix=self._example(),
                    )
                )
            return [data[name] for name in self.names]
        if not isinstance(data, (list, tuple)) or len(data) != len(self.names):
            received = f"{type(data).__name__}" + (f" of {len(data)}" if hasattr(data, "__len__") else "")
            raise InvalidValue(
                explain(
                    f"{what} must hold {len(self.names)} arrays.",
                    expected="a list in this order, or a dict: " + ", ".join(self.names),
                    received=received,
                    fix=self._example(),
                )
            )
        return list(data)

    def _example(self) -> str:
        return "{" + ", ".join(f'"{name}": …' for name in self.names) + "}"

    def joined(self, values: Sequence[Any]) -> Any:
        """The values in the form the model was given its own."""
        if self.kind == "one":
            return values[0]
        return dict(zip(self.names, values, strict=True)) if self.kind == "dict" else list(values)
