"""Heads: for each output of a model, its loss, its weight in the whole, and its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import losses, metrics
from .errors import InvalidValue, explain, unknown_name
from .graph import Variable
from .losses import Loss
from .settings import number


@dataclass
class Head:
    """name is "" for a model of one output. `target` is the slot its targets go into, once their shape is known."""

    name: str
    loss: Loss
    weight: float = 1.0
    metrics: list[Any] = field(default_factory=list)
    target: Variable | None = None

    def reported(self, name: str) -> str:
        """What a figure of this head is called in histories."""
        return f"{self.name}_{name}" if self.name else name

    @property
    def reported_names(self) -> list[str]:
        return [self.reported("loss")] * bool(self.name) + [self.reported(name) for name in metrics.names(self.metrics)]


def make_heads(outputs: Sequence[str], loss: Any, metrics_given: Any, weights: Any) -> list[Head]:
    """A head for each output. Raises for names that are not known, and for the wrong number of them."""
    if len(outputs) == 1:
        (given,) = _for_each(outputs, loss, "loss", shared=True)
        measured = metrics_given
        if isinstance(metrics_given, Mapping):
            (measured,) = _for_each(outputs, metrics_given, "metrics", shared=True)
        (weight,) = _for_each(outputs, weights, "loss_weights", shared=True)
        return [Head("", losses.get(given), _share(outputs[0], weight), metrics.check(measured))]
    each_loss = _for_each(outputs, loss, "loss", shared=True)
    each_metrics = _for_each(outputs, metrics_given, "metrics", shared=isinstance(metrics_given, str) or metrics_given is None)
    each_weight = _for_each(outputs, 1.0 if weights is None else weights, "loss_weights", shared=True)
    heads = []
    for name, own, measured, weight in zip(outputs, each_loss, each_metrics, each_weight, strict=True):
        heads.append(Head(name, losses.get(own), _share(name, weight), metrics.check(measured)))
    return heads


def _share(name: str, weight: Any) -> float:
    return number(f"loss_weights[{name!r}]", 1.0 if weight is None else weight, 0.0, float("inf"))


def _for_each(outputs: Sequence[str], given: Any, what: str, *, shared: bool) -> list[Any]:
    """One value for each output, from one for all, a list, or a dict by name."""
    if isinstance(given, Mapping):
        for name in given:
            if name not in outputs:
                raise unknown_name("output", str(name), outputs)
        missing = [name for name in outputs if name not in given]
        if missing and what == "loss":
            raise InvalidValue(explain(f"compile has no loss for {', '.join(missing)}.", fix=_losses(outputs, given)))
        return [given.get(name) for name in outputs]
    if isinstance(given, (list, tuple)):
        if len(given) != len(outputs):
            raise InvalidValue(
                explain(
                    f"{what} must have one entry for each output.",
                    expected=", ".join(outputs),
                    received=f"{len(given)}",
                    fix=_example(what, outputs),
                )
            )
        return list(given)
    if shared:
        return [given] * len(outputs)
    raise InvalidValue(
        explain(
            f"{what} must be a list or a dict for several outputs.",
            expected=", ".join(outputs),
            received=repr(given),
            fix=_example(what, outputs),
        )
    )


def _losses(outputs: Sequence[str], given: Mapping[str, Any]) -> str:
    """What was given, with a loss for each output that has none."""
    losses = {name: given.get(name, "mse") for name in outputs}
    each = [f'"{name}": ' + (f'"{loss}"' if isinstance(loss, str) else "…") for name, loss in losses.items()]
    return "loss={" + ", ".join(each) + "}"


def _example(what: str, outputs: Sequence[str]) -> str:
    return f"{what}={{" + ", ".join(f'"{name}": …' for name in outputs) + "}"
