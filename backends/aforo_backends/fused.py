"""CUDA C for fused instructions: elementwise operations, and reductions of what they give, in one kernel.

A fused instruction walks over a domain, an array's shape without axes of 1. Its lines give a number for each place of the
domain, or, once a reduction has folded the leading or the trailing axes, one for each place that is left. Intermediate
values live in registers. All inputs of a place are read before any output of it is written, so an output may lie over an
input that is looked at in the same way.

Four kinds: "flat" folds nothing; "rows" folds trailing axes, a block for each row, as often as lines ask for it; "columns"
folds leading axes, once; "all" folds everything, once, in two launches where there is much to fold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from re import sub

from .contract import Instruction, Line, View
from .source import (
    BLOCK,
    C_TYPES,
    EXPRESSIONS,
    MOST_BLOCKS,
    Launch,
    Walker,
    blocks_for,
    collapsed,
    expression,
    grid_loop,
    index_type,
    kernel,
    steps,
)

WHOLE = 4096  # one block folds that many values; more are folded in parts
MOST_PARTS = 256
_PART = 2048  # values for each part

# How two partial results x and y of a reduction make one. An argmax folds values (xv, yv) and places (xk, yk).
FOLDS = {
    "sum": ("(T)(0)", "x + y"),
    "amax": ("-INFINITE", "x != x ? x : y != y ? y : x > y ? x : y"),
    "argmax": ("-1", "xk < 0 ? yk : yk < 0 ? xk : yv == xv || (yv != yv && xv != xv) ? (xk < yk ? xk : yk) "
               ": yv != yv || (yv > xv && xv == xv) ? yk : xk"),
}  # fmt: skip
FUSES = frozenset(EXPRESSIONS) - {"zero"}
_INFINITY = {"float": "__int_as_float(0x7f800000)", "double": "__longlong_as_double(0x7ff0000000000000LL)"}


@dataclass
class _Fused:
    """An instruction, seen as a walk: which lines give numbers for the whole domain, and which for what is left of it."""

    instruction: Instruction
    lines: tuple[Line, ...]
    shape: tuple[int, ...]
    reduced: tuple[int, ...]
    results: tuple[tuple[int, bool], ...]  # for each output the line (or input) it holds, and whether it is a reduced one
    full: list[bool] = field(default_factory=list)  # for inputs and lines
    phase: list[int] = field(default_factory=list)  # how many rounds of reductions must have run before

    def __post_init__(self) -> None:
        for view in self.instruction.inputs:
            self.full.append(len(view.shape) == len(self.shape) and (not self.reduced or any(self._walk(view, self.reduced))))
            self.phase.append(0)
        for line in self.lines:
            folds = line.op in FOLDS
            self.full.append(not folds and any(self.full[i] for i in line.arguments))
            self.phase.append(max((self.phase[i] for i in line.arguments), default=0) + folds)

    @property
    def inputs(self) -> tuple[View, ...]:
        return self.instruction.inputs

    @cached_property
    def kept(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.reduced)

    @property
    def kind(self) -> str:
        if not self.reduced:
            return "flat"
        if not self.kept:
            return "all"
        return "columns" if self.reduced[0] == 0 else "rows"

    @property
    def label(self) -> str:
        return "_".join(line.op for line in self.lines)

    def _walk(self, view: View, axes: Sequence[int]) -> list[int]:
        """An input's strides on axes of the domain; one of the reduced shape stands still on the others."""
        walk = iter(steps(view))
        own = self.kept if len(view.shape) < len(self.shape) else range(len(self.shape))
        known = dict(zip(own, walk, strict=True))
        return [known.get(axis, 0) if view.shape else 0 for axis in axes]

    def walkers(self, outer: str, inner: str) -> tuple[Walker, Walker, list[tuple[str, str]], str]:
        """Walks over what is kept and what is folded, and each input's place on both."""
        sizes_o, walks_o = collapsed([self.shape[a] for a in self.kept], [self._walk(v, self.kept) for v in self.inputs])
        sizes_i, walks_i = collapsed([self.shape[a] for a in self.reduced], [self._walk(v, self.reduced) for v in self.inputs])
        whole = [[*o, *i] for o, i in zip(walks_o, walks_i, strict=True)]
        index = index_type(prod(self.shape), [*sizes_o, *sizes_i], whole)
        first, second = Walker(outer, sizes_o, index), Walker(inner, sizes_i, index)
        places = [(first.place(o), second.place(i)) for o, i in zip(walks_o, walks_i, strict=True)]
        return first, second, places, index

    def name(self, number: int) -> str:
        return f"{'x' if number < len(self.inputs) else 'v'}{number}"

    def needed(self, wanted: Iterable[int], full: bool) -> list[int]:
        """The inputs and lines at one level that these lines need, themselves included, in order; reductions are at hand."""
        count, stack = len(self.inputs), list(wanted)
        found: set[int] = set()
        while stack:
            number = stack.pop()
            if number in found or self.full[number] != full:
                continue
            found.add(number)
            if number >= count and self.lines[number - count].op not in FOLDS:
                stack.extend(self.lines[number - count].arguments)
        return sorted(found)

    def statement(self, number: int, places: Sequence[tuple[str, str]]) -> str:
        """Declare what an input or an elementwise line gives."""
        if number < len(self.inputs):
            at = " + ".join(place for place in places[number] if place != "0") or "0"
            return f"{C_TYPES[self.inputs[number].dtype]} x{number} = in{number}[{at}];"
        line = self.lines[number - len(self.inputs)]
        kind = C_TYPES[line.dtype]
        return f"{kind} v{number} = {expression(line, [self.name(i) for i in line.arguments], kind)};"

    def reductions(self, phase: int) -> list[int]:
        count = len(self.inputs)
        return [
            n for n in range(count, count + len(self.lines)) if self.lines[n - count].op in FOLDS and self.phase[n] == phase
        ]

    @property
    def phases(self) -> int:
        return max((self.phase[n] for n in range(len(self.phase))), default=0)

    def fold(self, number: int) -> _Fold:
        line = self.lines[number - len(self.inputs)]
        (argument,) = line.arguments
        source = self.inputs[argument].dtype if argument < len(self.inputs) else self.lines[argument - len(self.inputs)].dtype
        return _Fold(line.op, C_TYPES[source], number, self.name(argument))

    def pointers(self) -> tuple[list[str], list[tuple[str, int]]]:
        outs = [f"{C_TYPES[view.dtype]}* out{i}" for i, view in enumerate(self.instruction.outputs)]
        ins = [f"const {C_TYPES[view.dtype]}* in{i}" for i, view in enumerate(self.inputs)]
        operands = [*(("out", i) for i in range(len(outs))), *(("in", i) for i in range(len(ins)))]
        return [*outs, *ins], operands

    def stores(self, reduced: bool, at: str) -> list[str]:
        return [f"out{i}[{at}] = {self.name(n)};" for i, (n, low) in enumerate(self.results) if low == reduced]

    def wanted(self, reduced: bool) -> list[int]:
        return [n for n, low in self.results if low == reduced]


@dataclass(frozen=True)
class _Fold:
    """One reduction in a kernel: how a thread gathers, and how a block's threads meet."""

    op: str
    kind: str
    number: int
    argument: str

    @property
    def result(self) -> str:
        return "long long" if self.op == "argmax" else self.kind

    def start(self) -> str:
        first = FOLDS[self.op][0].replace("-INFINITE", f"-{_INFINITY.get(self.kind, '0')}")
        begin = f"{self.result} v{self.number} = {first.replace('T', self.kind)};"
        return begin + (f" {self.kind} m{self.number} = 0;" if self.op == "argmax" else "")

    def gather(self, place: str) -> str:
        n = self.number
        if self.op == "argmax":
            return f"{{ {self._met(f'v{n}', f'm{n}', place, self.argument)} }}"
        return f"{{ {self.kind} x = v{n}, y = {self.argument}; v{n} = {FOLDS[self.op][1]}; }}"

    def _met(self, xk: str, xv: str, yk: str, yv: str) -> str:
        """Let a running best (place xk, value xv) meet another."""
        names = f"{self.kind} xv_ = {xv}, yv_ = {yv}; long long xk_ = {xk}, yk_ = {yk};"
        rule = sub(r"\b(x|y)(k|v)\b", r"\1\2_", FOLDS[self.op][1])
        return f"{names} {xk} = {rule}; if ({xk} != xk_) {xv} = yv_;"

    def shared(self, threads: int) -> str:
        n = self.number
        extra = f" __shared__ {self.kind} q{n}[{threads}];" if self.op == "argmax" else ""
        return f"__shared__ {self.result} p{n}[{threads}];{extra}"

    def put(self, at: str = "threadIdx.x") -> str:
        n = self.number
        return f"p{n}[{at}] = v{n};" + (f" q{n}[{at}] = m{n};" if self.op == "argmax" else "")

    def meet(self, at: str, other: str) -> str:
        n = self.number
        if self.op == "argmax":
            return f"{{ {self._met(f'p{n}[{at}]', f'q{n}[{at}]', f'p{n}[{other}]', f'q{n}[{other}]')} }}"
        return f"{{ {self.kind} x = p{n}[{at}], y = p{n}[{other}]; p{n}[{at}] = {FOLDS[self.op][1]}; }}"

    def take(self, at: str = "0") -> str:
        return f"v{self.number} = p{self.number}[{at}];"


def parts_of(length: int) -> int:
    """In how many parts everything is folded: 1 where a single block does it."""
    return 1 if length <= WHOLE else min(MOST_PARTS, -(-length // _PART))


def fused(instruction: Instruction) -> list[Launch]:
    """The launches of a fused instruction."""
    a = instruction.attributes
    walk = _Fused(instruction, a["lines"], a["shape"], a["reduced"], a["results"])
    if walk.kind == "flat":
        return [_flat(walk)]
    if walk.kind == "columns":
        return [_columns(walk)]
    if walk.kind == "all" and instruction.scratch and parts_of(prod(walk.shape)) > 1:
        return _in_parts(walk)
    return [_rows(walk)]


def _flat(walk: _Fused) -> Launch:
    """One thread for each place."""
    sizes, walks = collapsed(walk.shape, [steps(v) if v.shape else (0,) * len(walk.shape) for v in walk.inputs])
    dense = list(_dense(sizes))
    index = index_type(prod(sizes), sizes, [*walks, dense])
    walker = Walker("i", sizes, index)
    places = [(walker.place(w), "0") for w in walks]
    everything = range(len(walk.full))
    count = len(walk.inputs)
    used = {i for n in everything if n >= count for i in walk.lines[n - count].arguments} | {n for n, _ in walk.results}
    body = [*walker.lines(), *(walk.statement(n, places) for n in everything if n >= count or n in used)]
    body += [f"out{i}[i] = {walk.name(n)};" for i, (n, _) in enumerate(walk.results)]
    pointers, operands = walk.pointers()
    name, source = kernel(walk.label, [*pointers, "long long n", *walker.parameters], grid_loop(index, body))
    n = prod(sizes)
    return Launch(name, source, blocks_for(n), BLOCK, tuple(operands), (n, *walker.values))


def _dense(sizes: Sequence[int]) -> Iterable[int]:
    return (prod(sizes[axis + 1 :]) for axis in range(len(sizes)))


def _tree(folds: Sequence[_Fold], threads: int) -> list[str]:
    """Let the threads of a block fold what each has gathered; every thread then has the result."""
    return [
        *(fold.put() for fold in folds),
        "__syncthreads();",
        f"for (int half = {threads // 2}; half; half /= 2) {{",
        "if (threadIdx.x < half) {",
        *(fold.meet("threadIdx.x", "threadIdx.x + half") for fold in folds),
        "}",
        "__syncthreads(); }",
        *(fold.take() for fold in folds),
    ]


def _rows(walk: _Fused) -> Launch:
    """One block for each row: rounds of gathering and folding, then a last walk that writes."""
    outer, inner, places, index = walk.walkers("i", "k")
    n, length = prod(walk.shape[a] for a in walk.kept), prod(walk.shape[a] for a in walk.reduced)
    threads = max(32, min(BLOCK, 1 << (length - 1).bit_length()))
    folds = [walk.fold(number) for phase in range(1, walk.phases + 1) for number in walk.reductions(phase)]
    body: list[str] = []
    declared: set[int] = set()

    def low(phase: int) -> list[str]:
        """Inputs and lines of the reduced shape that can be computed after so many rounds."""
        count = len(walk.inputs)
        new = [
            number
            for number in range(len(walk.full))
            if not walk.full[number] and walk.phase[number] <= phase and number not in declared
        ]
        declared.update(new)
        own = [number for number in new if number < count or walk.lines[number - count].op not in FOLDS]
        return [walk.statement(number, places) for number in own]

    def across(wanted: Sequence[int], then: Sequence[str]) -> list[str]:
        needed = [walk.statement(number, places) for number in walk.needed(wanted, True)]
        return [f"for ({index} k = threadIdx.x; k < ({index})length; k += blockDim.x) {{", *inner.lines(), *needed, *then, "}"]

    body += low(0)
    for phase in range(1, walk.phases + 1):
        now = [walk.fold(number) for number in walk.reductions(phase)]
        arguments = [walk.lines[fold.number - len(walk.inputs)].arguments[0] for fold in now]
        body += [fold.start() for fold in now]
        body += across(arguments, [fold.gather("k") for fold in now])
        body += _tree(now, threads)
        body += low(phase)
    if walk.wanted(False):
        body += across(walk.wanted(False), walk.stores(False, f"i * ({index})length + k"))
    if walk.wanted(True):
        body += ["if (threadIdx.x == 0) {", *walk.stores(True, "i"), "}"]
    pointers, operands = walk.pointers()
    shared = [fold.shared(threads) for fold in folds]
    text = [*shared, f"for ({index} i = blockIdx.x; i < ({index})n; i += gridDim.x) {{", *outer.lines(), *body]
    parameters = [*pointers, "long long n", "long long length", *outer.parameters, *inner.parameters]
    name, source = kernel(walk.label, parameters, [*text, "__syncthreads(); }"])
    numbers = (n, length, *outer.values, *inner.values)
    return Launch(name, source, max(1, min(n, MOST_BLOCKS)), threads, tuple(operands), numbers)


def _columns(walk: _Fused) -> Launch:
    """Tiles of columns by lanes: each lane gathers every so many rows, then the first one folds them in order."""
    outer, inner, places, index = walk.walkers("i", "k")
    n, length = prod(walk.shape[a] for a in walk.kept), prod(walk.shape[a] for a in walk.reduced)
    width = 32 if n > 16 else 16 if n > 4 else 4
    lanes = BLOCK // width
    folds = [walk.fold(number) for number in walk.reductions(1)]
    count = len(walk.inputs)
    arguments = [walk.lines[fold.number - count].arguments[0] for fold in folds]
    before = [number for number in range(len(walk.full)) if not walk.full[number] and walk.phase[number] == 0]
    after = [number for number in walk.needed(walk.wanted(True), False) if walk.phase[number] == 1]
    after = [number for number in after if number >= count and walk.lines[number - count].op not in FOLDS]
    gathered = [walk.statement(number, places) for number in walk.needed([*arguments, *walk.wanted(False)], True)]
    body = [
        *(fold.shared(BLOCK) for fold in folds),
        f"int column = threadIdx.x % {width}, lane = threadIdx.x / {width};",
        f"for ({index} tile = blockIdx.x; tile * {width} < ({index})n; tile += gridDim.x) {{",
        f"{index} at = tile * {width} + column, i = at < ({index})n ? at : 0;",
        *outer.lines(),
        *(walk.statement(number, places) for number in before),
        *(fold.start() for fold in folds),
        f"if (at < ({index})n) for ({index} k = lane; k < ({index})length; k += {lanes}) {{",
        *inner.lines(),
        *gathered,
        *walk.stores(False, f"k * ({index})n + i"),
        *(fold.gather("k") for fold in folds),
        "}",
        *(fold.put() for fold in folds),
        "__syncthreads();",
        f"if (lane == 0 && at < ({index})n) {{",
        f"for (int other = 1; other < {lanes}; other++) {{",
        *(fold.meet("column", f"column + other * {width}") for fold in folds),
        "}",
        *(fold.take("column") for fold in folds),
        *(walk.statement(number, places) for number in after),
        *walk.stores(True, "i"),
        "}",
        "__syncthreads(); }",
    ]
    pointers, operands = walk.pointers()
    parameters = [*pointers, "long long n", "long long length", *outer.parameters, *inner.parameters]
    name, source = kernel(walk.label, parameters, body)
    numbers = (n, length, *outer.values, *inner.values)
    return Launch(name, source, max(1, min(-(-n // width), MOST_BLOCKS)), BLOCK, tuple(operands), numbers)


def _in_parts(walk: _Fused) -> list[Launch]:
    """Everything folded in two launches: blocks fold parts into scratch memory, then one block folds those."""
    length = prod(walk.shape)
    parts = parts_of(length)
    _, inner, places, index = walk.walkers("i", "k")
    folds = [walk.fold(number) for number in walk.reductions(1)]
    count = len(walk.inputs)
    arguments = [walk.lines[fold.number - count].arguments[0] for fold in folds]
    before = [number for number in range(len(walk.full)) if not walk.full[number] and walk.phase[number] == 0]
    pointers, operands = walk.pointers()
    spare = [f"{fold.result}* part{i}" for i, fold in enumerate(folds)]
    kept = [("scratch", i) for i in range(len(folds))]
    first = [
        *(fold.shared(BLOCK) for fold in folds),
        *(walk.statement(number, places) for number in before),
        *(fold.start() for fold in folds),
        f"for ({index} k = blockIdx.x * blockDim.x + threadIdx.x; k < ({index})length; k += gridDim.x * blockDim.x) {{",
        *inner.lines(),
        *(walk.statement(number, places) for number in walk.needed([*arguments, *walk.wanted(False)], True)),
        *walk.stores(False, "k"),
        *(fold.gather("k") for fold in folds),
        "}",
        *_tree(folds, BLOCK),
        "if (threadIdx.x == 0) {",
        *(f"part{i}[blockIdx.x] = v{fold.number};" for i, fold in enumerate(folds)),
        "}",
    ]
    one, source = kernel(walk.label, [*pointers, *spare, "long long length", *inner.parameters], first)
    after = [number for number in walk.needed(walk.wanted(True), False) if walk.phase[number] == 1]
    after = [number for number in after if number >= count and walk.lines[number - count].op not in FOLDS]
    second = [
        *(fold.shared(BLOCK) for fold in folds),
        *(fold.start() for fold in folds),
        "for (int k = threadIdx.x; k < (int)parts; k += blockDim.x) {",
        *(f"{{ {fold.kind} x = v{fold.number}, y = part{i}[k]; v{fold.number} = {FOLDS[fold.op][1]}; }}"
          for i, fold in enumerate(folds)),
        "}",
        *_tree(folds, BLOCK),
        "if (threadIdx.x == 0) {",
        *(walk.statement(number, places) for number in before),
        *(walk.statement(number, places) for number in after),
        *walk.stores(True, "0"),
        "}",
    ]  # fmt: skip
    two, last = kernel(walk.label, [*pointers, *spare, "long long parts"], second)
    every = (*operands, *kept)
    return [
        Launch(one, source, parts, BLOCK, every, (length, *inner.values)),
        Launch(two, last, 1, BLOCK, every, (parts,)),
    ]
