"""Batch × width, and from a budget back to sizes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import random_net

import aforo as af
from aforo.memory import Report
from aforo.memory.formula import fit
from aforo.memory.inverse import _largest

OPTIMIZERS = ["sgd", "adam", af.SGD(momentum=0.9), "rmsprop", "adagrad"]


def build(width: int) -> af.Sequential:
    layers = [af.Dense(width, "relu") for _ in range(3)]
    model = af.Sequential([af.Dense(width, "relu", input_shape=[20]), *layers, af.Dense(10, "softmax")])
    model.compile(loss="categorical_crossentropy", optimizer=af.SGD(momentum=0.9), metrics="accuracy")
    return model


def uneven(width: int) -> af.Model:
    """Odd sizes, a skip, two heads."""
    x = af.Input([7])
    h = af.Dense(width, "tanh")(x)
    h = af.Concatenate()([af.BatchNormalization()(h), x])
    model = af.Model(x, [af.Dense(5)(af.Dense(2 * width + 1, "sin")(h)), af.Dense(1)(h)])
    model.compile(loss="mse", optimizer="adam", metrics=["mae", None])
    return model


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [build, uneven])
@pytest.mark.parametrize(("device", "training"), [(None, True), ("cuda", True), ("cpu", False), ("simulated", False)])
def test_every_cell_is_the_single_report(make: Callable[[int], af.Model], device: str | None, training: bool) -> None:
    batch_sizes, widths = [1, 32, 5, 300], [1, 17, 8]
    s = af.memory.sweep(make, batch_sizes, widths, device, training=training)
    assert s.total_bytes.shape == (4, 3) and s.total_bytes.dtype.kind == "i"
    assert (s.batch_sizes, s.widths) == (tuple(batch_sizes), tuple(widths))
    for i, batch_size in enumerate(batch_sizes):
        for j, width in enumerate(widths):
            single = make(width).memory(batch_size, training, device)
            assert s.reports[i][j] == single
            assert s.total_bytes[i, j] == single.total_bytes
    assert s.total_bytes is not s.total_bytes


def test_a_sweep_draws_no_weights_and_takes_no_memory() -> None:
    def make(width: int) -> af.Sequential:
        def never(shape: Any, dtype: str, rng: Any) -> Any:
            raise AssertionError("a weight was drawn")

        model = af.Sequential([af.Dense(width, kernel_initializer=never, input_shape=[5])])
        model.compile(loss="mse", optimizer="adam")
        return model

    held, made = af.memory.allocated(), af.memory.allocations()
    af.memory.sweep(make, [1, 2**20], [1, 2**20])
    make(3).max_batch_size("1GiB")
    af.memory.max_width(make, "1GiB", 32)
    assert (af.memory.allocated(), af.memory.allocations()) == (held, made)


def test_the_table_shows_every_cell_the_budget_and_the_formula() -> None:
    s = af.memory.sweep(build, [32, 64], [16, 256], budget="1MiB")
    text = str(s)
    lines = text.splitlines()
    assert "n = 16" in text and "n = 256" in text and "budget 1.0 MiB" in lines[0]
    row = next(line for line in lines if line.strip().startswith("b = 64"))
    assert row.count("KiB") + row.count("MiB") == 2 and row.count("!") == 1
    assert "· b · n" in text and "b × n:" in text
    assert s.exceeds and not af.memory.sweep(build, [32], [16], budget="1MiB").exceeds
    assert "!" not in str(af.memory.sweep(build, [32], [16], budget="1MiB"))
    assert "estimate, not measured here" in str(af.memory.sweep(build, [32], [16], "cuda"))


def test_the_csv_holds_every_cell(tmp_path: Path) -> None:
    s = af.memory.sweep(build, [32, 64], [16, 256], budget="1MiB")
    s.to_csv(tmp_path / "plan.csv")
    with open(tmp_path / "plan.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["batch_size"]), int(row["width"])) for row in rows] == [(32, 16), (32, 256), (64, 16), (64, 256)]
    assert [int(row["total_bytes"]) for row in rows] == s.total_bytes.ravel().tolist()
    parts = [name for name in rows[0] if name.endswith("_bytes") and name not in ("total_bytes", "lower_bound_bytes")]
    assert all(sum(int(row[name]) for name in parts) == int(row["total_bytes"]) for row in rows)
    assert [row["fits"] for row in rows] == ["1", "0", "1", "0"]
    with pytest.raises(ValueError, match=r"nowhere/plan.csv' cannot be written"):
        s.to_csv("nowhere/plan.csv")
    with pytest.raises(TypeError, match=r'given by its path(.|\n)*fix: sweep.to_csv\("plan.csv"\)'):
        s.to_csv(3.5)
    with pytest.raises(TypeError, match=r'fix: sweep.to_html\("plan.html"\)'):
        s.to_html(None)
    with pytest.raises(TypeError, match=r'fix: report.to_html\("plan.html"\)'):
        s.reports[0][0].to_html(None)


def test_a_sweep_is_plain_data_that_json_can_write() -> None:
    s = af.memory.sweep(build, [32, 64], [16], budget=10**6)
    data = s.to_dict()
    assert json.loads(json.dumps(data)) == data and data["total_bytes"] == s.total_bytes.tolist()
    assert data["budget"] == 10**6 and data["reports"][1][0]["batch_size"] == 64


def test_without_widths_build_takes_no_argument() -> None:
    s = af.memory.sweep(lambda: build(16), [32, 64], None)
    assert s.widths is None and s.total_bytes.shape == (2, 1)
    assert s.total_bytes[1, 0] == build(16).memory(64).total_bytes
    assert "bytes" in str(s)


# --- the formula ------------------------------------------------------------------------------------------------------


@pytest.mark.about_numpy("the workspace of a product is not linear")
def test_the_formula_says_b_times_n() -> None:
    """20-n×4-10 with momentum, by hand: 3·n² weights and as many slots of 4 bytes; one layer's gradient may be at the peak."""
    s = af.memory.sweep(build, [4096, 8192, 16384, 32768], [256, 512, 768, 1024, 1536])
    f = s.formula
    assert f.per_unit_pair is not None and 4 * (3 + 3) * 0.99 <= f.per_unit_pair <= 4 * (3 + 3 + 1) * 1.01
    assert f.per_sample_unit is not None and 4 * 4 <= f.per_sample_unit <= 4 * 6.1  # four layers kept, one or two on the way
    assert f.worst_error < 0.03
    errors = [
        abs(f.at(batch_size, width) / s.total_bytes[i, j] - 1)
        for i, batch_size in enumerate(s.batch_sizes)
        for j, width in enumerate(s.widths or ())
    ]
    assert max(errors) == pytest.approx(f.worst_error)


@pytest.mark.about_numpy("the workspace of a product is not linear")
def test_the_formula_of_a_linear_family_is_nearly_exact() -> None:
    def make(width: int) -> af.Sequential:
        return af.Sequential([af.Dense(width, "relu", input_shape=[64]), af.Dense(64)])

    s = af.memory.sweep(make, [64, 128, 256], [128, 256, 512], training=False)
    f = s.formula
    assert f.per_unit == pytest.approx(4 * (64 + 1 + 64), rel=0.01)  # two kernels and a bias
    assert f.per_sample == pytest.approx(4 * 2 * 64, rel=0.05)  # the slot, and the output
    assert f.per_sample_unit == pytest.approx(4, rel=0.01)
    assert f.per_unit_pair == pytest.approx(0, abs=0.01) and f.worst_error < 0.01


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_coefficient_of_a_formula_is_negative(device: str) -> None:
    """Three kernels of n × n, their slots and little else, however the workspace of products bends the table."""
    for batch_sizes, widths in (([32, 64, 128], [64, 128, 256]), ([4096, 16384], [256, 768, 1536])):
        f = af.memory.sweep(build, batch_sizes, widths, device).formula
        terms = (f.constant, f.per_sample, f.per_unit, f.per_sample_unit, f.per_unit_pair)
        assert all(term is not None and term >= 0 for term in terms), str(f)
        assert f.per_unit_pair is not None and 4 * (3 + 3) * 0.99 <= f.per_unit_pair <= 4 * (3 + 3 + 1) * 1.05


def test_terms_that_make_no_difference_are_left_out() -> None:
    """What least squares leave of them is neither a coefficient nor a line."""
    reports = [[_Cell(64 * b + 8 * n + 100, 64 * b) for n in (16, 300, 1000)] for b in (7, 64, 1000)]
    f = fit(reports, (7, 64, 1000), (16, 300, 1000))  # type: ignore[arg-type]
    assert (f.per_sample_unit, f.per_unit_pair) == (0.0, 0.0)
    assert str(f) == "bytes ≈ 100 + 64 · b + 8 · n  (within 0.0%)"
    assert f.lines() == [f"{f}; b = batch size, n = width"]


class _Cell:
    """A report of given bytes, of which some move with the batch."""

    def __init__(self, total: int, batch: int) -> None:
        self.total_bytes, self.batch_bytes, self.arena_bytes, self.state_bytes = total, batch, 0, 0


@pytest.mark.about_numpy("the workspace of a product is not linear")
def test_layers_are_counted_in_their_own_dtype() -> None:
    def make(dtype: str) -> Any:
        return lambda width: af.Sequential([af.Dense(width, "relu", input_shape=[64]), af.Dense(64)], dtype=dtype)

    for dtype in ("float32", "float64"):
        s = af.memory.sweep(make(dtype), [64, 128, 256], [128, 256, 512], training=False)
        assert f"as 1.0 layers' activations in {dtype}" in "\n".join(s.formula.lines())
        assert s.to_dict()["formula"]["dtype"] == dtype


@pytest.mark.parametrize(
    ("batch_sizes", "widths", "known"),
    [
        ([32], [16], (False, False, False, False)),
        ([32, 64], [16], (True, False, False, False)),
        ([32], [16, 32], (False, True, False, False)),
        ([32, 64], [16, 32], (True, True, True, False)),
        ([32], [16, 32, 64], (False, True, False, True)),
        ([32, 64], [16, 32, 64], (True, True, True, True)),
        ([32, 32], [16, 16], (False, False, False, False)),
    ],
)
def test_a_table_that_cannot_tell_leaves_a_term_out(batch_sizes: Any, widths: Any, known: tuple[bool, ...]) -> None:
    f = af.memory.sweep(build, batch_sizes, widths).formula
    terms = (f.per_sample, f.per_unit, f.per_sample_unit, f.per_unit_pair)
    assert tuple(term is not None for term in terms) == known
    assert ("· b · n" in str(f)) == known[2] and ("n²" in str(f)) == known[3]
    assert all(type(term) is float for term in terms if term is not None)


# --- the inverse ------------------------------------------------------------------------------------------------------

PARTS = 5


def budgets(model: af.Model, number: int) -> list[int]:
    """One that is met exactly, one that is missed by a byte, and one for thousands of samples."""
    sizes = [model.memory(1 + number % 9).total_bytes, model.memory(3 + number % 20).total_bytes - 1]
    return [*sizes, sizes[0] * 100 + number]


@pytest.mark.parametrize("which", range(PARTS))
def test_the_largest_batch_fits_and_one_more_does_not(which: int) -> None:
    for number in range(which, 50, PARTS):
        model = random_net(number // 3 * 6 + number % 3).model()  # of up to three layers: quick to plan
        device = "cuda" if number % 3 == 0 else None
        for budget in budgets(model, number):
            least = model.memory(1, device=device).total_bytes
            budget += least * (budget < least)
            b = model.max_batch_size(budget, device=device)
            assert model.memory(b, device=device).total_bytes <= budget < model.memory(b + 1, device=device).total_bytes
            assert type(b) is int


@pytest.mark.parametrize("number", range(4, 50, 5))
def test_the_largest_batch_is_what_trying_them_all_gives(number: int) -> None:
    model = random_net(number // 3 * 6 + number % 3).model()
    reports = [model.memory(b) for b in range(1, 27)]
    totals = [0, *(m.total_bytes for m in reports)]
    bounds = [m.total_bytes - m.gap_bytes for m in reports]
    for budget in (totals[1], totals[8], max(totals[13] - 1, totals[1]), totals[20]):
        edges = [b for b in range(26) if totals[b] <= budget < totals[b + 1]]
        found = model.max_batch_size(budget)
        assert found in edges or found >= 26
        if bounds == sorted(bounds):
            assert found == max(edges)


class _Made:
    """A report whose bytes are given."""

    def __init__(self, total: int, bound: int) -> None:
        self.total_bytes, self.gap_bytes = total, total - bound


@pytest.mark.parametrize("seed", range(12))
def test_totals_that_rise_and_fall_give_the_largest_that_fits(seed: int) -> None:
    """Arenas that miss their bound by chance, more often than any planner's."""
    rng = np.random.default_rng(seed)
    slope, missed = int(rng.integers(1, 40)), rng.integers(0, 12, 3000) * (rng.random(3000) < 0.6)

    def plan(size: int) -> Report:
        bound = 500 + slope * size + max(0, 3 * slope * (size - 70))
        return _Made(bound + int(missed[size]) * slope, bound)  # type: ignore[return-value]

    totals = [plan(size).total_bytes for size in range(2000)]
    assert any(after < before for before, after in pairwise(totals))
    for budget in (totals[1], *rng.integers(max(totals[1:3]), 500 + slope * 900, 8).tolist()):
        found = _largest(plan, budget, "batch_size")
        assert found == max(size for size in range(1, 2000) if totals[size] <= budget)


@pytest.mark.parametrize("seed", range(12))
def test_bounds_that_rise_and_fall_give_a_size_that_fits_below_one_that_does_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bounds = 500 + 20 * np.arange(3000) + rng.integers(0, 300, 3000)
    totals = bounds + rng.integers(0, 100, 3000) * (rng.random(3000) < 0.3)

    def plan(size: int) -> Report:
        return _Made(int(totals[size]), int(bounds[size]))  # type: ignore[return-value]

    for budget in rng.integers(1000, 30_000, 8).tolist():
        found = _largest(plan, budget, "batch_size")
        assert totals[found] <= budget < totals[found + 1]


def test_a_wide_gap_below_the_bound_still_gives_an_edge() -> None:
    tries: list[int] = []

    def plan(size: int) -> Report:
        tries.append(size)
        return _Made(1000 + 13 * size, 1000 + 10 * size)  # type: ignore[return-value]

    assert _largest(plan, 10**6, "batch_size") == (10**6 - 1000) // 13
    assert len(tries) < 80


def test_the_largest_width_fits_and_the_next_one_does_not() -> None:
    for make in (build, uneven):
        for batch_size, step, budget in [(64, 1, 2 * 10**6 + 1), (7, 3, "300 kB")]:
            width = af.memory.max_width(make, budget, batch_size, multiple_of=step)
            nbytes = af.budget.as_bytes(budget)
            assert width % step == 0
            assert make(width).memory(batch_size).total_bytes <= nbytes
            assert make(width + step).memory(batch_size).total_bytes > nbytes
    wide = af.memory.max_width(build, "24GiB", 256, "cuda")
    totals = [build(width).memory(256, device="cuda").total_bytes for width in (wide, wide + 1)]
    assert totals[0] <= 24 * 2**30 < totals[1]
    predicts = af.memory.max_width(build, "24GiB", 256, "cuda", training=False)
    assert predicts > wide


def test_when_nothing_fits_the_smallest_budget_is_said() -> None:
    model = build(64)
    least = model.memory(1, device="cuda").total_bytes
    with pytest.raises(ValueError, match=rf"not even batch_size = 1(.|\n)*at least {least:,} B") as caught:
        model.max_batch_size(least - 1, device="cuda")
    assert isinstance(caught.value, af.Error) and f"budget={least}" in str(caught.value)
    assert model.max_batch_size(least, device="cuda") >= 1
    with pytest.raises(ValueError, match=r"not even width = 8 does"):
        af.memory.max_width(build, 1000, 32, multiple_of=8)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def broken(width: int) -> Any:
    if width == 300:
        raise KeyError("no such width")
    model = build(width)
    if width == 301:
        return model.layers
    if width == 302:
        return af.Sequential([af.Dense(3, input_shape=[2])])
    if width == 303:
        return af.Sequential([af.Dense(3)])
    return model


@pytest.mark.parametrize(
    ("width", "kind", "said"),
    [
        (300, ValueError, r"broken\(300\) fails(.|\n)*KeyError: 'no such width'"),
        (301, TypeError, r"broken\(301\) gives no model(.|\n)*return model"),
        (302, RuntimeError, r"broken\(302\) gives a model that is not compiled(.|\n)*model.compile"),
        (303, RuntimeError, r"broken\(303\) gives a model that does not know its input size(.|\n)*input_shape"),
    ],
)
def test_a_build_that_fails_at_one_width_names_it(width: int, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        af.memory.sweep(broken, [32], [16, width, 64])
    assert isinstance(caught.value, af.Error)
    with pytest.raises(kind, match=said):
        af.memory.max_width(broken, "1GiB", 32, multiple_of=width)
    if width == 302:
        assert af.memory.sweep(broken, [32], [width], training=False).total_bytes.size == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_sizes": []}, "batch_sizes is empty"),
        ({"batch_sizes": 32}, r"batch_sizes is a list of sizes(.|\n)*batch_sizes=\[32, 64\]"),
        ({"widths": "256"}, "widths is a list of sizes"),
        ({"widths": [0]}, "widths must be 1 or more"),
        ({"batch_sizes": [32.5]}, "batch_sizes must be a whole number"),
        ({"batch_sizes": iter([np.int64(32), 8.0])}, r"must be a whole number(.|\n)*fix: batch_sizes=\[32, 8\]"),
        ({"batch_sizes": [32.0, 8]}, r"must be a whole number(.|\n)*fix: batch_sizes=\[32, 8\]"),
        ({"widths": [16, -1, "x"]}, r"must be 1 or more(.|\n)*fix: widths=\[16, 1, 32\]"),
        ({"build": build(8)}, r"a model is no build function(.|\n)*sweep\(lambda: model"),
        ({"device": "cdua"}, r"no device named 'cdua'(.|\n)*cpu, cuda, simulated(.|\n)*did you mean 'cuda'"),
        ({"budget": "8G"}, r"budget is no amount of memory(.|\n)*binary"),
        ({"budget": 0}, "budget must be at least one byte"),
        ({"build": build(8).layers}, "build makes a model of a width"),
    ],
)
def test_bad_input_is_refused_before_anything_is_built(arguments: dict[str, Any], said: str) -> None:
    built: list[int] = []

    def make(width: int) -> af.Sequential:
        built.append(width)
        return build(width)

    with pytest.raises(af.Error, match=said):
        af.memory.sweep(**{"build": make, "batch_sizes": [32], "widths": [16], **arguments})
    assert not built


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.max_batch_size("lots"), "budget is no amount of memory"),
        (lambda m: m.max_batch_size(-1), "budget must be at least one byte"),
        (lambda m: m.max_batch_size("8GiB", device="cuad"), "did you mean 'cuda'"),
        (lambda m: af.memory.max_width(build, "8GiB", 0), "batch_size must be 1 or more"),
        (lambda m: af.memory.max_width(build, None, 1), "budget is an amount of memory"),
        (lambda m: af.memory.max_width(lambda width: m, "8GiB", 1), "every size fits"),
        (lambda m: m.memory(32, device="tpu"), r"no device named 'tpu'(.|\n)*cpu, cuda, simulated"),
        (lambda m: m.memory(32, rows=0), "rows must be 1 or more"),
        (lambda m: m.memory(32, validation_rows=-1), "validation_rows must be 0 or more"),
        (lambda m: m.memory(32, training=False, rows=9), r"no training in it(.|\n)*rows=9"),
        (lambda m: m.memory(32, programs=["trainig"]), r"no program named 'trainig'(.|\n)*did you mean 'training'"),
        (lambda m: m.memory(32, programs="training"), "programs is a list"),
        (lambda m: m.memory(32, programs=[]), "programs is a list"),
        (lambda m: m.memory(32, training=False, memory_budget="nonsense"), "memory_budget is no amount of memory"),
        (lambda m: m.memory(32, training=False, memory_budget="8GiB"), r"no training in it(.|\n)*memory_budget='8GiB'"),
        (
            lambda m: m.memory(32, programs=["evaluation"], memory_budget=10**9),
            r"decides how training runs(.|\n)*fix: model.memory",
        ),
    ],
)
def test_questions_that_make_no_sense_are_refused(call: Callable[[af.Model], Any], said: str) -> None:
    with pytest.raises(af.Error, match=said):
        call(build(8))
