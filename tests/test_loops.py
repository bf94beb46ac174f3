"""Loops as nodes of a graph: values and gradients against NumPy and finite differences, and what the planner makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import Array, Runner, check_gradient, result, variable, weighted
from test_fuse import written

from aforo import ops
from aforo.device import CPU
from aforo.errors import Error, InvalidValue
from aforo.gradient import gradient
from aforo.graph import Graph, Tensor, Variable, leaf, merge
from aforo.loop import Builder, each, last
from aforo.plan import Plan, make_plan, verify
from aforo.plan.loops import Loop
from aforo.specs import BATCH, TIME
from aforo_backends import simulated

needs_compiler = pytest.mark.skipif(simulated.compiler() is None, reason="the simulated device needs a C++ compiler")
LENGTH, ROWS, WIDTH = 5, 2, 3


def arrays(*shapes: tuple[int, ...], seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


DATA = arrays((LENGTH, ROWS, WIDTH), (WIDTH, WIDTH), (WIDTH,), (ROWS, WIDTH))


def loop(x: Tensor, kernel: Tensor, bias: Tensor, start: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """h ← tanh(x + h U + b) over all steps: every h, and the last."""
    builder = Builder(x.shape[0], **options)
    step, h = builder.along(x), builder.carry(start)
    after = ops.tanh(step + h @ kernel + bias)
    builder.keep(h, after)
    made = builder.made([after])
    return each(made.loop, made.outputs[0]), last(made.loop, 0)


def twin(x: Array, kernel: Array, bias: Array, start: Array, reverse: bool = False) -> Array:
    h, states = start, {}
    for t in range(len(x))[:: -1 if reverse else 1]:
        h = states[t] = np.tanh(x[t] + h @ kernel + bias)
    return np.stack([states[t] for t in range(len(x))])


def leaves(data: Sequence[Array]) -> list[Tensor]:
    return [leaf(variable(array)) for array in data]


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
def test_a_loop_gives_every_step_and_the_last(reverse: bool) -> None:
    shown, end = loop(*leaves(DATA), reverse=reverse)
    expected = twin(*DATA, reverse=reverse)
    np.testing.assert_allclose(result(shown), expected, rtol=1e-14)
    np.testing.assert_allclose(result(end), expected[0 if reverse else -1], rtol=1e-14)


def test_a_loop_of_one_step_and_one_that_only_carries() -> None:
    x, *rest = DATA
    np.testing.assert_allclose(result(loop(*leaves([x[:1], *rest]))[0]), twin(x[:1], *rest), rtol=1e-14)
    builder = Builder(LENGTH)
    before, now = builder.carry(leaf(variable(DATA[3]))), builder.along(leaf(variable(x)))
    builder.keep(before, now)  # a delay line: the value one step ago
    made = builder.made([before])
    np.testing.assert_array_equal(result(each(made.loop, made.outputs[0])), np.concatenate([DATA[3][None], x[:-1]]))


def test_a_state_that_never_changes() -> None:
    def function(x: Tensor, start: Tensor) -> Tensor:
        builder = Builder(x.shape[0])
        now, still, total = builder.along(x), builder.carry(start), builder.carry(start * 0.0)
        builder.keep(still, still)
        builder.keep(total, total + now * still)
        made = builder.made([])
        return sum_of([last(made.loop, 0), last(made.loop, 1)])

    x, start = DATA[0], DATA[3]
    expected = result(sum_of([leaf(variable(start)), leaf(variable(x.sum(0) * start))]))
    np.testing.assert_allclose(result(function(leaf(variable(x)), leaf(variable(start)))), expected, rtol=1e-12)
    check_gradient(function, [x, start])


def fibonacci(x: Tensor, start: Tensor) -> list[Tensor]:
    """Two states that wait for one another, one of them never shown; and a value that is neither."""
    builder = Builder(x.shape[0])
    now, a, b = builder.along(x), builder.carry(start), builder.carry(start * 0.5)
    builder.keep(a, b)
    builder.keep(b, ops.sin(a + b) + now)
    made = builder.made([a * b, now * 2.0, b])
    return [*(each(made.loop, y) for y in made.outputs), last(made.loop, 0), last(made.loop, 1)]


def test_states_that_take_each_others_values() -> None:
    x, start = DATA[0], DATA[3]
    found = [result(y) for y in fibonacci(leaf(variable(x)), leaf(variable(start)))]
    a, b, shown = start, start * 0.5, []
    for t in range(LENGTH):
        shown.append((a * b, x[t] * 2.0, b))
        a, b = b, np.sin(a + b) + x[t]
    for values, expected in zip(found, [*map(np.stack, zip(*shown, strict=True)), a, b], strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-13)


@pytest.mark.parametrize("look", [lambda x: ops.transpose(ops.transpose(x)), lambda x: ops.concatenate([x, x], 2)[:, :, 3:]])
def test_a_loop_reads_sequences_that_do_not_lie_step_after_step(look: Callable[[Tensor], Tensor]) -> None:
    x, *rest = leaves([np.ascontiguousarray(DATA[0].transpose(1, 0, 2)), *DATA[1:]])
    np.testing.assert_allclose(result(loop(look(ops.transpose(x, [1, 0, 2])), *rest)[0]), twin(*DATA), rtol=1e-14)


def test_what_is_the_same_at_every_step_is_computed_once_outside() -> None:
    x, kernel, bias, start = leaves(DATA)
    shown, _ = loop(x, ops.transpose(ops.exp(kernel)), ops.sin(bias) * 2.0, start)
    expected = twin(DATA[0], np.exp(DATA[1]).T, np.sin(DATA[2]) * 2.0, DATA[3])
    np.testing.assert_allclose(result(shown), expected, rtol=1e-13)
    (inside,) = loops(make_plan(Graph({"y": shown}, {}), CPU.profile, {}))
    assert {op for name in written(inside.plan) for op in name.split("+")} == {"matmul", "add", "tanh"}


def test_a_state_that_changes_its_shape_is_refused() -> None:
    builder = Builder(LENGTH)
    state = builder.carry(leaf(variable(DATA[3])))
    with pytest.raises(InvalidValue, match=r"another shape after a step than before it.\n.*\(2, 3\).*\n.*\(2, 6\)"):
        builder.keep(state, ops.concatenate([state, state], 1))


# --- gradients --------------------------------------------------------------------------------------------------------


def sum_of(values: Sequence[Tensor]) -> Tensor:
    total = weighted(values[0])
    for i, value in enumerate(values[1:]):
        total = total + weighted(value, i + 2)
    return total


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shown", [[0, 1], [0], [1]])
def test_the_gradient_of_a_loop_equals_a_finite_difference(shown: list[int], reverse: bool) -> None:
    check_gradient(lambda *x: sum_of([loop(*x, reverse=reverse)[i] for i in shown]), DATA)


def test_the_gradient_of_a_gradient_equals_a_finite_difference() -> None:
    def squared(*x: Tensor) -> Tensor:
        return sum_of(gradient(sum_of(loop(*x)), list(x)))

    check_gradient(squared, DATA)


def test_the_gradient_of_states_that_take_each_others_values() -> None:
    check_gradient(lambda *x: sum_of(fibonacci(*x)), [DATA[0], DATA[3]])


def test_gradients_of_what_is_the_same_at_every_step_in_every_use() -> None:
    """In products from both sides, in sums, broadcast, squared, and through functions of it alone."""

    def function(x: Tensor, w: Tensor, start: Tensor) -> Tensor:
        builder = Builder(x.shape[0])
        now, h = builder.along(x), builder.carry(start)
        after = ops.tanh(h @ w + ops.transpose(w @ ops.transpose(now))) * ops.sum(w) + now * w[0] + ops.reshape(w, (9,))[2:5]
        builder.keep(h, after)
        made = builder.made([after @ (w * w)])
        return sum_of([each(made.loop, made.outputs[0]), last(made.loop, 0)])

    check_gradient(function, [0.3 * DATA[0], 0.3 * DATA[1], DATA[3]])


def test_slices_of_gates_and_their_gradient() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        builder = Builder(x.shape[0])
        now, h = builder.along(x), builder.carry(ops.broadcast_to(ops.sum(w) * 0.0, (ROWS, 2)))
        gates = now + ops.concatenate([h, h * h], 1) @ w
        after = ops.sigmoid(gates[:, :2]) * ops.tanh(gates[:, 2:])
        builder.keep(h, after)
        made = builder.made([after])
        return weighted(each(made.loop, made.outputs[0]))

    check_gradient(function, arrays((LENGTH, ROWS, 4), (4, 4), seed=3))


def test_a_loop_in_a_loop() -> None:
    """Blocks of two steps: the inner loop is run again on the way back, from the states between blocks."""

    def blocks(x: Tensor, kernel: Tensor, bias: Tensor, start: Tensor) -> Tensor:
        builder = Builder(x.shape[0] // 2)
        part = builder.along(ops.reshape(x, (x.shape[0] // 2, 2, *x.shape[1:])))
        h = builder.carry(start)
        shown, end = loop(part, kernel, bias, h)
        builder.keep(h, end)
        made = builder.made([shown])
        return ops.reshape(each(made.loop, made.outputs[0]), x.shape)

    data = [arrays((6, ROWS, WIDTH), seed=4)[0], *DATA[1:]]
    np.testing.assert_allclose(result(blocks(*leaves(data))), twin(*data), rtol=1e-13)
    check_gradient(lambda *x: weighted(blocks(*x)), data)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 3, 7])
def test_truncated_back_propagation_stops_at_every_so_many_steps(cut: int, reverse: bool) -> None:
    """As if the sequence came in pieces of `cut` steps, each starting from a state that is no longer differentiated.

    What the first piece starts from is."""
    x, kernel, bias, start = leaves(DATA)
    shown, _ = loop(x, kernel, bias, start, cut=cut, reverse=reverse)
    pieces, state = [], start
    for first in range(0, LENGTH, cut):
        end = min(first + cut, LENGTH)
        piece = slice(LENGTH - end, LENGTH - first) if reverse else slice(first, end)
        part, state = loop(x[piece], kernel, bias, state, reverse=reverse)
        state = ops.stop_gradient(state)
        pieces.append(part)
    wanted = [x, kernel, bias, start]
    whole = ops.concatenate(pieces[::-1] if reverse else pieces, 0)
    for found, expected in zip(gradient(weighted(shown), wanted), gradient(weighted(whole), wanted), strict=True):
        np.testing.assert_allclose(result(found), result(expected), rtol=1e-10, atol=1e-12)


@needs_compiler
def test_values_and_gradients_on_the_simulated_device() -> None:
    check_gradient(lambda *x: sum_of(loop(*x)), DATA, on="simulated")
    check_gradient(lambda *x: sum_of(fibonacci(*x)), [DATA[0], DATA[3]], on="simulated")


# --- plans ------------------------------------------------------------------------------------------------------------


def symbolic(widths: tuple[int, int] = (WIDTH, WIDTH)) -> tuple[list[Variable], Graph]:
    """A loop of any length over any batch, with its gradients."""
    x = Variable("x", (TIME, BATCH, widths[0]), "float64", "batch", owner="batch")
    weights = [variable(array) for array in arrays((widths[0], widths[1]), (widths[1], widths[1]), (widths[1],))]
    start = ops.broadcast_to(ops.cast(leaf(weights[2]), "float64") * 0.0, (BATCH, widths[1]))
    shown, end = loop(leaf(x) @ leaf(weights[0]), leaf(weights[1]), leaf(weights[2]), start)
    error = ops.sum(ops.square(shown)) + ops.sum(end)
    grads = gradient(error, [leaf_of(error, weight) for weight in weights])
    return [x, *weights], merge(Graph({"e": error, "y": shown, **{f"g{i}": g for i, g in enumerate(grads)}}, {}))


def leaf_of(error: Tensor, weight: Variable) -> Tensor:
    return next(node for node in Graph({"e": error}, {}).nodes if node.op == "variable" and node.variable is weight)


def loops(plan: Plan) -> list[Loop]:
    return [step.loop for step in plan.steps if step.loop is not None]


def instructions(plan: Plan) -> int:
    return sum(1 if step.loop is None else len(step.loop.plan.steps) for step in plan.steps)


def test_the_plan_has_as_many_instructions_for_a_thousand_steps_as_for_two() -> None:
    _, graph = symbolic()
    short, long = (make_plan(graph, CPU.profile, {"batch": 4, "time": time}) for time in (2, 1000))
    assert instructions(short) == instructions(long) < 40
    assert len(loops(long)) == 2
    histories = 4 * (WIDTH * 8 * 1000)
    assert histories < long.peak_bytes - short.peak_bytes < 4 * histories


def test_plans_of_loops_are_deterministic() -> None:
    _, graph = symbolic()
    sizes = {"batch": 4, "time": 9}
    assert make_plan(graph, CPU.profile, sizes) == make_plan(graph, CPU.profile, sizes)


def test_a_prediction_keeps_no_history() -> None:
    x, *rest = leaves(DATA)
    plan = make_plan(Graph({"end": loop(x, *rest)[1]}, {}), CPU.profile, {})
    (step,) = [step for step in plan.steps if step.loop is not None]
    assert [plan.values[operand.value].shape for operand in step.writes] == [(ROWS, WIDTH)]


@pytest.mark.parametrize(("batch", "time"), [(4, 9), (4, 3), (2, 9), (1, 1)])
def test_a_plan_runs_shorter_sequences_and_smaller_batches_at_its_own_offsets(batch: int, time: int) -> None:
    (x, *weights), graph = symbolic()
    runner = Runner(graph, batch=4, time=9)
    data = arrays((time, batch, WIDTH), seed=7)[0]
    found = runner.at(batch, time).write({x: data}).run()
    assert runner.workspace.plans["test"] == [runner.plan]
    w = [weight.initial() for weight in weights]  # type: ignore[misc]
    expected = twin(data @ w[0], w[1], w[2], np.zeros((batch, WIDTH)))
    np.testing.assert_allclose(found["y"], expected, rtol=1e-12)
    fresh = Runner(symbolic()[1], batch=batch, time=time)
    fresh.write(dict.fromkeys(fresh.program.slots, data))
    for name, values in fresh.run().items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12, atol=1e-14)


def tampered(plan: Plan, change: Callable[[Loop], Loop]) -> Plan:
    """The plan with its last loop changed."""
    number = max(i for i, step in enumerate(plan.steps) if step.loop is not None)
    steps = list(plan.steps)
    steps[number] = replace(steps[number], loop=change(steps[number].loop))
    return replace(plan, steps=tuple(steps))


def moved(index: int, **change: Any) -> Callable[[Loop], Loop]:
    def apply(loop: Loop) -> Loop:
        slots = list(loop.slots)
        slots[index] = replace(slots[index], **{key: value(slots[index]) for key, value in change.items()})
        return replace(loop, slots=tuple(slots))

    return apply


def shifted(elements: int) -> Callable[[Any], Any]:
    return lambda slot: replace(slot.operand, layout=replace(slot.operand.layout, offset=slot.operand.layout.offset + elements))


def test_the_verifier_refuses_every_loop_whose_body_would_touch_other_bytes() -> None:
    _, graph = symbolic()
    sizes = {"batch": 4, "time": 9}
    for forward in (True, False):
        plan = make_plan(graph, CPU.profile, sizes)
        if forward:  # the forward loop is then the last
            plan = make_plan(Graph({"y": graph.outputs["y"]}, {}), CPU.profile, sizes)
        verify(plan)
        loop = loops(plan)[-1]
        for index, slot in enumerate(loop.slots):
            moves = slot.move != 0
            for change in (
                moved(index, operand=shifted(-1)),
                moved(index, operand=shifted(12)),
                *([moved(index, move=lambda s: 2 * s.move), moved(index, move=lambda s: -s.move)] if moves else []),
            ):
                with pytest.raises(Error, match=r"the plan is not sound: step .* is a loop that"):
                    verify(tampered(plan, change))
        for change in (
            lambda loop: replace(loop, slots=loop.slots[1:]),
            lambda loop: replace(loop, starts=()),
            *([lambda loop: replace(loop, memory=None)] if loop.plan.peak_bytes else []),
            lambda loop: replace(loop, length=12),
            lambda loop: replace(loop, length=8),
        ):
            with pytest.raises(Error, match="the plan is not sound"):
                verify(tampered(plan, change))


def test_the_verifier_looks_into_the_body() -> None:
    _, graph = symbolic()
    plan = make_plan(graph, CPU.profile, {"batch": 4, "time": 9})

    def backwards(loop: Loop) -> Loop:
        return replace(loop, plan=replace(loop.plan, steps=loop.plan.steps[::-1]))

    with pytest.raises(Error, match="overwritten or never written"):
        verify(tampered(plan, backwards))
