"""Which steps become one kernel, where the backend's data asks for it.

Elementwise steps and reductions over one array join as long as each place can be computed from its own inputs, or, after
the trailing axes were folded, from those of its row. Steps that join follow each other in an order in which everything may
run, so joining never makes a circle. What only the group reads never reaches memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from aforo_backends.contract import FUSED, Line, Profile

from ..graph import Graph
from ..specs import Layout, Shape, Size, at, count, strides
from .draft import Draft, Operand, Step

_REDUCTIONS = ("sum", "amax", "argmax")

_Look = tuple[Shape, Shape]  # sizes and strides of the axes that are longer than 1


def _look(layout: Layout) -> _Look:
    kept = [(size, step) for size, step in zip(layout.shape, layout.strides, strict=True) if size != 1]
    return tuple(size for size, _ in kept), tuple(step for _, step in kept)


def _dense(sizes: Shape) -> _Look:
    return sizes, strides(sizes)


@dataclass
class _Group:
    """Steps over one domain. `reduced`: the axes that its reductions fold; None as long as there is no reduction."""

    domain: Shape
    reduced: tuple[int, ...] | None = None
    members: list[int] = field(default_factory=list)
    full: dict[int, bool] = field(default_factory=dict)  # for values written in it: whether they fill the domain
    folded: set[int] = field(default_factory=set)  # values that depend on a reduction of the group
    inputs: set[int] = field(default_factory=set)  # values from outside that fill the domain

    @property
    def low(self) -> Shape | None:
        if self.reduced is None:
            return None
        return tuple(size for axis, size in enumerate(self.domain) if axis not in self.reduced)

    @property
    def in_rounds(self) -> bool:
        """Whether what was folded may be used for every place again, and folded once more."""
        return bool(self.reduced) and self.reduced[0] > 0  # type: ignore[index]


@dataclass(frozen=True)
class _Shape:
    """What a step would be in a group: its domain, the axes it folds, and how it looks at what it reads."""

    domain: Shape
    reduced: tuple[int, ...] | None
    looks: tuple[_Look, ...]


def _shape(draft: Draft, step: Step, fuses: frozenset[str]) -> _Shape | None:
    """None for a step that must be a kernel of its own."""
    if step.op not in fuses or step.scratch:
        return None
    looks = tuple(_look(read.layout) for read in step.reads)
    if step.op not in _REDUCTIONS:
        return _Shape(_look(Layout.dense(draft.values[step.writes[0]].shape))[0], None, looks)
    shape = step.reads[0].layout.shape
    axes = step.attributes["axes"] if step.op != "argmax" else (len(shape) - 1,)
    longer = [axis for axis, size in enumerate(shape) if size != 1]
    reduced = tuple(i for i, axis in enumerate(longer) if axis in axes)
    n = len(longer)
    if not reduced or reduced not in (tuple(range(len(reduced))), tuple(range(n - len(reduced), n))):
        return None
    if step.op == "argmax" and reduced[0] == 0 and n > 1:
        return None
    return _Shape(looks[0][0], reduced, looks)


def fuse(
    draft: Draft, graph: Graph, operands: dict[int, Operand], profile: Profile, sizes: Mapping[str, int]
) -> tuple[Draft, dict[int, Operand]]:
    """The draft with groups of steps made one, and where the graph's nodes are in it."""
    needed = {operand.value for operand in draft.outputs.values()}
    needed |= {operands[id(node)].value for node in graph.updates.values()}
    shapes = [_shape(draft, step, profile.fuses) for step in draft.steps]
    groups = _grouped(draft, shapes, needed)
    readers = draft.readers()
    out = Draft()
    now: dict[int, int] = {}
    done: dict[int, int] = {}  # value -> what is there when it has been computed: itself, or another that its group writes

    def kept(value: int) -> int:
        if value not in now:
            now[value] = len(out.values)
            out.values.append(draft.values[value])
        return now[value]

    for value, each in enumerate(draft.values):
        if not each.in_arena:
            kept(value)
    for group in groups:
        step = draft.steps[group.members[0]]
        if shapes[group.members[0]] is not None:
            step = _as_one(draft, group, shapes, readers, needed)
            _add_parts(out, step, profile, sizes)
        reads = tuple(Operand(kept(read.value), read.layout) for read in step.reads)
        writes = tuple(map(kept, step.writes))
        scratch = tuple(map(kept, step.scratch)) if step.op != FUSED else step.scratch
        loop = step.loop and step.loop.renumbered(kept)
        after = frozenset(done[value] for index in group.members for value in draft.steps[index].after if value in done)
        done.update({value: kept(value) if value in step.writes else writes[0] for value in _written(draft, group)})
        out.steps.append(Step(step.op, step.place, reads, writes, scratch, step.attributes, step.flops, after, loop))
    out.outputs = {name: Operand(kept(operand.value), operand.layout) for name, operand in draft.outputs.items()}
    out.old = {variable: now[value] for variable, value in draft.old.items()}
    return out, {key: Operand(now[o.value], o.layout) for key, o in operands.items() if o.value in now}


def _written(draft: Draft, group: _Group) -> list[int]:
    return [value for index in group.members for value in draft.steps[index].writes]


def _add_parts(out: Draft, step: Step, profile: Profile, sizes: Mapping[str, int]) -> None:
    """Scratch memory for a step that folds everything in parts."""
    a = step.attributes
    if profile.parts is None or not a["reduced"] or len(a["reduced"]) < len(a["shape"]):
        return
    folds = [line for line in a["lines"] if line.op in _REDUCTIONS]
    parts = profile.parts(at(count(a["shape"]), sizes))
    if parts > 1 and all(line.op != "argmax" for line in folds):
        step.scratch = tuple(out.add_value((parts,), line.dtype, step.place) for line in folds)


def _grouped(draft: Draft, shapes: list[_Shape | None], needed: set[int]) -> list[_Group]:
    """The groups, one after the other in an order in which they may run."""
    return _Grouping(draft, shapes, needed).groups


class _Grouping:
    """List scheduling: the oldest step that is ready starts a group, and what can join it comes next.

    Single numbers go first, so that what waits for one is ready when its group is made.
    """

    def __init__(self, draft: Draft, shapes: list[_Shape | None], needed: set[int]) -> None:
        self.draft, self.shapes, self.needed = draft, shapes, needed
        self.writer, self.readers = draft.writers(), draft.readers()
        self.before = [{self.writer[value] for value in step.needs if value in self.writer} for step in draft.steps]
        self.after: dict[int, list[int]] = defaultdict(list)
        for index, before in enumerate(self.before):
            for earlier in sorted(before):
                self.after[earlier].append(index)
        self.missing = [len(before) for before in self.before]
        self.taken: set[int] = set()
        self.ready: list[tuple[bool, int]] = []
        for index, n in enumerate(self.missing):
            if not n:
                self._offer(index)
        self.groups: list[_Group] = []
        while self.ready:
            _, first = heappop(self.ready)
            if first not in self.taken and not self.missing[first]:
                self.groups.append(self._group(first))

    def _offer(self, index: int) -> None:
        shape = self.shapes[index]
        heappush(self.ready, (shape is None or shape.domain != (), index))

    def _group(self, first: int) -> _Group:
        shape = self.shapes[first]
        group = _Group(() if shape is None else shape.domain)
        near: list[int] = []
        self._take(group, first, near)
        offered: set[int] = set()
        while near:
            index = heappop(near)
            if index in self.taken or index in offered:
                continue
            if self.missing[index]:
                self._pull(group, index, near)
            if self.missing[index]:
                continue  # it comes back when the last of its inputs does
            offered.add(index)
            candidate = self.shapes[index]
            if candidate is not None and _fits(self.draft, group, index, candidate):
                self._take(group, index, near)
            else:
                self._offer(index)
        for index in _given_back(self.draft, group, self.readers, self.needed):
            self.taken.discard(index)
            self._offer(index)
            for each in self.after[index]:
                self.missing[each] += 1
        return group

    def _take(self, group: _Group, index: int, near: list[int]) -> None:
        """Put a ready step into the group; `near` then has the steps that read what it gives or what it reads."""
        shape = self.shapes[index]
        self.taken.add(index)
        for each in self.after[index]:
            self.missing[each] -= 1
        if shape is None:
            group.members.append(index)
            for each in self.after[index]:
                if not self.missing[each]:
                    self._offer(each)
            return
        _join(self.draft, group, index, shape)
        near.extend(self.after[index])
        for value in group.inputs & {read.value for read in self.draft.steps[index].reads}:
            near.extend(each for each in self.readers[value] if not self.missing[each])
        heapify(near)

    def _pull(self, group: _Group, index: int, near: list[int], depth: int = 4) -> None:
        """Take what a step still waits for, if that too can be computed place by place, from values that are there already."""
        shape = self.shapes[index]
        if shape is None or shape.domain not in (group.domain, group.low) or not depth:
            return
        for earlier in sorted(self.before[index] - self.taken):
            if self.missing[earlier]:
                self._pull(group, earlier, near, depth - 1)
            candidate = self.shapes[earlier]
            if self.missing[earlier] or candidate is None or candidate.reduced is not None:
                return
            if not _fits(self.draft, group, earlier, candidate, alone=True):
                return
            self._take(group, earlier, near)


def _fits(draft: Draft, group: _Group, index: int, shape: _Shape, alone: bool = False) -> bool:
    """Whether a step can be computed place by place beside the group's own; and, unless it may stand alone, shares a value."""
    step = draft.steps[index]
    reduction = shape.reduced is not None
    low, domain = group.low, group.domain
    if reduction:
        if shape.domain != domain or (group.reduced is not None and shape.reduced != group.reduced):
            return False
        level = domain
    elif shape.domain == domain:
        level = domain
    elif low is not None and shape.domain == low:
        level = low
    else:
        return False
    shared = False
    for read, look in zip(step.reads, shape.looks, strict=True):
        if read.value not in group.full:
            shared = shared or read.value in group.inputs
            continue
        shared = True
        natural = [_dense(domain)] if group.full[read.value] else []
        if not group.full[read.value]:
            assert low is not None
            natural = [_dense(low)] if level == low else []
            if level == domain:
                natural.append(_spread(group))
        if read.layout.offset != 0 or look not in natural:
            return False
        if read.value in group.folded and (level == domain) and not group.in_rounds:
            return False
    return shared or alone


def _spread(group: _Group) -> _Look:
    """How a value of the reduced shape is looked at when it is repeated over the domain."""
    assert group.reduced is not None and group.low is not None
    moves = iter(strides(group.low))
    return group.domain, tuple(0 if axis in group.reduced else next(moves) for axis in range(len(group.domain)))


def _join(draft: Draft, group: _Group, index: int, shape: _Shape) -> None:
    step = draft.steps[index]
    (value,) = step.writes
    if shape.reduced is not None:
        group.reduced = shape.reduced
    group.members.append(index)
    group.full[value] = shape.reduced is None and shape.domain == group.domain
    if shape.reduced is not None or any(read.value in group.folded for read in step.reads):
        group.folded.add(value)
    for read, look in zip(step.reads, shape.looks, strict=True):
        if read.value not in group.full and look == _dense(group.domain) and group.domain:
            group.inputs.add(read.value)


def _given_back(draft: Draft, group: _Group, readers: list[list[int]], needed: set[int]) -> list[int]:
    """Steps that joined early and help nobody there: what they read is in memory anyway, and who reads them comes later."""
    members = set(group.members)

    def in_memory(value: int) -> bool:
        return value in needed or any(each not in members for each in readers[value])

    back: list[int] = []
    maker = {draft.steps[index].writes[0]: index for index in group.members}
    for leaf in reversed(group.members[1:]):
        (value,) = draft.steps[leaf].writes
        if leaf not in members or value in needed or not readers[value] or any(each in members for each in readers[value]):
            continue
        own, reads, stack = {leaf}, set(), [leaf]  # with what only it needs
        while stack:
            for read in draft.steps[stack.pop()].reads:
                made = maker.get(read.value)
                if made in own:
                    continue
                if made in members and read.value not in needed and all(each in own for each in readers[read.value]):
                    own.add(made)
                    stack.append(made)
                else:
                    reads.add(read.value)
        if group.members[0] not in own and all(v not in maker or maker[v] in own or in_memory(v) for v in reads):
            members -= own
            back.extend(own)
    group.members[:] = [index for index in group.members if index in members]
    return sorted(back)


def _as_one(draft: Draft, group: _Group, shapes: list[_Shape | None], readers: list[list[int]], needed: set[int]) -> Step:
    """The step that does what the members do."""
    members = set(group.members)
    steps = [draft.steps[index] for index in group.members]
    written = [step.writes[0] for step in steps]
    given = [v for v in written if v in needed or not readers[v] or any(each not in members for each in readers[v])]
    reads: dict[tuple[int, Layout], int] = {}
    looked: list[list[tuple[int, Layout] | int]] = []
    for index, step in zip(group.members, steps, strict=True):
        shape = shapes[index]
        assert shape is not None
        arguments: list[tuple[int, Layout] | int] = []
        for read, (sizes, moves) in zip(step.reads, shape.looks, strict=True):
            if read.value in group.full:
                arguments.append(read.value)
            else:
                key = read.value, Layout(read.layout.offset, sizes, moves)
                reads.setdefault(key, len(reads))
                arguments.append(key)
        looked.append(arguments)
    number = {value: len(reads) + i for i, value in enumerate(written)}
    lines = tuple(
        Line(
            step.op,
            draft.values[step.writes[0]].dtype,
            tuple(number[a] if isinstance(a, int) else reads[a] for a in arguments),
            () if step.op in _REDUCTIONS else tuple((k, v) for k, v in step.attributes.items() if k in ("exponent", "floor")),
        )
        for step, arguments in zip(steps, looked, strict=True)
    )
    flops: Size = 0
    for step in steps:
        flops = step.flops + flops
    attributes = {
        "lines": lines,
        "shape": group.domain,
        "reduced": group.reduced or (),
        "results": tuple((number[value], not group.full[value]) for value in given),
    }
    operands = tuple(Operand(value, layout) for value, layout in reads)
    return Step(FUSED, steps[-1].place, operands, tuple(given), (), attributes, flops)
