"""Plans: small, sound, the same everywhere, and right at every batch size. And the verifier, on planted faults."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest
from helpers import REPEATABLE, Array, Runner, check_gradient, interpret, result, variable
from hypothesis import given
from hypothesis import strategies as st

import aforo as af
import aforo_backends
from aforo import ops
from aforo.device import CPU
from aforo.gradient import gradient
from aforo.graph import BATCH as BATCH_ROLE
from aforo.graph import PRIMITIVES, Graph, Tensor, Variable, apply, leaf, merge
from aforo.graph import verify as verify_graph
from aforo.plan import Operand, Plan, make_plan, verify
from aforo.specs import BATCH, DTYPES, Layout, at
from aforo_backends.contract import OVERWRITTEN, Profile

ROOT = Path(__file__).parent.parent
MIB = 2**20
pytestmark = pytest.mark.about_numpy("its plans are looked at, step by step")

# A backend with other data: coarser alignment, a pool that rounds, sums of its own. And one whose steps share kernels.
POOLED = Profile(name="pooled", alignment=256, slack=0, rounding=512, product_sums=False)
FUSING = aforo_backends.profile("cuda")


# --- independent views of a plan --------------------------------------------------------------------------------------


def lifetimes(plan: Plan) -> dict[int, tuple[int, int]]:
    """For every value of the arena the step that writes it and the last that reads it, from the steps alone."""
    lives: dict[int, tuple[int, int]] = {}
    for number, step in enumerate(plan.steps):
        for operand in (*step.scratch, *step.writes, *step.reads):
            if plan.values[operand.value].offset is not None:
                lives[operand.value] = (lives.get(operand.value, (number, 0))[0], number)
    for operand in plan.outputs.values():
        if plan.values[operand.value].offset is not None:
            lives[operand.value] = (lives[operand.value][0], len(plan.steps) - 1)
    return lives


def padded(plan: Plan, value: int) -> int:
    """Bytes of a value, up to the next aligned byte."""
    nbytes = DTYPES[plan.values[value].dtype] * int(np.prod(at(plan.values[value].shape, plan.sizes), dtype=int))
    return -(-nbytes // plan.profile.alignment) * plan.profile.alignment


def lower_bound(plan: Plan) -> int:
    """The most bytes of values that live during one step; one written over an input that ends there counts once."""
    lives = lifetimes(plan)
    live = [0] * len(plan.steps)
    for value, (start, end) in lives.items():
        for number in range(start, end + 1):
            live[number] += padded(plan, value)
    for number, step in enumerate(plan.steps):
        where = [plan.values[write.value].offset for write in step.writes]
        over = {read.value for read in step.reads if read.value in lives and plan.values[read.value].offset in where}
        live[number] -= sum(padded(plan, value) for value in over)
    most = max(live, default=0)
    profile = plan.profile
    return -(-(most + profile.slack) // profile.rounding) * profile.rounding if most else 0


def walk(layout: Layout) -> list[tuple[Any, Any]]:
    """Sizes and steps of the axes that are longer than 1."""
    return [(size, step) for size, step in zip(layout.shape, layout.strides, strict=True) if size != 1]


def overlaps(plan: Plan) -> list[tuple[int, int]]:
    """Pairs of values that live at the same time in the same bytes, and are not an input and the output written over it."""
    lives = lifetimes(plan)
    values = list(lives)
    start, end = np.array([lives[v] for v in values], int).reshape(-1, 2).T
    low = np.array([plan.values[v].offset for v in values], int)
    high = low + np.array([padded(plan, v) for v in values], int)
    together = (start[:, None] <= end) & (start <= end[:, None]) & (low[:, None] < high) & (low < high[:, None])
    allowed = set()
    for number, step in enumerate(plan.steps):
        may = range(len(step.reads))[OVERWRITTEN[step.op]] if step.op in OVERWRITTEN else PRIMITIVES[step.op].overwrites
        for i, read in enumerate(step.reads):
            for write in step.writes:
                same = all(walk(r.layout) == walk(write.layout) for r in step.reads if r.value == read.value)
                if i in may and same and read.value in lives and lives[read.value][1] == number:
                    allowed.add(frozenset((read.value, write.value)))
    pairs = [(values[i], values[j]) for i, j in zip(*np.nonzero(together), strict=True) if i < j]
    return [pair for pair in pairs if frozenset(pair) not in allowed]


def late_readers(plan: Plan) -> list[tuple[int, int]]:
    """Pairs of a step that writes a variable's new value and a later one that reads the old value."""
    first_write: dict[int, int] = {}
    written = {operand.value for step in plan.steps for operand in step.writes}
    for number, step in enumerate(plan.steps):
        for write in step.writes:
            owner = plan.values[write.value].variable
            if owner is not None:
                first_write.setdefault(id(owner), number)
    return [
        (first_write[id(plan.values[r.value].variable)], number)
        for number, step in enumerate(plan.steps)
        for r in step.reads
        if plan.values[r.value].variable is not None
        and r.value not in written
        and number > first_write.get(id(plan.values[r.value].variable), len(plan.steps))
    ]


def assert_sound(plan: Plan) -> None:
    assert overlaps(plan) == []
    assert late_readers(plan) == []
    assert lower_bound(plan) == plan.lower_bound_bytes
    assert plan.arena_bytes >= plan.lower_bound_bytes
    high = max((offset + padded(plan, i) for i, v in enumerate(plan.values) if (offset := v.offset) is not None), default=0)
    assert plan.peak_bytes == high
    assert all(v.offset % plan.profile.alignment == 0 for v in plan.values if v.offset is not None)


def described(plan: Plan) -> str:
    """All a plan says, without the identities of objects."""

    def home(index: int) -> str:
        value = plan.values[index]
        if value.variable is not None:
            return f"{value.variable.owner}/{value.variable.name}"
        return repr(value.constant) if value.constant is not None else str(value.offset)

    def look(operand: Operand) -> str:
        return f"{operand.value} {operand.layout}"

    lines = [f"{i} {value.shape} {value.dtype} {home(i)}" for i, value in enumerate(plan.values)]
    for step in plan.steps:
        lines.append(
            f"{step.op} {sorted(step.attributes.items())} {step.place.layer} {step.place.phase} {look(step.writes[0])}"
        )
        lines.extend(map(look, (*step.reads, *step.scratch)))
    lines += [str(buffer) for buffer in plan.buffers]
    lines += [f"{name} {look(operand)}" for name, operand in plan.outputs.items()]
    return "\n".join(lines)


# --- stacks of dense layers -------------------------------------------------------------------------------------------


def stack(*widths: int, activation: Any = "relu", optimizer: Any = "sgd", dtype: str = "float32") -> af.Sequential:
    """A compiled network from widths[0] inputs to widths[-1] outputs."""
    model = af.Sequential(dtype=dtype)
    for units in widths[1:-1]:
        model.add(af.Dense(units, activation=activation))
    model.add(af.Dense(widths[-1]))
    model.build((None, widths[0]))
    model.compile(loss="mse", optimizer=optimizer)
    return model


def random_stack(seed: int) -> tuple[af.Sequential, int]:
    """A network of depth 1 to 14 and a batch size."""
    draw = random.Random(seed)
    widths = [draw.randint(1, draw.choice([8, 64, 600])) for _ in range(draw.randint(2, 15))]
    activation = draw.choice(["relu", "tanh", "sigmoid", None])
    optimizer = draw.choice(["sgd", af.SGD(0.1, momentum=0.9), af.SGD(0.1, momentum=0.9, nesterov=True)])
    return stack(*widths, activation=activation, optimizer=optimizer), draw.randint(1, 300)


@cache
def random_plans() -> list[tuple[Plan, float]]:
    """300 plans of training steps, and the processor time each took; for three backends in turn."""
    plans = []
    for seed in range(300):
        model, batch = random_stack(seed)
        graph = model.graph("training")
        started = process_time()
        plan = make_plan(graph, (POOLED, CPU.profile, FUSING)[seed % 3], {"batch": batch})
        plans.append((plan, process_time() - started))
    return plans


def test_arenas_of_random_networks_are_within_half_a_percent_of_the_lower_bound_on_average() -> None:
    ratios = [plan.arena_bytes / lower_bound(plan) for plan, _ in random_plans()]
    assert len(ratios) == 300
    assert sum(ratios) / len(ratios) <= 1.005
    assert max(ratios) <= 1.05


def test_plans_of_random_networks_are_sound_by_brute_force() -> None:
    for plan, _ in random_plans():
        assert_sound(plan)


def test_a_plan_of_a_random_network_takes_less_than_a_second() -> None:
    assert max(seconds for _, seconds in random_plans()) < 1.0


def test_a_random_network_updates_every_weight_in_place() -> None:
    for seed in range(0, 60, 4):
        model, batch = random_stack(seed)
        plan = model.plan(batch)
        updated = {id(plan.values[step.writes[0].value].variable) for step in plan.steps}
        assert {id(weight.variable) for weight in model.weights} <= updated
        copies = [step for step in plan.steps if step.op == "copy" and plan.values[step.writes[0].value].variable is not None]
        assert copies == []


def test_the_brute_force_checks_notice_faults() -> None:
    plan = stack(5, 7, 6, 3).plan(8)
    assert_sound(plan)
    v, w = next(live_pairs(plan))
    moved = with_offset(plan, w, plan.values[v].offset)
    assert overlaps(moved) != []
    update, reader = update_and_reader(plan)
    assert late_readers(moved_before(plan, update, reader)) != []


def test_the_largest_network_of_the_lecture_fits_the_budget() -> None:
    model = stack(784, 1024, 1024, 1024, 1024, 10, optimizer=af.SGD(0.01, momentum=0.9))
    assert model.memory(64).total_bytes <= 36 * MIB
    assert model.memory(16_384).total_bytes <= 405 * MIB


def test_a_prediction_keeps_about_the_two_widest_neighbours() -> None:
    # Nothing is kept for a backward: x W in one buffer, then the next product in another.
    widths = [100, 2000, 300, 1500, 1400, 10]
    plan = stack(*widths).plan(64, training=False)
    neighbours = max(64 * 4 * (a + b) for a, b in pairwise(widths[1:]))
    assert neighbours <= plan.peak_bytes <= 1.01 * neighbours


def test_a_gradient_dies_when_its_weight_is_updated() -> None:
    # With all gradients alive until the end the arena would hold every kernel's bytes once more.
    model = stack(*[512] * 9, optimizer=af.SGD(0.01, momentum=0.9))
    kernel = 4 * 512 * 512
    assert model.plan(1).arena_bytes < 3 * kernel


def test_a_thousand_layers_are_traced_differentiated_and_planned_in_seconds() -> None:
    started = process_time()
    plan = stack(*[8] * 1001).plan(32)
    assert process_time() - started < 5  # of the processor, on a shared machine; about one on its own
    assert len(plan.steps) > 5000


def test_planning_is_free_of_weights() -> None:
    before = af.memory.allocated("cpu")
    model = stack(200_000, 200_000, 10)
    assert model.memory(32).parameters_bytes > 160e9
    assert af.memory.allocated("cpu") == before


# --- the same everywhere ----------------------------------------------------------------------------------------------


def test_two_plans_of_one_model_are_equal() -> None:
    model = stack(20, 30, 25, 4)
    assert described(model.plan(16)) == described(model.plan(16))
    assert model.plan(16) == model.plan(16)


_ELSEWHERE = """
import sys
from test_plan import described, random_stack
for seed in (1, 2, 3, 4, 5):
    model, batch = random_stack(seed)
    print(described(model.plan(batch)))
    print(described(model.plan(batch, training=False)))
"""


def test_plans_are_the_same_in_every_process() -> None:
    expected = ""
    for seed in (1, 2, 3, 4, 5):
        model, batch = random_stack(seed)
        expected += described(model.plan(batch)) + "\n" + described(model.plan(batch, training=False)) + "\n"
    for hash_seed in ("1", "4242"):
        path = os.pathsep.join(str(ROOT / part) for part in ("framework", "backends", "tests"))
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", _ELSEWHERE]
        found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
        assert found.stdout == expected


# --- numbers ----------------------------------------------------------------------------------------------------------


def reference_step(weights: list[Array], velocities: list[Array], x: Array, y: Array, rate: float, momentum: float) -> float:
    """One step of a tanh network on the mean squared error, by hand, in float64; changes weights and velocities."""
    hs = [x]
    layers = list(zip(weights[::2], weights[1::2], strict=True))
    for i, (w, b) in enumerate(layers):
        z = hs[-1] @ w + b
        hs.append(np.tanh(z) if i < len(layers) - 1 else z)
    error = hs[-1] - y
    delta = 2 * error / error.size
    grads: list[Array] = []
    for i, (w, _) in reversed(list(enumerate(layers))):
        grads = [hs[i].T @ delta, delta.sum(0), *grads]
        delta = (delta @ w.T) * (1 - hs[i] ** 2)
    for w, v, g in zip(weights, velocities, grads, strict=True):
        v *= momentum
        v += g
        w -= rate * v
    return float(np.mean(error**2))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_plan_trains_at_every_smaller_batch_at_its_own_offsets(momentum: float) -> None:
    rng = np.random.default_rng(3)
    model = stack(4, 9, 6, 2, activation="tanh", optimizer=af.SGD(0.1, momentum=momentum), dtype="float64")
    weights = [rng.standard_normal(w.shape) * 0.5 for w in model.weights]
    model.set_weights(weights)
    velocities = [np.zeros_like(w) for w in weights]
    graph = model.graph("training")
    runner = Runner(graph, batch=11)
    (x_slot,) = [v for v in graph.variables if v.role == BATCH_ROLE and v.shape == (BATCH, 4)]
    (y_slot,) = [v for v in graph.variables if v.role == BATCH_ROLE and v.shape == (BATCH, 2)]
    (total,) = [v for v in graph.variables if v.owner == "totals" and v.name.startswith("loss")]
    for batch in (11, 7, 1, 10, 2, 11, *range(1, 11)):
        verify(runner.plan, {"batch": batch})
        x, y = rng.standard_normal((batch, 4)), rng.standard_normal((batch, 2))
        before = float(runner.value(total))
        runner.at(batch).write({x_slot: x, y_slot: y}).run()
        loss = reference_step(weights, velocities, x, y, 0.1, momentum)
        np.testing.assert_allclose(runner.value(total) - before, loss * batch, 1e-9)
        for found, expected in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_allclose(found, expected, 1e-9, 1e-12)
    assert runner.workspace.plans == {"test": [runner.plan]}, "a smaller batch made a plan of its own"


def test_plans_of_random_networks_hold_at_every_smaller_batch() -> None:
    for seed in range(30):
        model, batch = random_stack(seed)
        plan = model.plan(batch)
        for smaller in {1, 2, batch // 3 + 1, max(1, batch - 1)}:
            verify(plan, {"batch": smaller})


N = 3


def square_of(draw: Any, pool: list[Tensor], rows: list[Tensor]) -> Tensor:
    """Some new (3, 3) tensor made of known ones; every kind of view, copy and kernel."""
    x, y = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
    i = draw(st.integers(0, N - 1))
    kinds: dict[str, Callable[[], Tensor]] = {
        "transpose": lambda: x.T,
        "row": lambda: ops.broadcast_to(x[i], (N, N)),
        "column": lambda: ops.broadcast_to(x[:, i : i + 1], (N, N)),
        "fold": lambda: x.T.reshape(9).reshape(3, 3),
        "roll": lambda: ops.concatenate([x[1:], x[:1]], axis=0),
        "interleave": lambda: ops.concatenate([y[:, ::2], x[:, 1:2]], axis=1),
        "sum": lambda: ops.broadcast_to(ops.sum(x, 0), (N, N)),
        "sums": lambda: ops.broadcast_to(ops.sum(x, 1, keepdims=True), (N, N)),
        "total": lambda: ops.broadcast_to(ops.mean(x), (N, N)),
        "largest": lambda: x - ops.max(x, 1, keepdims=True),
        "copy": lambda: apply("copy", x),
        "stop": lambda: ops.stop_gradient(x),
        "tanh": lambda: ops.tanh(x),
        "sin": lambda: ops.sin(x),
        "add": lambda: x + y,
        "subtract": lambda: x - y,
        "multiply": lambda: x * y,
        "maximum": lambda: ops.maximum(x, y),
        "mask": lambda: x * (y > 0.0),
        "number": lambda: x * 0.5 + 1.0,
        "matmul": lambda: ops.tanh(x @ y),
        "padded": lambda: apply("pad", x[0:2, 0:1], before=(1, i), step=(1, 1), shape=(N, N)),
        "gram": lambda: ops.tanh(draw(st.sampled_from(rows)).T @ draw(st.sampled_from(rows))),
    }
    made: Tensor = kinds[draw(st.sampled_from(sorted(kinds)))]()
    return made


def rows_of(draw: Any, pool: list[Tensor], rows: list[Tensor]) -> Tensor:
    """Some new (batch, 3) tensor."""
    x, y = draw(st.sampled_from(rows)), draw(st.sampled_from(rows))
    w = draw(st.sampled_from(pool))
    kinds: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: ops.tanh(x @ w + w[0]),
        "add": lambda: x + y,
        "multiply": lambda: x * y,
        "softmax": lambda: ops.softmax(x),
        "centre": lambda: x - ops.mean(x, 0),
        "norm": lambda: x * ops.sum(y, 1, keepdims=True),
        "turn": lambda: ops.concatenate([x[:, 1:], y[:, :1]], axis=1),
        "twice": lambda: x.T.T * 2.0,
        "transposed": lambda: ops.sin(x.T).T,
        "flat": lambda: ops.sin(x.reshape(-1)).reshape(-1, N),
    }
    made: Tensor = kinds[draw(st.sampled_from(sorted(kinds)))]()
    return made


@st.composite
def programs(draw: Any) -> tuple[Graph, list[Variable], Variable]:
    """A graph of a few steps over three square variables and a batch slot: any outputs, any updates."""
    held = [variable(np.zeros((N, N)), name) for name in "abc"]
    slot = Variable("x", (BATCH, N), "float64", BATCH_ROLE, owner="batch")
    pool, rows = [leaf(v) for v in held], [leaf(slot)]
    for _ in range(draw(st.integers(0, 12))):
        if draw(st.booleans()):
            rows.append(rows_of(draw, pool, rows))
        else:
            pool.append(square_of(draw, pool, rows))
    updated = draw(st.lists(st.sampled_from(held), unique_by=id))
    updates = {v: draw(st.sampled_from(pool)) for v in updated}
    outputs = {f"o{i}": draw(st.sampled_from(pool + rows)) for i in range(draw(st.integers(0, 3)))}
    return merge(Graph(outputs, updates)), held, slot


@REPEATABLE
@given(programs(), st.integers(0, 2**32 - 1))
def test_random_programs_give_numpys_values_at_every_batch_and_update_in_order(program: Any, seed: int) -> None:
    graph, held, slot = program
    if not graph.nodes:
        return
    rng = np.random.default_rng(seed)
    runner = Runner(graph, batch=5)
    assert_sound(runner.plan)
    assert_sound(make_plan(graph, POOLED, {"batch": 5}))
    used = [v for v in [*held, slot] if v in graph.variables]
    for batch in (5, 3, 1, 5):
        runner.at(batch)
        values = {v: rng.uniform(-1, 1, (batch, N) if v is slot else (N, N)) for v in used}
        runner.write(values)
        outputs, updates = interpret(graph, values, {"batch": batch})
        found = runner.run()
        assert found.keys() == outputs.keys()
        for name, expected in outputs.items():
            np.testing.assert_allclose(found[name], expected, 1e-11, 1e-11)
        for v in used:
            np.testing.assert_allclose(runner.value(v), updates.get(v, values[v]), 1e-11, 1e-11)


# --- updates ----------------------------------------------------------------------------------------------------------


def updated(
    updates: Mapping[Variable, Tensor], outputs: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Array], list[Array]]:
    """The outputs of one run, and the new values."""
    runner = Runner(merge(Graph(outputs or {}, updates)))
    assert_sound(runner.plan)
    out = runner.run()
    return out, [runner.value(v) for v in updates]


def test_two_variables_swap() -> None:
    a, b = variable([1.0, 2.0], "a"), variable([3.0, 4.0], "b")
    np.testing.assert_array_equal(updated({a: leaf(b), b: leaf(a)})[1], [[3, 4], [1, 2]])


def test_many_variables_move_on_by_one() -> None:
    held = [variable([float(i)] * 4, f"v{i}") for i in range(7)]
    out = updated({v: leaf(held[(i + 1) % 7]) for i, v in enumerate(held)})[1]
    np.testing.assert_array_equal(out, [[float((i + 1) % 7)] * 4 for i in range(7)])


def test_variables_that_wait_for_one_another_see_the_old_values() -> None:
    a, b, c = (variable([x], n) for x, n in ((1.0, "a"), (2.0, "b"), (4.0, "c")))
    x, y, z = leaf(a), leaf(b), leaf(c)
    np.testing.assert_array_equal(updated({a: x + y, b: x - y, c: x * y * z})[1], [[3], [-1], [8]])


def test_a_variable_takes_a_view_of_another_that_changes_too() -> None:
    a, b = variable(np.arange(9.0).reshape(3, 3), "a"), variable(np.arange(9.0, 18.0).reshape(3, 3), "b")
    x, y = leaf(a), leaf(b)
    first, second = updated({a: y.T, b: ops.concatenate([x[1:], x[:1]], axis=0)})[1]
    np.testing.assert_array_equal(first, np.arange(9.0, 18.0).reshape(3, 3).T)
    np.testing.assert_array_equal(second, [[3, 4, 5], [6, 7, 8], [0, 1, 2]])


def test_a_variable_takes_a_view_of_itself() -> None:
    a = variable(np.arange(9.0).reshape(3, 3))
    x = leaf(a)
    np.testing.assert_array_equal(updated({a: x.T})[1][0], np.arange(9.0).reshape(3, 3).T)
    b = variable([1.0, 2.0])
    np.testing.assert_array_equal(updated({b: leaf(b)})[1][0], [1, 2])


def test_outputs_that_are_views_of_an_updated_variable_hold_its_old_value() -> None:
    a = variable(np.arange(6.0).reshape(2, 3))
    x = leaf(a)
    views = {"all": x, "turned": x.T, "row": x[1], "column": x[:, 1:2], "flat": x.reshape(6)}
    views["rows"] = ops.broadcast_to(x[0], (4, 3))
    out, (new,) = updated({a: x * 10.0}, views)
    np.testing.assert_array_equal(new, 10 * np.arange(6.0).reshape(2, 3))
    for name, node in views.items():
        old, _ = interpret(Graph({name: node}, {}), {a: np.arange(6.0).reshape(2, 3)}, {})
        np.testing.assert_array_equal(out[name], old[name])


def test_an_output_that_is_the_new_value_is_the_new_value() -> None:
    a = variable([1.0, 2.0])
    new = leaf(a) * 3.0
    out, (held,) = updated({a: new}, {"new": new, "more": new + 1.0})
    np.testing.assert_array_equal(held, [3, 6])
    np.testing.assert_array_equal(out["new"], [3, 6])
    np.testing.assert_array_equal(out["more"], [4, 7])


def test_two_variables_take_one_value() -> None:
    a, b = variable([1.0, 2.0], "a"), variable([3.0, 4.0], "b")
    new = leaf(a) + leaf(b)
    np.testing.assert_array_equal(updated({a: new, b: new})[1], [[4, 6], [4, 6]])


def test_a_variable_takes_a_value_that_another_one_is_computed_from_in_place() -> None:
    half = np.arange(9.0).reshape(3, 3) * 0.5
    for order in (1, -1):
        a, b = variable(2 * half, "a"), variable(np.eye(3), "b")
        t = leaf(a) * 0.5
        np.testing.assert_array_equal(updated(dict([(a, t + 1.0), (b, t)][::order]))[1][::order], [half + 1.0, half])
        a, b = variable(2 * half, "a"), variable(np.eye(3), "b")
        t = leaf(a) * 0.5
        np.testing.assert_array_equal(updated(dict([(a, t + 1.0), (b, t.T)][::order]))[1][::order], [half + 1.0, half.T])


def test_a_weight_waits_for_every_reader_of_its_old_value() -> None:
    # w is cheap to update at once; three later steps still need the old one.
    w, x = variable(np.eye(3), "w"), variable(np.ones((2, 3)), "x")
    old = leaf(w)
    h = ops.tanh(leaf(x) @ old)
    h = ops.tanh(h @ old)
    y = h @ old.T
    runner = Runner(merge(Graph({"y": y}, {w: old * 0.5})))
    steps = list(enumerate(runner.plan.steps))
    owner = [value.variable for value in runner.plan.values]
    reads = [i for i, step in steps if step.op == "matmul" and any(owner[read.value] is w for read in step.reads)]
    (update,) = [i for i, step in steps if owner[step.writes[0].value] is w]
    assert len(reads) == 3
    assert update > max(reads)
    np.testing.assert_allclose(runner.run()["y"], np.tanh(np.tanh(np.ones((2, 3)))), 1e-12)
    np.testing.assert_array_equal(runner.value(w), 0.5 * np.eye(3))


def test_a_weight_used_twice_is_one_variable_with_one_update() -> None:
    w = variable(np.array([[0.5, 0.2], [0.1, 0.4]]), "w")
    x = variable(np.array([[1.0, 2.0]]), "x")
    old = leaf(w)
    f = ops.sum(ops.tanh(ops.tanh(leaf(x) @ old) @ old))
    (g,) = gradient(f, [old])
    plan = make_plan(merge(Graph({}, {w: old - g})), CPU.profile, {})
    assert [v is w for v in plan.variables].count(True) == 1
    check_gradient(lambda t: ops.sum(ops.tanh(ops.tanh(leaf(x) @ t) @ t)), [np.array([[0.5, 0.2], [0.1, 0.4]])])


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_merging_makes_equal_nodes_one_and_drops_unused_ones() -> None:
    a = variable([1.0, 2.0])
    x = leaf(a)
    ops.exp(x)
    y = ops.tanh(x + 1.0) * ops.tanh(leaf(a) + 1.0)
    graph = merge(Graph({"y": y, "z": ops.tanh(x + 1.0)}, {}))
    assert [node.op for node in graph.nodes].count("tanh") == 1
    assert [node.op for node in graph.nodes].count("variable") == 1
    assert "exp" not in [node.op for node in graph.nodes]
    np.testing.assert_allclose(Runner(graph).run()["y"], np.tanh([2.0, 3.0]) ** 2, 1e-15)


def test_merging_keeps_apart_what_differs_only_in_attributes_or_dtype() -> None:
    x = leaf(variable(np.arange(4.0).reshape(2, 2)))
    outputs = {"rows": ops.sum(x, 0), "columns": ops.sum(x, 1), "cube": x**3, "fourth": x**4}
    outputs.update(single=ops.cast(x, "float32"), whole=ops.cast(x, "int32"))
    found = Runner(merge(Graph(outputs, {}))).run()
    for name, node in outputs.items():
        np.testing.assert_array_equal(found[name], result(node))


def test_the_graph_verifier_notices_wrong_specs_orders_and_updates() -> None:
    a = variable([[1.0, 2.0]], "a")
    x = leaf(a)
    y = ops.tanh(x)
    verify_graph(Graph({"y": y}, {a: y}))

    def node(inputs: tuple[Tensor, ...], shape: tuple[int, ...], dtype: str, serial: float | None = None) -> Tensor:
        return Tensor(y.primitive, inputs, {}, shape, dtype, y.place, serial=serial)

    for wrong, text in (
        (node((x,), (2, 1), "float64"), r"its rule says \(\(1, 2\), 'float64'\)"),
        (node((x,), (1, 2), "float32"), "its rule says"),
        (node((x,), (1, 2), "float64", x.serial), "an input was made after the node that reads it"),
    ):
        with pytest.raises(af.Error, match=text) as caught:
            verify_graph(Graph({"y": wrong}, {}))
        assert "tanh" in str(caught.value)  # the neighbourhood of the fault
    with pytest.raises(af.Error, match="it updates"):
        verify_graph(Graph({}, {a: y.T}))


# --- the verifier of plans, on planted faults -------------------------------------------------------------------------


def with_offset(plan: Plan, value: int, offset: int | None) -> Plan:
    values = list(plan.values)
    values[value] = replace(values[value], offset=offset)
    return replace(plan, values=tuple(values))


def with_steps(plan: Plan, steps: list[Any]) -> Plan:
    return replace(plan, steps=tuple(steps))


def with_step(plan: Plan, number: int, **changes: Any) -> Plan:
    steps = list(plan.steps)
    steps[number] = replace(steps[number], **changes)
    return with_steps(plan, steps)


def moved_before(plan: Plan, number: int, target: int) -> Plan:
    steps = list(plan.steps)
    steps.insert(target, steps.pop(number))
    return with_steps(plan, steps)


def live_pairs(plan: Plan) -> Iterator[tuple[int, int]]:
    """Values v, w of the arena such that w is written while v is still to be read by a later step."""
    lives = lifetimes(plan)
    for v, (start, end) in lives.items():
        for w, (other, _) in lives.items():
            if start < other < end:
                yield v, w


def update_and_reader(plan: Plan) -> tuple[int, int]:
    """A step that writes a variable's new value, and an earlier one that reads the old."""
    for number, step in enumerate(plan.steps):
        target = plan.values[step.writes[0].value].variable
        for earlier in range(number if target is not None else 0):
            for read in plan.steps[earlier].reads:
                if plan.values[read.value].variable is target and read.value != step.writes[0].value:
                    return number, earlier
    raise AssertionError("no update")


def refused(plan: Plan, text: str = "the plan is not sound") -> None:
    with pytest.raises(af.Error, match=text):
        verify(plan)


PLANS = [
    stack(5, 7, 6, 3).plan(8),
    stack(5, 7, 6, 3, activation="tanh", optimizer=af.SGD(0.1, momentum=0.9)).plan(8),
    stack(5, 7, 6, 3).plan(8, training=False),
    make_plan(stack(5, 7, 6, 3, activation="sigmoid").graph("training"), POOLED, {"batch": 8}),
]
each_plan = pytest.mark.parametrize("plan", PLANS, ids=["sgd", "momentum", "prediction", "pooled"])
each_training = pytest.mark.parametrize("plan", [PLANS[0], PLANS[1], PLANS[3]], ids=["sgd", "momentum", "pooled"])


@each_plan
def test_the_verifier_accepts_what_the_planner_makes(plan: Plan) -> None:
    verify(plan)


@each_training
def test_the_verifier_notices_a_value_moved_onto_a_live_one(plan: Plan) -> None:
    pairs = list(live_pairs(plan))
    assert len(pairs) > 10
    for v, w in pairs:
        offset = plan.values[v].offset
        assert offset is not None
        roomy = replace(plan, buffers=(*plan.buffers, replace(plan.buffers[0], offset=plan.peak_bytes, nbytes=4096)))
        refused(with_offset(roomy, w, offset), "overwritten or never written|writes over its input")
        last = offset + padded(plan, v) - plan.profile.alignment  # the last stretch only
        refused(with_offset(roomy, w, last), "overwritten or never written|writes over its input")


@each_plan
def test_the_verifier_notices_dependent_steps_that_changed_places(plan: Plan) -> None:
    writer = {step.writes[0].value: number for number, step in enumerate(plan.steps)}
    steps = list(enumerate(plan.steps))
    pairs = [(writer[read.value], number) for number, step in steps for read in step.reads if read.value in writer]
    assert pairs
    for first, second in pairs:
        swapped = list(plan.steps)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        refused(with_steps(plan, swapped))


@each_plan
def test_the_verifier_notices_a_missing_step(plan: Plan) -> None:
    read = {operand.value for step in plan.steps for operand in step.reads}
    read |= {operand.value for operand in plan.outputs.values()}
    needed = [number for number, step in enumerate(plan.steps) if step.writes[0].value in read]
    assert needed
    for number in needed:
        refused(with_steps(plan, [step for i, step in enumerate(plan.steps) if i != number]), "never written|nothing writes")


@each_training
def test_the_verifier_notices_an_update_before_a_reader_of_the_old_value(plan: Plan) -> None:
    number, reader = update_and_reader(plan)
    refused(moved_before(plan, number, reader))


def test_the_verifier_notices_an_early_update_that_depends_on_nothing_else() -> None:
    w, x = variable(np.eye(3), "w"), variable(np.ones((2, 3)), "x")
    plan = make_plan(merge(Graph({"y": leaf(x) @ leaf(w)}, {w: leaf(w) * 0.5})), CPU.profile, {})
    assert [step.op for step in plan.steps] == ["matmul", "multiply"]
    refused(moved_before(plan, 1, 0), "overwritten or never written")


@each_plan
def test_the_verifier_notices_a_value_that_is_not_aligned(plan: Plan) -> None:
    for value in lifetimes(plan):
        offset = plan.values[value].offset
        assert offset is not None
        refused(with_offset(plan, value, offset + 4), "not an aligned place")


@each_plan
def test_the_verifier_notices_a_value_beyond_the_arena(plan: Plan) -> None:
    for value in lifetimes(plan):
        refused(with_offset(plan, value, plan.peak_bytes), "beyond the arena")


@each_plan
def test_the_verifier_notices_a_value_before_the_arena(plan: Plan) -> None:
    for value in lifetimes(plan):
        refused(with_offset(plan, value, -1024))


@each_training
def test_the_verifier_notices_illegal_writes_in_place(plan: Plan) -> None:
    lives = lifetimes(plan)
    found = 0
    for number, step in enumerate(plan.steps):
        if PRIMITIVES[step.op].overwrites or step.writes[0].value not in lives:
            continue
        for read in step.reads:
            if read.value in lives:
                refused(with_offset(plan, step.writes[0].value, plan.values[read.value].offset), f"step {number} |overwritten")
                found += 1
    assert found > 3


def test_the_verifier_notices_writing_over_an_input_that_is_looked_at_in_another_way() -> None:
    x = leaf(variable(np.arange(9.0).reshape(3, 3)))
    t = ops.exp(x)
    plan = make_plan(Graph({"y": ops.sin(t)}, {}), CPU.profile, {})
    assert len(plan.buffers) == 1  # in place, legally
    turned = Operand(plan.steps[1].reads[0].value, Layout(0, (3, 3), (1, 3)))
    refused(with_step(plan, 1, reads=(turned,)), "writes over its input 0")
    first = Operand(plan.steps[1].reads[0].value, Layout(0, (3, 3), (0, 1)))
    refused(with_step(plan, 1, reads=(first,)), "writes over its input 0")


def test_the_verifier_notices_looking_beyond_a_value() -> None:
    x = leaf(variable(np.arange(9.0).reshape(3, 3)))
    plan = make_plan(Graph({"y": ops.sin(x)}, {}), CPU.profile, {})
    late, long, wide, early = (1, (3, 3), (3, 1)), (0, (4, 3), (3, 1)), (0, (3, 3), (6, 1)), (-1, (3, 3), (3, 1))
    for layout in (Layout(*late), Layout(*long), Layout(*wide), Layout(*early)):
        refused(with_step(plan, 0, reads=(Operand(plan.steps[0].reads[0].value, layout),)), "never written")


@each_training
def test_the_verifier_notices_scratch_that_meets_an_operand(plan: Plan) -> None:
    lives = lifetimes(plan)
    number = next(i for i, step in enumerate(plan.steps) if step.writes[0].value in lives and step.reads[0].value in lives)
    step = plan.steps[number]
    for meeting in (step.writes[0], step.reads[0]):
        scratch = replace(plan.values[meeting.value])
        grown = replace(plan, values=(*plan.values, scratch))
        operand = Operand(len(plan.values), meeting.layout)
        refused(with_step(grown, number, scratch=(operand,)), "scratch memory that meets its operands")


def test_the_verifier_notices_an_output_that_is_overwritten_before_the_end() -> None:
    x = leaf(variable(np.arange(6.0)))
    y = ops.exp(x)
    plan = make_plan(Graph({"y": y, "z": ops.sum(ops.sin(y))}, {}), CPU.profile, {})
    sin = next(step for step in plan.steps if step.op == "sin")
    refused(with_offset(plan, sin.writes[0].value, plan.values[plan.outputs["y"].value].offset), "overwritten or never written")


def test_the_verifier_notices_a_variable_that_nobody_may_write() -> None:
    # The product goes to w's memory after its last reader: no read goes wrong, but w is lost.
    w, x = variable(np.eye(3), "w"), variable(np.ones((3, 3)), "x")
    plan = make_plan(merge(Graph({"y": ops.exp(leaf(x) @ leaf(w)) @ leaf(x)}, {})), CPU.profile, {})
    exp = next(i for i, step in enumerate(plan.steps) if step.op == "exp")
    values = list(plan.values)
    lost = plan.steps[exp].writes[0].value
    values[lost] = replace(values[lost], offset=None, variable=w)
    refused(replace(plan, values=tuple(values)))


def test_the_verifier_notices_an_update_that_is_missing() -> None:
    w = variable(np.eye(3), "w")
    plan = make_plan(merge(Graph({"y": ops.exp(leaf(w))}, {w: leaf(w) * 0.5})), CPU.profile, {})
    refused(with_steps(plan, [step for step in plan.steps if plan.values[step.writes[0].value].variable is None]))


def test_a_fault_is_reported_with_its_step_and_the_steps_around_it() -> None:
    plan = PLANS[0]
    with pytest.raises(af.Error) as caught:
        verify(with_steps(plan, list(plan.steps[1:])))
    text = str(caught.value)
    assert text.startswith("the plan is not sound: step ")
    assert "reads value" in text
    assert "arena+" in text


def test_a_part_of_a_larger_value_is_copied_to_a_variable_and_never_computed_there() -> None:
    """The first values of something are dense too, but the whole of it would not fit."""
    x, w, s = variable(np.arange(10.0)), variable(np.zeros(4), "w"), variable(np.ones(4), "s")
    whole = ops.exp(leaf(x) * 0.1)
    later = ops.sin(leaf(x))[:4] * leaf(s)
    graph = merge(Graph({}, {w: whole[:4], s: later}))
    runner = Runner(graph)
    runner.run()
    np.testing.assert_allclose(runner.value(w), np.exp(np.arange(10.0) * 0.1)[:4], rtol=1e-14)
    np.testing.assert_allclose(runner.value(s), np.sin(np.arange(10.0))[:4], rtol=1e-14)
    plan = runner.plan
    (number,) = [i for i, step in enumerate(plan.steps) if step.op == "exp"]
    values = list(plan.values)
    wrong = plan.steps[number].writes[0].value
    values[wrong] = replace(values[wrong], offset=None, variable=w)
    refused(replace(plan, values=tuple(values)), "writes beyond")
