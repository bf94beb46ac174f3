"""Every record of the table of primitives, against NumPy in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import Array, Runner, check_gradient, result, sample_inputs, traced, twin, variable, weighted

from aforo import ops
from aforo.graph import PRIMITIVES, Graph, Primitive, Sample, Tensor, apply, leaf
from aforo.specs import FLOATS

LEAVES = {"variable", "constant", "iota", "ones"}  # where graphs start: nothing to compute
LOOPS = {"scan", "result"}  # what they compute is what they are given: tests/test_loops.py
TABLE = dict(PRIMITIVES)
CASES = [(record, sample) for record in TABLE.values() for sample in record.samples]


def cases(chosen: list[Any]) -> Any:
    """Run a test on each of these tuples, which start with a record."""
    names = ("record", "sample", "position")[: len(chosen[0])]
    seen: Counter[str] = Counter()
    named = []
    for case in chosen:
        named.append(pytest.param(*case, id=f"{case[0].name}-{seen[case[0].name]}"))
        seen[case[0].name] += 1
    return pytest.mark.parametrize(names, named)


each_case = cases(CASES)
each_float = pytest.mark.parametrize("dtype", FLOATS)


def applied(record: Primitive, sample: Sample, inputs: list[Tensor]) -> Tensor:
    return apply(record.name, *inputs, **sample.attributes)


def expected(record: Primitive, sample: Sample, arrays: list[Array]) -> Array:
    """The result in float64, and whole numbers and masks as they are."""
    exact = [a.astype("float64") if a.dtype.kind == "f" else a for a in arrays]
    return np.asarray(twin(record.name)(*exact, **sample.attributes))


def assert_close(record: Primitive, sample: Sample, arrays: list[Array], found: Array) -> None:
    """Equal to a few roundings of the dtype; sums to a few roundings of their largest part."""
    reference = expected(record, sample, arrays)
    assert found.shape == reference.shape
    if found.dtype.kind != "f":
        np.testing.assert_array_equal(found, reference)
        return
    size = np.abs(reference)
    if record.name in ("sum", "matmul"):
        size = expected(record, sample, [np.abs(a) for a in arrays])
    eps = max(np.finfo(a.dtype).eps for a in [found, *arrays] if a.dtype.kind == "f")
    assert np.all(np.abs(found - reference) <= 4 * eps * size), f"off by {np.max(np.abs(found - reference) / (eps * size))} eps"


# --- the table --------------------------------------------------------------------------------------------------------


def lacking(table: Mapping[str, Primitive]) -> list[str]:
    """What the records of a table fail to say."""
    faults = []
    for name, record in table.items():
        if name != record.name:
            faults.append(f"{name} is filed under another name")
        if not record.samples and name not in LEAVES | LOOPS:
            faults.append(f"{name} has no samples")
        if record.gradient is None and not record.stops:
            faults.append(f"{name} has no gradient and does not say why")
        if record.gradient is not None and record.stops:
            faults.append(f"{name} has a gradient and a reason for having none")
        if record.gradient is not None and name not in LOOPS and not any(_differentiable(sample) for sample in record.samples):
            faults.append(f"{name} has a gradient but no sample of floating-point inputs")
    return faults


def _differentiable(sample: Sample) -> bool:
    return sample.dtypes is None or any(dtype in ("float", *FLOATS) for dtype in sample.dtypes)


def test_every_record_has_samples_and_a_gradient_or_a_reason() -> None:
    assert lacking(PRIMITIVES) == []


def test_a_record_without_samples_or_gradient_is_noticed() -> None:
    tanh = PRIMITIVES["tanh"]
    assert lacking({"tanh": replace(tanh, samples=())}) != []
    assert lacking({"tanh": replace(tanh, gradient=None)}) == ["tanh has no gradient and does not say why"]
    assert lacking({"tanh": replace(tanh, samples=(Sample(((2,),), dtypes=("int32",)),))}) != []
    assert lacking({"tanh": tanh}) == []


def test_the_set_of_primitives_stays_small() -> None:
    assert len(PRIMITIVES) <= 60  # "about forty"; everything else is composed


# --- forward ----------------------------------------------------------------------------------------------------------


@each_float
@each_case
def test_the_forward_equals_numpy_in_float64(record: Primitive, sample: Sample, dtype: str) -> None:
    arrays = sample_inputs(sample, dtype)
    y = applied(record, sample, [leaf(variable(a)) for a in arrays])
    found = result(y)
    assert found.dtype == y.dtype
    assert_close(record, sample, arrays, found)


def _transposed(array: Array) -> tuple[Array, Tensor]:
    if not array.ndim:
        return array, leaf(variable(array))
    return array, ops.transpose(leaf(variable(np.ascontiguousarray(array.T))))


def _spread(array: Array) -> tuple[Array, Tensor]:
    """Every second value of a larger array; the values between must not be read."""
    filler: Any = np.nan if array.dtype.kind == "f" else 1
    large = np.full([2 * n + 1 for n in array.shape], filler, array.dtype)
    every = (slice(1, None, 2),) * array.ndim
    large[every] = array
    x = leaf(variable(large))
    return array, x[every] if array.ndim else x


def _repeated(array: Array) -> tuple[Array, Tensor]:
    if not array.ndim:
        return array, leaf(variable(array))
    return np.broadcast_to(array[:1], array.shape), ops.broadcast_to(leaf(variable(array[:1])), array.shape)


@pytest.mark.parametrize("look", [_transposed, _spread, _repeated])
@each_case
def test_the_forward_reads_inputs_through_any_layout(record: Primitive, sample: Sample, look: Any) -> None:
    looks = [look(array) for array in sample_inputs(sample, "float32")]
    arrays = [array for array, _ in looks]
    found = result(applied(record, sample, [x for _, x in looks]))
    assert_close(record, sample, arrays, found)


@each_case
def test_inputs_are_not_changed(record: Primitive, sample: Sample) -> None:
    arrays = sample_inputs(sample, "float32")
    held = [variable(a) for a in arrays]
    runner = Runner(Graph({"y": applied(record, sample, [leaf(v) for v in held])}, {}))
    runner.run()
    for each, array in zip(held, arrays, strict=True):
        assert runner.value(each).tobytes() == array.tobytes()


def test_special_values_come_out_as_in_numpy() -> None:
    x = np.array([-np.inf, -1e4, -100.0, -1.0, -0.0, 0.0, 1.0, 100.0, 1e4, np.inf])
    v = leaf(variable(x))
    tiny, one = np.exp(-100.0), np.log1p(np.exp(-1))
    sigmoid = [0, 0, tiny, 1 / (1 + np.e), 0.5, 0.5, np.e / (1 + np.e), 1, 1, 1]
    softplus = [0, 0, tiny, one, np.log(2), np.log(2), 1 + one, 100, 1e4, np.inf]
    np.testing.assert_allclose(result(ops.sigmoid(v)), sigmoid, 1e-15)
    np.testing.assert_allclose(result(ops.softplus(v)), softplus, 1e-15)
    np.testing.assert_array_equal(result(ops.absolute(v)), np.abs(x))  # its samples are all positive
    np.testing.assert_array_equal(result(ops.sign(v)), np.sign(x))
    np.testing.assert_array_equal(result(apply("guard", v, floor=-60.0)), np.maximum(x, -60.0))


def test_nan_passes_through_the_comparisons_that_pick_a_value() -> None:
    a, b = leaf(variable([np.nan, 1.0, np.nan])), leaf(variable([2.0, np.nan, np.nan]))
    assert np.isnan(result(ops.maximum(a, b))).all()
    assert np.isnan(result(ops.minimum(a, b))).all()
    assert np.isnan(result(ops.max(a)))


# --- gradient ---------------------------------------------------------------------------------------------------------


@cases([(record, sample) for record, sample in CASES if record.gradient is not None and _differentiable(sample)])
def test_the_gradient_equals_a_finite_difference(record: Primitive, sample: Sample) -> None:
    arrays = sample_inputs(sample, "float64")
    if record.name == "cast":
        sample = replace(sample, attributes={"dtype": "float64"})  # through float32 a finite difference would drown
    check_gradient(lambda *x: weighted(applied(record, sample, list(x))), arrays)


# --- in place ---------------------------------------------------------------------------------------------------------

IN_PLACE = [
    (record, sample, position)
    for record, sample in CASES
    for position in record.overwrites
    if sample.dtypes is None or sample.dtypes[position] == "float"
]


@pytest.mark.about_numpy("a fused kernel holds its values in registers")
@each_float
@cases(IN_PLACE)
def test_working_in_place_gives_the_same_numbers(record: Primitive, sample: Sample, position: int, dtype: str) -> None:
    arrays = sample_inputs(sample, dtype)
    apart = [leaf(variable(a)) for a in arrays]
    together = list(apart)
    together[position] = apply("copy", apart[position])  # a value of the arena that nothing reads afterwards
    runner = Runner(Graph({"y": applied(record, sample, together)}, {}))
    (step,) = [step for step in runner.plan.steps if step.op == record.name]
    where = [runner.plan.values[operand.value].offset for operand in (step.reads[position], step.writes[0])]
    assert where[0] == where[1] is not None, "the plan does not work in place, so this would test nothing"
    assert runner.run()["y"].tobytes() == result(applied(record, sample, apart)).tobytes()


@cases(IN_PLACE)
def test_an_update_in_place_gives_the_same_numbers(record: Primitive, sample: Sample, position: int) -> None:
    arrays = sample_inputs(sample, "float32")
    held = [variable(a) for a in arrays]
    y = applied(record, sample, [leaf(v) for v in held])
    runner = Runner(Graph({}, {held[position]: y}))
    (step,) = runner.plan.steps
    assert step.op in (record.name, "fused"), "the plan does not update in place"
    assert runner.plan.arena_bytes == 0
    runner.run()
    reference = result(applied(record, sample, [leaf(variable(a)) for a in arrays]))
    assert runner.value(held[position]).tobytes() == reference.tobytes()


def test_every_record_that_may_work_in_place_was_tried() -> None:
    assert {record.name for record, _, _ in IN_PLACE} == {name for name, record in TABLE.items() if record.overwrites}


PAIRS = [(r, sample) for r, sample in CASES if len(set(sample.shapes)) == 1 < len(sample.shapes) and sample.dtypes is None]


@each_float
@cases(PAIRS)
def test_one_tensor_as_every_input_gives_the_right_numbers(record: Primitive, sample: Sample, dtype: str) -> None:
    array = sample_inputs(sample, dtype)[0]
    number = len(sample.shapes)
    t = apply("copy", leaf(variable(array)))  # in the arena, so that the output may take its place
    assert_close(record, sample, [array] * number, result(applied(record, sample, [t] * number)))
    if record.overwrites:
        v = variable(array)
        old = leaf(v)
        runner = Runner(Graph({}, {v: applied(record, sample, [old] * number)}))
        runner.run()
        assert_close(record, sample, [array] * number, runner.value(v))


def test_a_matrix_times_its_own_transpose_is_right() -> None:
    # BLAS has a routine of its own for this, which writes one triangle and mirrors it.
    for n, m in ((1, 1), (3, 4), (40, 70)):
        a = np.random.default_rng(n).standard_normal((n, m))
        t = apply("copy", leaf(variable(a)))
        np.testing.assert_allclose(result(t @ t.T), a @ a.T, 1e-12, 1e-12)
        np.testing.assert_allclose(result(t.T @ t), a.T @ a, 1e-12, 1e-12)


def test_a_tensor_and_a_view_of_it_do_not_share_the_output() -> None:
    a = np.arange(9.0).reshape(3, 3)
    turned = lambda t: t.T, a.T
    repeated = lambda t: ops.broadcast_to(t[0:1], (3, 3)), np.broadcast_to(a[:1], (3, 3))
    for view, seen in (turned, repeated):
        t = apply("copy", leaf(variable(a)))
        np.testing.assert_array_equal(result(t + view(t)), a + seen)
        np.testing.assert_array_equal(result(view(t) - t), seen - a)
        v = variable(a)
        old = leaf(v)
        runner = Runner(Graph({}, {v: old - view(old)}))
        runner.run()
        np.testing.assert_array_equal(runner.value(v), a - seen)


# --- memory -----------------------------------------------------------------------------------------------------------

_LIMIT = 64 * 1024  # NumPy's iterator buffers
_AXES = ((0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2))
_REDUCTIONS = tuple(Sample(((60, 70, 80),), {"axes": axes}) for axes in _AXES)
# Records whose samples cannot simply be made larger.
LARGE: dict[str, tuple[Sample, ...]] = {
    "matmul": (
        Sample(((300, 200), (200, 100))),
        Sample(((1, 400), (400, 300))),
        Sample(((400, 300), (300, 1))),
        Sample(((6, 100, 80), (6, 80, 90))),
    ),
    "sum": _REDUCTIONS,
    "amax": _REDUCTIONS,
    "gather": (Sample(((300, 200), (400,)), dtypes=("float", "int64"), low=0, high=300),),
    "scatter_add": (Sample(((400, 200), (400,)), {"rows": 300}, dtypes=("float", "int64"), low=0, high=300),),
    "argmax": (Sample(((300, 400),)), Sample(((20, 30, 200),))),
    "uniform": (Sample(((),), {"rows": 300, "columns": 400, "key": (5, 7)}, dtypes=("int64",), low=0, high=9),),
    "concatenate": (Sample(((300, 200), (300, 100)), {"axis": 1}), Sample(((100, 300), (200, 300)), {"axis": 0})),
    "pad": (
        Sample(((300, 200),), {"before": (0, 100), "step": (1, 1), "shape": (300, 400)}),
        Sample(((200, 200),), {"before": (1, 0), "step": (2, 3), "shape": (500, 600)}),
    ),
}


def large(record: Primitive) -> list[Sample]:
    """Samples of several hundred KiB."""
    if record.name in LARGE:
        return list(LARGE[record.name])
    return [replace(sample, shapes=((300, 400),) * len(sample.shapes)) for sample in record.samples]


COMPUTING = [record for name, record in TABLE.items() if name not in LEAVES and record.view is None]
LARGE_CASES = [(record, sample) for record in COMPUTING for sample in large(record)]


@each_float
@each_case
def test_no_kernel_allocates(record: Primitive, sample: Sample, dtype: str) -> None:
    runner = Runner(Graph({"y": applied(record, sample, [leaf(variable(a)) for a in sample_inputs(sample, dtype)])}, {}))
    kept, peak = traced(runner.program.run)
    assert kept == 0
    assert peak < _LIMIT


@each_float
@cases(LARGE_CASES)
def test_no_kernel_allocates_on_large_inputs(record: Primitive, sample: Sample, dtype: str) -> None:
    arrays = sample_inputs(sample, dtype)
    runner = Runner(Graph({"y": applied(record, sample, [leaf(variable(a)) for a in arrays])}, {}))
    sizes = [array.nbytes for array in (*arrays, *runner.program.outputs.values())]
    assert max(sizes) > _LIMIT, "as small as this, an allocation could go unseen"
    kept, peak = traced(runner.program.run)
    assert kept == 0
    assert peak < _LIMIT


@pytest.mark.parametrize("look", [_transposed, _spread, _repeated])
@cases(LARGE_CASES)
def test_no_kernel_allocates_on_inputs_of_any_layout(record: Primitive, sample: Sample, look: Any) -> None:
    inputs = [look(array)[1] for array in sample_inputs(sample, "float64")]  # the larger buffers
    runner = Runner(Graph({"y": applied(record, sample, inputs)}, {}))
    kept, peak = traced(runner.program.run)
    assert kept == 0
    assert peak < _LIMIT


@cases([(record,) for record in COMPUTING if record.overwrites])
def test_no_kernel_allocates_in_place(record: Primitive) -> None:
    sample = large(record)[0]
    arrays = sample_inputs(sample, "float32")
    t = apply("copy", leaf(variable(arrays[0])))
    runner = Runner(Graph({"y": applied(record, sample, [t] * len(arrays))}, {}))
    assert len(runner.plan.buffers) == 1, "the plan does not work in place"
    kept, peak = traced(runner.program.run)
    assert kept == 0
    assert peak < _LIMIT


def test_what_a_kernel_keeps_or_holds_for_a_moment_is_seen() -> None:
    shelf: list[Array] = []
    kept, peak = traced(lambda: shelf.append(np.zeros(50_000, np.uint8)))
    assert kept == 50_000 <= peak
    kept, peak = traced(lambda: np.zeros(200_000, np.uint8))
    assert kept == 0
    assert peak >= 200_000
    with np.errstate(all="ignore"):
        x = np.ones((300, 400), np.float32)
        assert traced(lambda: np.add(x, x, out=x) + x)[1] >= x.nbytes


# --- adding one -------------------------------------------------------------------------------------------------------


@pytest.mark.about_numpy("a new primitive has no kernel there")
def test_an_elementwise_primitive_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    tanh = PRIMITIVES["tanh"]
    sample = Sample(((3, 4),), low=0.3)
    cbrt = replace(tanh, name="cbrt", gradient=lambda y, g: (g / (3.0 * ops.square(y)),), samples=(sample,))
    monkeypatch.setitem(PRIMITIVES, "cbrt", cbrt)
    arrays = sample_inputs(sample, "float32")
    assert_close(cbrt, sample, arrays, result(applied(cbrt, sample, [leaf(variable(arrays[0]))])))
    check_gradient(lambda x: weighted(apply("cbrt", x)), arrays)
    assert lacking({"cbrt": cbrt}) == []
