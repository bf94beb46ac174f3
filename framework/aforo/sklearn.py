"""Stacks of Dense layers as estimators of scikit-learn: for its pipelines, searches and cross-validation.

Needs the extra `sklearn`. Nothing else in Aforo imports scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

from . import optimizers
from .errors import InvalidState, InvalidType, InvalidValue, explain
from .graph import Tensor
from .layers import Dense
from .random import seeded
from .sequential import Sequential
from .settings import strict, whole

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
    from sklearn.utils import check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise InvalidState(
        explain(
            "aforo.sklearn needs scikit-learn, which is not installed.",
            expected="scikit-learn 1.6 or later",
            received=str(error),
            fix="pip install 'aforo[sklearn]'",
        )
    ) from error

__all__ = ["Classifier", "Regressor"]

Array = np.ndarray[Any, Any]
Activation = str | Callable[[Tensor], Tensor] | None


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """What both have in common. Fitted: n_features_in_, weights_ (kernel, bias, kernel, bias, …), loss_curve_, n_iter_."""

    n_features_in_: int
    weights_: list[Array]
    loss_curve_: list[float]
    n_iter_: int

    @strict
    def __init__(
        self,
        hidden: Any = (64,),
        activation: Activation = "relu",
        optimizer: Any = "adam",
        learning_rate: float | None = None,
        epochs: int = 100,
        batch_size: int = 32,
        random_state: Any = None,
        device: str = "cpu",
        verbose: int = 0,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    @property
    def model_(self) -> Sequential:
        """The model behind it. One that was unpickled is made from its weights; its optimizer starts afresh."""
        check_is_fitted(self)
        if "_model" not in vars(self):
            model = self._made()
            model.set_weights(self.weights_)
            model.epochs_trained = self.n_iter_
            self._model = model
        return self._model

    def _head(self) -> tuple[Dense, str]:
        """The last layer, and the loss."""
        raise NotImplementedError

    def _made(self) -> Sequential:
        """The model for data that has been looked at, compiled."""
        with seeded(self._seed):
            head, loss = self._head()
            model = Sequential([*(Dense(width, self.activation) for width in self._widths()), head])
            model.build((None, self.n_features_in_))
        model.compile(loss=loss, optimizer=self._chosen_optimizer())
        model.to(self.device)
        return model

    def _widths(self) -> list[int]:
        given = [self.hidden] if hasattr(self.hidden, "__index__") else self.hidden
        if isinstance(given, str) or not hasattr(given, "__iter__"):
            raise InvalidType(
                explain("hidden holds the widths of the hidden layers.", received=repr(self.hidden), fix="hidden=(64,)")
            )
        return [whole("hidden", width, 1) for width in given]

    def _chosen_optimizer(self) -> optimizers.Optimizer:
        if self.learning_rate is None:
            return optimizers.get(deepcopy(self.optimizer))
        if not isinstance(self.optimizer, str):
            raise InvalidValue(
                explain(
                    "a learning rate is given twice: the optimizer has its own.",
                    expected="an optimizer's name with a learning rate, or an optimizer",
                    received=f"optimizer={type(self.optimizer).__name__}, learning_rate={self.learning_rate}",
                    fix=f"optimizer=af.{type(self.optimizer).__name__}(learning_rate={self.learning_rate})",
                )
            )
        return type(optimizers.get(self.optimizer))(self.learning_rate)

    def _trained(self, X: Array, y: Array, sample_weight: Any, epochs: int, again: bool) -> Any:
        """Train on checked data; again: go on with the model there is."""
        if sample_weight is not None and not np.asarray(sample_weight).any():
            raise InvalidValue(
                explain(
                    "the sample weights are all zero: there is nothing to learn.",
                    expected="a positive sample_weight",
                    received="zeros",
                    fix="sample_weight=None",
                )
            )
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        if weights is not None:
            weights = weights / weights.mean()  # they say how samples compare: the learning rate keeps its meaning
        if not again:
            self.__dict__.pop("_model", None)
            self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        model = self.model_ if again else self._made()
        done = model.epochs_trained
        history = model.fit(
            X,
            y,
            batch_size=self.batch_size,
            epochs=done + epochs,
            initial_epoch=done,
            verbose=self.verbose,
            seed=self._seed,
            sample_weight=weights,
        )
        self._model = model
        self.weights_ = model.get_weights()
        self.loss_curve_ = [*(self.loss_curve_ if again else ()), *history.history["loss"]]
        self.n_iter_ = model.epochs_trained
        return self

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=_FLOATS)
        found: Array = self.model_.predict(X, batch_size=self.batch_size)
        return found

    def __sklearn_is_fitted__(self) -> bool:
        return "weights_" in vars(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_model"}


_FLOATS = [np.float64, np.float32]


class Classifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """A classifier: Dense layers, a softmax over the classes, and cross-entropy. Labels are numbers, text, or bool.

    hidden: widths of the hidden layers. activation, optimizer: as `af.Dense` and `compile` take them; learning_rate: for an
    optimizer that is given by name. epochs: of `fit`; each `partial_fit` is one more. random_state: makes fits repeatable.
    Fitted: classes_, n_features_in_, feature_names_in_, model_ (an af.Sequential), weights_, loss_curve_, n_iter_.
    """

    classes_: Array

    def _head(self) -> tuple[Dense, str]:
        return Dense(len(self.classes_), "softmax"), "sparse_categorical_crossentropy"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Classifier:
        """Train from new weights on X (n, d) and n labels. Whatever was learned before is forgotten."""
        X, y = self._labelled(X, y, reset=True)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        return self._trained(X, self._two_or_more(numbers), sample_weight, self.epochs, False)  # type: ignore[no-any-return]

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Classifier:
        """One epoch more on X and y. The first call is given all classes, unless y has them all."""
        again = self.__sklearn_is_fitted__()
        X, y = self._labelled(X, y, reset=not again)
        known = self.classes_ if again else np.unique(y if classes is None else classes)
        if again and classes is not None and not np.array_equal(np.unique(classes), known):
            raise InvalidValue(
                explain(
                    "classes differ from those of the first call of partial_fit.",
                    expected=known.tolist(),
                    received=np.unique(classes).tolist(),
                    fix="leave classes out after the first call",
                )
            )
        strange = np.setdiff1d(y, known)
        if len(strange):
            raise InvalidValue(
                explain(
                    "y holds classes that the classifier does not know.",
                    expected=known.tolist(),
                    received=strange.tolist(),
                    fix="classes=[…], all of them, in the first call of partial_fit",
                )
            )
        self.classes_ = known
        numbers = self._two_or_more(np.searchsorted(known, y))
        return self._trained(X, numbers, sample_weight, 1, again)  # type: ignore[no-any-return]

    def predict(self, X: Any) -> Array:
        """The likeliest class of each row."""
        found: Array = self.predict_proba(X).argmax(axis=1)
        labels: Array = self.classes_[found]
        return labels

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class (n, len(classes_)), in the order of `classes_`."""
        return self._outputs(X)

    def _labelled(self, X: Any, y: Any, reset: bool) -> tuple[Array, Array]:
        X, y = validate_data(self, X, y, reset=reset, dtype=_FLOATS, multi_output=True)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        return X, y

    def _two_or_more(self, numbers: Array) -> Array:
        if len(self.classes_) < 2:
            raise InvalidValue(
                explain(
                    "a classifier tells classes apart.",
                    expected="two classes or more in y",
                    received=f"one class, {self.classes_.tolist()[0]!r}",
                    fix="np.unique(y)",
                )
            )
        return numbers


class Regressor(RegressorMixin, MultiOutputMixin, _Estimator):  # type: ignore[misc]
    """A regressor: Dense layers and a linear last one, for one target (n,) or several (n, k).

    As Classifier; loss: as `compile` takes it.
    """

    n_outputs_: int

    @strict
    def __init__(
        self,
        hidden: Any = (64,),
        activation: Activation = "relu",
        optimizer: Any = "adam",
        learning_rate: float | None = None,
        epochs: int = 100,
        batch_size: int = 32,
        random_state: Any = None,
        device: str = "cpu",
        verbose: int = 0,
        loss: Any = "mse",
    ) -> None:
        super().__init__(hidden, activation, optimizer, learning_rate, epochs, batch_size, random_state, device, verbose)
        self.loss = loss

    def _head(self) -> tuple[Dense, str]:
        return Dense(self.n_outputs_), self.loss

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Regressor:
        """Train from new weights on X (n, d) and y (n,) or (n, k). Whatever was learned before is forgotten."""
        return self._fitted(X, y, sample_weight, self.epochs, False)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Regressor:
        """One epoch more on X and y."""
        return self._fitted(X, y, sample_weight, 1, self.__sklearn_is_fitted__())

    def _fitted(self, X: Any, y: Any, sample_weight: Any, epochs: int, again: bool) -> Regressor:
        X, y = validate_data(self, X, y, reset=not again, dtype=_FLOATS, multi_output=True, y_numeric=True)
        columns = y.reshape(len(y), -1)
        if again and columns.shape[1] != self.n_outputs_:
            raise InvalidValue(
                explain(
                    "y has another number of targets than before.",
                    expected=self.n_outputs_,
                    received=columns.shape[1],
                    fix="fit(X, y) begins anew",
                )
            )
        self.n_outputs_, self._flat = columns.shape[1], y.ndim == 1
        return self._trained(X, columns, sample_weight, epochs, again)  # type: ignore[no-any-return]

    def predict(self, X: Any) -> Array:
        """The targets of each row in float64: (n,), or (n, k) if it was fitted on a y of that form."""
        found = self._outputs(X).astype(np.float64)
        return found[:, 0] if self._flat else found
