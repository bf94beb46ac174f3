"""Which operations compute each time step from that step alone: only these can stand on a cycle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .errors import InvalidValue, explain
from .graph import LOOP, Tensor, ancestors
from .specs import BATCH, TIME, Shape, Size, count, varies, written

# The axis that time runs along, and how many neighbours in it belong to one step; ANY where all are the same.
Along = tuple[int, Size]
ANY = 0
Rule = Callable[[Tensor, Sequence[Along | None]], Along]


class Mixes(Exception):
    """An operation lets neighbours along the axis meet."""


def check_steps(values: Sequence[Tensor], why: str, along: bool = False) -> None:
    """Raise for the first operation that these are computed by and that mixes time steps, naming it and its layer.

    All is seen on whole sequences: of leaves, each axis whose size is `time`. why: where the operation stands that it may not.
    along: the values themselves have a time axis.
    """
    known: dict[int, Along | None] = {}
    wanted = {id(x) for x in values}
    for node in ancestors(values):
        try:
            known[id(node)] = _along(node, [known[id(x)] for x in node.inputs])
        except Mixes:
            raise _mixes(node, f"{why}, but {node.op} mixes time steps") from None
        if along and id(node) in wanted and known[id(node)] not in ((_axis(node.shape), 1), (_axis(node.shape), ANY)):
            raise _mixes(node, f"{why}, but what it gives, {written(node.shape)}, has no time axis")


def _mixes(node: Tensor, what: str) -> InvalidValue:
    layer = f"layer {node.place.layer!r}" if node.place.layer else "an operation"
    return InvalidValue(
        explain(
            f"{layer} {what}.",
            expected="operations that compute each time step from that step alone",
            received=f"{node.op} of " + ", ".join(written(x.shape) for x in node.inputs) + f" at {node.place.site}",
            fix="use it where operations see the whole sequence: off the cycle, in model.predict(x)",
        )
    )


def axis_of(shape: Shape, symbol: str) -> int | None:
    """The one axis that depends on the symbol."""
    axes = [i for i, size in enumerate(shape) if varies(size, symbol)]
    if len(axes) > 1:
        raise Mixes
    return axes[0] if axes else None


def _axis(shape: Shape) -> int | None:
    """The one axis that depends on the number of steps."""
    return axis_of(shape, "time")


def passed(node: Tensor, inputs: Sequence[Along | None], symbol: str) -> Along:
    """Where an axis is after an operation, of which at least one input has it. Raises Mixes."""
    if node.op == "reshape":
        return _reshape(node, inputs, symbol)
    return _RULES.get(node.op, _alike)(node, inputs)


def _along(node: Tensor, inputs: Sequence[Along | None]) -> Along | None:
    axis = _axis(node.shape)
    if node.op == "variable":
        if axis is not None and (node.variable.role != LOOP or node.shape[axis] != TIME):
            raise Mixes
        return None if axis is None else (axis, 1)
    if node.op == "uniform":
        return None if axis is None else (axis, node.shape[axis] // (BATCH * TIME))
    if all(along is None for along in inputs):
        if axis is None:
            return None
        if node.op != "broadcast":
            raise Mixes
        return axis, ANY
    return passed(node, inputs, "time")


def _one(inputs: Sequence[Along | None]) -> Along:
    """What all inputs that move with time agree on."""
    found = {along for along in inputs if along is not None}
    if len(found) > 1:
        found -= {(axis, ANY) for axis, inner in found if inner != ANY}
    if len(found) != 1:
        raise Mixes
    return found.pop()


def _alike(node: Tensor, inputs: Sequence[Along | None]) -> Along:
    if any(along is not None and x.shape != node.shape for x, along in zip(node.inputs, inputs, strict=True)):
        raise Mixes
    return _one(inputs)


def _reshape(node: Tensor, inputs: Sequence[Along | None], symbol: str) -> Along:
    axis, inner = _one(inputs)
    step = inner * count(node.inputs[0].shape[axis + 1 :])
    place = axis_of(node.shape, symbol)
    if place is None:
        raise Mixes
    try:
        return place, step // count(node.shape[place + 1 :])
    except InvalidValue:
        raise Mixes from None


def _transpose(node: Tensor, inputs: Sequence[Along | None]) -> Along:
    axis, inner = _one(inputs)
    return node.attributes["axes"].index(axis), inner


def _broadcast(node: Tensor, inputs: Sequence[Along | None]) -> Along:
    axis, inner = _one(inputs)
    return axis + node.ndim - node.inputs[0].ndim, inner


def _slice(node: Tensor, inputs: Sequence[Along | None]) -> Along:
    axis, inner = _one(inputs)
    if node.shape[axis] != node.inputs[0].shape[axis]:
        raise Mixes
    return axis, inner


def _concatenate(node: Tensor, inputs: Sequence[Along | None]) -> Along:
    axis, inner = _one(inputs)
    if axis == node.attributes["axis"]:
        raise Mixes
    return axis, inner


def _reduction(node: Tensor, inputs: Sequence[Along | None]) -> Along:
    axis, inner = _one(inputs)
    axes = node.attributes["axes"] if "axes" in node.attributes else (node.inputs[0].ndim - 1,)
    if axis in axes:
        raise Mixes
    return axis - sum(i < axis for i in axes), inner


def _matmul(node: Tensor, inputs: Sequence[Along | None]) -> Along:
    left, right = inputs
    rows, columns = node.ndim - 2, node.ndim - 1
    if (left is not None and left[0] == columns) or (right is not None and right[0] == rows):
        raise Mixes  # a sum over steps
    return _one(inputs)


def _gather(node: Tensor, inputs: Sequence[Along | None]) -> Along:
    table, rows = inputs
    if table is not None and table[0] == 0:
        raise Mixes
    return _one([table and (table[0] - 1 + node.inputs[1].ndim, table[1]), rows])


def _refused(node: Tensor, inputs: Sequence[Along | None]) -> Along:
    raise Mixes


_RULES: Mapping[str, Rule] = {
    "transpose": _transpose,
    "broadcast": _broadcast,
    "slice": _slice,
    "pad": _slice,
    "concatenate": _concatenate,
    "sum": _reduction,
    "amax": _reduction,
    "argmax": _reduction,
    "matmul": _matmul,
    "gather": _gather,
    "scatter_add": _refused,
    "scan": _refused,
    "result": _refused,
}
