"""Losses and metrics against textbook formulas in float64 NumPy, and their gradients against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nets import HEADS, Array, Net, assert_close, differences, forward, gradients, per_sample, softmax, targets

import aforo as af


def passing(n: int, activation: Any = None, dtype: str = "float64") -> af.Sequential:
    """A model whose head gets its input as it is: an identity kernel and no bias."""
    model = af.Sequential([af.Dense(n, activation, use_bias=False, input_shape=[n])], dtype=dtype)
    model.set_weights([np.eye(n)])
    return model


def measured(model: af.Sequential, loss: Any, x: Any, y: Any, **options: Any) -> Any:
    model.compile(loss=loss, **options)
    return model.evaluate(x, y)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", HEADS)
def test_a_loss_is_the_mean_of_its_formula(loss: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    z = 3 * rng.normal(size=(37, 5))
    y = targets(loss, 37, 5, rng)
    head = {"softmax": softmax(z), "sigmoid": 1 / (1 + np.exp(-z)), "none": z}[HEADS[loss]]
    expected = per_sample(loss, y, head).mean()
    found = measured(passing(5, HEADS[loss], dtype), loss, z, y)
    assert_close(found, expected, 1e-12 if dtype == "float64" else 1e-6)


@pytest.mark.parametrize(("name", "alias"), [("mse", "mean_squared_error"), ("mae", "mean_absolute_error"), ("mse", "MSE")])
def test_a_loss_has_the_names_people_use(name: str, alias: str) -> None:
    x, y = np.arange(6.0).reshape(3, 2), np.ones((3, 2))
    assert measured(passing(2), alias, x, y) == measured(passing(2), name, x, y) > 0


@pytest.mark.parametrize("loss", HEADS)
def test_the_derived_gradient_is_that_of_finite_differences(loss: str) -> None:
    for seed in range(4):
        activations = (["tanh", "sin", "sigmoid", "cos"][seed], HEADS[loss])
        net = Net((3, 4, 5), activations, loss, dtype="float64")
        model = net.model(seed)
        x, y = net.data(6, seed)

        def textbook(weights: list[Array], net: Net = net, x: Array = x, y: Array = y) -> float:
            return float(per_sample(net.loss, y, forward(weights, net.activations, x)).mean())

        expected = differences(textbook, model.get_weights())
        for found, wanted in zip(gradients(model, loss, x, y), expected, strict=True):
            assert_close(found, wanted, 1e-7, f"{loss}, {activations}")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", ["categorical_crossentropy", "sparse_categorical_crossentropy"])
def test_softmax_with_cross_entropy_is_exact_where_probabilities_underflow(loss: str, dtype: str) -> None:
    z = np.array([[1000.0, 0.0, -1000.0], [-800.0, 800.0, 0.0], [3000.0, 3000.0, 0.0]])
    labels = np.array([2, 0, 1])
    expected = np.mean([2000.0, 1600.0, np.log(2)])  # log Σ eᶻ − z of the label
    model = passing(3, "softmax", dtype)
    y = labels if loss.startswith("sparse") else np.eye(3)[labels]
    assert_close(measured(model, loss, z, y), expected, 1e-12 if dtype == "float64" else 1e-6)
    g = gradients(model, loss, z, y)[0]
    assert_close(g, z.T @ (softmax(z) - np.eye(3)[labels]) / 3, 1e-12 if dtype == "float64" else 1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sigmoid_with_cross_entropy_is_exact_where_probabilities_underflow(dtype: str) -> None:
    z = np.array([[1000.0, -1000.0], [-700.0, 500.0], [0.0, -90.0]])
    y = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    model = passing(2, "sigmoid", dtype)
    expected = (np.logaddexp(0, z) - z * y).mean()
    assert_close(measured(model, "binary_crossentropy", z, y), expected, tolerance)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-z))
    assert_close(gradients(model, "binary_crossentropy", z, y)[0], z.T @ (sigmoid - y) / z.size, tolerance)


def test_a_softmax_layer_of_its_own_is_recognised_too() -> None:
    z = np.array([[1000.0, 0.0, -1000.0]])
    model = passing(3)
    model.add(af.Activation("softmax"))
    assert_close(measured(model, "categorical_crossentropy", z, [[0.0, 0.0, 1.0]]), 2000, 1e-12)


def test_probabilities_of_unknown_origin_stay_finite() -> None:
    """A user's own softmax cannot be seen through: the loss is then taken from the probabilities, kept away from 0."""
    model = passing(3, lambda z: af.ops.exp(z) / af.ops.sum(af.ops.exp(z), -1, keepdims=True))
    z = np.array([[0.3, -0.2, 1.0], [0.0, 2.0, -90.0]])
    p, y = softmax(z), np.eye(3)[[1, 2]]
    found = measured(model, "categorical_crossentropy", z, y)
    assert_close(found, -(np.log(np.maximum(p, 1e-7)) * y).sum() / 2, 1e-9)
    assert np.isfinite(gradients(model, "categorical_crossentropy", z, y)[0]).all()


def test_soft_targets_need_not_sum_to_one() -> None:
    rng = np.random.default_rng(3)
    z, y = rng.normal(size=(6, 4)), rng.uniform(0, 1, (6, 4))
    model = passing(4, "softmax")
    assert_close(measured(model, "categorical_crossentropy", z, y), -(y * np.log(softmax(z))).sum(axis=1).mean(), 1e-12)
    expected = z.T @ (y.sum(axis=1, keepdims=True) * softmax(z) - y) / 6
    assert_close(gradients(model, "categorical_crossentropy", z, y)[0], expected, 1e-12)


@pytest.mark.parametrize("loss", HEADS)
def test_the_steps_of_a_sequence_are_averaged_within_each_sample(loss: str) -> None:
    rng = np.random.default_rng(4)
    af.set_seed(4)
    model = af.Sequential([af.Dense(3, HEADS[loss], input_shape=[5, 2])], dtype="float64")
    x = rng.normal(size=(4, 5, 2))
    y = targets(loss, 20, 3, rng).reshape(4, 5, -1)
    if loss.startswith("sparse"):
        y = y[..., 0]
    kernel, bias = model.get_weights()
    flat = forward([kernel, bias], [HEADS[loss]], x.reshape(20, 2))
    expected = per_sample(loss, y.reshape(20, *y.shape[2:]), flat).mean()
    assert_close(measured(model, loss, x, y), expected, 1e-12)

    def textbook(weights: list[Array]) -> float:
        y_pred = forward(weights, [HEADS[loss]], x.reshape(20, 2))
        return float(per_sample(loss, y.reshape(20, *y.shape[2:]), y_pred).mean())

    for found, wanted in zip(gradients(model, loss, x, y), differences(textbook, [kernel, bias]), strict=True):
        assert_close(found, wanted, 1e-7)


def test_a_loss_of_ones_own_may_give_one_number_or_one_for_each_sample() -> None:
    net = Net((3, 4, 2), ("tanh", "none"), dtype="float64")
    x, y = net.data(9)
    ops = af.ops
    ways: list[Any] = [
        lambda y_true, y_pred: ops.mean((y_true - y_pred) ** 2),
        lambda y_true, y_pred: ops.mean((y_true - y_pred) ** 2, -1),
        lambda y_true, y_pred: (y_true - y_pred) ** 2,
        lambda y_true, y_pred: ops.mean(ops.square(y_pred - y_true), [1]) * 0.5 + 0.5 * ops.mean((y_true - y_pred) ** 2),
    ]
    model = net.model()
    expected = per_sample("mse", y, forward(model.get_weights(), net.activations, x)).mean()
    wanted = gradients(model, "mse", x, y)
    for way in ways:
        assert_close(measured(model, way, x, y), expected, 1e-12)
        for a, b in zip(gradients(model, way, x, y), wanted, strict=True):
            assert_close(a, b, 1e-12)


def test_a_loss_of_ones_own_gets_the_gradient_of_finite_differences() -> None:
    net = Net((3, 4, 2), ("tanh", "none"), dtype="float64")
    model = net.model()
    x, y = net.data(8)

    def huber(y_true: Any, y_pred: Any) -> Any:
        error = af.ops.absolute(y_true - y_pred)
        return af.ops.mean((error > 1.0) * (error - 0.5) + (error <= 1.0) * (0.5 * error**2))

    def textbook(weights: list[Array]) -> float:
        error = np.abs(y - forward(weights, net.activations, x))
        return float(np.where(error > 1, error - 0.5, 0.5 * error**2).mean())

    expected = differences(textbook, model.get_weights())
    for found, wanted in zip(gradients(model, huber, x, y), expected, strict=True):
        assert_close(found, wanted, 1e-7)


def test_a_loss_of_ones_own_leaves_the_targets_as_they_were() -> None:
    model = passing(1)
    model.compile(loss=lambda y_true, y_pred: af.ops.mean((y_true - y_pred) ** 2))
    x, y = np.ones((4, 1)), np.zeros(4)
    model.fit(x, y, verbose=0)
    assert y.shape == (4,)
    with pytest.raises(af.Error):
        model.fit(x * np.nan, y, verbose=0)
    assert y.shape == (4,)


def test_a_column_of_targets_and_a_row_of_them_are_the_same() -> None:
    for loss, head in [("mse", None), ("binary_crossentropy", "sigmoid"), ("mae", None)]:
        model = passing(1, head)
        x, y = np.linspace(-1, 1, 6)[:, None], np.array([0, 1, 0, 1, 1, 0])
        assert measured(model, loss, x, y) == measured(model, loss, x, y[:, None])


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8", "uint64", "float32", "float64"])
def test_class_numbers_may_come_in_any_dtype_and_as_a_column(dtype: str) -> None:
    labels = np.array([2, 1, 0, 0])
    x = np.random.default_rng(5).normal(size=(4, 3))
    expected = per_sample("sparse_categorical_crossentropy", labels, softmax(x)).mean()
    for y in (labels.astype(dtype), labels.astype(dtype)[:, None]):
        model = passing(3, "softmax")
        model.compile(loss="sparse_categorical_crossentropy")
        assert_close(model.evaluate(x, y), expected, 1e-12)
        assert_close(model.fit(x, y, verbose=0).history["loss"][0], expected, 1e-12)
        model.set_weights([np.eye(3)])
        assert_close(model.train_on_batch(x, y), expected, 1e-12)


def test_targets_may_be_masks_or_whole_numbers() -> None:
    x, y = np.array([[0.5], [-1.0], [2.0]]), np.array([[1], [0], [1]])
    model = passing(1, "sigmoid")
    expected = measured(model, "binary_crossentropy", x, y.astype(float))
    assert expected == measured(model, "binary_crossentropy", x, y) == measured(model, "binary_crossentropy", x, y > 0)


# --- metrics ----------------------------------------------------------------------------------------------------------

Z = np.random.default_rng(7).normal(size=(41, 4))
LABELS = np.random.default_rng(8).integers(0, 4, 41)


@pytest.mark.parametrize("name", ["accuracy", "acc", "Accuracy"])
def test_accuracy_is_the_share_of_rows_whose_largest_output_is_the_label(name: str) -> None:
    expected = (Z.argmax(axis=1) == LABELS).mean()
    assert 0 < expected < 1
    hot = np.eye(4)[LABELS]
    for loss, y in [("categorical_crossentropy", hot), ("sparse_categorical_crossentropy", LABELS), ("mse", hot)]:
        model = passing(4, "none" if loss == "mse" else "softmax")
        assert measured(model, loss, Z, y, metrics=name)[1] == pytest.approx(expected, rel=1e-12)
        assert model.metrics_names == ["loss", name]


def test_accuracy_of_a_sigmoid_head_is_the_share_of_outputs_on_the_right_side_of_a_half() -> None:
    y = (np.random.default_rng(9).uniform(size=(41, 4)) > 0.5).astype(float)
    found = measured(passing(4, "sigmoid"), "binary_crossentropy", Z, y, metrics=["accuracy"])[1]
    assert found == pytest.approx(((Z > 0) == y).mean(), rel=1e-12)
    one = measured(passing(1, "sigmoid"), "binary_crossentropy", Z[:, :1], y[:, 0], metrics=["accuracy"])[1]
    assert one == pytest.approx(((Z[:, 0] > 0) == y[:, 0]).mean(), rel=1e-12)


def test_accuracy_takes_the_first_of_equal_outputs() -> None:
    model = passing(3, "softmax")
    x = np.zeros((3, 3))
    assert measured(model, "sparse_categorical_crossentropy", x, [0, 1, 2], metrics="accuracy")[1] == pytest.approx(1 / 3)


def test_accuracy_in_float32_is_right_where_the_softmax_underflows() -> None:
    x = np.array([[200.0, 201.0, 0.0], [-500.0, -501.0, -502.0]])
    model = passing(3, "softmax", "float32")
    assert measured(model, "sparse_categorical_crossentropy", x, [1, 0], metrics="accuracy")[1] == 1


def test_losses_and_functions_serve_as_metrics_under_their_names() -> None:
    y = np.random.default_rng(10).normal(size=(41, 4))

    def worst(y_true: Any, y_pred: Any) -> Any:
        return af.ops.max(af.ops.absolute(y_true - y_pred), -1)

    model = passing(4)
    model.compile(loss="mse", metrics=["mae", af.losses.mse, worst])
    found = model.evaluate(Z, y, batch_size=10, return_dict=True)
    assert list(found) == ["loss", "mae", "mse", "worst"]
    assert found["mae"] == pytest.approx(np.abs(Z - y).mean(), rel=1e-12)
    assert found["mse"] == pytest.approx(found["loss"], rel=1e-12)
    assert found["worst"] == pytest.approx(np.abs(Z - y).max(axis=1).mean(), rel=1e-12)


def test_metrics_do_not_change_what_is_learned() -> None:
    with_metrics = Net((4, 5, 4), ("tanh", "softmax"), "sparse_categorical_crossentropy", metrics=["accuracy"])
    without = Net((4, 5, 4), ("tanh", "softmax"), "sparse_categorical_crossentropy")
    x, y = without.data(30)
    a, b = with_metrics.model(), without.model()
    for model in (a, b):
        model.fit(x, y, epochs=2, seed=1, verbose=0)
    for p, q in zip(a.get_weights(), b.get_weights(), strict=True):
        assert_close(p, q, 1e-6)


# --- by hand ----------------------------------------------------------------------------------------------------------


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
    for given in (hot, hot.astype(int), hot.astype(bool), af.ops.one_hot([0, 1], 3)):
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
