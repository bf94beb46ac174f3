"""The estimate is the allocation: reports against tracemalloc, to the byte."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc
from math import prod
from pathlib import Path

import numpy as np
import pytest
from nets import ON_HOST, Net, array_bytes, tracing

import aforo as af
from aforo.device import CPU

TRANSIENT = 64 * 1024  # what a step may take and give back: iterator buffers

PLAIN = Net()
DEEP = Net((6, *[8] * 30, 3), (*["tanh", "relu", "sin"] * 10, "none"), batch=16)
CLASSES = Net((7, 20, 11, 4), ("relu", "sigmoid", "softmax"), "categorical_crossentropy", batch=20)
SPARSE = Net((7, 20, 4), ("relu", "softmax"), "sparse_categorical_crossentropy", batch=33)
BINARY = Net((5, 9, 2), ("cos", "sigmoid"), "binary_crossentropy", batch=12)


def of(net: Net, **changes: object) -> Net:
    return Net(**{**vars(net), **changes})  # type: ignore[arg-type]


NETS = {
    "the slide": of(PLAIN, batch=32),
    "one row": of(PLAIN, batch=1),
    "width one": Net((1, 1, 1), ("tanh", "none"), batch=5),
    "width one, one row": Net((1, 1), ("none",), batch=1),
    "one layer": Net((3, 2), ("none",), batch=7),
    "thirty layers": DEEP,
    "float64": of(PLAIN, dtype="float64", batch=10),
    "float64 classes": of(CLASSES, dtype="float64"),
    "momentum": of(PLAIN, optimizer={"momentum": 0.9}),
    "nesterov": of(PLAIN, optimizer={"momentum": 0.9, "nesterov": True}),
    "weight decay": of(PLAIN, optimizer={"weight_decay": 0.1}),
    "momentum and weight decay": of(CLASSES, optimizer={"momentum": 0.9, "weight_decay": 0.1}),
    "classes": CLASSES,
    "classes, accuracy": of(CLASSES, metrics="accuracy"),
    "sparse, two metrics": of(SPARSE, metrics=["accuracy", "sparse_categorical_crossentropy"]),
    "binary, accuracy": of(BINARY, metrics=["accuracy", "mae"]),
    "mae": of(PLAIN, loss="mae", batch=50),
    "wide": Net((300, 700, 10), ("relu", "softmax"), "categorical_crossentropy", {"momentum": 0.5}, batch=64),
}
every_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)


def parts(m: af.memory.Report) -> int:
    return m.parameters_bytes + m.optimizer_state_bytes + m.state_bytes + m.batch_bytes + m.arena_bytes


@every_net
def test_total_bytes_are_what_the_first_training_step_allocates(net: Net) -> None:
    x, y = net.data(net.batch)
    with tracing():
        held, ours = array_bytes(), af.memory.allocated("cpu")
        model = net.model()
        report = model.memory(batch_size=net.batch)
        assert array_bytes() == held, "making, compiling or planning a model took memory for arrays"
        model.train_on_batch(x, y)
        assert array_bytes() - held == report.total_bytes
        assert af.memory.allocated("cpu") - ours == report.total_bytes
        assert report.total_bytes == parts(report) == model.memory(batch_size=net.batch).total_bytes


@every_net
def test_further_steps_allocate_nothing(net: Net) -> None:
    x, y = net.data(net.batch)
    small = max(1, net.batch - 2)
    model = net.model()
    model.train_on_batch(x, y)
    with tracing():
        held, made = array_bytes(), af.memory.allocations("cpu")
        model.train_on_batch(x[:small], y[:small])  # a shorter last batch runs at the offsets of the full one
        assert array_bytes() == held
        for rows in (net.batch, small, net.batch):
            model.train_on_batch(x[:rows], y[:rows])
            now, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            model.train_on_batch(x[:rows], y[:rows])
            _, peak = tracemalloc.get_traced_memory()  # Python's own objects included
            assert peak - now < TRANSIENT or not ON_HOST  # a pretend device copies within the host's memory
        assert array_bytes() == held
        assert af.memory.allocations("cpu") == made


@every_net
def test_a_model_that_only_predicts_holds_its_smaller_plan(net: Net) -> None:
    x, _ = net.data(net.batch)
    with tracing():
        held, ours = array_bytes(), af.memory.allocated("cpu")
        model = net.model()
        report = model.memory(batch_size=net.batch, training=False)
        y = model.predict(x, batch_size=net.batch)
        result = y.nbytes * ON_HOST
        assert array_bytes() - held == report.total_bytes + result
        assert af.memory.allocated("cpu") - ours == report.total_bytes == parts(report)
        for _ in range(3):
            model.predict(x, batch_size=net.batch)
        assert array_bytes() - held == report.total_bytes + result
        training = model.memory(batch_size=net.batch)
        assert report.arena_bytes <= training.arena_bytes
        assert report.optimizer_state_bytes == 0 and report.total_bytes < training.total_bytes


@every_net
def test_the_report_accounts_for_each_byte_by_layer_and_by_instruction(net: Net) -> None:
    model = net.model()
    item, rounding = np.dtype(net.dtype).itemsize, max(CPU.profile.alignment, CPU.profile.rounding)
    for training in (True, False):
        m = model.memory(batch_size=net.batch, training=training)
        assert sum(row.held_bytes for row in m.layers) == m.lower_bound_bytes == max(t.live_bytes for t in m.timeline)
        assert m.lower_bound_bytes <= m.arena_bytes <= m.lower_bound_bytes * 1.05
        for row, layer, width in zip(m.layers, model.layers, net.widths[1:], strict=False):
            assert (row.name, row.output_shape, row.values) == (layer.name, (net.batch, width), net.batch * width)
            assert row.parameters == sum(prod(w.shape) for w in layer.weights)
        counts = [d * n + n for d, n in zip(net.widths, net.widths[1:], strict=False)]
        assert [row.parameters for row in m.layers][: len(counts)] == counts
        padding = rounding * (2 * len(counts))  # one line at most for each weight, and for each of their storages
        assert sum(counts) * item <= m.parameters_bytes < sum(counts) * item + padding
        slots = sum(counts) * item if training and "momentum" in net.optimizer else 0
        assert slots <= m.optimizer_state_bytes <= (slots + padding if slots else 0)


@every_net
def test_the_timeline_says_who_holds_the_peak(net: Net) -> None:
    for training in (True, False):
        m = net.model().memory(net.batch, training)
        peak, live = m.timeline.peak, [moment.live_bytes for moment in m.timeline]
        assert len(m.timeline) == len(live) and m.timeline[peak] == m.timeline[peak : peak + 1][0]
        assert live[peak] == max(live) and live.index(max(live)) == peak
        padding = m.layers[-1].held_bytes
        assert sum(holder.nbytes for holder in m.timeline.holders) + padding == live[peak]
        held: dict[str, int] = {}
        for holder in m.timeline.holders:
            assert holder.start <= peak <= holder.end < len(live)
            assert prod(holder.shape) <= holder.nbytes < prod(holder.shape) * 8 + CPU.profile.alignment
            held[holder.layer] = held.get(holder.layer, 0) + holder.nbytes
        assert {row.name: row.held_bytes for row in m.layers[:-1] if row.held_bytes} == held
        assert [h.nbytes for h in m.timeline.holders] == sorted((h.nbytes for h in m.timeline.holders), reverse=True)
        assert m.gap_bytes == m.arena_bytes - m.lower_bound_bytes >= 0
        text = str(m)
        assert f"instruction {peak + 1} of {len(live)}" in text and "held there by" in text


def test_the_peak_of_a_wide_batch_is_held_by_the_activations() -> None:
    net = Net((10, 50, 50, 50, 2), ("tanh", "tanh", "tanh", "none"), batch=1000)
    m = net.model().memory(1000)
    activations = [h for h in m.timeline.holders if h.op in ("tanh", "fused") and h.phase == "forward"]
    assert {h.shape for h in activations} == {(1000, 50)}
    assert {h.layer for h in activations} & {"dense", "dense_1", "dense_2"}  # one that is used up may be gone by then
    assert sum(h.nbytes for h in m.timeline.holders[:4]) > 0.75 * m.arena_bytes


def test_the_operations_of_each_layer_are_its_products_and_little_else() -> None:
    """A product of b × m by m × n takes 2·b·m·n: one forward, one for the kernel, one for what is below, if anything is."""
    net = Net((300, 200, 100, 50), ("none", "relu", "none"), batch=64)
    model = net.model()
    for training in (True, False):
        m = model.memory(64, training)
        for i, (row, d_in, n) in enumerate(zip(m.layers, net.widths, net.widths[1:], strict=False)):
            products = (1 + training * (1 + (i > 0))) * 2 * 64 * d_in * n
            assert products <= row.flops <= products * 1.06
        assert m.flops == sum(row.flops for row in m.layers)


def test_a_report_of_a_fit_lists_what_fit_holds_besides() -> None:
    m = PLAIN.model().memory(32, rows=50_000, validation_rows=7)
    on_host = sum(held.nbytes for held in m.data if held.where == "host")
    assert on_host == 50_000 * (4 * (3 + 2) + 8) + 7 * 4 * (3 + 2)
    assert m.data_bytes == on_host or not ON_HOST
    assert m.total_bytes == parts(m) and m.programs == ("training", "evaluation")
    text = str(m)
    assert "a fit over 50,000 rows holds besides" in text and "400,000 B" in text and "on the host" in text
    assert PLAIN.model().memory(32).data_bytes == 0
    small = PLAIN.model().memory(32, rows=5)
    assert small.total_bytes == PLAIN.model().memory(5).total_bytes and small.batch_size == 32


def test_a_plan_for_cuda_lists_estimates_of_what_lies_outside() -> None:
    m = PLAIN.model().memory(32, device="cuda")
    assert m.reserve and all(line.nbytes > 0 and "estimate, not measured here" in line.measured for line in m.reserve)
    assert m.total_bytes % 512 == 0
    assert "outside: CUDA context about" in str(m) and "estimate, not measured here" in str(m)
    assert PLAIN.model().memory(32, device="simulated").total_bytes == m.total_bytes
    assert PLAIN.model().memory(32, device="simulated").reserve == ()


def test_what_a_device_needs_is_the_total_its_data_and_what_lies_outside() -> None:
    for device, here in [("cpu", "host"), ("cuda", "cuda"), ("simulated", "simulated")]:
        m = PLAIN.model().memory(32, device=device, rows=1000)
        data = sum(held.nbytes for held in m.data if held.where == here)
        assert data > 0
        assert m.device_bytes == m.total_bytes + data + sum(line.nbytes for line in m.reserve)
        assert f"needed on {device}, all of this together" in str(m)


def test_an_arena_holds_at_least_what_the_backward_must_keep() -> None:
    """b × n of every tanh output, and nothing near it for a prediction: two neighbours are enough there."""
    net = Net((4, *[100] * 6, 2), (*["tanh"] * 6, "none"), batch=50)
    model = net.model()
    kept = 6 * 50 * 100 * 4
    assert kept <= model.memory(batch_size=50).arena_bytes < kept * 1.6
    assert 50 * 100 * 4 * 2 <= model.memory(batch_size=50, training=False).arena_bytes < 50 * 100 * 4 * 2 + 4096


def test_arena_and_batch_grow_with_the_batch_and_weights_do_not() -> None:
    model = CLASSES.model()
    small, large = model.memory(batch_size=100), model.memory(batch_size=200)
    assert small.parameters_bytes == large.parameters_bytes
    assert small.arena_bytes < large.arena_bytes < 2.1 * small.arena_bytes
    assert small.batch_bytes < large.batch_bytes <= 2 * small.batch_bytes


def test_a_larger_batch_makes_the_model_hold_what_the_report_of_that_batch_says() -> None:
    net = CLASSES
    x, y = net.data(90)
    with tracing():
        held = array_bytes()
        model = net.model()
        for rows in (4, 90, 17):
            model.train_on_batch(x[:rows], y[:rows])
        assert array_bytes() - held == model.memory(batch_size=90).total_bytes


def test_a_fit_over_batches_holds_what_the_report_says() -> None:
    net = of(CLASSES, metrics="accuracy", optimizer={"momentum": 0.9})
    x, y = net.data(75)
    with tracing():
        held = array_bytes()
        model = net.model()
        model.fit(x, y, epochs=3, batch_size=20, verbose=0)
        assert array_bytes() - held == model.memory(batch_size=20).total_bytes
        assert af.memory.allocated("cpu") >= model.memory(batch_size=20).total_bytes


def test_predicting_and_evaluating_share_the_arena_of_training() -> None:
    net = of(CLASSES, metrics="accuracy")
    x, y = net.data(net.batch)
    with tracing():
        held = af.memory.allocated("cpu")
        model = net.model()
        model.train_on_batch(x, y)
        report = model.memory(batch_size=net.batch)
        prediction = model.memory(batch_size=net.batch, training=False)
        model.predict(x, batch_size=net.batch)
        model.evaluate(x, y, batch_size=net.batch)
        constants = report.state_bytes + prediction.state_bytes  # a constant that only one of them uses is held besides
        assert report.total_bytes <= af.memory.allocated("cpu") - held <= report.total_bytes + constants
        made = af.memory.allocations("cpu")
        for _ in range(3):
            model.predict(x, batch_size=net.batch)
            model.train_on_batch(x, y)
            model.evaluate(x, y, batch_size=net.batch)
        assert af.memory.allocations("cpu") == made


def test_compiling_and_planning_draw_no_weights() -> None:
    drawn = []

    def initializer(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> np.ndarray:
        drawn.append(shape)
        return np.ones(shape, dtype)

    model = af.Sequential([af.Dense(3, kernel_initializer=initializer, input_shape=[2])])
    model.compile(loss="mse", optimizer=af.SGD(momentum=0.9))
    model.memory(batch_size=8)
    model.summary()
    str(model.memory(batch_size=8, training=False))
    assert not drawn
    model.predict([[1.0, 2.0]])
    assert drawn == [(2, 3)]
    model.train_on_batch(np.ones((4, 2)), np.ones((4, 3)))
    assert drawn == [(2, 3)]


WIDE = """
import time
start = time.process_time()
import aforo as af
model = af.Sequential()
model.add(af.Dense(200_000, input_shape=[200_000], activation="relu"))
model.add(af.Dense(200_000, activation="tanh"))
model.add(af.Dense(10, activation="softmax"))
model.compile(loss="categorical_crossentropy", optimizer=af.SGD(momentum=0.9), metrics="accuracy")
report = model.memory(batch_size=512)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(report.parameters_bytes, report.total_bytes, time.process_time() - start, int(peak.split()[1]) * 1024)
"""


def test_a_net_200000_wide_is_planned_in_a_second_without_its_memory() -> None:
    paths = [str(Path(__file__).parents[1] / root) for root in ("framework", "backends")]
    code = f"import sys; sys.path[:0] = {paths}\n{WIDE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    parameters, total, seconds, peak = map(float, done.stdout.split())
    kernels = 4 * (2 * 200_000**2 + 200_000 * 10)
    assert kernels < parameters < kernels * 1.001
    assert total > 2 * kernels  # the momentum too
    assert seconds < 1.5
    assert peak < 100 * 2**20


def test_a_printed_report_and_a_summary_show_what_each_layer_holds(capsys: pytest.CaptureFixture[str]) -> None:
    model = PLAIN.model()
    text = str(model.memory(batch_size=32))
    for name, width in zip(["dense", "dense_1", "dense_2"], [4, 5, 2], strict=True):
        line = next(line for line in text.splitlines() if line.split()[:1] == [name])
        assert f"32 × {width}" in line and f" {32 * width} " in line
    report = model.memory(batch_size=32)
    for nbytes in (report.total_bytes, report.arena_bytes, report.parameters_bytes):
        assert f"{nbytes:,} B" in text
    model.summary()
    text = capsys.readouterr().out
    for name, width, parameters in [("dense", 4, 16), ("dense_1", 5, 25), ("dense_2", 2, 12)]:
        line = next(line for line in text.splitlines() if line.split()[:1] == [name])
        assert f"b × {width}" in line and line.split()[-1] == str(parameters)
    assert "53" in text  # the parameters of all layers


def test_a_report_is_plain_data_that_json_can_write() -> None:
    report = PLAIN.model().memory(batch_size=32)
    data = json.loads(json.dumps(report.to_dict()))
    assert data == report.to_dict()
    assert data["total_bytes"] == report.total_bytes
    assert [row["held_bytes"] for row in data["layers"]] == [row.held_bytes for row in report.layers]
    assert data["batch_size"] == 32 and data["device"] == "cpu"


def test_what_libraries_take_outside_is_listed_apart_and_with_its_source() -> None:
    report = PLAIN.model().memory(batch_size=32)
    assert report.total_bytes == parts(report)
    for line in report.reserve:
        assert line.name and line.nbytes > 0 and line.measured


def test_a_deleted_model_frees_its_memory_without_a_collection() -> None:
    def use() -> int:
        net = of(CLASSES, metrics="accuracy", optimizer={"momentum": 0.9})
        model = net.model()
        x, y = net.data(60)
        model.fit(x, y, batch_size=16, validation_split=0.2, sample_weight=np.ones(60), verbose=0)
        model.evaluate(x, y)
        model.predict(x)
        model.pop()
        model.add(af.Dense(2, activation=lambda z: af.ops.sin(z) * z))
        model.compile(loss=lambda y_true, y_pred: af.ops.mean((y_true - y_pred) ** 2))
        model.train_on_batch(x, x[:, :2])
        return af.memory.allocated("cpu")

    use()
    with tracing():
        held, ours = array_bytes(), af.memory.allocated("cpu")
        assert use() > ours
        assert af.memory.allocated("cpu") == ours
        assert array_bytes() == held


def test_a_model_that_failed_to_train_frees_its_memory_too() -> None:
    def use() -> None:
        model = PLAIN.model()
        x, y = PLAIN.data(20)
        model.train_on_batch(x, y)
        with pytest.raises(af.Error):
            model.train_on_batch(x * np.nan, y)

    use()
    gc.collect()
    gc.disable()
    try:
        held = af.memory.allocated("cpu")
        use()
        assert af.memory.allocated("cpu") == held
    finally:
        gc.enable()


def test_a_thousand_predictions_leave_memory_flat() -> None:
    """keras#13118, tensorflow#33009."""
    model = CLASSES.model()
    x, _ = CLASSES.data(50)
    sizes = [*range(1, 51), *[50, 7, 20] * 320]  # more sizes than programs are kept for
    with tracing():
        for rows in sizes[:100]:  # until what Python caches is cached
            model.predict(x[:rows])
        held, made, arrays = tracemalloc.get_traced_memory()[0], af.memory.allocations("cpu"), array_bytes()
        for rows in sizes:
            model.predict(x[:rows])
        assert array_bytes() == arrays
        assert af.memory.allocations("cpu") == made or not ON_HOST  # batches pass through two slots, opened for each call
        assert tracemalloc.get_traced_memory()[0] - held < 100_000


def test_predictions_are_copies_that_no_later_step_changes() -> None:
    model = PLAIN.model()
    x, y = PLAIN.data(20)
    first = model.predict(x)
    weights = model.get_weights()
    kept, copies = first.copy(), [w.copy() for w in weights]
    model.fit(x, y, epochs=2, verbose=0)
    model.predict(x + 1)
    assert np.array_equal(first, kept) and all(map(np.array_equal, weights, copies))
    weights[0][:] = 7  # nor does writing to what was handed out change the model
    assert not np.any(model.get_weights()[0] == 7)


def test_replacing_the_head_leaves_no_trace_of_the_old_one() -> None:
    x, y = CLASSES.data(20)
    with tracing():
        held = array_bytes()
        model = CLASSES.model()
        model.train_on_batch(x, y)
        model.pop()
        model.add(af.Dense(3))
        model.compile(loss="mse")
        model.train_on_batch(x, x[:, :3])
        assert array_bytes() - held == model.memory(batch_size=20).total_bytes


def test_a_length_is_refused_where_nothing_has_a_time_axis() -> None:
    model = af.Sequential([af.Dense(2, input_shape=[3])])
    model.compile(loss="mse")
    assert model.memory(4, length=None).total_bytes == model.memory(4).total_bytes
    with pytest.raises(af.Error, match=r"no time axis(.|\n)*length=7"):
        model.memory(4, length=7)
