"""Where each buffer lies in the arena.

Offline dynamic storage allocation: first fit in a good order, then a local search over that order. Everything is bounded by
counts of work, never by time, so that a plan is the same wherever it is made.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from math import exp

_PLACED = 40_000  # buffers placed in good orders, before a search
_TRIES = 500
_RESTARTS = 4
_WORK = 3_000_000  # placements looked at in one restart of the search
_HEAT, _COOLING = 0.01, 0.99  # of the search: in parts of the bound, and a factor for each try
_SPAN = 64  # buffers for each span of time


@dataclass(frozen=True)
class Interval:
    """A buffer: its bytes, and the first and last step at which it lives."""

    nbytes: int
    start: int
    end: int


def lower_bound(buffers: Sequence[Interval]) -> int:
    """The most bytes that live at one step."""
    change: dict[int, int] = {}
    for buffer in buffers:
        change[buffer.start] = change.get(buffer.start, 0) + buffer.nbytes
        change[buffer.end + 1] = change.get(buffer.end + 1, 0) - buffer.nbytes
    live = most = 0
    for step in sorted(change):
        live += change[step]
        most = max(most, live)
    return most


def place(buffers: Sequence[Interval]) -> list[int]:
    """An offset for every buffer; those that live at the same time do not overlap."""
    bound = lower_bound(buffers)
    best: list[int] = []
    best_peak = -1
    best_order: list[int] = []
    for order in islice(_orders(buffers), max(2, _PLACED // max(1, len(buffers)))):
        offsets = _first_fit(buffers, order)
        peak = _peak(buffers, offsets)
        if best_peak < 0 or peak < best_peak:
            best, best_peak, best_order = offsets, peak, order
        if peak == bound:
            return best
    return _search(buffers, best_order, best, best_peak, bound)


def _orders(buffers: Sequence[Interval]) -> Iterator[list[int]]:
    """Good orders of placement: large, large and long, long, early; then those first that live where memory is scarcest."""
    indices = range(len(buffers))
    keys: list[Callable[[int], tuple[int, ...]]] = [
        lambda i: (-buffers[i].nbytes, buffers[i].start),
        lambda i: (-buffers[i].nbytes * (buffers[i].end - buffers[i].start + 1),),
        lambda i: (buffers[i].start - buffers[i].end, -buffers[i].nbytes),
        lambda i: (buffers[i].start, -buffers[i].nbytes),
    ]
    for key in keys:
        yield sorted(indices, key=key)
    scarce = _most_beside(buffers)
    for key in keys:
        yield sorted(indices, key=lambda i: (-scarce[i], *key(i)))


def _most_beside(buffers: Sequence[Interval]) -> list[int]:
    """For each buffer, the most bytes alive at one step of its life."""
    live = [0] * (max((buffer.end for buffer in buffers), default=0) + 2)
    for buffer in buffers:
        live[buffer.start] += buffer.nbytes
        live[buffer.end + 1] -= buffer.nbytes
    rows = [list(accumulate(live))]  # rows[k][t]: the most within 2**k steps from t on
    while 2 ** len(rows) < len(live):
        below, half = rows[-1], 2 ** (len(rows) - 1)
        rows.append([max(a, b) for a, b in zip(below, below[half:] + below[-1:] * half, strict=False)])
    found = []
    for buffer in buffers:
        k = (buffer.end - buffer.start + 1).bit_length() - 1
        found.append(max(rows[k][buffer.start], rows[k][buffer.end - 2**k + 1]))
    return found


def _peak(buffers: Sequence[Interval], offsets: Sequence[int]) -> int:
    return max((offset + buffer.nbytes for buffer, offset in zip(buffers, offsets, strict=True)), default=0)


def _first_fit(buffers: Sequence[Interval], order: Sequence[int]) -> list[int]:
    """Put the buffers, in this order, at the lowest offset where they fit.

    What was placed is also kept by spans of time, so that a short-lived buffer of a deep net looks at its neighbours only,
    above the floor that buffers living through the whole span have built.
    """
    spans = max(1, len(buffers) // _SPAN)
    width = max((buffer.end for buffer in buffers), default=0) // spans + 1
    everything: list[tuple[int, int, int, int]] = []  # offset, its end, first step, last step; sorted by offset
    by_span: list[list[tuple[int, int, int, int]]] = [[] for _ in range(spans)]
    floors = [0] * spans
    offsets = [0] * len(buffers)
    for i in order:
        buffer = buffers[i]
        nbytes, start, end = buffer.nbytes, buffer.start, buffer.end
        first_span, last_span = start // width, end // width
        if first_span == last_span:
            low = floors[first_span]
            around = by_span[first_span]
            around = around[bisect_left(around, (low,)) :] if low else around
        else:
            low, around = max(floors[first_span : last_span + 1]), everything
        for offset, top, first, last in around:
            if first <= end and last >= start and top > low:
                if offset - low >= nbytes:
                    break
                low = top
        offsets[i] = low
        placed = (low, low + nbytes, start, end)
        insort(everything, placed)
        for span in range(first_span, last_span + 1):
            insort(by_span[span], placed)
            if low == floors[span] and start <= span * width and end >= (span + 1) * width - 1:
                floors[span] = low + nbytes
    return offsets


def _search(buffers: Sequence[Interval], order: Sequence[int], offsets: list[int], peak: int, bound: int) -> list[int]:
    """Simulated annealing over the order of placement (Kirkpatrick et al., 1983), until the bound is met or the tries are used.

    A move takes a buffer that ends above the bound to an earlier turn, or any to another, or swaps two. A worse peak is
    accepted less and less often; each restart begins again from the best order of all.
    """
    from random import Random  # most plans need no search

    random = Random(0)
    n = len(buffers)
    best, best_peak, best_order = offsets, peak, list(order)
    for _ in range(_RESTARTS):
        now, now_offsets, now_peak = list(best_order), best, best_peak
        temperature = _HEAT * bound
        for _ in range(min(_TRIES, _WORK // n**2)):
            candidate = list(now)
            i, j = random.randrange(n), random.randrange(n)
            move = random.random()
            if move < 0.5:
                above = [k for k in range(n) if now_offsets[k] + buffers[k].nbytes > bound]
                i = now.index(random.choice(above))
                j = random.randrange(i + 1)
            if 0.5 <= move < 0.75:
                candidate[i], candidate[j] = candidate[j], candidate[i]
            else:
                candidate.insert(j, candidate.pop(i))
            tried = _first_fit(buffers, candidate)
            tried_peak = _peak(buffers, tried)
            if tried_peak <= now_peak or random.random() < exp((now_peak - tried_peak) / temperature):
                now, now_offsets, now_peak = candidate, tried, tried_peak
                if now_peak < best_peak:
                    best, best_peak, best_order = tried, now_peak, list(now)
                    if best_peak == bound:
                        return best
            temperature *= _COOLING
    return best
