"""Metrics: what a person wants to know of a model, beside its loss. They are nodes of the same graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import losses, ops
from .errors import InvalidType, InvalidValue, explain, unknown_name
from .graph import Tensor


@dataclass(frozen=True)
class Metric:
    """A metric by what it says of each sample: per_sample (y_true, y_pred) -> (batch,). It is reported as the mean."""

    name: str
    per_sample: Callable[[Tensor, Tensor], Tensor]


def _hits(hit: Tensor, dtype: str) -> Tensor:
    hits = ops.cast(hit, dtype)
    return ops.mean(hits, range(1, hits.ndim)) if hits.ndim > 1 else hits


def _scores(y_pred: Tensor) -> Tensor:
    """Something with the largest value where y_pred has it; the softmax itself is not needed for that."""
    logits = losses.logits_of(y_pred, "softmax")
    return y_pred if logits is None else logits


def _categorical_accuracy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    return _hits(ops.equal(ops.argmax(y_true), ops.argmax(_scores(y_pred))), y_pred.dtype)


def _sparse_categorical_accuracy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    return _hits(ops.equal(y_true, ops.argmax(_scores(y_pred))), y_pred.dtype)


def _binary_accuracy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    return _hits(ops.equal(ops.cast(y_pred > 0.5, y_true.dtype), y_true), y_pred.dtype)


_ACCURACY = ("accuracy", "acc")
_KNOWN = {
    "categorical_accuracy": _categorical_accuracy,
    "sparse_categorical_accuracy": _sparse_categorical_accuracy,
    "binary_accuracy": _binary_accuracy,
}


def _accuracy(loss: losses.Loss, y_pred: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The accuracy that fits what the targets hold."""
    if loss.target == losses.CLASSES:
        return _sparse_categorical_accuracy
    if y_pred.ndim < 2 or y_pred.shape[-1] == 1 or loss is losses.binary_crossentropy:
        return _binary_accuracy
    return _categorical_accuracy


def check(identifiers: Any) -> list[Any]:
    """Names and callables, as a list. Raises for what can be no metric."""
    if identifiers is None:
        return []
    given = list(identifiers) if isinstance(identifiers, (list, tuple)) else [identifiers]
    known = [*_ACCURACY, *_KNOWN, *losses.KNOWN]
    for identifier in given:
        if isinstance(identifier, str):
            if identifier.lower() not in known:
                raise unknown_name("metric", identifier, known, fix="any callable will do: metrics=[lambda y_true, y_pred: …]")
        elif not callable(identifier):
            raise InvalidType(
                explain(
                    "this is no metric.",
                    expected="a name, or a callable (y_true, y_pred) -> tensor",
                    received=repr(identifier),
                    fix='metrics="accuracy"',
                )
            )
    names = [_name(identifier) for identifier in given]
    for name in names:
        if names.count(name) > 1 or name == "loss":
            raise InvalidValue(
                explain(f"two of the things to report are named {name!r}.", fix="give each metric a name of its own")
            )
    return given


def _name(identifier: Any) -> str:
    if isinstance(identifier, str):
        return identifier
    return str(getattr(identifier, "name", None) or getattr(identifier, "__name__", type(identifier).__name__))


def get(identifier: Any, loss: losses.Loss, y_pred: Tensor) -> Metric:
    """The metric, for a model with this loss and these predictions."""
    name = _name(identifier)
    if isinstance(identifier, (Metric, losses.Loss)):
        return Metric(name, identifier.per_sample)
    if not isinstance(identifier, str):
        return Metric(name, losses.custom(identifier, "metric").per_sample)
    key = identifier.lower()
    if key in _ACCURACY:
        return Metric(name, _accuracy(loss, y_pred))
    return Metric(name, _KNOWN[key] if key in _KNOWN else losses.KNOWN[key].per_sample)


def names(identifiers: list[Any]) -> list[str]:
    """What they are reported as."""
    return [_name(identifier) for identifier in identifiers]
