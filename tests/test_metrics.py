"""Metrics against scikit-learn, and losses against PyTorch, over batches of uneven size; NumPy where those are not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nets import Array, assert_close, differences, gradients

import aforo as af
from aforo import ops

ROWS, BATCHES = 53, (1, 7, 10, 53, 100)  # 10: a last batch of three


def scores(classes: int, seed: int = 0, rows: int = ROWS) -> Array:
    return np.random.default_rng([seed, classes]).normal(size=(rows, classes))


def head(activation: Any, n: int, loss: Any, metrics: Any, dtype: str = "float64") -> af.Sequential:
    """A model that gives its input through an activation."""
    model = af.Sequential([af.Dense(n, activation, use_bias=False, input_shape=[n])], dtype=dtype)
    model.set_weights([np.eye(n)])
    model.compile(loss=loss, metrics=metrics)
    return model


def reported(model: af.Model, x: Any, y: Any, tolerance: float = 1e-12) -> dict[str, float]:
    """The same whatever the batches are, in evaluate and in test_on_batch."""
    found = [model.evaluate(x, y, batch_size=size, return_dict=True) for size in BATCHES]
    for each in found[1:]:
        for name, value in each.items():
            assert_close(value, found[0][name], tolerance, name)
    assert_close(model.test_on_batch(x, y), list(found[0].values()), tolerance)
    return found[0]


# --- references -------------------------------------------------------------------------------------------------------


def r2(y: Array, p: Array) -> float:
    return float(np.mean(1 - ((y - p) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)))


def top(k: int, labels: Array, z: Array) -> float:
    return float(np.mean([label in np.argsort(-row)[:k] for label, row in zip(labels, z, strict=True)]))


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


# --- classification ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_accuracy_and_top_k_of_class_numbers_and_one_hot_rows(dtype: str) -> None:
    z = scores(9)
    labels = np.random.default_rng(1).integers(0, 9, ROWS)
    metrics = ["accuracy", "top_3", "top_5", af.metrics.top_k(1), af.metrics.top_k(2), af.metrics.top_k(9)]
    for loss, y in (("sparse_categorical_crossentropy", labels), ("categorical_crossentropy", np.eye(9)[labels])):
        found = reported(head("softmax", 9, loss, metrics, dtype), z, y, 1e-12 if dtype == "float64" else 1e-6)
        assert list(found) == ["loss", "accuracy", "top_3", "top_5", "top_1", "top_2", "top_9"]
        assert found["accuracy"] == found["top_1"] == np.mean(z.argmax(1) == labels)
        for k in (2, 3, 5):
            assert_close(found[f"top_{k}"], top(k, labels, z), 1e-12)
        assert found["top_9"] == 1.0


def test_accuracy_by_its_three_names_and_of_sequences() -> None:
    z, labels = scores(4), np.random.default_rng(2).integers(0, 4, ROWS)
    y = np.eye(4)[labels]
    share = np.mean(z.argmax(1) == labels)
    assert head("softmax", 4, "categorical_crossentropy", "categorical_accuracy").evaluate(z, y)[1] == pytest.approx(
        share, 1e-12
    )
    model = head("softmax", 4, "sparse_categorical_crossentropy", "sparse_categorical_accuracy")
    assert model.evaluate(z, labels)[1] == pytest.approx(share, 1e-12)
    many = (z > 0.3).astype(float)
    found = head("sigmoid", 4, "binary_crossentropy", ["binary_accuracy", "accuracy"]).evaluate(z, many)
    assert found[1] == found[2] == pytest.approx(np.mean((sigmoid(z) > 0.5) == many), 1e-12)
    sequence = af.Sequential([af.Dense(4, "softmax", use_bias=False, input_shape=[3, 4])], dtype="float64")
    sequence.set_weights([np.eye(4)])
    sequence.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy", "top_3"])
    z, labels = z[:51].reshape(17, 3, 4), labels[:51].reshape(17, 3)
    found = sequence.evaluate(z, labels, batch_size=5)
    assert_close(found[1], np.mean(z.argmax(-1) == labels), 1e-12)
    assert_close(found[2], top(3, labels.ravel(), z.reshape(51, 4)), 1e-12)


def test_classification_metrics_are_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    z, labels = scores(6), np.random.default_rng(3).integers(0, 6, ROWS)
    found = reported(
        head("softmax", 6, "sparse_categorical_crossentropy", ["accuracy", "top_3", af.metrics.top_k(2)]), z, labels
    )
    assert_close(found["accuracy"], sklearn.accuracy_score(labels, z.argmax(1)), 1e-12)
    assert_close(found["top_3"], sklearn.top_k_accuracy_score(labels, z, k=3), 1e-12)
    assert_close(found["top_2"], sklearn.top_k_accuracy_score(labels, z, k=2), 1e-12)
    y = np.random.default_rng(4).integers(0, 2, (ROWS, 1)).astype(float)
    found = reported(head("sigmoid", 1, "binary_crossentropy", ["precision", "recall", "accuracy"]), z[:, :1], y)
    said = z[:, 0] > 0
    assert_close(found["precision"], sklearn.precision_score(y[:, 0], said), 1e-12)
    assert_close(found["recall"], sklearn.recall_score(y[:, 0], said), 1e-12)
    assert_close(found["accuracy"], sklearn.accuracy_score(y[:, 0], said), 1e-12)
    many = np.random.default_rng(5).integers(0, 2, (ROWS, 6)).astype(float)
    found = reported(head("sigmoid", 6, "binary_crossentropy", ["precision", "recall"]), z, many)
    assert_close(found["precision"], sklearn.precision_score(many, z > 0, average="micro"), 1e-12)
    assert_close(found["recall"], sklearn.recall_score(many, z > 0, average="micro"), 1e-12)


def test_precision_and_recall_count_hits_over_all_batches() -> None:
    z = np.array([[3.0], [-1.0], [2.0], [1.0], [-2.0], [0.5]])
    y = np.array([[1.0], [1.0], [0.0], [1.0], [0.0], [1.0]])
    model = head("sigmoid", 1, "binary_crossentropy", [af.metrics.precision, af.metrics.recall])
    for size in (1, 4, 6):
        assert model.evaluate(z, y, batch_size=size)[1:] == [3 / 4, 3 / 4]
    assert model.evaluate(z - 10, y)[1:] == [0.0, 0.0], "nothing was said to be there"
    assert model.evaluate(z, 0 * y)[1:] == [0.0, 0.0], "nothing was there"


def test_equal_scores_are_ranked_as_one() -> None:
    """The right class counts among the best k if fewer than k are strictly ahead."""
    z = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [3.0, 1.0, 1.0]])
    model = head("softmax", 3, "sparse_categorical_crossentropy", [af.metrics.top_k(1), af.metrics.top_k(2)])
    assert model.evaluate(z, [1, 0, 2])[1:] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]


# --- regression -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression_metrics_are_their_formulas(outputs: int) -> None:
    p = scores(outputs)
    y = p + scores(outputs, seed=1) * np.arange(1, outputs + 1) + 5
    names = ["mae", "mse", "r2", "huber", "mean_absolute_error"]
    found = reported(head(None, outputs, "mse", names), p, y)
    d = np.abs(y - p)
    assert list(found) == ["loss", *names]
    assert_close(found["loss"], (d**2).mean(), 1e-12)
    assert_close(found["mse"], (d**2).mean(), 1e-12)
    assert_close(found["mae"], d.mean(), 1e-12)
    assert_close(found["mean_absolute_error"], d.mean(), 1e-12)
    assert_close(found["huber"], np.where(d <= 1, d * d / 2, d - 0.5).mean(), 1e-12)
    assert_close(found["r2"], r2(y, p), 1e-11)


def test_regression_metrics_are_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    p = scores(4)
    y = 0.5 * p + scores(4, seed=2) * [0.1, 1, 5, 0.01] + [0, 10, -3, 100]
    y[:, 3] = 7.0  # an output that does not vary
    found = reported(head(None, 4, "mse", ["mae", "mse", "r2"]), p, y)
    assert_close(found["mae"], sklearn.mean_absolute_error(y, p), 1e-12)
    assert_close(found["mse"], sklearn.mean_squared_error(y, p), 1e-12)
    assert_close(found["r2"], sklearn.r2_score(y, p), 1e-10)
    exact = y.copy()
    assert_close(head(None, 4, "mse", "r2").evaluate(exact, y)[1], sklearn.r2_score(y, exact), 1e-12)
    one = np.array([[1.0], [2.0], [4.0]])
    assert_close(head(None, 1, "mse", "r2").evaluate(one * 2, one, batch_size=2)[1], sklearn.r2_score(one, one * 2), 1e-12)


def test_r2_keeps_its_digits_where_the_targets_are_far_from_zero() -> None:
    """Sums of squares in float32 would leave none."""
    p = scores(1, rows=1000).astype("float32")
    y = (p + 0.5 * scores(1, seed=1, rows=1000)).astype("float32") + np.float32(1000)
    found = head(None, 1, "mse", "r2", "float32").evaluate(p + np.float32(1000), y, batch_size=64)[1]
    assert_close(found, r2(y.astype(float), (p + np.float32(1000)).astype(float)), 1e-6)


# --- callables, names, histories --------------------------------------------------------------------------------------


def far(y_true: Any, y_pred: Any) -> Any:
    """A number for each sample."""
    return ops.max(ops.absolute(y_true - y_pred), -1)


def test_a_function_is_a_metric_under_its_name() -> None:
    p, y = scores(3), scores(3, seed=1)
    found = reported(head(None, 3, "mse", [far, af.losses.mae]), p, y)
    assert list(found) == ["loss", "far", "mae"]
    assert_close(found["far"], np.abs(y - p).max(1).mean(), 1e-12)


def test_a_metric_of_sums_of_ones_own_is_exact_over_batches() -> None:
    """The bias of predictions relative to the targets: a quotient of sums."""
    own = af.metrics.Metric(
        "bias",
        lambda y_true, y_pred: {"p": ops.sum(y_pred), "y": ops.sum(y_true)},
        lambda sums, rows: float(sums["p"] / sums["y"]) - 1.0,
    )
    p, y = scores(2) + 5, scores(2, seed=1) + 4
    assert_close(reported(head(None, 2, "mse", own), p, y)["bias"], p.sum() / y.sum() - 1, 1e-12)


def test_histories_hold_metrics_of_training_and_validation_by_epoch() -> None:
    x, y = scores(3), scores(3, seed=1)
    model = head(None, 3, "mse", ["mae", far, "r2"])
    history = model.fit(x, y, epochs=3, batch_size=10, validation_split=0.2, verbose=0).history
    assert list(history) == ["loss", "mae", "far", "r2", "val_loss", "val_mae", "val_far", "val_r2"]
    assert all(len(values) == 3 for values in history.values())
    held = x[42:], y[42:]
    now = model.evaluate(*held, return_dict=True)
    for name, value in now.items():
        assert_close(history["val_" + name][-1], value, 1e-12)
    assert model.metrics_names == ["loss", "mae", "far", "r2"]


@pytest.mark.parametrize("form", ["dict", "list"])
def test_each_output_has_its_own_metrics(form: str) -> None:
    a = af.Input([3], dtype="float64")
    model = af.Model(a, [af.Dense(1, name="grade")(a), af.Dense(4, "softmax", name="kind")(a)])
    metrics: Any = {"kind": ["accuracy", "top_3"], "grade": "r2"}
    loss: Any = {"grade": "mae", "kind": "sparse_categorical_crossentropy"}
    if form == "list":
        metrics, loss = ["r2", ["accuracy", "top_3"]], list(loss.values())
    model.compile(loss=loss, metrics=metrics)
    x, y, labels = scores(3), scores(1), np.random.default_rng(0).integers(0, 4, ROWS)
    found = reported(model, x, [y, labels])
    assert list(found) == ["loss", "grade_loss", "grade_r2", "kind_loss", "kind_accuracy", "kind_top_3"]
    grade, kind = model.predict(x)
    assert_close(found["grade_loss"], np.abs(y - grade).mean(), 1e-12)
    assert_close(found["grade_r2"], r2(y, grade), 1e-11)
    assert_close(found["kind_accuracy"], np.mean(kind.argmax(1) == labels), 1e-12)
    assert_close(found["kind_top_3"], top(3, labels, kind), 1e-12)
    history = model.fit(x, [y, labels], epochs=2, verbose=0, validation_split=0.25).history
    assert list(history) == [*found, *("val_" + name for name in found)]
    before = model.test_on_batch(x, [y, labels])
    assert_close(before[0], before[1] + before[3], 1e-12)
    assert_close(model.train_on_batch(x, [y, labels]), before, 1e-12)


def test_metrics_are_of_the_rows_and_not_of_their_weights() -> None:
    z, labels = scores(4), np.random.default_rng(2).integers(0, 4, ROWS)
    model = head("softmax", 4, "sparse_categorical_crossentropy", "accuracy")
    found = model.evaluate(z, labels, sample_weight=np.linspace(0, 3, ROWS))
    assert_close(found[1], np.mean(z.argmax(1) == labels), 1e-12)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ("acuracy", ["acuracy", "did you mean 'accuracy'"]),
        (["mae", "mae"], ["named 'mae'"]),
        ([3], ["no metric", "3"]),
        ({"other": "mae"}, ["other"]),
    ],
)
def test_a_metric_that_cannot_be_says_why(metrics: Any, words: list[str]) -> None:
    with pytest.raises(af.Error) as caught:
        head(None, 2, "mse", metrics)
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(af.Error, match="k must be 1 or more"):
        af.metrics.top_k(0)
    with pytest.raises(af.Error, match="must return a tensor"):
        head(None, 2, "mse", lambda y_true, y_pred: 3.0)


# --- losses -----------------------------------------------------------------------------------------------------------

LOSSES: dict[str, tuple[Any, Callable[[Array, Array], Array]]] = {
    "huber": (None, lambda y, z: np.where(np.abs(y - z) <= 1, (y - z) ** 2 / 2, np.abs(y - z) - 0.5).mean()),
    "mae": (None, lambda y, z: np.abs(y - z).mean()),
    "mse": (None, lambda y, z: ((y - z) ** 2).mean()),
    "binary_crossentropy": ("sigmoid", lambda y, z: (np.logaddexp(0, z) - y * z).mean()),
}


def loss_data(loss: str) -> tuple[Array, Array]:
    z, y = 2 * scores(3), 2 * scores(3, seed=1)
    return z, (y > 0).astype(float) if loss.startswith("binary") else y


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_and_its_gradient_are_the_formula_and_finite_differences(loss: str) -> None:
    activation, formula = LOSSES[loss]
    z, y = loss_data(loss)
    model = head(activation, 3, loss, None)
    assert_close(model.evaluate(z, y, batch_size=10), formula(y, z), 1e-12)
    (wanted,) = differences(lambda w: float(formula(y, z @ w[0])), [np.eye(3)])
    assert_close(gradients(model, loss, z, y)[0], wanted, 1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_and_its_gradient_are_those_of_pytorch(loss: str) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    theirs = {
        "huber": functional.huber_loss,
        "mae": functional.l1_loss,
        "mse": functional.mse_loss,
        "binary_crossentropy": functional.binary_cross_entropy_with_logits,
    }[loss]
    z, y = loss_data(loss)
    kernel = torch.eye(3, dtype=torch.float64, requires_grad=True)
    value = theirs(torch.tensor(z) @ kernel, torch.tensor(y))
    value.backward()
    model = head(LOSSES[loss][0], 3, loss, None)
    assert_close(model.evaluate(z, y, batch_size=10), value.item(), 1e-12)
    assert_close(gradients(model, loss, z, y)[0], kernel.grad.numpy(), 1e-12)
