"""The graphs a model runs: prediction, evaluation, training. Loss, metrics and update are nodes like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import metrics, ops
from .errors import InvalidState, explain
from .gradient import gradient
from .graph import LOSS, UPDATE, Graph, Tensor, Variable, ancestors, constant, leaf, merge, within
from .graph.tensor import user_line
from .heads import Head
from .losses import Loss
from .metrics import Total
from .optimizers import Optimizer
from .specs import BATCH

PREDICTION, EVALUATION, TRAINING = "prediction", "evaluation", "training"


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
) -> Measured:
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
        mean = whole * constant(1.0, whole.dtype, per=BATCH)
    count("loss", {"sum": whole})
    return Measured(mean, updates)


def evaluation(measured: Measured) -> Graph:
    return merge(Graph({}, measured.updates))


def training(
    measured: Measured,
    updates: Mapping[Variable, Tensor],
    trained: Sequence[Tensor],
    owners: Mapping[Variable, str],
    optimizer: Optimizer,
    slots: Mapping[Variable, Mapping[str, Variable]],
    counter: Variable,
) -> Graph:
    """One step. Each update reads its gradient where `gradient` returns it, and nowhere else."""
    if not trained:
        raise InvalidState(
            explain(
                "there is nothing to train: the model has no trainable weights.",
                expected="at least one layer with trainable weights",
                received="none",
                fix="model.add(af.Dense(units)), or layer.trainable = True",
            )
        )
    site = user_line()
    with within(layer="optimizer", phase=UPDATE, site=site):
        step = ops.cast(leaf(counter), "float64") + 1.0
        rate = optimizer.rate(measured.loss.dtype, step, counter)
    gradients = gradient(measured.loss, trained, seed=rate if optimizer.proportional else None)
    with within(layer="optimizer", phase=UPDATE, site=site):
        gradients = optimizer.clipped(gradients)
    after = {**measured.updates, **updates}
    for weight, g in zip(trained, gradients, strict=True):
        with within(layer=owners[weight.variable], phase=UPDATE, site=site):
            own = slots[weight.variable]
            rate_now = constant(1.0, g.dtype) if optimizer.proportional else rate
            value, own_after = optimizer.apply(weight, g, {name: leaf(s) for name, s in own.items()}, rate_now, step)
        after[weight.variable] = value
        after.update({own[name]: slot for name, slot in own_after.items()})
    if any(node.op == "variable" and node.variable is counter for node in ancestors(after.values())):
        with within(layer="optimizer", phase=UPDATE, site=site):
            after[counter] = leaf(counter) + 1
    return merge(Graph({}, after))
