"""Devices: names, absence, moving, and the CUDA path on its pretend driver."""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from helpers import sample_inputs, twin, variable
from nets import ON_HOST

import aforo as af
import aforo_backends
from aforo import device as devices
from aforo.graph import PRIMITIVES, Graph, Primitive, Sample, apply, leaf
from aforo.program import Workspace
from aforo_backends import simulated
from aforo_backends.contract import Instruction, View
from aforo_backends.driver import SPARE

LEAVES = {"variable", "constant", "iota", "ones"}
needs_compiler = pytest.mark.skipif(simulated.compiler() is None, reason="the simulated device needs a C++ compiler")
CASES = [(record, sample) for name, record in PRIMITIVES.items() if name not in LEAVES for sample in record.samples]


def driver() -> Any:
    return aforo_backends.load("simulated").driver  # type: ignore[attr-defined]


def data(rows: int = 40) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(rows, 6)).astype("float32"), rng.integers(0, 3, rows)


def network(optimizer: Any = "sgd", extra: Sequence[Any] = ()) -> af.Sequential:
    af.set_seed(1)
    layers = [
        af.Dense(16, activation="tanh"),
        *(make() for make in extra),
        af.LayerNormalization(),
        af.Dense(8, activation="relu"),
    ]
    model = af.Sequential([*layers, af.Dense(3, activation="softmax")])
    model.build((None, 6))
    model.compile(loss="sparse_categorical_crossentropy", optimizer=optimizer, metrics=["accuracy", "precision"])
    return model


# --- names and absence ------------------------------------------------------------------------------------------------


def test_names_have_aliases_and_suggestions():
    assert str(devices.device("GPU")) == "cuda" and str(devices.device("cuda:1")) == "cuda:1"
    assert devices.device("cuda:0") is devices.device("cuda")
    with pytest.raises(af.Error, match="did you mean 'cuda'"):
        devices.device("cuad")


def test_every_device_says_whether_it_is_here_and_why_not():
    found = af.devices()
    assert list(found)[:3] == ["cpu", "cuda", "simulated"] and found["cpu"] == "available"
    assert all(state == "available" or "(" in state for state in found.values())


class _Runtime:
    """CuPy's runtime, as it answers on machines that differ."""

    class CUDARuntimeError(Exception):
        pass

    def __init__(self, count: int | None, driver: int, built: int = 13000) -> None:
        self.count, self.driver, self.built = count, driver, built

    def getDeviceCount(self) -> int:
        if self.count is None:
            raise self.CUDARuntimeError("cudaErrorInsufficientDriver")
        return self.count

    def driverGetVersion(self) -> int:
        return self.driver

    def runtimeGetVersion(self) -> int:
        return self.built

    def getDeviceProperties(self, index: int) -> dict[str, bytes]:
        return {"name": b"A GPU"}


@pytest.mark.parametrize(
    ("runtime", "name", "said"),
    [
        (None, "cuda", r"CuPy, which runs Aforo on CUDA, is not installed(.|\n)*aforo\[cuda12\]"),
        (_Runtime(None, 0), "cuda", "no NVIDIA GPU, or no driver"),
        (_Runtime(None, 12040), "cuda", r"different CUDA versions(.|\n)*CUDA 13, a driver for CUDA 12\.4"),
        (_Runtime(1, 13000), "cuda:1", r"no device cuda:1(.|\n)*cuda:0 \(A GPU\)"),
    ],
)
def test_four_causes_of_absence_are_told_apart_and_nothing_moves(monkeypatch, runtime, name, said):
    import sys
    from types import ModuleType

    fake: Any = None
    if runtime is not None:
        fake = ModuleType("cupy")
        fake.cuda = ModuleType("cupy.cuda")
        fake.cuda.runtime = runtime
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(aforo_backends, "_created", {})
    model = network()
    before = model.get_weights()
    with pytest.raises(RuntimeError, match=said) as caught:
        model.to(name)
    assert isinstance(caught.value, af.Error) and "fix:" in str(caught.value)
    assert model.device == "cpu" and all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    model.train_on_batch(*data())


def test_without_a_compiler_the_simulated_device_says_so(monkeypatch):
    monkeypatch.setattr(simulated, "compiler", lambda: None)
    monkeypatch.setattr(aforo_backends, "_created", {})
    with pytest.raises(RuntimeError, match=r"C\+\+ compiler(.|\n)*g\+\+"):
        network().to("simulated")


def test_a_plan_for_cuda_is_made_without_it():
    model = network(af.SGD(momentum=0.9))
    assert model.memory(32, device="cuda").total_bytes % 512 == 0
    assert model.memory(32, device="cuda").total_bytes > model.memory(32).total_bytes or not ON_HOST


# --- the pretend driver -----------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("record", "sample"), CASES, ids=[f"{r.name}-{i}" for i, (r, _) in enumerate(CASES)])
def test_every_primitive_runs_as_a_kernel_and_equals_numpy(record: Primitive, sample: Sample, dtype: str):
    arrays = sample_inputs(sample, dtype)
    made = [variable(array) for array in arrays]
    graph = Graph({"y": apply(record.name, *map(leaf, made), **sample.attributes)}, {})
    program = Workspace(devices.device("simulated")).program("test", 1, lambda: graph)
    for each, array in zip(made, arrays, strict=True):
        devices.write(each, np.asarray(array, each.dtype), devices.device("simulated"))
    program.run()
    found = aforo_backends.load("simulated").copy_out(program.outputs["y"])
    exact = [a.astype("float64") if a.dtype.kind == "f" else a for a in arrays]
    expected = np.asarray(twin(record.name)(*exact, **sample.attributes))
    tolerance = 64 * np.finfo(found.dtype).eps if found.dtype.kind == "f" else 0
    if "float32" in (dtype, found.dtype.name) and found.dtype.kind == "f":
        tolerance = 64 * np.finfo("float32").eps
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@needs_compiler
@pytest.mark.parametrize("shape", [(3, 5), (70, 300), (3000, 4), (1, 2500)])
@pytest.mark.parametrize("op", ["sum", "amax"])
def test_reductions_of_every_size_equal_numpy(op: str, shape: tuple[int, int]):
    values = np.random.default_rng(0).normal(size=shape)
    for axes in ((0,), (1,), (0, 1)):
        x = af.tensor(values, dtype="float64", device="simulated")
        found = {"sum": af.ops.sum, "amax": af.ops.max}[op](x, axes).numpy()
        np.testing.assert_allclose(found, {"sum": np.sum, "amax": np.max}[op](values, axis=axes), rtol=1e-11, atol=1e-11)


@needs_compiler
@pytest.mark.parametrize("optimizer", ["sgd", af.SGD(momentum=0.9, nesterov=True), "rmsprop", "adagrad", "adam"])
def test_twelve_steps_equal_the_cpus_also_when_moved_in_the_middle(optimizer):
    x, y = data()
    here, there = network(optimizer, [lambda: af.Dropout(0.3)]), network(optimizer, [lambda: af.Dropout(0.3)]).to("simulated")
    assert all((a == b).all() for a, b in zip(here.get_weights(), there.get_weights(), strict=True))
    for step in range(12):
        assert here.train_on_batch(x, y) == pytest.approx(there.train_on_batch(x, y), rel=1e-5)
        if step == 4:
            there.to("cpu")
        if step == 8:
            there.to("simulated")
    for a, b in zip(here.get_weights(), there.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(here.predict(x), there.predict(x), atol=1e-5)


@needs_compiler
def test_dropout_masks_are_equal_bit_for_bit():
    x = np.ones((50, 37), "float32")

    def masked(name: str) -> Any:
        af.set_seed(4)
        return af.Dropout(0.5)(af.tensor(x, device=name), training=True)

    here, there = masked("cpu").numpy(), masked("simulated").numpy()
    assert (here == there).all() and 0.4 < (here == 0).mean() < 0.6


@needs_compiler
@pytest.mark.parametrize("optimizer", ["sgd", af.SGD(momentum=0.9), "adam"])
def test_planned_bytes_are_what_the_pool_holds_and_a_step_allocates_nothing(optimizer):
    x, y = data()
    model = network(optimizer, [lambda: af.Dropout(0.2), af.BatchNormalization])
    planned = model.memory(40, device="simulated")
    assert planned.total_bytes == model.memory(40, device="cuda").total_bytes == sum(n for _, n in planned.parts())
    model.to("simulated")
    gc.collect()  # what other tests left behind
    before = af.memory.allocated("simulated")
    model.train_on_batch(x, y)
    assert af.memory.allocated("simulated") - before == planned.total_bytes
    made = af.memory.allocations("simulated")
    for rows in (40, 40, 7, 40):
        model.train_on_batch(x[:rows], y[:rows])
    assert af.memory.allocations("simulated") == made


@needs_compiler
def test_a_replayed_step_is_one_launch_of_many_kernels():
    x, y = data()
    model = network().to("simulated")
    for _ in range(3):
        model.train_on_batch(x, y)
    program = model.program("training", 40)
    driver().synchronize()
    launches, kernels = driver().launches, driver().kernels
    program.run()
    assert driver().kernels == kernels, "work is queued, and runs when someone waits"
    driver().synchronize()
    assert driver().launches == launches + 1
    assert driver().kernels - kernels > 20


@needs_compiler
def test_device_memory_is_poisoned_apart_and_unreadable():
    backend = aforo_backends.load("simulated")
    storage = backend.open(40)
    assert storage.nbytes == 512
    array = backend.view(storage, View(0, (10,), (4,), "float32"))
    assert np.isnan(backend.copy_out(array)).all()
    with pytest.raises(TypeError, match="device memory"):
        np.asarray(array)


@needs_compiler
def test_a_capture_refuses_allocations_copies_and_waiting():
    backend = aforo_backends.load("simulated")
    storage = backend.open(512)
    array = backend.view(storage, View(0, (4,), (4,), "float32"))
    for forbidden in (
        lambda: backend.open(8),
        lambda: backend.copy_in(array, 1.0),
        lambda: backend.copy_out(array),
        backend.synchronize,
    ):
        run = backend.program([forbidden])
        run()  # eagerly, anything goes
        with pytest.raises(RuntimeError, match="while a graph is captured"):
            run()


@needs_compiler
def test_a_strided_view_is_copied_in_and_out_of_device_memory():
    backend = aforo_backends.load("simulated")
    storage = backend.open(96)
    whole = backend.view(storage, View(0, (4, 6), (24, 4), "float32"))
    values = np.arange(24, dtype="float32").reshape(4, 6)
    backend.copy_in(whole, values)
    part = backend.view(storage, View(4, (2, 3), (48, 8), "float32"))
    assert (backend.copy_out(part) == values[::2, 1::2]).all()
    target = backend.view(backend.open(24), View(0, (2, 3), (12, 4), "float32"))
    backend.copy(target, part)
    assert (backend.copy_out(target) == values[::2, 1::2]).all()
    assert backend.compile(Instruction("copy", (part.view,), (target.view,)), [part], [target], [])


# --- moving -----------------------------------------------------------------------------------------------------------


@needs_compiler
def test_a_move_takes_slots_counters_and_state_along_before_and_after_everything():
    x, y = data()
    early = network("adam", [af.BatchNormalization]).to("simulated")  # before the first step
    late = network("adam", [af.BatchNormalization])
    for _ in range(3):
        late.train_on_batch(x, y)
    late.to("simulated")
    for _ in range(3):
        early.train_on_batch(x, y)
    for a, b in zip(early.get_weights(), late.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)  # Adam divides by gradients that are 0 up to rounding
    unbuilt = af.Sequential([af.Dense(3, activation="softmax")]).to("simulated")
    unbuilt.compile(loss="sparse_categorical_crossentropy", optimizer=af.SGD(momentum=0.9))
    unbuilt.fit(x, y, epochs=2, verbose=0)
    assert unbuilt.device == unbuilt.layers[0].kernel.device == "simulated"


@needs_compiler
def test_tensors_that_a_model_computes_with_move_with_it():
    between, within = af.tensor([1.0, 2.0, 3.0]), af.tensor([0.5, 1.0, 2.0])
    i = af.Input([3])
    model = af.Model(i, af.Lambda(lambda x: x * within)(af.Dense(3)(i)) + between)
    model.compile("mse", "sgd")
    x, y = data(8)[0][:, :3], np.zeros((8, 3))
    expected = model.predict(x)
    for device in ("simulated", "simulated:1", "cpu", "simulated"):
        model.to(device)
        np.testing.assert_allclose(model.predict(x), expected, atol=1e-6)
        assert between.device == within.device == device
    model.train_on_batch(x, y)
    fresh = af.Model(i, af.Dense(3)(i) * af.tensor([1.0, 2.0, 3.0])).to("simulated")  # before anything ran
    assert fresh.predict(x).shape == (8, 3)


@needs_compiler
def test_a_move_that_fails_leaves_everything_where_it_was(monkeypatch):
    x, y = data()
    model = network(af.SGD(momentum=0.9))
    model.train_on_batch(x, y)
    before = model.get_weights()
    monkeypatch.setattr(driver(), "limit", driver().held + 4 * 512)
    with pytest.raises(RuntimeError, match=r"simulated has no room for model 'sequential', which is still on cpu") as caught:
        model.to("simulated")
    needed = sum(-(-4 * w.size // 512) * 512 for w in before) * 2
    assert (
        needed <= int(re.findall(r"([\d,]+) bytes for its weights", str(caught.value))[0].replace(",", "")) <= needed + 8 * 512
    )
    assert model.device == model.layers[0].kernel.device == "cpu"
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    model.train_on_batch(x, y)


@needs_compiler
def test_tensors_move_and_do_not_mix():
    t = af.tensor([[1.0, 2.0]], device="simulated")
    assert (t.device, (t * 2).device, t.to("cpu").device) == ("simulated", "simulated", "cpu")
    with pytest.raises(af.Error, match=r"on one device(.|\n)*simulated(.|\n)*cpu"):
        (t + af.tensor([[1.0, 2.0]])).numpy()
    with pytest.raises(TypeError, match=r"\.numpy\(\)"):
        np.asarray(t)


@needs_compiler
def test_what_no_device_has_a_part_in_goes_where_it_is_needed():
    """Also after somebody has looked at it, there or elsewhere."""
    there, here = (af.tensor(np.full((3, 3), 2.0), device=device) for device in ("simulated", "cpu"))
    for make in (
        lambda: af.ops.one_hot(np.array([0, 2, 1]), 3),
        lambda: af.ops.exp(np.zeros((3, 3))),
        lambda: af.ops.sum(np.ones((3, 3)), 0, keepdims=True),
    ):
        mask = make()
        expected = 2 * mask.numpy()
        for t in (there, here, there):
            np.testing.assert_array_equal((mask * t).numpy() * np.ones((3, 3)), expected * np.ones((3, 3)))
            assert (mask * t).device == t.device
    p = af.ops.softmax(there)
    for _ in range(2):
        assert af.losses.sparse_categorical_crossentropy(np.array([0, 1, 2]), p).numpy() == pytest.approx(np.log(3))


@needs_compiler
def test_the_fix_for_tensors_on_two_devices_can_be_typed():
    model, x = network().to("simulated"), af.tensor(data(4)[0])
    with pytest.raises(af.Error, match=r"dense\.kernel on simulated(.|\n)*t\.to\(.simulated.\) for the tensor") as caught:
        model(x).numpy()
    assert 'model.to("cpu")' in str(caught.value)
    there = model(x.to("simulated")).numpy()
    np.testing.assert_allclose(model.to("cpu")(x).numpy(), there, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("first", ["compile", "to"])
def test_tensors_in_a_loss_of_ones_own_follow_the_model_whenever_it_moved(first):
    w, (x, y) = af.tensor([1.0, 3.0]), (data(8)[0], data(8)[0][:, :2])
    losses = []
    for device in ("cpu", "simulated"):
        af.set_seed(2)
        model = af.Sequential([af.Dense(2)])
        steps = [lambda: model.compile(lambda t, p: af.ops.mean(w * (t - p) ** 2)), lambda: model.to(device)]  # noqa: B023
        for step in steps if first == "compile" else steps[::-1]:
            step()
        losses.append(model.fit(x, y, epochs=2, verbose=0, seed=1).history["loss"])
        assert w.device == device
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_a_storage_of_no_bytes_has_an_empty_view_wherever_it_lies():
    backend, kept = aforo_backends.load("cpu"), []
    for i in range(64):
        storage = backend.open(0)
        kept += [storage, bytearray(16 * i)]  # so that the next one lies elsewhere
        assert backend.view(storage, View(0, (0, 3), (12, 4), "float32")).shape == (0, 3)


@needs_compiler
def test_a_model_moves_between_two_devices_of_one_kind():
    x, y = data()
    model, other = network("adam").to("simulated"), network("adam").to("simulated:1")
    model.train_on_batch(x, y)
    other.train_on_batch(x, y)
    gc.collect()
    held = af.memory.allocated("simulated"), af.memory.allocated("simulated:1")
    model.to("simulated:1")
    assert model.device == model.layers[0].kernel.device == "simulated:1"
    gc.collect()
    assert af.memory.allocated("simulated") < held[0], "the memory of the first device was not given back"
    assert af.memory.allocated("simulated:1") > held[1]
    assert model.train_on_batch(x, y) == pytest.approx(other.train_on_batch(x, y), rel=1e-6)
    with pytest.raises(af.Error, match=r"on one device(.|\n)*simulated(.|\n)*simulated:1"):
        (af.tensor([1.0], device="simulated") + af.tensor([1.0], device="simulated:1")).numpy()
    with pytest.raises(RuntimeError, match=r"no device simulated:2(.|\n)*simulated:0, simulated:1"):
        model.to("simulated:2")
    assert model.device == "simulated:1"


@needs_compiler
def test_without_room_the_error_says_what_is_planned_what_is_free_and_the_largest_batch(monkeypatch):
    x, y = data(500)
    model = network(af.SGD(momentum=0.9)).to("simulated")
    model.train_on_batch(x[:8], y[:8])
    before = model.get_weights()
    gc.collect()
    rest = driver().held - model.memory(8).total_bytes
    monkeypatch.setattr(driver(), "limit", rest + model.memory(100).total_bytes)
    with pytest.raises(RuntimeError, match=r"no room for a training step of 400 rows") as caught:
        model.train_on_batch(x[:400], y[:400])
    text = str(caught.value)
    del caught  # its traceback holds on to memory
    gc.collect()
    assert f"{model.memory(400).total_bytes:,} bytes, as planned" in text
    assert f"room for {model.memory(100).total_bytes:,} bytes" in text
    largest = model.max_batch_size(model.memory(100).total_bytes)
    assert f"batch_size={largest}, the largest that fits now" in text and 100 <= largest < 400
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(RuntimeError, match="no room"):
        model.train_on_batch(x[: largest + 1], y[: largest + 1])
    model.train_on_batch(x[:largest], y[:largest])
    generous = model.memory(400, rows=400).total_bytes - 4096
    with pytest.raises(RuntimeError, match=r"no room for what the memory_budget allows") as caught:
        model.fit(x[:400], y[:400], batch_size=400, verbose=0, memory_budget=generous)
    budget = int(str(caught.value).rpartition("memory_budget=")[2])
    del caught
    gc.collect()
    model.fit(x[:400], y[:400], batch_size=400, verbose=0, memory_budget=budget)
    monkeypatch.setattr(driver(), "limit", 0)
    with pytest.raises(RuntimeError, match=r"simulated has no room for 4,000 bytes(.|\n)*0 bytes that are free"):
        af.tensor(np.zeros(1000), device="simulated")


@needs_compiler
@pytest.mark.parametrize("kind", ["prediction", "evaluation"])
def test_the_largest_batch_is_that_of_what_had_no_room(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Slots of the optimizer are held while a trained model predicts or evaluates, and give it no room."""
    x, y = data(2000)
    model = network("adam").to("simulated")
    model.train_on_batch(x[:8], y[:8])
    gc.collect()
    planned = model.memory(300, programs=[kind]).total_bytes
    monkeypatch.setattr(driver(), "limit", driver().held + planned - model.memory(8, programs=[kind]).total_bytes)

    def run(rows: int) -> None:
        if kind == "prediction":
            model.predict(x[:rows], batch_size=rows)
        else:
            model.evaluate(x[:rows], y[:rows], batch_size=rows)

    with pytest.raises(RuntimeError, match=rf"no room for a {kind} step of 2000 rows") as caught:
        run(2000)
    text = str(caught.value)
    del caught  # its traceback holds on to memory
    gc.collect()
    assert f"{model.memory(2000, programs=[kind]).total_bytes:,} bytes, as planned" in text
    largest = int(re.findall(r"batch_size=(\d+), the largest that fits now", text)[0])
    run(largest)
    with pytest.raises(RuntimeError, match="no room"):
        run(largest + 1)


@needs_compiler
def test_products_run_in_tf32_where_the_model_asks_for_it():
    x, _ = data()
    exact, rough = network().to("simulated"), network().to("simulated", tf32=True)
    assert (exact.tf32, rough.tf32) == (False, True)
    assert exact.memory(40).to_dict() == rough.memory(40).to_dict()
    a, b = exact.predict(x), rough.predict(x)
    assert 0 < np.abs(a - b).max() < 5e-3
    rough.to("simulated")
    np.testing.assert_allclose(rough.predict(x), a, atol=1e-6)
    if ON_HOST:
        with pytest.raises(ValueError, match=r"TF32 is a format of CUDA GPUs(.|\n)*model\.to\(\"cpu\"\)"):
            rough.to("cpu", tf32=True)
        assert rough.device == "simulated"
    # Ten bits of mantissa, rounded to nearest.
    values = np.array([[1 + 2**-10, 1 + 2**-11 + 2**-20, 1 + 2**-12, -3.0]], "float32")
    np.testing.assert_array_equal(simulated._as_tf32(values), [[1 + 2**-10, 1 + 2**-10, 1.0, -3.0]])


def test_products_plan_a_workspace_only_where_it_is_more_than_what_the_driver_keeps():
    """Below 16 KiB cuBLAS may refuse to work."""
    found = []
    for rows, batch in ((8, 4096), (64, 4096), (600, 4096), (600, 100)):
        model = af.Sequential([af.Dense(64, input_shape=[rows])])
        model.compile(loss="mse")
        plan = model.plan(batch, device="cuda")
        found += [plan.values[o.value].nbytes(plan.sizes) for s in plan.steps if s.op == "matmul_add" for o in s.scratch]
    assert found == [4 * 64 * 600 * 4] and found[0] > SPARE


# --- other libraries --------------------------------------------------------------------------------------------------


@pytest.mark.about_numpy("NumPy reads no memory of a device")
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_tensors_go_to_other_libraries_and_come_back(dtype):
    values = np.arange(6).reshape(2, 3).astype(dtype)
    t = af.tensor(values, dtype=dtype)
    out = np.from_dlpack(t)
    assert out.dtype == dtype and (out == values).all()
    back = af.from_dlpack(out)
    assert (back.dtype, back.shape, back.device) == (dtype, (2, 3), "cpu") and (back.numpy() == values).all()
    try:
        import torch
    except ImportError:
        return
    there = torch.from_dlpack(t)
    assert (there.numpy() == values).all() and (af.from_dlpack(there.T).numpy() == values.T).all()


def test_what_is_handed_over_is_a_copy():
    model = network()
    before = model.layers[0].kernel.numpy()
    taken = np.from_dlpack(model.layers[0].kernel)
    assert (taken == before).all()
    with contextlib.suppress(ValueError):  # where NumPy made it read-only
        taken += 1.0
    assert (model.layers[0].kernel.numpy() == before).all()
    given = np.ones(3, "float32")
    t = af.from_dlpack(given)
    given[:] = 5.0
    assert (t.numpy() == 1.0).all()


def test_what_cannot_be_taken_or_handed_over_is_refused():
    with pytest.raises(TypeError, match=r"__dlpack__(.|\n)*af\.tensor\(array\)"):
        af.from_dlpack([1.0, 2.0])

    class Elsewhere:
        def __dlpack__(self, **options: Any) -> Any: ...
        def __dlpack_device__(self) -> tuple[int, int]:
            return 8, 0

    with pytest.raises(ValueError, match="device 8"):
        af.from_dlpack(Elsewhere())


@needs_compiler
def test_the_simulated_device_hands_nothing_over():
    with pytest.raises(ValueError, match=r"cannot be handed over(.|\n)*t\.to\(\"cpu\"\)"):
        np.from_dlpack(af.tensor([1.0], device="simulated"))


# --- found by use -----------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(("start", "end"), [("simulated", "simulated:1"), ("cpu", "simulated"), ("simulated", "cpu")])
@pytest.mark.parametrize("when", ["on_epoch_end", "on_train_batch_end"])
def test_a_callback_may_move_the_model_while_it_trains(start, end, when):
    x, y = data()
    options: Any = {"epochs": 3, "batch_size": 8, "seed": 1, "verbose": 0, "validation_data": data(13)}
    still, moving = network(af.SGD(0.1, momentum=0.9)), network(af.SGD(0.1, momentum=0.9)).to(start)
    move = af.callbacks.LambdaCallback(**{when: lambda number, logs: moving.to(end) and None})
    a, b = still.fit(x, y, **options), moving.fit(x, y, callbacks=[move], **options)
    assert moving.device == end
    for name, figures in a.history.items():
        np.testing.assert_allclose(figures, b.history[name], rtol=1e-4, err_msg=name)


@needs_compiler
def test_models_on_one_device_may_run_in_several_threads():
    from concurrent.futures import ThreadPoolExecutor

    x, _ = data(20)
    models = [network().to("simulated") for _ in range(4)]
    expected = [model.predict(x) for model in models]

    def same(i: int) -> bool:
        return all(np.allclose(models[i].predict(x, batch_size=7), expected[i], atol=1e-6) for _ in range(15))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(same, range(4)))


@needs_compiler
def test_weights_without_memory_go_where_their_model_is_or_where_they_are_used():
    x, _ = data(5)
    there = af.tensor(x, device="simulated")
    model = network().to("simulated")
    assert model.layers[0].kernel.device == "simulated"
    model.layers[0].kernel.assign(np.zeros((6, 16)))
    model.predict(x)
    fresh = network().to("simulated")
    assert fresh(there).device == "simulated"
    np.testing.assert_allclose(fresh(there).numpy(), fresh.predict(x), atol=1e-6)
    assert af.Dense(3)(there).device == "simulated"
    grown = af.Sequential([af.Dense(3, input_shape=[6])]).to("simulated")
    grown.add(af.Dense(2))
    assert grown(there).numpy().shape == (5, 2)
    # A layer that another model took away comes back with the next move.
    inner = network()
    a = af.Input([6])
    outer = af.Model(a, inner(a)).to("simulated")
    expected = outer.predict(x)
    np.testing.assert_allclose(inner.to("cpu").predict(x), expected, atol=1e-6)
    np.testing.assert_allclose(outer.to("simulated").predict(x), expected, atol=1e-6)


@needs_compiler
def test_without_room_for_data_on_its_way_the_error_says_so(monkeypatch):
    x, y = data(4000)
    model = network().to("simulated")
    model.train_on_batch(x[:20], y[:20])
    gc.collect()
    monkeypatch.setattr(driver(), "limit", driver().held + 600)
    for run in (lambda: model.fit(x, y, batch_size=20, verbose=0), lambda: model.evaluate(x, y, batch_size=20)):
        with pytest.raises(RuntimeError, match=r"simulated has no room for (.|\n)*bytes that are free(.|\n)*fix:") as caught:
            run()
        assert isinstance(caught.value, af.Error)
    monkeypatch.setattr(driver(), "limit", None)
    model.fit(x, y, batch_size=20, verbose=0)


@needs_compiler
def test_numbers_that_are_not_finite_reach_a_kernel():
    x = np.array([0.5, 1.0, 2.0], "float32")
    for exponent in (float("inf"), float("-inf")):
        t = abs(af.tensor(x, device="simulated")) ** exponent
        np.testing.assert_array_equal(t.numpy(), x**exponent)


@needs_compiler
@pytest.mark.parametrize("run", [1, 2])
def test_a_step_that_was_interrupted_while_it_was_captured_is_captured_anew(monkeypatch, run):
    x, y = data(8)
    expected, model = network(), network().to("simulated")
    for _ in range(run - 1):
        expected.train_on_batch(x, y)
        model.train_on_batch(x, y)
    calls, enqueue = [], type(driver())._enqueue

    def interrupted(self, call):
        if getattr(call, "kernel", None) is not None:
            calls.append(call)
        if len(calls) == 3:
            raise KeyboardInterrupt
        enqueue(self, call)

    before = model.get_weights()
    monkeypatch.setattr(type(driver()), "_enqueue", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.train_on_batch(x, y)
    monkeypatch.undo()
    model.set_weights(before)  # an eager step may have come half way
    for _ in range(3):
        expected.train_on_batch(x, y)
        model.train_on_batch(x, y)
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@needs_compiler
def test_a_kernel_that_does_not_compile_harms_no_other(monkeypatch):
    from aforo_backends import source

    monkeypatch.setitem(source.EXPRESSIONS, "tan", "no_such_function(a)")
    x, _ = data(3)
    other = af.tensor(x, device="simulated") * 2.0
    uploaded = driver().upload(driver().alloc(16).address, driver().pinned(16), driver().mark())
    with pytest.raises(RuntimeError, match="no_such_function"):
        af.ops.tan(af.tensor(x, device="simulated")).numpy()
    driver().finish(uploaded)
    np.testing.assert_array_equal(other.numpy(), x * 2)
    assert network().to("simulated").predict(x).shape == (3, 3)


@needs_compiler
def test_kernels_whose_libraries_were_tidied_away_are_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("AFORO_KERNELS", str(tmp_path))
    for _ in range(2):  # the second process finds notes of the first, and no library
        monkeypatch.setattr(aforo_backends, "_created", {})
        assert float(af.ops.sum(af.tensor([1.0, 2.0], device="simulated") * 3.0)) == 9.0
        for library in tmp_path.glob("*.so"):
            library.unlink()


@needs_compiler
def test_a_folder_that_cannot_keep_kernels_is_an_error_that_says_so(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("AFORO_KERNELS", str(file / "kernels"))
    monkeypatch.setattr(aforo_backends, "_created", {})
    model = network()
    with pytest.raises(
        af.Error, match=r"kernels cannot be kept in .*file/kernels(.|\n)*set AFORO_KERNELS to a folder"
    ) as error:
        model.to("simulated")
    assert model.device == "cpu" and "model is still where it was" in str(error.value)


@needs_compiler
def test_what_another_library_does_not_give_away_is_refused_on_a_device_too(monkeypatch):
    class Tied:
        dtype, shape = "float32", (2,)

        def __dlpack_device__(self):
            return 2, 0

        def __dlpack__(self):
            raise BufferError("it requires a gradient")

    monkeypatch.setitem(aforo_backends._created, "cuda:0", aforo_backends.load("simulated"))
    monkeypatch.setattr(driver(), "adopt", lambda address, given: given.__dlpack__())
    with pytest.raises(af.Error, match=r"requires a gradient(.|\n)*detach"):
        af.from_dlpack(Tied())


def test_arrays_of_dtypes_that_nobody_has_are_refused():
    with pytest.raises(ValueError, match="does not let itself be taken over"):
        af.from_dlpack(np.array([1.0], ">f4"))


@needs_compiler
def test_a_count_of_the_rows_grows_within_the_bytes_it_was_rounded_up_to():
    x = af.Input([1])
    model = af.Model(x, x + af.ops.reshape(af.ops.iota(x.shape[0], "float32"), (x.shape[0], 1))).to("simulated")
    for rows in (1, 7, 3, 9):
        np.testing.assert_array_equal(model.predict(np.zeros((rows, 1)))[:, 0], np.arange(rows))


@needs_compiler
@pytest.mark.parametrize("added", [False, True], ids=["built after the move", "added after the move"])
@pytest.mark.parametrize("change", ["set", "set a layer", "assign", "in place", "look"])
def test_weights_that_came_after_the_move_are_where_the_model_is(change: str, added: bool) -> None:
    model = af.Sequential([af.Dense(3, input_shape=[3])] if added else []).to("simulated")
    if added:
        model.predict(np.ones((1, 3)))
    model.add(af.Dense(2))
    if not added:
        model.build((None, 3))
    layer = model.layers[-1]
    values = [np.full((3, 2), 0.5), np.ones(2)]
    if change == "set":
        model.set_weights([*model.get_weights()[:-2], *values])
    elif change == "set a layer":
        layer.set_weights(values)
    elif change == "assign":
        layer.kernel.assign(values[0])
        layer.bias.assign(values[1])
    elif change == "in place":
        layer.kernel *= 0.0
        layer.kernel += values[0]
        layer.bias += values[1]
    else:
        values = layer.get_weights()
    assert {weight.device for weight in model.weights} == {"simulated"}
    first = model.layers[0](af.tensor(np.ones((1, 3)), device="simulated")).numpy() if added else np.ones((1, 3))
    np.testing.assert_allclose(model.predict(np.ones((1, 3))), first @ values[0] + values[1], rtol=1e-5)


@needs_compiler
def test_a_look_that_has_no_room_leaves_the_model_able_to_take_its_steps(monkeypatch):
    """A diagnosis shares the batch slots; where it gives up, the model's own programs let go of them, too."""
    x, y = data()
    model = network().to("simulated")
    model.fit(x, y, batch_size=32, verbose=0)
    gc.collect()
    monkeypatch.setattr(driver(), "limit", driver().held + 300)
    with pytest.raises(RuntimeError, match="no room"):
        model.diagnose(x, y)
    assert np.isfinite(model.train_on_batch(x[:32], y[:32])).all()
