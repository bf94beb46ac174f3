"""Metrics: what a person wants to know of a model, beside its loss. They are nodes of the same graph.

A metric is a few sums over the samples, and what follows from them: so it is exact over any number of batches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from . import losses, ops
from .errors import InvalidType, InvalidValue, explain, unknown_name
from .graph import STATE, Tensor, Variable, leaf
from .settings import strict, whole
from .specs import INTEGERS

if TYPE_CHECKING:
    from .confusion import ConfusionMatrix

Sums = Mapping[str, Any]


def _mean_result(sums: Sums, rows: int) -> float:
    return float(sums["sum"]) / rows


@dataclass(frozen=True)
class Metric:
    """sums (y_true, y_pred) -> named tensors, to be added up over batches; result (their totals, rows) -> a number."""

    name: str
    sums: Callable[[Tensor, Tensor], Mapping[str, Tensor]]
    result: Callable[[Sums, int], float] = _mean_result


@dataclass
class Total:
    """What a loss or a metric adds up to over an epoch, in float64."""

    name: str
    variables: dict[str, Variable] = field(default_factory=dict)
    result: Callable[[Sums, int], float] = _mean_result

    def added(self, sums: Mapping[str, Tensor]) -> dict[Variable, Tensor]:
        """The totals after a batch."""
        after = {}
        for key, value in sums.items():
            if key not in self.variables:
                self.variables[key] = Variable(f"{self.name}/{key}", value.shape, "float64", STATE, lambda: 0.0, owner="totals")
            variable = self.variables[key]
            after[variable] = leaf(variable) + ops.cast(value, "float64")
        return after


def _per_sample(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> Metric:
    return Metric(name, lambda y_true, y_pred: {"sum": ops.sum(function(y_true, y_pred))})


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


def _mask(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Targets as a mask of the shape of the predictions: class numbers become one-hot."""
    return ops.one_hot(y_true, y_pred.shape[-1]) if y_true.dtype in INTEGERS else y_true > 0.5


@strict
def top_k(k: int) -> Metric:
    """How often the right class is among the k with the highest scores."""
    return _top(whole("k", k, 1))


@lru_cache(None)
def _top(k: int) -> Metric:
    def hits(y_true: Tensor, y_pred: Tensor) -> Tensor:
        scores = _scores(y_pred)
        own = ops.sum(scores * _mask(y_true, y_pred), -1, keepdims=True)
        ahead = ops.sum(ops.cast(scores > own, scores.dtype), -1)
        return _hits(ahead < float(k), scores.dtype)

    return _per_sample(f"top_{k}", hits)


def _r2_sums(y_true: Tensor, y_pred: Tensor) -> dict[str, Tensor]:
    y, p = ops.cast(y_true, "float64"), ops.cast(y_pred, "float64")
    return {"error": ops.sum(ops.square(y - p), 0), "y": ops.sum(y, 0), "y2": ops.sum(ops.square(y), 0)}


def _r2_result(sums: Sums, rows: int) -> float:
    """1 − Σ(y − p)² / Σ(y − ȳ)², the mean over outputs; as scikit-learn, 0 for an output that does not vary."""
    error, variation = np.asarray(sums["error"]), np.asarray(sums["y2"]) - np.asarray(sums["y"]) ** 2 / rows
    still = variation <= 1e-12 * np.asarray(sums["y2"])
    return float(np.mean(np.where(still, np.where(error == 0, 1.0, 0.0), 1.0 - error / np.where(still, 1.0, variation))))


def _decisions(y_true: Tensor, y_pred: Tensor) -> dict[str, Tensor]:
    """True positives, predicted positives and actual positives, at a threshold of one half."""
    said, true = ops.cast(y_pred > 0.5, "float64"), ops.cast(_mask(y_true, y_pred), "float64")
    return {"hits": ops.sum(said * true), "said": ops.sum(said), "true": ops.sum(true)}


def _ratio(below: str) -> Callable[[Sums, int], float]:
    return lambda sums, rows: float(sums["hits"] / sums[below]) if sums[below] else 0.0


_ACCURACY = ("accuracy", "acc")
_PER_SAMPLE = {
    "categorical_accuracy": _categorical_accuracy,
    "sparse_categorical_accuracy": _sparse_categorical_accuracy,
    "binary_accuracy": _binary_accuracy,
}
r2 = Metric("r2", _r2_sums, _r2_result)
precision = Metric("precision", _decisions, _ratio("said"))
recall = Metric("recall", _decisions, _ratio("true"))
KNOWN = {"r2": r2, "precision": precision, "recall": recall, "top_5": top_k(5), "top_3": top_k(3)}


def known(name: str) -> Metric | None:
    """The metric of that name; top_k for any k."""
    top = re.fullmatch(r"top_([1-9]\d*)", name)
    return _top(int(top[1])) if top else KNOWN.get(name)


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
    offered = [*_ACCURACY, *_PER_SAMPLE, *KNOWN, *losses.KNOWN]
    for identifier in given:
        if isinstance(identifier, str):
            if identifier.lower() not in offered and known(identifier.lower()) is None:
                raise unknown_name(
                    "metric", identifier, offered, fix="any callable will do: metrics=[lambda y_true, y_pred: …]"
                )
        elif not callable(identifier) and not isinstance(identifier, Metric):
            raise InvalidType(
                explain(
                    "this is no metric.",
                    expected="a name, or a callable (y_true, y_pred) -> tensor",
                    received=repr(identifier),
                    fix='metrics="accuracy"',
                )
            )
    reported = names(given)
    for name in reported:
        if reported.count(name) > 1 or name == "loss":
            raise InvalidValue(
                explain(
                    f"two of the things to report are named {name!r}.",
                    expected="names that differ",
                    received=", ".join(["loss", *reported]),
                    fix="give each metric a name of its own",
                )
            )
    return given


def _name(identifier: Any) -> str:
    if isinstance(identifier, str):
        return identifier
    return str(getattr(identifier, "name", None) or getattr(identifier, "__name__", type(identifier).__name__))


def names(identifiers: list[Any]) -> list[str]:
    """What they are reported as."""
    return [_name(identifier) for identifier in identifiers]


def get(identifier: Any, loss: losses.Loss, y_pred: Tensor) -> Metric:
    """The metric, for a model with this loss and these predictions."""
    name = _name(identifier)
    if isinstance(identifier, Metric):
        return identifier
    if isinstance(identifier, losses.Loss):
        return _per_sample(name, identifier.per_sample)
    if not isinstance(identifier, str):
        return _per_sample(name, losses.custom(identifier, "metric").per_sample)
    key = identifier.lower()
    own = known(key)
    if own is not None:
        return Metric(name, own.sums, own.result)
    if key in _ACCURACY:
        return _per_sample(name, _accuracy(loss, y_pred))
    return _per_sample(name, _PER_SAMPLE[key] if key in _PER_SAMPLE else losses.KNOWN[key].per_sample)


def confusion_matrix(y_true: Any, y_predicted: Any, labels: Sequence[Any] | None = None) -> ConfusionMatrix:
    """How many rows of each class were taken for each class: matrix[true, predicted], which prints and plots.

    Both take class numbers (n,), one-hot rows or probabilities (n, classes), or what a sigmoid gives (n, 1), cut at 0.5.
    labels: what the classes are called.
    """
    from .confusion import confusion_matrix

    return confusion_matrix(y_true, y_predicted, labels)
