"""What the tests of the lower floors share: running graphs, NumPy twins of the primitives, and the gradient checker.

Nothing here uses the code it checks: the twins are plain NumPy, the checker is a finite difference.
"""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import settings

from aforo import ops
from aforo.device import contents, device
from aforo.gradient import gradient
from aforo.graph import STATE, Graph, Sample, Tensor, Variable, constant, leaf
from aforo.program import Program, Workspace
from aforo.specs import FLOATS, Dim, at

Array = np.ndarray[Any, Any]

# The same examples on every machine, and no files left behind.
REPEATABLE = settings(derandomize=True, deadline=None, database=None, max_examples=150)


# --- running a graph --------------------------------------------------------------------------------------------------


def variable(values: Any, name: str = "x", role: str = STATE, dtype: str | None = None) -> Variable:
    """A variable that starts with these values."""
    array = np.array(values, dtype)
    return Variable(name, array.shape, str(array.dtype), role, lambda: array, owner="test")


class Runner:
    """A graph on a device: write variables, run, read outputs and variables. `at` changes the sizes but keeps the plan."""

    def __init__(self, graph: Graph, batch: int = 1, on: str = "cpu", time: int = 1) -> None:
        self.graph = graph
        self.workspace = Workspace(device(on))
        self.backend = self.workspace.device.backend
        self.at(batch, time)
        (self.plan,) = self.workspace.plans["test"]

    def at(self, batch: int, time: int = 1) -> Runner:
        self.program: Program = self.workspace.program("test", batch, lambda: self.graph, time=time)
        return self

    def write(self, values: Mapping[Variable, Any]) -> Runner:
        for each, array in values.items():
            place = self.program.slots.get(each)
            self.backend.copy_in(contents(each) if place is None else place, np.asarray(array))
        return self

    def run(self) -> dict[str, Array]:
        """Run once; copies of the outputs."""
        self.program.run()
        self.backend.synchronize()
        return {name: self.backend.copy_out(array) for name, array in self.program.outputs.items()}

    def value(self, each: Variable) -> Array:
        """What a variable holds now."""
        place = self.program.slots.get(each)
        return self.backend.copy_out(contents(each) if place is None else place)


def result(tensor: Tensor) -> Array:
    """The value of a tensor whose variables hold their first values."""
    return Runner(Graph({"y": tensor}, {})).run()["y"]


# --- NumPy twins ------------------------------------------------------------------------------------------------------


def _slices(start: Sequence[int], stop: Sequence[int], step: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(a, b, s) for a, b, s in zip(start, stop, step, strict=True))


def _padded(x: Array, before: Sequence[int], step: Sequence[int], shape: Sequence[int]) -> Array:
    out = np.zeros(shape, x.dtype)
    out[tuple(slice(a, None, s) for a, s in zip(before, step, strict=True))][tuple(map(slice, x.shape))] = x
    return out


def _scattered(g: Array, indices: Array, rows: int) -> Array:
    out = np.zeros((rows, *g.shape[indices.ndim :]), g.dtype)
    for place in np.ndindex(indices.shape):
        out[indices[place]] += g[place]
    return out


def _philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x64-10, from the paper (Salmon et al., 2011, section 4.3), in Python's whole numbers."""
    word = (1 << 64) - 1
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c[0], 1 << 64)
        high1, low1 = divmod(0xCA5A826395121157 * c[2], 1 << 64)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B97F4A7C15) & word, (k[1] + 0xBB67AE8584CAA73B) & word]
    return c


def _uniform(step: Array, first: Any = 0, *, rows: int, columns: int, key: tuple[int, int]) -> Array:
    """Eight numbers of 24 bits from each block; NumPy raises the counter before it draws."""
    start = int(first) * columns // 8
    words = [w for i in range(rows * columns // 8) for w in _philox((start + i + 1, int(step), 0, 0), key)]
    halves = np.array(words, np.uint64).view(np.uint32)  # the low half first
    return ((halves >> 8) * 2.0**-24).reshape(rows, columns)


_TWINS: dict[str, Callable[..., Any]] = {
    "logistic": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "power": lambda x, exponent: x**exponent,
    "guard": lambda x, floor: np.where(x > floor, x, floor),
    "cast": lambda x, dtype: x.astype(dtype),
    "copy": lambda x: x,
    "identity": lambda x: x,
    "after": lambda x, event: x,
    "passing": lambda x, mask: x,
    "stop_gradient": lambda x: x,
    "transpose": lambda x, axes: np.transpose(x, axes),
    "broadcast": lambda x, shape: np.broadcast_to(x, shape),
    "slice": lambda x, start, stop, step: x[_slices(start, stop, step)],
    "pad": _padded,
    "concatenate": lambda *xs, axis: np.concatenate(xs, axis),
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "gather": lambda x, rows: x[rows],
    "scatter_add": _scattered,
    "sum": lambda x, axes: x.sum(axes),
    "amax": lambda x, axes: x.max(axes),
    "argmax": lambda x: x.argmax(-1),
    "uniform": _uniform,
}


def twin(name: str) -> Callable[..., Any]:
    """What a primitive computes, in NumPy: the function of that name unless the table says otherwise."""
    function = _TWINS.get(name) or getattr(np, name, None)
    assert function is not None, f"NumPy has no {name!r}: say in helpers._TWINS what the primitive computes"
    return function


def interpret(
    graph: Graph, values: Mapping[Variable, Array], sizes: Mapping[str, int]
) -> tuple[dict[str, Array], dict[Variable, Array]]:
    """The outputs and the updated variables of a graph, node by node in NumPy: no plan, no order, no shared memory."""
    known: dict[int, Array] = {}
    for node in graph.nodes:
        a = {key: at(value, sizes) for key, value in node.attributes.items()}
        if node.op == "variable":
            known[id(node)] = values[node.variable]
        elif node.op == "constant":
            value = a["value"]
            array = np.frombuffer(value, node.dtype) if isinstance(value, bytes) else np.float64(value) * a["times"] / a["per"]
            known[id(node)] = np.asarray(array, node.dtype).reshape(a["shape"])
        elif node.op == "iota":
            known[id(node)] = np.arange(a["size"], dtype=node.dtype)
        else:
            known[id(node)] = np.asarray(twin(node.op)(*(known[id(i)] for i in node.inputs), **a))
    outputs = {name: known[id(node)] for name, node in graph.outputs.items()}
    return outputs, {each: known[id(node)] for each, node in graph.updates.items()}


# --- samples ----------------------------------------------------------------------------------------------------------


def sample_inputs(sample: Sample, dtype: str, seed: int = 0) -> list[Array]:
    """Arrays as the sample describes them; "float" stands for the dtype under test, "true" for a mask that is."""
    rng = np.random.default_rng(seed)
    arrays = []
    for i, shape in enumerate(sample.shapes):
        kind = sample.dtypes[i] if sample.dtypes else "float"
        kind = dtype if kind == "float" else kind
        if kind in FLOATS:
            array = rng.uniform(sample.low, sample.high, shape).astype(kind)
        elif kind == "true":
            array = np.ones(shape, bool)
        elif kind == "bool":
            array = rng.random(shape) < 0.5
        else:
            array = rng.integers(int(sample.low), int(sample.high), shape).astype(kind)
        arrays.append(np.asarray(array))
    return arrays


# --- the gradient checker ---------------------------------------------------------------------------------------------

_STEP = 1e-6


def check_gradient(function: Callable[..., Tensor], arrays: Sequence[Array], seed: int = 0, on: str = "cpu") -> None:
    """Compare the derived gradient of a number with a finite difference in a random direction, in float64.

    Central difference of fourth order. Raises AssertionError if they differ, and also if the function has a kink in reach,
    where a finite difference says nothing. Inputs that are not floating-point are held still.
    """
    rng = np.random.default_rng(seed)
    held = [variable(array.astype("float64") if array.dtype.kind == "f" else array, f"x{i}") for i, array in enumerate(arrays)]
    leaves = [leaf(each) for each in held]
    f = function(*leaves)
    assert f.dtype == "float64", "a check in float32 would be too coarse"
    moved = [i for i, x in enumerate(leaves) if x.dtype in FLOATS]
    derived = gradient(f, [leaves[i] for i in moved])
    for i, g in zip(moved, derived, strict=True):
        assert (g.shape, g.dtype) == (leaves[i].shape, leaves[i].dtype), f"the gradient of input {i} does not look like it"
    runner = Runner(Graph({"f": f, **{f"g{i}": g for i, g in zip(moved, derived, strict=True)}}, {}), on=on)
    direction = {i: rng.standard_normal(arrays[i].shape) for i in moved}

    def along(t: float) -> float:
        runner.write({held[i]: arrays[i] + t * direction[i] for i in moved})
        return float(runner.run()["f"])

    out = runner.run()
    slope = sum(float(np.sum(out[f"g{i}"] * direction[i])) for i in moved)
    size = sum(float(np.sum(np.abs(out[f"g{i}"] * direction[i]))) for i in moved) + abs(float(out["f"]))
    h = _STEP
    near, far = (along(h) - along(-h)) / (2 * h), (along(2 * h) - along(-2 * h)) / (4 * h)
    assert abs(near - far) <= 1e-5 * size, "the function bends too sharply for a finite difference: draw other inputs"
    measured = (4 * near - far) / 3
    # Rounding: a few eps · |f| / h, under 1e-9 of the size.
    assert abs(measured - slope) <= 1e-8 * size, f"the gradient says {slope!r} along the direction, measured {measured!r}"


def weighted(y: Tensor, seed: int = 1) -> Tensor:
    """Σ c·y² with random c: a number whose first and second derivatives see every value of y differently."""
    shape = tuple(n for n in y.shape if not isinstance(n, Dim))
    c = np.asarray(np.random.default_rng(seed).uniform(0.5, 1.5, shape))
    return ops.sum(constant(c, "float64") * ops.square(y)) if y.shape else ops.square(y)


# --- memory -----------------------------------------------------------------------------------------------------------

NUMPY_DOMAIN = 389047  # np.lib.tracemalloc_domain: the data of arrays


def traced(run: Callable[[], object]) -> tuple[int, int]:
    """Bytes of array data that a call keeps, and the most it holds on the way (array data and everything else)."""
    run()  # what is made once and for all, such as BLAS work buffers, is not the call's
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        run()
        _, peak = tracemalloc.get_traced_memory()
        kept = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, NUMPY_DOMAIN)])
        return sum(trace.size for trace in kept.traces), peak - before
    finally:
        tracemalloc.stop()
