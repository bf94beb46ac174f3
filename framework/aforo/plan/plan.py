"""The plan: every step of a program, and the byte where every value lies. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from aforo_backends.contract import Profile, round_up

from ..collector import uncollected
from ..graph import Graph, Place, Variable
from ..specs import Layout, Shape, Size, value_bytes, varies
from . import offsets
from .draft import Constant, Draft, Operand, Step
from .improve import Usage, improved
from .join import joined
from .loops import Loop, lower_loop
from .lower import for_backend, lower
from .order import by_creation, by_release, dependencies, settle
from .verify import verify

_PLACED = 4_000  # steps of all orders for which places are sought


@dataclass(frozen=True)
class PlannedValue:
    """A value and its memory: an offset in the arena, the memory of a variable, or that of a constant."""

    shape: Shape
    dtype: str
    place: Place
    offset: int | None = None
    variable: Variable | None = None
    constant: Constant | None = None

    def nbytes(self, sizes: Mapping[str, int]) -> int:
        return value_bytes(self.shape, self.dtype, sizes)


@dataclass(frozen=True)
class PlannedStep:
    op: str
    attributes: dict[str, Any]
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    scratch: tuple[Operand, ...]
    place: Place
    flops: Size
    after: frozenset[int] = frozenset()  # values it waits for without reading them
    loop: Loop | None = None


@dataclass(frozen=True)
class Buffer:
    """A part of the arena, the values that take turns in it, and the steps during which it is in use."""

    offset: int
    nbytes: int
    start: int
    end: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What runs, in which order, and where everything lies, for one backend and the largest sizes.

    It also runs at smaller sizes, at the same offsets.
    """

    profile: Profile
    sizes: Mapping[str, int]
    values: tuple[PlannedValue, ...]
    steps: tuple[PlannedStep, ...]
    buffers: tuple[Buffer, ...]
    outputs: Mapping[str, Operand]
    updates: Mapping[Variable, int]  # the value each updated variable ends with

    @cached_property
    def in_blocks(self) -> bool:
        """Whether a loop runs in blocks of steps."""
        loops = [step.loop for step in self.steps if step.loop is not None]
        return any(varies(loop.length, "span") or loop.plan.in_blocks for loop in loops)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether the plan can run at these sizes: none is larger, and what runs in blocks has its own number of steps."""
        if self.in_blocks and sizes["time"] != self.sizes["time"]:
            return False
        return all(self.sizes[name] >= sizes[name] for name in ("batch", "time"))

    @cached_property
    def peak_bytes(self) -> int:
        """Where the last buffer ends."""
        return max((buffer.offset + buffer.nbytes for buffer in self.buffers), default=0)

    @cached_property
    def arena_bytes(self) -> int:
        """What the arena takes from the allocator."""
        return self.profile.footprint(self.peak_bytes)

    @cached_property
    def live_bytes(self) -> list[int]:
        """Bytes in use at every step, its inputs and its output together."""
        change = [0] * (len(self.steps) + 1)
        for buffer in self.buffers:
            change[buffer.start] += buffer.nbytes
            change[buffer.end + 1] -= buffer.nbytes
        live, total = [], 0
        for step in range(len(self.steps)):
            total += change[step]
            live.append(total)
        return live

    @cached_property
    def lower_bound_bytes(self) -> int:
        """The arena no placement can undercut, for this order and this sharing, in the sizes the arena uses."""
        return self.profile.footprint(max(self.live_bytes, default=0))

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        return tuple(dict.fromkeys(value.variable for value in self.values if value.variable is not None))

    @cached_property
    def constants(self) -> tuple[Constant, ...]:
        own = [value.constant for value in self.values if value.constant is not None]
        within = [constant for step in self.steps if step.loop is not None for constant in step.loop.plan.constants]
        return tuple(dict.fromkeys([*own, *within]))

    def __str__(self) -> str:
        def where(operand: Operand) -> str:
            value = self.values[operand.value]
            if value.variable is not None:
                return f"{value.variable.owner}/{value.variable.name}"
            return f"arena+{value.offset}" if value.offset is not None else f"{value.constant}"

        return "\n".join(
            f"{i:4d} {step.op:12s} {', '.join(map(where, step.writes))} <- {', '.join(map(where, step.reads))}"
            for i, step in enumerate(self.steps)
        )


@uncollected
def make_plan(graph: Graph, profile: Profile, sizes: Mapping[str, int]) -> Plan:
    """Decide the order, what shares memory, and the offsets; then check all of it independently."""
    planned = partial(make_plan, profile=profile, sizes=sizes)
    draft = lower(for_backend(graph, profile), profile, sizes, partial(lower_loop, planned=planned))
    before = settle(draft)

    known: dict[tuple[Shape, str], int] = {}

    def nbytes(value: int) -> int:
        shape, dtype = draft.values[value].shape, draft.values[value].dtype
        if (shape, dtype) not in known:
            known[shape, dtype] = round_up(value_bytes(shape, dtype, sizes), profile.alignment)
        return known[shape, dtype]

    order, buffers, found = _placed(draft, before, nbytes)
    apart = joined(draft)
    if apart is not None:
        other = _placed(apart, dependencies(apart), nbytes)
        if _top(*other[1:]) <= _top(buffers, found):
            draft, (order, buffers, found) = apart, other
    offset = {value: where for where, (_, values) in zip(found, buffers, strict=True) for value in values}
    plan = Plan(
        profile=profile,
        sizes=dict(sizes),
        values=tuple(
            PlannedValue(value.shape, value.dtype, value.place, offset.get(i), value.variable, value.constant)
            for i, value in enumerate(draft.values)
        ),
        steps=_planned(draft, order),
        buffers=tuple(
            Buffer(where, interval.nbytes, interval.start, interval.end, tuple(values))
            for where, (interval, values) in zip(found, buffers, strict=True)
        ),
        outputs=dict(draft.outputs),
        updates={variable: chain[-1] for variable, chain in draft.chains.items()},
    )
    verify(plan)
    return plan


def _placed(
    draft: Draft, before: list[set[int]], nbytes: Callable[[int], int]
) -> tuple[list[int], list[tuple[offsets.Interval, list[int]]], list[int]]:
    """An order, the buffers it needs, and their offsets."""
    usage = Usage(draft, nbytes)
    first = [by_release(draft, before, nbytes), by_creation(draft, before)]
    orders = {tuple(order): usage.peak(order)[0] for order in [*(improved(usage, before, each) for each in first), *first]}
    best: tuple[int, list[int], list[tuple[offsets.Interval, list[int]]], list[int]] | None = None
    few = max(1, _PLACED // max(1, len(draft.steps)))
    for order, bound in sorted(orders.items(), key=lambda each: each[1])[:few]:
        if best is not None and best[0] <= bound:
            break  # what needs more at once is no better even when placed without a gap
        buffers = _share(draft, list(order), nbytes)
        found = offsets.place([interval for interval, _ in buffers])
        peak = _top(buffers, found)
        if best is None or peak < best[0]:
            best = peak, list(order), buffers, found
    assert best is not None
    return best[1:]


def _top(buffers: list[tuple[offsets.Interval, list[int]]], found: list[int]) -> int:
    """Where the last buffer ends."""
    return max((where + interval.nbytes for where, (interval, _) in zip(found, buffers, strict=True)), default=0)


def _planned(draft: Draft, order: list[int]) -> tuple[PlannedStep, ...]:
    def whole(value: int) -> Operand:
        return Operand(value, Layout.dense(draft.values[value].shape))

    def planned(step: Step) -> PlannedStep:
        writes = tuple(whole(value) if place is None else Operand(value, place) for value, place in step.written())
        scratch = tuple(map(whole, step.scratch))
        return PlannedStep(step.op, step.attributes, step.reads, writes, scratch, step.place, step.flops, step.after, step.loop)

    return tuple(planned(draft.steps[index]) for index in order)


def _share(draft: Draft, order: list[int], nbytes: Any) -> list[tuple[offsets.Interval, list[int]]]:
    """Buffers of the arena: a step may write over an input at its last reader, on the identical dense layout."""
    turn = {index: i for i, index in enumerate(order)}
    last = [max((turn[index] for index in steps), default=-1) for steps in draft.readers()]
    for operand in draft.outputs.values():
        last[operand.value] = len(order)
    members: dict[int, list[int]] = {}  # first value of a buffer -> its values
    first: dict[int, int] = {}
    start: dict[int, int] = {}

    for now, index in enumerate(order):
        step = draft.steps[index]
        for value in step.scratch:
            members[value], first[value], start[value], last[value] = [value], value, now, now
        given: set[int] = set()  # inputs whose memory an output of this step took
        for out in step.writes:
            if not draft.values[out].in_arena or (out in step.parts and out in first):
                continue
            givers = () if out in step.parts else draft.givers(step, out)
            taken = next((value for value in givers if last[value] == now and value not in given), -1)
            if taken < 0:
                members[out], first[out], start[out] = [out], out, now
            else:
                given.add(taken)
                first[out] = first[taken]
                members[first[out]].append(out)
    return [
        (
            offsets.Interval(
                nbytes(head), start[head], min(len(order) - 1, max(start[head], max(last[value] for value in values)))
            ),
            values,
        )
        for head, values in members.items()
    ]
