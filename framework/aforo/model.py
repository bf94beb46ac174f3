"""Models: layers, what they are trained for, and where they live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from . import device as devices
from . import losses, optimizers, steps, training
from . import metrics as measures
from .collector import uncollected
from .errors import InvalidState, InvalidType, InvalidValue, explain
from .graph import BATCH as BATCH_ROLE
from .graph import OPTIMIZER_STATE, STATE, Graph, Tensor, Variable, leaf, tracing
from .layers import Layer
from .parameter import Parameter
from .plan import Plan, make_plan
from .program import Program, Workspace
from .specs import BATCH, FLOATS, Shape, as_dtype, written

if TYPE_CHECKING:
    from .callbacks import Callback
    from .history import History
    from .memory import Report

Array = np.ndarray[Any, Any]


class Sequential:
    """A stack of layers, each fed by the one before.

    layers: what to start with; `add` and `pop` change the stack. dtype: "float32", or "float64" for checks.
    """

    def __init__(self, layers: Sequence[Layer] | None = None, *, name: str = "sequential", dtype: Any = "float32") -> None:
        self.name = name
        self.dtype = as_dtype(dtype)
        if self.dtype not in FLOATS:
            raise InvalidType(
                explain("a model computes with floating-point numbers.", expected=" or ".join(FLOATS), received=dtype)
            )
        self.layers: list[Layer] = []
        self._names: dict[str, Layer] = {}
        self._numbers: dict[str, int] = {}  # where the search for a free name goes on
        self.epochs_trained = 0
        self.stop_training = False
        self.loss: losses.Loss | None = None
        self.optimizer: optimizers.Optimizer | None = None
        self.lock = RLock()
        self._metrics: list[Any] = []
        self._device = devices.CPU
        self._workspace = Workspace(self._device)
        self._graphs: dict[str, Graph] = {}
        self._slots: dict[Variable, dict[str, Variable]] = {}
        self._stages: list[Tensor] = []  # the symbolic input, then the output of each layer
        self.input: Variable | None = None
        self.target: Variable | None = None
        self.sample_weight: Variable | None = None
        self.totals: dict[str, Variable] = {}
        for layer in layers or []:
            self.add(layer)

    # --- structure ----------------------------------------------------------------------------------------------------

    def add(self, layer: Any) -> None:
        """Put a layer on top. If the sizes are known, they are checked here."""
        if not isinstance(layer, Layer):
            if isinstance(layer, type) and issubclass(layer, Layer):
                raise InvalidType(explain("this is a layer's class, not a layer.", fix=f"model.add(af.{layer.__name__}(…))"))
            raise InvalidType(
                explain(
                    "a model is made of layers.",
                    expected="e.g. af.Dense(4)",
                    received=repr(layer),
                    fix="af.Activation(f) makes a layer of a function" if callable(layer) else None,
                )
            )
        again = self._names.get(layer.name) is layer  # a layer may stand in the stack twice, and shares its weights
        if layer.given_name is None and not again:
            layer.name = self._free_name(layer.name)
        elif not again and layer.name in self._names:
            raise InvalidValue(explain(f"two layers are named {layer.name!r}.", fix="give each layer a name of its own"))
        if not self.layers and layer.input_shape is not None:
            self._set_input(layer.input_shape)
        elif self.layers and layer.input_shape is not None and self._stages:
            expected = self._stages[-1].shape[1:]
            if layer.input_shape != expected:
                raise InvalidValue(
                    explain(
                        f"layer {layer.name!r} does not fit what comes before it.",
                        expected=f"input_shape {written(expected)}, what {self.layers[-1].name!r} gives",
                        received=written(layer.input_shape),
                        fix="leave input_shape out: it follows from the layer before",
                    )
                )
        if self._stages:
            with tracing():
                self._stages.append(layer(self._stages[-1]))
        self.layers.append(layer)
        self._names[layer.name] = layer
        self._changed()

    def pop(self) -> Layer:
        """Take the top layer off; the rest keeps its training."""
        if not self.layers:
            raise InvalidState(explain("there is no layer to take off."))
        if len(self._stages) > len(self.layers):
            self._stages.pop()
        self._changed()
        layer = self.layers.pop()
        if layer not in self.layers:
            del self._names[layer.name]
        self._numbers.clear()
        return layer

    def _free_name(self, name: str) -> str:
        if name not in self._names:
            return name
        number = self._numbers.get(name, 1)
        while f"{name}_{number}" in self._names:
            number += 1
        self._numbers[name] = number + 1
        return f"{name}_{number}"

    def _set_input(self, shape: Shape) -> None:
        self.input = Variable("x", (BATCH, *shape), self.dtype, BATCH_ROLE, owner="batch")
        self._stages = [leaf(self.input)]

    def _changed(self) -> None:
        self._graphs.clear()
        self._workspace = Workspace(self._device)
        self.target = self.sample_weight = None

    @property
    def built(self) -> bool:
        """Whether the sizes of all layers are known."""
        return bool(self.layers) and len(self._stages) > len(self.layers)

    def build(self, input_shape: Any) -> None:
        """Tell the model the shape of a sample, batch axis first (None): (None, d_in). Draws no weights."""
        shape = tuple(input_shape)[1:]
        if not self.layers:
            raise InvalidState(explain("the model has no layers.", fix="model.add(af.Dense(4))"))
        if self.built:
            return
        before = self.input, self._stages
        try:
            self._set_input(shape)
            with tracing():
                for layer in self.layers:
                    self._stages.append(layer(self._stages[-1]))
        except BaseException:
            self.input, self._stages = before
            raise
        self._graphs.clear()

    def build_from(self, x: Any) -> None:
        """Take the sizes from data, if they are not known yet."""
        if not self.built:
            from .checks import as_array

            array = as_array(x, "x")
            if array.ndim < 2:
                raise InvalidValue(
                    explain(
                        "x must hold a batch of samples.",
                        expected="shape (n, d_in)",
                        received=written(array.shape),
                        fix="x[None] adds a batch axis to one sample, x[:, None] makes a column",
                    )
                )
            self.build(array.shape)

    def _require_built(self) -> None:
        if not self.built:
            raise InvalidState(
                explain(
                    f"model {self.name!r} does not know its input size yet.",
                    expected="an input shape, or data",
                    fix="af.Dense(4, input_shape=[d_in]) as the first layer, or model.build((None, d_in))",
                )
            )

    @property
    def output(self) -> Tensor:
        """The symbolic output: its shape and dtype are those of a prediction."""
        self._require_built()
        return self._stages[-1]

    @property
    def stages(self) -> list[Tensor]:
        """The symbolic input, then the output of each layer."""
        self._require_built()
        return list(self._stages)

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        self._require_built()
        return (None, *self._stages[0].shape[1:])  # type: ignore[arg-type]

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        return (None, *self.output.shape[1:])  # type: ignore[arg-type]

    def __call__(self, x: Tensor) -> Tensor:
        """The stack applied to a tensor."""
        for layer in self.layers:
            x = layer(x)
        return x

    # --- weights ------------------------------------------------------------------------------------------------------

    @property
    def weights(self) -> list[Parameter]:
        """Every weight once, in the order layers were first called, kernel before bias."""
        return list({id(w): w for layer in self.layers for w in layer.weights}.values())

    @property
    def trainable_weights(self) -> list[Parameter]:
        return [weight for weight in self.weights if weight.trainable]

    def count_params(self) -> int:
        self._require_built()
        return sum(weight.size for weight in self.weights)

    def get_weights(self) -> list[Array]:
        """Copies of all weights."""
        self._require_built()
        return [weight.numpy() for weight in self.weights]

    def set_weights(self, arrays: Sequence[Any]) -> None:
        """Give all weights new values. Nothing changes unless all of them fit."""
        self._require_built()
        weights = self.weights
        if len(arrays) != len(weights):
            raise InvalidValue(
                explain(
                    "the number of arrays differs from that of the weights.",
                    expected=len(weights),
                    received=len(arrays),
                )
            )
        checked = [devices.check_values(weight.variable, values) for weight, values in zip(weights, arrays, strict=True)]
        with self.lock:
            for weight, values in zip(weights, checked, strict=True):
                devices.write(weight.variable, values, self._device)

    # --- training -----------------------------------------------------------------------------------------------------

    def compile(self, loss: Any = None, optimizer: Any = "sgd", metrics: Any = None) -> None:
        """Say what to train for. Names are checked here, and shapes too if they are known."""
        if loss is None:
            raise InvalidType(explain("compile needs a loss.", fix='model.compile(loss="mse", optimizer="sgd")'))
        chosen = optimizers.get(optimizer), losses.get(loss), measures.check(metrics)
        before = self.optimizer, self.loss, self._metrics
        with self.lock:
            self.optimizer, self.loss, self._metrics = chosen
            self._slots = {}
            self._changed()
            if self.built:
                try:
                    self.graph(steps.TRAINING if self.trainable_weights else steps.EVALUATION)
                except BaseException:
                    self.optimizer, self.loss, self._metrics = before
                    self._changed()
                    raise

    @property
    def metrics_names(self) -> list[str]:
        """What fit and evaluate report, in order."""
        return ["loss", *measures.names(self._metrics)]

    def require_compiled(self) -> tuple[losses.Loss, optimizers.Optimizer]:
        if self.loss is None or self.optimizer is None:
            raise InvalidState(explain("the model is not compiled.", fix='model.compile(loss="mse", optimizer="sgd")'))
        return self.loss, self.optimizer

    def graph(self, kind: str, weighted: bool = False) -> Graph:
        """The graph of a prediction, an evaluation, or a training step; with a weight for each sample or without."""
        key = kind + "+weights" * weighted
        if key not in self._graphs:
            self._graphs[key] = self._trace(kind, weighted)
        return self._graphs[key]

    @uncollected
    def _trace(self, kind: str, weighted: bool) -> Graph:
        self._require_built()
        with tracing():
            return self._traced(kind, weighted)

    def _traced(self, kind: str, weighted: bool) -> Graph:
        y_pred = self(self._stages[0])
        if kind == steps.PREDICTION:
            return steps.prediction(y_pred)
        loss, optimizer = self.require_compiled()
        if self.target is None:
            self.set_target(*loss.target_spec(y_pred))
        assert self.target is not None
        chosen = [measures.get(identifier, loss, y_pred) for identifier in self._metrics]
        if list(self.totals) != self.metrics_names:
            self.totals = {name: _total(name) for name in self.metrics_names}
        if weighted and self.sample_weight is None:
            self.sample_weight = Variable("sample_weight", (BATCH,), y_pred.dtype, BATCH_ROLE, owner="batch")
        weights = leaf(self.sample_weight) if weighted and self.sample_weight else None
        measured = leaf(self.target), y_pred, weights, loss, chosen, self.totals
        if kind == steps.EVALUATION:
            return steps.evaluation(*measured)
        trained = self.trainable_weights
        self._slots = {w.variable: self._slots.get(w.variable) or _slots(w, optimizer) for w in trained}
        return steps.training(*measured, trained, optimizer, self._slots)

    def set_target(self, shape: Shape, dtype: str) -> None:
        """Say what targets look like; only for a user's own loss, whose targets follow from the data."""
        self.target = Variable("y", shape, dtype, BATCH_ROLE, owner="batch")
        self._graphs = {key: graph for key, graph in self._graphs.items() if key == steps.PREDICTION}
        self._workspace = Workspace(self._device)

    def program(self, kind: str, batch: int, weighted: bool = False) -> Program:
        """The program for a batch of that many rows, bound to the model's device."""
        key = kind + "+weights" * weighted
        return self._workspace.program(key, batch, lambda: self.graph(kind, weighted))

    def plan(self, batch: int, training: bool = True, device: Any = None) -> Plan:
        """The plan of a training step or of a prediction. Creates no weights; needs neither data nor the device."""
        target = self._device if device is None else devices.device(device)
        return make_plan(self.graph(steps.TRAINING if training else steps.PREDICTION), target.profile, {"batch": batch})

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        verbose: int | str = "auto",
        callbacks: Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        seed: int | None = None,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
    ) -> History:
        """Train on x (n, …) and y for a number of epochs.

        Everything is checked before the first step. `seed` fixes the shuffles, epoch by epoch. `validation_split` holds out
        that fraction from the end of the data. verbose: 0 silent, 1 a progress bar, 2 a line an epoch, "auto" 1 in a terminal.
        """
        return training.fit(
            self,
            x,
            y,
            epochs=epochs,
            batch_size=batch_size,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            seed=seed,
            class_weight=class_weight,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
        )

    def evaluate(
        self,
        x: Any,
        y: Any,
        *,
        batch_size: int = 32,
        verbose: int | str = 0,
        sample_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """The loss on x and y, or a list of loss and metrics; a dict by name if asked."""
        return training.evaluate(self, x, y, batch_size, verbose, sample_weight, return_dict)

    def predict(self, x: Any, batch_size: int = 32, verbose: int | str = 0) -> Array:
        """The outputs for x, as a new NumPy array."""
        return training.predict(self, x, batch_size, verbose)

    def train_on_batch(self, x: Any, y: Any, sample_weight: Any = None, class_weight: Mapping[int, float] | None = None) -> Any:
        """One step on this batch. Gives its loss before the update, or a list with the metrics."""
        return training.on_batch(self, x, y, sample_weight, class_weight, steps.TRAINING)

    def test_on_batch(self, x: Any, y: Any, sample_weight: Any = None) -> Any:
        """The loss on this batch, or a list with the metrics."""
        return training.on_batch(self, x, y, sample_weight, None, steps.EVALUATION)

    # --- device and reports -------------------------------------------------------------------------------------------

    @property
    def device(self) -> str:
        return str(self._device)

    def to(self, device: Any) -> Sequential:
        """Move weights, optimizer slots and counters to a device: all of them, or none. Returns the model."""
        target = devices.device(device)
        with self.lock:
            if target is not self._device:
                optimizer_variables = self.optimizer.variables if self.optimizer else []
                slots = [slot for own in self._slots.values() for slot in own.values()]
                weights = [weight.variable for weight in self.weights]
                devices.move([*weights, *slots, *self.totals.values(), *optimizer_variables], target)
                self._device = target
                for variable in (self.input, self.target, self.sample_weight):
                    if variable is not None:
                        devices.forget(variable)
                self._workspace = Workspace(target)
        return self

    def memory(self, batch_size: int = 32, training: bool = True, device: Any = None) -> Report:
        """Every byte a training step (or a prediction) of this batch size owns, from the plan that would run."""
        from .memory import report

        return report(self, batch_size, training, device)

    def summary(self) -> None:
        """Print the layers, their output shapes and parameters."""
        from .summary import print_summary

        print_summary(self)


def _total(name: str) -> Variable:
    return Variable(name, (), "float64", STATE, lambda: 0.0, owner="totals")


def _slots(weight: Parameter, optimizer: optimizers.Optimizer) -> dict[str, Variable]:
    def slot(name: str, value: float) -> Variable:
        return Variable(name, weight.shape, weight.dtype, OPTIMIZER_STATE, lambda: value, owner=weight.variable.owner)

    return {name: slot(name, value) for name, value in optimizer.init(weight).items()}
