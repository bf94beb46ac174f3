"""Steps before anyone decides on order and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aforo_backends.contract import OVERWRITTEN

from ..graph import PRIMITIVES, Place, Tensor, Variable
from ..specs import FLOATS, Layout, Shape, Size, at, count


@dataclass(frozen=True)
class Operand:
    """A way of looking at a value."""

    value: int
    layout: Layout


@dataclass(frozen=True)
class Constant:
    """A value that is the same at every step: `constant`, `iota` or `ones`, and what describes it."""

    op: str
    attributes: tuple[tuple[str, Any], ...]
    shape: Shape
    dtype: str

    @staticmethod
    def of(node: Tensor) -> Constant:
        return Constant(node.op, tuple(sorted(node.attributes.items())), node.shape, node.dtype)

    def __str__(self) -> str:
        return f"{self.op} {self.shape} {self.dtype}"

    @property
    def is_sized(self) -> bool:
        """Whether its value depends on the sizes a program runs at."""
        a = dict(self.attributes)
        return self.op == "constant" and not (isinstance(a["times"], int) and isinstance(a["per"], int))

    def at(self, sizes: Mapping[str, int]) -> Any:
        """What it holds: a number, or an array."""
        a = dict(self.attributes)
        if self.op != "constant":
            size = at(a["size"], sizes)
            return np.arange(size, dtype=self.dtype) if self.op == "iota" else np.ones(size, self.dtype)
        if isinstance(a["value"], bytes):
            return np.frombuffer(a["value"], self.dtype).reshape(self.shape)
        number = a["value"] * at(a["times"], sizes) / at(a["per"], sizes)
        return number if self.dtype in FLOATS else bool(number) if self.dtype == "bool" else int(number)


@dataclass
class Value:
    """Something with memory of its own while a program runs.

    In the arena, unless it is what `variable` holds (before or after the program), or a constant.
    """

    shape: Shape
    dtype: str
    place: Place
    variable: Variable | None = None
    constant: Constant | None = None

    @property
    def in_arena(self) -> bool:
        return self.variable is None and self.constant is None


@dataclass
class Step:
    """One instruction: reads, then writes dense values, most often one; or a part of one (see `joined`)."""

    op: str
    place: Place
    reads: tuple[Operand, ...]
    writes: tuple[int, ...]
    scratch: tuple[int, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    flops: Size = 0
    after: frozenset[int] = frozenset()  # values that must have been computed, though it does not read them
    loop: Any = None  # a plan.loops.Loop, where the step is one
    into: tuple[Layout | None, ...] = ()  # for each value that it writes: where in it; nothing, or None: all of it

    @property
    def needs(self) -> list[int]:
        """What must have been computed before it."""
        return [*(read.value for read in self.reads), *self.after]

    def written(self) -> list[tuple[int, Layout | None]]:
        """What it writes, and where in that; None: all of it."""
        return list(zip(self.writes, self.into or (None,) * len(self.writes), strict=True))

    @property
    def parts(self) -> set[int]:
        """The values of which it writes a part."""
        return {value for value, place in self.written() if place is not None}

    @property
    def overwrites(self) -> Sequence[int]:
        """The reads whose memory an output may take."""
        record = PRIMITIVES.get(self.op)
        return range(len(self.reads))[OVERWRITTEN[self.op]] if record is None else record.overwrites


@dataclass
class Draft:
    """Steps in the order of creation, before anyone decides on order and memory.

    chains   variable -> the values that lie in its memory one after the other, the last of them its new one; a variable that
             is given its own value has none
    """

    values: list[Value] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    outputs: dict[str, Operand] = field(default_factory=dict)
    chains: dict[Variable, list[int]] = field(default_factory=dict)
    old: dict[Variable, int] = field(default_factory=dict)

    _readers: list[list[int]] = field(default_factory=list)
    _read_steps: int = 0

    def readers(self) -> list[list[int]]:
        """For every value, the steps that read it."""
        found = self._readers
        found.extend([] for _ in range(len(found), len(self.values)))
        for index in range(self._read_steps, len(self.steps)):
            for operand in self.steps[index].reads:
                if index not in found[operand.value][-1:]:
                    found[operand.value].append(index)
        self._read_steps = len(self.steps)
        return found

    def writers(self) -> dict[int, int]:
        """For every value that is computed, the step that writes it."""
        return {value: index for index, step in enumerate(self.steps) for value in step.writes}

    def makers(self) -> dict[int, list[int]]:
        """For every value that is computed, all steps that write it or a part of it."""
        found: dict[int, list[int]] = {}
        for index, step in enumerate(self.steps):
            for value in step.writes:
                found.setdefault(value, []).append(index)
        return found

    def givers(self, step: Step, written: int) -> list[int]:
        """Inputs whose memory what the step writes may take, if it is their last reader: they lie as the output does."""
        out = self.values[written]
        walk = Layout.dense(out.shape).walk
        found = []
        for position in step.overwrites:
            read = step.reads[position].value
            value = self.values[read]
            if (
                value.in_arena
                and value.dtype == out.dtype
                and count(value.shape) == count(out.shape)
                and all(other.layout.walk == walk for other in step.reads if other.value == read)
            ):
                found.append(read)
        return found

    def add_value(self, shape: Shape, dtype: str, place: Place, **home: object) -> int:
        self.values.append(Value(shape, dtype, place, **home))  # type: ignore[arg-type]
        return len(self.values) - 1

    def add_copy(
        self, operand: Operand, place: Place, variable: Variable | None = None, after: frozenset[int] = frozenset()
    ) -> Operand:
        shape, dtype = operand.layout.shape, self.values[operand.value].dtype
        write = self.add_value(shape, dtype, place, variable=variable)
        self.steps.append(Step("copy", place, (operand,), (write,), after=after))
        return Operand(write, Layout.dense(shape))

    def release(self, variable: Variable) -> None:
        """Compute the variable's new value in the arena, and copy it into place when nothing reads the old one any more."""
        chain, writer = self.chains[variable], self.writers()
        for value in chain:
            self.values[value].variable = None
        last = Operand(chain[-1], Layout.dense(variable.shape))
        self.chains[variable] = [self.add_copy(last, self.steps[writer[chain[-1]]].place, variable).value]
