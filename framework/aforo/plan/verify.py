"""Replay a plan on intervals of bytes, with code that shares nothing with the planner.

Memory is a map from bytes to the value that was last written there. A read must find its own value in every byte it looks at;
so no two live values can overlap, no variable is overwritten before its old value was read, and every read sees the last write.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aforo_backends.contract import OVERWRITTEN

from ..errors import Error
from ..graph import PRIMITIVES, Variable
from ..specs import DTYPES, Layout, at

if TYPE_CHECKING:
    from .draft import Operand
    from .plan import Plan, PlannedStep


class _Memory:
    """One storage: disjoint intervals, each with the value last written to it."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.intervals: list[tuple[int, int]] = []  # end, value

    def write(self, start: int, end: int, value: int) -> None:
        self._cut(start)
        self._cut(end)
        i, j = bisect_left(self.starts, start), bisect_left(self.starts, end)
        self.starts[i:j] = [start]
        self.intervals[i:j] = [(end, value)]

    def _cut(self, at_byte: int) -> None:
        """Make sure that no interval reaches across this byte."""
        i = bisect_left(self.starts, at_byte) - 1
        if i >= 0 and self.intervals[i][0] > at_byte:
            end, value = self.intervals[i]
            self.intervals[i] = (at_byte, value)
            self.starts.insert(i + 1, at_byte)
            self.intervals.insert(i + 1, (end, value))

    def holds(self, start: int, end: int, value: int) -> bool:
        i = bisect_right(self.starts, start) - 1
        while start < end:
            if i < 0 or i >= len(self.starts) or self.starts[i] > start:
                return False
            top, owner = self.intervals[i]
            if owner != value or top <= start:
                return False
            start = top
            i += 1
        return True


def span(operand: Operand, dtype: str, sizes: Mapping[str, int]) -> tuple[int, int]:
    """The first byte and the end of what an operand looks at, relative to its value."""
    layout = operand.layout
    first = at(layout.offset, sizes)
    reach = sum((at(n, sizes) - 1) * at(step, sizes) for n, step in zip(layout.shape, layout.strides, strict=True))
    return first * DTYPES[dtype], (first + reach + 1) * DTYPES[dtype]


def verify(plan: Plan, sizes: Mapping[str, int] | None = None) -> None:
    """Raise an Error that names the step and the values if running the plan at these sizes could read a wrong byte."""
    sizes = plan.sizes if sizes is None else sizes
    arena = _Memory()
    own: dict[Any, _Memory] = {}
    before: dict[Any, int] = {}  # what variables and constants hold when the program starts
    spans: dict[tuple[int, str], tuple[int, int]] = {}

    def locate(operand: Operand) -> tuple[_Memory, int, int]:
        value = plan.values[operand.value]
        key = id(operand.layout), value.dtype
        if key not in spans:
            spans[key] = span(operand, value.dtype, sizes)
        start, end = spans[key]
        if value.offset is not None:
            return arena, value.offset + start, value.offset + end
        home: Any = value.variable if value.variable is not None else value.constant
        return own.setdefault(home, _Memory()), start, end

    def fault(step: int, what: str) -> Error:
        shown = str(plan).splitlines()[max(0, step - 2) : step + 2]
        return Error(f"the plan is not sound: step {step} {what}\n" + "\n".join(shown))

    def read(operand: Operand, step: int) -> tuple[_Memory, int, int]:
        where = locate(operand)
        if not where[0].holds(where[1], where[2], operand.value):
            raise fault(step, f"reads value {operand.value}, whose bytes were overwritten or never written")
        return where

    written = {operand.value for step in plan.steps for operand in (*step.writes, *step.scratch)}
    for index, value in enumerate(plan.values):
        if value.offset is None and index not in written:
            home = value.variable if value.variable is not None else value.constant
            if home in before:
                raise fault(0, f"needs value {index} of {home}, which nothing writes")
            before[home] = index
            operand = _whole(plan, index)
            memory, start, end = locate(operand)
            memory.write(start, end, index)
        elif value.offset is not None and (value.offset < 0 or value.offset % plan.profile.alignment):
            raise fault(0, f"uses value {index} at offset {value.offset}, which is not an aligned place in the arena")

    done = set(range(len(plan.values))) - written
    for number, step in enumerate(plan.steps):
        if not step.after <= done:
            raise fault(number, f"runs before value {min(step.after - done)}, for which it waits")
        done.update(write.value for write in step.writes)
        looks = [read(operand, number) for operand in step.reads]
        targets = [locate(write) for write in step.writes]
        for write, target in zip(step.writes, targets, strict=True):
            if target[0] is arena and target[2] > plan.peak_bytes:
                raise fault(number, "writes beyond the arena")
            if sum(_meet(target, other) for other in targets) > 1:
                raise fault(number, "writes two values to the same bytes")
            for position, (operand, where) in enumerate(zip(step.reads, looks, strict=True)):
                if _meet(where, target):
                    allowed = any(
                        other.value == operand.value and i in _overwritten(step) for i, other in enumerate(step.reads)
                    )
                    identical = operand.layout.walk == write.layout.walk and where == target
                    if not (allowed and identical):
                        raise fault(number, f"writes over its input {position}")
        for scratch in step.scratch:
            memory, start, end = where = locate(scratch)
            if end > plan.peak_bytes or any(_meet(where, other) for other in (*looks, *targets)):
                raise fault(number, "has scratch memory that meets its operands")
            memory.write(start, end, scratch.value)
        for write, (memory, start, end) in zip(step.writes, targets, strict=True):
            memory.write(start, end, write.value)
    for operand in plan.outputs.values():
        read(operand, len(plan.steps) - 1)
    for home, index in before.items():  # what is not updated keeps its value; what is, has its new one
        final = plan.updates.get(home, index) if isinstance(home, Variable) else index
        read(_whole(plan, final), len(plan.steps) - 1)
    for index in plan.updates.values():
        read(_whole(plan, index), len(plan.steps) - 1)


def _overwritten(step: PlannedStep) -> Sequence[int]:
    record = PRIMITIVES.get(step.op)
    return range(len(step.reads))[OVERWRITTEN[step.op]] if record is None else record.overwrites


def _meet(a: tuple[_Memory, int, int], b: tuple[_Memory, int, int]) -> bool:
    return a[0] is b[0] and a[1] < b[2] and b[1] < a[2]


def _whole(plan: Plan, index: int) -> Operand:
    from .draft import Operand

    return Operand(index, Layout.dense(plan.values[index].shape))
