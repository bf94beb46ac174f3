"""How data gets into batch slots: from the host, from the device, and through pinned slots while steps run."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from nets import assert_close

import aforo as af
import aforo_backends
from aforo.evaluate import evaluate
from aforo_backends import simulated

pytestmark = pytest.mark.skipif(simulated.compiler() is None, reason="the simulated device needs a C++ compiler")
ROWS = 50


def data(rows: int = ROWS) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(rows, 6)).astype("float32"), rng.integers(0, 3, rows).astype("int32")


def model() -> af.Sequential:
    af.set_seed(1)
    made = af.Sequential([af.Dense(5, activation="tanh", input_shape=[6]), af.Dense(3, activation="softmax")])
    made.compile(loss="sparse_categorical_crossentropy", optimizer=af.SGD(0.1, momentum=0.9), metrics="accuracy")
    return made


@pytest.fixture(params=["resident", "staged"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the device has room for the whole data set."""
    backend: Any = aforo_backends.load("simulated")
    if request.param == "staged":
        small = replace(simulated.PROFILE, resident=1)
        monkeypatch.setattr(backend, "profile", small)
        monkeypatch.setattr(simulated, "PROFILE", small)
    return str(request.param)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_fit_is_the_same_as_on_the_cpu(path: str, shuffle: bool) -> None:
    x, y = data()
    here, there = model(), model().to("simulated")
    options: Any = {"epochs": 3, "batch_size": 8, "verbose": 0, "seed": 5, "shuffle": shuffle, "validation_data": data(21)}
    a, b = here.fit(x, y, **options), there.fit(x, y, **options)
    for name, figures in a.history.items():
        np.testing.assert_allclose(figures, b.history[name], rtol=1e-5, err_msg=name)
    for p, q in zip(here.get_weights(), there.get_weights(), strict=True):
        np.testing.assert_allclose(p, q, atol=1e-5)
    np.testing.assert_allclose(here.predict(x, batch_size=7), there.predict(x, batch_size=7), atol=1e-5)
    assert here.evaluate(x, y, batch_size=9) == pytest.approx(there.evaluate(x, y, batch_size=9), rel=1e-5)


def test_what_a_fit_holds_on_the_device_is_what_the_report_says(path: str) -> None:
    x, y = data()
    seen: list[int] = []
    look = af.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(af.memory.allocated("simulated")))
    gc.collect()
    held = af.memory.allocated("simulated")
    made = model().to("simulated")
    report = made.memory(8, rows=ROWS, validation_rows=21)
    made.fit(x, y, batch_size=8, epochs=2, verbose=0, validation_data=data(21), callbacks=look)
    device = sum(each.nbytes for each in report.data if each.where == "simulated")
    assert device > 0 and seen == [held + report.total_bytes + device] * 2
    assert any("two batches" in each.name for each in report.data) == (path == "staged")
    gc.collect()
    assert af.memory.allocated("simulated") == held + report.total_bytes


def test_steps_on_resident_data_copy_nothing_from_the_host() -> None:
    x, y = data()
    driver: Any = aforo_backends.load("simulated").driver  # type: ignore[attr-defined]
    made = model().to("simulated")
    at_step: list[tuple[int, int]] = []
    look = af.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: at_step.append((driver.received, af.memory.allocations("simulated")))
    )
    made.fit(x, y, batch_size=10, epochs=3, verbose=0, callbacks=look)
    per_epoch = [at_step[i : i + 5] for i in range(0, 15, 5)]
    for steps in per_epoch[1:]:
        assert len(set(steps)) == 1, "a step copied from the host, or allocated"
    between = per_epoch[2][0][0] - per_epoch[1][-1][0]
    assert ROWS * 8 <= between < ROWS * 8 + 200, "an epoch brings the order of the rows, and the totals set to zero"


def test_uploads_run_while_nobody_waits_and_never_overtake() -> None:
    driver: Any = aforo_backends.load("simulated").driver  # type: ignore[attr-defined]
    block, slot = driver.alloc(16), driver.alloc(16)
    pinned = driver.pinned(16)
    pinned[:] = 1
    first = driver.upload(block.address, pinned, None)
    pinned[:] = 2  # nobody waited: a pinned source is read when its turn comes
    driver.wait(first)
    driver.copy(slot.address, block.address, 16)
    used = driver.mark()
    pinned_too = driver.pinned(16)
    pinned_too[:] = 3
    second = driver.upload(block.address, pinned_too, used)
    out = np.empty(16, np.uint8)
    driver.read(slot.address, out)
    assert (out == 2).all(), "the second upload waits until the first was used"
    driver.finish(second)
    driver.read(block.address, out)
    assert (out == 3).all()


def test_memory_that_is_collected_during_a_capture_waits_for_its_end() -> None:
    backend: Any = aforo_backends.load("simulated")
    source, target = backend.driver.alloc(16), backend.driver.alloc(16)
    holder = [backend.driver.alloc(16)]

    def copy() -> None:
        backend.driver.copy(target.address, source.address, 16)
        holder.clear()  # as the garbage collector may, at any time

    run = backend.program([copy])
    held = backend.driver.held
    run()
    holder.append(backend.driver.alloc(16))
    run()
    backend.synchronize()
    assert backend.driver.held == held - 512


def test_a_lane_waits_for_what_still_uses_the_memory_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool gives freed memory away at once: in order with what is queued on the stream of the steps, not with uploads."""
    backend: Any = aforo_backends.load("simulated")
    monkeypatch.setattr(backend, "profile", replace(backend.profile, resident=0))
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(256, 64)).astype("float32") for _ in range(2))

    def trained(device: str, seed: int) -> list[Any]:
        af.set_seed(1)
        model = af.Sequential([af.Dense(64, input_shape=[64])]).to(device)
        model.compile("mse", "sgd")
        model.train_on_batch(x[:32], y[:32])
        if device == "simulated":
            backend.driver._random.seed(seed)
            wide = af.tensor(x[:32], device=device)
            for _ in range(6):
                dropped = [af.ops.sin(wide), af.ops.cos(wide), af.ops.exp(wide)]
                evaluate(dropped)
                del dropped
            gc.collect()
        model.fit(x, y, batch_size=32, verbose=0, shuffle=False)
        return model.get_weights()

    expected = trained("cpu", 0)
    for seed in range(4):
        for a, b in zip(trained("simulated", seed), expected, strict=True):
            assert_close(a, b, 1e-5)
