"""Looking into a model: any value of its graph, and the derivative of its error by it, for given data. Nothing changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import device as devices
from . import ops
from .collector import uncollected
from .gradient import gradient
from .graph import BATCH, LOSS, STATE, Graph, Tensor, Variable, ancestors, leaf, merge, tracing, within
from .layers.context import Context, collecting
from .outline import Outline, outline
from .program import Workspace
from .specs import FLOATS

if TYPE_CHECKING:
    from .model import Model
    from .training import Batches

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Probe:
    """A model traced once more, with a name for each value.

    error: the mean loss and the penalties, if the model is compiled; targets: what it compares with, one for each output
    """

    model: Model
    outline: Outline
    targets: tuple[Tensor, ...]
    losses: tuple[Tensor, ...]
    penalties: tuple[Tensor, ...]
    error: Tensor | None

    def derivatives(self, wanted: Sequence[Tensor]) -> dict[int, Tensor]:
        """The derivative of the error by each of these that it depends on, by identity."""
        if self.error is None:
            return {}
        reached = {id(node) for node in ancestors([self.error])}
        found = {id(x): x for x in wanted if id(x) in reached and x.dtype in FLOATS}
        return dict(zip(found, gradient(self.error, list(found.values())), strict=True))

    def run(self, wanted: Mapping[str, Tensor], data: Batches) -> dict[str, Array]:
        """The numbers of these values for the data, as one batch."""
        graph = merge(Graph(wanted, {}))
        home = devices.device(self.model.device)
        program = Workspace(home).program("probe", data.rows, lambda: graph)
        for variable, values in data.columns:
            if variable in program.slots:
                program.backend.copy_in(program.slots[variable], np.ascontiguousarray(values, variable.dtype))
        program.run()
        program.backend.synchronize()
        return {name: np.array(program.backend.copy_out(array)) for name, array in program.outputs.items()}


@uncollected
def probe(model: Model, training: bool, split: bool = True) -> Probe:
    """Trace a built model: as in a training step, or as in a prediction."""
    step = Variable("step", (), "int64", STATE, lambda: 0, owner="probe")
    context = Context(training=training, step=lambda: leaf(step))
    with tracing(), collecting(context):
        found = outline(model, split, [leaf(variable) for variable in model.inputs])
        targets, losses, error = [], [], None
        for head, index in zip(model.heads, found.outputs, strict=False):
            y_pred = found.values[index].tensor
            assert y_pred is not None
            spec = head.loss.target_spec(y_pred) if head.target is None else (head.target.shape, head.target.dtype)
            y_true = leaf(head.target or Variable("y", *spec, BATCH, owner="batch"))
            with within(layer="loss", phase=LOSS):
                loss = ops.mean(head.loss.per_sample(y_true, y_pred))
                part = loss * head.weight
                error = part if error is None else error + part
            targets.append(y_true)
            losses.append(loss)
        if error is not None:
            with within(layer="loss", phase=LOSS):
                for penalty in context.penalties:
                    error = error + penalty
    return Probe(model, found, tuple(targets), tuple(losses), tuple(context.penalties), error)


def first_rows(data: Batches, rows: int) -> Batches:
    """The first rows of checked data."""
    return replace(data.part(slice(0, rows)), rows=min(rows, data.rows))
