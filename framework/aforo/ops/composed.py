"""Functions composed of primitives. Their gradients are derived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

from ..errors import InvalidType, explain
from ..graph import Spelling, Tensor
from ..settings import strict
from ..specs import INTEGERS, Size
from .elementwise import cast, equal, erf, exp, guard, log, maximum, minimum, sigmoid, sqrt, square
from .leaves import iota
from .operands import alike, as_tensor, real
from .reduce import Axes, max, mean, sum
from .shape import as_axis, axis_of, concatenate, reshape, stop_gradient

F = TypeVar("F", bound=Callable[..., Tensor])

# e⁻⁶⁰ is far below rounding beside 1 and far above denormals, which make products over a hundred times slower.
_FLOOR = -60.0


def spelled(function: F) -> F:
    """Remember, on the value, that it was written as this function of these tensors."""

    @wraps(function)
    def call(x: Any, *rest: Any, **options: Any) -> Tensor:
        x = as_tensor(x)
        out = function(x, *rest, **options)
        if out.spelling is None and out is not x:
            out.spelling = Spelling(function.__name__, (x,))
        return out

    return call  # type: ignore[return-value]


@spelled
def relu(x: Tensor) -> Tensor:
    """max(x, 0), elementwise; derivative 0 at 0."""
    return maximum(x, 0.0)


def shifted(x: Tensor, axis: int = -1) -> tuple[Tensor, Tensor, Tensor]:
    """x − max(x), its exponential, and that one's sum, along an axis that is kept: what softmax and its loss share."""
    x = real(x)
    z = x - stop_gradient(max(x, axis, keepdims=True))
    e = exp(guard(z, _FLOOR))
    return z, e, sum(e, axis, keepdims=True)


@spelled
@strict
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """eˣ / Σ eˣ along an axis."""
    _, e, total = shifted(x, axis)
    return e / total


@spelled
@strict
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """The logarithm of softmax, exact where softmax itself underflows."""
    z, _, total = shifted(x, axis)
    return z - log(total)


@spelled
@strict
def leaky_relu(x: Tensor, slope: float = 0.2) -> Tensor:
    """x for x > 0, slope · x elsewhere."""
    return maximum(x, 0.0) + slope * minimum(x, 0.0)


@spelled
@strict
def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x for x > 0, α (eˣ − 1) elsewhere (Clevert et al., 2016)."""
    return maximum(x, 0.0) + alpha * (exp(minimum(x, 0.0)) - 1.0)


@spelled
def gelu(x: Tensor) -> Tensor:
    """x Φ(x), with the normal distribution's Φ (Hendrycks and Gimpel, 2016)."""
    return x * (0.5 + 0.5 * erf(x * 0.5**0.5))


@spelled
def silu(x: Tensor) -> Tensor:
    """x σ(x)."""
    return x * sigmoid(x)


@strict
def clip(x: Any, low: float, high: float) -> Tensor:
    """x within low and high, elementwise. Derivative 1 from above low up to high, 0 elsewhere."""
    return maximum(minimum(as_tensor(x), high), low)


@strict
def var(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The variance (divided by n) over one axis, several, or all of them."""
    x = as_tensor(x)
    return mean(square(x - mean(x, axis, keepdims=True)), axis, keepdims)


@strict
def std(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The standard deviation (divided by n) over one axis, several, or all of them."""
    return sqrt(var(x, axis, keepdims))


@strict
def expand_dims(x: Any, axis: int) -> Tensor:
    """x with an axis of size 1 put in at this place."""
    x = as_tensor(x)
    place = axis_of(x.ndim + 1, axis, x.shape)
    return reshape(x, (*x.shape[:place], 1, *x.shape[place:]))


@strict
def squeeze(x: Any, axis: int) -> Tensor:
    """x without this axis of size 1."""
    x = as_tensor(x)
    place = as_axis(x, axis)
    return reshape(x, (*x.shape[:place], *x.shape[place + 1 :]))


@strict
def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors of one shape, side by side along a new axis; of the wider dtype, if they have two."""
    return concatenate([expand_dims(x, axis) for x in alike(tensors)], axis)


@strict
def one_hot(labels: Any, classes: Size) -> Tensor:
    """Class numbers (…) as masks (…, classes), bool."""
    labels = as_tensor(labels)
    if labels.dtype not in INTEGERS:
        raise InvalidType(
            explain(
                "one_hot takes class numbers.", expected="whole numbers", received=labels.dtype, fix='af.ops.cast(x, "int64")'
            )
        )
    column = reshape(labels, (*labels.shape, 1))
    return equal(column, cast(iota(classes, labels.dtype), labels.dtype))
