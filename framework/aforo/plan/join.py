"""Concatenations without copies: pieces that are computed for one alone are written straight to their places in it."""

from __future__ import annotations

from dataclasses import replace

from ..specs import Layout, Size, count, strides
from .draft import Draft, Operand, Step


def joined(draft: Draft) -> Draft | None:
    """The draft with concatenations whose pieces lie one after the other taken apart; None if there is none.

    A step may then write a part of a value. Pieces that cannot be computed in place are copied there.
    """
    readers, writers = draft.readers(), draft.writers()
    kept = {value for step in draft.steps for value in step.after} | {operand.value for operand in draft.outputs.values()}
    steps = list(draft.steps)
    apart: dict[int, list[Step]] = {}  # by the concatenation, the copies that are left of it

    def is_own(read: Operand, index: int) -> bool:
        """Whether a piece is a whole value that one step makes for this reader alone."""
        value, maker = draft.values[read.value], writers.get(read.value)
        if maker is None or maker in apart or draft.steps[maker].loop is not None or not value.in_arena:
            return False
        once = [each.value for each in draft.steps[index].reads].count(read.value) == 1
        whole = read.layout.is_dense and count(read.layout.shape) == count(value.shape)
        return once and whole and readers[read.value] == [index] and read.value not in kept

    for index, step in enumerate(draft.steps):
        if step.op != "concatenate" or not draft.values[step.writes[0]].in_arena:
            continue
        own = [is_own(read, index) for read in step.reads]
        if not any(own) or any(size != 1 for size in step.reads[0].layout.shape[: step.attributes["axis"]]):
            continue
        apart[index] = []
        (whole,) = step.writes
        start: Size = 0
        for read, is_made_there in zip(step.reads, own, strict=True):
            # As its maker writes it, or as the copy does; the concatenation may have looked at it in another shape.
            shape = draft.values[read.value].shape if is_made_there else read.layout.shape
            place = Layout(start, shape, strides(shape))
            start = start + count(shape)
            if is_made_there:
                maker = writers[read.value]
                steps[maker] = _with_part(steps[maker], read.value, whole, place)
            else:
                apart[index].append(Step("copy", step.place, (read,), (whole,), after=step.after, into=(place,)))
    if not apart:
        return None
    left = [each for index, step in enumerate(steps) for each in apart.get(index, [step])]
    return Draft(draft.values, left, draft.outputs, draft.chains, draft.old)


def _with_part(step: Step, value: int, whole: int, place: Layout) -> Step:
    """The step, with a value that it writes as a part of another."""
    pairs = [(whole, place) if v == value else (v, where) for v, where in step.written()]
    return replace(step, writes=tuple(v for v, _ in pairs), into=tuple(where for _, where in pairs))
