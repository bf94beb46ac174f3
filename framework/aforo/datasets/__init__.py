"""Data: small, real sets that are shipped with the package, and tables in text files.

Sources and licences of what is shipped: data/SOURCES.md beside this file.
"""

from __future__ import annotations

from os.path import dirname, join
from typing import Any

import numpy as np

from ..settings import strict
from .table import load_csv

__all__ = ["load_csv", "load_diabetes", "load_digits"]

Array = np.ndarray[Any, Any]


def _load(name: str) -> tuple[Array, Array]:
    with np.load(join(dirname(__file__), "data", f"{name}.npz"), allow_pickle=False) as file:
        return file["x"], file["y"]


@strict
def load_digits(one_hot: bool = False) -> tuple[Array, Array]:
    """1,797 handwritten digits of 8 × 8 pixels.

    x: (1797, 64) float32, from 0 (paper) to 1 (ink). y: the digits, (1797,) int64; with `one_hot` (1797, 10) float32.
    """
    x, y = _load("digits")
    return x.astype(np.float32) / 16, np.eye(10, dtype=np.float32)[y] if one_hot else y.astype(np.int64)


@strict
def load_diabetes(standardized: bool = True) -> tuple[Array, Array]:
    """442 patients: ten measurements, and how far diabetes had progressed a year later.

    x: (442, 10) float32, the columns age, sex, bmi, bp, s1 … s6. y: (442, 1) float32. Every column has mean 0 and standard
    deviation 1; with `standardized=False` they hold the published values (y from 25 to 346).
    """
    x, y = _load("diabetes")
    y = y[:, None]
    if standardized:
        x, y = ((values - values.mean(axis=0)) / values.std(axis=0) for values in (x, y))
    return x.astype(np.float32), y.astype(np.float32)
