"""A memory report: plain data, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

from aforo_backends.contract import Reserve

from ..tables import bytes_written, render, shape_written

_SHOWN_HOLDERS = 5


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Moment:
    """One instruction, and the bytes of the arena in use while it runs."""

    op: str
    layer: str
    phase: str
    live_bytes: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A value that is in the arena at its peak: what computed it, and the instructions from which to which it is needed."""

    layer: str
    op: str
    phase: str
    shape: tuple[int, ...]
    nbytes: int
    start: int
    end: int


@dataclass(frozen=True)
class Timeline(Sequence[Moment]):
    """The instructions of a step in their order, and who holds the arena at its peak.

    peak     the first instruction at which the most bytes are live
    holders  the values that are live there, largest first
    """

    moments: tuple[Moment, ...]
    peak: int
    holders: tuple[Holder, ...]

    @overload
    def __getitem__(self, index: int) -> Moment: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Moment, ...]: ...
    def __getitem__(self, index: int | slice) -> Moment | tuple[Moment, ...]:
        return self.moments[index]

    def __len__(self) -> int:
        return len(self.moments)

    def __iter__(self) -> Iterator[Moment]:
        return iter(self.moments)


@dataclass(frozen=True)
class Held:
    """What a fit holds besides its steps: how much, and in which memory."""

    name: str
    nbytes: int
    where: str

    @property
    def place(self) -> str:
        """For a sentence: "on the host", "on cuda"."""
        return "on the host" if self.where == "host" else f"on {self.where}"


@dataclass(frozen=True)
class Report:
    """Every byte that the steps of a model own, to the byte.

    total_bytes = parameters_bytes + optimizer_state_bytes + state_bytes + batch_bytes + arena_bytes. Each line includes its
    padding. Where several programs share the arena it is as large as the largest of them needs; layers, timeline and lower
    bound are those of that one.

    parameters_bytes       weights, and what layers keep beside them, such as moving averages
    optimizer_state_bytes  slots
    state_bytes            counters, sums for loss and metrics, constants
    batch_bytes            the slots a batch is copied into
    arena_bytes            everything that lives within a step
    lower_bound_bytes      the smallest arena for this order of instructions: the most bytes live at once
    reserve                what libraries and drivers take outside, with where it was measured
    data                   what a fit over `rows` rows holds besides
    length                 time steps, for a model of sequences
    flops                  floating-point operations of one step
    micro_batch            rows of a micro-batch, where a memory_budget lets a batch run in several; layers are those of one
    recomputed             layers of which the backward computes forward values again
    """

    device: str
    batch_size: int
    training: bool
    programs: tuple[str, ...]
    parameters_bytes: int
    optimizer_state_bytes: int
    state_bytes: int
    batch_bytes: int
    arena_bytes: int
    lower_bound_bytes: int
    layers: tuple[LayerRow, ...]
    timeline: Timeline
    reserve: tuple[Reserve, ...]
    rows: int | None = None
    data: tuple[Held, ...] = ()
    length: int | None = None
    flops: int = 0
    micro_batch: int | None = None
    recomputed: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        return sum(nbytes for _, nbytes in self.parts())

    @property
    def gap_bytes(self) -> int:
        """What the arena takes beyond its lower bound."""
        return self.arena_bytes - self.lower_bound_bytes

    @property
    def data_bytes(self) -> int:
        return sum(held.nbytes for held in self.data)

    @property
    def device_bytes(self) -> int:
        """What the device must have free: the total, the data of a fit that lie there, and what is taken outside."""
        here = "host" if self.device == "cpu" else self.device
        data = sum(held.nbytes for held in self.data if held.where == here)
        return self.total_bytes + data + sum(line.nbytes for line in self.reserve)

    def parts(self) -> list[tuple[str, int]]:
        """The lines that sum to the total."""
        return [
            ("parameters", self.parameters_bytes),
            ("optimizer state", self.optimizer_state_bytes),
            ("state", self.state_bytes),
            ("batch", self.batch_bytes),
            ("arena", self.arena_bytes),
        ]

    @property
    def title(self) -> str:
        kinds = {"training": "a training step", "evaluation": "an evaluation", "prediction": "a prediction"}
        *first, last = (kinds[program] for program in self.programs)
        what = f"{', '.join(first)} and {last}" if first else last
        steps = f", {self.length:,} time steps" if self.length is not None else ""
        pieces = f" in micro-batches of {self.micro_batch}" if self.micro_batch is not None else ""
        return f"memory of {what}, batch size {self.batch_size}{pieces}{steps}, on {self.device}"

    def to_dict(self) -> dict[str, Any]:
        """Numbers, text, lists and dicts: what JSON can write, and gives back the same."""
        derived = {name: getattr(self, name) for name in ("total_bytes", "gap_bytes", "data_bytes", "device_bytes")}
        plain: dict[str, Any] = _plain({**derived, **asdict(self)})
        return plain

    def to_html(self, path: Any) -> None:
        """Write a page to look at and to share. It needs no network."""
        from .page import write_page

        write_page(path, 'report.to_html("plan.html")', self.title, [[self]], [self.batch_size], [None], None, "")

    def plot(self, path: Any = None) -> Any:
        """A figure of what is live at each instruction, and of the layers at the peak; saved if a path is given.

        Needs matplotlib: pip install 'aforo[plot]'.
        """
        from .plot import report_figure

        return report_figure(self, path)

    def _repr_html_(self) -> str:
        from .notebook import report_html

        return report_html(self)

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
        columns = ("layer", "output b × n", "values", "parameters", "flops", "held at peak")
        return render(self.title, columns, rows, self._footer())

    def _footer(self) -> list[str]:
        def line(name: str, nbytes: int) -> str:
            return f"  {name:<{width}}  {nbytes:>15,} B  {bytes_written(nbytes):>10}"

        width = max(len(name) for name, _ in [*self.parts(), *((held.name, 0) for held in self.data)])
        lines = [line(name, nbytes) for name, nbytes in self.parts()]
        lines.append(line("total", self.total_bytes))
        gap = self.gap_bytes / self.lower_bound_bytes if self.lower_bound_bytes else 0.0
        lines.append(f"  arena over its lower bound: {gap:.2%}")
        if self.micro_batch is not None:
            lines.append(f"  layers and timeline are those of one micro-batch; a step has {self.flops:,} flops")
        if self.recomputed:
            lines.append(f"  computed again for the backward: {', '.join(self.recomputed)}")
        if self.timeline.holders:
            moment = self.timeline[self.timeline.peak]
            at = f"{moment.op} of {moment.layer or 'the step'}, {moment.phase}"
            lines.append(f"  the peak is at instruction {self.timeline.peak + 1} of {len(self.timeline)} ({at}); held there by")
            for holder in self.timeline.holders[:_SHOWN_HOLDERS]:
                what = f"{holder.layer or 'the step'}, {holder.phase}: {holder.op} {shape_written(holder.shape)}"
                lines.append(f"    {bytes_written(holder.nbytes):>10}  {what}")
            rest = self.timeline.holders[_SHOWN_HOLDERS:]
            if rest:
                lines.append(f"    {bytes_written(sum(holder.nbytes for holder in rest)):>10}  {len(rest)} more values")
        if self.data:
            lines.append(f"  a fit over {self.rows:,} rows holds besides")
            lines += [f"{line(held.name, held.nbytes)}  {held.place}" for held in self.data]
        lines += [f"  outside: {each.name} about {bytes_written(each.nbytes)} ({each.measured})" for each in self.reserve]
        if self.data or self.reserve:
            lines.append(f"  needed on {self.device}, all of this together: about {bytes_written(self.device_bytes)}")
        return lines


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
