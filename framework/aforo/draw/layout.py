"""Where boxes go: in layers from left to right with few crossings (Sugiyama et al., 1981), feedback edges below them.

Ranks follow the longest path from the inputs. Edges that pass a rank get a place in it. The order in a rank comes from sweeps
of barycentres, heights from least squares that keep the order.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

ROOM = 22.0  # between two boxes of one rank
PASSING = 14.0  # height of the place of an edge that passes
TURN = 76.0  # width of the zone between two ranks in which edges turn
LANE = 30.0  # height of a lane for a feedback edge
_SWEEPS = 12
_Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """before, after: widths of what is written along the edges that come in and go out. port: how far below the centre
    feedback leaves and arrives."""

    width: float
    height: float
    before: float = 0.0
    after: float = 0.0
    port: float = 0.0


@dataclass(frozen=True)
class Edge:
    """late: it carries what its source gave one time step ago. It may lead back, and has no part in the ranks."""

    source: int
    target: int
    late: bool = False


@dataclass(frozen=True)
class Layout:
    """centers: of the boxes. routes: for each edge the points it passes, from its source's right side to its target's left."""

    centers: tuple[_Point, ...]
    routes: tuple[tuple[_Point, ...], ...]
    ranks: tuple[int, ...]
    width: float
    height: float


def ranks_of(count: int, edges: Sequence[Edge]) -> list[int]:
    """The rank of each box: one more than the last of those that lead to it; inputs stand right before their first reader."""
    out: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for edge in edges:
        if not edge.late:
            out[edge.source].append(edge.target)
            waiting[edge.target] += 1
    sources = [i for i in range(count) if not waiting[i]]
    ranks, ready = [0] * count, list(sources)
    while ready:
        box = ready.pop()
        for target in out[box]:
            ranks[target] = max(ranks[target], ranks[box] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    assert not any(waiting), "a cycle without a late edge"
    for box in sources:
        if out[box]:
            ranks[box] = min(ranks[target] for target in out[box]) - 1
    return ranks


def crossings(links: Sequence[tuple[int, int]]) -> int:
    """How many pairs of links between two ranks cross, each given by its places in both."""
    seen: list[int] = []
    found = 0
    for _, target in sorted(links):
        found += len(seen) - bisect_right(seen, target)
        insort(seen, target)
    return found


class _Grid:
    """Boxes and passing places by rank, with their neighbours in the ranks before and after."""

    def __init__(self, boxes: Sequence[Box], edges: Sequence[Edge]) -> None:
        self.ranks = ranks_of(len(boxes), edges)
        self.heights = [box.height for box in boxes]
        self.rows: list[list[int]] = [[] for _ in range(max(self.ranks, default=0) + 1)]
        for i, rank in enumerate(self.ranks):
            self.rows[rank].append(i)
        self.before: list[list[int]] = [[] for _ in boxes]
        self.after: list[list[int]] = [[] for _ in boxes]
        self.paths: list[list[int]] = []
        for edge in edges:
            path = [edge.source]
            if not edge.late:
                path += [self._passing(rank) for rank in range(self.ranks[edge.source] + 1, self.ranks[edge.target])]
            path.append(edge.target)
            self.paths.append(path)
            for a, b in pairwise(path):
                if not edge.late:
                    self.after[a].append(b)
                    self.before[b].append(a)
        self._order()

    def _passing(self, rank: int) -> int:
        place = len(self.heights)
        self.heights.append(PASSING)
        self.ranks.append(rank)
        self.before.append([])
        self.after.append([])
        self.rows[rank].append(place)
        return place

    def _crossings(self) -> int:
        places = self._places()
        return sum(crossings([(places[a], places[b]) for a in row for b in self.after[a]]) for row in self.rows)

    def _places(self) -> dict[int, int]:
        return {node: place for row in self.rows for place, node in enumerate(row)}

    def _order(self) -> None:
        if all(len(row) == 1 for row in self.rows):
            return
        best, fewest = [list(row) for row in self.rows], self._crossings()
        for sweep in range(_SWEEPS):
            if not fewest:
                break
            near, places = (self.before if sweep % 2 == 0 else self.after), self._places()
            for row in self.rows if sweep % 2 == 0 else reversed(self.rows):
                where = {n: sum(places[m] for m in near[n]) / len(near[n]) if near[n] else places[n] for n in row}
                row.sort(key=where.__getitem__)
                places.update((n, place) for place, n in enumerate(row))
            now = self._crossings()
            if now < fewest:
                best, fewest = [list(row) for row in self.rows], now
        self.rows = best

    def tops(self) -> list[float]:
        """The vertical centre of every box and passing place."""
        y = [0.0] * len(self.heights)
        for row in self.rows:
            for node, center in zip(row, _stacked([self.heights[n] for n in row], [0.0] * len(row)), strict=True):
                y[node] = center
        if all(len(row) == 1 for row in self.rows):
            return y
        for sweep in range(2 * _SWEEPS):
            near = self.before if sweep % 2 == 0 else self.after
            for row in self.rows if sweep % 2 == 0 else reversed(self.rows):
                wished = [sum(y[m] for m in near[n]) / len(near[n]) if near[n] else y[n] for n in row]
                for node, center in zip(row, _stacked([self.heights[n] for n in row], wished), strict=True):
                    y[node] = center
        return y


def _stacked(heights: Sequence[float], wished: Sequence[float]) -> list[float]:
    """Centres in this order that do not overlap, as near as can be to the wished ones (pool adjacent violators)."""
    offsets, total = [], 0.0
    for i, height in enumerate(heights):
        total += height / 2 + (heights[i - 1] / 2 + ROOM if i else 0.0)
        offsets.append(total)
    pools: list[list[float]] = []  # sum and number of those that move together
    for wish, offset in zip(wished, offsets, strict=True):
        pools.append([wish - offset, 1.0])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] >= pools[-1][0] / pools[-1][1]:
            value, number = pools.pop()
            pools[-1][0] += value
            pools[-1][1] += number
    shifts = [value / number for value, number in pools for _ in range(int(number))]
    return [shift + offset for shift, offset in zip(shifts, offsets, strict=True)]


def arrange(boxes: Sequence[Box], edges: Sequence[Edge], lane: float = LANE) -> Layout:
    """A place for every box, and a way for every edge. lane: the height of a lane for feedback; shorter ways lie inside."""
    grid = _Grid(boxes, edges)
    y = grid.tops()
    late = [edge for edge in edges if edge.late]
    rows = grid.rows
    real = [[n for n in row if n < len(boxes)] for row in rows]
    widths = [max((boxes[n].width for n in row), default=0.0) for row in real]
    first_in = max((boxes[n].before for n in real[0]), default=0.0) if any(grid.ranks[e.target] == 0 for e in late) else 0.0
    last = len(rows) - 1
    last_out = max((boxes[n].after for n in real[last]), default=0.0)
    turn = TURN + 9.0 * len(late)
    left, x = [], (first_in + turn if first_in or any(grid.ranks[e.target] == 0 for e in late) else 0.0)
    turns = [x - first_in - turn / 2]  # the middle of the zone before each rank, and of the one after the last
    for rank, width in enumerate(widths):
        left.append(x)
        x += width + max((boxes[n].after for n in real[rank]), default=0.0)
        turns.append(x + turn / 2)
        if rank < last:
            x += turn + max((boxes[n].before for n in real[rank + 1]), default=0.0)
    right = x + (turn if any(grid.ranks[e.source] == last for e in late) else 0.0)
    if not last_out and right == x:
        right = left[last] + widths[last]
    top = min(y[n] - grid.heights[n] / 2 for row in rows for n in row)
    y = [value - top for value in y]
    bottom = max(y[n] + grid.heights[n] / 2 for row in rows for n in row)
    ranks = grid.ranks[: len(boxes)]
    center = [(left[rank] + widths[rank] / 2, y[n]) for n, rank in enumerate(ranks)]

    def span(edge: Edge) -> int:
        return grid.ranks[edge.source] - grid.ranks[edge.target]

    lanes = {id(edge): number for number, edge in enumerate(sorted(late, key=span))}
    routes: list[tuple[_Point, ...]] = []
    for edge, path in zip(edges, grid.paths, strict=True):
        source, target = boxes[edge.source], boxes[edge.target]
        start = (center[edge.source][0] + source.width / 2, y[edge.source])
        end = (center[edge.target][0] - target.width / 2, y[edge.target])
        if edge.late:
            number = lanes[id(edge)]
            aside = 9.0 * (number - (len(late) - 1) / 2)
            down, up = turns[grid.ranks[edge.source] + 1] + aside, turns[grid.ranks[edge.target]] - aside
            below, leave, arrive = bottom + lane * (number + 1), start[1] + source.port, end[1] + target.port
            routes.append(((start[0], leave), (down, leave), (down, below), (up, below), (up, arrive), (end[0], arrive)))
            continue
        points = [start]
        for n in path[1:-1]:
            rank = grid.ranks[n]
            points += [(left[rank], y[n]), (left[rank] + widths[rank], y[n])]
        routes.append((*points, end))
    height = bottom + (lane * (len(late) + 0.5) if late else 0.0)
    return Layout(tuple(center), tuple(routes), tuple(ranks), right, height)
