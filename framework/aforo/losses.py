"""Losses: the last layer of training, and no part of prediction.

A loss takes targets and predictions and gives one number, the mean over the batch: `af.losses.mse(y_true, y_pred)`. Softmax or
sigmoid followed by its cross-entropy is computed from the logits, which is exact where the probabilities underflow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np

from . import ops
from .errors import InvalidType, InvalidValue, explain, located, unknown_name
from .graph import Spelling, Tensor, apply
from .ops.composed import one_hot, shifted
from .ops.operands import as_tensor, real
from .settings import takes
from .specs import FLOATS, INTEGERS, Shape, count, written

VALUES, CLASSES, ANY = "values", "classes", "any"
_SMALLEST = 1e-7  # probabilities that did not come from a softmax or a sigmoid are kept this far from 0 and 1


@dataclass(frozen=True)
class Loss:
    """A loss by what it says of each sample.

    per_sample  (y_true, y_pred) -> (batch,)
    target      what y_true holds: "values" (the shape of y_pred), "classes" (whole numbers, without y_pred's last axis)
    """

    name: str
    per_sample: Callable[[Tensor, Tensor], Tensor]
    target: str = VALUES

    def __call__(self, y_true: Any, y_pred: Any) -> Tensor:
        y_pred = real(y_pred)
        y_true = as_tensor(y_true, y_pred.dtype)
        y_true = ops.cast(y_true, y_pred.dtype) if self.target == VALUES else self._classes(y_true, y_pred)
        self.check(y_true, y_pred)
        loss = ops.mean(self.per_sample(y_true, y_pred))
        source = next((z for z in (logits_of(y_pred, name) for name in ("softmax", "sigmoid")) if z is not None), None)
        if source is not None and not loss.symbolic:
            loss.spelling = Spelling(self.name, (y_true, y_pred), self._plainly, source)
        return loss

    def _plainly(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of probabilities as such, whatever gave them."""
        return ops.mean(self.per_sample(y_true, apply("identity", y_pred)))

    def _classes(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Class numbers as fit takes them, too: as a column, and as floats; checked where they are known."""
        if self.target != CLASSES or not y_pred.shape:
            return y_true
        if y_true.shape == (*y_pred.shape[:-1], 1):
            y_true = ops.squeeze(y_true, -1)
        if y_pred.shape[:-1] != y_true.shape:
            return y_true
        if y_true.symbolic:
            return ops.cast(y_true, "int64") if y_true.dtype in FLOATS else y_true
        classes, values = y_pred.shape[-1], Tensor.evaluation.numpy(y_true)
        odd = values[(values != np.floor(values)) | (values < 0) | (values >= classes)]
        if odd.size:
            raise InvalidValue(
                explain(
                    f"{self.name} is given a class that the predictions do not have.",
                    expected=f"whole numbers from 0 to {classes - 1}",
                    received=odd[0],
                    fix=_numbered(odd),
                )
            )
        return ops.cast(y_true, "int64") if y_true.dtype not in INTEGERS else y_true

    def per_step(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """(batch, time, …) -> (batch, time): each time step as a sample of its own."""
        rows, steps = y_pred.shape[:2]
        each = self.per_sample(_as_rows(y_true), _with_logits(y_pred, _as_rows))
        return ops.reshape(each, (rows, steps))

    def target_spec(self, y_pred: Tensor) -> tuple[Shape, str]:
        """Shape and dtype of the targets that go with these predictions."""
        return (y_pred.shape[:-1], "int32") if self.target == CLASSES else (y_pred.shape, y_pred.dtype)

    def check(self, y_true: Tensor, y_pred: Tensor) -> None:
        shape, _ = self.target_spec(y_pred)
        whole = y_true.dtype in INTEGERS
        if y_true.shape != shape or (self.target == CLASSES and not whole):
            kind = "class numbers " if self.target == CLASSES else ""
            raise InvalidValue(
                explain(
                    f"{self.name} cannot compare these targets with these predictions.",
                    expected=f"targets: {kind}of shape {written(shape)} for predictions of shape {written(y_pred.shape)}",
                    received=f"{written(y_true.shape)} {y_true.dtype}",
                    fix=self._fix(y_true, y_pred),
                )
            )

    def _fix(self, y_true: Tensor, y_pred: Tensor) -> str | None:
        """What would make these targets fit."""
        if self.target == CLASSES:
            return "af.ops.argmax(y_true) for one-hot rows" if y_true.shape == y_pred.shape else None
        if count(y_true.shape) == count(y_pred.shape):
            return "y_true.reshape(y_pred.shape)"
        if "categorical" in self.name and y_true.shape == y_pred.shape[:-1]:
            return f"np.eye({y_pred.shape[-1]})[labels], or sparse_categorical_crossentropy"
        return None

    def __repr__(self) -> str:
        return f"<loss {self.name}>"


def _numbered(odd: Any) -> str:
    """What to do about these class numbers."""
    if (odd != np.floor(odd)).any():
        return "np.round(labels), and no nan among them; mse for a regression"
    return f"predictions of {int(odd.max()) + 1} classes" if odd.min() >= 0 else "number the classes from 0"


def _mean_over_outputs(x: Tensor) -> Tensor:
    """(batch, …) -> (batch,)"""
    return ops.mean(x, range(1, x.ndim)) if x.ndim > 1 else x


def _mse(y_true: Tensor, y_pred: Tensor) -> Tensor:
    return _mean_over_outputs(ops.square(y_pred - y_true))


def _mae(y_true: Tensor, y_pred: Tensor) -> Tensor:
    return _mean_over_outputs(ops.absolute(y_pred - y_true))


def logits_of(y_pred: Tensor, function: str) -> Tensor | None:
    """What went into the softmax or the sigmoid that gave these probabilities."""
    if function == "sigmoid":
        return y_pred.inputs[0] if y_pred.op == "logistic" else None
    spelling = y_pred.spelling
    return spelling.inputs[0] if spelling is not None and spelling.name == function else None


def _as_rows(x: Tensor) -> Tensor:
    """(batch, time, …) -> (batch · time, …)"""
    return ops.reshape(x, (count(x.shape[:2]), *x.shape[2:]))


def _with_logits(y_pred: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The function of probabilities, computed from the logits where they are known, so that the loss knows these too."""
    for name, activation in (("softmax", ops.softmax), ("sigmoid", ops.sigmoid)):
        z = logits_of(y_pred, name)
        if z is not None:
            return activation(function(z))
    return function(y_pred)


_SIGMOID_HEAD = 'af.Dense(1, activation="sigmoid") with loss="binary_crossentropy"'
# Heads that give other numbers than probabilities, by how they are spelled or by their primitive.
_UNBOUNDED = {
    "matmul": "linear", "add": "linear", "relu": "relu", "leaky_relu": "leaky_relu", "elu": "elu", "gelu": "gelu",
    "silu": "silu", "log_softmax": "log_softmax", "tanh": "tanh", "sin": "sin", "cos": "cos", "tan": "tan",
}  # fmt: skip


def _check_probabilities(y_pred: Tensor, name: str, activation: str) -> None:
    """Refuse a head that is known to give no probabilities. activation: the one that goes with this loss."""
    received = f"the output of {y_pred.place.layer or y_pred.op}, shape {written(y_pred.shape)}"
    if y_pred.shape[-1:] == (1,) and (activation == "softmax" or logits_of(y_pred, "softmax") is not None):
        raise InvalidValue(
            explain(
                f"there is nothing to learn for {name}: one output is one class, whose probability is always 1.",
                expected="one output with sigmoid, or one for each class with softmax",
                received=received,
                fix=_SIGMOID_HEAD,
            )
        )
    kind = _UNBOUNDED.get(y_pred.spelling.name if y_pred.spelling is not None else y_pred.op)
    if kind is not None:
        units = y_pred.shape[-1] if y_pred.shape else 1
        sums = " and sum to 1" if activation == "softmax" else ""
        raise InvalidValue(
            explain(
                f"{name} compares probabilities, which a {kind} head does not give.",
                expected=f"a head with {activation}, so that its outputs are between 0 and 1{sums}",
                received=received,
                fix=f'af.Dense({units}, activation="{activation}")',
            )
        )


def _log_probabilities(y_pred: Tensor) -> Tensor:
    """log p of probabilities whose logits are not known."""
    return ops.log(ops.maximum(y_pred, _SMALLEST))


def _softmax_cross_entropy(mask: Tensor, total: Tensor | None, y_pred: Tensor, name: str) -> Tensor:
    """−Σ mask · log p over the last axis; `total` is Σ mask where that is not 1."""
    _check_probabilities(y_pred, name, "softmax")
    z = logits_of(y_pred, "softmax")
    if z is None:
        return -ops.sum(_log_probabilities(y_pred) * mask, -1)
    # −Σ t log p = log(Σ eᶻ) Σ t − Σ t z, with z shifted by its maximum so that nothing overflows.
    z, _, sums = shifted(z)
    log_sums = ops.reshape(ops.log(sums), z.shape[:-1])
    return (log_sums if total is None else log_sums * total) - ops.sum(z * mask, -1)


def _per_row(x: Tensor) -> Tensor:
    """Positions of a sequence count as parts of one sample."""
    return _mean_over_outputs(x)


def _categorical_crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    loss = _softmax_cross_entropy(y_true, ops.sum(y_true, -1), y_pred, "categorical_crossentropy")
    return _per_row(loss)


def _sparse_categorical_crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    mask = one_hot(y_true, y_pred.shape[-1])
    return _per_row(_softmax_cross_entropy(mask, None, y_pred, "sparse_categorical_crossentropy"))


def _binary_crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    _check_probabilities(y_pred, "binary_crossentropy", "sigmoid")
    z = logits_of(y_pred, "sigmoid")
    if z is not None:
        return _mean_over_outputs(ops.softplus(z) - z * y_true)
    hit = _log_probabilities(y_pred)
    miss = ops.log(ops.maximum(1.0 - y_pred, _SMALLEST))
    return _mean_over_outputs(-(y_true * hit + (1.0 - y_true) * miss))


def _huber(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """d² / 2 for |d| ≤ 1, |d| − 1/2 beyond (Huber, 1964)."""
    distance = ops.absolute(y_pred - y_true)
    near = ops.minimum(distance, 1.0)
    return _mean_over_outputs(near * (distance - 0.5 * near))


mse = Loss("mse", _mse)
mae = Loss("mae", _mae)
huber = Loss("huber", _huber)
categorical_crossentropy = Loss("categorical_crossentropy", _categorical_crossentropy)
sparse_categorical_crossentropy = Loss("sparse_categorical_crossentropy", _sparse_categorical_crossentropy, CLASSES)
binary_crossentropy = Loss("binary_crossentropy", _binary_crossentropy)

KNOWN: dict[str, Loss] = {
    "mse": mse,
    "mean_squared_error": mse,
    "mae": mae,
    "mean_absolute_error": mae,
    "huber": huber,
    "categorical_crossentropy": categorical_crossentropy,
    "sparse_categorical_crossentropy": sparse_categorical_crossentropy,
    "binary_crossentropy": binary_crossentropy,
}


def custom(function: Callable[[Tensor, Tensor], Any], what: str) -> Loss:
    """A user's function of targets and predictions, which gives one number or one for each sample."""
    name = getattr(function, "__name__", type(function).__name__)
    if not takes(function, 2):
        raise InvalidType(
            explain(
                f"the {what} {name!r} is called on targets and predictions.",
                expected="a function (y_true, y_pred) -> tensor",
                received=f"{name}{signature(function)}",
                fix="lambda y_true, y_pred: af.ops.mean((y_true - y_pred) ** 2)",
            )
        )

    def per_sample(y_true: Tensor, y_pred: Tensor) -> Tensor:
        with located(f"the {what}", name):
            out = function(y_true, y_pred)
        if not isinstance(out, Tensor):
            raise InvalidType(
                explain(
                    f"the {what} {name!r} must return a tensor.",
                    expected="what operators and af.ops functions give",
                    received=type(out).__name__,
                    fix="return af.ops.mean((y_true - y_pred) ** 2)",
                )
            )
        if not out.shape:
            return ops.broadcast_to(out, y_pred.shape[:1])
        if out.shape[0] != y_pred.shape[0]:
            raise InvalidValue(
                explain(
                    f"the {what} {name!r} must give one number, or one for each sample.",
                    expected="shape () or (batch,)",
                    received=written(out.shape),
                    fix="af.ops.mean((y_true - y_pred) ** 2, axis=-1)",
                )
            )
        return _mean_over_outputs(out)

    return Loss(name, per_sample, ANY)


def get(identifier: str | Loss | Callable[..., Any]) -> Loss:
    """The loss of that name, or the callable as a loss."""
    if isinstance(identifier, Loss):
        return identifier
    if isinstance(identifier, str):
        if identifier.lower() not in KNOWN:
            raise unknown_name("loss", identifier, KNOWN, fix="any callable will do: loss=lambda y_true, y_pred: …")
        return KNOWN[identifier.lower()]
    if not callable(identifier) or isinstance(identifier, type):
        raise InvalidType(
            explain(
                "this is no loss.",
                expected="a name, or a callable (y_true, y_pred) -> tensor",
                received=repr(identifier),
                fix='model.compile(loss="mse")',
            )
        )
    return custom(identifier, "loss")
