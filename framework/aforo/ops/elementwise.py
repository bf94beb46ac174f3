"""Elementwise primitives. Adding one is one record: backends find the kernel by its name."""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from math import sqrt as sqrt_of
from typing import Any

import numpy as np

from ..errors import InvalidType, InvalidValue, explain
from ..graph import Sample, Tensor, apply, constant, primitive
from ..graph.primitive import Gradient, Spec
from ..specs import FLOATS, INTEGERS, Shape, as_dtype, wider, written
from .operands import as_tensor, met, real, where_it_happened
from .shape import broadcast_to, repeated

_TWO_OVER_ROOT_PI = 2.0 / sqrt_of(pi)
_CONSTANT_STEPS = "it is constant between its jumps"


# --- unary ------------------------------------------------------------------------------------------------------------


def _float_spec(name: str) -> Callable[..., Spec]:
    def spec(x: Tensor, **_: Any) -> Spec:
        if x.dtype not in FLOATS:
            raise InvalidType(
                explain(
                    f"{name} takes floating-point tensors{where_it_happened()}.",
                    expected="float32 or float64",
                    received=x.dtype,
                    fix='af.ops.cast(x, "float32")',
                )
            )
        return x.shape, x.dtype

    return spec


def _unary(
    name: str,
    gradient: Gradient | None,
    doc: str,
    *,
    primitive_name: str = "",
    low: float = -2.0,
    high: float = 2.0,
    stops: str = "",
    overwrites: tuple[int, ...] = (0,),
    whole: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[Any], Tensor]:
    """whole: what it is of whole numbers, where that is a whole number; else they become float32."""
    op = primitive_name or name
    primitive(
        op,
        spec=_float_spec(name),
        gradient=gradient,
        stops=stops,
        overwrites=overwrites,
        samples=(Sample(((3, 4),), low=low, high=high), Sample(((1,),), low=low, high=high)),
    )

    def function(x: Any) -> Tensor:
        x = as_tensor(x)
        return whole(x) if whole is not None and x.dtype in INTEGERS else apply(op, real(x))

    function.__name__ = function.__qualname__ = name  # pickle finds it so
    function.__doc__ = doc
    return function


negative = _unary("negative", lambda y, g: (-g,), "−x, elementwise.", whole=lambda x: binary("subtract", 0, x))
exp = _unary("exp", lambda y, g: (g * y,), "eˣ, elementwise.")
log = _unary("log", lambda y, g: (g / y.inputs[0],), "Natural logarithm of x > 0, elementwise.", low=0.3, high=3.0)
sqrt = _unary("sqrt", lambda y, g: (g * 0.5 / y,), "Square root of x > 0, elementwise.", low=0.3, high=3.0)
tanh = _unary("tanh", lambda y, g: (g * (1.0 - square(y)),), "Hyperbolic tangent, 2σ(2x) − 1, elementwise.")
sigmoid = _unary("sigmoid", lambda y, g: (g * y * (1.0 - y),), "σ(x) = 1 / (1 + e⁻ˣ), elementwise.", primitive_name="logistic")
softplus = _unary("softplus", lambda y, g: (g * sigmoid(y.inputs[0]),), "log(1 + eˣ), elementwise, without overflow.")
sin = _unary("sin", lambda y, g: (g * apply("cos", y.inputs[0]),), "Sine, elementwise, in radians.")
cos = _unary("cos", lambda y, g: (-(g * sin(y.inputs[0])),), "Cosine, elementwise, in radians.")
tan = _unary("tan", lambda y, g: (g * (1.0 + y * y),), "Tangent, elementwise, in radians.", low=-1.0, high=1.0)
absolute = _unary(
    "absolute",
    lambda y, g: (g * apply("sign", y.inputs[0]),),
    "|x|, elementwise; derivative 0 at 0.",
    low=0.2,
    high=2.0,
    whole=lambda x: binary("maximum", x, negative(x)),
)
erf = _unary(
    "erf",
    lambda y, g: (g * (exp(-square(y.inputs[0])) * _TWO_OVER_ROOT_PI),),
    "The error function, elementwise (Abramowitz and Stegun, 7.1.1).",
    overwrites=(),
)
floor = _unary("floor", None, "The largest whole number not above x, elementwise.", stops=_CONSTANT_STEPS)
sign = _unary("sign", None, "−1, 0 or 1, elementwise.", stops=_CONSTANT_STEPS)
reciprocal = _unary("reciprocal", lambda y, g: (-(g * y * y),), "1 / x, elementwise.", low=0.4, high=2.0)


primitive(
    "power",
    spec=_float_spec("power"),
    gradient=lambda y, g: (g * y.attributes["exponent"] * power(y.inputs[0], y.attributes["exponent"] - 1.0),),
    overwrites=(0,),
    samples=(
        Sample(((3, 4),), {"exponent": 3.0}),
        Sample(((3, 4),), {"exponent": -2.5}, low=0.5, high=2.0),
        Sample(((5,),), {"exponent": -459.0}, low=0.99, high=1.01),
    ),
)


def power(x: Any, exponent: Any) -> Tensor:
    """x to a constant power of any sign, elementwise. For a negative x the exponent must be a whole number."""
    base = real(x)
    if isinstance(exponent, Tensor) or not np.isscalar(exponent) or isinstance(exponent, (str, bool, complex)):
        raise InvalidType(
            explain(
                f"the exponent of a power must be a constant number{where_it_happened()}.",
                received=exponent,
                fix="af.ops.exp(exponent * af.ops.log(x)) for x > 0",
            )
        )
    p = float(exponent)
    if p == 0.0:
        return broadcast_to(constant(1.0, base.dtype), base.shape)
    if p == 1.0:
        return base.used()
    if p == 2.0:
        return square(base)
    if p in (-1.0, 0.5):
        return reciprocal(base) if p < 0 else sqrt(base)
    return apply("power", base, exponent=p)


def exponential(base: Any, x: Tensor) -> Tensor:
    """A constant base above 0 to the power of x, elementwise."""
    if isinstance(base, bool) or not isinstance(base, (int, float, np.number)) or not float(base) > 0:
        raise InvalidValue(
            explain(
                f"the base of a varying power must be a number above 0{where_it_happened()}.",
                received=repr(base),
                fix="af.ops.exp(x * af.ops.log(base)) for a tensor of positive bases",
            )
        )
    return exp(x * float(np.log(float(base))))


primitive(
    "square",
    spec=_float_spec("square"),
    gradient=lambda y, g: (g * 2.0 * y.inputs[0],),
    overwrites=(0,),
    samples=(Sample(((3, 4),)),),
)


def square(x: Any) -> Tensor:
    """x², elementwise."""
    return apply("square", real(x))


primitive(
    "guard",
    spec=_float_spec("guard"),
    gradient=lambda y, g: (g,),
    overwrites=(0,),
    samples=(Sample(((3, 4),), {"floor": -60.0}),),
)


def guard(x: Tensor, floor: float) -> Tensor:
    """max(x, floor) as a numerical guard: the gradient passes as if it were not there."""
    return apply("guard", x, floor=floor)


def _cast_spec(x: Tensor, *, dtype: str) -> Spec:
    return x.shape, as_dtype(dtype)


primitive(
    "cast",
    spec=_cast_spec,
    gradient=lambda y, g: (cast(g, y.inputs[0].dtype),) if {y.dtype, y.inputs[0].dtype} <= set(FLOATS) else (None,),
    samples=(
        Sample(((3, 4),), {"dtype": "float64"}),
        Sample(((3, 4),), {"dtype": "float32"}, dtypes=("bool",)),
        Sample(((3, 4),), {"dtype": "int64"}, dtypes=("int32",)),
    ),
)


def cast(x: Any, dtype: Any) -> Tensor:
    """x with another dtype. Passes gradients between floating-point dtypes."""
    x = as_tensor(x)
    return x.used() if as_dtype(dtype) == x.dtype else apply("cast", x, dtype=as_dtype(dtype))


# --- binary -----------------------------------------------------------------------------------------------------------


def _same_spec(name: str, out: str | None = None) -> Callable[..., Spec]:
    def spec(a: Tensor, b: Tensor) -> Spec:
        if a.shape != b.shape:
            raise InvalidValue(explain(f"{name} takes tensors of one shape.", received=f"{a!r} and {b!r}"))
        if a.dtype != b.dtype and not (name == "multiply" and b.dtype == "bool"):
            raise InvalidType(explain(f"{name} takes tensors of one dtype.", received=f"{a!r} and {b!r}"))
        if name == "subtract" and a.dtype == "bool":
            fix = 'af.ops.cast(a, "float32") - af.ops.cast(b, "float32")'
            raise InvalidType(explain("subtract takes numbers.", received=f"{a!r} and {b!r}", fix=fix))
        return a.shape, out or a.dtype

    return spec


def _binary(
    name: str,
    gradient: Gradient | None,
    doc: str,
    *,
    out: str | None = None,
    low: float = -2.0,
    high: float = 2.0,
    stops: str = "",
    extra: tuple[Sample, ...] = (),
) -> Callable[[Any, Any], Tensor]:
    primitive(
        name,
        spec=_same_spec(name, out),
        gradient=gradient,
        stops=stops,
        overwrites=() if out else (0, 1),
        samples=(Sample(((3, 4), (3, 4)), low=low, high=high), *extra),
    )

    def function(a: Any, b: Any) -> Tensor:
        return binary(name, a, b)

    function.__name__ = function.__qualname__ = name  # pickle finds it so
    function.__doc__ = doc
    return function


def _larger_gradient(y: Tensor, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
    a, b = y.inputs
    if scalar_source(b) is not None and b.inputs and b.inputs[0].op == "constant":
        return g * (y > b), None  # asks the output, so that the input need not be kept
    return g * (a > b), g * (b >= a)


def _smaller_gradient(y: Tensor, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
    a, b = y.inputs
    return g * (b >= a), g * (a > b)


def _product_gradient(y: Tensor, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
    a, b = y.inputs
    return g * b, (g * a if b.dtype != "bool" else None)


def _quotient_gradient(y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    b = y.inputs[1]
    ga = g / b
    return ga, -(ga * y)


add = _binary("add", lambda y, g: (g, g), "a + b, elementwise; shapes broadcast as in NumPy.")
subtract = _binary("subtract", lambda y, g: (g, -g), "a − b, elementwise; shapes broadcast as in NumPy.")
multiply = _binary(
    "multiply",
    _product_gradient,
    "a · b, elementwise; shapes broadcast as in NumPy. b may be a mask.",
    extra=(Sample(((3, 4), (3, 4)), dtypes=("float", "bool")),),
)
divide = _binary("divide", _quotient_gradient, "a / b, elementwise; shapes broadcast as in NumPy.", low=0.4, high=2.0)
maximum = _binary(
    "maximum",
    _larger_gradient,
    "The larger of a and b, elementwise. Where they are equal the gradient goes to b; to nothing if b is a constant.",
)
minimum = _binary(
    "minimum",
    _smaller_gradient,
    "The smaller of a and b, elementwise. Where they are equal the gradient goes to a: with `maximum`, to each once.",
)
greater = _binary("greater", None, "a > b, elementwise, as bool.", out="bool", stops=_CONSTANT_STEPS)
greater_equal = _binary("greater_equal", None, "a ≥ b, elementwise, as bool.", out="bool", stops=_CONSTANT_STEPS)
equal = _binary(
    "equal",
    None,
    "a = b, elementwise, as bool.",
    out="bool",
    stops=_CONSTANT_STEPS,
    extra=(Sample(((3, 4), (3, 4)), dtypes=("int32", "int32"), low=0, high=2),),
)

_SYMMETRIC = {"maximum", "minimum"}
_NEUTRAL = {"add": 0.0, "subtract": 0.0, "multiply": 1.0, "divide": 1.0}


def promoted(name: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Both as tensors of one dtype; a number takes the dtype of the tensor it meets."""
    a = as_tensor(a, met(a, b.dtype) if isinstance(b, Tensor) else None)
    b = as_tensor(b, met(b, a.dtype))
    if name == "divide" and a.dtype not in FLOATS and b.dtype not in FLOATS:
        return cast(a, "float32"), cast(b, "float32")
    if a.dtype == b.dtype:
        return a, b
    if name == "multiply" and a.dtype == "bool" and b.dtype in FLOATS:
        return b, a
    if name == "multiply" and b.dtype == "bool" and a.dtype in FLOATS:
        return a, b
    dtype = wider(a.dtype, b.dtype)
    return cast(a, dtype), cast(b, dtype)


def broadcast_shapes(name: str, a: Shape, b: Shape) -> Shape:
    """The common shape of two tensors, by NumPy's rule: aligned at the last axis, sizes equal or one of them 1."""
    n = max(len(a), len(b))
    padded = [(1,) * (n - len(shape)) + shape for shape in (a, b)]
    shape = []
    for axis, (p, q) in enumerate(zip(*padded, strict=True)):
        if p != q and p != 1 and q != 1:
            raise InvalidValue(
                explain(
                    f"{name} cannot combine these shapes{where_it_happened()}: they differ at axis {axis - n}.",
                    expected=f"sizes that are equal, or 1, on every axis; here {p} meets {q}",
                    received=f"{written(a)} and {written(b)}",
                )
            )
        shape.append(q if p == 1 else p)
    return tuple(shape)


def scalar_source(x: Tensor) -> Tensor | None:
    """The single number that `x` repeats, if that is what it is."""
    if not x.shape:
        return x
    return x.inputs[0] if x.folds("broadcast") and not x.inputs[0].shape else None


def binary(name: str, a: Any, b: Any) -> Tensor:
    """One of the binary primitives on anything that can be a tensor, broadcast. Numbers are folded, 1· and 0+ dropped."""
    return _combined(name, *promoted(name, a, b))


def _combined(name: str, a: Tensor, b: Tensor) -> Tensor:
    shape = broadcast_shapes(name, a.shape, b.shape)
    one, other = scalar_source(a), scalar_source(b)
    if name in _SYMMETRIC and one is not None and other is None:
        a, b, one, other = b, a, other, one
    if one is not None and other is not None:
        number = _folded(name, one, other)
        return broadcast_to(apply(name, one, other) if number is None else number, shape)
    neutral = _NEUTRAL.get(name)
    if neutral is not None and a.shape == shape and _is_number(other, neutral):
        return a.used()
    if name in ("add", "multiply") and b.shape == shape and b.dtype == a.dtype and _is_number(one, neutral):
        return b.used()
    return apply(name, repeated(a, shape), repeated(b, shape))


def _is_number(x: Tensor | None, value: float | None) -> bool:
    return x is not None and x.op == "constant" and x.attributes == {**x.attributes, "value": value, "times": 1, "per": 1}


def _folded(name: str, a: Tensor, b: Tensor) -> Tensor | None:
    """The constant that two constants make, when it is one whatever the symbolic sizes are."""
    if _is_number(b, _NEUTRAL.get(name)):
        return a
    if name in ("add", "multiply") and a.dtype == b.dtype and _is_number(a, _NEUTRAL[name]):
        return b
    if b.op == "constant" and name == "multiply" and a.folds("multiply") and a.dtype == b.dtype:
        for x, factor in (a.inputs, a.inputs[::-1]):
            if factor.op == "constant":  # (x · 2) · 3 = x · 6
                number = _folded(name, factor, b)
                return None if number is None else binary(name, x, number)
    if a.op == "constant" and b.op != "constant" and name == "multiply":
        return _folded(name, b, a)
    if a.op != "constant" or b.op != "constant" or a.dtype not in FLOATS or b.dtype not in FLOATS:
        return None
    p, q = a.attributes, b.attributes
    if name == "multiply":
        return constant(p["value"] * q["value"], a.dtype, p["times"] * q["times"], p["per"] * q["per"])
    if name == "divide" and q["value"]:
        return constant(p["value"] / q["value"], a.dtype, p["times"] * q["per"], p["per"] * q["times"])
    if name in ("add", "subtract") and (p["times"], p["per"], q["times"], q["per"]) == (1, 1, 1, 1):
        return constant(p["value"] + (q["value"] if name == "add" else -q["value"]), a.dtype)
    return None
