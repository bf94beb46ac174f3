"""The CUDA backend on a pretend driver, for machines without a GPU.

It has its own memory, poisoned with NaN and counted in 512-byte blocks; queues work and runs it when someone waits; enforces
the rules of graph capture; and really runs the generated kernels, through the system's C++ compiler. It cannot show races,
faults of alignment, or speed.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
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
from .source import Launch

PROFILE = profile("simulated")
INDEXED = True
DEVICES = 2

# What all kernels share: where in the grid they are, and the threads of a block. A kernel that waits for its block runs as
# fibres, in turn, from barrier to barrier; they are made once, and change places without a system call.
_RUNTIME = r"""
#include <setjmp.h>
#include <ucontext.h>
struct dim { unsigned int x; };
extern "C" {
dim blockIdx, threadIdx, blockDim, gridDim;
static ucontext_t beginning, fibre;
static jmp_buf scheduler, fibres[1024];
static bool finished[1024];
static char stacks[1024][65536];
static volatile int running, made, waiting;
static void (*kernel)();
void __syncthreads() {
    if (!_setjmp(fibres[running])) _longjmp(scheduler, 1);
    threadIdx.x = running;
}
static void live() {
    for (;;) {
        kernel();
        finished[running] = true;
        if (!_setjmp(fibres[running])) _longjmp(scheduler, 1);
    }
}
void run_block(void (*body)(), int threads) {
    kernel = body;
    for (int t = 0; t < threads; t++) finished[t] = false;
    do {
        waiting = 0;
        for (running = 0; running < threads; running = running + 1) if (!finished[running]) {
            threadIdx.x = running;
            if (!_setjmp(scheduler)) {
                if (running < made) _longjmp(fibres[running], 1);
                made = running + 1;
                getcontext(&fibre);
                fibre.uc_stack.ss_sp = stacks[running];
                fibre.uc_stack.ss_size = sizeof stacks[running];
                fibre.uc_link = &beginning;
                makecontext(&fibre, live, 0);
                swapcontext(&beginning, &fibre);
            }
            if (!finished[running]) waiting = 1;
        }
    } while (waiting);
}
}
"""
# What CUDA gives a kernel. No header is read: that is most of the time a small compilation takes.
_SHIM = r"""
struct dim { unsigned int x; };
extern "C" {
extern dim blockIdx, threadIdx, blockDim, gridDim;
void __syncthreads();
void run_block(void (*body)(), int threads);
}
#define __global__
#define __shared__ static
static inline float __int_as_float(int i) { float f; __builtin_memcpy(&f, &i, 4); return f; }
static inline double __longlong_as_double(long long i) { double d; __builtin_memcpy(&d, &i, 8); return d; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
static inline float pow(float a, float b) { return __builtin_powf(a, b); }
static inline double pow(double a, double b) { return __builtin_pow(a, b); }
""" + "".join(
    f"static inline float {name}(float a) {{ return __builtin_{name}f(a); }}\n"
    f"static inline double {name}(double a) {{ return __builtin_{name}(a); }}\n"
    for name in ("exp", "log", "log1p", "sqrt", "tanh", "erf", "sin", "cos", "tan", "fabs", "floor")
)
_FIBRES = """
namespace at_{key} {{
static {arguments_struct}
static void body() {{ {name}({uses}); }}
extern "C" void enter_{key}(unsigned int blocks, unsigned int threads{parameters}) {{
    {stores}
    gridDim.x = blocks; blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) run_block(body, threads);
}}
}}
"""
_LOOP = """
extern "C" void enter_{key}(unsigned int blocks, unsigned int threads{parameters}) {{
    gridDim.x = blocks; blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) {name}({uses});
}}
"""


def compiler() -> str | None:
    """The system's C++ compiler."""
    return shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")


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
    return CudaBackend(SimulatedDriver(_folder()), PROFILE)


def _folder() -> Path:
    """Where compiled kernels are kept, for this process and later ones. They are code: nobody else may have put them there."""
    folder = Path(os.environ.get("AFORO_KERNELS") or Path(tempfile.gettempdir()) / f"aforo-kernels-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = None if os.access(folder, os.W_OK | os.X_OK) else "it cannot be written"
        if folder.stat().st_uid != os.getuid():
            found = "it belongs to another user"
    except OSError as error:
        found = str(error)
    if found is not None:
        raise Unavailable(f"compiled kernels cannot be kept in {folder}", found, "set AFORO_KERNELS to a folder of your own")
    return folder


class Block:
    """Device memory: apart from everything else, and full of NaN."""

    __slots__ = ("_driver", "address", "memory", "nbytes")

    def __init__(self, driver: SimulatedDriver, nbytes: int) -> None:
        self.nbytes = round_up(nbytes, PROFILE.rounding)
        self.memory = ctypes.create_string_buffer(self.nbytes + 512)
        ctypes.memset(self.memory, 0xFF, self.nbytes + 512)
        self.address = round_up(ctypes.addressof(self.memory), 512)
        self._driver = driver
        driver.held += self.nbytes
        driver.opened += 1

    def __del__(self) -> None:
        if is_finalizing is None or is_finalizing():
            return  # the process ends, and what this needs may be gone
        # What is queued may still use this memory, as on a GPU, where the pool keeps order for the stream.
        if self._driver.captured is not None:
            self._driver.kept.append(self.memory)  # collected during a capture, where nobody may wait
        elif self._driver.queue or self._driver.uploads:
            self._driver.synchronize()
        with self._driver.lock:
            self._driver.held -= self.nbytes


class Kernel:
    """A kernel, and its entry once it is compiled."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.key = hashlib.blake2b((_RUNTIME + _SHIM + _FIBRES + _LOOP + launch.source).encode(), digest_size=16).hexdigest()
        self.entry: Any = None

    def text(self) -> str:
        """The kernel as it is, and a function that runs it for every thread of every block."""
        source = self.launch.source
        declared = [part.strip() for part in source.split("(", 1)[1].split(")", 1)[0].split(",")]
        names = [part.split()[-1].lstrip("*") for part in declared]
        parts = {"key": self.key, "name": self.launch.name, "parameters": "".join(f", {part}" for part in declared)}
        if "__syncthreads" not in source:
            return source + _LOOP.format(**parts, uses=", ".join(names))
        return source + _FIBRES.format(
            **parts,
            arguments_struct=f"struct {{ {' '.join(f'{part};' for part in declared)} }} given;",
            stores=" ".join(f"given.{name} = {name};" for name in names),
            uses=", ".join(f"given.{name}" for name in names),
        )

    def bind(self, library: ctypes.CDLL) -> None:
        self.entry = getattr(library, f"enter_{self.key}")
        pointers, numbers = len(self.launch.operands), len(self.launch.numbers)
        self.entry.argtypes = [ctypes.c_uint] * 2 + [ctypes.c_void_p] * pointers + [ctypes.c_longlong] * numbers
        self.entry.restype = None


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
        self.kept: list[Any] = []  # memory that nobody holds, until what is queued has run
        self._kernels: dict[str, Kernel] = {}
        self._waiting: list[Kernel] = []
        self._libraries: dict[str, ctypes.CDLL] = {}
        self._folder = folder

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
        if launch.source not in self._kernels:
            self._kernels[launch.source] = Kernel(launch)
            self._waiting.append(self._kernels[launch.source])
        return self._kernels[launch.source]

    def _library(self, source: str) -> str:
        """The file of the library that a source makes, compiled unless an earlier process did."""
        name = hashlib.blake2b(source.encode(), digest_size=16).hexdigest() + ".so"
        if not (self._folder / name).exists():
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                text, made = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
                text.write_text(source)
                options = ["-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off", "-U_FORTIFY_SOURCE"]
                done = subprocess.run([str(compiler()), *options, "-o", str(made), str(text)], capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(f"kernels do not compile:\n{done.stderr}")
                made.replace(self._folder / name)
        return name

    def _is_made(self, kernel: Kernel) -> bool:
        """Whether an earlier process compiled it, and nobody has tidied that away."""
        note = self._folder / kernel.key
        return note.exists() and (self._folder / note.read_text()).exists()

    def _compile(self) -> None:
        """Compile the kernels that wait for it, all in one go; those of earlier processes are found by their source."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._libraries:
            name = self._library(_RUNTIME)
            self._libraries[name] = ctypes.CDLL(str(self._folder / name), mode=ctypes.RTLD_GLOBAL)
        waiting, self._waiting = self._waiting, []
        new = [kernel for kernel in waiting if not self._is_made(kernel)]
        if new:
            try:
                library = self._library(_SHIM + "".join(kernel.text() for kernel in new))
            except RuntimeError:
                for kernel in waiting:
                    self._kernels.pop(kernel.launch.source, None)
                self.queue = [call for call in self.queue if getattr(call, "kernel", None) not in waiting]
                raise
            for kernel in new:  # one after the other, whole: other processes look for them meanwhile
                note = self._folder / f"{kernel.key}.{os.getpid()}"
                note.write_text(library)
                note.replace(self._folder / kernel.key)
        for kernel in waiting:
            library = (self._folder / kernel.key).read_text()
            if library not in self._libraries:
                self._libraries[library] = ctypes.CDLL(str(self._folder / library))
            kernel.bind(self._libraries[library])

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
        """The first run is eager, as a warm-up; the second is captured; every other one is a single launch."""
        runs = 0
        graph: list[Call] = []

        def run() -> None:
            nonlocal runs
            runs += 1
            if runs == 1:
                for call in calls:
                    call()
                return
            if runs == 2:
                self.captured = []
                try:
                    for call in calls:
                        call()
                    graph.extend(self.captured)
                finally:
                    self.captured = None
                self.captures += 1
            self.launches += 1
            self.queue.extend(graph)

        return run

    def synchronize(self) -> None:
        self._forbid_in_capture("waiting")
        self._advance(None)

    def _advance(self, until: Happening | None) -> None:
        """Run what is queued, now from one stream, now from the other: whatever nobody keeps in order goes wrong."""
        if self._waiting:
            self._compile()
        while (self.queue or self.uploads) and not (until is not None and until.happened):
            for stream in self._random.sample((self.uploads, self.queue), 2):
                if stream and not _stuck(stream[0]):
                    stream.pop(0)()
                    break
            else:
                raise RuntimeError("two streams wait for one another")
        if not self.queue and not self.uploads:
            self.kept.clear()

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
