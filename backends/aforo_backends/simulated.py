"""The CUDA backend on a pretend driver, for machines without a GPU.

It has its own memory, poisoned with NaN and counted in 512-byte blocks; queues work and runs it when someone waits; enforces
the rules of graph capture; and really runs the generated kernels, through the system's C++ compiler. It cannot show races,
faults of alignment, or speed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from sys import is_finalizing
from threading import RLock
from typing import Any

import numpy as np

from .contract import Backend, OutOfMemory, Unavailable, round_up
from .cuda import CudaBackend, profile
from .driver import Call, HostArray, Matrix, Product, in_turn
from .hosted import HostKernels, Kernel, NotMade, compiler, kept
from .source import Launch

PROFILE = profile("simulated")
INDEXED = True
DEVICES = 2


def create(index: int = 0) -> Backend:
    if index >= DEVICES:
        found = ", ".join(f"simulated:{i}" for i in range(DEVICES))
        raise Unavailable(f"there is no device simulated:{index}", found, 'model.to("simulated:0")')
    if compiler() is None:
        raise Unavailable(
            "the simulated device runs its kernels through a C++ compiler",
            "none of g++, clang++ and c++",
            "install one, e.g. apt-get install g++",
        )
    return CudaBackend(SimulatedDriver(kept()), PROFILE)


class Block:
    """Device memory: apart from everything else, and full of NaN."""

    __slots__ = ("_driver", "address", "memory", "nbytes")

    def __init__(self, driver: SimulatedDriver, nbytes: int) -> None:
        self.nbytes = round_up(nbytes, PROFILE.rounding)
        freed = driver.freed.get(self.nbytes)
        if freed:
            self.memory = memory = freed.pop()
            driver.queue.append(lambda: ctypes.memset(memory, 0xFF, len(memory)))
        else:
            self.memory = ctypes.create_string_buffer(self.nbytes + 512)
            ctypes.memset(self.memory, 0xFF, self.nbytes + 512)
        self.address = round_up(ctypes.addressof(self.memory), 512)
        self._driver = driver
        driver.held += self.nbytes
        driver.opened += 1

    def __del__(self) -> None:
        if is_finalizing is None or is_finalizing():
            return  # the process ends, and what this needs may be gone
        # As from CuPy's pool: the next block of this size may have it at once, though what is queued still uses it. That is
        # in order for the stream of the steps, and for no other.
        if self._driver.queue or self._driver.uploads or self._driver.captured is not None:
            self._driver.freed.setdefault(self.nbytes, []).append(self.memory)
        with self._driver.lock:
            self._driver.held -= self.nbytes


class Happening:
    """An event: something in one stream that the other, or the host, may wait for."""

    def __init__(self) -> None:
        self.happened = False

    def happen(self) -> None:
        self.happened = True

    def awaited(self) -> None:
        assert self.happened


def _stuck(call: Call) -> bool:
    event = getattr(call, "__self__", None)
    return isinstance(event, Happening) and call == event.awaited and not event.happened


@in_turn
class SimulatedDriver:
    """`limit`: the bytes it has. Counters: kernels (runs of a kernel), launches (kernels and graphs that were launched),
    captures, and bytes that came from the host."""

    def __init__(self, folder: Path) -> None:
        self.lock = RLock()
        self.limit: int | None = None
        self.held = 0
        self.opened = 0
        self.kernels = 0
        self.launches = 0
        self.captures = 0
        self.received = 0
        self.queue: list[Call] = []
        self.uploads: list[Call] = []
        self._random = Random(0)
        self.captured: list[Call] | None = None
        self.freed: dict[int, list[Any]] = {}  # memory that nobody holds, by its size, until what is queued has run
        self._kernels = HostKernels(folder)

    def _forbid_in_capture(self, what: str) -> None:
        if self.captured is not None:
            raise RuntimeError(f"{what} is not allowed while a graph is captured")

    def _enqueue(self, call: Call) -> None:
        (self.queue if self.captured is None else self.captured).append(call)

    def alloc(self, nbytes: int) -> Block:
        self._forbid_in_capture("an allocation")
        if self.limit is not None and self.held + round_up(nbytes, PROFILE.rounding) > self.limit:
            raise OutOfMemory
        return Block(self, nbytes)

    def write(self, address: int, values: HostArray) -> None:
        self._forbid_in_capture("a copy from the host")
        self.received += values.nbytes
        staged = np.ascontiguousarray(values).tobytes()  # as from pinned memory: later changes to the source are not seen
        self._enqueue(lambda: ctypes.memmove(address, staged, len(staged)))

    def read(self, address: int, out: HostArray) -> None:
        self._forbid_in_capture("a copy to the host")
        self.synchronize()
        ctypes.memmove(out.ctypes.data, address, out.nbytes)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self._enqueue(lambda: ctypes.memmove(target, source, nbytes))

    def export(self, address: int, shape: tuple[int, ...], dtype: str) -> HostArray:
        raise BufferError("the simulated device is no device that other libraries know")

    def adopt(self, address: int, given: Any) -> None:
        raise BufferError("the simulated device is no device that other libraries know")

    def pinned(self, nbytes: int) -> HostArray:
        self._forbid_in_capture("an allocation")
        return np.full(nbytes, 0xFF, np.uint8)

    def upload(self, address: int, values: HostArray, after: Happening | None) -> Happening:
        """Read at its turn, not now, as pinned memory is."""
        self._forbid_in_capture("a copy from the host")
        done = Happening()
        self.received += values.nbytes
        if after is not None:
            self.uploads.append(after.awaited)

        def run() -> None:
            ctypes.memmove(address, values.ctypes.data, values.nbytes)
            done.happened = True

        self.uploads.append(run)
        return done

    def mark(self) -> Happening:
        self._forbid_in_capture("a mark")
        reached = Happening()
        self.queue.append(reached.happen)
        return reached

    def wait(self, event: Happening) -> None:
        self._forbid_in_capture("waiting")
        self.queue.append(event.awaited)

    def finish(self, event: Happening) -> None:
        self._forbid_in_capture("waiting")
        if not event.happened:
            self._advance(event)

    def function(self, launch: Launch) -> Kernel:
        self._forbid_in_capture("a compilation")
        return self._kernels.of(launch)

    def launch(self, function: Kernel, blocks: int, threads: int, pointers: Sequence[int], numbers: Sequence[int]) -> None:
        if self.captured is None:
            self.launches += 1

        def run() -> None:
            self.kernels += 1
            function.entry(blocks, threads, *pointers, *numbers)

        run.kernel = function  # type: ignore[attr-defined]  # so that what cannot be made can be taken back
        self._enqueue(run)

    def gemm(self, product: Product) -> None:
        """The pretend cuBLAS: NumPy on device memory."""
        if self.captured is None:
            self.launches += 1

        def run() -> None:
            self.kernels += 1
            with np.errstate(all="ignore"):
                a, b, out = (_window(matrix, product) for matrix in (product.a, product.b, product.out))
                made = np.matmul(*(map(_as_tf32, (a, b)) if product.tf32 else (a, b)))
                out[...] = made if (product.alpha, product.beta) == (1.0, 0.0) else product.alpha * made + product.beta * out
                workspace = (ctypes.c_char * product.workspace[1]).from_address(product.workspace[0])
                ctypes.memset(workspace, 0xFF, product.workspace[1])  # whatever was there is lost

        self._enqueue(run)

    def capture(self, calls: Sequence[Call]) -> Callable[[], None]:
        """The first run is eager, as a warm-up; the second is captured; every other one is a single launch.

        A run that is interrupted is repeated as it was: eager, or captured anew.
        """
        is_warm = False
        graph: list[Call] | None = None

        def run() -> None:
            nonlocal is_warm, graph
            if not is_warm:
                for call in calls:
                    call()
                is_warm = True
                return
            if graph is None:
                captured: list[Call] = []
                self.captured = captured
                try:
                    for call in calls:
                        call()
                finally:
                    self.captured = None
                graph = captured
                self.captures += 1
            self.launches += 1
            self.queue.extend(graph)

        return run

    def synchronize(self) -> None:
        self._forbid_in_capture("waiting")
        self._advance(None)

    def _advance(self, until: Happening | None) -> None:
        """Run what is queued, now from one stream, now from the other: whatever nobody keeps in order goes wrong."""
        try:
            self._kernels.make()
        except NotMade as error:
            self.queue = [call for call in self.queue if getattr(call, "kernel", None) not in error.kernels]
            raise
        while (self.queue or self.uploads) and not (until is not None and until.happened):
            for stream in self._random.sample((self.uploads, self.queue), 2):
                if stream and not _stuck(stream[0]):
                    stream.pop(0)()
                    break
            else:
                raise RuntimeError("two streams wait for one another")
        if not self.queue and not self.uploads:
            self.freed.clear()

    def free(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.held)

    def allocated(self) -> int:
        return self.held

    def allocations(self) -> int:
        return self.opened


def _as_tf32(values: HostArray) -> HostArray:
    """float32 values with the ten bits of mantissa that TF32 keeps, rounded to nearest."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded: HostArray = ((bits + 0x0FFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32)
    return rounded


def _window(matrix: Matrix, product: Product) -> HostArray:
    """Device memory as NumPy sees it: only the driver may."""
    item = np.dtype(product.dtype).itemsize
    steps = (matrix.leading, 1) if matrix.row_major else (1, matrix.leading)
    shape = (product.batch, matrix.rows, matrix.columns)
    reach = matrix.batch_step * (product.batch - 1) + steps[0] * (matrix.rows - 1) + steps[1] * (matrix.columns - 1) + 1
    block: Any = (ctypes.c_char * (reach * item)).from_address(matrix.address)
    window: HostArray = np.ndarray(shape, product.dtype, block, 0, (matrix.batch_step * item, steps[0] * item, steps[1] * item))
    return window
