"""What Aforo has a name for: functions and classes that a file may mention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import initializers, layers, losses, metrics, ops, optimizers, regularizers, schedules
from ..layers import activation
from ..layers.layer import Layer
from ..optimizers import Optimizer
from ..recurrence import Start
from ..schedules import Schedule

_REGULARIZERS: dict[str, type] = {each.__name__: each for each in (regularizers.L1, regularizers.L2, regularizers.L1L2)}


def _classes(module: Any, base: type) -> dict[str, type]:
    return {name: each for name, each in vars(module).items() if isinstance(each, type) and issubclass(each, base)}


CLASSES: dict[str, type] = {
    **_classes(layers, Layer), "Start": Start, **_classes(optimizers, Optimizer), **_classes(schedules, Schedule),
    **_REGULARIZERS,
}  # fmt: skip

_TABLES: dict[str, Mapping[str, Any]] = {
    "class": CLASSES,
    "activation": activation.KNOWN,
    "initializer": initializers.KNOWN,
    "loss": losses.KNOWN,
    "ops": {name: each for name, each in vars(ops).items() if callable(each) and not isinstance(each, type) and name[0] != "_"},
}


def name_of(thing: Any) -> str | None:
    """The name of a function, a loss, a metric or a class of Aforo's."""
    if isinstance(thing, metrics.Metric):
        return f"metric.{thing.name}" if metrics.known(thing.name) is thing else None
    for table, entries in _TABLES.items():
        for name, each in entries.items():
            if each is thing:
                return f"{table}.{name}"
    return None


def named(name: str) -> Any:
    """What has that name. Raises KeyError."""
    table, _, own = name.partition(".")
    if table == "metric":
        metric = metrics.known(own)
        if metric is None:
            raise KeyError(name)
        return metric
    return _TABLES[table][own]
