"""The translation, primitive by primitive: a rule for each, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from ..specs import Dim, Shape

if TYPE_CHECKING:
    from ..graph import Tensor
    from .builder import Builder

    Rule = Callable[["Builder", Tensor, list[str]], str]

_POINTS = 40  # of Gauss's rule

REASONS = {
    "uniform": (
        "its numbers are drawn, and ONNX's generators draw others",
        'x = af.Input([n], name="noise") takes numbers that are drawn outside',
    ),
}


def _plain(op: str) -> Rule:
    """The ONNX operator that does the same."""
    return lambda b, node, x: b.add(op, *x)


def _same(b: Builder, node: Tensor, x: list[str]) -> str:
    return x[0]


def _masks(op: str, masks: str) -> Rule:
    """Another operator for masks, which NumPy counts as 0 and 1."""
    return lambda b, node, x: b.add(masks if node.inputs[0].dtype == "bool" else op, *x)


def _compared(op: str) -> Rule:
    """ONNX compares numbers only: masks become numbers."""

    def rule(b: Builder, node: Tensor, x: list[str]) -> str:
        return b.add(
            op, *(b.cast(each, "int32") if i.dtype == "bool" else each for each, i in zip(x, node.inputs, strict=True))
        )

    return rule


def _multiply(b: Builder, node: Tensor, x: list[str]) -> str:
    if node.dtype == "bool":
        return b.add("And", *x)
    return b.add("Mul", x[0], b.cast(x[1], node.dtype) if node.inputs[1].dtype == "bool" else x[1])


def _where(b: Builder, node: Tensor, x: list[str]) -> str:
    if node.dtype != "bool":
        return b.add("Where", *x)
    mask, yes, no = x
    return b.add("Or", b.add("And", mask, yes), b.add("And", b.add("Not", mask), no))


def _constant(b: Builder, node: Tensor, x: list[str]) -> str:
    a = node.attributes
    if isinstance(a["value"], bytes):
        return b.number(np.frombuffer(a["value"], node.dtype).reshape(a["shape"]), node.dtype)
    if not isinstance(a["times"], Dim) and not isinstance(a["per"], Dim):
        return b.number(np.float64(a["value"]) * a["times"] / a["per"], node.dtype)
    times, per = (b.add("Squeeze", b.cast(b.size(a[each]), "float64")) for each in ("times", "per"))
    return b.cast(b.add("Div", b.add("Mul", b.number(a["value"], "float64"), times), per), node.dtype)


def _iota(b: Builder, node: Tensor, x: list[str]) -> str:
    size = node.attributes["size"]
    if not isinstance(size, Dim):
        return b.number(np.arange(size), node.dtype)
    numbers = b.add("Range", b.number(0, "int64"), b.add("Squeeze", b.size(size)), b.number(1, "int64"))
    return b.cast(numbers, node.dtype)


def _ones(b: Builder, node: Tensor, x: list[str]) -> str:
    return b.add("Expand", b.number(1, node.dtype), b.size(node.attributes["size"]))


def _cos(b: Builder, node: Tensor, x: list[str]) -> str:
    """1 − 2 sin²(x/2) in float64, of which ONNX Runtime 1.20 has no Cos."""
    if node.dtype == "float32":
        return b.add("Cos", *x)
    half = b.add("Sin", b.add("Mul", x[0], b.number(0.5, "float64")))
    return b.add("Sub", b.number(1.0, "float64"), b.add("Mul", b.add("Mul", half, half), b.number(2.0, "float64")))


def _tan(b: Builder, node: Tensor, x: list[str]) -> str:
    """sin/cos in float64, of which ONNX Runtime has no Tan."""
    return b.add("Tan", *x) if node.dtype == "float32" else b.add("Div", b.add("Sin", *x), _cos(b, node, x))


def _erf(b: Builder, node: Tensor, x: list[str]) -> str:
    """2x / √π ∫₀¹ exp(−x²s²) ds by Gauss's rule in float64, where ONNX Runtime has no Erf. Beyond 6 it is 1 to rounding."""
    if node.dtype == "float32":
        return b.add("Erf", *x)
    legendre = np.polynomial.legendre
    places, _ = legendre.leggauss(_POINTS)
    # Its own weights are good to 10⁻¹⁴ only: these integrate the polynomials exactly at the places as they are rounded.
    weights = np.linalg.solve(legendre.legvander(places, _POINTS - 1).T, 2 * np.eye(_POINTS)[0])
    near = b.add("Max", b.add("Min", x[0], b.number(6.0, "float64")), b.number(-6.0, "float64"))
    squares = b.add("Unsqueeze", b.add("Mul", near, near), b.number([-1], "int64"))
    values = b.add("Exp", b.add("Mul", squares, b.number(-(((places + 1) / 2) ** 2), "float64")))
    return b.add("Mul", near, b.add("MatMul", values, b.number(weights / sqrt(pi), "float64")))


def _with_number(op: str, attribute: str) -> Rule:
    """An operator of the tensor and a number that is an attribute."""
    return lambda b, node, x: b.add(op, x[0], b.number(node.attributes[attribute], node.dtype))


def _reshape(b: Builder, node: Tensor, x: list[str]) -> str:
    return b.add("Reshape", x[0], b.shape(node.shape, one_left_out=True))


def _slice(b: Builder, node: Tensor, x: list[str]) -> str:
    a = node.attributes
    axes = b.number(range(node.ndim), "int64")
    return b.add("Slice", x[0], b.shape(a["start"]), b.shape(a["stop"]), axes, b.number(a["step"], "int64"))


def _zeros(b: Builder, shape: Shape, dtype: str) -> str:
    return b.add("Expand", b.number(0, dtype), b.shape(shape))


def _pad(b: Builder, node: Tensor, x: list[str]) -> str:
    """Each value before step − 1 zeros, then the zeros around; a negative padding takes away what the last values leave."""
    before, step = node.attributes["before"], node.attributes["step"]
    sizes, value = node.inputs[0].shape, x[0]
    if any(s > 1 for s in step):
        apart = tuple(size for n in sizes for size in (n, 1))
        gaps = [0, 0] * len(sizes) + [size for s in step for size in (0, s - 1)]
        value = b.add("Pad", b.add("Reshape", value, b.shape(apart, one_left_out=True)), b.number(gaps, "int64"))
        sizes = tuple(n * s for n, s in zip(sizes, step, strict=True))
        value = b.add("Reshape", value, b.shape(sizes, one_left_out=True))
    after = tuple(n - m - size for n, m, size in zip(node.shape, before, sizes, strict=True))
    return b.add("Pad", value, b.shape((*before, *after)))


def _scatter_add(b: Builder, node: Tensor, x: list[str]) -> str:
    rows = b.add("Unsqueeze", b.cast(x[1], "int64"), b.number([-1], "int64"))
    return b.add("ScatterND", _zeros(b, node.shape, node.dtype), rows, x[0], reduction="add")


def _reduced(op: str) -> Rule:
    return lambda b, node, x: b.add(op, x[0], b.number(node.attributes["axes"], "int64"), keepdims=0)


RULES: dict[str, Any] = {
    "variable": _same,  # the builder knows variables
    "constant": _constant,
    "iota": _iota,
    "ones": _ones,
    "negative": _plain("Neg"),
    "exp": _plain("Exp"),
    "log": _plain("Log"),
    "sqrt": _plain("Sqrt"),
    "tanh": _plain("Tanh"),
    "logistic": _plain("Sigmoid"),
    "softplus": _plain("Softplus"),
    "sin": _plain("Sin"),
    "cos": _cos,
    "tan": _tan,
    "absolute": _plain("Abs"),
    "erf": _erf,
    "floor": _plain("Floor"),
    "sign": _plain("Sign"),
    "reciprocal": _plain("Reciprocal"),
    "square": lambda b, node, x: b.add("Mul", x[0], x[0]),
    "power": _with_number("Pow", "exponent"),
    "guard": _with_number("Max", "floor"),
    "cast": lambda b, node, x: b.cast(x[0], node.dtype),
    "add": _masks("Add", "Or"),
    "subtract": _plain("Sub"),
    "multiply": _multiply,
    "divide": _plain("Div"),
    "maximum": _masks("Max", "Or"),
    "minimum": _masks("Min", "And"),
    "greater": _compared("Greater"),
    "greater_equal": _compared("GreaterOrEqual"),
    "equal": _plain("Equal"),
    "where": _where,
    "logical_not": _plain("Not"),
    "identity": _same,
    "copy": _same,
    "stop_gradient": _same,
    "after": _same,
    "passing": _same,
    "reshape": _reshape,
    "transpose": lambda b, node, x: b.add("Transpose", x[0], perm=node.attributes["axes"]),
    "broadcast": lambda b, node, x: b.add("Expand", x[0], b.shape(node.shape)),
    "slice": _slice,
    "pad": _pad,
    "concatenate": lambda b, node, x: b.add("Concat", *x, axis=node.attributes["axis"]),
    "gather": lambda b, node, x: b.add("Gather", *x, axis=0),
    "scatter_add": _scatter_add,
    "matmul": _plain("MatMul"),
    "sum": _reduced("ReduceSum"),
    "amax": _reduced("ReduceMax"),
    "scan": lambda b, node, x: b.loop(node, x),
    "result": lambda b, node, x: b.asked[id(node.inputs[0])][node.attributes["kind"], node.attributes["number"]],
    "argmax": lambda b, node, x: b.add("ArgMax", x[0], axis=-1, keepdims=0),
}

# ONNX's operators that broadcast their inputs by NumPy's rule.
LOOSE = {
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "greater", "greater_equal", "equal", "where"
}  # fmt: skip
