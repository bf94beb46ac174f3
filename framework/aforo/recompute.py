"""Recomputation: a transform from graph to graph that keeps fewer forward values for the backward, and computes others again.

The forward, in the order of creation, is cut into segments (Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016).
What crosses a cut is kept; what the backward needs from within a segment is computed again from that, by copies of the
forward's nodes, when the gradient arrives there. Which segments, is the knapsack of least operations for a limit of bytes.

Copies read what they start from through `after`, so that they wait for that gradient, and never merge with their originals.
Variable updates are not copied. Random nodes are: they are counter-based, and draw the same numbers again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .graph import BACKWARD, FORWARD, LOSS, PRIMITIVES, Graph, Tensor, verify
from .specs import at, value_bytes

_CUTS = 160  # cuts looked at
_STEPS = 1024  # into which the limit is divided
_ONCE = ("scan", "result")  # loops over time run once: what the backward needs of them is kept

Array = np.ndarray[Any, Any]


def kept_bytes(graph: Graph, sizes: Mapping[str, int]) -> int:
    """Bytes of the forward values that a training graph keeps for its backward."""
    forward = _Forward(graph, sizes)
    return sum(forward.nbytes[p] for p in range(len(forward.nodes)) if forward.is_kept[p])


def least_bytes(graph: Graph, sizes: Mapping[str, int]) -> int:
    """The smallest limit that `recomputed` can meet, to a hundredth or so."""
    forward = _Forward(graph, sizes)
    low, high = 0, kept_bytes(graph, sizes)
    while high - low > high // 100 + 1:
        limit = (low + high) // 2
        low, high = (low, limit) if _chosen(forward, limit) is not None else (limit, high)
    return high


def recomputed(graph: Graph, limit: int, sizes: Mapping[str, int]) -> Graph:
    """The same step, with at most about `limit` bytes of forward values alive for the backward at any time.

    Values are the same bit for bit: the same kernels on the same numbers. The limit is one that `least_bytes` allows.
    """
    forward = _Forward(graph, sizes)
    segments = _chosen(forward, limit)
    if not segments:
        return graph
    out = _rewritten(graph, forward, segments)
    verify(out)
    return out


class _Forward:
    """The forward nodes with memory of their own, in order of creation, and who reads them.

    last      the last forward node that reads each
    is_kept   whether the backward reads it
    """

    def __init__(self, graph: Graph, sizes: Mapping[str, int]) -> None:
        self.later: set[int] = set()  # nodes of the backward, and what depends on them
        self.nodes: list[Tensor] = []
        self.place: dict[int, int] = {}  # node -> its number, or that of the value it is a view of
        self.reads: list[list[int]] = []
        self.last: list[int] = []
        self.is_kept: list[bool] = []
        pinned = {id(node) for node in (*graph.outputs.values(), *graph.updates.values())}
        self.held: set[int] = set()  # values that must be there to the end, or that others than the forward read early
        for node in graph.nodes:
            key = id(node)
            places = [self.place[id(x)] for x in node.inputs if id(x) in self.place]
            if node.place.phase == BACKWARD or any(id(x) in self.later for x in node.inputs):
                if node.inputs:
                    self.later.add(key)
                for p in places:
                    self.is_kept[p] = True
            elif node.place.phase in (FORWARD, LOSS) and node.inputs and node.op not in _ONCE:
                if node.primitive.view is not None:
                    if places:
                        self.place[key] = places[0]
                else:
                    self.place[key] = len(self.nodes)
                    self.nodes.append(node)
                    self.reads.append(sorted(set(places)))
                    self.last.append(len(self.nodes) - 1)
                    self.is_kept.append(False)
                    for p in places:
                        self.last[p] = len(self.nodes) - 1
            else:
                self.held.update(places)
            if key in pinned and key in self.place:
                self.held.add(self.place[key])
        self.nbytes = [value_bytes(node.shape, node.dtype, sizes) for node in self.nodes]
        self.flops = [int(at(node.primitive.flops(node), sizes)) for node in self.nodes]

    def cuts(self) -> list[int]:
        """Numbers of nodes after which little more crosses than the backward needs anyway."""
        n = len(self.nodes)
        change = np.zeros(n + 1)
        for p in range(n):
            if not self.is_kept[p]:
                change[p] += self.nbytes[p]
                change[self.last[p]] -= self.nbytes[p]
        extra = np.cumsum(change)[:n]
        good = [p for p in range(n - 1) if extra[p] <= min(extra[max(p - 1, 0)], extra[p + 1])]
        if len(good) > _CUTS:
            good = [good[round(i * (len(good) - 1) / (_CUTS - 1))] for i in range(_CUTS)]
        return [-1, *good, n - 1]


@dataclass(frozen=True)
class _Segment:
    """The nodes after `start` up to `end`; those to compute again, the bytes kept meanwhile, and those that come back."""

    start: int
    end: int
    copied: tuple[int, ...]


def _sweep(forward: _Forward, cuts: Sequence[int], end: int) -> list[tuple[int, float, float, float]]:
    """For every segment that ends there: its first cut, operations to repeat, bytes held until then, bytes that return."""
    found = []
    stop = cuts[end]
    flops = held = back = 0.0
    wanted: set[int] = set()  # read by a copy, not copied so far
    outside = 0.0  # bytes of those that nothing keeps otherwise
    p = stop
    for start in range(end - 1, -1, -1):
        while p > cuts[start]:
            crosses = forward.last[p] > stop or p in forward.held
            if crosses:
                if forward.is_kept[p] or p in wanted:
                    held += forward.nbytes[p]
            elif forward.is_kept[p] or p in wanted:
                flops += forward.flops[p]
                back += forward.nbytes[p] if forward.is_kept[p] else 0
                for read in forward.reads[p]:
                    if read not in wanted:
                        wanted.add(read)
                        outside += 0 if forward.is_kept[read] else forward.nbytes[read]
            if p in wanted:
                wanted.discard(p)
                outside -= 0 if forward.is_kept[p] else forward.nbytes[p]
            p -= 1
        found.append((start, flops, held + outside, back))
    return found


def _copied(forward: _Forward, start: int, end: int) -> tuple[int, ...]:
    """The nodes of a segment that have to be computed again."""
    wanted: set[int] = set()
    copied = []
    for p in range(end, start, -1):
        if forward.last[p] <= end and p not in forward.held and (forward.is_kept[p] or p in wanted):
            copied.append(p)
            wanted.update(forward.reads[p])
    return tuple(reversed(copied))


def _chosen(forward: _Forward, limit: int) -> list[_Segment] | None:
    """The segments of least operations within the limit, if there are any."""
    cuts = forward.cuts()
    unit = max(1.0, limit / _STEPS)
    infinite = float("inf")
    best = np.full((len(cuts), _STEPS + 1), infinite)  # operations, by cut and by bytes held at it
    came = np.zeros((len(cuts), _STEPS + 1), np.int64)  # 2 · the cut before + whether that segment is computed again
    held_at = np.zeros((len(cuts), _STEPS + 1), np.int64)
    best[0, 0] = 0.0
    kept = np.cumsum([0, *(n if k else 0 for n, k in zip(forward.nbytes, forward.is_kept, strict=True))])
    for end in range(1, len(cuts)):
        held = round((kept[cuts[end] + 1] - kept[cuts[end - 1] + 1]) / unit)
        _extend(best, came, held_at, (end - 1, end), 0, 0.0, held, held)
        for start, flops, stays, back in _sweep(forward, cuts, end):
            if back:
                _extend(best, came, held_at, (start, end), 1, flops, round(stays / unit), round((stays + back) / unit))
    row = len(cuts) - 1
    if not np.isfinite(best[row]).any():
        return None
    column = int(best[row].argmin())
    segments = []
    while row:
        before, again = divmod(int(came[row, column]), 2)
        if again:
            copied = _copied(forward, cuts[before], cuts[row])
            segments.append(_Segment(cuts[before], cuts[row], copied))
        row, column = before, int(held_at[row, column])
    return segments[::-1]


def _extend(
    best: Array, came: Array, held_at: Array, cuts: tuple[int, int], again: int, flops: float, stays: int, most: int
) -> None:
    """Offer a segment between two cuts: what stays is held on, and `most` must find room beside what is held before."""
    start, end = cuts
    room = _STEPS + 1 - max(stays, most)
    if room <= 0:
        return
    tried = best[start, :room] + flops
    there = slice(stays, stays + room)
    better = tried < best[end, there]
    best[end, there][better] = tried[better]
    came[end, there][better] = 2 * start + again
    held_at[end, there][better] = np.arange(room)[better]


def _rewritten(graph: Graph, forward: _Forward, segments: Sequence[_Segment]) -> Graph:
    """The graph with copies of those nodes, read by the backward in place of the originals."""
    segment_of = {p: segment for segment in segments for p in segment.copied}
    order: list[Tensor] = []
    now: dict[int, Tensor] = {}
    again: dict[int, Tensor] = {}
    last_later: Tensor | None = None
    arrivals = _arrivals(graph, forward, segment_of)

    def made(primitive: Any, inputs: tuple[Tensor, ...], attributes: dict[str, Any], like: Tensor) -> Tensor:
        out = Tensor(primitive, inputs, attributes, like.shape, like.dtype, like.place, like.spelling, len(order))
        order.append(out)
        return out

    def copy(segment: _Segment, gate: Tensor) -> None:
        waiting: dict[int, Tensor] = {}

        def input_of(x: Tensor, wait: bool) -> Tensor:
            if id(x) in again:
                return again[id(x)]
            if forward.place.get(id(x)) in copied:  # a view of a copy
                again[id(x)] = made(x.primitive, tuple(input_of(i, False) for i in x.inputs), x.attributes, x)
                return again[id(x)]
            if not wait or (not x.inputs and x.op != "variable"):
                return now[id(x)]
            if id(x) not in waiting:
                waiting[id(x)] = made(PRIMITIVES["after"], (now[id(x)], gate), {}, x)
            return waiting[id(x)]

        copied = set(segment.copied)
        for p in segment.copied:
            node = forward.nodes[p]
            wait = not any(forward.place.get(id(x)) in copied for x in node.inputs)
            again[id(node)] = made(node.primitive, tuple(input_of(x, wait) for x in node.inputs), node.attributes, node)

    def read(x: Tensor) -> Tensor:
        """What the backward reads in place of x."""
        if id(x) in again or forward.place.get(id(x)) not in segment_of:
            return again.get(id(x), now[id(x)])
        again[id(x)] = made(x.primitive, tuple(map(read, x.inputs)), x.attributes, x)
        return again[id(x)]

    done: set[int] = set()
    for node in graph.nodes:
        if id(node) in forward.later:
            for x in node.inputs:
                segment = segment_of.get(forward.place.get(id(x), -1))
                if segment is not None and segment.end not in done:
                    done.add(segment.end)
                    gate = arrivals.get(segment.end)
                    arrived = now.get(id(gate), last_later) if gate is not None else last_later
                    if arrived is not None:
                        copy(segment, arrived)
                    else:  # the backward starts here: what it reads is still there
                        for p in segment.copied:
                            del segment_of[p]
            inputs = tuple(map(read, node.inputs))
        else:
            inputs = tuple(now[id(x)] for x in node.inputs)
        now[id(node)] = made(node.primitive, inputs, node.attributes, node)
        if id(node) in forward.later:
            last_later = now[id(node)]
    return Graph(
        {name: now[id(node)] for name, node in graph.outputs.items()},
        {variable: now[id(node)] for variable, node in graph.updates.items()},
    )


def _arrivals(graph: Graph, forward: _Forward, segment_of: Mapping[int, _Segment]) -> dict[int, Tensor]:
    """For every segment, by its end: the gradient with which the backward enters it."""
    depends: dict[int, set[int]] = {}  # node of the backward -> segments whose copies it needs
    found: dict[int, Tensor] = {}
    for node in graph.nodes:
        if id(node) not in forward.later:
            continue
        own = {segment.end for x in node.inputs if (segment := segment_of.get(forward.place.get(id(x), -1))) is not None}
        inherited = set().union(*(depends.get(id(x), set()) for x in node.inputs))
        depends[id(node)] = own | inherited
        for end in depends[id(node)] - found.keys():
            arriving = [x for x in node.inputs if id(x) in forward.later and end not in depends[id(x)]]
            if arriving:
                found[end] = max(arriving, key=lambda x: x.serial)
    return found
