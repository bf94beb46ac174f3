"""Programs: plans bound to a backend. Binding happens once; afterwards a program only runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aforo_backends.contract import Storage

from .binding import Binding
from .device import Device, DeviceFull, Generation, fill, forget, grows, materialise, opened, strided
from .graph import BATCH, Graph, Variable
from .specs import Layout, sizes_of, value_bytes

if TYPE_CHECKING:
    from .plan import Constant, Plan

Sizes = Mapping[str, int]
WHOLE = "whole batch"  # the size that stands for the rows of a batch of which a program sees a part
_KEPT_PROGRAMS = 16


class Program:
    """A plan at certain sizes, every view made and every kernel chosen."""

    def __init__(
        self,
        plan: Plan,
        sizes: Sizes,
        device: Device,
        arena: Storage | None,
        constants: dict[Constant, Storage],
        tf32: bool = False,
    ) -> None:
        from .plan import Operand

        backend = device.backend
        bound = Binding(plan, sizes, backend, arena, constants, tf32)
        self._held = bound.held  # what it runs on stays while it may run
        self.run = backend.program(bound.calls)
        self.outputs = {name: bound.array(operand) for name, operand in plan.outputs.items()}
        self.slots = {
            value.variable: bound.array(Operand(i, Layout.dense(value.shape)))
            for i, value in enumerate(plan.values)
            if value.variable is not None and value.variable.role == BATCH
        }
        scalar = Layout.dense(())
        self.backend = backend
        self._sized = [
            (each, backend.view(constants[each], strided(scalar, each.dtype, sizes)), each.at(sizes))
            for each in plan.constants
            if each.is_sized
        ]

    def activate(self, held: dict[Constant, Any]) -> None:
        """Write the constants that depend on the sizes, where another program has left its own. held: what each holds now."""
        for constant, array, value in self._sized:
            if held.get(constant) != value:
                self.backend.copy_in(array, value)
                held[constant] = value


class Workspace:
    """What the programs of one model share on one device: the arena and the constants.

    A bound arena does not move. When it, or a batch slot, must grow, every program is rebuilt.
    """

    def __init__(self, device: Device, tf32: bool = False) -> None:
        self.device = device
        self.tf32 = tf32
        self.arena: Storage | None = None
        self.arena_bytes = 0
        self.constants: dict[Constant, Storage] = {}
        self.plans: dict[str, list[Plan]] = {}  # by kind; none of them holds what another is for
        self.programs: dict[tuple[str, int, int, int], Program] = {}
        self.active: Program | None = None
        self._sized: dict[Constant, Any] = {}
        self._written: dict[Constant, int] = {}  # bytes of each constant that hold its values
        self._generation = Generation.current

    @property
    def held_bytes(self) -> int:
        """Bytes of the arena and the constants."""
        return sum(storage.nbytes for storage in (self.arena, *self.constants.values()) if storage is not None)

    def program(self, kind: str, batch: int, graph: Callable[[], Graph], whole: int = 0, time: int = 1) -> Program:
        """The program of that kind, ready to run on a batch of that many rows, of that many time steps.

        whole: rows of the batch that this is a part of.
        """
        if (kind, batch, whole, time) not in self.programs or self._generation != Generation.current:
            self._bind(kind, sizes_of(batch, time) | ({WHOLE: whole} if whole else {}), graph)
        program = self.programs[kind, batch, whole, time]
        if program is not self.active:
            program.activate(self._sized)
            self.active = program
        return program

    def runs(self, plans: Mapping[str, Plan]) -> bool:
        """Whether exactly these plans are what it runs, in no more memory than they need."""
        arena = max(plan.arena_bytes for plan in plans.values())
        return self.arena_bytes <= arena and all(self.plans.get(kind) == [plan] for kind, plan in plans.items())

    def _bind(self, kind: str, sizes: Sizes, graph: Callable[[], Graph]) -> None:
        from .plan import make_plan, verify  # loaded with the first plan: it is a quarter of the time of `import aforo`

        known = self.plans.get(kind, [])
        plan = next((each for each in known if each.holds(sizes)), None)
        if plan is None:
            # Not one for the most rows and the most steps, which need not come together: many short sequences, few long ones.
            plan = make_plan(graph(), self.device.profile, sizes)
            self.plans[kind] = [*(each for each in known if not plan.holds(each.sizes)), plan][-_KEPT_PROGRAMS:]
        if any(plan.sizes[name] != sizes[name] for name in ("batch", "time")):
            verify(plan, sizes)
        if self._generation != Generation.current:  # what they run on may have been given up elsewhere
            self.programs.clear()
            self.active = None
        rooms = {variable: self._room(variable, plan) for variable in plan.variables}
        if any(grows(variable, room, self.device) for variable, room in rooms.items()):
            self.programs.clear()  # they hold on to the smaller memory
            self.active = None
        try:
            for variable, room in rooms.items():
                materialise(variable, room, self.device)
            self._open(plan)
        except DeviceFull:
            self._give_up(kind, plan)
            raise
        if self._generation != Generation.current:
            self.programs.clear()
            self._generation = Generation.current
        if len(self.programs) >= _KEPT_PROGRAMS:
            self.programs.pop(next(iter(self.programs)))
        self.active = None
        program = Program(plan, sizes, self.device, self.arena, self.constants, self.tf32)
        self.programs[kind, sizes["batch"], sizes.get(WHOLE, 0), sizes["time"]] = program

    def _give_up(self, kind: str, plan: Plan) -> None:
        """Hold nothing of the size that had no room, so that a smaller batch finds all of it."""
        self.plans[kind].remove(plan)
        self.programs.clear()
        self.constants.clear()
        self._sized.clear()
        self.arena, self.active, self.arena_bytes = None, None, 0
        for variable in plan.variables:
            if variable.role == BATCH:
                forget(variable)
        Generation.current += 1

    def _known(self) -> Iterator[Plan]:
        return (plan for plans in self.plans.values() for plan in plans)

    def _room(self, variable: Variable, plan: Plan) -> Sizes:
        """The sizes at which a variable needs most, of all plans that are known: so it need not grow in the middle of a fit."""
        if variable.role != BATCH:
            return plan.sizes
        own = [each.sizes for each in self._known() if variable in each.variables]
        return max(own, key=lambda sizes: value_bytes(variable.shape, variable.dtype, sizes))

    def _open(self, plan: Plan) -> None:
        """Make room for what the plan needs in the arena, and others that are known, and for its constants."""
        profile = self.device.profile
        if plan.arena_bytes > self.arena_bytes:
            self.programs.clear()
            self.arena, self.active, self.arena_bytes = None, None, 0
            largest = max(self._known(), key=lambda each: each.arena_bytes)
            self.arena = opened(self.device, largest.peak_bytes)
            self.arena_bytes = largest.arena_bytes
        for constant in plan.constants:
            needed = value_bytes(constant.shape, constant.dtype, plan.sizes)
            held = self.constants.get(constant)
            if held is None or held.nbytes < profile.footprint(needed):
                if self.constants.pop(constant, None) is not None:
                    self.programs.clear()
                    self.active = None
                self._sized.pop(constant, None)
                self.constants[constant] = opened(self.device, needed)
            elif needed <= self._written[constant]:
                continue
            self._written[constant] = needed
            values = constant.at(plan.sizes)
            fill(self.device, self.constants[constant], constant.shape, constant.dtype, values, plan.sizes)
