"""The generated CUDA kernels, compiled for the host by the system's C++ compiler and kept by their source."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .contract import Unavailable
from .source import Launch

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


def kept() -> Path:
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


class NotMade(RuntimeError):
    """Kernels that do not compile, and those that waited with them."""

    def __init__(self, kernels: list[Kernel], log: str) -> None:
        super().__init__(f"kernels do not compile:\n{log}")
        self.kernels = kernels


class HostKernels:
    """The kernels of a process. They are compiled when one of them has to run, all in one go that wait for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kernels: dict[str, Kernel] = {}
        self._waiting: list[Kernel] = []
        self._libraries: dict[str, ctypes.CDLL] = {}

    def of(self, launch: Launch) -> Kernel:
        if launch.source not in self._kernels:
            self._kernels[launch.source] = Kernel(launch)
            self._waiting.append(self._kernels[launch.source])
        return self._kernels[launch.source]

    def make(self) -> None:
        """Compile what waits for it; what earlier processes made is found by its source. Raises NotMade."""
        if not self._waiting:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        waiting, self._waiting = self._waiting, []
        if not self._libraries:
            name = self._library(_RUNTIME, waiting)
            self._libraries[name] = ctypes.CDLL(str(self._folder / name), mode=ctypes.RTLD_GLOBAL)
        new = [kernel for kernel in waiting if not self._is_made(kernel)]
        if new:
            library = self._library(_SHIM + "".join(kernel.text() for kernel in new), waiting)
            for kernel in new:  # one after the other, whole: other processes look for them meanwhile
                note = self._folder / f"{kernel.key}.{os.getpid()}"
                note.write_text(library)
                note.replace(self._folder / kernel.key)
        for kernel in waiting:
            library = (self._folder / kernel.key).read_text()
            if library not in self._libraries:
                self._libraries[library] = ctypes.CDLL(str(self._folder / library))
            kernel.bind(self._libraries[library])

    def _library(self, source: str, waiting: list[Kernel]) -> str:
        """The file of the library that a source makes, compiled unless an earlier process did."""
        name = hashlib.blake2b(source.encode(), digest_size=16).hexdigest() + ".so"
        if not (self._folder / name).exists():
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                text, made = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
                text.write_text(source)
                options = ["-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off", "-U_FORTIFY_SOURCE"]
                done = subprocess.run([str(compiler()), *options, "-o", str(made), str(text)], capture_output=True, text=True)
                if done.returncode:
                    for kernel in waiting:
                        self._kernels.pop(kernel.launch.source, None)
                    raise NotMade(waiting, done.stderr)
                made.replace(self._folder / name)
        return name

    def _is_made(self, kernel: Kernel) -> bool:
        """Whether an earlier process compiled it, and nobody has tidied that away."""
        note = self._folder / kernel.key
        return note.exists() and (self._folder / note.read_text()).exists()
