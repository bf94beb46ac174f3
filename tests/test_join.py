"""Concatenations whose pieces are written straight to their places."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from helpers import Array, Runner, check_gradient, variable
from test_plan import FUSING, POOLED, moved_before, refused, with_offset, with_step, with_steps

import aforo as af
from aforo import ops
from aforo.device import CPU
from aforo.graph import Graph, Tensor, leaf
from aforo.plan import Operand, Plan, make_plan, verify
from aforo.specs import BATCH, Layout

about_plans = pytest.mark.about_numpy("its plans are looked at, step by step")
A, B = np.linspace(-1, 1, 12).reshape(3, 4), np.linspace(0, 2, 8).reshape(2, 4)


def pieces() -> list[Tensor]:
    a, b = leaf(variable(A, "a")), leaf(variable(B, "b"))
    return [ops.exp(a), ops.sin(b) * 2.0, a @ leaf(variable(np.eye(4) * 3, "w"))]


def planned(tensor: Tensor, profile: Any = CPU.profile) -> Plan:
    return make_plan(Graph({"y": tensor}, {}), profile, {"batch": 4})


def summed(whole: Tensor) -> Tensor:
    return ops.sum(ops.tanh(whole), -1)


WHOLE = np.concatenate([np.exp(A), np.sin(B) * 2, A * 3])


def test_a_concatenation_gives_its_pieces() -> None:
    found = Runner(Graph({"whole": ops.concatenate(pieces(), 0), "sums": summed(ops.concatenate(pieces(), 0))}, {})).run()
    np.testing.assert_allclose(found["whole"], WHOLE, rtol=1e-14)
    np.testing.assert_allclose(found["sums"], np.tanh(WHOLE).sum(-1), rtol=1e-14)


@about_plans
@pytest.mark.parametrize("profile", [CPU.profile, POOLED, FUSING], ids=["cpu", "pooled", "fusing"])
def test_pieces_made_for_it_alone_are_not_copied(profile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(summed(ops.concatenate(pieces(), 0)), profile)
    assert not {"concatenate", "copy"} & {step.op for step in plan.steps}
    whole = next(i for i, value in enumerate(plan.values) if value.offset is not None and value.shape == (8, 4))
    writes = [write for step in plan.steps for write in step.writes if write.value == whole]
    assert [write.layout.offset for write in sorted(writes, key=lambda write: int(write.layout.offset))] == [0, 12, 20]
    monkeypatch.setattr("aforo.plan.plan.joined", lambda draft: None)
    copied = planned(summed(ops.concatenate(pieces(), 0)), profile)
    assert "concatenate" in {step.op for step in copied.steps}
    assert plan.peak_bytes < copied.peak_bytes


def case_input() -> list[Tensor]:
    return [leaf(variable(A, "a")), *pieces()[1:]]


def case_part() -> list[Tensor]:
    return [ops.exp(leaf(variable(A, "a")))[1:], ops.exp(leaf(variable(A, "a")))[:2], *pieces()[1:]]


def case_front() -> list[Tensor]:
    return [ops.exp(leaf(variable(A, "a")))[:2], *pieces()[1:]]


def case_turned() -> list[Tensor]:
    return [ops.exp(leaf(variable(A[:, :2].T.copy(), "a"))).T, ops.sin(leaf(variable(B[:, :2], "b")))]


def case_twice() -> list[Tensor]:
    return [(first := pieces()[0]), first, pieces()[1]]


def case_nested() -> list[Tensor]:
    return [ops.concatenate(pieces(), 0), pieces()[0], ops.concatenate([pieces()[1], pieces()[0] + 1.0], 0)]


def case_small() -> list[Tensor]:
    return [ops.expand_dims(ops.sum(ops.exp(piece), 0), 0) for piece in pieces()]


@pytest.mark.parametrize("case", [case_input, case_part, case_front, case_turned, case_twice, case_nested, case_small])
def test_pieces_of_every_kind(case: Any) -> None:
    parts = [Runner(Graph({"y": each + 0.0}, {})).run()["y"] for each in case()]
    run = Runner(Graph({"y": summed(ops.concatenate(case(), 0))}, {}))
    for _ in range(2):
        np.testing.assert_allclose(run.run()["y"], np.tanh(np.concatenate(parts)).sum(-1), rtol=1e-13)


def test_a_piece_that_somebody_else_reads_or_that_is_an_output() -> None:
    first, *others = pieces()
    whole = ops.concatenate([first, *others], 0)
    found = Runner(Graph({"y": summed(whole), "first": first, "more": ops.sum(ops.cos(others[0]))}, {})).run()
    np.testing.assert_allclose(found["y"], np.tanh(WHOLE).sum(-1), rtol=1e-14)
    np.testing.assert_allclose(found["first"], np.exp(A), rtol=1e-14)
    np.testing.assert_allclose(found["more"], np.cos(np.sin(B) * 2).sum(), rtol=1e-14)


def test_along_a_later_axis_they_are_copied_and_right() -> None:
    a = leaf(variable(A, "a"))
    whole = ops.concatenate([ops.exp(a), ops.sin(a)], 1)
    found = Runner(Graph({"y": summed(whole)}, {})).run()["y"]
    np.testing.assert_allclose(found, np.tanh(np.concatenate([np.exp(A), np.sin(A)], 1)).sum(-1), rtol=1e-14)


def test_pieces_whose_size_depends_on_the_batch() -> None:
    """The plan for a large batch also runs a small one: the places of the pieces follow."""
    x = variable(np.zeros((1, 3)), "x", role="batch")
    x.shape = (BATCH, 3)
    stacked = ops.stack([ops.exp(leaf(x)), ops.sin(leaf(x)), ops.cos(leaf(x))], 0)
    run = Runner(Graph({"y": ops.sum(ops.tanh(stacked), 0)}, {}), batch=6)
    for rows in (6, 1, 4, 6):
        data = np.random.default_rng(rows).normal(size=(rows, 3))
        found = run.at(rows).write({x: data}).run()["y"]
        np.testing.assert_allclose(found, np.tanh([np.exp(data), np.sin(data), np.cos(data)]).sum(0), rtol=1e-13)


MAKERS: dict[str, tuple[Callable[[Any], Any], Callable[[Array], Array]]] = {
    "tanh": (ops.tanh, np.tanh),
    "product": (lambda t: t @ np.eye(4)[::-1], lambda a: a[:, ::-1]),
    "sum": (lambda t: ops.sum(t[None] * np.ones((2, 1, 1)), 0), lambda a: 2 * a),
    "max": (lambda t: ops.max(ops.stack([t, t * 0.5]), 0), lambda a: np.maximum(a, 0.5 * a)),
    "gather": (lambda t: ops.gather(t, [2, 0, 1]), lambda a: a[[2, 0, 1]]),
    "where": (lambda t: ops.where(t > 0, t, 1.0), lambda a: np.where(a > 0, a, 1.0)),
    "power": (lambda t: ops.square(t) ** 1.5, lambda a: np.abs(a) ** 3),
    "concatenate": (lambda t: ops.concatenate([t[:, :2], ops.sin(t[:, 2:])], 1), lambda a: np.c_[a[:, :2], np.sin(a[:, 2:])]),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("shape", [(12,), (4, 3), (2, 6), (1, 3, 4), (12, 1)])
def test_a_piece_that_is_seen_in_another_shape_than_it_was_made_in(name: str, shape: tuple[int, ...]) -> None:
    make, twin = MAKERS[name]
    a = leaf(variable(A, "a"))
    axis = 1 if len(shape) == 3 else 0
    whole = ops.concatenate([ops.reshape(make(a), shape), ops.reshape(ops.cos(a), shape)], axis)
    expected = np.concatenate([twin(A).reshape(shape), np.cos(A).reshape(shape)], axis)
    found = Runner(Graph({"y": ops.sin(whole)}, {})).run()["y"]
    np.testing.assert_allclose(found, np.sin(expected), rtol=1e-12)


def test_a_report_of_memory_knows_who_holds_a_concatenation_that_is_being_made() -> None:
    class Joining(af.Layer):
        def build(self, input_shape: Any) -> None:
            self.w = self.add_weight([4, 4], name="w")

        def forward(self, x: Any) -> Any:
            return ops.concatenate([ops.sin(x), ops.tanh(x @ self.w) @ self.w], 0).reshape(2, x.shape[0], 4).sum(0)

    model = af.Sequential([Joining(input_shape=[4])])
    model.compile(loss="mse")
    for training in (True, False):
        report = model.memory(batch_size=8, training=training)
        peak = max(moment.live_bytes for moment in report.timeline.moments)
        assert sum(holder.nbytes for holder in report.timeline.holders) <= peak
        assert {holder.op for holder in report.timeline.holders} - {"scratch"}


def test_its_gradient() -> None:
    check_gradient(lambda a, b: ops.sum(summed(ops.concatenate([ops.exp(a), ops.sin(b), a * b[:1]], 0))), [A, B])


def test_random_nets_of_concatenations() -> None:
    for seed in range(60):
        draw = random.Random(seed)
        numbers = np.random.default_rng(seed)
        data = [numbers.normal(size=(draw.randint(1, 4), 3)) for _ in range(3)]
        values: list[tuple[Tensor, Array]] = [(leaf(variable(array, f"x{i}")), array) for i, array in enumerate(data)]
        for _ in range(draw.randint(4, 12)):
            kind = draw.choice(["sin", "sin", "concatenate", "concatenate", "slice", "add", "turn", "product", "relaid"])
            x, array = draw.choice(values)
            if kind == "sin":
                values.append((ops.sin(x), np.sin(array)))
            elif kind == "slice" and len(array) > 1:
                values.append((x[1:], array[1:]))
            elif kind == "turn":  # the same values in another order, and in another shape
                values.append((ops.reshape(ops.tanh(x).T, x.shape), np.tanh(array).T.reshape(array.shape)))
            elif kind == "product":
                values.append((x @ np.eye(3)[::-1], array[:, ::-1]))
            elif kind == "relaid":
                wide = ops.concatenate([ops.tanh(x), x * 2.0], 1)
                values.append((wide.reshape(2 * len(array), 3), np.concatenate([np.tanh(array), array * 2], 1).reshape(-1, 3)))
            elif kind == "add":
                values.append((x + 1.0, array + 1.0))
            else:
                some = [draw.choice(values) for _ in range(draw.randint(2, 3))]
                values.append((ops.concatenate([t for t, _ in some], 0), np.concatenate([a for _, a in some])))
        shown = [*draw.sample(values, 2), values[-1]]
        run = Runner(Graph({str(i): t + 0.0 for i, (t, _) in enumerate(shown)}, {}))
        for i, (_, array) in enumerate(shown):
            np.testing.assert_allclose(run.run()[str(i)], array, rtol=1e-12, err_msg=f"seed {seed}")


# --- planted faults ---------------------------------------------------------------------------------------------------


@about_plans
def test_the_verifier_notices_a_piece_that_is_missing_late_or_elsewhere() -> None:
    plan = planned(summed(ops.concatenate(pieces(), 0)))
    verify(plan)
    whole = next(i for i, value in enumerate(plan.values) if value.offset is not None and value.shape == (8, 4))
    makers = [i for i, step in enumerate(plan.steps) if any(write.value == whole for write in step.writes)]
    reader = next(i for i, step in enumerate(plan.steps) if any(read.value == whole for read in step.reads))
    assert len(makers) == 3
    for number in makers:
        refused(with_steps(plan, [step for i, step in enumerate(plan.steps) if i != number]), "never written")
        refused(moved_before(plan, reader, number), "never written")
        (write,) = plan.steps[number].writes
        for by in (-1, 1):
            moved = Layout(write.layout.offset + by, write.layout.shape, write.layout.strides)
            refused(with_step(plan, number, writes=(Operand(whole, moved),)))
    for first, second in permutations(makers, 2):
        at = [plan.steps[i].writes[0].layout.offset for i in (first, second)]
        (write,) = plan.steps[first].writes
        refused(with_step(plan, first, writes=(Operand(whole, Layout(at[1], write.layout.shape, write.layout.strides)),)))
    refused(with_offset(plan, whole, -64))


@about_plans
def test_the_verifier_notices_a_wait_for_a_value_of_which_a_part_is_missing() -> None:
    plan = planned(summed(ops.concatenate(pieces(), 0)))
    whole = next(i for i, value in enumerate(plan.values) if value.offset is not None and value.shape == (8, 4))
    last = max(i for i, step in enumerate(plan.steps) if any(write.value == whole for write in step.writes))
    other = next(i for i in range(last) if all(write.value != whole for write in plan.steps[i].writes))
    verify(with_step(plan, len(plan.steps) - 1, after=frozenset({whole})))
    refused(with_step(plan, other, after=frozenset({whole})), "runs before value")
