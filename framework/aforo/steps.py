"""The graphs a model runs: prediction, evaluation, training. Loss, metrics and update are nodes like any other.

A training step can also run in parts: the graph of a micro-batch adds its gradients to sums, and that of the update reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from . import metrics, ops, program
from .errors import InvalidState, explain
from .gradient import gradient
from .graph import LOSS, UPDATE, Graph, Tensor, Variable, ancestors, constant, leaf, merge, within
from .graph.place import user_line
from .heads import Head
from .losses import Loss
from .metrics import Total
from .optimizers import Optimizer
from .recompute import recomputed
from .specs import BATCH, Dim, sizes_of

PREDICTION, EVALUATION, TRAINING = "prediction", "evaluation", "training"
FIRST, NEXT, UPDATING = "first micro-batch", "next micro-batch", "update"
PARTS = (FIRST, NEXT, UPDATING)  # of a training step

_WHOLE = Dim.symbol(program.WHOLE)


@dataclass(frozen=True)
class Way:
    """How training steps run.

    batch   rows of the largest batch
    rows    rows of a micro-batch; 0: none, a batch is one piece
    kept    bytes that the forward values kept for the backward may take, others being computed again; None: all are kept
    blocks  how many loops over time, the first ones, keep their states every √time steps, and compute what is between again
    time    steps of its sequences
    """

    batch: int = 0
    rows: int = 0
    kept: int | None = None
    blocks: int = 0
    time: int = 1

    def graph(self, traced: Callable[[int], Graph], kind: str) -> Graph:
        """The graph of a kind as it runs this way. traced(blocks): as it is traced, with so many loops over time in blocks."""
        if kind not in (TRAINING, FIRST, NEXT):
            return traced(0)
        graph = traced(self.blocks)
        return graph if self.kept is None else recomputed(graph, self.kept, sizes_of(self.rows or self.batch, self.time))


def prediction(names: Sequence[str], predictions: Sequence[Tensor]) -> Graph:
    return merge(Graph(dict(zip(names, predictions, strict=True)), {}))


@dataclass(frozen=True)
class Measured:
    """The mean loss, and the new values of the totals: sums over samples, all a host ever needs to read."""

    loss: Tensor
    updates: dict[Variable, Tensor]


def _weighted(loss: Loss, y_true: Tensor, y_pred: Tensor, weight: Tensor | None) -> Tensor:
    """The loss of each sample (batch,) times its weight; or the mean over time of that of each step times its own."""
    if weight is None:
        return loss.per_sample(y_true, y_pred)
    if weight.ndim == 1:
        return loss.per_sample(y_true, y_pred) * weight
    return ops.mean(loss.per_step(y_true, y_pred) * weight, 1)


def measure(
    heads: Sequence[Head],
    predictions: Sequence[Tensor],
    penalties: Sequence[Tensor],
    sample_weight: Tensor | None,
    totals: Mapping[str, Total],
    is_part: bool = False,
) -> Measured:
    """is_part: whether the batch is a micro-batch. The mean is then over the whole one, so that the parts' losses add up."""
    updates: dict[Variable, Tensor] = {}

    def count(name: str, sums: Mapping[str, Tensor]) -> None:
        with within(layer="totals", phase=UPDATE):
            updates.update(totals[name].added(sums))

    whole: Tensor | None = None
    for head, y_pred in zip(heads, predictions, strict=True):
        assert head.target is not None
        y_true = leaf(head.target)
        with within(layer=head.reported("loss"), phase=LOSS):
            own = ops.sum(_weighted(head.loss, y_true, y_pred, sample_weight))
            part = own * head.weight
            whole = part if whole is None else whole + part
        if head.name:
            count(head.reported("loss"), {"sum": own})
        for identifier in head.metrics:
            metric = metrics.get(identifier, head.loss, y_pred)
            name = head.reported(metric.name)
            with within(layer=name, phase=LOSS):
                sums = metric.sums(y_true, y_pred)
            totals[name].result = metric.result
            count(name, sums)
    assert whole is not None
    with within(layer="loss", phase=LOSS):
        for penalty in penalties:
            whole = whole + penalty * constant(1.0, penalty.dtype, times=BATCH)
        mean = whole * constant(1.0, whole.dtype, per=_WHOLE if is_part else BATCH)
    count("loss", {"sum": whole})
    return Measured(mean, updates)


def evaluation(measured: Measured) -> Graph:
    return merge(Graph({}, measured.updates))


@dataclass(frozen=True)
class Training:
    """What a training step is made of: its weights, the optimizer, and what that remembers.

    owners   weight -> the name of its layer
    slots    weight -> the optimizer's slots for it, by name
    counter  training steps so far
    sums     weight -> where the gradients of micro-batches are added up
    row      the number, in the whole batch, of a micro-batch's first sample
    draws    whether a step draws random numbers, by its own number and those of its rows in the whole batch
    """

    trained: Sequence[Tensor]
    owners: Mapping[Variable, str]
    optimizer: Optimizer
    slots: Mapping[Variable, Mapping[str, Variable]]
    counter: Variable
    sums: Mapping[Variable, Variable]
    row: Variable
    draws: bool

    def whole(self, measured: Measured, updates: Mapping[Variable, Tensor]) -> Graph:
        """A whole step. Each update reads its gradient where `gradient` returns it, and nowhere else."""
        gradients = self._gradients(measured.loss)
        return merge(Graph({}, {**measured.updates, **updates, **self._updated(gradients, measured.loss.dtype)}))

    def part(self, measured: Measured, updates: Mapping[Variable, Tensor], first: bool) -> Graph:
        """A micro-batch: the gradients of its share of the mean loss are added to the sums, which the first one starts."""
        after = {**measured.updates, **updates}
        for weight, g in zip(self.trained, self._gradients(measured.loss), strict=True):
            total = self.sums[weight.variable]
            with within(layer=self.owners[weight.variable], phase=UPDATE, site=user_line()):
                after[total] = g if first else leaf(total) + g
        if self.draws:
            with within(layer="totals", phase=UPDATE):
                rows = constant(1.0, self.row.dtype, times=BATCH)
                after[self.row] = rows if first else leaf(self.row) + rows
        return merge(Graph({}, after))

    def update(self, dtype: str) -> Graph:
        """The end of a step whose gradients have been added up. dtype: that of the loss."""
        return merge(Graph({}, self._updated([leaf(self.sums[weight.variable]) for weight in self.trained], dtype)))

    def _step_and_rate(self, dtype: str) -> tuple[Tensor, Tensor]:
        with within(layer="optimizer", phase=UPDATE, site=user_line()):
            step = ops.cast(leaf(self.counter), "float64") + 1.0
            return step, self.optimizer.rate(dtype, step, self.counter)

    def _gradients(self, loss: Tensor) -> list[Tensor]:
        if not self.trained:
            raise InvalidState(
                explain(
                    "there is nothing to train: the model has no trainable weights.",
                    expected="at least one layer with trainable weights",
                    received="none",
                    fix="model.add(af.Dense(units)), or layer.trainable = True",
                )
            )
        seed = self._step_and_rate(loss.dtype)[1] if self.optimizer.proportional else None
        return gradient(loss, self.trained, seed=seed)

    def _updated(self, gradients: list[Tensor], dtype: str) -> dict[Variable, Tensor]:
        after: dict[Variable, Tensor] = {}
        site = user_line()
        step, rate = self._step_and_rate(dtype)
        with within(layer="optimizer", phase=UPDATE, site=site):
            gradients = self.optimizer.clipped(gradients)
        for weight, g in zip(self.trained, gradients, strict=True):
            with within(layer=self.owners[weight.variable], phase=UPDATE, site=site):
                own = self.slots[weight.variable]
                slots = {name: leaf(s) for name, s in own.items()}
                rate_now = constant(1.0, g.dtype) if self.optimizer.proportional else rate
                value, own_after = self.optimizer.apply(weight, g, slots, rate_now, step)
            after[weight.variable] = value
            after.update({own[name]: slot for name, slot in own_after.items()})
        counted = ancestors([rate, *after.values()])  # gradients may have the rate in them already
        if self.draws or any(x.op == "variable" and x.variable is self.counter for x in counted):
            with within(layer="optimizer", phase=UPDATE, site=user_line()):
                after[self.counter] = leaf(self.counter) + 1
        return after
