"""What CUDA is asked for: memory, copies, kernels, matrix products and graphs. One driver is CuPy's, one pretends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol

import numpy as np

from .source import Launch

Call = Callable[[], object]
HostArray = np.ndarray[Any, Any]
Event = Any  # a driver's own
SPARE = 65_536  # bytes a driver keeps for products that plan no workspace: without any, cuBLAS would allocate within a capture


class DeviceStorage(Protocol):
    """A block of device memory."""

    address: int
    nbytes: int


class Driver(Protocol):
    """What the backend asks of CUDA.

    Everything but `alloc` and `read` is queued on one stream; `upload` on another, which the two of `mark` and `wait` keep in
    order. An upload reads pinned memory when its turn comes: `finish` says when that has been.
    """

    def alloc(self, nbytes: int) -> DeviceStorage: ...
    def write(self, address: int, values: HostArray) -> None: ...
    def read(self, address: int, out: HostArray) -> None: ...
    def copy(self, target: int, source: int, nbytes: int) -> None: ...
    def function(self, launch: Launch) -> Any: ...
    def launch(self, function: Any, blocks: int, threads: int, pointers: Sequence[int], numbers: Sequence[int]) -> None: ...
    def gemm(self, product: Product) -> None: ...
    def export(self, address: int, shape: tuple[int, ...], dtype: str) -> Any: ...
    def adopt(self, address: int, given: Any) -> None: ...
    def pinned(self, nbytes: int) -> HostArray: ...
    def upload(self, address: int, values: HostArray, after: Event | None) -> Event: ...
    def mark(self) -> Event: ...
    def wait(self, event: Event) -> None: ...
    def finish(self, event: Event) -> None: ...
    def capture(self, calls: Sequence[Call]) -> Callable[[], None]: ...
    def synchronize(self) -> None: ...
    def free(self) -> int | None: ...
    def allocated(self) -> int: ...
    def allocations(self) -> int: ...


@dataclass(frozen=True)
class Matrix:
    """A batch of matrices in device memory: its address, whether its rows run along memory, and steps in elements."""

    address: int
    rows: int
    columns: int
    row_major: bool
    leading: int
    batch_step: int


@dataclass(frozen=True)
class Product:
    """out[i] = alpha · a[i] @ b[i] + beta · out[i] for i below `batch`. cuBLAS works in `workspace`: address, bytes;
    of 0 bytes, in what the driver keeps."""

    a: Matrix
    b: Matrix
    out: Matrix
    batch: int
    dtype: str
    workspace: tuple[int, int]
    tf32: bool = False
    alpha: float = 1.0
    beta: float = 0.0


def in_turn(cls: type[Any]) -> type[Any]:
    """A driver's class whose calls wait for one another: models on one device may run in different threads."""

    def locked(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(self: Any, *arguments: Any) -> Any:
            with self.lock:
                return method(self, *arguments)

        return call

    for name in ("alloc", "write", "read", "copy", "export", "adopt", "upload", "mark", "wait", "finish", "function", "launch",
                 "gemm", "synchronize"):  # fmt: skip
        setattr(cls, name, locked(getattr(cls, name)))
    capture = cls.capture

    def captured(self: Any, calls: Sequence[Call]) -> Callable[[], None]:
        run = capture(self, calls)

        def locked_run() -> None:
            with self.lock:
                run()

        return locked_run

    cls.capture = captured
    return cls
