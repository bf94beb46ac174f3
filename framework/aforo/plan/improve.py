"""A search for an order of steps that needs less memory at once than a good first one.

Local search: of the values alive at the peak, one is made later, with all that depends on it until then, or is used up earlier,
with all that this needs. A change that does not raise the peak is kept. Everything is bounded by counts of work, never by time,
so that a plan is the same wherever it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from .draft import Draft

_TRIES = 300
_SMALL = 1 << 16  # bytes: a peak that is not worth a search
_WORK = 80_000  # steps looked at by all tries
_FEWEST = 8  # steps below which there is nothing to choose
_GROUP = 12  # steps moved together; larger groups are rarely worth a try


class Usage:
    """How much memory lives at once, for any order of a draft's steps: what `share` will find, without the places."""

    def __init__(self, draft: Draft, nbytes: Callable[[int], int]) -> None:
        values = draft.values
        self.size = [nbytes(i) if value.in_arena else 0 for i, value in enumerate(values)]
        self.reads: list[list[int]] = []
        self.writes: list[list[tuple[int, list[int]]]] = []  # each value with those whose memory it may take
        self.parts: list[set[int]] = []  # values of which a step writes a part: the first one opens their memory
        self.scratch: list[int] = []
        for step in draft.steps:
            self.reads.append(list(dict.fromkeys(read.value for read in step.reads if values[read.value].in_arena)))
            self.parts.append(step.parts)
            written = [value for value in step.writes if values[value].in_arena and value not in step.parts]
            self.writes.append([(value, draft.givers(step, value)) for value in written])
            self.scratch.append(sum(self.size[value] for value in step.scratch))
        self.readers = draft.readers()
        self.writer = draft.writers()
        self.kept = {operand.value for operand in draft.outputs.values()}
        self._left = [len(steps) + (i in self.kept) for i, steps in enumerate(self.readers)]

    def peak(self, order: Sequence[int]) -> tuple[int, int]:
        """The most bytes alive at once, and the turn at which they are."""
        left, size = self._left.copy(), self.size
        live = most = at = 0
        begun: set[int] = set()
        for turn, index in enumerate(order):
            if new := self.parts[index] - begun:
                begun |= new
                live += sum(size[value] for value in new)
            scratch = self.scratch[index]
            live += scratch
            given: list[int] = []
            for value, givers in self.writes[index]:
                for giver in givers:
                    if left[giver] == 1 and giver not in given:
                        given.append(giver)
                        break
                else:
                    live += size[value]
            if live > most:
                most, at = live, turn
            live -= scratch
            for value in self.reads[index]:
                left[value] -= 1
                if not left[value] and value not in given:
                    live -= size[value]
            for value, _ in self.writes[index]:
                if not left[value]:
                    live -= size[value]
        return most, at


def improved(usage: Usage, before: Sequence[Collection[int]], order: list[int]) -> list[int]:
    """An order with no higher a peak. before: for every step, those that must run before it."""
    return _Search(usage, before, order).run()


class _Search:
    def __init__(self, usage: Usage, before: Sequence[Collection[int]], order: list[int]) -> None:
        from random import Random  # most programs are too small for a search

        self.random = Random(0)
        self.usage = usage
        self.before = [frozenset(steps) for steps in before]
        self.order = order
        self.most, self.at = usage.peak(order)
        self.turn = [0] * len(order)
        for turn, index in enumerate(order):
            self.turn[index] = turn
        self.alive: list[int] | None = None

    def run(self) -> list[int]:
        n = len(self.order)
        if n < _FEWEST or self.most < _SMALL:
            return self.order
        for _ in range(min(_TRIES, _WORK // n)):
            later = self.random.random() < 0.5
            moved = self._later() if later else self._earlier()
            if moved is None:
                continue
            low, high, group = moved
            part = self.order[low : high + 1]
            inside, outside = [i for i in part if i in group], [i for i in part if i not in group]
            order = [
                *self.order[:low],
                *(outside if later else inside),
                *(inside if later else outside),
                *self.order[high + 1 :],
            ]
            most, at = self.usage.peak(order)
            if most <= self.most:
                self.order, self.most, self.at, self.alive = order, most, at, None
                for turn in range(low, high + 1):
                    self.turn[order[turn]] = turn
        return self.order

    def _candidate(self) -> int | None:
        """A value that is alive at the peak."""
        if self.alive is None:
            usage, turn, at = self.usage, self.turn, self.at
            self.alive = [
                value
                for value, step in usage.writer.items()
                if usage.size[value]
                and turn[step] <= at
                and (value in usage.kept or any(turn[reader] >= at for reader in usage.readers[value]))
            ]
        return self.random.choice(self.alive) if self.alive else None

    def _later(self) -> tuple[int, int, set[int]] | None:
        """Turns from and to, and the steps among them that go to the end: one from before the peak, and what depends on it."""
        value = self._candidate() if self.random.random() < 0.5 else None
        first = self.order[self.random.randrange(self.at + 1)] if value is None else self.usage.writer[value]
        group = {first}
        for index in self.order[self.turn[first] + 1 : self.at + 1]:
            if not self.before[index].isdisjoint(group):
                group.add(index)
        return (self.turn[first], self.at, group) if self._is_small(group) else None

    def _earlier(self) -> tuple[int, int, set[int]] | None:
        """Turns from and to, and the steps among them that go to the start: some from after the peak, and what they need."""
        value = self._candidate() if self.random.random() < 0.5 else None
        late = [] if value is None else [reader for reader in self.usage.readers[value] if self.turn[reader] > self.at]
        if not late:
            after = self.at + 1 + int(self.random.expovariate(0.2))
            if after >= len(self.order):
                return None
            late = [self.order[after]]
        elif self.random.random() < 0.4:
            late = [self.random.choice(late)]
        high = max(self.turn[index] for index in late)
        group, needed = set(late), set().union(*(self.before[index] for index in late))
        for index in reversed(self.order[self.at : high + 1]):
            if index in group or index in needed:
                group.add(index)
                needed |= self.before[index]
        return (self.at, high, group) if self.order[self.at] not in group and self._is_small(group) else None

    def _is_small(self, group: set[int]) -> bool:
        return len(group) <= _GROUP or self.random.random() < 0.2
