"""Training within a budget of memory: micro-batches and recomputation give the same steps in fewer bytes, all planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from nets import (
    ON_HOST,
    Net,
    array_bytes,
    assert_close,
    assert_same_bits,
    budget_between,
    least_budget,
    on_the_device,
    random_net,
    tracing,
)
from test_devices import needs_compiler
from test_graphs import NETS, compiled, data, one, sketch

import aforo as af
from aforo import training
from aforo.device import CPU, device
from aforo.economy import Data, choose
from aforo.graph import BACKWARD, FORWARD, merge, verify
from aforo.plan import make_plan
from aforo.program import Program
from aforo.recompute import kept_bytes, least_bytes, recomputed
from aforo.specs import at
from aforo.steps import FIRST, NEXT, TRAINING, UPDATING, Way

Array = np.ndarray[Any, Any]


def trained(model: af.Model, way: Way, x: Any, y: Any, batch: int, epochs: int = 2, weights: Any = None) -> dict[str, float]:
    """Train this way, in order of the rows; the figures of the last epoch."""
    batches = training.prepare(model, x, y, weights)
    model.adopt(way)
    for _ in range(epochs):
        training._reset(model)
        for _ in training._run(model, batches, TRAINING, batch):
            pass
    return training._means(model, batches.rows)


def keeping(model: af.Model, batch: int, share: float, rows: int = 0, weighted: bool = False) -> Way:
    """Recomputation with a limit that lies at this share between the smallest and what is kept anyway."""
    graph, sizes = model.graph(NEXT if rows else TRAINING, weighted), {"batch": rows or batch}
    low, high = least_bytes(graph, sizes), kept_bytes(graph, sizes)
    return Way(batch, rows, low + round(share * (high - low)))


def deep(layers: Callable[[], Sequence[Any]], optimizer: Any = "sgd", width: int = 12, **options: Any) -> af.Sequential:
    af.set_seed(5)
    model = af.Sequential([af.Dense(width, input_shape=[7]), *layers(), af.Dense(3, "softmax")], dtype="float64")
    model.compile(loss="categorical_crossentropy", optimizer=optimizer, metrics=["accuracy", "mae"], **options)
    return model


def samples(rows: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(rows)
    return rng.normal(size=(rows, 7)), np.eye(3)[rng.integers(0, 3, rows)]


def uniform(depth: int, width: int, activation: str = "tanh", optimizer: Any = "sgd") -> af.Sequential:
    """Layers of one width, input and output included."""
    first = af.Dense(width, activation, input_shape=[width])
    model = af.Sequential([first, *(af.Dense(width, activation) for _ in range(depth - 2)), af.Dense(width)])
    model.compile(loss="mse", optimizer=optimizer)
    return model


def flops(model: af.Model, way: Way, batch: int) -> int:
    plan = make_plan(way.graph(partial(model.graph, TRAINING, False), TRAINING), CPU.profile, {"batch": batch})
    return sum(at(step.flops, plan.sizes) for step in plan.steps)


# --- micro-batches ----------------------------------------------------------------------------------------------------

STACKS: dict[str, Any] = {
    "dropout": lambda: [af.Dense(12, "tanh"), af.Dropout(0.4), af.Dense(9, "relu"), af.Dropout(0.2)],
    "penalties": lambda: [
        af.Dense(12, "sin", kernel_regularizer="l2"),
        af.Dense(8, "gelu", kernel_regularizer=af.regularizers.L1(0.1)),
    ],
    "layer norm": lambda: [af.Dense(9, "silu"), af.LayerNormalization(), af.Dense(9, "softplus")],
}
OPTIMIZERS: dict[str, Any] = {
    "sgd": partial(af.SGD, 0.1),
    "nesterov": partial(af.SGD, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam, global norm": partial(af.Adam, 0.01, global_clipnorm=0.05),
    "rmsprop, norm of each": partial(af.RMSprop, 0.01, clipnorm=0.02),
    "sgd, clipped values": partial(af.SGD, 0.1, clipvalue=0.01),
    "sgd on a schedule": partial(af.SGD, af.schedules.ExponentialDecay(0.1, 2, 0.5)),
    "adamw on a schedule": partial(af.AdamW, af.schedules.CosineDecay(0.01, 12)),
}


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_micro_batches_train_as_whole_batches(stack: str, optimizer: str) -> None:
    """Weights, loss and metrics, with sample weights, over batches of 20, 20 and 13 in micro-batches of 1, 6, 7 and 20 rows."""
    x, y = samples(53)
    weights = np.random.default_rng(1).uniform(0, 2, 53)
    whole = deep(STACKS[stack], OPTIMIZERS[optimizer]())
    expected = trained(whole, Way(), x, y, 20, weights=weights)
    for rows in (1, 6, 7, 20):
        model = deep(STACKS[stack], OPTIMIZERS[optimizer]())
        found = trained(model, Way(20, rows), x, y, 20, weights=weights)
        assert found == pytest.approx(expected, rel=1e-11)
        for a, b in zip(model.get_weights(), whole.get_weights(), strict=True):
            assert_close(a, b, 1e-9, f"{rows} rows")


def test_micro_batches_draw_the_masks_of_the_whole_batch() -> None:
    """What dropout lets through is a gradient here: equal zeros are equal masks."""

    def gradient(way: Way) -> Array:
        af.set_seed(2)
        model = af.Sequential(
            [af.Flatten(input_shape=[3, 40]), af.Reshape([3, 40]), af.Dropout(0.5), af.Flatten(), af.Dense(1, use_bias=False)]
        )
        model.compile(loss=lambda y_true, y_pred: af.ops.mean(y_pred, -1), optimizer=af.SGD(1.0))
        before = model.get_weights()[0]
        # Each row feeds values of its own, so that each kernel row's gradient tells which of the rows let it through.
        x = 2.0 ** np.arange(8)[:, None, None] * np.ones((8, 3, 40))
        trained(model, way, x, np.zeros((8, 1)), 8, epochs=1)
        return before - model.get_weights()[0]

    np.testing.assert_allclose(gradient(Way(8, 3)), gradient(Way()), atol=1e-6)
    assert len(np.unique(np.round(gradient(Way()), 3))) > 20


def test_statistics_of_a_batch_are_those_of_each_micro_batch_and_fit_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = samples(40)
    model = deep(lambda: [af.BatchNormalization(momentum=0.5)])
    plan = model.fit(x, y, batch_size=40, verbose=2, memory_budget=least_budget(model, 40, data=Data(40))).plan
    assert plan.micro_batch < 40 and plan.mixing == ("batch_normalization",)
    assert "Statistics of the batch in batch_normalization are those of each micro-batch" in capsys.readouterr().out
    kernel, bias = deep(list).get_weights()[:2]
    mean = np.zeros(12)
    for part in range(4):
        mean = 0.5 * mean + 0.5 * (x[10 * part : 10 * part + 10] @ kernel + bias).mean(0)
    fresh = deep(lambda: [af.BatchNormalization(momentum=0.5)])
    trained(fresh, Way(40, 10), x, y, 40, epochs=1)
    assert_close(fresh.layers[1].moving_mean.numpy(), mean, 1e-12)


class Anneal(af.Layer):
    """Counts what it has seen."""

    def build(self, input_shape: Any) -> None:
        self.n = self.add_weight([], "zeros", "n", trainable=False)

    def forward(self, x: Any) -> Any:
        self.add_update(self.n, self.pending(self.n) + 1.0)
        return x * (1.0 / (1.0 + self.n))


def test_updates_that_are_made_for_each_micro_batch_are_told() -> None:
    x, y = samples(40)
    model = deep(lambda: [Anneal(name="anneal"), af.BatchNormalization()])
    plan = model.fit(x, y, batch_size=40, verbose=0, memory_budget=least_budget(model, 40, data=Data(40))).plan
    assert plan.micro_batch < 40 and plan.updating == ("anneal",) and plan.mixing == ("batch_normalization",)
    assert "Updates in anneal are made for each micro-batch" in str(plan)
    assert model.layers[1].n.numpy() == -(-40 // plan.micro_batch)
    whole = deep(lambda: [Anneal(name="anneal")])
    assert "Updates" not in str(whole.fit(x, y, batch_size=40, verbose=0, memory_budget="1GB").plan)


def test_an_interrupted_step_of_micro_batches_commits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = samples(24)
    model, untouched = deep(STACKS["dropout"], "adam"), deep(STACKS["dropout"], "adam")
    way = Way(24, 5)
    for each in (model, untouched):
        trained(each, way, x, y, 24, epochs=1)
    before = model.get_weights()
    ran = []
    load = training._load

    def interrupted(*arguments: Any) -> None:
        ran.append(None)
        if len(ran) == 3:
            raise KeyboardInterrupt
        load(*arguments)

    monkeypatch.setattr(training, "_load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(model, way, x, y, 24, epochs=1)
    monkeypatch.undo()
    assert_same_bits(model.get_weights(), before)
    for each in (model, untouched):
        trained(each, way, x, y, 24, epochs=1)
    assert_same_bits(model.get_weights(), untouched.get_weights())


# --- recomputation ----------------------------------------------------------------------------------------------------

DEEP: dict[str, Any] = {
    **STACKS,
    "tanh": lambda: [af.Dense(12, "tanh") for _ in range(12)],
    "relu": lambda: [af.Dense(12, "relu") for _ in range(12)],
    "gelu": lambda: [af.Dense(12, "gelu") for _ in range(6)],
    "batch norm": lambda: [layer for _ in range(3) for layer in (af.Dense(12, "relu"), af.BatchNormalization())],
    "dropout, deep": lambda: [layer for _ in range(5) for layer in (af.Dense(12, "sin"), af.Dropout(0.3))],
}


@pytest.mark.parametrize("stack", DEEP)
def test_recomputation_changes_no_bit_of_training(stack: str) -> None:
    x, y = samples(33)
    plain = deep(DEEP[stack], "adam")
    expected = trained(plain, Way(), x, y, 20)
    repeated = 0
    for share in (0.0, 0.3, 0.7):
        model = deep(DEEP[stack], "adam")
        way = keeping(model, 20, share)
        repeated += flops(model, way, 20) > flops(model, Way(), 20)
        assert trained(model, way, x, y, 20) == expected
        assert_same_bits(model.get_weights(), plain.get_weights())
    assert repeated, "nothing was computed again"


@pytest.mark.parametrize("block", range(6))
def test_random_graphs_train_the_same_in_every_way(block: int) -> None:
    """Skips, shared layers, several inputs and outputs; bit for bit where the batch is whole."""
    worst = []
    for number in range(block, NETS, 60):
        net = sketch(number)
        inputs, given, _ = data(net, number, rows=11)
        plain = compiled(net, number, af.SGD(0.05, momentum=0.9))
        expected = trained(plain, Way(), one(inputs), one(given), 8)
        mixed = any(node.op == "norm" and node.value == "batch" for node in net.nodes)
        for way in (keeping(plain, 8, 0.0), keeping(plain, 8, 0.5), Way(8, 3), keeping(plain, 8, 0.0, rows=3)):
            model = compiled(net, number, af.SGD(0.05, momentum=0.9))
            found = trained(model, way, one(inputs), one(given), 8)
            plans = [plan for plans in model._workspace.plans.values() for plan in plans]
            worst.extend(plan.arena_bytes / (plan.lower_bound_bytes or 1) for plan in plans)
            if way.rows and not mixed:
                assert found == pytest.approx(expected, rel=1e-9), f"net {number}, {way}"
                for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
                    assert_close(a, b, 1e-9, f"net {number}, {way}")
            elif not way.rows:
                assert found == expected, f"net {number}, {way}"
                assert_same_bits(model.get_weights(), plain.get_weights())
    assert max(worst) <= 1.05


def test_recomputation_of_twenty_uniform_layers() -> None:
    """1.8 times less for the activations at 16 % more operations, 2.5 times less at 25 %, by the plans."""
    batch, width = 2048, 64
    model = uniform(20, width)
    graph, sizes = model.graph(TRAINING), {"batch": batch}
    one_layer = batch * width * 4
    work = flops(model, Way(), batch)

    def activations(way: Way) -> float:
        """Values of a layer's size that the arena holds beside the two gradients at hand."""
        plan = make_plan(way.graph(lambda blocks: graph, TRAINING), CPU.profile, sizes)
        return plan.arena_bytes / one_layer - 2

    all_kept = activations(Way())
    assert 18.9 < all_kept < 19.3
    found = [
        (all_kept / activations(way), flops(model, way, batch) / work - 1)
        for way in (Way(batch, 0, round(share * one_layer)) for share in np.arange(6, 20, 0.5))
    ]
    assert any(times >= 1.8 and extra <= 0.16 for times, extra in found)
    assert any(times >= 2.5 and extra <= 0.25 for times, extra in found)
    third = Way(batch, batch // 4)
    plan = make_plan(model.graph(NEXT), CPU.profile, {"batch": third.rows, "whole batch": batch})
    assert plan.arena_bytes * 3 <= make_plan(graph, CPU.profile, sizes).arena_bytes


def test_cheap_operations_are_repeated_first() -> None:
    """sin keeps its input and its output: half of it comes back at the price of a sine."""
    model = uniform(20, 64, "sin")
    graph, sizes = model.graph(TRAINING), {"batch": 512}
    way = Way(512, 0, round(kept_bytes(graph, sizes) * 0.55))
    before, after = (make_plan(g, CPU.profile, sizes).arena_bytes for g in (graph, way.graph(lambda blocks: graph, TRAINING)))
    assert after < 0.6 * before
    assert flops(model, way, 512) < 1.01 * flops(model, Way(), 512)


def test_copies_run_when_the_backward_gets_to_them_and_are_never_merged_away() -> None:
    model = uniform(20, 16)
    graph, sizes = model.graph(TRAINING), {"batch": 64}
    again = recomputed(graph, least_bytes(graph, sizes), sizes)
    verify(again)
    assert len(merge(again).nodes) == len(again.nodes) > len(graph.nodes)
    assert list(again.updates) == list(graph.updates) and not again.outputs
    plan = make_plan(again, CPU.profile, sizes)
    forward, backward = (
        [i for i, step in enumerate(plan.steps) if step.op == "matmul" and step.place.phase == phase]
        for phase in (FORWARD, BACKWARD)
    )
    copies = forward[20:]
    assert len(copies) == len(forward) - 20 > 0
    between = [sum(i < copy for i in backward) for copy in copies]
    assert between[0] > 0 and len(set(between)) > 1, "copies run before the backward gets to them"
    gates = [step.after for step in plan.steps if step.after]
    assert len(set(gates)) > 1, "all copies wait for the same gradient"


def test_a_graph_with_nothing_to_give_up_stays_as_it_is() -> None:
    model = Net((3, 2), ("none",)).model()
    graph, sizes = model.graph(TRAINING), {"batch": 4}
    assert recomputed(graph, kept_bytes(graph, sizes), sizes) is graph


def test_random_operations_are_copied_and_variables_are_written_once() -> None:
    model = deep(DEEP["dropout, deep"])
    graph, sizes = model.graph(TRAINING), {"batch": 20}
    plan = make_plan(recomputed(graph, least_bytes(graph, sizes), sizes), CPU.profile, sizes)
    assert sum(step.op == "uniform" for step in plan.steps) > 5
    written = [variable for step in plan.steps for write in step.writes if (variable := plan.values[write.value].variable)]
    assert set(written) == set(graph.updates)


# --- a budget that is kept --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", range(8))
def test_what_fit_holds_within_a_budget_is_what_was_planned(block: int, uncollected: None) -> None:
    """To the byte, on random nets and budgets between all and the smallest; nothing is allocated in steady state."""
    model = None
    for number in range(block, 64, 8):
        net = random_net(number)
        x, y = net.data(3 * net.batch + 1)
        plain = net.model()
        least, between, full = (budget_between(plain, net.batch, share, data=Data(len(x))) for share in (0, 0.25, 1))
        plain.fit(x, y, batch_size=net.batch, epochs=2, seed=3, verbose=0)
        for budget in {full, between, least}:
            model = None  # what it frees is no longer counted from here on
            held = af.memory.allocated("cpu")
            model = net.model()
            plan = model.fit(x, y, batch_size=net.batch, epochs=2, seed=3, verbose=0, memory_budget=budget).plan
            report = model.memory(net.batch, rows=len(x), memory_budget=budget)
            assert af.memory.allocated("cpu") - held == report.total_bytes
            assert report.total_bytes + on_the_device(report) == plan.total_bytes <= budget
            if plan.micro_batch == net.batch:
                assert_same_bits(model.get_weights(), plain.get_weights())
            else:
                for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
                    assert_close(a, b, 1e-9, f"net {number}")
            made = af.memory.allocations("cpu")
            again = model.fit(x, y, batch_size=net.batch, seed=3, verbose=0, memory_budget=budget).plan
            assert af.memory.allocations("cpu") == made or not ON_HOST, "a second fit allocates"
            assert again.way == plan.way


@pytest.mark.parametrize("share", [0.9, 0.4, 0.0])
def test_what_the_allocator_sees_is_what_was_planned(share: float) -> None:
    net = Net((6, *[8] * 10, 3), (*["tanh", "sin"] * 5, "softmax"), "categorical_crossentropy", {"momentum": 0.9}, 64)
    x, y = net.data(150)
    budget = budget_between(net.model(), 64, share, data=Data(150))
    with tracing():
        held = array_bytes()
        model = net.model()
        history = model.fit(x, y, batch_size=64, epochs=2, verbose=0, memory_budget=budget)
        report = model.memory(64, rows=150, memory_budget=budget)
        assert array_bytes() - held == report.total_bytes
        assert report.total_bytes + on_the_device(report) == history.plan.total_bytes <= budget


def test_validation_and_sample_weights_are_within_the_budget_too(uncollected: None) -> None:
    x, y = samples(90)
    weights = np.random.default_rng(1).uniform(0, 2, 90)
    options = {"batch_size": 40, "epochs": 2, "validation_split": 0.3, "sample_weight": weights, "seed": 1, "verbose": 0}
    plain = deep(DEEP["tanh"], af.Adam(0.01))
    expected = plain.fit(x, y, **options).history
    given = {"weighted": True, "validation_weighted": True, "data": Data(63, 27)}
    model = None
    for share in (0.7, 0.3):
        model = None
        held = af.memory.allocated("cpu")
        model = deep(DEEP["tanh"], af.Adam(0.01))
        budget = budget_between(plain, 40, share, **given)
        history = model.fit(x, y, **options, memory_budget=budget)
        report = model.memory(40, rows=63, validation_rows=27, weighted=True, memory_budget=budget)
        assert af.memory.allocated("cpu") - held == report.total_bytes
        assert report.total_bytes + on_the_device(report) == history.plan.total_bytes <= budget
        for name, values in expected.items():
            assert history.history[name] == pytest.approx(values, rel=1e-9), name


def test_a_batch_that_fits_runs_as_without_a_budget(capsys: pytest.CaptureFixture[str]) -> None:
    net = Net(batch=16)
    x, y = net.data(50)
    model, plain = net.model(), net.model()
    history = model.fit(x, y, batch_size=16, seed=1, verbose=2, memory_budget="1 GB")
    assert capsys.readouterr().out.startswith("memory: within 953.7 MiB: the whole batch of 16 rows fits; planned ")
    assert history.plan.way == Way() and history.plan.extra_flops == 0.0
    report = net.model().memory(16, rows=50, memory_budget="1GiB")
    assert plain.memory(16).total_bytes == report.total_bytes == history.plan.total_bytes - on_the_device(report)
    plain.fit(x, y, batch_size=16, seed=1, verbose=0)
    assert_same_bits(model.get_weights(), plain.get_weights())
    assert plain.fit(x, y, verbose=0).plan is None


def test_fit_prints_what_it_chose_and_keeps_it(capsys: pytest.CaptureFixture[str]) -> None:
    model = uniform(12, 32)
    x = np.random.default_rng(0).normal(size=(600, 32))
    full = model.memory(600).total_bytes
    plan = model.fit(x, x, batch_size=600, verbose=2, memory_budget=full // 2).plan
    text = capsys.readouterr().out.splitlines()[0]
    assert text == f"memory: {plan}" and f"{plan.total_bytes:,} B" in text
    count = -(-600 // plan.micro_batch)
    assert f"{count} micro-batches of up to {plan.micro_batch} rows for each batch of 600" in text
    assert text.endswith("extra FLOPs") and plan.extra_flops < 0.01
    model.fit(x, x, batch_size=600, verbose=0, memory_budget=full // 2)
    assert capsys.readouterr().out == ""
    few = (
        uniform(12, 32)
        .fit(x[:40], x[:40], batch_size=40, verbose=2, memory_budget=uniform(12, 32).memory(40).total_bytes - 9_000)
        .plan
    )
    text = capsys.readouterr().out.splitlines()[0]
    assert few.micro_batch == 40 and few.recomputed and "computed again for the backward" in text
    assert f"{few.extra_flops:.1%} extra FLOPs" in text
    assert few.extra_flops == pytest.approx(flops(model, few.way, 40) / flops(model, Way(), 40) - 1)


def test_the_choice_is_reported_by_memory_and_is_the_same_every_time() -> None:
    model = uniform(12, 32)
    budget = model.memory(600).total_bytes // 2
    report = model.memory(600, memory_budget=budget)
    found = choose(model, 600, budget, CPU)
    assert report.total_bytes == found.total_bytes <= budget
    assert report.optimizer_state_bytes >= sum(4 * weight.size for weight in model.weights), "the sums of gradients"
    assert sum(row.held_bytes for row in report.layers) == report.lower_bound_bytes <= report.arena_bytes
    other = choose(uniform(12, 32), 600, budget, CPU)
    assert found.way == other.way and [str(plan) for plan in found.plans.values()] == [
        str(plan) for plan in other.plans.values()
    ]
    assert choose(model, 600, budget, device("cuda")).total_bytes <= budget


def test_a_report_of_micro_batches_says_so_and_counts_the_whole_step() -> None:
    model = uniform(12, 32)
    plain = model.memory(600)
    budget = plain.total_bytes // 2
    found = choose(model, 600, budget, CPU)
    report = model.memory(600, memory_budget=budget)
    assert report.micro_batch == found.micro_batch < 600
    added = (-(-600 // found.micro_batch) - 1) * model.count_params()  # gradients of the parts, one to the other
    assert report.flops == found.flops == pytest.approx(plain.flops + added, rel=1e-6)
    assert f"batch size 600 in micro-batches of {found.micro_batch}, on" in report.title
    assert f"a step has {report.flops:,} flops" in str(report)
    assert report.layers[0].output_shape == (found.micro_batch, 32)
    assert (plain.micro_batch, plain.recomputed) == (None, ()) and "micro-batch" not in str(plain)
    again = model.memory(40, memory_budget=model.memory(40).total_bytes - 9_000)
    assert again.micro_batch is None and again.recomputed
    assert f"computed again for the backward: {again.recomputed[0]}" in str(again)
    largest = model.memory(2, memory_budget=least_budget(model, 2))  # the update needs most of the arena
    assert largest.layers[0].output_shape[0] == largest.micro_batch or largest.micro_batch is None


@pytest.mark.parametrize("budget", [None, "1MB"])
def test_class_weights_and_a_validation_without_them_are_reported_as_they_run(budget: str | None, uncollected: None) -> None:
    x, y = np.random.default_rng(0).normal(size=(200, 6)).astype("float32"), (np.arange(200) % 3).astype("int32")
    held = af.memory.allocated("cpu")
    model = af.Sequential([af.Dense(4, "tanh", input_shape=[6]), af.Dense(3, "softmax")])
    model.compile("sparse_categorical_crossentropy", "adam")
    options: dict[str, Any] = {"rows": 10, "validation_rows": 200, "weighted": True, "memory_budget": budget}
    report = model.memory(200, validation_weighted=False, **options)
    assert report.total_bytes < model.memory(200, **options).total_bytes
    model.fit(
        x[:10], y[:10], batch_size=200, validation_data=(x, y), class_weight={0: 1, 1: 2, 2: 3}, memory_budget=budget, verbose=0
    )
    assert af.memory.allocated("cpu") - held == report.total_bytes


@pytest.mark.parametrize("budget", [None, "1MB"])
def test_validation_sequences_of_another_length_are_reported(budget: str | None, uncollected: None) -> None:
    x, v = (np.random.default_rng(0).normal(size=(20, length, 1)).astype("float32") for length in (10, 150))
    held = af.memory.allocated("cpu")
    model = af.Sequential([af.GRU(2, return_sequences=True, input_shape=[None, 1]), af.Dense(1)])
    model.compile("mse", "sgd")
    report = model.memory(10, length=10, rows=20, validation_rows=20, validation_length=150, memory_budget=budget)
    model.fit(x, x, batch_size=10, validation_data=(v, v), memory_budget=budget, verbose=0)
    assert af.memory.allocated("cpu") - held == report.total_bytes


def test_too_small_a_budget_names_the_smallest_that_would_do() -> None:
    x, y = samples(30)
    model = deep(DEEP["tanh"])
    before = af.memory.allocated("cpu")
    with pytest.raises(af.Error) as error:
        model.fit(x, y, batch_size=30, verbose=0, memory_budget="1 KiB")
    text = str(error.value)
    assert "no way to run batches of 30 rows fits the budget." in text
    assert "received: 1,024 bytes (1.0 KiB)" in text
    needed = int(text.rpartition("memory_budget=")[2])
    assert f"at least {needed:,} bytes" in text
    assert af.memory.allocated("cpu") == before, "something was allocated before the error"
    with pytest.raises(af.Error, match=f"memory_budget={needed}"):
        model.fit(x, y, batch_size=30, verbose=0, memory_budget=needed - 1)
    plan = model.fit(x, y, batch_size=30, verbose=0, memory_budget=needed).plan
    assert plan.total_bytes <= needed


@pytest.mark.parametrize("budget", ["much", "", 0, -1, "0 GB", 1.5, True, [8]])
def test_what_is_no_amount_of_memory_is_refused(budget: Any) -> None:
    model = Net().model()
    x, y = Net().data(8)
    before = model.get_weights()
    with pytest.raises(af.Error, match="memory_budget"):
        model.fit(x, y, verbose=0, memory_budget=budget)
    with pytest.raises(af.Error, match="memory_budget"):
        model.memory(8, memory_budget=budget)
    assert_same_bits(model.get_weights(), before)


def test_a_budget_holds_after_larger_steps_and_is_given_up_after_it(uncollected: None) -> None:
    x, y = samples(200)
    held = af.memory.allocated("cpu")
    model = deep(DEEP["tanh"])
    model.fit(x, y, batch_size=200, verbose=0)
    full = model.memory(200).total_bytes
    assert af.memory.allocated("cpu") - held == full
    for budget in (full // 2, least_budget(model, 200, data=Data(200))):
        plan = model.fit(x, y, batch_size=200, verbose=0, memory_budget=budget).plan
        assert plan.total_bytes <= budget
        report = model.memory(200, rows=200, memory_budget=budget)
        assert af.memory.allocated("cpu") - held == report.total_bytes == plan.total_bytes - on_the_device(report)
        model.predict(x[:10])
        model.fit(x, y, batch_size=200, verbose=0)
        assert af.memory.allocated("cpu") - held == full
        model.train_on_batch(x, y)
        assert af.memory.allocated("cpu") - held == full
    assert plan.micro_batch < 200, "micro-batches leave something behind in no test"


def test_layers_may_be_frozen_in_the_middle_of_a_fit_within_a_budget() -> None:
    x, y = samples(60)

    def freeze(model: af.Model) -> Any:
        def at_end(epoch: int, logs: Any) -> None:
            model.layers[1].trainable = False

        return af.callbacks.LambdaCallback(on_epoch_end=at_end)

    plain, model = deep(DEEP["tanh"]), deep(DEEP["tanh"])
    for each, budget in ((plain, None), (model, round(plain.memory(60).total_bytes * 0.6))):
        each.fit(x, y, batch_size=60, epochs=3, verbose=0, seed=1, callbacks=freeze(each), memory_budget=budget)
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        assert_close(a, b, 1e-12)


def test_the_kinds_of_programs_that_run() -> None:
    """One plan for each kind, whatever the sizes of the last batch and the last micro-batch."""
    x, y = samples(53)
    model = deep(list)
    trained(model, Way(20, 6), x, y, 20)
    assert set(model._workspace.plans) == {FIRST, NEXT, UPDATING}
    assert all(isinstance(program, Program) for program in model._workspace.programs.values())
    assert {(kind, rows) for kind, rows, *_ in model._workspace.programs} == {
        (FIRST, 6), (NEXT, 6), (NEXT, 2), (NEXT, 1), (UPDATING, 1)
    }  # fmt: skip


@needs_compiler
def test_budgets_hold_on_the_simulated_device(uncollected: None) -> None:
    x, y = samples(48)
    before = af.memory.allocated("simulated")
    there = deep(STACKS["dropout"], "adam", width=40).to("simulated")
    budget = choose(there, 48, 1 << 30, device("simulated"), data=Data(48)).total_bytes - 512
    during = []
    watch = af.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: during.append(af.memory.allocated("simulated") - before)
    )
    plan = there.fit(x, y, batch_size=48, epochs=2, verbose=0, memory_budget=budget, callbacks=watch).plan
    assert plan.way != Way()
    assert during == [plan.total_bytes] * 2 and plan.total_bytes <= budget
    for way in (Way(24, 7), keeping(deep(STACKS["dropout"]), 24, 0.0)):
        here, there = (deep(STACKS["dropout"], "adam") for _ in range(2))
        there.to("simulated")
        expected = trained(here, way, x, y, 24)
        assert trained(there, way, x, y, 24) == pytest.approx(expected, rel=1e-9)


def test_programs_beside_training_are_in_the_total_of_a_budget() -> None:
    """As large as their own report says, if they take more than the budgeted steps do."""
    model = uniform(12, 32)
    budget = model.memory(600).total_bytes // 8
    trained_alone = model.memory(600, memory_budget=budget)
    assert trained_alone.total_bytes <= budget
    for kind in ("evaluation", "prediction"):
        alone = model.memory(600, programs=[kind])
        both = model.memory(600, programs=["training", kind], memory_budget=budget)
        assert alone.arena_bytes > trained_alone.arena_bytes
        assert both.arena_bytes == alone.arena_bytes and both.total_bytes > budget
    budget += on_the_device(model.memory(600, rows=600, validation_rows=600))
    with_rows = model.memory(600, programs=["training"], rows=600, validation_rows=600, memory_budget=budget)
    assert with_rows.total_bytes + on_the_device(with_rows) <= budget


def test_data_in_stages_is_as_large_as_the_micro_batches_it_comes_in() -> None:
    model = uniform(12, 32)
    rows = 2**29  # too many to stay on a device
    budget = model.memory(4096, device="cuda").total_bytes // 2
    found = choose(model, 4096, budget, device("cuda"), data=Data(rows))
    report = model.memory(4096, device="cuda", rows=rows, memory_budget=budget)
    assert found.micro_batch < 4096
    assert {held.name: held.nbytes for held in report.data}["two pinned batches of training data"] == (
        2 * found.micro_batch * 2 * 32 * 4
    )
    there = sum(held.nbytes for held in report.data if held.where == "cuda")
    assert report.total_bytes + there == found.total_bytes <= budget
