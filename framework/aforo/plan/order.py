"""In which order the steps run. The order decides how much must live at once, more than any placement can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush

from ..graph import UPDATE, Variable
from .draft import Draft


def dependencies(draft: Draft) -> list[set[int]]:
    """For every step, the steps that must run before it.

    Those that write what it reads or waits for; and before the first write of a variable's new value, every reader of its old
    one.
    """
    makers = draft.makers()
    before = [{index for value in step.needs for index in makers.get(value, ())} for step in draft.steps]
    readers = draft.readers()
    for variable, chain in draft.chains.items():
        old = draft.old.get(variable)
        if old is not None:
            (first,) = makers[chain[0]]
            before[first].update(index for index in readers[old] if index != first)
    return before


def settle(draft: Draft) -> list[set[int]]:
    """The dependencies, after giving up in-place updates that wait for one another (a ← b, b ← a)."""
    released: set[Variable] = set()
    while True:
        before = dependencies(draft)
        stuck = _stuck(before)
        if not stuck:
            return before
        writer = draft.writers()
        waiting = [v for v, chain in draft.chains.items() if v not in released and writer[chain[0]] in stuck]
        draft.release(waiting[0])
        released.add(waiting[0])


def _after(before: list[set[int]]) -> list[list[int]]:
    after: list[list[int]] = [[] for _ in before]
    for index, earlier in enumerate(before):
        for i in sorted(earlier):
            after[i].append(index)
    return after


def _stuck(before: list[set[int]]) -> set[int]:
    """The steps that wait for themselves, and those between such steps."""
    after = _after(before)
    behind = _left(set(range(len(before))), before, after)
    return _left(behind, [set(steps) & behind for steps in after], [sorted(steps & behind) for steps in before])


def _left(among: set[int], before: Sequence[set[int]], after: Sequence[Sequence[int]]) -> set[int]:
    """What is left of some steps when those that wait for nothing are taken away, again and again."""
    missing = {index: len(before[index]) for index in among}
    ready = [index for index, n in missing.items() if not n]
    while ready:
        index = ready.pop()
        del missing[index]
        for each in after[index]:
            missing[each] -= 1
            if not missing[each]:
                ready.append(each)
    return set(missing)


def by_creation(draft: Draft, before: list[set[int]]) -> list[int]:
    """The order of creation, with updates as early as they are legal."""
    after = _after(before)
    missing = [len(earlier) for earlier in before]
    writer = draft.writers()
    updates = {writer[value] for chain in draft.chains.values() for value in chain}
    rank = [(0 if index in updates or step.place.phase == UPDATE else 1, index) for index, step in enumerate(draft.steps)]
    ready = [rank[index] for index, n in enumerate(missing) if not n]
    heapify(ready)
    order = []
    while ready:
        _, index = heappop(ready)
        order.append(index)
        for i in after[index]:
            missing[i] -= 1
            if not missing[i]:
                heappush(ready, rank[i])
    return order


def by_release(draft: Draft, before: list[set[int]], nbytes: Callable[[int], int]) -> list[int]:
    """Any ready step that frees at least what it takes, else the oldest."""
    after = _after(before)
    missing = [len(earlier) for earlier in before]
    readers = draft.readers()
    kept = {operand.value for operand in draft.outputs.values()}
    size = [nbytes(i) if value.in_arena else 0 for i, value in enumerate(draft.values)]
    left = [len(steps) + (i in kept) for i, steps in enumerate(readers)]
    # The sum of the readers still to come: when one is left, it is that one.
    last = [sum(steps) for steps in readers]

    def profitable(index: int) -> bool:
        step = draft.steps[index]
        freed = sum(size[v] for v in {read.value for read in step.reads} if left[v] == 1)
        return freed >= sum(size[value] for value in step.writes)

    oldest: list[int] = []
    cheap: list[int] = []
    done = [False] * len(before)

    def offer(index: int) -> None:
        heappush(cheap if profitable(index) else oldest, index)

    for index, n in enumerate(missing):
        if not n:
            offer(index)
    order = []
    while cheap or oldest:
        index = heappop(cheap) if cheap else heappop(oldest)
        if done[index]:
            continue
        done[index] = True
        order.append(index)
        for value in {read.value for read in draft.steps[index].reads}:
            left[value] -= 1
            last[value] -= index
            if left[value] == 1 and value not in kept:
                reader = last[value]
                if not missing[reader] and not done[reader] and profitable(reader):
                    heappush(cheap, reader)
        for i in after[index]:
            missing[i] -= 1
            if not missing[i]:
                offer(i)
    return order
