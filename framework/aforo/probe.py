"""Looking into a model: any value of its graph, and the derivative of its error by it, for given data. Nothing changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import device as devices
from . import ops
from .collector import uncollected
from .errors import InvalidState, explain
from .gradient import pullback
from .graph import BATCH, LOSS, STATE, Graph, Tensor, Variable, ancestors, constant, leaf, merge, tracing, within
from .layers.call import Call
from .layers.context import Context, collecting
from .network import Network
from .outline import Outline, Step, outline
from .program import Workspace
from .specs import FLOATS, at, sizes_of

if TYPE_CHECKING:
    from .batches import Batches
    from .model import Model

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Late:
    """A value that is another one a time step ago: `leaf` where it is read, `source` where it is made.

    slope: a leaf for the derivative that comes back from later steps. start: what the value is at the first step; first: a
    leaf for the derivative that comes back to that. mask: where it is false, the value stays as it is. cut: derivatives stop at
    every so many steps, 0: never; those within recurrent layers of the cycle too, if it holds any.
    """

    leaf: Tensor
    source: Tensor
    slope: Tensor
    start: Tensor | None
    first: Tensor
    mask: Tensor | None
    cut: int
    holds_loops: bool

    def shifted(self, source: Array, start: Any, mask: Array | None) -> Array:
        """What is read at every step."""
        value = np.zeros_like(source)
        value[:, 0] = start
        for t in range(1, source.shape[1]):
            value[:, t] = source[:, t - 1]
            if mask is not None:
                value[~mask[:, t - 1], t] = value[~mask[:, t - 1], t - 1]
        return value

    def returned(self, slope: Array, mask: Array | None) -> tuple[Array, Array]:
        """The derivatives by what is made at every step and by the start, from those by what is read."""
        made = np.zeros_like(slope)
        later = np.zeros_like(slope[:, 0])  # by the value after this step
        for t in range(slope.shape[1] - 1, -1, -1):
            moves = True if mask is None else mask[:, t].reshape(-1, *[1] * (later.ndim - 1))
            made[:, t] = np.where(moves, later, 0.0)
            later = slope[:, t] + np.where(moves, 0.0, later)
            if t and self.cut and t % self.cut == 0:
                later = np.zeros_like(later)
        return made, later


@dataclass(frozen=True)
class Probe:
    """A model traced once more, with a name for each value.

    error: the mean loss and the penalties, if the model is compiled; targets: what it compares with, one for each output.
    A model with cycles is traced over whole sequences, with its late values as leaves: numbers are put into them step by step.
    """

    model: Model
    outline: Outline
    targets: tuple[Tensor, ...]
    losses: tuple[Tensor, ...]
    penalties: tuple[Tensor, ...]
    error: Tensor | None
    late: tuple[Late, ...] = ()

    def derivatives(self, wanted: Sequence[Tensor]) -> dict[int, Tensor]:
        """The derivative of the error by each of these that it depends on, by identity."""
        if self.error is None:
            return {}
        with tracing():
            error = self.error
            for each in self.late:  # the error of later steps, as far as it comes through what is late
                error = error + ops.sum(each.source * each.slope)
                if each.start is not None:
                    error = error + ops.sum(ops.broadcast_to(each.start, each.first.shape) * each.first)
            reached = {id(node) for node in ancestors([error])}
            found = {id(x): x for x in wanted if id(x) in reached and x.dtype in FLOATS}
            slopes = pullback([(error, constant(1.0, error.dtype))], list(found.values()))
            return {key: slope for key, slope in zip(found, slopes, strict=True) if slope is not None}

    def run(self, wanted: Mapping[str, Tensor], data: Batches) -> dict[str, Array]:
        """The numbers of these values for the data, as one batch."""
        leaves = [x for each in self.late for x in (each.slope, each.first)]
        backward = {id(x) for x in leaves} & {id(node) for node in ancestors(wanted.values())}
        slopes = {}
        if backward:
            self._check_cuts()
            slopes = self.derivatives([each.leaf for each in self.late])
        outputs = dict(wanted)
        for i, each in enumerate(self.late):
            outputs[f"late source {i}"] = each.source
            outputs |= {f"late {what} {i}": x for what, x in (("start", each.start), ("mask", each.mask)) if x is not None}
            if id(each.leaf) in slopes:
                outputs[f"late slope {i}"] = slopes[id(each.leaf)]
        graph = merge(Graph(outputs, {}))
        program = Workspace(devices.device(self.model.device)).program("probe", data.rows, lambda: graph, time=data.time)
        put = program.backend.copy_in
        for variable, values in data.columns:
            if variable in program.slots:
                put(program.slots[variable], np.ascontiguousarray(values, variable.dtype))
        leaves += [each.leaf for each in self.late]
        sizes = sizes_of(data.rows, data.time)
        fed = {x.variable: np.zeros(at(x.shape, sizes), x.dtype) for x in leaves if x.variable in program.slots}
        while True:
            for variable, values in fed.items():
                put(program.slots[variable], values)
            program.run()
            program.backend.synchronize()
            found = {name: np.array(program.backend.copy_out(array)) for name, array in program.outputs.items()}
            now = {v: array for v, array in self._shifted(found).items() if v in fed}
            if all(np.array_equal(fed[v], array, equal_nan=True) for v, array in now.items()):
                return {name: found[name] for name in wanted}
            fed |= now

    def _check_cuts(self) -> None:
        """Each layer is traced over whole sequences here, and would not stop its own derivatives where its cycle does."""
        for each in self.late:
            if each.cut and each.holds_loops:
                raise InvalidState(
                    explain(
                        "the derivatives inside a cycle with truncated gradients and recurrent layers cannot be shown.",
                        expected="a cycle without truncate, or of layers without states",
                        received=f"truncate={each.cut} at {each.leaf.place.site}",
                        fix="the same model without truncate, and model.set_weights(…)",
                    )
                )

    def _shifted(self, found: Mapping[str, Array]) -> dict[Variable, Array]:
        """Values one step later and derivatives one step earlier. Each round is right for one step more than the last."""
        moved: dict[Variable, Array] = {}
        for i, each in enumerate(self.late):
            mask = found.get(f"late mask {i}")
            moved[each.leaf.variable] = each.shifted(found[f"late source {i}"], found.get(f"late start {i}", 0.0), mask)
            if f"late slope {i}" in found:
                slope, first = each.returned(found[f"late slope {i}"], mask)
                moved |= {each.slope.variable: slope, each.first.variable: first}
        return moved


@uncollected
def probe(model: Model, training: bool, split: bool = True, inside: bool = False) -> Probe:
    """Trace a built model: as in a training step, or as in a prediction. inside: with the steps of models within it."""
    step = Variable("step", (), "int64", STATE, lambda: 0, owner="probe")
    context = Context(training=training, step=lambda: leaf(step))
    with tracing(), collecting(context):
        found = outline(model, split, [leaf(variable) for variable in model.inputs], inside)
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
        late = [_late(model, found, step) for step in found.steps if step.late]
        if error is not None:
            with within(layer="loss", phase=LOSS):
                for penalty in context.penalties:
                    error = error + penalty
    return Probe(model, found, tuple(targets), tuple(losses), tuple(context.penalties), error, tuple(late))


def _late(model: Model, found: Outline, step: Step) -> Late:
    (made,), (read,) = step.inputs, step.outputs
    source, inside = found.values[made].tensor, found.values[read].tensor
    assert source is not None and inside is not None and step.feedback is not None
    networks = [each for each in (model, *model.all_sublayers()) if isinstance(each, Network)]
    (cycle,) = (each for network in networks for each in network.cycles if any(x is step.feedback for x in each.feedbacks))
    inside_of = [
        each for record in cycle.records if isinstance(record, Call) for each in (record.layer, *record.layer.all_sublayers())
    ]
    holds_loops = any(each.any_length for each in inside_of)
    slope = leaf(Variable("slope", source.shape, source.dtype, BATCH, owner="late"))
    first = leaf(Variable("first", (source.shape[0], *source.shape[2:]), source.dtype, BATCH, owner="late"))
    return Late(inside, source, slope, step.start, first, step.mask, cycle.cut(), holds_loops)


def first_rows(data: Batches, rows: int) -> Batches:
    """The first rows of checked data."""
    return replace(data.part(slice(0, rows)), rows=min(rows, data.rows))
