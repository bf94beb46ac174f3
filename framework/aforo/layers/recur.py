"""Steps along time, for layers with states and for cycles of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .. import ops
from ..errors import InvalidValue, explain
from ..graph import Tensor, current_layer
from ..loop import Builder, InBlocks, Made, placeholder
from ..specs import Size
from .context import Carrier, current

Step = Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor]]


class Steps:
    """One time step as the code of a step sees it.

    Usually it becomes the body of a loop. Where somebody else carries the states (a cycle around the layer, or a model that is
    asked for one step), it runs once, as a part of that.
    """

    def __init__(self, length: Size, *, reverse: bool = False, cut: int = 0, recompute: bool = False) -> None:
        outer = current().carrier
        check_cut(outer, cut)
        context = current()
        context.loops += [None] * (outer is None)
        # Nothing goes back through a prediction.
        again = context.training and (recompute or len(context.loops) <= context.blocks)
        cut = cut if context.backward else 0
        self.builder = Builder(length, reverse=reverse, cut=cut, recompute=again) if outer is None else None
        self.carrier: Carrier = self.builder or outer  # type: ignore[assignment]
        self.states: list[Tensor] = []
        self.nexts: list[Tensor] = []
        self._made: Made | InBlocks | None = None

    def along(self, x: Tensor, axis: int = 1) -> Tensor:
        """This step of x: its time axis has size 1."""
        if self.builder is None:
            return x
        part = self.builder.along(ops.transpose(x, [axis, *(i for i in range(x.ndim) if i != axis)]))
        return ops.expand_dims(part, axis)

    def carry(self, initial: Tensor, name: str) -> Tensor:
        self.states.append(self.carrier.carry(initial, name))
        return self.states[-1]

    def keep(self, state: Tensor, after: Tensor) -> None:
        self.carrier.keep(state, after)
        self.nexts.append(after)

    def shown(self, outputs: Sequence[tuple[Tensor, int]]) -> list[Tensor]:
        """Outputs of a step, each with the place of its time axis, over all steps. Ends the loop."""
        if self.builder is None:
            return [y for y, _ in outputs]
        made = self._made = self.builder.made([ops.squeeze(y, axis) for y, axis in outputs])
        found = []
        for i, (y, axis) in enumerate(outputs):
            order = [*range(1, axis + 1), 0, *range(axis + 1, y.ndim)]
            found.append(ops.transpose(made.each(i), order))
        return found

    def last(self, number: int) -> Tensor:
        """What a state is after the last step, by the order in which it was carried."""
        return self.nexts[number] if self._made is None else self._made.last(number)


def check_cut(outer: Carrier | None, cut: int) -> None:
    """Refuse steps of its own at which gradients stop, for what stands on a cycle."""
    if outer is not None and outer.cyclic and cut not in (0, outer.cut):
        raise InvalidValue(
            explain(
                "what stands on a cycle stops gradients where its cycle does.",
                expected=f"truncate={outer.cut or None}, as its Feedback says, or none",
                received=f"truncate={cut}" + f" in {current_layer()}" * bool(current_layer()),
                fix=f"af.Feedback(shape, truncate={cut}) for all of the cycle",
            )
        )


def chosen(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """new where a mask of shape (batch,) is true, old elsewhere."""
    return ops.where(ops.reshape(mask, (*mask.shape, *[1] * (new.ndim - mask.ndim))), new, old)


def recur(
    step: Step,
    x: Tensor,
    initial: Sequence[Tensor],
    *,
    mask: Tensor | None = None,
    reverse: bool = False,
    cut: int = 0,
    recompute: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Run step(x at t (batch, d), states) -> next states along axis 1 of x (batch, time, d).

    Gives the first state at every step (batch, time, n), and all states after the last. Where the mask (batch, time) is false,
    they stay as they are.
    """
    outer = current().carrier
    check_cut(outer, cut)
    if outer is not None and reverse:
        raise InvalidValue(
            explain("a layer that goes backwards in time cannot run one step at a time.", fix="go_backwards=False")
        )
    if outer is not None and outer.whole:  # it mixes steps only by its states, and what it gives has one value for each
        for each in initial:
            outer.carry(each, current_layer())
        if mask is not None:
            outer.keep(initial[0], mask)
        depends = ops.sum(x, -1, keepdims=True) * 0.0
        shown = placeholder((*x.shape[:2], *initial[0].shape[1:]), x.dtype, "output") + depends
        return shown, [placeholder(each.shape, each.dtype, "last") for each in initial]
    steps = Steps(x.shape[1], reverse=reverse, cut=cut, recompute=recompute)
    here = None if mask is None else ops.squeeze(steps.along(mask), 1)
    states = [steps.carry(each, current_layer()) for each in initial]
    nexts = step(ops.squeeze(steps.along(x), 1), states)
    if here is not None:
        nexts = [chosen(here, new, old) for new, old in zip(nexts, states, strict=True)]
    for state, after in zip(states, nexts, strict=True):
        steps.keep(state, after)
    (shown,) = steps.shown([(ops.expand_dims(nexts[0], 1), 1)])
    return shown, [steps.last(i) for i in range(len(states))]
