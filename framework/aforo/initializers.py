"""How weights start. An initializer is a callable `(shape, dtype, rng) -> array`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt
from typing import Any

import numpy as np

from .errors import InvalidType, InvalidValue, explain, unknown_name
from .random import Stream
from .settings import takes
from .specs import written

Array = np.ndarray[Any, Any]
Initializer = Callable[[tuple[int, ...], str, "np.random.Generator"], Array]  # a name: numpy.random loads when it is used


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many values go into and come out of one unit of a kernel (d_in, d_out)."""
    if len(shape) < 2:
        return prod(shape), prod(shape)
    window = prod(shape[:-2])
    return shape[-2] * window, shape[-1] * window


def _uniform(shape: tuple[int, ...], dtype: str, rng: np.random.Generator, limit: float) -> Array:
    values = rng.random(shape, np.dtype(dtype).type)
    values *= 2 * limit
    values -= limit
    return values


def _normal(shape: tuple[int, ...], dtype: str, rng: np.random.Generator, deviation: float) -> Array:
    values = rng.standard_normal(shape, np.dtype(dtype).type)
    values *= deviation
    return values


def glorot_uniform(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    """Uniform in ±√(6 / (d_in + d_out)): Glorot and Bengio (2010)."""
    return _uniform(shape, dtype, rng, sqrt(6 / sum(_fans(shape))))


def glorot_normal(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    """Normal with variance 2 / (d_in + d_out): Glorot and Bengio (2010)."""
    return _normal(shape, dtype, rng, sqrt(2 / sum(_fans(shape))))


def he_uniform(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    """Uniform in ±√(6 / d_in): He et al. (2015)."""
    return _uniform(shape, dtype, rng, sqrt(6 / _fans(shape)[0]))


def he_normal(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    """Normal with variance 2 / d_in: He et al. (2015)."""
    return _normal(shape, dtype, rng, sqrt(2 / _fans(shape)[0]))


def lecun_uniform(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    """Uniform in ±√(3 / d_in): LeCun et al. (1998)."""
    return _uniform(shape, dtype, rng, sqrt(3 / _fans(shape)[0]))


def lecun_normal(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    """Normal with variance 1 / d_in: LeCun et al. (1998)."""
    return _normal(shape, dtype, rng, sqrt(1 / _fans(shape)[0]))


def random_uniform(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    """Uniform in ±0.05."""
    return _uniform(shape, dtype, rng, 0.05)


def random_normal(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    """Normal with standard deviation 0.05."""
    return _normal(shape, dtype, rng, 0.05)


def orthogonal(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    """Orthonormal rows, or columns where there are fewer of these: Saxe et al. (2014)."""
    rows, columns = prod(shape[:-1]), shape[-1]
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diagonal(r))
    return (q if rows >= columns else q.T).reshape(shape).astype(dtype)


def zeros(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    """All zeros."""
    return np.zeros(shape, dtype)


def ones(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    """All ones."""
    return np.ones(shape, dtype)


KNOWN: dict[str, Initializer] = {
    function.__name__: function
    for function in (
        glorot_uniform, glorot_normal, he_uniform, he_normal, lecun_uniform, lecun_normal, random_uniform, random_normal,
        orthogonal, zeros, ones,
    )
}  # fmt: skip


def get(identifier: str | Initializer) -> Initializer:
    """The initializer of that name, or the callable itself."""
    if isinstance(identifier, str):
        if identifier not in KNOWN:
            raise unknown_name("initializer", identifier, KNOWN)
        return KNOWN[identifier]
    if not callable(identifier):
        raise InvalidType(
            explain(
                "this is no initializer.",
                expected="a name such as 'glorot_uniform', or a callable (shape, dtype, rng) -> array",
                received=repr(identifier),
                fix='kernel_initializer="glorot_uniform"',
            )
        )
    return identifier


def drawn(draw: Initializer, shape: tuple[int, ...], dtype: str, stream: Stream, purpose: str, weight: str) -> Array:
    """What a weight starts with. Raises for an initializer of the user's that gives something else than such an array."""
    if not takes(draw, 3):
        raise InvalidType(
            explain(
                f"the initializer of {weight} is called with a shape, a dtype and a source of random numbers.",
                expected="a callable (shape, dtype, rng) -> array",
                received=repr(draw),
                fix="lambda shape, dtype, rng: rng.normal(size=shape)",
            )
        )
    try:
        values = np.asarray(draw(shape, dtype, stream.generator(purpose)))
    except TypeError as error:
        raise InvalidType(
            explain(
                f"the initializer of {weight} failed: {error}",
                expected="a callable (shape, dtype, rng) -> array",
                received=repr(draw),
                fix="lambda shape, dtype, rng: rng.normal(size=shape)",
            )
        ) from error
    if values.shape not in ((), shape) or values.dtype.kind not in "fiub":
        raise InvalidValue(
            explain(
                f"the initializer of {weight} gives something else than its values.",
                expected=f"numbers of shape {written(shape)}",
                received=f"{values.dtype} of shape {written(values.shape)}",
                fix="lambda shape, dtype, rng: np.full(shape, 0.5)",
            )
        )
    return values
