"""The CUDA backend, on a driver: CuPy's on a GPU, or a pretend one that runs the same kernels on the CPU.

What the planner must know is data, below, so a plan for a GPU can be made on a machine without one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np

from .contract import ITEM_BYTES, Backend, Feed, Instruction, OutOfMemory, Profile, Reserve, Scratch, Storage, Unavailable, View
from .driver import SPARE, Call, DeviceStorage, Driver, HostArray, Matrix, Product
from .feeds import ResidentFeed, StagedFeed
from .fused import FOLDS, FUSES, parts_of
from .kernels import launches
from .source import Launch, collapsed, steps


def profile(name: str) -> Profile:
    """CuPy's pool gives multiples of 512 bytes, aligned to them; values inside a storage start at multiples of 256.

    cuBLAS may split a product's inner axis: it gets room for a few outputs, up to what it takes by itself on Hopper. Small
    products share what a driver keeps for them: below 16 KiB cuBLAS may refuse to work.
    """
    return Profile(
        name=name,
        alignment=256,
        slack=0,
        rounding=512,
        product_sums=False,
        scratch=tuple(Scratch(op, every=256, times=4, least=SPARE, most=32 * 2**20) for op in ("matmul", "matmul_add")),
        fuses=FUSES | frozenset(FOLDS),
        parts=parts_of,
        accumulates=True,
        resident=2 * 2**30,
        tf32=True,
    )


# What users of CUDA report. The workspace that products are given is planned; cuBLAS may keep one of its own besides.
_RESERVE = (
    Reserve("CUDA context", 300_000_000, "estimate, not measured here: with kernels loaded lazily"),
    Reserve("cuBLAS handle", 32 * 2**20, "estimate, not measured here: on Hopper; about 8 MiB on GPUs before it"),
)
PROFILE = replace(profile("cuda"), reserve=_RESERVE)
INDEXED = True


def create(index: int = 0) -> Backend:
    """The backend on that GPU. Tells four causes apart when there is none: CuPy missing, no driver or GPU, CuPy and driver of
    different CUDA versions, an index out of range."""
    install = "pip install 'aforo[cuda12]' for a driver of CUDA 12, 'aforo[cuda13]' for one of CUDA 13"
    try:
        import cupy  # type: ignore[import-not-found]
    except ImportError as error:
        raise Unavailable("CuPy, which runs Aforo on CUDA, is not installed", f"{error}", install) from None
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        built, driver = runtime.runtimeGetVersion(), _driver_version(runtime)
        if driver and driver // 1000 < built // 1000:
            found = f"CuPy for CUDA {built // 1000}, a driver for CUDA {driver // 1000}.{driver % 1000 // 10}"
            raise Unavailable("CuPy and the NVIDIA driver are of different CUDA versions", found, install) from None
        fix = "run on a machine with an NVIDIA GPU and its driver (nvidia-smi shows both)"
        raise Unavailable("there is no NVIDIA GPU, or no driver for it", f"{error}", fix) from None
    if not 0 <= index < count:
        present = [runtime.getDeviceProperties(i)["name"].decode() for i in range(count)]
        found = ", ".join(f"cuda:{i} ({name})" for i, name in enumerate(present)) or "none"
        raise Unavailable(f"there is no device cuda:{index}", found, 'model.to("cuda:0")')
    try:
        from .cupy import CupyDriver

        return CudaBackend(CupyDriver(index), PROFILE)
    except Unavailable:
        raise
    except Exception as error:  # CuPy's, the driver's and cuBLAS's: a GPU that is full or taken, a library that does not load
        found = f"{type(error).__name__}: {error}"
        raise Unavailable(
            "the GPU cannot be used", found, "free its memory (nvidia-smi shows who has it), or try again"
        ) from error


def _driver_version(runtime: Any) -> int:
    """1000 times the CUDA version that the driver supports; 0 without a driver."""
    try:
        version: int = runtime.driverGetVersion()
        return version
    except runtime.CUDARuntimeError:
        return 0


class DeviceArray:
    """A view of device memory. NumPy cannot read it."""

    __slots__ = ("address", "storage", "view")

    def __init__(self, storage: DeviceStorage, view: View) -> None:
        self.storage = storage
        self.view = view
        self.address = storage.address + view.offset

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape

    @property
    def nbytes(self) -> int:
        return prod(self.view.shape) * ITEM_BYTES[self.view.dtype]

    @property
    def is_dense(self) -> bool:
        step = ITEM_BYTES[self.view.dtype]
        for size, stride in zip(reversed(self.view.shape), reversed(self.view.strides), strict=True):
            if size != 1 and stride != step:
                return False
            step *= size
        return True

    def __array__(self, *_: object, **__: object) -> HostArray:
        raise TypeError("this array is in device memory; copy_out copies it to the host")


class CudaBackend:
    def __init__(self, driver: Driver, profile: Profile) -> None:
        self.driver = driver
        self.profile = profile

    def open(self, nbytes: int) -> Storage:
        return self.driver.alloc(nbytes)

    def view(self, storage: Storage, view: View) -> DeviceArray:
        return DeviceArray(storage, view)  # type: ignore[arg-type]

    def copy_in(self, array: DeviceArray, values: HostArray | float) -> None:
        assert array.is_dense
        dtype = np.dtype(array.view.dtype)
        given = np.asarray(values)
        if not np.can_cast(given.dtype, dtype, "same_kind") and given.ndim:
            raise TypeError(f"cannot write {given.dtype} values into a {dtype} array")
        self.driver.write(array.address, np.ascontiguousarray(np.broadcast_to(given, array.shape), dtype))

    def copy_out(self, array: DeviceArray) -> HostArray:
        if not array.is_dense:
            return self._copy_out_strided(array)
        out = np.empty(array.shape, array.view.dtype)
        self.driver.read(array.address, out)
        return out

    def _copy_out_strided(self, array: DeviceArray) -> HostArray:
        """Everything the view reaches over, picked apart on the host."""
        reach = sum((n - 1) * step for n, step in zip(array.shape, array.view.strides, strict=True))
        item = ITEM_BYTES[array.view.dtype]
        block = np.empty(reach + item, np.uint8)
        self.driver.read(array.address, block)
        return np.array(np.ndarray(array.shape, array.view.dtype, block, 0, array.view.strides))

    def export(self, array: DeviceArray) -> Any:
        assert array.is_dense
        return self.driver.export(array.address, array.shape, array.view.dtype)

    def adopt(self, array: DeviceArray, given: Any) -> None:
        assert array.is_dense
        self.driver.adopt(array.address, given)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        if target.is_dense and source.is_dense:
            self.driver.copy(target.address, source.address, target.nbytes)
        else:
            self.compile(Instruction("copy", (source.view,), (target.view,)), [source], [target], [])()

    def feed(self, columns: Sequence[HostArray], most_rows: int, again: bool) -> Feed:
        if again and sum(self.profile.footprint(values.nbytes) for values in columns) <= self.profile.resident:
            with suppress(OutOfMemory):  # less room than usual: then batch by batch
                return ResidentFeed(self.driver, columns)
        return StagedFeed(self.driver, columns, most_rows)

    def compile(
        self,
        instruction: Instruction,
        inputs: Sequence[DeviceArray],
        outputs: Sequence[DeviceArray],
        scratch: Sequence[DeviceArray],
    ) -> Call:
        if instruction.op in ("matmul", "matmul_add"):
            products = _products(instruction, inputs, outputs[0], scratch)
            calls: list[Call] = [partial(self.driver.gemm, product) for product in products]
            if instruction.op == "matmul_add" and inputs[2].address != outputs[0].address:
                calls.insert(0, partial(self.driver.copy, outputs[0].address, inputs[2].address, inputs[2].nbytes))
        else:
            arrays = {"in": inputs, "out": outputs, "scratch": scratch}
            calls = [self._launch(launch, arrays) for launch in launches(instruction)]
        return calls[0] if len(calls) == 1 else partial(_all, calls)

    def _launch(self, launch: Launch, arrays: Mapping[str, Sequence[DeviceArray]]) -> Call:
        offsets = launch.offsets or (0,) * len(launch.operands)
        pointers = [arrays[kind][i].address + offset for (kind, i), offset in zip(launch.operands, offsets, strict=True)]
        function = self.driver.function(launch)
        return partial(self.driver.launch, function, launch.blocks, launch.threads, pointers, launch.numbers)

    def program(self, calls: Sequence[Call]) -> Callable[[], None]:
        return self.driver.capture(calls)

    def synchronize(self) -> None:
        self.driver.synchronize()

    def free(self) -> int | None:
        return self.driver.free()

    def allocated(self) -> int:
        return self.driver.allocated()

    def allocations(self) -> int:
        return self.driver.allocations()


def _all(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def _matrix(array: DeviceArray, offset: int, batch_step: int) -> Matrix:
    """The last two axes as BLAS sees them, from an offset on, both in elements. The planner gives no other layouts."""
    item = ITEM_BYTES[array.view.dtype]
    address = array.address + offset * item
    rows, columns = array.shape[-2:]
    row_step, column_step = (step // item for step in array.view.strides[-2:])
    if columns == 1 or column_step == 1:
        leading = row_step if rows > 1 else columns
        if columns == 1 and column_step != 1 and rows > 1 and row_step == 1:
            return Matrix(address, rows, columns, False, rows, batch_step)
        return Matrix(address, rows, columns, True, max(leading, columns), batch_step)
    assert rows == 1 or row_step == 1
    return Matrix(address, rows, columns, False, max(column_step, rows), batch_step)


def _products(
    instruction: Instruction, inputs: Sequence[DeviceArray], output: DeviceArray, scratch: Sequence[DeviceArray]
) -> list[Product]:
    """One product for all matrices that lie at equal steps; most often that is all of them."""
    operands = (*inputs[:2], output)
    sizes, walks = collapsed(output.shape[:-2], [steps(array.view)[:-2] for array in operands])
    batch = sizes[-1] if sizes else 1
    last = [walk[-1] if walk else 0 for walk in walks]
    workspace = (scratch[0].address, scratch[0].nbytes) if scratch else (0, 0)
    made = []
    for place in np.ndindex(*sizes[:-1]):
        starts = [sum(i * step for i, step in zip(place, walk, strict=False)) for walk in walks]
        a, b, out = (_matrix(array, start, step) for array, start, step in zip(operands, starts, last, strict=True))
        made.append(Product(a, b, out, batch, output.view.dtype, workspace, **instruction.attributes))
    return made
