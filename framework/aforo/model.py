"""Models: layers, what they are trained for, and where they live."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from . import device as devices
from . import optimizers, steps, training
from .collector import uncollected
from .errors import InvalidState, InvalidType, InvalidValue, explain
from .graph import BATCH as BATCH_ROLE
from .graph import OPTIMIZER_STATE, STATE, Graph, Tensor, Variable, leaf, tracing
from .heads import Head, make_heads
from .layers.context import Context, collecting
from .layers.layer import Call, Layer, flattened
from .metrics import Total
from .parameter import Parameter
from .program import Program, Workspace
from .settings import flag
from .specs import BATCH, Shape, written
from .topology import Structure, Topology, capture

if TYPE_CHECKING:
    from aforo_backends.contract import Backend

    from .callbacks import Callback
    from .diagnose import Diagnosis
    from .draw import Picture
    from .explain import Explanation
    from .history import History
    from .memory import Report
    from .plan import Plan
    from .simplify import Folded

Array = np.ndarray[Any, Any]


class Model(Layer):
    """Layers between inputs and outputs, in any acyclic arrangement. A model is a layer, and can be used in another one.

    inputs, outputs: what `af.Input` gave, and what layers called on it gave; one, a list, or a dict by name.
    """

    remembers = False

    def __init__(self, inputs: Any, outputs: Any, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self._start()
        self._topology: Topology = capture(flattened(inputs), flattened(outputs))
        self._name_layers()
        given, produced = self._topology.inputs, self._topology.outputs
        single = len(given) == 1
        self._inputs = Structure.of(
            inputs, [x.variable.name or ("x" if single else f"input_{i + 1}") for i, x in enumerate(given)]
        )
        self._outputs = Structure.of(outputs, _unique([x.call.layer.name if x.call else "output" for x in produced]))
        for label, x in zip(self._inputs.names, given, strict=True):
            variable = Variable(label, x.shape, x.dtype, BATCH_ROLE, owner="batch")
            variable.limit = x.variable.limit
            self.inputs.append(variable)
        self.built = True

    def _start(self) -> None:
        """What every model has, before its layers."""
        self.epochs_trained = 0
        self.folded: tuple[Folded, ...] = ()  # what `simplify` put together to make it
        self.stop_training = False
        self.optimizer: optimizers.Optimizer | None = None
        self.heads: list[Head] = []
        self.inputs: list[Variable] = []
        self.sample_weight: Variable | None = None
        self.totals: dict[str, Total] = {}
        self.lock = RLock()
        self._compiled: tuple[Any, Any, Any] | None = None
        self._device = devices.CPU
        self._workspace = Workspace(self._device)
        self._graphs: dict[str, Graph] = {}
        self._slots: dict[Variable, dict[str, Variable]] = {}
        self._sums: dict[Variable, Variable] = {}
        self._step = _counter()
        self._row = Variable("row", (), "int64", STATE, lambda: 0, owner="totals")
        self._way = steps.Way()
        self._seen_changes = Layer.changes
        self._seen_layers: tuple[int, ...] = ()

    def _name_layers(self) -> None:
        """Give layers names that differ. Those that have one, from their user or from another model, keep it."""
        taken: dict[str, Layer] = {}
        for layer in self._topology.layers:
            if layer.is_named:
                other = taken.setdefault(layer.name, layer)
                if other is not layer and layer.given_name is not None and other.given_name is not None:
                    raise InvalidValue(
                        explain(
                            f"two layers are named {layer.name!r}.",
                            expected="names that differ",
                            received=f"{layer.name!r} twice",
                            fix="give each layer a name of its own",
                        )
                    )
        for layer in self._topology.layers:
            if not layer.is_named:
                number, base = 1, layer.name
                while taken.setdefault(layer.name, layer) is not layer:
                    layer.name = f"{base}_{number}"
                    number += 1
                layer.is_named = True

    # --- structure ----------------------------------------------------------------------------------------------------

    @property
    def layers(self) -> list[Layer]:
        """Every layer once, in the order of first call."""
        return self._topology.layers

    def sublayers(self) -> Iterator[Layer]:
        yield from self.layers

    def rows(self) -> list[tuple[Layer, tuple[Tensor, ...]]]:
        """Every use of a layer, and what it gives."""
        return [(call.layer, call.outputs) for call in self._topology.calls]

    def records(self) -> tuple[tuple[Tensor, ...], tuple[Call | Tensor, ...]]:
        """The symbolic inputs; every use of a layer and every operation between layers, in an order in which they can run."""
        return self._topology.inputs, self._topology.records

    @property
    def outputs(self) -> list[Tensor]:
        """The symbolic outputs: their shapes and dtypes are those of predictions."""
        return list(self._topology.outputs)

    def replay(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The outputs for other inputs."""
        return self._topology.replay(values)

    def forward(self, x: Any) -> Any:
        values = self._inputs.split(x, f"the input of {self.name!r}")
        for variable, value in zip(self.inputs, values, strict=True):
            if value.shape[1:] != variable.shape[1:]:
                raise InvalidValue(
                    explain(
                        f"model {self.name!r} does not fit what it is given.",
                        expected=f"{variable.name}: {written(variable.shape)}",
                        received=written(value.shape),
                        fix=f"af.Input({[*variable.shape[1:]]})",
                    )
                )
        return self._outputs.joined(self.replay(values))

    def require_built(self) -> None:
        if not self.built:
            raise InvalidState(
                explain(
                    f"model {self.name!r} does not know its input size yet.",
                    expected="an input shape, or data",
                    fix="af.Dense(4, input_shape=[d_in]) as the first layer, or model.build((None, d_in))",
                )
            )

    def build_from(self, x: Any) -> None:
        """Take the sizes from data, if they are not known yet."""

    @property
    def input_shape(self) -> Any:
        self.require_built()
        return self._inputs.joined([(None, *variable.shape[1:]) for variable in self.inputs])

    @property
    def output_shape(self) -> Any:
        self.require_built()
        return self._outputs.joined([(None, *x.shape[1:]) for x in self.outputs])

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._outputs.names

    def split_inputs(self, x: Any, what: str) -> list[Any]:
        """One array for each input."""
        return self._inputs.split(x, what)

    def split_targets(self, y: Any, what: str) -> list[Any]:
        """One array for each output."""
        return self._outputs.split(y, what)

    def joined(self, values: Sequence[Any]) -> Any:
        """One value for each output, in the form the model was given its outputs."""
        return self._outputs.joined(values)

    def _changed(self) -> None:
        """Forget what was derived from the layers."""
        self._graphs.clear()
        self._workspace = Workspace(self._device, self.tf32)

    # --- weights ------------------------------------------------------------------------------------------------------

    def count_params(self) -> int:
        self.require_built()
        return sum(weight.size for weight in self.weights)

    def get_weights(self) -> list[Array]:
        """Copies of all weights, in the order layers were first called, kernel before bias."""
        self.require_built()
        return [weight.numpy() for weight in self.weights]

    def set_weights(self, arrays: Sequence[Any]) -> None:
        """Give all weights new values. Nothing changes unless all of them fit."""
        self.require_built()
        weights = self.weights
        if len(arrays) != len(weights):
            raise InvalidValue(
                explain(
                    "the number of arrays differs from that of the weights.",
                    expected=len(weights),
                    received=len(arrays),
                    fix="arrays in the order of model.get_weights()",
                )
            )
        checked = [devices.check_values(weight.variable, values) for weight, values in zip(weights, arrays, strict=True)]
        with self.lock:
            for weight, values in zip(weights, checked, strict=True):
                devices.write(weight.variable, values, self._device)

    # --- training -----------------------------------------------------------------------------------------------------

    def compile(self, loss: Any = None, optimizer: Any = "sgd", metrics: Any = None, loss_weights: Any = None) -> None:
        """Say what to train for. Names are checked here, and shapes too if they are known.

        For several outputs, `loss`, `metrics` and `loss_weights` may be lists, or dicts by the outputs' names.
        """
        if loss is None:
            raise InvalidType(explain("compile needs a loss.", fix='model.compile(loss="mse", optimizer="sgd")'))
        chosen = optimizers.get(optimizer)
        make_heads(self._outputs.names, loss, metrics, loss_weights)
        with self.lock:
            before = self.optimizer, self.heads, self._compiled, self._slots, self.totals, self._step
            self.optimizer, self._compiled, self._slots = chosen, (loss, metrics, loss_weights), {}
            self._step = _counter()
            self._make_heads()
            self._changed()
            if self.built:
                try:
                    self.graph(steps.TRAINING if self.trainable_weights else steps.EVALUATION)
                except BaseException:
                    self.optimizer, self.heads, self._compiled, self._slots, self.totals, self._step = before
                    self._changed()
                    raise

    def _make_heads(self) -> None:
        if self._compiled is not None:
            self.heads = make_heads(self._outputs.names, *self._compiled)
            names = ["loss", *(name for head in self.heads for name in head.reported_names)]
            self.totals = {name: Total(name) for name in names}

    @property
    def metrics_names(self) -> list[str]:
        """What fit and evaluate report, in order."""
        return list(self.totals) or ["loss"]

    def require_compiled(self) -> optimizers.Optimizer:
        if self.optimizer is None:
            raise InvalidState(explain("the model is not compiled.", fix='model.compile(loss="mse", optimizer="sgd")'))
        return self.optimizer

    def graph(self, kind: str, weighted: bool = False) -> Graph:
        """The graph of a prediction, an evaluation, or a training step; with a weight for each sample or without."""
        self._follow_changes()
        key = kind + "+weights" * weighted
        if key not in self._graphs:
            self.require_built()
            self._graphs[key] = self._trace(kind, weighted)
            self._seen_layers = self._signature()
        return self._graphs[key]

    def _follow_changes(self) -> None:
        """Derive everything again if a layer was frozen, thawed or given other layers."""
        if self._seen_changes != Layer.changes:
            self._seen_changes = Layer.changes
            if self._graphs and self._signature() != self._seen_layers:
                self._changed()

    def _signature(self) -> tuple[int, ...]:
        """What the graphs depend on: the layers, however deep, and which weights are trained."""
        layers = [id(each) for layer in self.layers for each in (layer, *layer.all_sublayers())]
        return (*layers, 0, *(id(weight) for weight in self.trainable_weights))

    @uncollected
    def _trace(self, kind: str, weighted: bool) -> Graph:
        is_training = kind in (steps.TRAINING, *steps.PARTS)
        row = (lambda: leaf(self._row)) if kind == steps.NEXT else None
        context = Context(training=is_training, step=lambda: leaf(self._step), row=row)
        with tracing(), collecting(context):
            predictions = self.replay([leaf(variable) for variable in self.inputs])
            for y_pred in predictions:
                if not y_pred.shape or y_pred.shape[0] != BATCH:
                    raise InvalidValue(
                        explain(
                            "what a model predicts has a row for each sample.",
                            expected="shape (batch, …)",
                            received=written(y_pred.shape),
                            fix="a loss is no output: model.compile(loss=…)",
                        )
                    )
            if kind == steps.PREDICTION:
                return steps.prediction(self._outputs.names, predictions)
            optimizer = self.require_compiled()
            for head, y_pred in zip(self.heads, predictions, strict=True):
                if head.target is None:
                    self.set_target(head, *head.loss.target_spec(y_pred))
            if weighted and self.sample_weight is None:
                dtype = predictions[0].dtype
                self.sample_weight = Variable("sample_weight", (BATCH,), dtype, BATCH_ROLE, owner="batch")
            weights = leaf(self.sample_weight) if weighted and self.sample_weight else None
            part = kind in steps.PARTS
            measured = steps.measure(self.heads, predictions, context.penalties, weights, self.totals, part)
            if kind == steps.EVALUATION:
                return steps.evaluation(measured)
            trained = self.trainable_weights
            self._slots = {w.variable: self._slots.get(w.variable) or _slots(w, optimizer) for w in trained}
            self._sums = {w.variable: self._sums.get(w.variable) or _slot(w, "gradient", 0.0) for w in trained}
            owners = {weight.variable: layer.name for layer in self.layers for weight in layer.weights}
            step = steps.Training(trained, owners, optimizer, self._slots, self._step, self._sums, self._row)
            if kind == steps.UPDATING:
                return step.update(measured.loss.dtype)
            if part:
                return step.part(measured, context.updates, kind == steps.FIRST, bool(context.draws))
            return step.whole(measured, context.updates)

    def set_target(self, head: Head, shape: Shape, dtype: str) -> None:
        """Say what the targets of a head look like."""
        if head.target is None or (head.target.shape, head.target.dtype) != (shape, dtype):
            if head.target is not None:
                self._changed()
            head.target = Variable(f"y_{head.name}" if head.name else "y", shape, dtype, BATCH_ROLE, owner="batch")

    def program(self, kind: str, batch: int, weighted: bool = False, whole: int = 0) -> Program:
        """The program for a batch of that many rows on the model's device. whole: rows of the batch that it is a part of."""
        if self._seen_changes != Layer.changes:
            self._follow_changes()
        key = kind + "+weights" * weighted
        try:
            return self._workspace.program(key, batch, lambda: self._way.graph(self.graph(kind, weighted), kind), whole)
        except devices.DeviceFull as error:
            raise self._too_large(error, kind, batch) from None

    def _too_large(self, error: devices.DeviceFull, kind: str, batch: int) -> devices.DeviceFull:
        """The error for a batch that the device has no room for, with the largest one that it has room for."""
        free = self.backend.free()
        if free is None or kind in steps.PARTS:
            return error
        from .memory.inverse import max_batch_size

        own = [each for each in (*self._carried(), *self._slots_of_batches()) if each.storage is not None]
        room = free + self._workspace.held_bytes + sum(each.storage.nbytes for each in own)
        training = kind == steps.TRAINING
        planned = self.memory(batch, training).total_bytes
        try:
            fix = f"batch_size={max_batch_size(self, room, training, None)}, the largest that fits now"
        except InvalidValue:
            fix = "a smaller model: not even a batch of 1 fits now"
        return devices.DeviceFull(
            explain(
                f"{self.device} has no room for a {kind} step of {batch} rows. Weights and optimizer are as they were.",
                expected=f"{planned:,} bytes, as planned",
                received=f"room for {room:,} bytes, what the model holds already included",
                fix=fix,
            )
        )

    @property
    def way(self) -> steps.Way:
        """How its training steps run."""
        return self._way

    def adopt(self, way: steps.Way, plans: Mapping[str, Plan] | None = None) -> None:
        """Run training steps this way from now on. What another way held is given back.

        plans: of everything that will run, by kind; then what more than they need was held is given back too.
        """
        if way != self._way or (plans is not None and not self._workspace.runs(plans)):
            self._way = way
            self._release()
            self._workspace.plans.update(plans or {})

    def _release(self) -> None:
        """Give back everything that only programs need: arena, constants, batch slots, sums of gradients."""
        for variable in (*self._slots_of_batches(), *self._sums.values()):
            devices.forget(variable)
        self._workspace = Workspace(self._device, self.tf32)

    def plan(self, batch: int, training: bool = True, device: Any = None) -> Plan:
        """The plan of a training step or of a prediction. Creates no weights; needs neither data nor the device."""
        from .plan import make_plan

        target = self._device if device is None else devices.device(device)
        return make_plan(self.graph(steps.TRAINING if training else steps.PREDICTION), target.profile, {"batch": batch})

    def fit(
        self,
        x: Any,
        y: Any,
        batch_size: int = 32,
        epochs: int = 1,
        *,
        verbose: int | str = "auto",
        callbacks: Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        seed: int | None = None,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        memory_budget: int | str | None = None,
    ) -> History:
        """Train on x (n, …) and y for a number of epochs; lists or dicts of arrays for several inputs or outputs.

        Everything is checked before the first step. `seed` fixes the shuffles, epoch by epoch. `validation_split` holds out
        that fraction from the end of the data. verbose: 0 silent, 1 a progress bar, 2 a line an epoch, "auto" 1 in a terminal.

        memory_budget: the most bytes that training may own, e.g. "8GiB". If whole batches do not fit, they run in micro-batches
        (the same gradients to rounding; statistics of the batch are then those of each micro-batch) or compute activations
        again, whichever takes less time. It prints which, and history.plan holds it; raises before the first step, with the
        smallest budget that would do, if nothing fits.
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
            memory_budget=memory_budget,
        )

    def evaluate(
        self,
        x: Any,
        y: Any,
        batch_size: int = 32,
        *,
        verbose: int | str = 0,
        sample_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """The loss on x and y, or a list of loss and metrics; a dict by name if asked."""
        return training.evaluate(self, x, y, batch_size, verbose, sample_weight, return_dict)

    def predict(self, x: Any, batch_size: int = 32, verbose: int | str = 0) -> Any:
        """The outputs for x: a new NumPy array, or a list or dict of them."""
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

    @property
    def backend(self) -> Backend:
        """What runs its programs."""
        return self._device.backend

    @property
    def tf32(self) -> bool:
        """Whether float32 matrix products run in TF32."""
        return self._workspace.tf32

    def to(self, device: Any, *, tf32: bool = False) -> Model:
        """Move weights, optimizer slots and counters to a device: all of them, or none. Returns the model.

        tf32: let its matrix products of float32 run in TF32, which CUDA GPUs since Ampere do many times faster: they round what
        they multiply to 10 bits of mantissa, and sum in float32.
        """
        target = devices.device(device)
        if flag("tf32", tf32) and not target.profile.tf32:
            raise InvalidValue(
                explain(
                    f"TF32 is a format of CUDA GPUs, and {target} has none.",
                    expected="a device with TF32",
                    received=f"device={str(target)!r}, tf32=True",
                    fix=f'model.to("{target}")',
                )
            )
        target.backend.synchronize()  # raises, before anything moves, where there is no such device
        with self.lock:
            if target is not self._device:
                devices.move(self._carried(), target)
                self._device = target
                self._release()
            elif tf32 == self.tf32:
                return self
            self._workspace = Workspace(target, tf32)
        return self

    def _carried(self) -> list[Variable]:
        """What moves with the model: weights, slots, totals, counters."""
        return [
            *(weight.variable for weight in self.weights),
            *(slot for own in self._slots.values() for slot in own.values()),
            *(variable for total in self.totals.values() for variable in total.variables.values()),
            self._step,
            self._row,
            *(self.optimizer.variables(self._step) if self.optimizer else ()),
        ]

    def _slots_of_batches(self) -> list[Variable]:
        slots = (*self.inputs, *(head.target for head in self.heads), self.sample_weight)
        return [slot for slot in slots if slot is not None]

    def memory(
        self,
        batch_size: int = 32,
        training: bool = True,
        device: Any = None,
        length: int | None = None,
        *,
        rows: int | None = None,
        validation_rows: int = 0,
        weighted: bool = False,
        programs: Sequence[str] | None = None,
        memory_budget: int | str | None = None,
    ) -> Report:
        """Every byte a training step (or a prediction) of this batch size owns, from the plan that would run.

        length: time steps, for models whose inputs have a time axis. rows, validation_rows: those of a fit; data_bytes is what
        it holds besides, and batches are no larger than the data. weighted: with a weight for each sample or class.
        programs: several of "training", "evaluation" and "prediction", for a model that runs them all in one arena.
        memory_budget: training runs as `fit` would within it.
        """
        from .memory.measure import report

        if length is not None:
            raise InvalidValue(
                explain(
                    f"model {self.name!r} has no time axis.",
                    expected="length=None",
                    received=f"length={length}",
                    fix="model.memory(batch_size)",
                )
            )
        more = {"rows": rows, "validation_rows": validation_rows, "weighted": weighted, "programs": programs}
        return report(self, batch_size, training, device, memory_budget=memory_budget, **more)  # type: ignore[arg-type]

    def max_batch_size(self, budget: Any, training: bool = True, device: Any = None) -> int:
        """The largest batch size with memory(batch_size, training, device).total_bytes within the budget.

        It fits, and one more does not. budget: bytes, or text: "8GiB" is binary, "8GB" decimal. What libraries take outside and
        the data of a fit are not counted: on a device of your own, take device_bytes - total_bytes of a report off the budget.

        An order and an arena are found by search, and the total may fall from one size to the next, so that several sizes are
        such an edge. This is the largest that fits wherever the lower bounds grow with the size and the arenas miss theirs by
        less than 32 samples; else one of the edges.
        """
        from .memory.inverse import max_batch_size

        return max_batch_size(self, budget, training, device)

    def draw(
        self,
        path: str | PathLike[str] | None = None,
        scale: str = "layers",
        notation: str = "layers",
        *,
        x: Any = None,
        y: Any = None,
        colour: str = "value",
    ) -> Picture:
        """Draw the model; a notebook shows the result. path: where to write it, as .svg, or as .png with matplotlib.

        scale: "layers", "vectors", or "numbers" (every unit and weight up to a few thousand; beyond, a sample that says so).
        notation: "layers" (nodes are layers, edges carry values), "values" (the inverse: nodes are values, edges are layers),
        "neurons" (the biological reading of the inverse: neurons with activations, and synapses). With data, numbers are
        coloured for the first row of x: colour="value" by activation and weight, "gradient" by the error's derivatives.
        """
        from .draw import draw

        return draw(self, path, scale, notation, x, y, colour)

    def _repr_svg_(self) -> str | None:
        """What a notebook shows of a model: its layers, if they are known and few enough to be looked at."""
        return self.draw().svg if self.built and len(self.layers) <= 50 else None

    def explain(self, x: Any = None, y: Any = None, *, latex: bool = False) -> Explanation:
        """The forward and the derived backward of a training step, as one writes them on a whiteboard, with shapes.

        Print it, or let a notebook show it; latex=True writes LaTeX. With x the forward's numbers stand below their lines, with
        y those of the backward too. Without a loss (before compile) the backward starts from δE/δN.
        """
        from .explain import explain_model

        return explain_model(self, x, y, latex)

    def diagnose(self, x: Any, y: Any) -> Diagnosis:
        """Why isn't it learning? What is the matter with a compiled model and its data, layer by layer, and what to try.

        Looks for inputs that are not scaled or say nothing, targets that the head cannot give, dead or saturated units,
        gradients that vanish or explode, weights that cannot learn, layers without an activation between them, and a learning
        rate that is far off (by a rehearsal on copies). Nothing in the model changes. The result is empty if nothing was found.
        """
        from .diagnose import diagnosed

        return diagnosed(self, x, y)

    @property
    def step_counter(self) -> Variable:
        """Training steps behind this model: what its optimizer counts by."""
        return self._step

    def simplify(self, verbose: int = 1) -> Model:
        """A new model that predicts the same with fewer layers, for prediction: linear layers in a row become one.

        N regressions are one regression; batch normalization folds into its neighbour, dropout goes. It never takes more bytes,
        and leaves alone what an activation or a second reader stands between. Prints what it folded unless verbose=0;
        `folded` of the new model holds it.
        """
        from .simplify import report, simplified

        made = simplified(self)
        if verbose:
            print(report(made.folded))
        return made

    def compile_like(self, other: Model) -> None:
        """Compile another model with the same outputs for what this one is compiled for."""
        if self._compiled is not None:
            now = dict(zip(self.output_names, other.output_names, strict=True))
            given = [
                {now[name]: each for name, each in value.items()} if isinstance(value, Mapping) else value
                for value in self._compiled
            ]
            other.compile(given[0], self.optimizer, given[1], given[2])

    def given_as(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[Any, Any]:
        """Inputs and outputs in the form this model was given its own: one, a list, or a dict by name."""
        return self._inputs.joined(inputs), self._outputs.joined(outputs)

    def export_onnx(self, path: str | PathLike[str]) -> None:
        """Write its prediction as an ONNX file, with its weights as they are now; layers of your own and functions too.

        Inputs and outputs keep their names, weights are named layer/weight, and the batch is of any size. Needs the extra
        `onnx`. Raises, naming it, for an operation that ONNX has no translation of, e.g. random numbers in a prediction.
        """
        from .onnx import export

        export(self, path)

    def summary(self) -> None:
        """Print the layers, their output shapes and parameters."""
        from .summary import print_summary

        print_summary(self)


def _unique(names: Sequence[str]) -> list[str]:
    """The names, numbered where one comes up again."""
    return [name if names.count(name) == 1 else f"{name}_{names[:i].count(name) + 1}" for i, name in enumerate(names)]


def _counter() -> Variable:
    """Training steps behind a model: what schedules, bias corrections and dropout masks follow."""
    return Variable("step", (), "int64", STATE, lambda: 0, owner="totals")


def _slots(weight: Parameter, optimizer: optimizers.Optimizer) -> dict[str, Variable]:
    return {name: _slot(weight, name, value) for name, value in optimizer.init(weight).items()}


def _slot(weight: Parameter, name: str, value: float) -> Variable:
    return Variable(name, weight.shape, weight.dtype, OPTIMIZER_STATE, lambda: value, owner=weight.variable.owner)
