"""Which losses are means over the samples of a batch: only those add up when a batch runs in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .graph import FORWARD, LOSS, Graph, Tensor, ancestors, leaf, tracing, within
from .layers.context import Context, collecting
from .losses import ANY as GIVEN
from .mixing import ANY, Along, Mixes, axis_of, passed
from .specs import BATCH, Dim, Shape, Size

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True)
class _Sum:
    """A value that no sample has for itself.

    power       of the batch size, by which it differs from a mean: a mean has 0, a sum 1; None: it is neither
    of_samples  whether samples are in it, and not only their number
    """

    power: int | None
    of_samples: bool = True


_MIXED = _Sum(None)
# Row by row along an axis; a sum over rows; or the same for every batch.
_State = Along | _Sum | None


def undivided(model: Model, weighted: bool) -> tuple[str, ...]:
    """The losses whose value for a batch is not the mean of their values for its pieces, by name.

    weighted: with a weight for each sample, which one number for all of them cannot take apart. An operation that is not known
    to be harmless counts as harmful. Layers that compute across samples are not meant: see `mixing`.
    """
    context = Context(training=True, step=lambda: leaf(model.step_counter))
    made: list[tuple[str, Tensor]] = []
    with tracing(), collecting(context):
        predictions = model.replay([leaf(variable) for variable in model.inputs])
        for head, y_pred in zip(model.heads, predictions, strict=True):
            if head.loss.target == GIVEN and head.target is not None:
                with within(layer=head.reported("loss"), phase=LOSS):
                    made.append((head.loss.name, head.loss.per_sample(leaf(head.target), y_pred)))
    made += [(f"what layer {x.place.layer!r} adds", x) for x in context.penalties]
    known: dict[int, _State] = {}
    for node in ancestors([x for _, x in made]):
        known[id(node)] = _state(node, [known[id(x)] for x in node.inputs])
    return tuple(dict.fromkeys(name for name, x in made if not _adds_up(known[id(x)], weighted and x.shape != ())))


def _adds_up(state: _State, weighted: bool) -> bool:
    if isinstance(state, _Sum):
        return state.power == 0 and not (weighted and state.of_samples)
    return state is None or (state[0] == 0 and state[1] in (1, ANY))


def mixing(graph: Graph) -> tuple[str, ...]:
    """The layers that compute across samples: what they make of a batch has not one axis of samples."""
    return tuple(
        dict.fromkeys(
            node.place.layer
            for node in graph.nodes
            if node.place.phase == FORWARD
            and node.op != "scan"  # its results are nodes of their own
            and any(_axes(x.shape) for x in node.inputs)
            and not _has_samples(node.shape)
        )
    )


def _axes(shape: Shape) -> list[Dim]:
    return [n for n in shape if isinstance(n, Dim) and any("batch" in symbols for symbols in n.terms)]


def _has_samples(shape: Shape) -> bool:
    """Whether one axis, and no other, holds as many values of each sample."""
    axes = _axes(shape)
    return len(axes) == 1 and all(symbols.count("batch") == 1 for symbols in axes[0].terms)


def _state(node: Tensor, inputs: Sequence[_State]) -> _State:
    try:
        state = _followed(node, inputs)
    except Mixes:
        state = _MIXED
    if state == _MIXED and node.place.phase != LOSS and _has_samples(node.shape):
        axis = axis_of(node.shape, "batch")  # layers that compute across samples are told apart from losses that do
        assert axis is not None
        return axis, node.shape[axis] // BATCH
    return state


def _followed(node: Tensor, inputs: Sequence[_State]) -> _State:
    axis = axis_of(node.shape, "batch")
    if node.op == "constant":
        power = _power(node.attributes["times"]) - _power(node.attributes["per"])
        return _Sum(power, of_samples=False) if power else None
    if node.op in ("variable", "uniform"):
        return None if axis is None else (axis, node.shape[axis] // BATCH)
    sums = [state for state in inputs if isinstance(state, _Sum)]
    rows = [None if isinstance(state, _Sum) else state for state in inputs]
    if sums:
        return _summed(node, inputs, sums) if not any(rows) else _MIXED
    if any(rows):
        if node.op == "sum" and any(along is not None and along[0] in node.attributes["axes"] for along in rows):
            return _Sum(1)
        return passed(node, rows, "batch")
    if axis is None:
        return None
    return (axis, ANY) if node.op == "broadcast" else _MIXED


def _summed(node: Tensor, inputs: Sequence[_State], sums: Sequence[_Sum]) -> _Sum:
    """What an operation makes of sums over the batch, and of values that are the same for every batch."""
    powers = [state.power for state in sums]
    if None in powers or any(_axes(x.shape) for x in node.inputs):
        return _MIXED
    of_samples = sum(state.of_samples for state in sums)
    if node.op in ("identity", "negative", "reshape", "broadcast", "sum"):
        return sums[0]
    if node.op in ("add", "subtract"):
        same = len(set(powers)) == 1 and (len(sums) == len(inputs) or powers[0] == 0)
        return _Sum(powers[0], of_samples > 0) if same else _MIXED
    if node.op == "multiply" and of_samples <= 1:
        return _Sum(sum(power or 0 for power in powers), of_samples > 0)
    if node.op == "divide":
        above, below = (state if isinstance(state, _Sum) else _Sum(0, of_samples=False) for state in inputs)
        if not below.of_samples:
            return _Sum((above.power or 0) - (below.power or 0), above.of_samples)
    return _MIXED


def _power(size: Size) -> int:
    """The power of the batch size in a product of sizes."""
    if not isinstance(size, Dim):
        return 0
    powers = {symbols.count("batch") for symbols in size.terms}
    if len(powers) > 1:
        raise Mixes
    return powers.pop()
