"""The CPU backend: NumPy.

Every kernel is a NumPy call with its output given. What allocates even so (`np.where`, `take` in its default mode, mixed
dtypes, partly overlapping operands) is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .contract import Backend, Instruction, OutOfMemory, Profile, Reserve, Scratch, Storage, View

# A weight that does not start on a cache line made its update three times slower with two BLAS threads.
PROFILE = Profile(
    name="cpu",
    alignment=64,
    slack=63,
    rounding=1,
    product_sums=True,
    scratch=(Scratch("erf", arrays=4),),
    reserve=(Reserve("OpenBLAS work buffers", 5_554_176, "2 threads, NumPy 2.4, by ci/bench/reserve.py"),),
)

# Values in NumPy's iterator buffers, an eighth of its default: a step's transients stay under 20 KB, and small additions of a
# row are quicker.
_BUFFER = 1024

Array = np.ndarray[Any, Any]
Call = Callable[[], object]


def create() -> Backend:
    return NumpyBackend()


class HostStorage:
    """One aligned block of host memory."""

    __slots__ = ("_owner", "_start", "block")

    def __init__(self, owner: NumpyBackend, nbytes: int) -> None:
        try:
            self.block = np.empty(PROFILE.footprint(nbytes), np.uint8)
        except MemoryError:
            raise OutOfMemory from None
        self._start = -self.block.ctypes.data % PROFILE.alignment if nbytes else 0  # nothing has no first byte to align
        self._owner = owner
        owner.held += self.block.nbytes
        owner.opened += 1

    def __del__(self) -> None:
        self._owner.held -= self.block.nbytes

    @property
    def nbytes(self) -> int:
        return self.block.nbytes

    def array(self, view: View) -> Array:
        array: Array = np.ndarray(view.shape, view.dtype, self.block, self._start + view.offset, view.strides)
        return array


class HostFeed:
    """Rows straight from where they lie."""

    def __init__(self, columns: Sequence[Array]) -> None:
        self._columns = columns
        self._order: Array | None = None

    def arrange(self, order: Array | None) -> None:
        self._order = order

    def put(self, slots: Sequence[Array | None], start: int, stop: int) -> None:
        for slot, values in zip(slots, self._columns, strict=True):
            if slot is None:
                continue
            if self._order is None:
                np.copyto(slot, values[start:stop], casting="same_kind")
            else:  # "clip" is the one mode that needs no buffer
                np.take(values, self._order[start:stop], axis=0, out=slot, mode="clip")


class NumpyBackend:
    profile = PROFILE

    def __init__(self) -> None:
        self.held = 0
        self.opened = 0

    def open(self, nbytes: int) -> HostStorage:
        return HostStorage(self, nbytes)

    def view(self, storage: Storage, view: View) -> Array:
        assert isinstance(storage, HostStorage)
        return storage.array(view)

    def copy_in(self, array: Array, values: Array | float) -> None:
        np.copyto(array, values, casting="same_kind")

    def copy_out(self, array: Array) -> Array:
        return np.array(array)

    def export(self, array: Array) -> Array:
        return np.array(array)

    def adopt(self, array: Array, given: Any) -> None:
        np.copyto(array, np.from_dlpack(given))

    def copy(self, target: Array, source: Array) -> None:
        np.copyto(target, source)

    def feed(self, columns: Sequence[Array], most_rows: int, again: bool) -> HostFeed:
        return HostFeed(columns)

    def compile(
        self, instruction: Instruction, inputs: Sequence[Array], outputs: Sequence[Array], scratch: Sequence[Array]
    ) -> Call:
        (output,) = outputs
        build = _KERNELS.get(instruction.op)
        if build is not None:
            return build(instruction, inputs, output, *([scratch] if scratch else []))
        ufunc = getattr(np, instruction.op, None)
        if not isinstance(ufunc, np.ufunc):
            raise LookupError(f"the NumPy backend has no kernel for {instruction.op!r}")
        operands = tuple(map(_unbroadcast, inputs))
        if instruction.op in _NAMED_OUT:
            return partial(ufunc, *operands, out=output)
        return partial(ufunc, *operands, output)

    def program(self, calls: Sequence[Call]) -> Callable[[], None]:
        calls = tuple(calls)

        def run() -> None:
            with np.errstate(all="ignore"):
                np.setbufsize(_BUFFER)  # undone with the error state
                for call in calls:
                    call()

        return run

    def synchronize(self) -> None:
        pass

    def free(self) -> None:
        """Swapping and overcommitment leave no figure to rely on."""

    def allocated(self) -> int:
        return self.held

    def allocations(self) -> int:
        return self.opened


# By position an output is quicker; these two will not take it so.
_NAMED_OUT = ("maximum", "minimum")


def _unbroadcast(array: Array) -> Array:
    """Drop leading broadcast axes: NumPy restores them, and its loops are quicker on the smaller array."""
    while array.ndim and array.strides[0] == 0:
        array = array[0, ...]  # the ellipsis keeps a view: without it the last step would copy a number out
    return array


def _reduction(ufunc: np.ufunc) -> Callable[[Instruction, Sequence[Array], Array], Call]:
    def build(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
        return partial(ufunc.reduce, inputs[0], axis=instruction.attributes["axes"], out=output)

    return build


# np.dot starts sooner, np.matmul keeps both threads busy; they cross at about this many multiply-adds.
_SMALL_PRODUCT = 600_000


def _matmul(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
    a, b = inputs
    if a.ndim == 2 and output.flags.c_contiguous and (len(a) == 1 or output.size * a.shape[1] <= _SMALL_PRODUCT):
        return partial(np.dot, a, b, output)
    return partial(np.matmul, a, b, output)


# 1 as an array without axes: quicker than a number of Python's. It lies in a bytes object, no array of a model's.
_ONE = {name: np.frombuffer(np.ones(1, name).tobytes(), name).reshape(()) for name in ("float32", "float64")}


def _logistic(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
    # 1 / (1 + exp(-x)): for a large negative x the exponential is inf and the result a true 0.
    (x,) = inputs
    negative, exp, add, divide = np.negative, np.exp, np.add, np.divide
    one = _ONE[output.dtype.name]

    def run() -> None:
        negative(x, output)
        exp(output, output)
        add(output, one, output)
        divide(one, output, output)  # quicker than its reciprocal

    return run


def _softplus(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
    return partial(np.logaddexp, inputs[0], 0.0, out=output)


def _copy(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
    return partial(np.copyto, output, inputs[0], casting="unsafe")


def _power(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
    return partial(np.power, inputs[0], instruction.attributes["exponent"], out=output)


def _guard(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
    return partial(np.maximum, inputs[0], instruction.attributes["floor"], out=output)


def _argmax(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
    return partial(np.argmax, inputs[0], axis=-1, out=output)


def _concatenate(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
    return partial(np.concatenate, list(inputs), axis=instruction.attributes["axis"], out=output)


def _pad(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
    (x,) = inputs
    before, step = instruction.attributes["before"], instruction.attributes["step"]
    window = output[tuple(slice(i, i + (n - 1) * s + 1, s) for i, n, s in zip(before, x.shape, step, strict=True))]

    def run() -> None:
        output.fill(0)
        np.copyto(window, x)

    return run


def _where(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
    # np.where would allocate.
    mask, a, b = inputs

    def run() -> None:
        np.copyto(output, b)
        np.copyto(output, a, where=mask)

    return run


def _gather(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
    x, rows = inputs
    return partial(np.take, x, rows, axis=0, out=output, mode="clip")


def _scatter_add(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
    g, rows = inputs

    def run() -> None:
        output.fill(0)
        np.add.at(output, rows, g)

    return run


def _uniform(instruction: Instruction, inputs: Sequence[Array], output: Array) -> Call:
    step, *first = inputs  # and the number of the first row, if it is not 0
    blocks = output.shape[1] // 8
    key = list(instruction.attributes["key"])
    philox = np.random.Philox(key=0)
    draw = partial(np.random.Generator(philox).random, dtype=np.float32, out=output)

    def run() -> None:
        state: Any = {"bit_generator": "Philox", "buffer": [0] * 4, "buffer_pos": 4, "has_uint32": 0, "uinteger": 0}
        start = int(first[0]) * blocks if first else 0
        state["state"] = {"counter": [start, int(step), 0, 0], "key": key}
        philox.state = state
        draw()

    return run


# Chebyshev coefficients of P in erfc(z) = t exp(P(t) - z²), t = 2 / (2 + z), z >= 0, over t in [0, 1]: the form of Numerical
# Recipes (3rd ed., 6.2.2), computed with 50 digits. Ten are enough for float32.
_ERFC = (
    -1.3026537197817094, 0.6419697923564902, 0.019476473204185836, -0.009561514786808632, -0.0009465953444820369,
    0.00036683949785276145, 4.252332480690777e-05, -2.0278578112534242e-05, -1.6242900046470256e-06,
    1.3036558355805232e-06, 1.5626441722066142e-08, -8.523809591492654e-08, 6.5290544390988515e-09, 5.059343495551469e-09,
    -9.91364156493033e-10, -2.273651222931836e-10, 9.646791102015527e-11, 2.3940380830391146e-12, -6.886027526497553e-12,
    8.944879273090725e-13, 3.130921399342958e-13, -1.1270822362367252e-13, 3.810905255189232e-16, 7.106097613609237e-15,
    -1.5230282014571041e-15, -9.457494571291254e-17, 1.210237189224273e-16, -2.816663087746774e-17,
)  # fmt: skip


def _erf(instruction: Instruction, inputs: Sequence[Array], output: Array, scratch: Sequence[Array]) -> Call:
    (x,) = inputs
    t, d, previous, swap = scratch
    terms = _ERFC[:12] if output.dtype == np.float32 else _ERFC

    def run() -> None:
        now, before, spare = d, previous, swap
        np.absolute(x, t)
        np.add(t, 2.0, t)
        np.divide(2.0, t, t)
        np.multiply(t, 4.0, output)
        np.subtract(output, 2.0, output)  # 2 (2t - 1), for Clenshaw's recurrence
        now.fill(0)
        before.fill(0)
        for c in terms[:0:-1]:
            np.multiply(output, now, spare)
            np.subtract(spare, before, spare)
            np.add(spare, c, spare)
            now, before, spare = spare, now, before
        np.multiply(output, now, spare)
        np.add(spare, terms[0], spare)
        np.multiply(spare, 0.5, spare)
        np.subtract(spare, before, spare)
        np.multiply(x, x, output)
        np.subtract(spare, output, spare)
        np.exp(spare, spare)
        np.multiply(spare, t, spare)  # erfc(|x|)
        np.subtract(1.0, spare, spare)
        np.copysign(spare, x, out=output)

    return run


_KERNELS: dict[str, Callable[..., Call]] = {
    "where": _where,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "uniform": _uniform,
    "erf": _erf,
    "sum": _reduction(np.add),
    "amax": _reduction(np.maximum),
    "argmax": _argmax,
    "matmul": _matmul,
    "logistic": _logistic,
    "softplus": _softplus,
    "copy": _copy,
    "cast": _copy,
    "power": _power,
    "guard": _guard,
    "concatenate": _concatenate,
    "pad": _pad,
}
