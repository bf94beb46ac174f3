"""The CUDA driver on a GPU: CuPy for memory, streams, kernels and graphs; cuBLAS called directly.

CuPy's own matrix products copy transposed or padded operands and cannot be captured, so `cublasGemmStridedBatchedEx` is called
through ctypes. Nothing is created at import time: the first driver makes the context.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import RLock
from typing import Any

import cupy  # type: ignore[import-not-found]
import numpy as np

from .contract import OutOfMemory, Unavailable, round_up
from .driver import SPARE, Call, Event, HostArray, Matrix, Product, in_turn
from .source import Launch

_CUBLAS_OP = {False: 0, True: 1}  # as it is, transposed
_TYPES = {"float32": (0, 68, ctypes.c_float), "float64": (1, 70, ctypes.c_double)}  # CUDA_R_*, CUBLAS_COMPUTE_*, scalars
_COMPUTE_TF32 = 77


class GpuStorage:
    """A block from CuPy's pool."""

    __slots__ = ("_driver", "address", "memory", "nbytes")

    def __init__(self, driver: CupyDriver, nbytes: int) -> None:
        self.memory = cupy.cuda.alloc(nbytes)
        self.address = int(self.memory.ptr)
        self.nbytes = round_up(nbytes, 512)
        self._driver = driver
        driver.held += self.nbytes
        driver.opened += 1

    def __del__(self) -> None:
        if hasattr(self, "_driver"):
            with self._driver.lock:
                self._driver.held -= self.nbytes


@in_turn
class CupyDriver:
    """One device, one stream."""

    def __init__(self, index: int = 0) -> None:
        self.lock = RLock()
        self.device = cupy.cuda.Device(index)
        self.held = 0
        self.opened = 0
        self.kernels: dict[str, Any] = {}
        with self.device:
            self.stream = cupy.cuda.Stream(non_blocking=True)
            self.uploads = cupy.cuda.Stream(non_blocking=True)
            self._cublas = _cublas()
            self._handle = ctypes.c_void_p()
            _check(self._cublas.cublasCreate_v2(ctypes.byref(self._handle)), "cublasCreate")
            _check(self._cublas.cublasSetStream_v2(self._handle, ctypes.c_void_p(self.stream.ptr)), "cublasSetStream")
            self._spare = cupy.cuda.runtime.malloc(SPARE)

    def alloc(self, nbytes: int) -> GpuStorage:
        with self.device, self.stream:
            try:
                return GpuStorage(self, nbytes)
            except cupy.cuda.memory.OutOfMemoryError:
                raise OutOfMemory from None

    def write(self, address: int, values: HostArray) -> None:
        runtime = cupy.cuda.runtime
        with self.device:
            runtime.memcpyAsync(address, values.ctypes.data, values.nbytes, runtime.memcpyHostToDevice, self.stream.ptr)
            # From pageable memory (type 0) the copy is staged before the call returns; pinned memory is read later.
            if runtime.pointerGetAttributes(values.ctypes.data).type != 0:
                self.stream.synchronize()

    def read(self, address: int, out: HostArray) -> None:
        kind = cupy.cuda.runtime.memcpyDeviceToHost
        with self.device:
            cupy.cuda.runtime.memcpyAsync(out.ctypes.data, address, out.nbytes, kind, self.stream.ptr)
            self.stream.synchronize()

    def copy(self, target: int, source: int, nbytes: int) -> None:
        kind = cupy.cuda.runtime.memcpyDeviceToDevice
        with self.device:
            cupy.cuda.runtime.memcpyAsync(target, source, nbytes, kind, self.stream.ptr)

    def export(self, address: int, shape: tuple[int, ...], dtype: str) -> Any:
        with self.device, self.stream:
            copied = cupy.empty(shape, dtype)
            self.copy(copied.data.ptr, address, copied.nbytes)
        self.stream.synchronize()  # what takes it may look at once, on another stream
        return copied

    def adopt(self, address: int, given: Any) -> None:
        with self.device, self.stream:
            array = cupy.ascontiguousarray(cupy.from_dlpack(given))
            self.copy(address, array.data.ptr, array.nbytes)
        self.stream.synchronize()  # the array may be gone afterwards

    def pinned(self, nbytes: int) -> HostArray:
        with self.device:
            return np.frombuffer(cupy.cuda.alloc_pinned_memory(nbytes), np.uint8, nbytes)

    def upload(self, address: int, values: HostArray, after: Event | None) -> Event:
        with self.device:
            if after is not None:
                self.uploads.wait_event(after)
            kind = cupy.cuda.runtime.memcpyHostToDevice
            cupy.cuda.runtime.memcpyAsync(address, values.ctypes.data, values.nbytes, kind, self.uploads.ptr)
            return self.uploads.record(cupy.cuda.Event(disable_timing=True))

    def mark(self) -> Event:
        with self.device:
            return self.stream.record(cupy.cuda.Event(disable_timing=True))

    def wait(self, event: Event) -> None:
        with self.device:
            self.stream.wait_event(event)

    def finish(self, event: Event) -> None:
        with self.device:
            event.synchronize()

    def function(self, launch: Launch) -> Any:
        if launch.source not in self.kernels:
            with self.device:
                module = cupy.RawModule(code=launch.source, backend="nvrtc", options=("--std=c++14",))
                self.kernels[launch.source] = module.get_function(launch.name)
        return self.kernels[launch.source]

    def launch(self, function: Any, blocks: int, threads: int, pointers: Sequence[int], numbers: Sequence[int]) -> None:
        arguments = (*map(np.uintp, pointers), *map(np.int64, numbers))
        with self.device:
            function((blocks,), (threads,), arguments, stream=self.stream)

    def gemm(self, product: Product) -> None:
        """out = a @ b. cuBLAS works on columns, so outᵀ = bᵀ aᵀ is asked for; a transpose is a flag."""
        kind, compute, scalar = _TYPES[product.dtype]
        if product.tf32 and product.dtype == "float32":
            compute = _COMPUTE_TF32
        a, b, out = product.a, product.b, product.out
        alpha, beta = scalar(product.alpha), scalar(product.beta)
        address, nbytes = product.workspace if product.workspace[1] else (self._spare, SPARE)
        workspace = ctypes.c_void_p(address), ctypes.c_size_t(nbytes)
        _check(self._cublas.cublasSetWorkspace_v2(self._handle, *workspace), "cublasSetWorkspace")
        status = self._cublas.cublasGemmStridedBatchedEx(
            self._handle,
            _CUBLAS_OP[not b.row_major],
            _CUBLAS_OP[not a.row_major],
            out.columns,
            out.rows,
            a.columns,
            ctypes.byref(alpha),
            *_operand(b, kind),
            *_operand(a, kind),
            ctypes.byref(beta),
            *_operand(out, kind),
            product.batch,
            compute,
            -1,
        )
        _check(status, "cublasGemmStridedBatchedEx")

    def capture(self, calls: Sequence[Call]) -> Callable[[], None]:
        """The first run is eager: kernels are compiled and cuBLAS chooses. The second is captured; then each is one launch.

        A run that is interrupted is repeated as it was: eager, or captured anew.
        """
        is_warm = False
        graph: Any = None

        def run() -> None:
            nonlocal is_warm, graph
            with self.device, self.stream:
                if not is_warm:
                    for call in calls:
                        call()
                    is_warm = True
                    return
                if graph is None:
                    graph = self._captured(calls)
                graph.launch(self.stream)

        return run

    def _captured(self, calls: Sequence[Call]) -> Any:
        self.stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
        try:
            for call in calls:
                call()
        except BaseException:
            with suppress(Exception):  # a part of a step is no step, and why it failed is what counts
                self.stream.end_capture()
            raise
        return self.stream.end_capture()

    def synchronize(self) -> None:
        with self.device:
            self.stream.synchronize()

    def free(self) -> int:
        with self.device:
            left: int = cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().free_bytes()
            return left

    def allocated(self) -> int:
        return self.held

    def allocations(self) -> int:
        return self.opened


def _operand(matrix: Matrix, kind: int) -> tuple[Any, ...]:
    return ctypes.c_void_p(matrix.address), kind, matrix.leading, ctypes.c_longlong(matrix.batch_step)


def _cublas() -> ctypes.CDLL:
    """cuBLAS of CuPy's CUDA version, from NVIDIA's wheels or the system, as CuPy itself finds the CUDA libraries."""
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    library, found = None, []
    for load in (_from_pathfinder, lambda: ctypes.CDLL(f"libcublas.so.{major}")):
        try:
            tried = load()
            own = ctypes.c_int()
            _check(tried.cublasGetProperty(0, ctypes.byref(own)), "cublasGetProperty")
            if own.value == major:
                library = tried
                break
            found.append(f"cuBLAS {own.value} where CuPy is for CUDA {major}")
        except Exception as error:  # each way has errors of its own
            found.append(f"{error}")
    if library is None:
        install = f"pip install 'aforo[cuda{major}-ctk]', an extra that brings the CUDA libraries"
        raise Unavailable("CuPy is here, but not cuBLAS, which runs the matrix products", "; ".join(found), install)
    gemm = library.cublasGemmStridedBatchedEx
    operand: list[Any] = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_longlong]
    gemm.argtypes = [
        ctypes.c_void_p, *[ctypes.c_int] * 5, ctypes.c_void_p, *operand, *operand, ctypes.c_void_p, *operand,
        *[ctypes.c_int] * 3,
    ]  # fmt: skip
    return library


def _from_pathfinder() -> ctypes.CDLL:
    from cuda import pathfinder  # type: ignore[import-not-found]  # CuPy depends on it, from version 14 on

    return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)


def _check(status: int, what: str) -> None:
    if status:
        raise RuntimeError(f"{what} failed with status {status}")
