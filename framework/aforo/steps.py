"""The graphs a model runs: prediction, evaluation, training. Loss, metrics and update are nodes like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import ops
from .errors import InvalidState, explain
from .gradient import gradient
from .graph import LOSS, UPDATE, Graph, Tensor, Variable, constant, leaf, merge, within
from .graph.tensor import user_line
from .losses import Loss
from .metrics import Metric
from .optimizers import Optimizer
from .specs import BATCH

PREDICTION, EVALUATION, TRAINING = "prediction", "evaluation", "training"


def prediction(y_pred: Tensor) -> Graph:
    return merge(Graph({"y_pred": y_pred}, {}))


def _measured(
    y_true: Tensor,
    y_pred: Tensor,
    weights: Tensor | None,
    loss: Loss,
    metrics: Sequence[Metric],
    totals: Mapping[str, Variable],
) -> tuple[Tensor, dict[Variable, Tensor]]:
    """The mean loss, and the running totals of loss and metrics over samples: reading those is all a host ever needs."""
    with within(layer="loss", phase=LOSS):
        each = loss.per_sample(y_true, y_pred)
        summed = ops.sum(each if weights is None else each * weights)
        sums = {"loss": summed}
        mean = summed * constant(1.0, summed.dtype, per=BATCH)
    for metric in metrics:
        with within(layer=metric.name, phase=LOSS):
            sums[metric.name] = ops.sum(metric.per_sample(y_true, y_pred))
    updates = {}
    with within(layer="totals", phase=UPDATE):
        for name, total in totals.items():
            updates[total] = leaf(total) + ops.cast(sums[name], total.dtype)
    return mean, updates


def evaluation(
    y_true: Tensor,
    y_pred: Tensor,
    weights: Tensor | None,
    loss: Loss,
    metrics: Sequence[Metric],
    totals: Mapping[str, Variable],
) -> Graph:
    _, updates = _measured(y_true, y_pred, weights, loss, metrics, totals)
    return merge(Graph({}, updates))


def training(
    y_true: Tensor,
    y_pred: Tensor,
    weights: Tensor | None,
    loss: Loss,
    metrics: Sequence[Metric],
    totals: Mapping[str, Variable],
    trained: Sequence[Tensor],
    optimizer: Optimizer,
    slots: Mapping[Variable, Mapping[str, Variable]],
) -> Graph:
    """One step. Each update reads its gradient where `gradient` returns it, and nowhere else."""
    if not trained:
        raise InvalidState(
            explain(
                "there is nothing to train: the model has no trainable weights.",
                expected="at least one layer with weights",
                received="layers without any",
                fix="model.add(af.Dense(units))",
            )
        )
    mean, updates = _measured(y_true, y_pred, weights, loss, metrics, totals)
    site = user_line()
    with within(layer="optimizer", phase=UPDATE, site=site):
        rate = optimizer.rate(mean.dtype)
    gradients = gradient(mean, trained, seed=rate if optimizer.proportional else None)
    for weight, g in zip(trained, gradients, strict=True):
        with within(layer=weight.variable.owner, phase=UPDATE, site=site):
            step = constant(1.0, g.dtype) if optimizer.proportional else rate
            own = slots[weight.variable]
            after, after_slots = optimizer.apply(weight, g, {name: leaf(slot) for name, slot in own.items()}, step)
        updates[weight.variable] = after
        updates.update({own[name]: value for name, value in after_slots.items()})
    return merge(Graph({}, updates))
