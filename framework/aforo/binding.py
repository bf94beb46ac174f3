"""A plan bound to a backend: every view made, every kernel chosen, loops unrolled to one call for each step of their bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aforo_backends.contract import ADDED_PRODUCT, Backend, Instruction, Storage, View

from .device import strided
from .specs import DTYPES, at

if TYPE_CHECKING:
    from .plan import Constant, Operand, Plan, PlannedStep
    from .plan.loops import Loop

PRODUCTS = ("matmul", ADDED_PRODUCT)
Call = Callable[[], object]
Home = tuple[
    Storage, int, int
]  # where a value lies: its storage, its first byte, the bytes from one step of a loop to the next


class Binding:
    """The calls of a plan at certain sizes, and the backend's arrays over its values."""

    def __init__(
        self,
        plan: Plan,
        sizes: Mapping[str, int],
        backend: Backend,
        arena: Storage | None,
        constants: Mapping[Constant, Storage],
        tf32: bool = False,
    ) -> None:
        self.tf32 = tf32
        self.plan, self.sizes, self.backend, self.constants = plan, sizes, backend, constants
        self.held: dict[int, Storage] = {}
        self._views: dict[tuple[int, View], Any] = {}

        def home(value: int) -> Home:
            planned = plan.values[value]
            storage = arena
            if planned.variable is not None:
                storage = planned.variable.storage
            elif planned.constant is not None:
                storage = constants[planned.constant]
            assert storage is not None
            return storage, planned.offset or 0, 0

        self._home = home
        self.calls = self._bound(plan, home)

    def array(self, operand: Operand) -> Any:
        """The backend's array over a value of the plan."""
        storage, view, _ = self._located(self.plan, self._home, operand)
        return self._array(storage, view)

    def _array(self, storage: Storage, view: View) -> Any:
        # One array a view: backends tell identical operands from overlapping ones by identity.
        key = id(storage), view
        found = self._views.get(key)
        if found is None:
            self.held[id(storage)] = storage
            found = self._views[key] = self.backend.view(storage, view)
        return found

    def _located(self, plan: Plan, home: Callable[[int], Home], operand: Operand) -> tuple[Storage, View, int]:
        storage, base, move = home(operand.value)
        return storage, strided(operand.layout, plan.values[operand.value].dtype, self.sizes, base), move

    def _bound(self, plan: Plan, home: Callable[[int], Home], turns: int = 1) -> list[Call]:
        """The calls of a plan, `turns` times: what lies in memory that moves is bound anew each time."""
        makers = [self._maker(plan, step, home) for step in plan.steps]
        return [call for turn in range(turns) for maker in makers for call in maker(turn)]

    def _maker(self, plan: Plan, step: PlannedStep, home: Callable[[int], Home]) -> Callable[[int], list[Call]]:
        if step.loop is not None:
            loop = step.loop

            def shifted(turn: int) -> list[Call]:
                def at_turn(value: int) -> Home:
                    storage, base, move = home(value)
                    return storage, base + turn * move, 0

                return self._looped(plan, loop, at_turn)

            return shifted

        attributes = {key: at(value, self.sizes) for key, value in step.attributes.items()}
        if self.tf32 and step.op in PRODUCTS:
            attributes["tf32"] = True
        kinds = [[self._located(plan, home, o) for o in operands] for operands in (step.reads, step.writes, step.scratch)]

        def made(turn: int) -> list[Call]:
            looks = [[(s, _moved(view, turn * move)) for s, view, move in operands] for operands in kinds]
            reads, writes, scratch = (tuple(view for _, view in operands) for operands in looks)
            instruction = Instruction(step.op, reads, writes, scratch, attributes)
            arrays = [[self._array(s, view) for s, view in operands] for operands in looks]
            return [self.backend.compile(instruction, *arrays)]

        if any(move for operands in kinds for _, _, move in operands):
            return made
        once = made(0)
        return lambda turn: once

    def _looped(self, plan: Plan, loop: Loop, home: Callable[[int], Home]) -> list[Call]:
        """Copy what the states start with, then the body at every step."""
        calls = []
        for source, target in loop.starts:
            looks = [self._located(plan, home, operand)[:2] for operand in (source, target)]
            instruction = Instruction("copy", (looks[0][1],), (looks[1][1],))
            arrays = [self._array(*look) for look in looks]
            calls.append(self.backend.compile(instruction, [arrays[0]], [arrays[1]], []))

        places: dict[Any, Home] = {}
        for slot in loop.slots:
            storage, base, _ = home(slot.operand.value)
            item = DTYPES[plan.values[slot.operand.value].dtype]
            first = base + item * at(slot.operand.layout.offset, self.sizes)
            places[slot.variable] = storage, first, item * at(slot.move, self.sizes)

        def inside(value: int) -> Home:
            planned = loop.plan.values[value]
            if planned.variable is not None:
                return places[planned.variable]
            if planned.constant is not None:
                return self.constants[planned.constant], 0, 0
            assert loop.memory is not None and planned.offset is not None
            storage, base, _ = home(loop.memory.value)
            return storage, base + planned.offset, 0

        return calls + self._bound(loop.plan, inside, at(loop.length, self.sizes))


def _moved(view: View, nbytes: int) -> View:
    return replace(view, offset=view.offset + nbytes) if nbytes else view
