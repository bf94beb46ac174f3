"""Prediction one time step at a time: the states of recurrent layers and cycles are kept from call to call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import device as devices
from . import ops, steps
from .checks import as_array, as_inputs, check_same_rows
from .errors import InvalidState, InvalidValue, explain, unknown_name
from .graph import BATCH as BATCH_ROLE
from .graph import LOOP, STATE, Graph, Tensor, Variable, ancestors, constant, leaf, tracing
from .layers.context import Context, collecting
from .loop import placeholder
from .mixing import check_steps
from .recurrence import Whole
from .settings import title
from .specs import TIME, Layout, at, replaced, varies, written

if TYPE_CHECKING:
    from .compiled import Compiled
    from .model import Model

Array = np.ndarray[Any, Any]


class Kept:
    """Carries states in variables. What a state starts with is used again after a reset."""

    whole = False
    cyclic = False
    cut = 0

    def __init__(self, variables: dict[str, list[Variable]]) -> None:
        self.variables = variables  # by the name of a layer or a feedback: whether it has begun, then its states
        self.updates: dict[Variable, Tensor] = {}
        self._names: dict[str, int] = {}
        self._of: dict[int, Variable] = {}

    def carry(self, initial: Tensor, name: str) -> Tensor:
        place = self._names[name] = self._names.get(name, 0) + 1
        own = self.variables.setdefault(name, [Variable("begun", (), "bool", STATE, lambda: False, owner=name)])
        if len(own) <= place or own[place].shape != initial.shape:
            nothing = np.zeros((), initial.dtype)
            own[place:] = [Variable(f"state {place}", initial.shape, initial.dtype, STATE, lambda: nothing, owner=name)]
        self.updates[own[0]] = constant(True, "bool")
        state = ops.where(leaf(own[0]), leaf(own[place]), initial)
        self._of[id(state)] = own[place]
        return state

    def keep(self, state: Tensor, after: Tensor) -> None:
        self.updates[self._of[id(state)]] = after

    def turn(self) -> None:
        """Nothing in a prediction depends on how many steps there were."""


def trace(model: Compiled) -> tuple[list[Variable], Graph]:
    """The slots of one step of each input, and the graph of a step."""
    _check_length(model)
    _check(model)
    slots = [Variable(x.name, replaced(x.shape, {"time": 1}), x.dtype, BATCH_ROLE, owner="batch") for x in model.inputs]
    kept = Kept(model.states)
    with tracing(), collecting(Context(carrier=kept)):
        predictions = model.replay([leaf(slot) for slot in slots])
    if not kept.updates:
        raise InvalidState(
            explain(
                f"model {model.name!r} has no states to keep from step to step.",
                expected="recurrent layers, or an af.Feedback",
                fix="model.predict(x)",
            )
        )
    graph = steps.prediction(model.output_names, predictions)
    return slots, Graph(graph.outputs, kept.updates)


def _check_length(model: Compiled) -> None:
    """Refuse sequences of one length only."""
    recurrent = any(each.any_length for layer in model.layers for each in (layer, *layer.all_sublayers()))
    if recurrent and model.steps is None and not any(TIME in x.shape for x in model.inputs):
        sizes = model.inputs[0].shape[1:]
        raise InvalidState(
            explain(
                f"model {model.name!r} reads sequences of one length, so it cannot run one step at a time.",
                expected="a time axis of any length",
                received=f"samples of shape {written(sizes)}",
                fix=f"input_shape={[None, *sizes[1:]]} in the first layer, or af.Input({[None, *sizes[1:]]})",
            )
        )


def _check(model: Compiled) -> None:
    """Refuse what needs to see the whole sequence."""
    whole = Whole(cyclic=False)
    with tracing(), collecting(Context(carrier=whole)):
        values = model.replay([placeholder(x.shape, x.dtype, x.name) for x in model.inputs])
    check_steps([*values, *whole.kept], "cannot run one step at a time")
    _check_lateness(values, whole)


def _check_lateness(values: list[Tensor], whole: Whole) -> None:
    """Refuse states that start from a sequence, and steps that read what a loop gives at its end."""
    starts = {id(x) for x in whole.starts}
    late: set[int] = set()  # known after the last step only
    moving: set[int] = set()  # made of something with a time axis
    for node in ancestors([*values, *whole.kept, *whole.starts]):
        is_last = node.op == "variable" and node.variable.role == LOOP and node.variable.name == "last"
        if is_last or any(id(x) in late for x in node.inputs):
            late.add(id(node))
        timed = any(varies(size, "time") for size in node.shape)
        if timed or any(id(x) in moving for x in node.inputs):
            moving.add(id(node))
        if (timed and id(node) in late) or (id(node) in starts and id(node) in late | moving):
            layer = f"layer {node.place.layer!r}" if node.place.layer else "an operation"
            raise InvalidValue(
                explain(
                    f"{layer} reads what is known only after the last step, so the model cannot run one step at a time.",
                    expected="states to start from that do not depend on the sequence; last outputs that no sequence reads",
                    received=f"{node.op} {written(node.shape)} at {node.place.site}",
                    fix="model.predict(x)",
                )
            )


def step(model: Model, x: Any) -> Any:
    """The outputs for the next step, or the next few."""
    with model.lock:
        model.require_built()
        slots, graph = model.step_graph()
        columns: list[Array] = []
        single = False
        for variable, data in zip(model.inputs, model.split_inputs(x, "x"), strict=True):
            array = as_array(data, "x")
            if TIME in variable.shape and array.ndim == len(variable.shape) - 1:
                array, single = np.expand_dims(array, variable.shape.index(TIME)), True
            array = as_inputs(array, variable, "x")
            if columns:
                check_same_rows(columns[0], array)
            columns.append(array)
        rows = len(columns[0])
        if model.stepped_rows not in (None, rows):
            raise InvalidState(
                explain(
                    f"model {model.name!r} keeps states for {model.stepped_rows} sequences.",
                    expected=f"the next steps of these: {model.stepped_rows} rows",
                    received=f"{rows} rows",
                    fix="model.reset_states() before other sequences",
                )
            )
        times = [array.shape[1] for variable, array in zip(model.inputs, columns, strict=True) if TIME in variable.shape]
        if len(set(times)) > 1:
            raise InvalidValue(explain("the inputs differ in their number of time steps.", received=str(times)))
        program = model.program_of("step", rows, graph)
        model.stepped_rows = rows
        length = times[0] if times else 1
        results = [np.empty(at(head.shape, {"batch": rows, "time": length}), head.dtype) for head in model.outputs]
        for turn in range(length):
            for slot, variable, array in zip(slots, model.inputs, columns, strict=True):
                if slot in program.slots:
                    part = array[:, turn : turn + 1] if TIME in variable.shape else array
                    program.backend.copy_in(program.slots[slot], part)
            program.run()
            for name, head, result in zip(model.output_names, model.outputs, results, strict=True):
                values = program.backend.copy_out(program.outputs[name])
                if TIME in head.shape:
                    result[:, turn : turn + 1] = values
                else:
                    result[...] = values
        single = single or not times
        return model.joined(
            [y[:, 0] if single and TIME in head.shape else y for y, head in zip(results, model.outputs, strict=True)]
        )


def reset(model: Model, name: str | None) -> None:
    """Let the states of one layer or feedback, or of all, begin anew."""
    with model.lock:
        name = title(name)
        if name is not None and name not in model.states:
            if not model.states:
                model.step_graph()  # names follow from the first step
            if name not in model.states:
                raise unknown_name("state", name, model.states)
        for own in [model.states[name]] if name is not None else model.states.values():
            if own[0].storage is not None:
                devices.write(own[0], np.asarray(False), own[0].device)
        if name is None:
            model.stepped_rows = None


def kept(model: Compiled) -> dict[str, Array]:
    """What the states are after the last step, by the place of the layer or the feedback, and number."""
    sizes = {"batch": model.stepped_rows or 0}
    found: dict[str, Array] = {}
    for place, own in enumerate(model.states.values()):
        for number, variable in enumerate(own):
            if variable.storage is not None:
                backend = variable.device.backend
                view = devices.strided(Layout.dense(variable.shape), variable.dtype, sizes)
                found[f"{place}/{number}"] = backend.copy_out(backend.view(variable.storage, view))
    return found


def go_on(model: Compiled, rows: int, values: Mapping[str, Array]) -> None:
    """Let the next step of a model that has taken none go on from these states of so many sequences."""
    model.step_graph()
    model.stepped_rows = rows
    for place, own in enumerate(model.states.values()):
        for number, variable in enumerate(own):
            value = values.get(f"{place}/{number}")
            if value is not None:
                devices.materialise(variable, {"batch": rows}, devices.CPU)
                devices.fill(devices.CPU, variable.storage, variable.shape, variable.dtype, value, {"batch": rows})
