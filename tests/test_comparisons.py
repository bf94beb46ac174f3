"""Tensors where people expect numbers: compared, printed, rounded, assigned to in place, walked down a slope by hand."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import aforo as af
from aforo import ops

A, B = np.array([[1.0, 2.0], [3.0, -4.0]]), np.array([[1.0, 5.0], [3.0, 4.0]])
X = np.random.default_rng(0).normal(size=(23, 3))
Y = np.random.default_rng(1).normal(size=(23, 2))


# --- comparisons ------------------------------------------------------------------------------------------------------

SIDES: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("other", [B, B.tolist(), 3.0, 3, np.float32(3.0), B[:1]])
def test_comparisons_are_numpys_number_by_number(name: str, other: Any) -> None:
    compare, t = SIDES[name], af.tensor(A)
    for found, expected in (
        (compare(t, other), compare(A, np.asarray(other))),
        (compare(other, t), compare(np.asarray(other), A)),
        (compare(t, af.tensor(other)), compare(A, np.asarray(other))),
    ):
        assert found.dtype == "bool" and np.array_equal(found.numpy(), expected)


def test_what_is_no_number_equals_no_tensor() -> None:
    t = af.tensor(A)
    for other in (None, "a", object(), af.Dense(2)):
        assert (t == other) is False and (other == t) is False and (t != other) is True


def test_a_tensor_is_a_key_by_what_it_is() -> None:
    one, same = af.tensor(A), af.tensor(A)
    assert len({one: 1, same: 2}) == 2 and {one: 1}[one] == 1
    assert bool((one == same).numpy().all())


def test_masks_are_combined_and_turned_around() -> None:
    a, b = A > 0, np.asarray(B) > 3
    t, s = af.tensor(A) > 0, af.tensor(B) > 3
    assert np.array_equal((t & s).numpy(), a & b) and np.array_equal((t | s).numpy(), a | b)
    assert (
        np.array_equal((~t).numpy(), ~a) and np.array_equal((t & b).numpy(), a & b) and np.array_equal((b | t).numpy(), a | b)
    )
    with pytest.raises(af.Error, match="combines masks"):
        af.tensor(A) & t


def test_comparisons_between_layers_are_computed_there() -> None:
    model = af.Sequential([af.Activation(lambda z: (z == 0) * 5.0 + z * (z != 2)), af.Dense(1)])
    model.build((None, 3))
    model.set_weights([np.ones((3, 1)), np.zeros(1)])
    assert model.predict([[0.0, 1.0, 2.0]]).tolist() == [[6.0]]
    with pytest.raises(af.Error, match="branch on shapes"):
        af.Activation(lambda z: z if z[0, 0] == 1 else -z)(af.Input([2]))


def test_a_metric_of_the_users_own_counts_hits() -> None:
    def hits(y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.argmax(y_true) == ops.argmax(y_pred))

    labels = np.eye(3)[np.arange(30) % 3]
    model = af.Sequential([af.Dense(3, activation="softmax", input_shape=[3])])
    model.compile(loss="categorical_crossentropy", metrics=[hits, "accuracy"])
    x = np.random.default_rng(2).normal(size=(30, 3))
    found = model.evaluate(x, labels, return_dict=True)
    expected = float(np.mean(model.predict(x).argmax(-1) == labels.argmax(-1)))
    assert found["hits"] == pytest.approx(expected) and found["accuracy"] == pytest.approx(expected) and 0 < expected < 1


# --- numbers to look at -----------------------------------------------------------------------------------------------


def test_a_tensor_prints_its_numbers_once_it_has_any() -> None:
    t = af.tensor(A)
    assert str(t) == str(A.astype("float32")) and str(ops.sum(t)) == "2.0" and f"{t[0]}" == "[1. 2.]"
    assert repr(t) == "<Tensor (2, 2) float32 on cpu>"
    assert str(af.Input([3])).startswith("<Tensor") and "numpy" not in str(af.Input([3]))


def test_one_number_is_formatted_and_rounded() -> None:
    error = ops.mean(ops.square(af.tensor([1.0, 2.0, 2.0])))
    assert f"{error:.3f}" == "3.000" and f"{error:8.1e}" == " 3.0e+00"
    assert round(af.tensor(2.46), 1) == pytest.approx(2.5) and round(af.tensor(2.6)) == 3
    with pytest.raises(af.Error, match="one value"):
        format(af.tensor(A), ".2f")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("max", "af.ops.max(t)"),
        ("argmax", "af.ops.argmax(t)"),
        ("flatten", "t.reshape(-1)"),
        ("detach", "af.ops.stop_gradient(t)"),
        ("grad", "af.grad(E, t)"),
        ("tolist", "t.numpy().tolist()"),
        ("nonsense", "t.numpy()"),
    ],
)
def test_a_method_that_tensors_lack_is_answered_with_what_does_it(name: str, fix: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(af.tensor(A), name)
    assert f"a tensor has no {name!r}" in str(caught.value) and fix in str(caught.value)
    assert not hasattr(af.tensor(A), name)


# --- whole numbers ----------------------------------------------------------------------------------------------------


def test_whole_numbers_go_through_a_forward_as_they_go_through_predict() -> None:
    table = np.array([[2, 24, 4], [1, 30, 7]])
    model = af.Sequential([af.Dense(4, activation="tanh"), af.LayerNormalization(), af.Dense(2)])
    model.build((None, 3))
    for given in (table, table.tolist(), af.tensor(table)):
        np.testing.assert_allclose(model(given).numpy(), model.predict(table), rtol=1e-6)
    w = np.linspace(-1, 1, 6).reshape(3, 2)
    np.testing.assert_allclose((af.tensor(table) @ w).numpy(), table @ w, rtol=1e-6)
    np.testing.assert_allclose((af.tensor(table) @ af.tensor(table.T)).numpy(), table @ table.T)
    for function, twin in ((ops.tanh, np.tanh), (ops.mean, np.mean), (ops.sqrt, np.sqrt), (ops.std, np.std)):
        np.testing.assert_allclose(function(table).numpy(), twin(table), rtol=1e-6)
    np.testing.assert_allclose(ops.mean(table > 3).numpy(), np.mean(table > 3), rtol=1e-6)
    assert ops.sum(table > 3).numpy() == np.sum(table > 3)
    sequence = np.arange(12).reshape(2, 3, 2)
    layer = af.LSTM(3)
    np.testing.assert_allclose(layer(sequence).numpy(), layer(sequence.astype("float32")).numpy(), rtol=1e-6)


# --- in place ---------------------------------------------------------------------------------------------------------


def test_a_tensor_and_a_weight_are_changed_in_place() -> None:
    t = af.tensor(A, "float64")
    before, doubled = t, t * 2.0
    t += 1.0
    t *= B
    t -= af.tensor(B, "float64")
    t /= 2
    expected = ((A + 1) * B - B) / 2
    assert t is before and np.array_equal(t.numpy(), expected)
    assert np.array_equal(doubled.numpy(), A * 2)  # what was written before keeps the old numbers
    layer = af.Dense(2, input_shape=[3])
    layer(X)
    kernel, old = layer.kernel, layer.kernel.numpy()
    layer.kernel -= 0.5 * old
    assert layer.kernel is kernel and np.allclose(kernel.numpy(), 0.5 * old)
    model = af.Sequential([layer])
    np.testing.assert_allclose(model.predict(X), X @ (0.5 * old), rtol=1e-5, atol=1e-6)


def test_a_weight_is_not_replaced_by_a_value() -> None:
    model = af.Sequential([af.Dense(2, input_shape=[3])])
    layer = model.layers[0]
    before = model.get_weights()
    for value in (layer.kernel * 0.0, np.zeros((3, 2)), None):
        with pytest.raises(af.Error, match=r"'dense' keeps its weight 'kernel'(.|\n)*fix: layer.kernel.assign") as caught:
            layer.kernel = value
        assert isinstance(caught.value, TypeError)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    layer.kernel.assign(layer.kernel * 0.0)
    assert not model.get_weights()[0].any()
    model.compile(loss="mse")
    model.fit(X, Y, verbose=0)


def test_a_forward_may_not_assign_to_its_weights() -> None:
    class Growing(af.Layer):
        def build(self, input_shape: Any) -> None:
            self.w = self.add_weight([3], "ones", "w")

        def forward(self, x: Any) -> Any:
            self.w *= 2.0
            return x * self.w

    for given in (X, af.Input([3])):
        with pytest.raises(af.Error, match="a forward may not do"):
            Growing()(given)


def slope(w: Any, b: Any) -> tuple[Any, Any, Any]:
    error = ops.mean(ops.square(af.tensor(X) @ w + b - Y))
    return error, *af.grad(error, [w, b])


def descended(steps: int) -> tuple[Any, Any]:
    w, b = np.zeros((3, 2)), np.zeros(2)
    for _ in range(steps):
        rest = (X @ w + b - Y) * 2 / Y.size
        w, b = w - 0.1 * X.T @ rest, b - 0.1 * rest.sum(0)
    return w, b


def test_descent_as_the_slides_write_it_gives_the_weights_of_numpy() -> None:
    w, b = af.tensor(np.zeros((3, 2))), af.tensor(np.zeros(2))
    for _ in range(60):
        _, dw, db = slope(w, b)
        w, b = w - 0.1 * dw, b - 0.1 * db
    v, c = af.tensor(np.zeros((3, 2))), af.tensor(np.zeros(2))
    for _ in range(60):
        _, dv, dc = slope(v, c)
        v -= 0.1 * dv
        c -= 0.1 * dc
    for found, expected in zip((w, b, v, c), descended(60) * 2, strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_descent_in_place_holds_no_more_after_many_steps() -> None:
    w, b = af.tensor(np.zeros((3, 2))), af.tensor(np.zeros(2))

    def walk(steps: int) -> None:
        nonlocal w, b
        for _ in range(steps):
            _, dw, db = slope(w, b)
            w -= 0.1 * dw
            b -= 0.1 * db

    walk(20)
    gc.collect()
    tracemalloc.start()
    walk(10)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    walk(100)
    gc.collect()
    more = tracemalloc.get_traced_memory()[0] - held
    tracemalloc.stop()
    assert more < 64 * 1024  # a step that stayed would hold several KiB


def test_a_step_by_new_names_looks_no_further_back_than_it_must() -> None:
    """The graph behind a derivative begins at what it is taken by, not at the first step."""
    from aforo.graph import ancestors

    w, b = af.tensor(np.zeros((3, 2))), af.tensor(np.zeros(2))
    lengths = []
    for _ in range(30):
        error, dw, db = slope(w, b)
        lengths.append(len(ancestors([error], since=min(w.serial, b.serial))))
        w, b = w - 0.1 * dw, b - 0.1 * db
    assert len(set(lengths[1:])) == 1
    assert w.value is None and b.value is None
    slope(w, b)
    assert w.value is not None and b.value is not None  # the next step begins at numbers


# --- layers -----------------------------------------------------------------------------------------------------------


def test_a_layer_gives_and_takes_its_weights() -> None:
    model = af.Sequential([af.Dense(4, input_shape=[3]), af.Dense(2)])
    layer = model.layers[1]
    assert [w.shape for w in layer.get_weights()] == [(4, 2), (2,)]
    layer.set_weights([np.ones((4, 2)), np.full(2, 3.0)])
    assert np.array_equal(model.get_weights()[2], np.ones((4, 2))) and np.array_equal(layer.get_weights()[1], [3.0, 3.0])
    for wrong in ([np.ones((4, 2))], [np.ones((4, 2)), np.ones(3)]):
        with pytest.raises(af.Error):
            layer.set_weights(wrong)
    assert np.array_equal(layer.get_weights()[1], [3.0, 3.0])
    with pytest.raises(af.Error, match="call it on data first"):
        af.Dense(2).set_weights([np.ones((4, 2)), np.ones(2)])


def test_a_weight_that_is_not_there_yet_says_why() -> None:
    with pytest.raises(AttributeError, match=r"no 'kernel' yet(.|\n)*input_shape"):
        af.Dense(3).kernel  # noqa: B018
    built = af.Dense(3)
    built(X)
    for wrong, meant in (("fitt", "fit"), ("predit", "predict")):
        with pytest.raises(AttributeError, match=f"no '{wrong}'.\\n  fix: {meant}$"):
            getattr(af.Sequential([af.Dense(2)]), wrong)
    with pytest.raises(AttributeError, match="no 'kernle'") as caught:
        built.kernle  # noqa: B018
    assert "yet" not in str(caught.value)


def test_what_a_layer_is_told_is_what_it_is_held_to() -> None:
    with pytest.raises(af.Error, match=r"input_shape says(.|\n)*\(batch, 5\)(.|\n)*\(2, 3\)(.|\n)*input_shape=\[3\]"):
        af.Dense(4, input_shape=[5])(np.ones((2, 3)))
    assert af.Dense(4, input_shape=[3])(np.ones((2, 3))).shape == (2, 4)
    assert af.LSTM(4, input_shape=[None, 3])(np.ones((2, 7, 3))).shape == (2, 4)
    for wrong in ({"use_bias": "no"}, {"trainable": "yes"}):
        with pytest.raises(af.Error, match="is True or False"):
            af.Dense(3, **wrong)
    with pytest.raises(af.Error, match=r"a list of layers(.|\n)*af.Sequential\(\[layer"):
        af.Sequential(af.Dense(3))  # type: ignore[arg-type]


# --- losses by hand ---------------------------------------------------------------------------------------------------

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])


@pytest.mark.parametrize("labels", [[0, 1], [[0], [1]], [0.0, 1.0], np.array([0, 1], "int32"), af.tensor([0, 1])])
def test_class_numbers_are_taken_as_fit_takes_them(labels: Any) -> None:
    found = float(af.losses.sparse_categorical_crossentropy(labels, P))
    assert found == pytest.approx(-np.log([0.7, 0.8]).mean(), rel=1e-6)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [100, 1], [0.5, 1.0], [[0], [3]]])
def test_classes_that_are_not_there_are_refused(labels: Any) -> None:
    with pytest.raises(af.Error, match=r"does? not have(.|\n)*from 0 to 2|do not have(.|\n)*from 0 to 2"):
        af.losses.sparse_categorical_crossentropy(labels, P)


def test_targets_of_a_loss_by_hand_may_be_whole_numbers_and_masks() -> None:
    hot = np.eye(3)[[0, 1]]
    expected = -np.log([0.7, 0.8]).mean()
    for given in (hot, hot.astype(int), hot.astype(bool), ops.one_hot([0, 1], 3)):
        assert float(af.losses.categorical_crossentropy(given, P)) == pytest.approx(expected, rel=1e-6)
    assert float(af.losses.mse([[1], [2]], [[1.5], [2.0]])) == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("loss", "y_true", "fix"),
    [
        ("sparse_categorical_crossentropy", np.eye(3)[[0, 1]], "af.ops.argmax(y_true)"),
        ("categorical_crossentropy", [0, 1], "np.eye(3)[labels]"),
        ("mse", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "y_true.reshape(y_pred.shape)"),
        ("mse", [[1.0], [2.0]], None),
    ],
)
def test_targets_that_do_not_fit_by_hand_come_with_a_fix_that_works(loss: str, y_true: Any, fix: str | None) -> None:
    function = getattr(af.losses, loss)
    with pytest.raises(af.Error, match="cannot compare") as caught:
        function(y_true, P)
    last = str(caught.value).splitlines()[-1].strip()
    assert last.startswith(f"fix: {fix}") if fix else "fix" not in last
    if fix:
        names = {"af": af, "np": np, "labels": y_true, "y_true": np.asarray(y_true), "y_pred": P}
        function(eval(fix, names), P)


# --- numbers that are easily confused ---------------------------------------------------------------------------------


def test_zero_and_minus_zero_are_two_constants() -> None:
    c = af.tensor([1.0, -2.0])
    for zeros in ((0.0, -0.0), (-0.0, 0.0)):
        for zero in zeros:
            with np.errstate(divide="ignore"):
                assert np.array_equal((c / zero).numpy(), np.array([1.0, -2.0], "float32") / zero)
    with np.errstate(divide="ignore"):
        both = (c / 0.0 + 0.0 * c, c / -0.0)
        assert both[1].numpy().tolist() == [-np.inf, np.inf]


@pytest.mark.parametrize("change", ["+= 0.5", "/= 2", "-= 1.0"])
def test_whole_numbers_are_not_cut_in_place(change: str) -> None:
    t = af.tensor([1, 2, 3])
    with pytest.raises(af.Error, match="cannot hold"):
        exec(f"t {change}", {"t": t})
    with pytest.raises(af.Error, match="would cut"):
        t.assign([1.5, 2.0, 3.0])
    t += 2
    t.assign([2.0, 4.0, 6.0])
    assert t.numpy().tolist() == [2, 4, 6]


def test_large_whole_numbers_stay_what_they_are() -> None:
    big = 2**53 + 1
    assert bool(af.tensor(big) == big) and (af.tensor(0) + big).item() == big
    assert (-af.tensor([2**24 + 1])).numpy().tolist() == [-(2**24) - 1] and abs(af.tensor([-(2**24) - 1])).item() == 2**24 + 1
    assert af.tensor(np.array([2**32 - 1], np.uint32)).numpy().tolist() == [2**32 - 1]
    assert (af.tensor(0) + np.array([2**32 - 1], np.uint32)).numpy().tolist() == [2**32 - 1]
    small = af.tensor(np.array([1, 2], np.int32))
    for wrong in (
        lambda: af.tensor(np.array([2**63], np.uint64)),
        lambda: small + 2**40,
        lambda: small < np.int64(2**40),
        lambda: af.tensor([1]) == 2**70,
        lambda: af.tensor([1.0]) + 10**400,
        lambda: small + np.array([2**63], np.uint64),
    ):
        with pytest.raises(af.Error, match="cannot hold"):
            wrong()


def test_numpy_does_not_write_into_a_copy_of_a_tensor() -> None:
    t = af.tensor(A)
    for write in (lambda: np.copyto(t, np.zeros((2, 2))), lambda: np.exp(A, out=t), lambda: np.put(t, [0], [1.0])):
        with pytest.raises(af.Error, match="into a copy"):
            write()
    assert np.array_equal(t.numpy(), A)


def test_masks_and_numbers_of_python_go_together() -> None:
    mask = af.tensor(A) > 0
    assert (mask | True).numpy().all() and not (False & mask).numpy().any() and (mask & np.True_).numpy().sum() == 3
    assert ops.where(True, 1.0, 2.0).item() == 1.0
    assert ops.max(mask).item() == 1.0 and ops.min(mask).item() == 0.0 and ops.argmax(mask).numpy().tolist() == [0, 0]
    assert ops.gather(af.tensor(A), 1).numpy().tolist() == [3.0, -4.0]
    assert np.allclose((np.float64(2) ** af.tensor(A)).numpy(), 2**A)
    assert np.allclose(ops.softmax([[1, 2, 3]]).numpy(), ops.softmax([[1.0, 2.0, 3.0]]).numpy())
    assert np.allclose(af.Activation("softmax")([[1, 2, 3]]).numpy().sum(), 1)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: ops.one_hot(np.array([True]), 4), "class numbers"),
        (lambda: ops.iota(4, "bool"), "iota counts"),
        (lambda: ops.iota(4, "foo"), "foo"),
        (lambda: ops.iota(0), "size must be 1 or more"),
        (lambda: ops.iota(2.5), "size must be a whole number"),  # type: ignore[arg-type]
        (lambda: af.tensor(A)[af.tensor(A) > 0], "af.ops.where"),
        (lambda: af.grad(ops.sum(af.tensor([1, 2]) * 2.0), af.tensor([1, 2])), "only floating-point tensors have gradients"),
        (lambda: af.losses.sparse_categorical_crossentropy([0.5], [[0.5, 0.5]]), r"np\.round"),
    ],
)
def test_what_cannot_be_is_said_in_words(wrong: Callable[[], Any], says: str) -> None:
    with pytest.raises(af.Error, match=says):
        wrong()


def test_a_number_is_its_own_derivative_by_itself() -> None:
    w = af.tensor(3.0)
    assert float(af.grad(w, w)) == 1.0 and float(af.grad(w * w, w)) == 6.0


def test_a_subclass_is_answered_with_its_own_options() -> None:
    class Patient(af.callbacks.EarlyStopping):
        def __init__(self, window: int = 1, **options: Any) -> None:
            super().__init__(**options)

    for typo, fix in (("windw", "window=3"), ("pacience", "patience=3")):
        with pytest.raises(af.Error, match=f"Patient has no option '{typo}'(.|\n)*fix: {fix}"):
            Patient(**{typo: 3})


def test_momentum_by_hand_begins_at_the_velocity_it_has() -> None:
    from aforo import evaluate

    w, v = af.tensor(np.linspace(1, 2, 5)), 0.0
    expected, u = np.linspace(1, 2, 5), np.zeros(5)
    known: list[int] = []
    for _ in range(40):
        v = 0.9 * v + af.grad(ops.sum(w * w), w)
        w -= 0.01 * v
        u = 0.9 * u + 2 * expected
        expected = expected - 0.01 * u
        known.append(len(evaluate._programs))
    np.testing.assert_allclose(w.numpy(), expected, rtol=1e-5)
    assert known[3] == known[-1]  # every step runs the programs of the step before
    assert isinstance(v, af.Tensor) and v.value is not None


def test_what_is_held_on_the_way_is_computed_once() -> None:
    x = af.tensor(A)
    hidden = ops.tanh(x * 2.0)
    error = ops.sum(hidden * 3.0)
    float(error)
    assert hidden.value is not None and np.allclose(hidden.numpy(), np.tanh(A * 2))
    assert error.inputs[0].value is None  # nobody else knows the product
    (dx,) = af.grad(error, [x])
    assert np.allclose(dx.numpy(), 6 * (1 - np.tanh(2 * A) ** 2), atol=1e-5)
