"""From plans to a report."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from .. import device as devices
from ..budget import as_bytes
from ..economy import Choice, Data, choose
from ..errors import InvalidType, InvalidValue, explain, unknown_name
from ..graph import BATCH, OPTIMIZER_STATE, PARAMETERS, STATE
from ..plan import Plan, make_plan, owned_bytes
from ..settings import flag, whole
from ..specs import at, sizes_of
from ..steps import EVALUATION, PREDICTION, TRAINING
from .data import held_data
from .report import Held, Holder, LayerRow, Moment, Report, Timeline

if TYPE_CHECKING:
    from ..model import Model

PADDING = "(alignment)"
PROGRAMS = (TRAINING, EVALUATION, PREDICTION)


def report(
    model: Model,
    batch_size: int = 32,
    training: bool = True,
    device: Any = None,
    length: int | None = None,
    *,
    rows: int | None = None,
    validation_rows: int = 0,
    validation_length: int | None = None,
    weighted: bool = False,
    validation_weighted: bool | None = None,
    programs: Sequence[str] | None = None,
    memory_budget: Any = None,
) -> Report:
    """The report of what a model runs: see Model.memory."""
    batch_size = whole("batch_size", batch_size, 1)
    validation_rows = whole("validation_rows", validation_rows, 0)
    weighted = flag("weighted", weighted)
    weights = weighted, weighted if validation_weighted is None else flag("validation_weighted", validation_weighted)
    kinds = _programs(programs, flag("training", training), validation_rows)
    budget = None if memory_budget is None else as_bytes(memory_budget)
    if budget is not None and TRAINING not in kinds:
        raise InvalidValue(
            explain(
                "a budget decides how training runs, and this report has no training in it.",
                expected="a report of training",
                received=f"programs={kinds}, memory_budget={memory_budget!r}",
                fix="model.memory(batch_size, memory_budget=memory_budget)",
            )
        )
    if rows is not None:
        rows = whole("rows", rows, 1)
    if TRAINING not in kinds and (rows is not None or validation_rows):
        given = f"rows={rows}" if rows is not None else f"validation_rows={validation_rows}"
        raise InvalidValue(
            explain(
                "rows of data are what fit holds, and this report has no training in it.",
                expected="a report of training",
                received=f"programs={kinds}, {given}",
                fix="model.memory(batch_size, rows=rows)",
            )
        )
    if kinds != (PREDICTION,):
        model.require_compiled()
    target = devices.device(model.device if device is None else device)

    time = model.length(length)
    times = time, time if validation_length is None else model.length(validation_length)

    def planned(kind: str) -> Plan:
        limit = rows if kind == TRAINING else validation_rows if kind == EVALUATION else None
        graph = model.graph(kind, {TRAINING: weights[0], EVALUATION: weights[1]}.get(kind, False))
        return make_plan(graph, target.profile, sizes_of(min(batch_size, limit or batch_size), times[kind == EVALUATION]))

    found = None
    if budget is None:
        plans = [planned(kind) for kind in kinds]  # the first graph decides what targets look like
    else:
        found = choose(model, batch_size, budget, target, *weights, Data(rows, validation_rows, *times))
        ran = (TRAINING, EVALUATION) if validation_rows else (TRAINING,)
        plans = [*found.plans.values(), *(planned(kind) for kind in kinds if kind not in ran)]
    at_once = batch_size if found is None else found.micro_batch
    data = held_data(model, target, at_once, rows, validation_rows, weights, times) if rows is not None else ()
    return report_of(model, batch_size, kinds, target, plans, rows, data, length, found)


def report_of(
    model: Model,
    batch_size: int,
    programs: tuple[str, ...],
    target: devices.Device,
    plans: Sequence[Plan],
    rows: int | None = None,
    data: tuple[Held, ...] = (),
    length: int | None = None,
    choice: Choice | None = None,
) -> Report:
    """The report of plans that share one arena; layers and timeline are those of the plan that needs most of it."""
    roles = owned_bytes(plans)
    main = max(plans, key=lambda plan: plan.arena_bytes)
    layers = _rows(model, main, 0 if choice is None else choice.micro_batch)
    return Report(
        device=str(target),
        batch_size=batch_size,
        training=TRAINING in programs,
        programs=programs,
        parameters_bytes=roles[PARAMETERS],
        optimizer_state_bytes=roles[OPTIMIZER_STATE],
        state_bytes=roles[STATE],
        batch_bytes=roles[BATCH],
        arena_bytes=main.arena_bytes,
        lower_bound_bytes=main.lower_bound_bytes,
        layers=layers,
        timeline=_timeline(main),
        reserve=target.profile.reserve,
        rows=rows,
        data=data,
        length=length,
        flops=sum(row.flops for row in layers) if choice is None else choice.flops,
        micro_batch=None if choice is None or not choice.way.rows else choice.micro_batch,
        recomputed=() if choice is None else choice.recomputed,
    )


def _programs(programs: Sequence[str] | None, training: bool, validation_rows: int) -> tuple[str, ...]:
    """The kinds of programs that share one arena."""
    if programs is None:
        kinds = {TRAINING if training else PREDICTION}
    elif isinstance(programs, str) or not isinstance(programs, Sequence) or not programs:
        raise InvalidType(
            explain(
                "programs is a list of what a model runs.",
                expected="one or more of " + ", ".join(PROGRAMS),
                received=repr(programs),
                fix='programs=["training", "prediction"]',
            )
        )
    else:
        for kind in programs:
            if kind not in PROGRAMS:
                raise unknown_name("program", str(kind), PROGRAMS)
        kinds = set(programs)
    if validation_rows:
        kinds.add(EVALUATION)
    return tuple(kind for kind in PROGRAMS if kind in kinds)


def _slack(plan: Plan) -> int:
    """What the arena takes beyond its values."""
    return plan.lower_bound_bytes - max(plan.live_bytes, default=0)


def _timeline(plan: Plan) -> Timeline:
    slack = _slack(plan)
    moments = tuple(
        Moment(step.op, step.place.layer, step.place.phase, live + slack)
        for step, live in zip(plan.steps, plan.live_bytes, strict=True)
    )
    return Timeline(moments, _peak(plan), _holders(plan))


def _peak(plan: Plan) -> int:
    return max(range(len(plan.steps)), key=plan.live_bytes.__getitem__, default=0)


def _holders(plan: Plan) -> tuple[Holder, ...]:
    """The values in the arena at its peak, largest first."""
    peak = _peak(plan)
    written: dict[int, int] = {}  # the step that writes a value, or the first part of it
    for index, step in enumerate(plan.steps):
        for operand in step.writes:
            written.setdefault(operand.value, index)
    scratch = {operand.value for step in plan.steps for operand in step.scratch}
    holders = []
    for buffer in plan.buffers:
        if buffer.start <= peak <= buffer.end:
            now = max((v for v in buffer.values if written.get(v, peak) <= peak), key=lambda v: written.get(v, peak))
            value = plan.values[now]
            op = "scratch" if now in scratch else plan.steps[written[now]].op
            shape = at(value.shape, plan.sizes)
            holders.append(Holder(value.place.layer, op, value.place.phase, shape, buffer.nbytes, buffer.start, buffer.end))
    return tuple(sorted(holders, key=lambda holder: (-holder.nbytes, holder.start)))


def _top(layer: str) -> str:
    """The layer of the model that a layer within it belongs to."""
    return layer.partition("/")[0]


def _rows(model: Model, plan: Plan, rows_at_once: int) -> tuple[LayerRow, ...]:
    sizes = {**plan.sizes, "batch": max(plan.sizes["batch"], rows_at_once)}  # the update of micro-batches has no rows itself
    held: dict[str, int] = {}
    for holder in _holders(plan):
        held[_top(holder.layer)] = held.get(_top(holder.layer), 0) + holder.nbytes
    flops: dict[str, int] = {}
    for step in plan.steps:
        layer_name = _top(step.place.layer)
        flops[layer_name] = flops.get(layer_name, 0) + at(step.flops, plan.sizes)
    rows = []
    counted: set[int] = set()
    for layer, outputs in model.rows():
        shape = at(outputs[0].shape, sizes)
        own = [weight for weight in layer.weights if id(weight) not in counted]
        counted |= {id(weight) for weight in own}
        parameters = sum(weight.size for weight in own)
        values = sum(prod(at(x.shape, sizes)) for x in outputs)
        rows.append(LayerRow(layer.name, shape, values, held.pop(layer.name, 0), parameters, flops.pop(layer.name, 0)))
    rest = dict.fromkeys([*flops, *held])
    rows += [LayerRow(name or "(step)", (), 0, held.get(name, 0), 0, flops.get(name, 0)) for name in rest]
    rows.append(LayerRow(PADDING, (), 0, _slack(plan), 0, 0))
    return tuple(rows)
