"""Shapes with symbolic axes, and dtypes.

A `Dim` is the length of an axis that is not known while a graph is built: the batch, or time. It is a polynomial with
whole coefficients in named symbols, so `2 * batch`, `batch * time` and `time - 1` are all exact. One graph serves every
batch size because nothing can look at a Dim's value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import isqrt, prod
from typing import Any, NoReturn

from .errors import InvalidType, InvalidValue, explain

DTYPES = {"float32": 4, "float64": 8, "int32": 4, "int64": 8, "bool": 1}
FLOATS = ("float32", "float64")
INTEGERS = ("int32", "int64")
_PROMOTION = ("bool", "int32", "int64", "float32", "float64")


def wider(*dtypes: str) -> str:
    """The dtype that holds the values of all of these."""
    return max(dtypes, key=_PROMOTION.index)


_Terms = dict[tuple[str, ...], int]


class Dim:
    """The length of a symbolic axis.

    `terms` maps a product of symbols to its coefficient; `()` is the constant term.
    """

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: _Terms) -> None:
        self.terms = terms
        self._hash = hash(frozenset(terms.items()))

    @staticmethod
    def symbol(name: str) -> Dim:
        return Dim({(name,): 1})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, other: int | Dim) -> int | Dim:
        terms = dict(self.terms)
        for symbols, coefficient in _terms(other).items():
            terms[symbols] = terms.get(symbols, 0) + coefficient
        return _reduced(terms)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return Dim({symbols: -coefficient for symbols, coefficient in self.terms.items()})

    def __sub__(self, other: int | Dim) -> int | Dim:
        return self + -other

    def __rsub__(self, other: int) -> int | Dim:
        return -self + other

    def __mul__(self, other: int | Dim) -> int | Dim:
        terms: _Terms = {}
        for a, m in self.terms.items():
            for b, n in _terms(other).items():
                symbols = tuple(sorted(a + b))
                terms[symbols] = terms.get(symbols, 0) + m * n
        return _reduced(terms)

    __rmul__ = __mul__

    def __floordiv__(self, other: int | Dim) -> int | Dim:
        """Exact division by a number or a single product of symbols."""
        if not isinstance(other, Dim) and other == 0:
            raise InvalidValue(explain(f"{self} cannot be divided by 0."))
        ((divisor, n), *rest) = _terms(other).items()
        terms: _Terms = {}
        for symbols, coefficient in self.terms.items():
            left = list(symbols)
            for symbol in divisor:
                if symbol in left:
                    left.remove(symbol)
                else:
                    rest.append(((symbol,), 1))
            if rest or coefficient % n:
                raise InvalidValue(explain(f"{self} does not divide by {other} for every value of its symbols."))
            terms[tuple(left)] = coefficient // n
        return _reduced(terms)

    def __rfloordiv__(self, other: int) -> NoReturn:
        raise InvalidValue(explain(f"{other} does not divide by {self} for every value of its symbols."))

    def at(self, sizes: Mapping[str, int]) -> int:
        return sum(n * prod(sizes[symbol] for symbol in symbols) for symbols, n in self.terms.items())

    def replaced(self, sizes: Mapping[str, Size]) -> Size:
        """With other sizes, which may be symbolic, in place of symbols."""
        total: Size = 0
        for symbols, n in self.terms.items():
            term: Size = n
            for symbol in symbols:
                term = sizes.get(symbol, Dim.symbol(symbol)) * term
            total = term + total
        return total

    def no_value(self, *_: object) -> NoReturn:
        raise InvalidValue(
            explain(
                f"the size of a symbolic axis ({self}) has no value while a graph is built: one graph serves every size.",
                expected="code that does the same for every size; sizes may be added, multiplied and used in shapes",
                received=f"a request for the value of {self}",
                fix="use x.shape[0] as it is, -1 in reshape, or af.ops.mean instead of dividing by a count",
            )
        )

    __int__ = __index__ = __bool__ = __float__ = no_value
    __lt__ = __le__ = __gt__ = __ge__ = __truediv__ = __rtruediv__ = __mod__ = __rmod__ = no_value

    def __repr__(self) -> str:
        def term(symbols: tuple[str, ...], n: int) -> str:
            factors = [str(n)] * (n != 1 or not symbols) + list(symbols)
            return "·".join(factors)

        return " + ".join(term(symbols, n) for symbols, n in sorted(self.terms.items(), reverse=True))


def _terms(size: int | Dim) -> _Terms:
    return size.terms if isinstance(size, Dim) else {(): size}


def _reduced(terms: _Terms) -> int | Dim:
    terms = {symbols: n for symbols, n in terms.items() if n}
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    return Dim(terms)


Size = int | Dim
Shape = tuple[Size, ...]

BATCH = Dim.symbol("batch")
TIME = Dim.symbol("time")
SPAN, BLOCKS = Dim.symbol("span"), Dim.symbol("blocks")  # of a loop in blocks: the steps of one, and how many are whole


def in_blocks(length: int) -> tuple[int, int]:
    """Steps of a block, and how many whole ones stand before the last: about √length each."""
    span = isqrt(length)
    return span, (length - 1) // span


def sizes_of(batch: int, time: int = 1) -> dict[str, int]:
    """What the symbols are for a batch of sequences of that many steps."""
    span, blocks = in_blocks(time)
    return {"batch": batch, "time": time, "span": span, "blocks": blocks}


def varies(size: Size, symbol: str) -> bool:
    """Whether a size depends on a symbol."""
    return isinstance(size, Dim) and any(symbol in symbols for symbols in size.terms)


def at(value: Any, sizes: Mapping[str, int]) -> Any:
    """`value` with every Dim in it, however deep in tuples, replaced by its size."""
    if isinstance(value, Dim):
        return value.at(sizes)
    if isinstance(value, tuple):
        return tuple(at(item, sizes) for item in value)
    return value


def replaced(value: Any, sizes: Mapping[str, Size]) -> Any:
    """`value` with the symbols of every Dim in it, however deep in tuples, replaced."""
    if isinstance(value, Dim):
        return value.replaced(sizes)
    if isinstance(value, tuple):
        return tuple(replaced(item, sizes) for item in value)
    return value


def count(shape: Iterable[Size]) -> Size:
    """How many values a shape holds."""
    return _count(tuple(shape))


@lru_cache(4096)
def _count(shape: Shape) -> Size:
    total: Size = 1
    for size in shape:
        total = size * total
    return total


def value_bytes(shape: Iterable[Size], dtype: str, sizes: Mapping[str, int]) -> int:
    """Bytes of a dense array at these sizes."""
    total: int = DTYPES[dtype] * at(count(shape), sizes)
    return total


def strides(shape: Sequence[Size]) -> Shape:
    """Strides, in elements, of a dense row-major array."""
    steps: list[Size] = []
    step: Size = 1
    for size in reversed(shape):
        steps.append(step)
        step = size * step
    return tuple(reversed(steps))


def written(shape: Sequence[Size]) -> str:
    """A shape as people write it: (batch, 4)."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def as_dtype(dtype: Any) -> str:
    """The name of a dtype that was given as a name or as a NumPy dtype."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None) or str(dtype)
    if name not in DTYPES:
        raise InvalidType(explain(f"{name!r} is no dtype of Aforo.", expected="one of " + ", ".join(DTYPES), received=name))
    return name


def as_shape(shape: Any, what: str) -> Shape:
    """A shape given as a sequence of positive whole numbers."""
    sizes = tuple(shape) if hasattr(shape, "__iter__") else (shape,)
    whole = [isinstance(size, Dim) or (hasattr(size, "__index__") and not isinstance(size, bool)) for size in sizes]
    good = [size for size, is_whole in zip(sizes, whole, strict=True) if is_whole and (isinstance(size, Dim) or size > 0)]
    fix = (f"{what}=" if what.isidentifier() else "") + repr(good or [3])
    if not all(whole):
        raise InvalidType(explain(f"{what} must hold whole numbers.", expected="e.g. [3]", received=repr(shape), fix=fix))
    if len(good) < len(sizes):
        raise InvalidValue(
            explain(f"{what} must hold positive numbers.", expected="sizes of 1 or more", received=shape, fix=fix)
        )
    return tuple(size if isinstance(size, Dim) else int(size) for size in sizes)


def as_sample(shape: Any, what: str) -> Shape:
    """The shape of a sample: as any other, but its first size may be None, for a time axis of any length."""
    sizes = tuple(shape) if hasattr(shape, "__iter__") else (shape,)
    if None in sizes[1:]:
        raise InvalidValue(
            explain(
                f"{what}: only the first axis of a sample may have any length; it is time.",
                expected="e.g. [None, 3]",
                received=repr(shape),
                fix="sizes for the other axes",
            )
        )
    return as_shape((TIME, *sizes[1:]) if sizes[:1] == (None,) else shape, what)


def fits(shape: Sequence[Size], other: Sequence[Size]) -> bool:
    """Whether two shapes are the same for some value of their symbols."""
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(a == b or isinstance(a, Dim) or isinstance(b, Dim) for a, b in pairs)


@dataclass(frozen=True)
class Layout:
    """How a value lies in the memory it looks at; offset and strides in elements."""

    offset: Size
    shape: Shape
    strides: Shape

    @staticmethod
    @lru_cache(4096)
    def dense(shape: Shape) -> Layout:
        return Layout(0, shape, strides(shape))

    @property
    def is_dense(self) -> bool:
        return self.offset == 0 and self.strides_matter == Layout.dense(self.shape).strides_matter

    @cached_property
    def walk(self) -> tuple[Size, Shape, Shape]:
        """Where it starts, and sizes and strides of the axes that are longer than 1: equal for looks at the same values in the
        same order."""
        return self.offset, tuple(size for size in self.shape if size != 1), self.strides_matter

    @property
    def strides_matter(self) -> Shape:
        """The strides of the axes that are longer than 1."""
        return tuple(step for size, step in zip(self.shape, self.strides, strict=True) if size != 1)
