"""Values that no operation gives: variables, constants, counts."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidType, explain
from ..graph import Tensor, Variable, apply, primitive
from ..graph.primitive import Spec
from ..settings import whole
from ..specs import Dim, Shape, Size, as_dtype


def _variable_spec(*, variable: Variable) -> Spec:
    return variable.shape, variable.dtype


def _constant_spec(*, value: Any, dtype: str, times: Size, per: Size, shape: Shape) -> Spec:
    return shape, dtype


def _iota_spec(*, size: Size, dtype: str) -> Spec:
    return (size,), dtype


def _no_flops(node: Tensor) -> int:
    return 0


primitive("variable", spec=_variable_spec, stops="it is where a graph starts", flops=_no_flops)
primitive("constant", spec=_constant_spec, stops="it is where a graph starts", flops=_no_flops)
primitive("iota", spec=_iota_spec, stops="it is where a graph starts", flops=_no_flops)
primitive("ones", spec=_iota_spec, stops="it is where a graph starts", flops=_no_flops)


def iota(size: Size, dtype: str = "int64") -> Tensor:
    """0, 1, … size − 1, shape (size,)."""
    size = size if isinstance(size, Dim) else whole("size", size, 1)
    if as_dtype(dtype) == "bool":
        raise InvalidType(explain("iota counts.", expected="a dtype of numbers", received=dtype, fix='dtype="int64"'))
    return apply("iota", size=size, dtype=dtype)
