"""Steps that share a kernel: the same numbers as node by node in NumPy, in fewer steps and less memory."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from helpers import Runner, interpret, variable

import aforo as af
import aforo_backends
from aforo import ops
from aforo.gradient import gradient
from aforo.graph import BATCH as BATCH_ROLE
from aforo.graph import Graph, Tensor, Variable, leaf, merge
from aforo.plan import Plan, make_plan
from aforo.specs import BATCH
from aforo_backends import numpy, simulated

needs_compiler = pytest.mark.skipif(simulated.compiler() is None, reason="the simulated device needs a C++ compiler")
CUDA = aforo_backends.profile("cuda")


def written(plan: Plan) -> list[str]:
    """What each step computes."""
    return ["+".join(line.op for line in s.attributes["lines"]) if s.op == "fused" else s.op for s in plan.steps]


def network(optimizer: Any, head: str | None = "softmax", loss: str = "sparse_categorical_crossentropy") -> af.Sequential:
    model = af.Sequential([af.Dense(64, "relu", input_shape=[32]), af.Dense(10, head)])
    model.compile(loss=loss, optimizer=optimizer, metrics="accuracy" if head == "softmax" else None)
    return model


# --- what joins -------------------------------------------------------------------------------------------------------


def test_a_softmax_head_is_one_kernel_with_its_loss_its_accuracy_and_its_gradient() -> None:
    steps = written(network("sgd").plan(32, device="cuda"))
    (head,) = [step for step in steps if "exp" in step]
    assert {"add", "amax", "exp", "sum", "log", "argmax", "divide"} <= set(head.split("+"))
    assert len(steps) <= 12, steps


def test_products_are_added_to_weights_in_place() -> None:
    for optimizer, slots in (("sgd", 0), (af.SGD(0.1, momentum=0.9), 1)):
        model = network(optimizer)
        plan = model.plan(32, device="cuda")
        added = [step for step in plan.steps if step.op == "matmul_add"]
        assert len(added) == 2
        for step in added:
            target = plan.values[step.writes[0].value].variable
            assert target is not None and target.role == ("optimizer_state" if slots else "parameters")
            assert step.attributes == ({"alpha": 1.0, "beta": 0.9} if slots else {"alpha": -1.0, "beta": 1.0})


def test_adam_moves_a_weight_and_both_its_slots_in_one_kernel() -> None:
    plan = network("adam").plan(32, device="cuda")
    updates: dict[int, list[str]] = {}
    for number, step in enumerate(plan.steps):
        for write in step.writes:
            owner = plan.values[write.value].variable
            if owner is not None and owner.role in ("parameters", "optimizer_state"):
                updates.setdefault(number, []).append(owner.name)
    assert sorted(map(len, updates.values())) == [3, 3, 3, 3]


def test_what_only_a_group_reads_never_reaches_memory() -> None:
    model = af.Sequential([af.Dense(100, "softmax", input_shape=[4])])
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam")
    logits = 4096 * 100 * 4  # the gradient is written over them
    assert logits <= model.plan(4096, device="cuda").peak_bytes < 1.1 * logits
    assert make_plan(model.graph("training"), numpy.PROFILE, {"batch": 4096}).peak_bytes > 2 * logits


def test_a_backward_is_not_computed_early_only_because_it_could_be() -> None:
    x = Variable("x", (BATCH, 8), "float32", BATCH_ROLE)
    w = variable(np.eye(8, dtype="float32"), "w")
    y = ops.tanh(leaf(x) + 1.0)
    slow = ops.tanh(y @ leaf(w))
    graph = merge(Graph({"y": slow * (1.0 - y * y)}, {}))
    plan = make_plan(graph, CUDA, {"batch": 16})
    assert written(plan) == ["add+tanh", "matmul", "tanh+multiply+subtract+multiply"]


def test_a_plan_that_fuses_is_the_same_every_time() -> None:
    graph = network("adam").graph("training")
    assert make_plan(graph, CUDA, {"batch": 32}) == make_plan(graph, CUDA, {"batch": 32})


# --- the numbers ------------------------------------------------------------------------------------------------------

UNARY = (ops.exp, ops.tanh, ops.sigmoid, ops.relu, ops.square, ops.erf, ops.sin, ops.softplus, lambda x: ops.clip(x, -0.5, 0.5))
BINARY = (ops.add, ops.subtract, ops.multiply, ops.maximum, ops.minimum)


def random_program(seed: int, dtype: str = "float64") -> tuple[Graph, dict[Variable, Any], int]:
    """Elementwise operations, reductions of every kind, masks, broadcasts and updates over arrays of (batch, n)."""
    draw, rng = random.Random(seed), np.random.default_rng(seed)
    n, batch = draw.choice([1, 2, 5, 33, 130]), draw.choice([1, 3, 40, 150])
    fed = [Variable(f"x{i}", (BATCH, n), dtype, BATCH_ROLE) for i in range(2)]
    held = [variable(rng.uniform(0.2, 1.0, shape).astype(dtype), f"v{i}") for i, shape in enumerate([(n,), (), (n,)])]
    pool: list[Tensor] = [leaf(each) for each in (*fed, *held)]
    for _ in range(draw.randint(6, 22)):
        kind, x = draw.random(), draw.choice(pool[-9:])
        if kind < 0.4:
            made = draw.choice(UNARY)(ops.tanh(x))
        elif kind < 0.7:
            y = draw.choice(pool)
            if x.ndim == 1 and y.ndim == 2 and x.shape != y.shape[1:]:
                x = ops.reshape(x, (*x.shape, 1)) if x.shape == y.shape[:1] else y
            if y.ndim == 1 and x.ndim == 2 and y.shape != x.shape[1:]:
                y = ops.reshape(y, (*y.shape, 1)) if y.shape == x.shape[:1] else x
            made = draw.choice(BINARY)(x, y) if x.shape == y.shape or 0 in (x.ndim, y.ndim) or 2 in (x.ndim, y.ndim) else x
        elif kind < 0.8:
            made = ops.where(x > 0.3, x, x * 0.5)
        elif x.ndim:
            axes = draw.choice([axis for axis in (0, -1, None) if axis is None or x.ndim > 1])
            made = draw.choice([ops.sum, ops.mean, ops.max])(x, axes, keepdims=draw.random() < 0.3)
        else:
            made = ops.sqrt(ops.square(x) + 1.0)
        pool.append(ops.tanh(made))
    outputs = {f"y{i}": x for i, x in enumerate(draw.sample(pool[5:], min(3, len(pool) - 5)))}
    if draw.random() < 0.5:
        outputs["position"] = ops.argmax(pool[-1] + leaf(fed[0])) if pool[-1].ndim != 1 else ops.argmax(leaf(fed[0]))
    updates = {}
    for each in held:
        fitting = [x for x in pool if x.shape == each.shape]
        updates[each] = leaf(each) * 0.9 + draw.choice(fitting) * 0.1
    values = {each: rng.normal(size=(batch, n)).astype(dtype) for each in fed}
    return merge(Graph(outputs, updates)), values, batch


@needs_compiler
def test_random_programs_give_numpys_values_and_updates() -> None:
    fused = kernels = 0
    for seed in range(60):
        graph, values, batch = random_program(seed)
        runner = Runner(graph, batch, on="simulated")
        start = {each: each.initial() for each in graph.updates if each.initial is not None}
        expected, after = interpret(graph, {**values, **start}, {"batch": batch})
        found = runner.write({each: array for each, array in values.items() if each in graph.variables}).run()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-9, err_msg=f"seed {seed}, {name}")
        for each, array in after.items():
            np.testing.assert_allclose(runner.value(each), array, rtol=1e-9, atol=1e-9, err_msg=f"seed {seed}, {each}")
        lines = [len(step.attributes["lines"]) for step in runner.plan.steps if step.op == "fused"]
        fused, kernels = fused + sum(lines), kernels + len(lines)
    assert fused > 2.5 * kernels, "hardly anything was fused: this tests too little"


@needs_compiler
@pytest.mark.parametrize("shape", [(3, 7000), (5000, 3), (9000,), (2, 3, 5, 7), (70, 5, 90)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reductions_of_what_was_just_computed(shape: tuple[int, ...], dtype: str) -> None:
    values = np.random.default_rng(1).normal(size=shape).astype(dtype)
    x = leaf(variable(values))
    y = ops.sin(x) * 2.0
    axes = [None, 0, -1, (0, 1) if len(shape) > 1 else 0, tuple(range(1, len(shape))) or 0]
    outputs = {f"s{i}": ops.sum(y, axis) for i, axis in enumerate(axes)} | {"y": y, "norm": ops.sqrt(ops.sum(ops.square(y)))}
    outputs |= {f"m{i}": ops.max(y, axis) + 1.0 for i, axis in enumerate(axes)}
    found = Runner(Graph(outputs, {}), on="simulated").run()
    exact = np.sin(values.astype("float64")) * 2
    tolerance = {"float32": 2e-4, "float64": 1e-11}[dtype]
    for i, axis in enumerate(axes):
        np.testing.assert_allclose(found[f"s{i}"], exact.sum(axis), rtol=tolerance, atol=tolerance * 10)
        np.testing.assert_allclose(found[f"m{i}"], exact.max(axis) + 1, rtol=tolerance)
    np.testing.assert_allclose(found["norm"], np.sqrt((exact**2).sum()), rtol=tolerance)


@needs_compiler
def test_an_argmax_takes_the_first_of_equal_values_and_the_first_nan() -> None:
    values = np.array([[1.0, 3.0, 3.0, 2.0], [np.nan, 5.0, np.nan, 9.0], [2.0, 9.0, np.nan, np.nan], [-1.0, -1.0, -1.0, -1.0]])
    wide = np.tile(values, (1, 100))
    for array in (values, wide):
        x = leaf(variable(array))
        found = Runner(Graph({"p": ops.argmax(x * 1.0 + 0.0), "q": ops.argmax(x)}, {}), on="simulated").run()
        np.testing.assert_array_equal(found["p"], array.argmax(-1))
        np.testing.assert_array_equal(found["q"], array.argmax(-1))


@needs_compiler
def test_everything_folded_in_parts_plans_its_scratch_memory() -> None:
    x = Variable("x", (BATCH, 100), "float64", BATCH_ROLE)
    graph = Graph({"s": ops.sum(ops.exp(leaf(x))), "m": ops.max(ops.exp(leaf(x)))}, {})
    for batch in (500, 20):  # a plan for many rows also runs few
        runner = Runner(graph, 500, on="simulated").at(batch)
        (step,) = runner.plan.steps
        assert len(step.scratch) == 2
        values = np.random.default_rng(0).normal(size=(batch, 100))
        found = runner.write({x: values}).run()
        assert found["s"] == pytest.approx(np.exp(values).sum()) and found["m"] == np.exp(values).max()


@needs_compiler
@pytest.mark.parametrize("rows", [3, 7, 500])
def test_scattered_sums_are_the_same_with_few_rows_and_with_many(rows: int) -> None:
    rng = np.random.default_rng(0)
    picked, g = rng.integers(0, rows, (4, 9)), rng.normal(size=(4, 9, 5))
    table = leaf(variable(np.zeros((rows, 5))))
    loss = ops.sum(ops.gather(table, leaf(variable(picked))) * leaf(variable(g)))
    found = Runner(Graph({"g": gradient(loss, [table])[0]}, {}), on="simulated").run()["g"]
    expected = np.zeros((rows, 5))
    np.add.at(expected, picked, g)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@needs_compiler
def test_a_value_that_is_looked_at_in_another_way_reaches_memory_first() -> None:
    values = np.random.default_rng(0).normal(size=(6, 6))
    a = ops.exp(leaf(variable(values)))
    exact = np.exp(values)
    cases = {
        "turned": (a + a.T, exact + exact.T),
        "first row": (a + ops.broadcast_to(a[0:1], (6, 6)), exact + exact[:1]),
        "first column": (a * ops.broadcast_to(a[:, 0:1], (6, 6)), exact * exact[:, :1]),
        "row by column": (ops.sum(a * a.T, 0), (exact * exact.T).sum(0)),
        "sums across": (a / ops.sum(a, 0) + ops.sum(a, 1), exact / exact.sum(0) + exact.sum(1)),
    }
    found = Runner(Graph({name: y for name, (y, _) in cases.items()}, {}), on="simulated").run()
    for name, (_, expected) in cases.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-12, err_msg=name)
