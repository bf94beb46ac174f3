"""The kernels' sources compile for real GPUs with NVIDIA's own compiler, where its wheel is installed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from importlib.metadata import distributions
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import sample_inputs, variable

import aforo as af
import aforo_backends
from aforo.device import device
from aforo.graph import PRIMITIVES, Graph, apply, leaf
from aforo.program import Workspace
from aforo_backends import simulated
from aforo_backends.cuda import CudaBackend
from aforo_backends.source import Launch

ARCHITECTURES = (75, 80, 90, 100)


def _library() -> Any:
    for each in distributions():
        if (each.metadata["Name"] or "").startswith("nvidia-cuda-nvrtc"):
            for file in each.files or ():
                if file.name.startswith("libnvrtc.so"):
                    return ctypes.CDLL(str(file.locate()))
    return None


LIBRARY = _library()
pytestmark = [
    pytest.mark.about_numpy("nothing is run here"),
    pytest.mark.skipif(LIBRARY is None, reason="NVRTC's wheel, nvidia-cuda-nvrtc, is not installed"),
]


class Recorder(simulated.SimulatedDriver):
    """Notes what it is asked to compile, and compiles nothing."""

    def __init__(self) -> None:
        super().__init__(Path())  # where it keeps nothing
        self.sources: dict[str, str] = {}

    def function(self, launch: Launch) -> Any:
        self.sources[launch.name] = launch.source
        return launch


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    made = Recorder()
    monkeypatch.setitem(aforo_backends._created, "simulated:0", CudaBackend(made, simulated.PROFILE))
    yield made


def _compiled(source: str, architecture: int) -> str:
    """The compiler's log if it refuses the source, else nothing."""
    program = ctypes.c_void_p()
    assert LIBRARY.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
    options = [f"--gpu-architecture=sm_{architecture}".encode(), b"--std=c++14", b"-ftz=true"]
    status = LIBRARY.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    LIBRARY.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    LIBRARY.nvrtcGetProgramLog(program, log)
    LIBRARY.nvrtcDestroyProgram(ctypes.byref(program))
    return log.value.decode() or f"status {status}" if status else ""


def _primitives() -> None:
    """Bind a program for every sample of every primitive."""
    number = count()
    for name, record in PRIMITIVES.items():
        for sample in record.samples:
            for dtype in ("float32", "float64"):
                made = [variable(array) for array in sample_inputs(sample, dtype)]
                graph = Graph({"y": apply(name, *map(leaf, made), **sample.attributes)}, {})
                Workspace(device("simulated")).program(f"test{next(number)}", 1, lambda graph=graph: graph)


def _networks() -> None:
    """Bind training steps whose kernels are fused in every way."""
    for activation, optimizer, loss, head in (
        ("relu", "sgd", "sparse_categorical_crossentropy", "softmax"),
        ("gelu", "adam", "mse", None),
        ("elu", af.SGD(momentum=0.9, nesterov=True, global_clipnorm=1.0), "binary_crossentropy", "sigmoid"),
    ):
        model = af.Sequential([af.Dense(16, activation, input_shape=[6]), af.Dropout(0.3), af.BatchNormalization()])
        for layer in (af.LayerNormalization(), af.Dense(3, head)):
            model.add(layer)
        model.compile(loss=loss, optimizer=optimizer, metrics="accuracy" if head == "softmax" else None)
        model.to("simulated")
        model.graph("training")
        model.program("training", 40)
        model.program("training", 3000)


def test_every_kernel_compiles_for_every_generation_of_gpus(recorder: Recorder) -> None:
    _primitives()
    _networks()
    assert len(recorder.sources) > 60
    everything = "\n".join(recorder.sources.values())
    for architecture in ARCHITECTURES:
        log = _compiled(everything, architecture)
        assert not log, f"sm_{architecture}:\n{log[:2000]}"


def test_a_kernel_that_does_not_compile_is_noticed() -> None:
    assert "undefined" in _compiled('extern "C" __global__ void f(float* x) { x[0] = INFINITY_OF(x[1]); }', 90)


def test_names_of_kernels_differ_when_their_sources_do(recorder: Recorder) -> None:
    _networks()
    assert len(set(recorder.sources.values())) == len(recorder.sources)
    assert all(np.char.isalnum(name.replace("_", "")) for name in recorder.sources)
