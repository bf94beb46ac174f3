"""Replay a plan on intervals of bytes, with code that shares nothing with the planner.

Memory is a map from bytes to the value that was last written there. A read must find its own value in every byte it looks at;
so no two live values can overlap, no variable is overwritten before its old value was read, and every read sees the last write.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aforo_backends.contract import OVERWRITTEN

from ..errors import Error
from ..graph import PRIMITIVES, Variable
from ..specs import DTYPES, Layout, at, count

if TYPE_CHECKING:
    from .draft import Operand
    from .plan import Plan, PlannedStep


class _Memory:
    """One storage: disjoint intervals, each with the value last written to it."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.intervals: list[tuple[int, int]] = []  # end, value

    def write(self, start: int, end: int, value: int) -> None:
        if start >= end:
            return
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
    if any(at(n, sizes) == 0 for n in layout.shape):
        return first * DTYPES[dtype], first * DTYPES[dtype]
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
    used = written | {read.value for step in plan.steps for read in step.reads} | {each.value for each in plan.outputs.values()}
    for index, value in enumerate(plan.values):
        if value.offset is None and index not in written and (index in used or value.variable is not None):
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
    parts = Counter(write.value for step in plan.steps for write in step.writes)
    for number, step in enumerate(plan.steps):
        if not step.after <= done:
            raise fault(number, f"runs before value {min(step.after - done)}, for which it waits")
        parts.subtract(write.value for write in step.writes)
        done.update(write.value for write in step.writes if not parts[write.value])
        looks = [read(operand, number) for operand in step.reads]
        targets = [locate(write) for write in step.writes]
        for write, target in zip(step.writes, targets, strict=True):
            if target[0] is arena and target[2] > plan.peak_bytes:
                raise fault(number, "writes beyond the arena")
            home = plan.values[write.value].variable
            if home is not None and target[2] > DTYPES[home.dtype] * at(count(home.shape), sizes):
                raise fault(number, f"writes beyond {home}")
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
        if step.loop is not None:
            try:
                _verify_loop(plan, step, sizes)
            except Error as error:
                raise fault(number, f"is a loop that {error}") from None
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
    return a[0] is b[0] and max(a[1], b[1]) < min(a[2], b[2])


def _whole(plan: Plan, index: int) -> Operand:
    from .draft import Operand

    return Operand(index, Layout.dense(plan.values[index].shape))


def _verify_loop(plan: Plan, step: PlannedStep, sizes: Mapping[str, int]) -> None:
    """Replay the body on memories of its own, and show that these are apart at every step of the loop.

    What moves goes by the same number of bytes at each step, so that the first two steps and the last stand for all.
    """
    loop = step.loop
    assert loop is not None
    verify(loop.plan, sizes)
    room = _end(plan, loop.memory, sizes) if loop.memory in step.scratch and loop.memory is not None else 0
    if room < loop.plan.peak_bytes:
        raise Error("has too little memory for its body")
    length = at(loop.length, sizes)
    places: dict[Any, tuple[int, int, int, int]] = {}  # of each variable: value, first byte, end, bytes to the next step
    for slot in loop.slots:
        dtype = plan.values[slot.operand.value].dtype
        start, end = span(slot.operand, dtype, sizes)
        places[slot.variable] = slot.operand.value, start, end, at(slot.move, sizes) * DTYPES[dtype]
    given: dict[int, list[tuple[int, int]]] = {operand.value: [] for operand in (*step.reads, *step.writes)}
    for operand in (*step.reads, *step.writes):
        given[operand.value].append(span(operand, plan.values[operand.value].dtype, sizes))
    results = {operand.value for operand in step.writes}
    begun: set[tuple[int, int, int]] = set()
    for source, target in loop.starts:
        if source not in step.reads or target.value not in results or source.layout.shape != target.layout.shape:
            raise Error("starts from something that is not there")
        start, end = span(target, plan.values[target.value].dtype, sizes)
        begun.add((target.value, start, end))

    written = [variable for variable in loop.plan.updates if variable in places]
    if len(written) < len(loop.plan.updates) or any(variable not in places for variable in loop.plan.variables):
        raise Error("has a variable without a place")

    def place(variable: Any, turn: int) -> tuple[int, int, int]:
        value, start, end, move = places[variable]
        return value, start + turn * move, end + turn * move

    still = {where for where in begun if all(places[variable][0] != where[0] for variable in written)}  # never written again
    for turn in sorted({0, min(1, length - 1), length - 1} if length else ()):
        now = {variable: place(variable, turn) for variable in places}
        before = {place(variable, turn - 1) for variable in written} | still if turn else begun
        for variable, (value, start, end) in now.items():
            if not any(low <= start and end <= high for low, high in given.get(value, ())):
                raise Error(f"reaches out of value {value} at step {turn}")
            if variable in written and value not in results:
                raise Error(f"writes to value {value}, which it is only given")
            if value in results and variable in _reads(loop.plan) and (value, start, end) not in before:
                raise Error(f"reads at step {turn} what no step before has written")
            for other in written:
                if other is not variable and value == now[other][0] and start < now[other][2] and now[other][1] < end:
                    raise Error(f"writes two values to the same bytes at step {turn}")
    for value in results:
        if any(where == (value, 0, _end(plan, _whole(plan, value), sizes)) for where in still):
            continue
        pieces = [(end - start, move) for variable in written for v, start, end, move in [places[variable]] if v == value]
        if len(pieces) != 1 or (pieces[0][1] and abs(pieces[0][1]) != pieces[0][0]):
            raise Error(f"does not write value {value} piece by piece")
        size, move = pieces[0]
        first = sum(end - start for v, start, end in begun if v == value) if move else 0
        if size * (length if move else 1) + first != _end(plan, _whole(plan, value), sizes):
            raise Error(f"does not write all of value {value}")


def _reads(plan: Plan) -> set[Any]:
    """The variables whose value from before the program is read."""
    written = {operand.value for step in plan.steps for operand in step.writes}
    read = {operand.value for step in plan.steps for operand in step.reads} - written
    return {plan.values[index].variable for index in read}


def _end(plan: Plan, operand: Operand, sizes: Mapping[str, int]) -> int:
    return span(operand, plan.values[operand.value].dtype, sizes)[1]
