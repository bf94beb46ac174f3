"""CUDA C in pieces: what operations compute, where operands lie, and loops over them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import prod

from .contract import ITEM_BYTES, Line, View

C_TYPES = {"float32": "float", "float64": "double", "int32": "int", "int64": "long long", "bool": "bool"}
BLOCK = 256
MOST_BLOCKS = 4096
# What an operation computes from a, b, c; T is its own type.
EXPRESSIONS: dict[str, str] = {
    "negative": "-a",
    "exp": "exp(a)",
    "log": "log(a)",
    "sqrt": "sqrt(a)",
    "tanh": "tanh(a)",
    "logistic": "(T)(1) / ((T)(1) + exp(-a))",
    "softplus": "(a > (T)(0) ? a : (T)(0)) + log1p(exp(-fabs(a)))",
    "erf": "erf(a)",
    "sin": "sin(a)",
    "cos": "cos(a)",
    "tan": "tan(a)",
    "absolute": "fabs(a)",
    "floor": "floor(a)",
    "sign": "a != a ? a : (T)((a > 0) - (a < 0))",
    "reciprocal": "(T)(1) / a",
    "square": "a * a",
    "copy": "a",
    "cast": "(T)(a)",
    "logical_not": "!a",
    "add": "a + b",
    "subtract": "a - b",
    "multiply": "a * (T)(b)",
    "divide": "a / b",
    "maximum": "a != a ? a : b != b ? b : a > b ? a : b",
    "minimum": "a != a ? a : b != b ? b : a < b ? a : b",
    "greater": "a > b",
    "greater_equal": "a >= b",
    "equal": "a == b",
    "where": "a ? b : c",
    "power": "pow(a, (T)({exponent}))",
    "guard": "a < (T)({floor}) ? (T)({floor}) : a",
    "zero": "(T)(0)",
}


@dataclass(frozen=True)
class Launch:
    """One kernel launch: which of the instruction's operands it takes as pointers, then whole numbers.

    operands: ("in", i), ("out", i) or ("scratch", i); offsets: bytes to add to each pointer.
    """

    name: str
    source: str
    blocks: int
    threads: int
    operands: tuple[tuple[str, int], ...]
    numbers: tuple[int, ...]
    offsets: tuple[int, ...] = ()


def blocks_for(n: int, threads: int = BLOCK) -> int:
    return max(1, min(MOST_BLOCKS, -(-n // threads)))


def kernel(label: str, parameters: Sequence[str], body: Sequence[str]) -> tuple[str, str]:
    """A name that is different for different kernels, and the source."""
    inside = "\n    ".join(body)
    text = f"({', '.join(parameters)}) {{\n    {inside}\n}}\n"
    name = f"{label[:48]}_{blake2b(text.encode(), digest_size=6).hexdigest()}"
    return name, f'extern "C" __global__ void {name}{text}'


def grid_loop(index: str, body: Iterable[str]) -> list[str]:
    """The body for every i below n."""
    return [
        f"for ({index} i = blockIdx.x * ({index})blockDim.x + threadIdx.x; i < n; i += gridDim.x * ({index})blockDim.x) {{",
        *body,
        "}",
    ]


def steps(view: View) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple(step // ITEM_BYTES[view.dtype] for step in view.strides)


def collapsed(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """As few axes as describe the same walk over all operands."""
    sizes: list[int] = []
    kept: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(walk[-1] == given[axis] * size for walk, given in zip(kept, strides, strict=True)):
            sizes[-1] *= size
            for walk, given in zip(kept, strides, strict=True):
                walk[-1] = given[axis]
        else:
            sizes.append(size)
            for walk, given in zip(kept, strides, strict=True):
                walk.append(given[axis])
    return sizes, kept


def elementwise(
    op: str, out: View, inputs: Sequence[View], operands: Sequence[tuple[str, int]], **attributes: object
) -> Launch:
    """One operation on views of one shape, the output a strided one too. offsets of the launch are for the caller to set."""
    text = expression(Line(op, out.dtype, tuple(range(len(inputs))), tuple(attributes.items())), ["a", "b", "c"], "T")
    sizes, walks = collapsed(out.shape, [steps(view) for view in (out, *inputs)])
    index = index_type(prod(sizes), sizes, walks)
    names = ["out", *"abc"[: len(inputs)]]
    types = [C_TYPES[view.dtype] for view in (out, *inputs)]
    walker = Walker("i", sizes, index)
    places = [walker.place(walk) for walk in walks]
    loads = [f"{kind} {name} = p{name}[{at}];" for kind, name, at in zip(types[1:], names[1:], places[1:], strict=True)]
    body = [*walker.lines(), *loads, f"pout[{places[0]}] = {text};"]
    pointers = [f"{'const ' if i else ''}{kind}* p{name}" for i, (kind, name) in enumerate(zip(types, names, strict=True))]
    parameters = [*pointers, "long long n", *walker.parameters]
    name, source = kernel(op, parameters, [f"typedef {types[0]} T;", *grid_loop(index, body)])
    n = prod(sizes)
    return Launch(name, source, blocks_for(n), BLOCK, tuple(operands), (n, *walker.values))


def index_type(n: int, sizes: Sequence[int], walks: Sequence[Sequence[int]]) -> str:
    """The type of an index: 64 bits only where they are needed, since they divide slowly."""
    reach = max([n, *(sum(m * abs(s) for m, s in zip(sizes, walk, strict=True)) for walk in walks)])
    return "int" if reach < 2**31 - MOST_BLOCKS * BLOCK else "long long"


class Walker:
    """Where operands lie at a running index: parameters of the kernel, and lines that compute coordinates."""

    def __init__(self, index: str, sizes: Sequence[int], kind: str) -> None:
        self.index, self.sizes, self.kind = index, list(sizes), kind
        self.parameters: list[str] = []
        self.values: list[int] = []
        self._used = False
        self._lines: list[str] | None = None

    def place(self, walk: Sequence[int]) -> str:
        """The offset of an operand with these strides, as an expression."""
        if not any(walk):
            return "0"
        if len(walk) == 1 and walk[0] == 1:
            return self.index
        self._used = True
        terms = []
        for axis, step in enumerate(walk):
            if step:
                at = self.index if len(walk) == 1 else f"{self.index}{axis}"
                terms.append(at if step == 1 else f"{at} * ({self.kind}){self._number(step)}")
        return " + ".join(terms)

    def _number(self, value: int) -> str:
        name = f"{self.index}s{len(self.values)}"
        self.parameters.append(f"long long {name}")
        self.values.append(value)
        return name

    def lines(self) -> list[str]:
        """The coordinates of the index, to be declared before a place is used; asked for once all places are."""
        if self._lines is None:
            self._lines = self._coordinates() if self._used and len(self.sizes) > 1 else []
        return self._lines

    def _coordinates(self) -> list[str]:
        lines, rest = [], self.index
        for axis in reversed(range(1, len(self.sizes))):
            size = f"({self.kind}){self._number(self.sizes[axis])}"
            lines.append(f"{self.kind} {self.index}{axis} = {rest} % {size}, {self.index}r{axis} = {rest} / {size};")
            rest = f"{self.index}r{axis}"
        return [*lines, f"{self.kind} {self.index}0 = {rest};"]


def _number(value: float) -> str:
    """A number as C writes it."""
    if value != value:
        return "__longlong_as_double(0x7ff8000000000000LL)"
    if value in (float("inf"), float("-inf")):
        return f"{'-' * (value < 0)}__longlong_as_double(0x7ff0000000000000LL)"
    return repr(float(value))


def expression(line: Line, arguments: Sequence[str], kind: str) -> str:
    """The expression of an elementwise line, with the names of its arguments and its type put in."""
    text = EXPRESSIONS[line.op].format(**{name: _number(value) for name, value in line.attributes})
    names = dict(zip("abc", arguments, strict=False)) | {"T": kind}
    return re.sub(r"\b[abcT]\b", lambda match: names[match.group()], text)
