"""The estimators for scikit-learn, by scikit-learn's own checks and tools."""

from __future__ import annotations

import pickle
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aforo as af
from aforo.random import new_stream, seeded

needs_sklearn = pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn is not installed: aforo[sklearn]")
Array = np.ndarray[Any, Any]


def estimator(kind: str, **options: Any) -> Any:
    return getattr(import_module("aforo.sklearn"), kind)(**{"hidden": (8,), "epochs": 5, "random_state": 3, **options})


def digits(rows: int = 300) -> tuple[Array, Array]:
    x, y = af.datasets.load_digits()
    return np.asarray(x[:rows]), np.asarray(y[:rows]).ravel()


def diabetes() -> tuple[Array, Array]:
    x, y = af.datasets.load_diabetes()
    return (x - x.mean(0)) / x.std(0), (y[:, 0] - y.mean()) / y.std()


# scikit-learn expects the same of its own SGDClassifier and SGDRegressor.
EXPECTED = {"check_sample_weight_equivalence_on_dense_data": "repeated rows make other mini-batches than weighted ones"}


@needs_sklearn
@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
def test_it_passes_the_checks_of_scikit_learn(kind: str) -> None:
    from sklearn.utils.estimator_checks import check_estimator

    made = getattr(import_module("aforo.sklearn"), kind)(epochs=20, learning_rate=0.02)
    results = check_estimator(made, expected_failed_checks=EXPECTED, on_skip=None, on_fail=None)
    failed = {each["check_name"]: repr(each["exception"]) for each in results if each["status"] == "failed"}
    assert failed == {} and sum(each["status"] == "passed" for each in results) > 40
    assert {each["check_name"] for each in results if each["status"] == "xfail"} <= set(EXPECTED)


@needs_sklearn
def test_text_labels_are_classes() -> None:
    x, y = digits()
    names = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])[y]
    made = estimator("Classifier", epochs=30, learning_rate=0.01).fit(x, names)
    assert list(made.classes_) == sorted(set(names)) and made.n_features_in_ == 64
    probabilities = made.predict_proba(x)
    np.testing.assert_allclose(probabilities.sum(1), 1, 1e-5)
    np.testing.assert_array_equal(made.predict(x), made.classes_[probabilities.argmax(1)])
    assert made.score(x, names) > 0.95


@needs_sklearn
def test_it_is_the_model_that_aforo_would_train() -> None:
    x, y = diabetes()
    made = estimator("Regressor", hidden=(6, 4), activation="tanh", optimizer=af.SGD(0.05, momentum=0.5)).fit(x, y)
    model = made.model_
    assert [(layer.units, layer.activation) for layer in model.layers] == [
        (6, af.ops.tanh), (4, af.ops.tanh), (1, model.layers[2].activation)
    ]  # fmt: skip
    np.testing.assert_array_equal(made.predict(x), model.predict(x)[:, 0].astype("float64"))
    assert made.n_iter_ == len(made.loss_curve_) == 5 and made.loss_curve_[-1] < made.loss_curve_[0]
    assert made.score(x, y) == pytest.approx(1 - np.mean((y - made.predict(x)) ** 2) / np.var(y), abs=1e-6)


@needs_sklearn
def test_random_state_makes_fits_repeatable_and_leaves_other_seeds_alone() -> None:
    x, y = diabetes()
    af.set_seed(1)
    first = af.Dense(3, input_shape=[2])
    af.set_seed(1)
    a, b, c = (estimator("Regressor", random_state=seed).fit(x, y) for seed in (7, 7, 8))
    second = af.Dense(3, input_shape=[2])
    np.testing.assert_array_equal(a.predict(x), b.predict(x))
    assert np.abs(a.predict(x) - c.predict(x)).max() > 0.01
    for layer in (first, second):
        layer(np.ones((1, 2), "float32"))
    np.testing.assert_array_equal(first.kernel.numpy(), second.kernel.numpy())


@needs_sklearn
@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
def test_a_weight_of_two_is_a_row_twice(kind: str) -> None:
    x, y = digits(60) if kind == "Classifier" else diabetes()
    x, y = x[:60], y[:60]
    weights = np.arange(60) % 4
    options = {"batch_size": 200, "optimizer": af.SGD(0.05), "epochs": 20}
    a = estimator(kind, **options).fit(x, y, sample_weight=weights)
    b = estimator(kind, **options).fit(np.repeat(x, weights, axis=0), np.repeat(y, weights))
    plain = estimator(kind, **options).fit(x, y)
    for one, two, three in zip(a.weights_, b.weights_, plain.weights_, strict=True):
        np.testing.assert_allclose(one, two, 1e-3, 1e-5)
        assert np.abs(one - three).max() > 1e-3


@needs_sklearn
def test_several_targets() -> None:
    x, y = diabetes()
    both = np.stack([y, -y], 1)
    made = estimator("Regressor", epochs=30).fit(x, both)
    assert made.predict(x).shape == both.shape and made.score(x, both) > 0.4
    assert estimator("Regressor").fit(x, y[:, None]).predict(x).shape == (len(y), 1)


@needs_sklearn
@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
def test_partial_fits_are_the_epochs_of_a_fit(kind: str) -> None:
    x, y = digits(100) if kind == "Classifier" else diabetes()
    whole, parts = estimator(kind).fit(x, y), estimator(kind)
    for _ in range(5):
        parts.partial_fit(x, y)
    for a, b in zip(whole.weights_, parts.weights_, strict=True):
        np.testing.assert_array_equal(a, b)
    assert parts.n_iter_ == 5 and parts.loss_curve_ == whole.loss_curve_


@needs_sklearn
def test_the_first_partial_fit_names_the_classes() -> None:
    x, y = digits(100)
    made = estimator("Classifier").partial_fit(x[y < 5], y[y < 5], classes=range(10))
    assert made.predict_proba(x).shape == (100, 10)
    made.partial_fit(x, y)
    with pytest.raises(ValueError, match=r"classes differ from those of the first call"):
        made.partial_fit(x, y, classes=range(9))
    with pytest.raises(ValueError, match=r"y holds classes that the classifier does not know(.|\n)*received: \[10, 11, 12\]"):
        made.partial_fit(x, y + 3)


@needs_sklearn
@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
def test_pickles_and_joblib_keep_what_was_learned(kind: str, tmp_path: Path) -> None:
    import joblib

    x, y = digits(100) if kind == "Classifier" else diabetes()
    made = estimator(kind).fit(x, y)
    joblib.dump(made, tmp_path / "made.joblib")
    for copy in (pickle.loads(pickle.dumps(made)), joblib.load(tmp_path / "made.joblib", mmap_mode="r")):
        assert "_model" not in vars(copy)
        np.testing.assert_array_equal(copy.predict(x), made.predict(x))
        assert copy.partial_fit(x, y).n_iter_ == 6
    assert b"Sequential" not in pickle.dumps(made)


@needs_sklearn
def test_pipelines_and_searches() -> None:
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = digits(150)
    pipeline = make_pipeline(StandardScaler(), estimator("Classifier", learning_rate=0.01))
    grid = {"classifier__hidden": [(4,), (16, 8)], "classifier__activation": ["relu", "tanh"]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=None).fit(x, y)
    assert set(search.best_params_) == set(grid) and search.best_estimator_.score(x, y) > 0.5
    assert len(cross_val_score(pipeline, x, y, cv=2)) == 2
    made = estimator("Classifier", optimizer=af.Adam(0.01))
    copy = clone(made).set_params(hidden=(3,), epochs=1)
    assert copy.get_params()["hidden"] == (3,) and made.get_params()["hidden"] == (8,)
    assert len(copy.fit(x, y).weights_) == 4 and not hasattr(made, "classes_")


@needs_sklearn
def test_names_of_features_are_remembered() -> None:
    pytest.importorskip("pandas", reason="pandas is not installed: there are no tables with names")
    import pandas as pd

    x, y = diabetes()
    made = estimator("Regressor").fit(pd.DataFrame(x, columns=[f"c{i}" for i in range(x.shape[1])]), y)
    assert list(made.feature_names_in_) == [f"c{i}" for i in range(x.shape[1])]


@needs_sklearn
def test_mistakes_are_explained() -> None:
    x, y = diabetes()
    labels = (y > 0).astype(int)
    for options, text in [
        ({"hidden": (0,)}, r"hidden"),
        ({"hidden": "wide"}, r"hidden holds the widths of the hidden layers(.|\n)*hidden=\(64,\)"),
        ({"activation": "rleu"}, r"did you mean 'relu'"),
        ({"optimizer": "adma"}, r"did you mean 'adam'"),
        ({"optimizer": af.Adam(), "learning_rate": 0.1}, r"given twice(.|\n)*af.Adam\(learning_rate=0.1\)"),
        ({"batch_size": 0}, r"batch_size"),
        ({"device": "cuad"}, r"did you mean 'cuda'"),
    ]:
        with pytest.raises(af.Error, match=text):
            estimator("Regressor", **options).fit(x, y)
    with pytest.raises(ValueError, match=r"tells classes apart(.|\n)*one class"):
        estimator("Classifier").fit(x, labels * 0)
    with pytest.raises(ValueError, match=r"sample weights are all zero"):
        estimator("Classifier").fit(x, labels, sample_weight=np.zeros(len(y)))
    made = estimator("Regressor").fit(x, y)
    with pytest.raises(ValueError, match=r"another number of targets than before"):
        made.partial_fit(x, np.stack([y, y], 1))


def test_without_scikit_learn_the_error_has_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "aforo.sklearn", raising=False)
    for name in ("sklearn", "sklearn.base"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(af.Error, match=r"pip install 'aforo\[sklearn\]'") as caught:
        import_module("aforo.sklearn")
    assert isinstance(caught.value, RuntimeError)


def test_streams_of_a_seed_of_their_own() -> None:
    af.set_seed(2)
    before = new_stream()
    with seeded(9):
        inside = [new_stream(), new_stream()]
    after = new_stream()
    assert [(s.seed, s.turn) for s in (before, *inside, after)] == [(2, 0), (9, 0), (9, 1), (2, 1)]


@needs_sklearn
def test_optimizers_and_functions_travel_to_other_processes_and_options_have_names() -> None:
    from sklearn.model_selection import GridSearchCV

    from aforo.sklearn import Classifier

    x, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 2
    made = Classifier(optimizer=af.Adam(0.01), activation=af.ops.sin, epochs=2, random_state=0).fit(x, y)
    assert np.array_equal(pickle.loads(pickle.dumps(made)).predict_proba(x), made.predict_proba(x))
    search = GridSearchCV(Classifier(epochs=2, random_state=0), {"optimizer": [af.Adam(0.01), "sgd"]}, n_jobs=2, cv=2)
    assert np.isfinite(search.fit(x, y).best_score_)
    with pytest.raises(af.Error, match=r"Classifier has no option 'hiden'(.|\n)*fix: hidden=3"):
        Classifier(hiden=3)
