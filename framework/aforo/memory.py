"""Memory reports. They read the plan that would run, and nothing else: no data, no weights, no hardware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from aforo_backends.contract import Reserve

from . import device as devices
from .graph import BATCH, OPTIMIZER_STATE, PARAMETERS, STATE, TENSOR
from .plan import Plan
from .settings import whole
from .specs import at, value_bytes
from .tables import bytes_written, render, shape_written

if TYPE_CHECKING:
    from .model import Model

PADDING = "(alignment)"


def allocated(device: Any = "cpu") -> int:
    """Bytes the framework holds on the device now."""
    return devices.device(device).backend.allocated()


def allocations(device: Any = "cpu") -> int:
    """How many times the framework ever asked the device for memory."""
    return devices.device(device).backend.allocations()


@dataclass(frozen=True)
class LayerRow:
    """What one layer costs.

    values      numbers its output holds: b × n
    held_bytes  its part of the arena at the moment of the peak, gradients included
    flops       floating-point operations of a step, forward and backward
    """

    name: str
    output_shape: tuple[int, ...]
    values: int
    held_bytes: int
    parameters: int
    flops: int


@dataclass(frozen=True)
class Moment:
    """One instruction, and the bytes of the arena in use while it runs."""

    op: str
    layer: str
    phase: str
    live_bytes: int


@dataclass(frozen=True)
class Report:
    """Every byte that the steps of a model own, to the byte.

    total_bytes = parameters_bytes + optimizer_state_bytes + state_bytes + batch_bytes + arena_bytes. Each line includes its
    padding. `lower_bound_bytes` is the smallest arena for this order of steps; `reserve` lists what libraries take outside.
    """

    device: str
    batch_size: int
    training: bool
    parameters_bytes: int
    optimizer_state_bytes: int
    state_bytes: int
    batch_bytes: int
    arena_bytes: int
    lower_bound_bytes: int
    layers: tuple[LayerRow, ...]
    timeline: tuple[Moment, ...]
    reserve: tuple[Reserve, ...]

    @property
    def total_bytes(self) -> int:
        return sum(nbytes for _, nbytes in self.parts())

    def parts(self) -> list[tuple[str, int]]:
        """The lines that sum to the total."""
        return [
            ("parameters", self.parameters_bytes),
            ("optimizer state", self.optimizer_state_bytes),
            ("state", self.state_bytes),
            ("batch", self.batch_bytes),
            ("arena", self.arena_bytes),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {"total_bytes": self.total_bytes, **asdict(self)}

    def __str__(self) -> str:
        rows = [
            (
                row.name,
                shape_written(row.output_shape) if row.output_shape else "",
                f"{row.values:,}" if row.values else "",
                f"{row.parameters:,}" if row.parameters else "",
                f"{row.flops:,}" if row.flops else "",
                bytes_written(row.held_bytes),
            )
            for row in self.layers
        ]
        kind = "a training step" if self.training else "a prediction"
        width = max(len(name) for name, _ in self.parts())
        footer = [f"  {name:<{width}}  {nbytes:>15,} B  {bytes_written(nbytes):>10}" for name, nbytes in self.parts()]
        footer.append(f"  {'total':<{width}}  {self.total_bytes:>15,} B  {bytes_written(self.total_bytes):>10}")
        gap = self.arena_bytes / self.lower_bound_bytes - 1 if self.lower_bound_bytes else 0.0
        footer.append(f"  arena over its lower bound: {gap:.2%}")
        footer += [f"  outside: {line.name} about {bytes_written(line.nbytes)} ({line.measured})" for line in self.reserve]
        return render(
            f"memory of {kind}, batch size {self.batch_size}, on {self.device}",
            ("layer", "output b × n", "values", "parameters", "flops", "held at peak"),
            rows,
            footer,
        )


def report(model: Model, batch_size: int, training: bool, device: Any) -> Report:
    """The report of a model's training step, or of its prediction."""
    batch_size = whole("batch_size", batch_size, 1)
    if training:
        model.require_compiled()
    target = devices.device(model.device if device is None else device)
    plan = model.plan(batch_size, training, target)
    roles = _by_role(plan)
    return Report(
        device=str(target),
        batch_size=batch_size,
        training=training,
        parameters_bytes=roles[PARAMETERS],
        optimizer_state_bytes=roles[OPTIMIZER_STATE],
        state_bytes=roles[STATE],
        batch_bytes=roles[BATCH],
        arena_bytes=plan.arena_bytes,
        lower_bound_bytes=plan.lower_bound_bytes,
        layers=_rows(model, plan),
        timeline=_timeline(plan),
        reserve=plan.profile.reserve,
    )


def _by_role(plan: Plan) -> Mapping[str, int]:
    """Bytes of what outlives a step: each variable and each constant once."""
    totals = dict.fromkeys((PARAMETERS, OPTIMIZER_STATE, STATE, BATCH), 0)
    for variable in plan.variables:
        role = STATE if variable.role == TENSOR else variable.role  # an array the model uses is one of its constants
        totals[role] += plan.profile.footprint(value_bytes(variable.shape, variable.dtype, plan.sizes))
    for constant in plan.constants:
        totals[STATE] += plan.profile.footprint(value_bytes(constant.shape, constant.dtype, plan.sizes))
    return totals


def _slack(plan: Plan) -> int:
    """What the arena takes beyond its values."""
    return plan.lower_bound_bytes - max(plan.live_bytes, default=0)


def _timeline(plan: Plan) -> tuple[Moment, ...]:
    slack = _slack(plan)
    return tuple(
        Moment(step.op, step.place.layer, step.place.phase, live + slack)
        for step, live in zip(plan.steps, plan.live_bytes, strict=True)
    )


def _top(layer: str) -> str:
    """The layer of the model that a layer within it belongs to."""
    return layer.partition("/")[0]


def _held(plan: Plan) -> dict[str, int]:
    """Who holds the arena at its peak: bytes by layer."""
    if not plan.steps:
        return {}
    peak = max(range(len(plan.steps)), key=plan.live_bytes.__getitem__)
    written = {operand.value: index for index, step in enumerate(plan.steps) for operand in step.writes}
    held: dict[str, int] = {}
    for buffer in plan.buffers:
        if buffer.start <= peak <= buffer.end:
            now = max((v for v in buffer.values if written.get(v, peak) <= peak), key=lambda v: written.get(v, peak))
            layer = _top(plan.values[now].place.layer)
            held[layer] = held.get(layer, 0) + buffer.nbytes
    return held


def _rows(model: Model, plan: Plan) -> tuple[LayerRow, ...]:
    held = _held(plan)
    flops: dict[str, int] = {}
    for step in plan.steps:
        layer_name = _top(step.place.layer)
        flops[layer_name] = flops.get(layer_name, 0) + at(step.flops, plan.sizes)
    rows = []
    counted: set[int] = set()
    for layer, outputs in model.rows():
        shape = at(outputs[0].shape, plan.sizes)
        own = [weight for weight in layer.weights if id(weight) not in counted]
        counted |= {id(weight) for weight in own}
        parameters = sum(weight.size for weight in own)
        values = sum(prod(at(x.shape, plan.sizes)) for x in outputs)
        rows.append(LayerRow(layer.name, shape, values, held.pop(layer.name, 0), parameters, flops.pop(layer.name, 0)))
    rest = dict.fromkeys([*flops, *held])
    rows += [LayerRow(name or "(step)", (), 0, held.get(name, 0), 0, flops.get(name, 0)) for name in rest]
    rows.append(LayerRow(PADDING, (), 0, _slack(plan), 0, 0))
    return tuple(rows)
