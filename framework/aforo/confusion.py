"""The confusion matrix: for each class, what its rows were taken for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InvalidType, InvalidValue, explain
from .specs import written
from .tables import render

if TYPE_CHECKING:
    from .figures import Chart

Array = np.ndarray[Any, Any]
_PRINTED = 16  # classes
_MOST = 10_000  # classes: counts of 800 MB


class ConfusionMatrix:
    """matrix[i, j]: how many rows of class i were taken for class j. Prints as a table; `plot` draws it."""

    def __init__(self, matrix: Array, labels: Sequence[str]) -> None:
        self.matrix = matrix
        self.labels = list(labels)

    @property
    def accuracy(self) -> float:
        """The share of rows that were taken for what they are."""
        return float(np.trace(self.matrix) / self.matrix.sum())

    @property
    def recall(self) -> Array:
        """For each class, the share of its rows that were found; nan for a class without rows."""
        return self._share(self.matrix.sum(axis=1))

    @property
    def precision(self) -> Array:
        """For each class, the share of what was taken for it that is of it; nan for a class that was never named."""
        return self._share(self.matrix.sum(axis=0))

    def _share(self, rows: Array) -> Array:
        with np.errstate(invalid="ignore"):
            share: Array = np.diag(self.matrix) / rows
        return share

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.matrix.astype(dtype or self.matrix.dtype)

    def __str__(self) -> str:
        title = f"accuracy {self.accuracy:.1%} of {int(self.matrix.sum()):,} rows"
        if len(self.labels) > _PRINTED:
            return "\n".join([title, *self._worst()])
        rows = [
            (label, *(f"{n:,}" for n in counts), "" if np.isnan(found) else f"{found:.1%}")
            for label, counts, found in zip(self.labels, self.matrix, self.recall, strict=True)
        ]
        return render(title, ("is \\ taken for", *self.labels, "recall"), rows)

    __repr__ = __str__

    def _worst(self) -> list[str]:
        """What is confused most often, for more classes than a table on a screen has room for."""
        wrong = self.matrix - np.diag(np.diag(self.matrix))
        order = np.argsort(-wrong, axis=None, kind="stable")[:_PRINTED]
        pairs = [np.unravel_index(place, wrong.shape) for place in order]
        return [f"  {wrong[i, j]:,} × {self.labels[i]} taken for {self.labels[j]}" for i, j in pairs if wrong[i, j]]

    def plot(self, path: str | PathLike[str] | None = None) -> Chart:
        """The matrix in colours, rows what is, columns what it was taken for. Needs matplotlib."""
        from .figures import Chart, checked_path, figure

        if path is not None:
            checked_path(path, (".png", ".svg", ".pdf"), "matrix.plot")
        n = len(self.labels)
        side = min(max(3.2, 0.55 * n + 1.6), 14.0)
        made = figure(side, side, "a plot of the confusion matrix")
        axes = made.add_subplot()
        share = self.matrix / np.maximum(self.matrix.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
        axes.set_xticks(range(n), self.labels, rotation=90 if max(map(len, self.labels)) > 3 else 0)
        axes.set_yticks(range(n), self.labels)
        axes.set_xlabel("taken for")
        axes.set_ylabel("is")
        axes.set_title(f"accuracy {self.accuracy:.1%}")
        for i, j in np.ndindex(n, n) if n <= 25 else ():
            if self.matrix[i, j]:
                color = "white" if share[i, j] > 0.5 else "black"
                axes.text(j, i, f"{self.matrix[i, j]:,}", ha="center", va="center", color=color, fontsize=9)
        made.set_layout_engine("constrained")
        chart = Chart(made, "matrix.plot")
        if path is not None:
            chart.save(path)
        return chart


def confusion_matrix(y_true: Any, y_predicted: Any, labels: Iterable[Any] | None = None) -> ConfusionMatrix:
    """See `aforo.metrics.confusion_matrix`."""
    true, seen_true = _classes(y_true, "y_true", one_class=True)
    taken, seen_taken = _classes(y_predicted, "y_predicted")
    if len(true) != len(taken):
        raise InvalidValue(
            explain(
                "y_true and y_predicted differ in their number of rows.",
                expected="a prediction for each row",
                received=f"{len(true)} and {len(taken)}",
                fix="model.predict(x) for the x that y_true belongs to",
            )
        )
    classes = max(seen_true, seen_taken)
    if classes > _MOST:
        raise InvalidValue(
            explain(
                "the matrix would have a row and a column for each class.",
                expected=f"at most {_MOST:,} classes, numbered from 0",
                received=f"class {classes - 1:,}",
                fix="names, y_true = np.unique(y_true, return_inverse=True)",
            )
        )
    if labels is not None:
        if isinstance(labels, (str, Mapping)) or not isinstance(labels, Iterable):
            raise InvalidType(
                explain(
                    "labels are the names of the classes.",
                    expected="a list with a name for each class",
                    received=repr(labels),
                    fix=f"labels={[str(i) for i in range(min(classes, _PRINTED))]}",
                )
            )
        labels = list(labels)
        if len(labels) < classes:
            raise InvalidValue(
                explain(
                    "there are more classes than labels.",
                    expected=f"{classes} labels",
                    received=len(labels),
                    fix=f"labels={[str(i) for i in range(classes)]}",
                )
            )
        classes = len(labels)
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (true, taken), 1)
    return ConfusionMatrix(matrix, [str(label) for label in (range(classes) if labels is None else labels)])


def _classes(values: Any, name: str, one_class: bool = False) -> tuple[Array, int]:
    """Class numbers, and how many classes there are at least. one_class: rows say a class, and not how likely each is."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise InvalidValue(
            explain(
                f"{name} must hold class numbers, one-hot rows or probabilities.",
                expected="rows of one length",
                received=str(error),
                fix=f"{name} = [0, 2, 1], a class for each row",
            )
        ) from error
    if array.dtype.kind not in "fiub":
        raise InvalidType(
            explain(
                f"{name} must hold class numbers, one-hot rows or probabilities.",
                received=f"an array of {array.dtype}",
                fix="labels.index(text) gives a class its number",
            )
        )
    if array.ndim not in (1, 2) or not array.size or not np.isfinite(array.astype(float)).all():
        raise InvalidValue(
            explain(
                f"{name} must hold class numbers, one-hot rows or probabilities.",
                expected="finite numbers of shape (n,) or (n, classes)",
                received=written(array.shape),
                fix=f"{name}.reshape(-1, {array.shape[-1]})" if array.ndim > 2 else None,
            )
        )
    if array.ndim == 2 and array.shape[1] > 1:
        if one_class and (array.min() < 0 or not np.allclose(array.sum(axis=1), 1.0, atol=1e-3)):
            row = int(np.argmax((array < 0).any(axis=1) | (np.abs(array.sum(axis=1) - 1.0) > 1e-3)))
            raise InvalidValue(
                explain(
                    f"the rows of {name} are no classes: each has exactly one.",
                    expected="class numbers, or rows that sum to 1",
                    received=f"row {row}, which sums to {float(array[row].sum()):.4g}",
                    fix=f"af.metrics.confusion_matrix({name}[:, 0], y_predicted[:, 0]) for one label of several",
                )
            )
        return array.argmax(axis=1), array.shape[1]
    column = array.reshape(-1)
    if column.dtype.kind == "f" and (column != np.floor(column)).any():  # what a sigmoid gives
        if column.min() < 0 or column.max() > 1:
            raise InvalidValue(
                explain(
                    f"{name} holds numbers that are neither classes nor probabilities.",
                    expected="whole numbers, or numbers from 0 to 1",
                    received=f"{column.min():.4g} to {column.max():.4g}",
                    fix=f"{name} > threshold",
                )
            )
        return (column > 0.5).astype(np.int64), 2
    numbers = column.astype(np.int64)
    if numbers.min() < 0:
        raise InvalidValue(
            explain(
                f"{name} holds a negative class.", expected="classes from 0", received=int(numbers.min()), fix=f"{name} + 1"
            )
        )
    return numbers, max(2, int(numbers.max()) + 1)
