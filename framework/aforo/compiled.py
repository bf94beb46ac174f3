"""From a network to programs: what it is trained for, its graphs, and where they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import device as devices
from . import optimizers, steps
from .collector import uncollected
from .errors import InvalidState, InvalidType, InvalidValue, explain
from .graph import BATCH as BATCH_ROLE
from .graph import OPTIMIZER_STATE, STATE, TENSOR, Graph, Variable, leaf, tracing
from .heads import Head, make_heads
from .layers.context import Context, collecting
from .layers.layer import Layer
from .metrics import Total
from .network import Network
from .parameter import Parameter
from .program import Program, Workspace
from .settings import flag, strict, whole
from .specs import BATCH, TIME, Shape, sizes_of, value_bytes, varies, written

if TYPE_CHECKING:
    from aforo_backends.contract import Backend

    from .plan import Plan
    from .simplify import Folded

M = TypeVar("M", bound="Compiled")


class Compiled(Network):
    """A network with heads, an optimizer and a device. Its graphs are derived from it, and its programs from them."""

    def _start(self, length: int | None = None) -> None:
        super()._start(length)
        self.epochs_trained = 0
        self.folded: tuple[Folded, ...] = ()  # what `simplify` put together to make it
        self.stop_training = False
        self.fitting = False  # whether `fit` is under way
        self.optimizer: optimizers.Optimizer | None = None
        self.heads: list[Head] = []
        self.sample_weight: Variable | None = None
        self.totals: dict[str, Total] = {}
        self._compiled: tuple[Any, Any, Any] | None = None
        self._workspace = Workspace(self._device)
        self._graphs: dict[str, Graph] = {}
        self.loops = 0  # over time, in the graph that was traced last
        self._slots: dict[Variable, dict[str, Variable]] = {}
        self._sums: dict[Variable, Variable] = {}
        self._step = _counter()
        self.states: dict[str, list[Variable]] = {}  # what `step` keeps, by layer or feedback
        self.stepped_rows: int | None = None
        self._step_graph: tuple[list[Variable], Graph] | None = None
        self._row = Variable("row", (), "int64", STATE, lambda: 0, owner="totals")
        self._way = steps.Way()
        self._seen_changes = Layer.changes
        self._seen_layers: tuple[int, ...] = ()

    def _changed(self) -> None:
        """Forget what was derived from the layers."""
        self._graphs.clear()
        self._step_graph = None
        self._workspace = Workspace(self._device, self.tf32)

    @strict
    def compile(self, loss: Any = None, optimizer: Any = "sgd", metrics: Any = None, loss_weights: Any = None) -> None:
        """Say what to train for. Names are checked here, and shapes too if they are known.

        For several outputs, `loss`, `metrics` and `loss_weights` may be lists, or dicts by the outputs' names.
        """
        if loss is None:
            raise InvalidType(explain("compile needs a loss.", fix='model.compile(loss="mse", optimizer="sgd")'))
        chosen = optimizers.get(optimizer)
        make_heads(self._outputs.names, loss, metrics, loss_weights)
        with self.lock:
            self.require_free("compile")
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

    def compile_again(
        self, compiled: tuple[Any, Any, Any], optimizer: optimizers.Optimizer, targets: Sequence[tuple[Shape, str] | None]
    ) -> None:
        """Compile as `compiled` of another model says, for targets of known shapes."""
        with self.lock:
            self.optimizer, self._compiled, self._slots, self._step = optimizer, compiled, {}, _counter()
            self._make_heads()
            for head, target in zip(self.heads, targets, strict=True):
                if target is not None:
                    self.set_target(head, *target)
            self._changed()
            if self.built:
                self.graph(steps.TRAINING if self.trainable_weights else steps.EVALUATION)

    def require_free(self, method: str) -> None:
        """Refuse, in a callback, what would change the model under the fit that is under way."""
        if self.fitting:
            raise InvalidState(
                explain(
                    f"{method} was called on model {self.name!r} while it is being fitted.",
                    expected=f"{method} before fit or after it",
                    received=f"{method} in a callback",
                    fix="self.model.stop_training = True in the callback, which ends fit after this batch",
                )
            )

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Run something in a callback, and then be again what the fit under way relies on: its totals and its batch slots."""
        if not self.fitting:
            yield
            return
        totals = [variable for total in self.totals.values() for variable in total.variables.values()]
        values = [devices.read(variable) if variable.storage is not None else np.zeros(variable.shape) for variable in totals]
        targets, weight = [head.target for head in self.heads], self.sample_weight
        try:
            yield
        finally:
            for variable, value in zip(totals, values, strict=True):
                if variable.storage is not None:
                    devices.write(variable, value, variable.device)
            if (targets, weight) != ([head.target for head in self.heads], self.sample_weight):
                for head, target in zip(self.heads, targets, strict=True):
                    head.target = target
                self.sample_weight = weight
                self._changed()

    @property
    def compiled(self) -> tuple[Any, Any, Any] | None:
        """The loss, the metrics and the loss weights it was given, if it is compiled."""
        return self._compiled

    @property
    def slots(self) -> Mapping[Variable, Mapping[str, Variable]]:
        """What the optimizer keeps for each weight."""
        return self._slots

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

    def graph(self, kind: str, weighted: bool = False, blocks: int = 0) -> Graph:
        """The graph of a prediction, an evaluation, or a training step; with a weight for each sample or without.

        blocks: how many loops over time, the first ones, keep states every √time steps, and compute what is between again.
        """
        self._follow_changes()
        key = kind + "+weights" * weighted + f"+{blocks} blocks" * bool(blocks)
        if key not in self._graphs:
            self.require_built()
            self._graphs[key] = self._trace(kind, weighted, blocks)
            self._seen_layers = self._signature()
        return self._graphs[key]

    def look_again(self) -> None:
        """Compare the layers with those its graphs are made of when next asked for one, whether or not any said it changed."""
        self._seen_changes = -1

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
    def _trace(self, kind: str, weighted: bool, blocks: int) -> Graph:
        is_training = kind in (steps.TRAINING, *steps.PARTS)
        row = (lambda: leaf(self._row)) if kind == steps.NEXT else None
        context = Context(is_training, backward=is_training, step=lambda: leaf(self._step), row=row, blocks=blocks)
        with tracing(), collecting(context):
            predictions = self.replay([leaf(variable) for variable in self.inputs])
            self.loops = len(context.loops)
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
                if any(varies(size, "batch") for size in y_pred.shape[1:]):
                    raise InvalidValue(
                        explain(
                            "what a model predicts has a row for each sample, as wide in every batch.",
                            expected="the batch as the first axis alone",
                            received=written(y_pred.shape),
                            fix="af.ops.mean(z @ z.T, -1): what compares samples with one another is summed up in the model",
                        )
                    )
            if kind == steps.PREDICTION:
                return steps.prediction(self._outputs.names, predictions)
            optimizer = self.require_compiled()
            for head, y_pred in zip(self.heads, predictions, strict=True):
                if head.target is None:
                    self.set_target(head, *head.loss.target_spec(y_pred))
            if weighted and self.sample_weight is None:
                self.set_sample_weight((BATCH,))
            weights = leaf(self.sample_weight) if weighted and self.sample_weight else None
            part = kind in steps.PARTS
            measured = steps.measure(self.heads, predictions, context.penalties, weights, self.totals, part)
            if kind == steps.EVALUATION:
                return steps.evaluation(measured)
            trained = self.trainable_weights
            self._slots = {w.variable: self._slots.get(w.variable) or _slots(w, optimizer) for w in trained}
            self._sums = {w.variable: self._sums.get(w.variable) or _slot(w, "gradient", 0.0) for w in trained}
            owners = {weight.variable: layer.name for layer in self.layers for weight in layer.weights}
            draws = bool(context.draws)
            step = steps.Training(trained, owners, optimizer, self._slots, self._step, self._sums, self._row, draws)
            if kind == steps.UPDATING:
                return step.update(measured.loss.dtype)
            if part:
                return step.part(measured, context.updates, kind == steps.FIRST)
            return step.whole(measured, context.updates)

    def set_target(self, head: Head, shape: Shape, dtype: str) -> None:
        """Say what the targets of a head look like."""
        if head.target is None or (head.target.shape, head.target.dtype) != (shape, dtype):
            if head.target is not None:
                self._changed()
            head.target = Variable(f"y_{head.name}" if head.name else "y", shape, dtype, BATCH_ROLE, owner="batch")

    def set_sample_weight(self, shape: Shape) -> None:
        """Say whether weights are for samples, or for each of their time steps."""
        if self.sample_weight is None or self.sample_weight.shape != shape:
            if self.sample_weight is not None:
                self._changed()
            self.sample_weight = Variable("sample_weight", shape, self.outputs[0].dtype, BATCH_ROLE, owner="batch")

    def program(self, kind: str, batch: int, weighted: bool = False, whole: int = 0, time: int = 1) -> Program:
        """The program for a batch of that many rows, of that many time steps, on the model's device.

        whole: rows of the batch that it is a part of.
        """
        if self._seen_changes != Layer.changes:
            self._follow_changes()
        key = kind + "+weights" * weighted
        try:
            return self._workspace.program(
                key, batch, lambda: self._way.graph(partial(self.graph, kind, weighted), kind), whole, time
            )
        except devices.DeviceFull as error:
            raise self._too_large(error, kind, batch, time, weighted) from None

    def _too_large(self, error: devices.DeviceFull, kind: str, batch: int, time: int, weighted: bool) -> devices.DeviceFull:
        """The error for a batch that the device has no room for."""
        return error

    def step_graph(self) -> tuple[list[Variable], Graph]:
        """The slots and the graph of one time step."""
        from .stepping import trace

        self._follow_changes()
        if self._step_graph is None:
            self._step_graph = trace(self)
        return self._step_graph

    def program_of(self, kind: str, batch: int, graph: Graph) -> Program:
        """The program of a graph of the model's, bound to its device."""
        return self._workspace.program(kind, batch, lambda: graph)

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
            self._workspace.plans.update({kind: [plan] for kind, plan in (plans or {}).items()})

    def _release(self) -> None:
        """Give back everything that only programs need: arena, constants, batch slots, sums of gradients."""
        for variable in (*self._slots_of_batches(), *self._sums.values()):
            devices.forget(variable)
        self._workspace = Workspace(self._device, self.tf32)

    def plan(self, batch: int, training: bool = True, device: Any = None, length: int | None = None) -> Plan:
        """The plan of a training step or of a prediction. Creates no weights; needs neither data nor the device."""
        from .plan import make_plan

        target = self._device if device is None else devices.device(device)
        sizes = sizes_of(batch, self.length(length))
        return make_plan(self.graph(steps.TRAINING if training else steps.PREDICTION), target.profile, sizes)

    def length(self, given: int | None) -> int:
        """How many time steps a plan is made for: those given, those the model has of itself, or 1 where there is no time."""
        timed = any(TIME in variable.shape for variable in self.inputs)
        if given is not None and not timed:
            raise InvalidValue(
                explain(
                    f"model {self.name!r} has no time axis."
                    if self.steps is None
                    else f"model {self.name!r} has its own length.",
                    expected="length=None",
                    received=f"length={given}",
                    fix="leave length out",
                )
            )
        if given is None and timed:
            raise InvalidValue(
                explain(
                    f"model {self.name!r} reads sequences of any length.",
                    expected="the number of time steps to plan for",
                    received="length=None",
                    fix="length=100",
                )
            )
        return whole("length", given, 1) if given is not None else self.steps or 1

    # --- device -------------------------------------------------------------------------------------------------------

    def _no_room(self, target: devices.Device) -> devices.DeviceFull:
        """The error for a device that cannot take what the model carries."""
        sizes = {"batch": self.stepped_rows or 1}
        held = [value_bytes(v.shape, v.dtype, sizes) for v in self._carried() if v.storage is not None]
        needed, free = sum(map(target.profile.footprint, held)), target.backend.free()
        return devices.DeviceFull(
            explain(
                f"{target} has no room for model {self.name!r}, which is still on {self._device} and works there.",
                expected=f"{needed:,} bytes for its weights, slots and counters",
                received=None if free is None else f"{free:,} bytes that are free",
                fix=f"fewer models and tensors on {target}",
            )
        )

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

    @strict
    def to(self: M, device: Any, *, tf32: bool = False) -> M:
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
            try:
                devices.move(self._carried(), target, {"batch": self.stepped_rows or 1})
            except devices.DeviceFull:
                raise self._no_room(target) from None
            if target is not self._device:
                self._device = target
                self._release()
            elif tf32 == self.tf32:
                return self
            self._workspace, self._step_graph = Workspace(target, tf32), None
        return self

    def _carried(self) -> list[Variable]:
        """What moves with the model: weights, slots, totals, counters, states that are kept, and tensors it computes with."""
        graphs = [*self._graphs.values(), *([self.graph(steps.PREDICTION)] if self.built else [])]
        carried = [
            *(weight.variable for weight in self.weights),
            *(slot for own in self._slots.values() for slot in own.values()),
            *(variable for total in self.totals.values() for variable in total.variables.values()),
            self._step,
            self._row,
            *(self.optimizer.variables(self._step) if self.optimizer else ()),
            *(variable for own in self.states.values() for variable in own),
            *(variable for graph in graphs for variable in graph.variables if variable.role == TENSOR),
        ]
        return list(dict.fromkeys(carried))

    def _slots_of_batches(self) -> list[Variable]:
        slots = (*self.inputs, *(head.target for head in self.heads), self.sample_weight)
        return [slot for slot in slots if slot is not None]

    @property
    def step_counter(self) -> Variable:
        """Training steps behind this model: what its optimizer counts by."""
        return self._step


def _counter() -> Variable:
    """Training steps behind a model: what schedules, bias corrections and dropout masks follow."""
    return Variable("step", (), "int64", STATE, lambda: 0, owner="totals")


def _slots(weight: Parameter, optimizer: optimizers.Optimizer) -> dict[str, Variable]:
    return {name: _slot(weight, name, value) for name, value in optimizer.init(weight).items()}


def _slot(weight: Parameter, name: str, value: float) -> Variable:
    return Variable(name, weight.shape, weight.dtype, OPTIMIZER_STATE, lambda: value, owner=weight.variable.owner)
