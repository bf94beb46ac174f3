"""CUDA C for every instruction, generated from it.

A kernel is written for an operation, its dtypes and its number of axes; sizes and strides are arguments, so that few kernels
serve many shapes. The same sources run on a GPU and, through a C++ compiler, on the simulated device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from .contract import ITEM_BYTES, Instruction, View

C_TYPES = {"float32": "float", "float64": "double", "int32": "int", "int64": "long long", "bool": "bool"}
BLOCK = 256
MOST_BLOCKS = 4096


@dataclass(frozen=True)
class Launch:
    """One kernel launch: which of the instruction's operands it takes as pointers, then whole numbers.

    operands: "out", or the number of an input; offsets: bytes to add to each pointer.
    """

    name: str
    source: str
    blocks: int
    threads: int
    operands: tuple[str | int, ...]
    numbers: tuple[int, ...]
    offsets: tuple[int, ...] = ()


# What an elementwise operation computes from a, b, c; T is the output's type.
EXPRESSIONS: dict[str, str] = {
    "negative": "-a",
    "exp": "exp(a)",
    "log": "log(a)",
    "sqrt": "sqrt(a)",
    "tanh": "tanh(a)",
    "logistic": "T(1) / (T(1) + exp(-a))",
    "softplus": "(a > T(0) ? a : T(0)) + log1p(exp(-fabs(a)))",
    "erf": "erf(a)",
    "sin": "sin(a)",
    "cos": "cos(a)",
    "tan": "tan(a)",
    "absolute": "fabs(a)",
    "floor": "floor(a)",
    "sign": "a != a ? a : T((a > 0) - (a < 0))",
    "reciprocal": "T(1) / a",
    "square": "a * a",
    "copy": "a",
    "cast": "T(a)",
    "logical_not": "!a",
    "add": "a + b",
    "subtract": "a - b",
    "multiply": "a * T(b)",
    "divide": "a / b",
    "maximum": "a != a ? a : b != b ? b : a > b ? a : b",
    "minimum": "a != a ? a : b != b ? b : a < b ? a : b",
    "greater": "a > b",
    "greater_equal": "a >= b",
    "equal": "a == b",
    "where": "a ? b : c",
}


def launches(instruction: Instruction) -> list[Launch]:
    """The kernels that run an instruction; matrix products are not among them. LookupError if there are none."""
    build = _BUILDERS.get(instruction.op)
    if build is not None:
        return build(instruction)
    expression = EXPRESSIONS.get(instruction.op)
    if expression is None:
        raise LookupError(f"there is no kernel for {instruction.op!r}")
    return [_elementwise(instruction.op, expression, instruction.output, instruction.inputs)]


# --- elementwise ------------------------------------------------------------------------------------------------------


def _steps(view: View) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple(step // ITEM_BYTES[view.dtype] for step in view.strides)


def _collapsed(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """As few axes as describe the same walk over all operands."""
    sizes: list[int] = []
    kept: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(steps[-1] == given[axis] * size for steps, given in zip(kept, strides, strict=True)):
            sizes[-1] *= size
            for steps, given in zip(kept, strides, strict=True):
                steps[-1] = given[axis]
        else:
            sizes.append(size)
            for steps, given in zip(kept, strides, strict=True):
                steps.append(given[axis])
    return sizes, kept


def _blocks(n: int, threads: int = BLOCK) -> int:
    return max(1, min(MOST_BLOCKS, -(-n // threads)))


def _elementwise(
    name: str, expression: str, out: View, inputs: Sequence[View], operands: Sequence[str | int] = (), extra: Sequence[str] = ()
) -> Launch:
    """One thread for each value of the output. A dense walk over all operands needs no index arithmetic."""
    views = [out, *inputs]
    sizes, steps = _collapsed(out.shape, [_steps(view) for view in views])
    flat = len(sizes) <= 1 and all(not sizes or walk[0] in (0, 1) for walk in steps) and (not sizes or steps[0][0] == 1)
    axes = 0 if flat else len(sizes)
    moving = [bool(sizes) and walk[0] == 1 for walk in steps] if flat else []
    types = [C_TYPES[view.dtype] for view in views]
    letters = "abc"[: len(inputs)]
    tag = "_".join([name, *(view.dtype for view in views), f"{axes}d", "".join("01"[m] for m in moving)])
    pointers = [f"{types[0]}* out", *(
        f"const {kind}* p{letter}" for kind, letter in zip(types[1:], letters, strict=True)
    )]  # fmt: skip
    numbers = ["long long n"]
    values = [prod(sizes)]
    body = []
    if axes:
        for axis in range(axes):
            numbers.append(f"long long n{axis}")
            values.append(sizes[axis])
            for operand, walk in enumerate(steps):
                numbers.append(f"long long s{operand}_{axis}")
                values.append(walk[axis])
        body.append("long long rest = i;")
        body += [f"long long at{operand} = 0;" for operand in range(len(views))]
        for axis in reversed(range(axes)):
            body.append(f"{{ long long k = rest % n{axis}; rest /= n{axis};")
            body += [f"at{operand} += k * s{operand}_{axis};" for operand in range(len(views))]
            body.append("}")
    else:
        body += [
            f"long long at{operand} = {'i' if moves else '0'};" for operand, moves in enumerate(moving or [False] * len(views))
        ]
    for operand, letter in enumerate(letters, 1):
        body.append(f"{types[operand]} {letter} = p{letter}[at{operand}];")
    body.append(f"typedef {types[0]} T; out[at0] = {expression};")
    return Launch(
        tag,
        _kernel(tag, [*pointers, *numbers], _loop(body)),
        _blocks(values[0]),
        BLOCK,
        tuple(operands) or ("out", *range(len(inputs))),
        tuple(values),
    )


def _loop(body: Sequence[str]) -> list[str]:
    step = (
        "for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x) {"
    )
    return [step, *body, "}"]


def _kernel(name: str, parameters: Sequence[str], body: Sequence[str]) -> str:
    inside = "\n    ".join(body)
    return f'extern "C" __global__ void {name}({", ".join(parameters)}) {{\n    {inside}\n}}\n'


def _power(instruction: Instruction) -> list[Launch]:
    exponent = instruction.attributes["exponent"]
    name = "power_" + str(exponent).replace("-", "m").replace(".", "p").replace("+", "")
    return [_elementwise(name, f"pow(a, T({exponent!r}))", instruction.output, instruction.inputs)]


def _guard(instruction: Instruction) -> list[Launch]:
    floor = instruction.attributes["floor"]
    name = "guard_" + str(floor).replace("-", "m").replace(".", "p")
    return [_elementwise(name, f"a < T({floor!r}) ? T({floor!r}) : a", instruction.output, instruction.inputs)]


def _part(out: View, offset: int, shape: Sequence[int], strides: Sequence[int]) -> View:
    return View(out.offset + offset, tuple(shape), tuple(strides), out.dtype)


def _concatenate(instruction: Instruction) -> list[Launch]:
    """A strided copy for each input."""
    out, axis = instruction.output, instruction.attributes["axis"]
    parts, offset = [], 0
    for i, view in enumerate(instruction.inputs):
        launch = _elementwise("copy", "a", _part(out, offset, view.shape, out.strides), [view], ("out", i))
        parts.append(Launch(*_fields(launch), offsets=(offset, 0)))
        offset += view.shape[axis] * out.strides[axis]
    return parts


def _fields(launch: Launch) -> tuple[str, str, int, int, tuple[str | int, ...], tuple[int, ...]]:
    return launch.name, launch.source, launch.blocks, launch.threads, launch.operands, launch.numbers


def _pad(instruction: Instruction) -> list[Launch]:
    """Zeros, then a strided copy."""
    out, (x,) = instruction.output, instruction.inputs
    before, step = instruction.attributes["before"], instruction.attributes["step"]
    offset = sum(first * stride for first, stride in zip(before, out.strides, strict=True))
    window = _part(out, offset, x.shape, [s * stride for s, stride in zip(step, out.strides, strict=True)])
    fill = _elementwise("zero", "T(0)", out, [], ("out",))
    copy = _elementwise("copy", "a", window, [x], ("out", 0))
    return [fill, Launch(*_fields(copy), offsets=(offset, 0))]


# --- reductions -------------------------------------------------------------------------------------------------------

_FOLD = {"sum": ("T(0)", "x + y"), "amax": ("-INF", "x != x ? x : y != y ? y : x > y ? x : y")}
_INFINITY = {"float32": "__int_as_float(0x7f800000)", "float64": "__longlong_as_double(0x7ff0000000000000LL)"}
SERIAL = 64  # shorter reductions are one thread's work


def _reduction(instruction: Instruction) -> list[Launch]:
    """One thread an output where that is enough of them or little to add; else one block an output, folded in a tree."""
    (x,) = instruction.inputs
    axes = instruction.attributes["axes"]
    steps = _steps(x)
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    outer, (outer_steps,) = _collapsed([x.shape[a] for a in kept], [[steps[a] for a in kept]])
    inner, (inner_steps,) = _collapsed([x.shape[a] for a in axes], [[steps[a] for a in axes]])
    n, length = prod(outer), prod(inner)
    serial = length <= SERIAL or n >= 2048
    start, fold = _FOLD[instruction.op]
    kind = C_TYPES[x.dtype]
    start = start.replace("INF", _INFINITY[x.dtype])
    name = f"{instruction.op}_{x.dtype}_{len(outer)}d_{len(inner)}d_{'serial' if serial else 'block'}"
    numbers, values = ["long long n", "long long length"], [n, length]
    for label, sizes, walk in (("o", outer, outer_steps), ("r", inner, inner_steps)):
        for axis, (size, step) in enumerate(zip(sizes, walk, strict=True)):
            numbers += [f"long long {label}n{axis}", f"long long {label}s{axis}"]
            values += [size, step]
    parameters = [f"{kind}* out", f"const {kind}* in", *numbers]

    def index(label: str, count: int, source: str) -> list[str]:
        lines = [f"long long {label}at = 0; {{ long long rest = {source};"]
        walk = [f"{label}at += (rest % {label}n{i}) * {label}s{i}; rest /= {label}n{i};" for i in reversed(range(count))]
        return [*lines, *walk, "}"]

    add = [*index("r", len(inner), "k"), f"T x = total, y = in[oat + rat]; total = {fold};"]
    if serial:
        body = _loop(
            [f"typedef {kind} T;", *index("o", len(outer), "i"), f"T total = {start};",
             "for (long long k = 0; k < length; k++) {", *add, "}", "out[i] = total;"]
        )  # fmt: skip
        return [Launch(name, _kernel(name, parameters, body), _blocks(n), BLOCK, ("out", 0), tuple(values))]
    threads = 128
    body = [
        f"typedef {kind} T;",
        f"__shared__ T parts[{threads}];",
        "for (long long i = blockIdx.x; i < n; i += gridDim.x) {",
        *index("o", len(outer), "i"),
        f"T total = {start};",
        "for (long long k = threadIdx.x; k < length; k += blockDim.x) {",
        *add,
        "}",
        "parts[threadIdx.x] = total; __syncthreads();",
        f"for (int half = {threads // 2}; half; half /= 2) {{",
        f"if (threadIdx.x < half) {{ T x = parts[threadIdx.x], y = parts[threadIdx.x + half]; parts[threadIdx.x] = {fold}; }}",
        "__syncthreads(); }",
        "if (threadIdx.x == 0) out[i] = parts[0];",
        "__syncthreads(); }",
    ]
    return [Launch(name, _kernel(name, parameters, body), min(n, MOST_BLOCKS), threads, ("out", 0), tuple(values))]


def _argmax(instruction: Instruction) -> list[Launch]:
    (x,) = instruction.inputs
    name, kind = f"argmax_{x.dtype}", C_TYPES[x.dtype]
    body = _loop(
        [f"const {kind}* row = in + i * length; long long best = 0;",
         "for (long long k = 1; k < length; k++)",
         "if (row[best] == row[best] && (row[k] > row[best] || row[k] != row[k])) best = k;",
         "out[i] = best;"]
    )  # fmt: skip
    source = _kernel(name, ["long long* out", f"const {kind}* in", "long long n", "long long length"], body)
    n = prod(x.shape[:-1])
    return [Launch(name, source, _blocks(n), BLOCK, ("out", 0), (n, x.shape[-1]))]


# --- rows and random numbers ------------------------------------------------------------------------------------------


def _gather(instruction: Instruction) -> list[Launch]:
    x, rows = instruction.inputs
    kind, index = C_TYPES[x.dtype], C_TYPES[rows.dtype]
    name = f"gather_{x.dtype}_{rows.dtype}"
    body = _loop(
        ["long long row = rows[i / width]; row = row < 0 ? 0 : row >= count ? count - 1 : row;",
         "out[i] = in[row * width + i % width];"]
    )  # fmt: skip
    parameters = [f"{kind}* out", f"const {kind}* in", f"const {index}* rows"]
    numbers = ["long long n", "long long width", "long long count"]
    width, n = prod(x.shape[1:]), prod(instruction.output.shape)
    return [
        Launch(name, _kernel(name, [*parameters, *numbers], body), _blocks(n), BLOCK, ("out", 0, 1), (n, width, x.shape[0]))
    ]


def _scatter_add(instruction: Instruction) -> list[Launch]:
    """One thread for each value of the output, which looks for its rows in order: the same sum every time."""
    g, rows = instruction.inputs
    kind, index = C_TYPES[g.dtype], C_TYPES[rows.dtype]
    name = f"scatter_add_{g.dtype}_{rows.dtype}"
    body = _loop(
        [f"{kind} total = 0;",
         "for (long long k = 0; k < length; k++) if (rows[k] == i / width) total += in[k * width + i % width];",
         "out[i] = total;"]
    )  # fmt: skip
    parameters = [f"{kind}* out", f"const {kind}* in", f"const {index}* rows"]
    numbers = ["long long n", "long long width", "long long length"]
    n, length = prod(instruction.output.shape), prod(rows.shape)
    width = prod(instruction.output.shape[1:])
    return [Launch(name, _kernel(name, [*parameters, *numbers], body), _blocks(n), BLOCK, ("out", 0, 1), (n, width, length))]


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
    n, each = prod(instruction.output.shape) // 8, instruction.output.shape[1] // 8
    kernel = _kernel(name, parameters, _loop([_PHILOX.replace("START", start)]))
    return [Launch(name, kernel, _blocks(n), BLOCK, ("out", 0, 1)[: 2 + part], (n, *key, each)[: 3 + part])]


_BUILDERS: dict[str, Callable[[Instruction], list[Launch]]] = {
    "power": _power,
    "guard": _guard,
    "concatenate": _concatenate,
    "pad": _pad,
    "sum": _reduction,
    "amax": _reduction,
    "argmax": _argmax,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "uniform": _uniform,
}
