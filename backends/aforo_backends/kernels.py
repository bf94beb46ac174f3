"""CUDA C for every instruction that is not a matrix product, generated from it.

Sizes and strides are arguments, so that few kernels serve many shapes. The same sources run on a GPU and, through a C++
compiler, on the simulated device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

from .contract import Instruction, Line, View
from .fused import FOLDS, fused
from .source import BLOCK, C_TYPES, EXPRESSIONS, Launch, blocks_for, collapsed, elementwise, grid_loop, kernel, steps


def launches(instruction: Instruction) -> list[Launch]:
    """The kernels that run an instruction. LookupError if there are none."""
    build = _BUILDERS.get(instruction.op)
    if build is not None:
        return build(instruction)
    if instruction.op not in EXPRESSIONS:
        raise LookupError(f"there is no kernel for {instruction.op!r}")
    return [_onto(instruction.op, instruction.outputs[0], instruction.inputs)]


def _onto(op: str, out: View, inputs: Sequence[View], first: int = 0, offset: int = 0) -> Launch:
    """An elementwise kernel that reads the instruction's inputs from `first` on and writes at an offset into its output."""
    operands = [("out", 0), *(("in", first + i) for i in range(len(inputs)))]
    return replace(elementwise(op, out, inputs, operands), offsets=(offset, *[0] * len(inputs)))


def _part(out: View, shape: Sequence[int], strides: Sequence[int]) -> View:
    return View(out.offset, tuple(shape), tuple(strides), out.dtype)


def _concatenate(instruction: Instruction) -> list[Launch]:
    """A strided copy for each input."""
    (out,), axis = instruction.outputs, instruction.attributes["axis"]
    parts, offset = [], 0
    for i, view in enumerate(instruction.inputs):
        parts.append(_onto("copy", _part(out, view.shape, out.strides), [view], i, offset))
        offset += view.shape[axis] * out.strides[axis]
    return parts


def _pad(instruction: Instruction) -> list[Launch]:
    """Zeros, then a strided copy."""
    (out,), (x,) = instruction.outputs, instruction.inputs
    before, step = instruction.attributes["before"], instruction.attributes["step"]
    offset = sum(first * stride for first, stride in zip(before, out.strides, strict=True))
    window = _part(out, x.shape, [s * stride for s, stride in zip(step, out.strides, strict=True)])
    return [_onto("zero", out, []), _onto("copy", window, [x], 0, offset)]


def _reduction(instruction: Instruction) -> list[Launch]:
    """A reduction of axes that are neither the first nor the last ones: one thread for each output."""
    (x,), axes = instruction.inputs, instruction.attributes["axes"]
    walk = steps(x)
    rest = [axis for axis in range(len(x.shape)) if axis not in axes]
    outer, (outer_steps,) = collapsed([x.shape[a] for a in rest], [[walk[a] for a in rest]])
    inner, (inner_steps,) = collapsed([x.shape[a] for a in axes], [[walk[a] for a in axes]])
    kind, fold = C_TYPES[x.dtype], FOLDS[instruction.op][1]
    numbers, values = ["long long n", "long long length"], [prod(outer), prod(inner)]
    for label, sizes, moves in (("o", outer, outer_steps), ("r", inner, inner_steps)):
        for axis, (size, step) in enumerate(zip(sizes, moves, strict=True)):
            numbers += [f"long long {label}n{axis}", f"long long {label}s{axis}"]
            values += [size, step]

    def index(label: str, count: int, source: str) -> list[str]:
        lines = [f"long long {label}at = 0; {{ long long rest = {source};"]
        moves = [f"{label}at += (rest % {label}n{i}) * {label}s{i}; rest /= {label}n{i};" for i in reversed(range(count))]
        return [*lines, *moves, "}"]

    body = grid_loop("long long", [
        *index("o", len(outer), "i"),
        f"{kind} total = in[oat];",
        "for (long long k = 1; k < length; k++) {",
        *index("r", len(inner), "k"),
        f"{kind} x = total, y = in[oat + rat]; total = {fold};",
        "}",
        "out[i] = total;",
    ])  # fmt: skip
    name, source = kernel(instruction.op, [f"{kind}* out", f"const {kind}* in", *numbers], body)
    return [Launch(name, source, blocks_for(values[0]), BLOCK, (("out", 0), ("in", 0)), tuple(values))]


def _argmax(instruction: Instruction) -> list[Launch]:
    """An argmax that shares its kernel with nothing."""
    (x,) = instruction.inputs
    last = len(x.shape) - 1
    whole = {"lines": (Line("argmax", "int64", (0,)),), "shape": x.shape, "reduced": (last,), "results": ((1, True),)}
    return fused(replace(instruction, attributes=whole))


# --- rows and random numbers ------------------------------------------------------------------------------------------


def _gather(instruction: Instruction) -> list[Launch]:
    x, rows = instruction.inputs
    kind, index = C_TYPES[x.dtype], C_TYPES[rows.dtype]
    body = grid_loop(
        "long long",
        ["long long row = rows[i / width]; row = row < 0 ? 0 : row >= count ? count - 1 : row;",
         "out[i] = in[row * width + i % width];"],
    )  # fmt: skip
    parameters = [f"{kind}* out", f"const {kind}* in", f"const {index}* rows"]
    name, source = kernel("gather", [*parameters, "long long n", "long long width", "long long count"], body)
    width, n = prod(x.shape[1:]), prod(instruction.outputs[0].shape)
    return [Launch(name, source, blocks_for(n), BLOCK, (("out", 0), ("in", 0), ("in", 1)), (n, width, x.shape[0]))]


def _scatter_add(instruction: Instruction) -> list[Launch]:
    """The same sum every time: one thread adds what belongs to a value of the output, in order.

    Where the output has fewer rows than there are indices, that is each of its rows; else, after zeros, each first mention of
    a row, so that the time does not grow with the rows nobody mentions.
    """
    g, rows = instruction.inputs
    (out,) = instruction.outputs
    kind, index = C_TYPES[g.dtype], C_TYPES[rows.dtype]
    length, width = prod(rows.shape), prod(out.shape[1:])
    add = "for (long long k = {first}; k < length; k++) if (rows[k] == row) total += in[k * width + column];"
    by_row = out.shape[0] <= length
    if by_row:
        body = [
            "long long row = i / width, column = i % width;",
            f"{kind} total = 0;",
            add.format(first="0"),
            "out[i] = total;",
        ]
    else:
        body = [
            "long long p = i / width, column = i % width, row = rows[p], first = 0;",
            "while (rows[first] != row) first++;",
            "if (first < p || row < 0 || row >= count) continue;",
            f"{kind} total = 0;",
            add.format(first="p"),
            "out[row * width + column] = total;",
        ]
    parameters = [f"{kind}* out", f"const {kind}* in", f"const {index}* rows"]
    numbers = ["long long n", "long long width", "long long length", "long long count"]
    name, source = kernel("scatter_add", [*parameters, *numbers], grid_loop("long long", body))
    n = (out.shape[0] if by_row else length) * width
    launch = Launch(name, source, blocks_for(n), BLOCK, (("out", 0), ("in", 0), ("in", 1)), (n, width, length, out.shape[0]))
    return [launch] if by_row else [_onto("zero", out, []), launch]


_PHILOX = """
    unsigned long long c0 = START + 1, c1 = (unsigned long long)step[0], c2 = 0, c3 = 0;
    unsigned long long k0 = (unsigned long long)key0, k1 = (unsigned long long)key1;
    for (int round = 0; round < 10; round++) {
        unsigned long long l0 = 0xD2E7470EE14C6C93ULL * c0, h0 = __umul64hi(0xD2E7470EE14C6C93ULL, c0);
        unsigned long long l1 = 0xCA5A826395121157ULL * c2, h1 = __umul64hi(0xCA5A826395121157ULL, c2);
        c0 = h1 ^ c1 ^ k0; c1 = l1; c2 = h0 ^ c3 ^ k1; c3 = l0;
        k0 += 0x9E3779B97F4A7C15ULL; k1 += 0xBB67AE8584CAA73BULL;
    }
    unsigned long long words[4] = {c0, c1, c2, c3};
    for (int w = 0; w < 4; w++) {
        out[i * 8 + 2 * w] = (float)((unsigned int)words[w] >> 8) * 5.9604644775390625e-08f;
        out[i * 8 + 2 * w + 1] = (float)((unsigned int)(words[w] >> 32) >> 8) * 5.9604644775390625e-08f;
    }
"""


def _uniform(instruction: Instruction) -> list[Launch]:
    """Eight numbers a thread: a block of Philox4x64-10, as NumPy draws them."""
    part = len(instruction.inputs) > 1  # of a batch: the second input is the number of its first row
    name, start = ("uniform_from", "i + first[0] * each") if part else ("uniform", "i")
    numbers = ["long long n", "long long key0", "long long key1"] + ["long long each"] * part
    parameters = ["float* out", "const long long* step"] + ["const long long* first"] * part + numbers
    key = tuple(word - (1 << 64) if word >> 63 else word for word in instruction.attributes["key"])
    shape = instruction.outputs[0].shape
    n, each = prod(shape) // 8, shape[1] // 8
    operands = (("out", 0), ("in", 0), ("in", 1))[: 2 + part]
    name, source = kernel(name, parameters, grid_loop("long long", [_PHILOX.replace("START", start)]))
    return [Launch(name, source, blocks_for(n), BLOCK, operands, (n, *key, each)[: 3 + part])]


_BUILDERS: dict[str, Callable[[Instruction], list[Launch]]] = {
    "fused": fused,
    "concatenate": _concatenate,
    "pad": _pad,
    "sum": _reduction,
    "amax": _reduction,
    "argmax": _argmax,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "uniform": _uniform,
}
