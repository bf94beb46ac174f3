"""Random numbers as a primitive: counter-based, so that they depend on what they are for and on nothing else."""

from __future__ import annotations

from ..graph import Sample, Tensor, apply, constant, primitive
from ..graph.primitive import Spec
from ..specs import Shape, Size, count
from .shape import getitem, reshape

_LANES = 8  # float32 numbers in one block of Philox4x64


def _uniform_spec(step: Tensor, first: Tensor | None = None, *, rows: Size, columns: int, key: tuple[int, int]) -> Spec:
    return (rows, columns), "float32"


primitive(
    "uniform",
    spec=_uniform_spec,
    stops="it is drawn, not computed",
    samples=(
        Sample(((),), {"rows": 3, "columns": 16, "key": (5, 7)}, dtypes=("int64",), low=0, high=9),
        Sample(((), ()), {"rows": 3, "columns": 16, "key": (5, 7)}, dtypes=("int64", "int64"), low=1, high=9),
    ),
)


def below(rate: float, shape: Shape, step: Tensor, key: tuple[int, int], first: Tensor | None = None) -> Tensor:
    """True with probability 1 − rate, independently for each value of the shape; bool.

    Row r of step s is drawn from Philox4x64-10 with this key at counter (r · blocks, s): the same wherever and in whatever
    parts a batch is computed. first: the number of the first sample, where the shape is only a part of the batch.
    """
    rows, last = count(shape[:-1]), int(shape[-1])
    columns = -(-last // _LANES) * _LANES
    given = [step]
    if first is not None:
        each = count(shape[1:-1])
        given.append(first if each == 1 else first * constant(1.0, first.dtype, times=each))
    drawn = apply("uniform", *given, rows=rows, columns=columns, key=key)
    keep = getitem(drawn, (slice(None), slice(0, last))) >= rate
    return reshape(keep, shape)
