"""Training within a budget of memory: of the ways to run a step that fit, the one that takes least time.

A batch may run in micro-batches, whose gradients are added up before one update; the forward values that a backward needs may
be computed again instead of kept, those of loops over time, of the first few or of all, in blocks of √time steps; or both. Each
way is planned, and its plans say to the byte what it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, NoReturn

from .collector import uncollected
from .device import Device
from .errors import InvalidValue, explain
from .graph import FORWARD, LOSS, PARAMETERS, Graph
from .plan import Plan, make_plan, owned_bytes
from .program import WHOLE
from .recompute import kept_bytes, least_bytes
from .samples import mixing, undivided
from .specs import at, sizes_of
from .steps import EVALUATION, FIRST, NEXT, TRAINING, UPDATING, Way
from .tables import bytes_written

if TYPE_CHECKING:
    from .model import Model

# What else than arithmetic takes time, in floating-point operations of a CPU with two cores: reading or writing a byte, and
# starting an instruction (about a microsecond).
_BYTE, _LAUNCH = 8, 100_000
_TRIES = 7  # plans made to find the largest limit that fits


@dataclass(frozen=True)
class Choice:
    """How training steps run within a budget.

    plans          of everything that runs, by kind; none in a history
    micro_batch    rows that run at once; the batch size, if there are no micro-batches
    recomputed     layers of which the backward computes forward values again
    flops          floating-point operations of one step
    extra_flops    operations beyond those of the plain step, as a part of these
    total_bytes    every byte that fit owns: its programs', and those of data that lies on a device with its own memory
    mixing         layers that compute across the samples of a batch: with micro-batches, across those of a micro-batch
    updating       other layers that change weights of their own in each step: with micro-batches, in each of these
    """

    way: Way
    plans: dict[str, Plan] = field(repr=False)
    budget: int
    batch_size: int
    micro_batch: int
    recomputed: tuple[str, ...]
    flops: int
    extra_flops: float
    total_bytes: int
    mixing: tuple[str, ...]
    updating: tuple[str, ...]

    def __str__(self) -> str:
        what = f"within {bytes_written(self.budget)}: "
        pieces = []
        if self.micro_batch < self.batch_size:
            count = -(-self.batch_size // self.micro_batch)
            pieces.append(f"{count} micro-batches of up to {self.micro_batch} rows for each batch of {self.batch_size}")
        if self.recomputed:
            some = ", ".join(self.recomputed[:3]) + f" and {len(self.recomputed) - 3} more" * (len(self.recomputed) > 3)
            how = ", loops over time in blocks of √time steps" * bool(self.way.blocks)
            pieces.append(f"activations of {some} computed again for the backward{how}")
        what += "; ".join(pieces) or f"the whole batch of {self.batch_size} rows fits"
        what += f"; planned {bytes_written(self.total_bytes)} ({self.total_bytes:,} B), {self.extra_flops:.1%} extra FLOPs"
        if self.mixing and self.micro_batch < self.batch_size:
            what += f". Statistics of the batch in {', '.join(self.mixing)} are those of each micro-batch"
        if self.updating and self.micro_batch < self.batch_size:
            what += f". Updates in {', '.join(self.updating)} are made for each micro-batch"
        return what


@dataclass(frozen=True)
class Data:
    """How many rows fit goes through, and how many it validates with; None: not known.

    time, validation_time: steps of their sequences; None: as many.
    """

    rows: int | None = None
    validation_rows: int = 0
    time: int = 1
    validation_time: int | None = None


_UNKNOWN = Data()


@uncollected
def choose(
    model: Model,
    batch_size: int,
    budget: int,
    device: Device,
    weighted: bool = False,
    validation_weighted: bool = False,
    data: Data = _UNKNOWN,
) -> Choice:
    """The way of least time for batches of that size within that many bytes of a device.

    weighted, validation_weighted: with a weight for each sample. Raises, with the smallest budget that would do, if nothing
    fits.
    """
    return _Search(model, batch_size, budget, device, weighted, validation_weighted, data).best()


class _Search:
    def __init__(
        self,
        model: Model,
        batch_size: int,
        budget: int,
        device: Device,
        weighted: bool,
        validation_weighted: bool,
        data: Data,
    ) -> None:
        self.model = model
        self.batch = min(batch_size, data.rows or batch_size)
        self.validation = min(batch_size, data.validation_rows)
        self.budget = budget
        self.device = device
        self.validation_time = data.time if data.validation_time is None else data.validation_time
        self.weights = {EVALUATION: validation_weighted, UPDATING: False}
        self.weighted = weighted
        self.data = data
        self._plans: dict[tuple[str, Way, int], Plan] = {}
        self._totals: dict[Way, int] = {}

    def best(self) -> Choice:
        plain = Way()
        if self.fits(plain):
            return self.choice(plain)
        found = [way for blocks in sorted({0, self.blocks}) for way in self.ways(blocks)]
        if not found:
            self.refuse()
        return self.choice(min(found, key=self.work))

    def ways(self, blocks: int) -> Iterator[Way]:
        """Ways that fit, with so many loops over time in blocks."""
        whole = Way(self.batch, blocks=blocks, time=self.data.time)
        if blocks and self.fits(whole):
            yield whole
            return
        pieces, again = self.micro_batches(whole), self.recomputation(whole)
        yield from (way for way in (pieces, again) if way is not None)
        counts = -(-self.batch // pieces.rows) if pieces is not None else self.batch * 2
        tried = 0
        while not self.undivided and (counts := counts // 2) > 1 and tried < 3:
            way = self.recomputation(replace(whole, rows=self.rows(counts)))
            if way is None:
                return
            yield way
            tried += 1

    @cached_property
    def loops(self) -> int:
        """How many loops over time may run in blocks; none where that is no other graph."""
        plain = self.model.graph(TRAINING, self.weighted)
        count = self.model.loops
        return count if count and len(self.model.graph(TRAINING, self.weighted, count).nodes) != len(plain.nodes) else 0

    @cached_property
    def blocks(self) -> int:
        """The fewest loops over time in blocks with which whole batches fit, or all of them."""
        low, high = 0, self.loops
        while high - low > 1:
            middle = (low + high) // 2
            if self.fits(Way(self.batch, blocks=middle, time=self.data.time)):
                high = middle
            else:
                low = middle
        return high

    @cached_property
    def undivided(self) -> tuple[str, ...]:
        """Losses that do not add up over micro-batches."""
        return undivided(self.model, self.weighted)

    # --- ways ---------------------------------------------------------------------------------------------------------

    def rows(self, count: int) -> int:
        """Rows of a micro-batch, when a batch is that many of them."""
        return -(-self.batch // count)

    def micro_batches(self, whole: Way) -> Way | None:
        """The fewest micro-batches that fit, everything kept."""
        if self.batch == 1 or self.undivided:
            return None

        def way(count: int) -> Way:
            return replace(whole, rows=self.rows(count))

        if self.fits(way(2)):
            return way(2)
        if not self.fits(way(self.batch)):
            return None
        low, high = 2, self.batch
        one, two = self.total(way(high)), self.total(way(2))
        rows = 1 + (self.budget - one) * (self.rows(2) - 1) / (two - one)  # what is held is nearly linear in the rows
        guess = round(self.batch / rows)
        while high - low > 1:
            count = min(max(guess, low + 1), high - 1)
            if self.fits(way(count)):
                high, guess = count, count - 1
            else:
                low, guess = count, count + 1
            if guess <= low or guess >= high:
                guess = (low + high) // 2
        return way(high)

    def recomputation(self, way: Way) -> Way | None:
        """The most forward values kept that fit, in its micro-batches."""
        sizes = sizes_of(way.rows or self.batch, self.data.time)
        graph = self.model.graph(NEXT if way.rows else TRAINING, self.weighted, way.blocks)
        low, high = least_bytes(graph, sizes), kept_bytes(graph, sizes)

        def keeping(limit: int) -> Way:
            return replace(way, kept=limit)

        if low >= high or not self.fits(keeping(low)):
            return None
        guess = low + self.budget - self.total(keeping(low))
        for _ in range(_TRIES):
            limit = min(max(guess, low), high)
            if self.fits(keeping(limit)):
                low, guess = limit, limit + self.budget - self.total(keeping(limit))
            else:
                high, guess = limit, (low + limit) // 2
            if high - low <= high // 100 or guess <= low:
                break
        return keeping(low)

    def refuse(self) -> NoReturn:
        pieces = self.batch > 1 and not self.undivided
        ends = []
        for blocks in sorted({0, self.loops}):
            for rows in (0, 1) if pieces else (0,):
                graph = self.model.graph(NEXT if rows else TRAINING, self.weighted, blocks)
                way = Way(self.batch, rows, blocks=blocks, time=self.data.time)
                ends += [way, replace(way, kept=least_bytes(graph, sizes_of(rows or self.batch, self.data.time)))]
        needed, way = min(((self._owned(way, self.kinds(way)), way) for way in [Way(), *ends]), key=lambda each: each[0])
        how = ["micro-batches of one row"] * bool(way.rows)
        how += ["activations computed again"] * (way.kept is not None) + ["loops over time in blocks"] * bool(way.blocks)
        names = " and ".join(map(repr, self.undivided))
        why = f" Micro-batches would train something else: {names} is no mean over the samples of a batch." if names else ""
        raise InvalidValue(
            explain(
                f"no way to run batches of {self.batch} rows fits the budget.{why}",
                expected=f"at least {needed:,} bytes ({bytes_written(needed)}), with {' and '.join(how) or 'whole batches'}",
                received=f"{self.budget:,} bytes ({bytes_written(self.budget)})",
                fix=f"memory_budget={needed}",
            )
        )

    # --- what a way takes ---------------------------------------------------------------------------------------------

    def fits(self, way: Way) -> bool:
        return self.total(way) <= self.budget

    def total(self, way: Way) -> int:
        """Every byte of it; where those of the next micro-batches are too many, without what the first may need beyond."""
        if way not in self._totals:
            *most, last = self.kinds(way)
            nbytes = self._owned(way, most) if most else 0
            self._totals[way] = nbytes if nbytes > self.budget else self._owned(way, [*most, last])
        return self._totals[way]

    def _owned(self, way: Way, kinds: Sequence[str]) -> int:
        return sum(owned_bytes([self._plan(kind, way) for kind in kinds]).values()) + self.data_bytes(way)

    def data_bytes(self, way: Way) -> int:
        """What of the data lies on a device with its own memory."""
        if self.data.rows is None or not self.device.profile.resident:
            return 0
        from .memory.data import held_data

        rows, rest = self.data.rows, self.data.validation_rows
        times = self.data.time, self.validation_time
        weighted = self.weighted, self.weights[EVALUATION]
        held = held_data(self.model, self.device, way.rows or self.batch, rows, rest, weighted, times)
        return sum(each.nbytes for each in held if each.where == str(self.device))

    def plans(self, way: Way) -> dict[str, Plan]:
        """The plans of everything that runs, by kind."""
        return {kind + "+weights" * self.weights.get(kind, self.weighted): self._plan(kind, way) for kind in self.kinds(way)}

    def kinds(self, way: Way) -> list[str]:
        """What runs, the least demanding last."""
        return [EVALUATION] * bool(self.validation) + ([NEXT, UPDATING, FIRST] if way.rows else [TRAINING])

    def _plan(self, kind: str, way: Way) -> Plan:
        sizes = sizes_of(way.rows or self.batch, self.data.time)
        if kind in (FIRST, NEXT):
            sizes[WHOLE] = self.batch
        elif kind == UPDATING:
            way, sizes = Way(), sizes_of(1)
        elif kind == EVALUATION:
            way, sizes = Way(), sizes_of(min(way.rows or self.validation, self.validation), self.validation_time)
        key = kind, way, sizes["batch"]
        if key not in self._plans:
            graph = way.graph(partial(self.model.graph, kind, self.weights.get(kind, self.weighted)), kind)
            self._plans[key] = make_plan(graph, self.device.profile, sizes)
        return self._plans[key]

    def runs(self, way: Way) -> Iterator[tuple[Plan, dict[str, int], int]]:
        """The plans of one step, at which sizes and how often each runs."""
        if not way.rows:
            yield self._plan(TRAINING, way), sizes_of(self.batch, self.data.time), 1
            return
        count, rest = divmod(self.batch, way.rows)
        sizes = sizes_of(way.rows, self.data.time) | {WHOLE: self.batch}
        yield self._plan(FIRST, way), sizes, 1
        yield self._plan(NEXT, way), sizes, count - 1
        if rest:
            yield self._plan(NEXT, way), {**sizes, "batch": rest}, 1
        yield self._plan(UPDATING, way), sizes, 1

    def flops(self, way: Way) -> int:
        return sum(times * sum(at(step.flops, sizes) for step in plan.steps) for plan, sizes, times in self.runs(way))

    def work(self, way: Way) -> int:
        """A measure of time: operations, and what moving bytes and starting instructions takes beside them."""
        return self.flops(way) + sum(times * _overhead(plan, sizes) for plan, sizes, times in self.runs(way))

    def choice(self, way: Way) -> Choice:
        kind = NEXT if way.rows else TRAINING
        graph = self.model.graph(kind, self.weighted)
        again = way.graph(partial(self.model.graph, kind, self.weighted), kind)
        across = mixing(graph)
        changed = dict.fromkeys(each.owner for each in graph.updates if each.role == PARAMETERS and not each.trained)
        return Choice(
            way=way,
            plans=self.plans(way),
            budget=self.budget,
            batch_size=self.batch,
            micro_batch=way.rows or self.batch,
            recomputed=_more(graph, again),
            flops=self.flops(way),
            extra_flops=self.flops(way) / self.flops(Way()) - 1,
            total_bytes=self._owned(way, self.kinds(way)),
            mixing=across,
            updating=tuple(name for name in changed if name not in across),
        )


def _overhead(plan: Plan, sizes: Mapping[str, int]) -> int:
    """What moving bytes and starting instructions takes, in operations; each step of a loop counts."""
    nbytes = [value.nbytes(sizes) for value in plan.values]
    total = 0
    for step in plan.steps:
        if step.loop is None:
            total += _LAUNCH + _BYTE * sum(nbytes[operand.value] for operand in (*step.reads, *step.writes))
        else:
            total += int(at(step.loop.length, sizes)) * _overhead(step.loop.plan, sizes)
    return total


def _forward_nodes(graph: Graph) -> dict[str, int]:
    """How many forward nodes each layer has."""
    counts: dict[str, int] = {}
    for node in graph.nodes:
        if node.inputs and node.op != "after" and node.place.phase in (FORWARD, LOSS):
            counts[node.place.layer] = counts.get(node.place.layer, 0) + 1
    return counts


def _more(graph: Graph, again: Graph) -> tuple[str, ...]:
    """The layers of which the second graph computes something again."""
    before = _forward_nodes(graph)
    return tuple(layer for layer, count in _forward_nodes(again).items() if count > before.get(layer, 0))
