"""The shipped data: what it is, and that networks learn from it."""

import numpy as np
import pytest

import aforo as af


def test_digits_are_images_with_labels():
    x, y = af.datasets.load_digits()
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1797, 64), np.float32, (1797,), np.int64)
    assert x.min() == 0 and x.max() == 1 and set(y) == set(range(10))
    # Ink per class: a one takes less than an eight, on average, in any set of handwritten digits.
    assert x[y == 1].sum() / (y == 1).sum() < x[y == 8].sum() / (y == 8).sum()
    _, one_hot = af.datasets.load_digits(one_hot=True)
    assert one_hot.shape == (1797, 10) and (one_hot.sum(axis=1) == 1).all() and (one_hot.argmax(axis=1) == y).all()


def test_diabetes_is_a_regression_with_standardized_columns():
    x, y = af.datasets.load_diabetes()
    assert x.shape == (442, 10) and y.shape == (442, 1) and x.dtype == y.dtype == np.float32
    np.testing.assert_allclose([x.mean(axis=0), x.std(axis=0)], [np.zeros(10), np.ones(10)], atol=1e-5)
    raw_x, raw_y = af.datasets.load_diabetes(standardized=False)
    assert (raw_y.min(), raw_y.max()) == (25, 346) and set(raw_x[:, 1]) == {1, 2}
    # Least squares explains about half of the variance, as published (Efron et al., 2004).
    a = np.c_[x, np.ones(len(x))]
    residual = y[:, 0] - a @ np.linalg.lstsq(a, y[:, 0], rcond=None)[0]
    assert 0.45 < 1 - residual.var() / y.var() < 0.6


def test_the_shipped_values_are_those_of_scikit_learn():
    published = pytest.importorskip("sklearn.datasets")
    digits, diabetes = published.load_digits(), published.load_diabetes(scaled=False)
    x, y = af.datasets.load_digits()
    assert (x * 16 == digits.data).all() and (y == digits.target).all()
    x, y = af.datasets.load_diabetes(standardized=False)
    np.testing.assert_allclose(x, diabetes.data, rtol=1e-6)
    assert (y[:, 0] == diabetes.target).all()


def test_digits_are_learnt_to_97_percent_over_five_shuffles():
    x, y = af.datasets.load_digits()
    accuracies = []
    for seed in range(5):
        af.set_seed(seed)
        order = np.random.default_rng(seed).permutation(len(x))
        test, train = order[: len(x) // 5], order[len(x) // 5 :]
        model = af.Sequential([af.Dense(256, activation="relu"), af.Dense(10, activation="softmax")])
        sgd = af.SGD(learning_rate=0.1, momentum=0.9)
        model.compile(loss="sparse_categorical_crossentropy", optimizer=sgd, metrics="accuracy")
        model.fit(x[train], y[train], epochs=30, batch_size=32, verbose=0)
        accuracies.append(model.evaluate(x[test], y[test], return_dict=True)["accuracy"])
    assert np.mean(accuracies) >= 0.97
