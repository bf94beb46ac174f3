"""A training on copies: the model's own training step, on weights, slots and counters that are thrown away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import device as devices
from ..collector import uncollected
from ..graph import BATCH, PRIMITIVES, Graph, Tensor, Variable, rebuilt
from ..program import Workspace
from ..steps import TRAINING
from .finding import Finding

if TYPE_CHECKING:
    from ..batches import Batches
    from ..model import Model

Array = np.ndarray[Any, Any]
STEPS = 32
BATCH_SIZE = 32
FAR = 30.0  # what "far off" means for a learning rate
_TINY = 1e-9  # below, no step is seen beside a weight
WORSE, BETTER, MUCH_BETTER, STILL = 2.0, 0.9, 0.5, 1e-3


class Rehearsal:
    """The training step of a model on variables of its own."""

    @uncollected
    def __init__(self, model: Model, data: Batches) -> None:
        self.model = model
        self.data = data
        self.epochs = -(-STEPS // -(-data.rows // BATCH_SIZE))
        self.home = devices.device(model.device)
        self.workspace = Workspace(self.home)
        self.first: dict[Variable, Array] = {}  # what each copy starts with, by the variable it is a copy of
        self.copies: dict[Variable, Variable] = {}
        graph = model.graph(TRAINING)
        now: dict[int, Tensor] = {}
        for node in graph.nodes:
            if node.op == "variable":
                leaf = {"variable": self._own(node.variable)}
                record = PRIMITIVES["variable"]
                now[id(node)] = Tensor(record, (), leaf, node.shape, node.dtype, node.place, serial=node.serial)
            else:
                now[id(node)] = rebuilt(node, tuple(now[id(x)] for x in node.inputs))
        self.graph = Graph({}, {self._own(variable): now[id(node)] for variable, node in graph.updates.items()})
        (self.total,) = (self.copies[v] for v in model.totals["loss"].variables.values() if v in self.copies)

    def _own(self, variable: Variable) -> Variable:
        if variable.role == BATCH:
            return variable
        if variable not in self.copies:
            self.first[variable] = devices.read(variable)
            copy = Variable(variable.name, variable.shape, variable.dtype, variable.role, lambda: 0, owner=variable.owner)
            self.copies[variable] = copy
        return self.copies[variable]

    def loss(self, factor: float) -> float:
        """The mean loss of the last of a few epochs with the learning rate times `factor`; infinite if it is no number."""
        rates = self.model.require_compiled().variables(self.model.step_counter)
        for variable, copy in self.copies.items():
            devices.write(copy, self.first[variable] * (factor if variable in rates else 1), self.home)
        with np.errstate(all="ignore"):
            for _ in range(self.epochs):
                for start in range(0, self.data.rows, BATCH_SIZE):
                    part = self.data.part(slice(start, start + BATCH_SIZE))
                    program = self.workspace.program("rehearsal", part.rows, lambda: self.graph, time=part.time)
                    if start == 0:
                        devices.write(self.total, np.zeros(self.total.shape), self.home)
                    for variable, values in part.columns:
                        if variable in program.slots:
                            program.backend.copy_in(program.slots[variable], np.ascontiguousarray(values, variable.dtype))
                    program.run()
        loss = float(devices.read(self.total)) / self.data.rows
        return loss if np.isfinite(loss) else float("inf")


def of_learning_rate(model: Model, data: Batches, before: float, blind: float) -> Iterator[Finding]:
    """A learning rate with which a few epochs make the loss much worse, or leave it where it is, while another helps.

    before: the loss now; blind: what it is with the targets of other rows, so about that of a model that has learnt nothing.
    """
    rate = model.require_compiled().learning_rate
    if callable(rate) or not np.isfinite(before) or before <= 0 or data.rows < 2:
        return
    if rate < _TINY:
        yield Finding(
            "optimizer", "learning rate far too small", float(rate), f"with {rate:.3g} no weight moves", "learning_rate=0.01"
        )
        return
    rehearsal = Rehearsal(model, data)
    after = rehearsal.loss(1.0)
    steps = rehearsal.epochs * -(-data.rows // BATCH_SIZE)
    lost = after > WORSE * before and after > blind
    stuck = after > 0.99 * before and before > 0.9 * blind
    if lost or stuck:
        smaller = [rehearsal.loss(factor) for factor in (1.0 / FAR, 1.0 / FAR**2)]
        if min(smaller) < (1.02 if lost else MUCH_BETTER) * before:
            shown = f"with {rate:.3g} the loss goes from {before:.3g} to {after:.3g} in {steps} steps"
            best = rate / FAR if smaller[0] <= smaller[1] else rate / FAR**2
            yield Finding("optimizer", "learning rate far too large", float(rate), shown, f"learning_rate={best:.1g}")
            return
    if (before - after) / before < STILL and after < 1.01 * before:
        for factor in (FAR, FAR**2, FAR**3, FAR**4, FAR**5):
            larger = rehearsal.loss(factor)
            if larger < BETTER * before:
                shown = f"with {rate:.3g} the loss falls by {max(before - after, 0) / before:.2g} of itself in {steps} steps"
                yield Finding(
                    "optimizer", "learning rate far too small", float(rate), shown, f"learning_rate={rate * factor:.1g}"
                )
                return
