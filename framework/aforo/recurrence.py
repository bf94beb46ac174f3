"""Cyclic nets: values that reach an earlier layer one time step later.

A `Feedback` stands for a value one step ago. What lies on a cycle through feedback edges becomes one loop over time: crossing
and nested edges share it, cycles that do not touch have one each. Everything else sees whole sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_changes
from typing import Any

import numpy as np

from . import ops
from .errors import InvalidState, InvalidType, InvalidValue, explain
from .graph import BATCH as BATCH_ROLE
from .graph import PRIMITIVES, Place, Spelling, Tensor, Variable, apply, tracing, within
from .graph.place import user_line
from .layers.call import Call, flattened, mapped
from .layers.context import Context, collecting, current
from .layers.layer import Layer
from .layers.recur import Steps, chosen
from .loop import placeholder
from .mixing import check_steps
from .ops.operands import as_tensor
from .settings import flag, strict, title, whole
from .specs import BATCH, TIME, Shape, Size, as_dtype, as_shape, fits, replaced, written


class Start(Layer):
    """A state to start from that is learnt: one weight, the same for every sample."""

    def __init__(self, shape: Shape, dtype: str, **options: Any) -> None:
        super().__init__(**options)
        self.dtype = dtype
        self.initial_state = self.add_weight(shape, "zeros", "initial_state")
        self.built = True

    def forward(self) -> Tensor:  # type: ignore[override]
        return apply("identity", self.initial_state)

    def call(self) -> Tensor:
        """Its value, from which a model can follow it."""
        with tracing():  # a model reads the weight itself, not what it was when this was written
            value = self.forward()
        value.call = Call(self, (), (value,))
        return value


class Feedback(Tensor):
    """A value one time step ago: (batch, time, *shape). `connect` says which; at the first step it is `initial_state`.

    initial_state   zeros unless given: an array of `shape`, or what a model computes or reads, (batch, *shape) or `shape`;
                    "learnt": a weight
    mask            (batch, time), bool, an input or what is computed from one: where it is false, the value stays as it is
    truncate        gradients stop at every so many steps (truncated back-propagation); None: never
    recompute       training keeps the states of the cycle every √time steps, and computes what is between again
    """

    __slots__ = ("connected", "initial_state", "mask", "recompute", "truncate")

    @strict
    def __init__(
        self,
        shape: Any,
        initial_state: Any = None,
        *,
        mask: Any = None,
        truncate: int | None = None,
        recompute: bool = False,
        dtype: Any = "float32",
        name: str | None = None,
    ) -> None:
        sizes, kind = as_shape(shape, "the shape of a Feedback"), as_dtype(dtype)
        variable = Variable(title(name) or "Feedback", (BATCH, TIME, *sizes), kind, BATCH_ROLE, owner="feedback")
        place = Place(site=user_line())
        super().__init__(PRIMITIVES["variable"], (), {"variable": variable}, variable.shape, kind, place)
        self.connected: Tensor | None = None
        self.truncate = 0 if truncate is None else whole("truncate", truncate, 1)
        self.recompute = flag("recompute", recompute)
        self.mask = self._checked_mask(mask)
        self.initial_state = self._checked_start(initial_state, sizes)

    def _checked_mask(self, mask: Any) -> Tensor | None:
        if mask is None:
            return None
        given = as_tensor(mask)
        if given.dtype != "bool" or given.shape != (BATCH, TIME):
            raise InvalidValue(
                explain(
                    f"the mask of {self} does not fit it.",
                    expected="shape (batch, time), bool",
                    received=f"{written(given.shape)} {given.dtype}",
                    fix='af.Feedback([5], mask=af.Input([None], dtype="bool"))',
                )
            )
        return given

    def _checked_start(self, start: Any, sizes: Shape) -> Tensor | None:
        if start is None:
            return None
        if isinstance(start, str):
            if start not in ("learnt", "zeros"):
                raise InvalidValue(
                    explain(
                        f"{self} cannot start from {start!r}.",
                        expected='"zeros", "learnt", or a tensor',
                        fix=f'af.Feedback({[*sizes]}, initial_state="learnt")',
                    )
                )
            return Start(sizes, self.dtype).call() if start == "learnt" else None
        if not isinstance(start, Tensor):
            start = np.asarray(start)
            start = start.astype(self.dtype) if start.dtype.kind in "fiub" else start
        given = as_tensor(start, self.dtype)
        if given.dtype != self.dtype:
            raise InvalidType(
                explain(
                    f"{self} cannot start from {given.dtype}.",
                    expected=self.dtype,
                    received=f"{written(given.shape)} {given.dtype}",
                    fix=f'af.ops.cast(state, "{self.dtype}")',
                )
            )
        if given.shape != sizes and (not fits(given.shape, (BATCH, *sizes)) or given.shape[0] != BATCH):
            by_row = fits(given.shape, (BATCH, *sizes))
            if by_row:
                fix = f"initial_state=af.Input({[*sizes]})"
            elif not given.shape:
                fix = f"np.full({written(sizes)}, state)"
            elif given.shape[1:2] == (TIME,):
                fix = "state[:, -1], what a sequence ends with"
            else:
                fix = f"af.Dense({sizes[-1]})(state) gives it the right size"
            raise InvalidValue(
                explain(
                    f"{self} cannot start from {'rows of numbers' if by_row else 'a state of another size'}.",
                    expected=f"shape {written(sizes)} or, of a value that comes with each batch, {written((BATCH, *sizes))}",
                    received=written(given.shape),
                    fix=fix,
                )
            )
        return given

    def connect(self, value: Any) -> None:
        """Say whose value this is, one step later."""
        if not isinstance(value, Tensor):
            raise InvalidType(
                explain(
                    f"{self} is connected to what a layer gives.",
                    expected="a tensor computed from inputs and feedbacks",
                    received=type(value).__name__,
                    fix="back.connect(af.Dense(5)(x))",
                )
            )
        if self.connected is not None:
            raise InvalidState(
                explain(
                    f"{self} is connected already.",
                    expected="one connection for each Feedback",
                    received=f"a second one, to {value!r}",
                    fix=f"another = af.Feedback({[*self.shape[2:]]})",
                )
            )
        if value.shape != self.shape or value.dtype != self.dtype:
            missing = value.ndim == self.ndim - 1 and value.call is not None and hasattr(value.call.layer, "return_sequences")
            own = f", dtype={value.dtype!r}" * (value.dtype != self.dtype)
            if missing:
                fix = "return_sequences=True in that layer"
            elif value.shape[:2] != (BATCH, TIME):
                fix = "a value computed from this feedback, step by step"
            else:
                fix = f"af.Feedback({[*value.shape[2:]]}{own})"
            raise InvalidValue(
                explain(
                    f"{self} is connected to a value of another shape.",
                    expected=f"{written(self.shape)} {self.dtype}",
                    received=f"{written(value.shape)} {value.dtype}",
                    fix=fix,
                )
            )
        self.connected = value

    def __str__(self) -> str:
        return f"the feedback {self.variable.name!r} {written(self.shape)} made at {self.place.site}"


Record = Call | Tensor
Current = Callable[[Tensor], Tensor]


def replayed(records: Sequence[Record], now: dict[int, Tensor], current: Current, sizes: Mapping[str, Size]) -> None:
    """Run layers and operations again, on other values: `now` holds them by the ids of what was there at first.

    sizes: what the symbols of the first run are now.
    """
    for record in records:
        if not isinstance(record, Call):
            attributes = {key: replaced(value, sizes) for key, value in record.attributes.items()}
            again = apply(record.op, *map(current, record.inputs), **attributes)
            if record.spelling is not None:
                again.spelling = Spelling(record.spelling.name, tuple(map(current, record.spelling.inputs)))
            now[id(record)] = again
            continue
        made = flattened(record.layer.forward(*[mapped(x, current) for x in record.inputs]))
        for x, value in zip(record.outputs, made, strict=True):
            if not fits(value.shape[1:], x.shape[1:]):
                raise InvalidState(
                    explain(
                        f"layer {record.layer.name!r} has changed since the model was made.",
                        expected=f"outputs of shape {written(x.shape)}",
                        received=written(value.shape),
                        fix="make the model anew: af.Model(inputs, outputs)",
                    )
                )
            now[id(x)] = value


def made_by(record: Record) -> tuple[Tensor, ...]:
    return record.outputs if isinstance(record, Call) else (record,)


def read_by(record: Record) -> list[Tensor]:
    return [x for value in record.inputs for x in flattened(value)]


class Whole:
    """Shows a step whole sequences instead of one step, so that it can be seen what the operations do with them."""

    whole = True

    def __init__(self, cyclic: bool = True, cut: int = 0) -> None:
        self.cyclic, self.cut = cyclic, cut
        self.starts: list[Tensor] = []
        self.kept: list[Tensor] = []  # what states become, and the masks that say when

    def carry(self, initial: Tensor, name: str) -> Tensor:
        self.starts.append(initial)
        return placeholder((initial.shape[0], TIME, *initial.shape[1:]), initial.dtype, "state")

    def keep(self, state: Tensor, after: Tensor) -> None:
        self.kept.append(after)

    def turn(self) -> None:
        """All steps are there at once."""


@dataclass(frozen=True)
class Cycle:
    """Layers and operations that depend on one another, through feedback edges.

    sources   what they read that is made elsewhere
    outputs   what they give that is read elsewhere
    """

    feedbacks: tuple[Feedback, ...]
    records: tuple[Record, ...]
    sources: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def cut(self) -> int:
        """After how many steps gradients stop; 0: never."""
        given = {feedback.truncate for feedback in self.feedbacks if feedback.truncate}
        if len(given) > 1:
            raise InvalidValue(
                explain(
                    "feedbacks on one cycle stop gradients together.",
                    expected="the same truncate for all, or for one of them",
                    received=", ".join(map(str, sorted(given))),
                    fix=f"truncate={min(given)}",
                )
            )
        return max(given, default=0)

    def run(self, given: Mapping[int, Tensor], batch: Size, length: Size, current_value: Current) -> dict[int, Tensor]:
        """The outputs, by id, for values of the sources. batch and length: where no source says them."""
        axes = {id(x): _time_axis(x) for x in self.sources}
        for x in self.sources:
            axis = axes[id(x)]
            if axis is not None:
                length = given[id(x)].shape[axis]
            if x.shape[:1] == (BATCH,):
                batch = given[id(x)].shape[0]
        carrier = current().carrier
        if carrier is None:
            self.check()
        recompute = any(feedback.recompute for feedback in self.feedbacks)
        steps = Steps(length, cut=self.cut(), recompute=recompute)
        is_whole = steps.carrier.whole
        now: dict[int, Tensor] = {}
        for x in self.sources:
            axis = axes[id(x)]
            now[id(x)] = given[id(x)] if axis is None else steps.along(given[id(x)], axis)
        states = []
        for feedback in self.feedbacks:
            start = 0.0 if feedback.initial_state is None else given[id(feedback.initial_state)]
            initial = ops.broadcast_to(as_tensor(start, feedback.dtype), (batch, *feedback.shape[2:]))
            states.append(steps.carry(initial, feedback.variable.name))
            now[id(feedback)] = states[-1] if is_whole else ops.expand_dims(states[-1], 1)

        def inside(x: Tensor) -> Tensor:
            return now[id(x)] if id(x) in now else current_value(x)

        with collecting(with_changes(current(), carrier=steps.carrier)):
            replayed(self.records, now, inside, {"batch": batch, "time": length if is_whole else 1})
        for feedback, state in zip(self.feedbacks, states, strict=True):
            assert feedback.connected is not None
            after = inside(feedback.connected)
            after = after if is_whole else ops.squeeze(after, 1)
            if feedback.mask is not None:
                here = inside(feedback.mask)
                after = chosen(here if is_whole else ops.squeeze(here, 1), after, state)
            steps.keep(state, after)
        with within(layer=self._layer()):
            shown = steps.shown([(now[id(x)], _time_axis(x) or 0) for x in self.outputs])
        return {id(x): value for x, value in zip(self.outputs, shown, strict=True)}

    def _layer(self) -> str | None:
        """The layer that the loop counts to: the one that closes the first cycle."""
        value = self.feedbacks[0].connected
        return value.call.layer.name if value is not None and value.call is not None else None

    def check(self) -> None:
        """Refuse operations that mix time steps."""
        now = {id(x): placeholder(x.shape, x.dtype, "source") for x in self.sources}
        context = Context(training=current().training, step=current().step, carrier=Whole(cut=self.cut()))
        now |= {id(x): placeholder(x.shape, x.dtype, "feedback") for x in self.feedbacks}
        with collecting(context), tracing():
            replayed(self.records, now, lambda x: now.get(id(x), x), {})
        made = [now[id(x)] for record in self.records for x in made_by(record)]
        check_steps(made, "stands on a cycle", along=True)


def _time_axis(x: Tensor) -> int | None:
    return x.shape.index(TIME) if TIME in x.shape else None


def turn(record: Record) -> float:
    return max(x.serial for x in made_by(record))


def ordered(records: Sequence[Record], feedbacks: Sequence[Feedback], wanted: Sequence[Tensor]) -> list[Record | Cycle]:
    """Records in an order in which they can run; those on cycles together."""
    if not feedbacks:
        return [*sorted(records, key=turn)]
    nodes: list[Record | Feedback] = [*sorted(records, key=turn), *feedbacks]
    maker: dict[int, int] = {}
    for i, node in enumerate(nodes):
        for x in (node,) if isinstance(node, Feedback) else made_by(node):
            maker[id(x)] = i
    needs = [sorted({maker[id(x)] for x in needed(node) if id(x) in maker}) for node in nodes]
    groups = _components(needs)
    group_of = {i: g for g, group in enumerate(groups) for i in group}
    parts: list[Record | Cycle] = []
    for group in groups:  # each after those it needs
        own = [nodes[i] for i in sorted(group)]
        if not any(isinstance(node, Feedback) for node in own):
            parts.extend(node for node in own if not isinstance(node, Feedback))
            continue
        parts.append(_cycle(own, {i: nodes[i] for i in range(len(nodes)) if i not in group}, wanted))
    assert len(group_of) == len(nodes)
    return parts


def needed(node: Record | Feedback) -> list[Tensor]:
    """What a layer, an operation or a feedback is computed from."""
    if not isinstance(node, Feedback):
        return read_by(node)
    if node.connected is None:
        raise InvalidState(
            explain(
                f"{node} is never connected.",
                expected="back.connect(value) before the model is made",
                received="a Feedback without a value",
                fix="back.connect(state)",
            )
        )
    return [x for x in (node.connected, node.mask, node.initial_state) if x is not None]


def _cycle(own: Sequence[Record | Feedback], others: Mapping[int, Record | Feedback], wanted: Sequence[Tensor]) -> Cycle:
    feedbacks = tuple(node for node in own if isinstance(node, Feedback))
    records = tuple(node for node in own if not isinstance(node, Feedback))
    inside = {id(x) for record in records for x in made_by(record)} | {id(x) for x in feedbacks}
    reads = [x for node in own for x in needed(node)]
    for feedback in feedbacks:
        for x, what in ((feedback.initial_state, "initial state"), (feedback.mask, "mask")):
            if x is not None and id(x) in inside:
                raise InvalidValue(
                    explain(
                        f"the {what} of {feedback} depends on its own cycle.",
                        expected="a value that is known before the first step",
                        fix=f"compute the {what} from inputs",
                    )
                )
    local = {id(x): x for x in reads if id(x) not in inside and _spreads(x)}
    records = (*local.values(), *records)
    reads += [each for x in local.values() for each in x.inputs]
    inside |= local.keys()
    sources = {id(x): x for x in reads if id(x) not in inside}
    elsewhere = [x for node in others.values() for x in needed(node)]
    outputs = {id(x): x for x in (*elsewhere, *wanted) if id(x) in inside and id(x) not in local}
    return Cycle(feedbacks, records, tuple(sources.values()), tuple(outputs.values()))


def _spreads(x: Tensor) -> bool:
    """Whether a value is the same at every step: it is then repeated inside of the loop, where that costs nothing."""
    return x.op == "broadcast" and x.call is None and TIME in x.shape and TIME not in x.inputs[0].shape


def _components(needs: Sequence[Sequence[int]]) -> list[list[int]]:
    """Strongly connected components, each after those it needs (Tarjan, 1972, without recursion)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    open_: list[int] = []
    is_open: set[int] = set()
    found: list[list[int]] = []
    for root in range(len(needs)):
        if root in order:
            continue
        work = [(root, iter(needs[root]))]
        order[root] = low[root] = len(order)
        open_.append(root)
        is_open.add(root)
        while work:
            node, rest = work[-1]
            for other in rest:
                if other not in order:
                    order[other] = low[other] = len(order)
                    open_.append(other)
                    is_open.add(other)
                    work.append((other, iter(needs[other])))
                    break
                if other in is_open:
                    low[node] = min(low[node], order[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    group: list[int] = []
                    while not group or group[-1] != node:
                        group.append(open_.pop())
                        is_open.discard(group[-1])
                    found.append(group)
    return found
