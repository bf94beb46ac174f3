"""Why a table of batch × width looks as it does: its bytes as a formula, fitted by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ..specs import DTYPES

if TYPE_CHECKING:
    from .report import Report

# Powers of the batch size b and of the width n in each term.
_TERMS = ((0, 0), (1, 0), (0, 1), (1, 1), (0, 2))
_LEAST = 1e-9  # of a cell's bytes: what least squares leave of terms that are not there


@dataclass(frozen=True)
class Formula:
    """bytes ≈ constant + per_sample · b + per_unit · n + per_sample_unit · b · n + per_unit_pair · n²

    b is the batch size, n the width. per_sample_unit are the activations: b × n values in each layer that is kept for the
    backward. per_unit_pair are the weights between layers of that width, their slots, and the gradients that live at the peak.
    None where the table has too few columns or rows to tell. worst_error is the largest |formula / bytes − 1| in the table:
    an arena is the most that lives at one instruction, and which one that is may change with b and n.
    """

    constant: float
    per_sample: float | None
    per_unit: float | None
    per_sample_unit: float | None
    per_unit_pair: float | None
    worst_error: float
    symbol: str = "n"
    means: str = "width"
    dtype: str = "float32"

    def at(self, batch_size: int, width: int) -> float:
        return sum(
            (coefficient or 0.0) * float(batch_size**i * width**j)
            for coefficient, (i, j) in zip(self._coefficients, _TERMS, strict=True)
        )

    @property
    def _coefficients(self) -> tuple[float | None, ...]:
        return self.constant, self.per_sample, self.per_unit, self.per_sample_unit, self.per_unit_pair

    def __str__(self) -> str:
        n = self.symbol
        names = ("", " · b", f" · {n}", f" · b · {n}", f" · {n}²")
        known = [(value, name) for value, name in zip(self._coefficients, names, strict=True) if value]
        return f"bytes ≈ {' + '.join(_written(value) + name for value, name in known)}  (within {self.worst_error:.1%})"

    def lines(self) -> list[str]:
        """The formula, and what its terms mean."""
        found = [f"{self}; b = batch size, {self.symbol} = {self.means}"]
        if self.symbol != "n":
            return found
        if self.per_sample_unit:
            values = self.per_sample_unit / DTYPES[self.dtype]
            found.append(
                f"  b × n: {_written(self.per_sample_unit)} B for each unit of width and each sample, "
                f"as {values:.1f} layers' activations in {self.dtype}"
            )
        elif self.per_sample and self.per_sample_unit is None:
            found.append(f"  b: {_written(self.per_sample)} B for each sample: the batch, and b × n values in every layer")
        if self.per_unit_pair:
            found.append(f"  n × n: {_written(self.per_unit_pair)} B: weights between layers of width n, slots, gradients")
        return found


def _written(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def fit(
    reports: Sequence[Sequence[Report]],
    batch_sizes: Sequence[int],
    widths: Sequence[int] | None,
    symbol: str = "n",
    means: str = "width",
    dtype: str = "float32",
) -> Formula:
    """The formula of a table; rows are batch sizes, columns widths.

    dtype is that of the values between layers. A term that makes no difference of half a byte, or of a billionth, is 0.
    No coefficient is negative: each is what a sample or a unit costs. What the batch does not change is fitted apart: it
    depends on the width alone, and nearly without error. Errors count relative to the bytes of their cell.
    """
    columns = widths or [0]
    b, n = (grid.ravel() for grid in np.meshgrid(np.array(batch_sizes, float), np.array(columns, float), indexing="ij"))
    total = np.array([each.total_bytes for row in reports for each in row], float)
    moving = np.array([each.batch_bytes + each.arena_bytes + each.state_bytes for row in reports for each in row], float)
    by_batch = len(set(batch_sizes)) > 1
    powers = min(3 if symbol == "n" else 2, len(set(columns)))  # nothing grows with the square of time
    terms = [(i, j) for i, j in _TERMS if (not i or by_batch) and j < powers]
    still = [(i, j) for i, j in terms if not i]
    found = _solved(moving, terms, b, n, total) + _padded(_solved(total - moving, still, b, n, total), still, terms)
    coefficients = {
        (i, j): value if (np.abs(value * b**i * n**j) > np.maximum(0.5, _LEAST * total)).any() else 0.0
        for (i, j), value in zip(terms, found.tolist(), strict=True)
    }
    estimate = sum(coefficients[i, j] * b**i * n**j for i, j in terms)
    worst = float(np.abs(estimate / total - 1).max())
    by_sample, by_unit, by_both, by_pair = (coefficients.get(term) for term in _TERMS[1:])
    return Formula(coefficients[0, 0], by_sample, by_unit, by_both, by_pair, worst, symbol, means, dtype)


_Vector = np.ndarray[Any, np.dtype[np.float64]]


def _solved(values: _Vector, terms: Sequence[tuple[int, int]], b: _Vector, n: _Vector, weight: _Vector) -> _Vector:
    """Least squares without negative coefficients: of the few choices of terms that need none, the best."""
    table = np.stack([b**i * n**j for i, j in terms], axis=1) / weight[:, None]
    scale = np.abs(table).max(axis=0)
    wanted = values / weight
    best, least = np.zeros(len(terms)), float("inf")
    for chosen in product((False, True), repeat=len(terms)):
        found = np.zeros(len(terms))
        found[list(chosen)] = np.linalg.lstsq(table[:, chosen] / scale[list(chosen)], wanted, rcond=None)[0]
        error = float(np.square(table / scale @ found - wanted).sum())
        if found.min() >= 0.0 and error < least:
            best, least = found, error
    solved: _Vector = best / scale
    return solved


def _padded(found: _Vector, terms: Sequence[tuple[int, int]], wider: Sequence[tuple[int, int]]) -> _Vector:
    known = dict(zip(terms, found, strict=True))
    return np.array([known.get(term, 0.0) for term in wider])
