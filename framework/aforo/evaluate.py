"""Tensors in a notebook: the same path from graph to numbers, on small graphs.

An expression is only a graph until someone looks at it. Then it is planned and run as a program, which is kept (a bounded
number of them are) for the next expression of the same structure; the values it starts from are copied in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from sys import getrefcount
from threading import RLock
from typing import Any

import numpy as np

from . import device as devices
from .errors import InvalidType, InvalidValue, explain
from .gradient import gradient
from .graph import PARAMETERS, PRIMITIVES, SCAN, TENSOR, Graph, Place, Tensor, Variable, ancestors, rebuilt
from .ops.operands import stored_as
from .parameter import Leaf
from .program import Program, Workspace
from .settings import strict
from .specs import FLOATS, INTEGERS, Dim, as_dtype, written

_KEPT_PROGRAMS = 32
_programs: OrderedDict[Any, tuple[Program, list[Variable], Workspace]] = OrderedDict()
_lock = RLock()


@strict
def tensor(data: Any, dtype: Any = None, device: Any = "cpu") -> Leaf:
    """A tensor with the numbers of an array, a list or a number. Fractions are stored as float32 unless a dtype is given.

    t -= 0.1 * g changes it in place; t = t - 0.1 * g is a new tensor, which knows how it came about, for derivatives.
    """
    if isinstance(data, Tensor):
        data = data.numpy()
    try:
        array = np.asarray(data)
    except ValueError:
        raise InvalidValue(explain("the rows of this tensor differ in length.", expected="rows of one length")) from None
    if array.dtype.kind not in "fiub":
        raise InvalidType(explain("a tensor holds numbers.", received=f"an array of {array.dtype}"))
    if not array.size:
        raise InvalidValue(explain("a tensor holds at least one value.", received=f"shape {array.shape}"))
    usual = "float32" if array.dtype.kind == "f" else stored_as(array.dtype)
    target = devices.device(device)
    kind = usual if dtype is None else as_dtype(dtype)
    if array.dtype.kind in "iu" and kind in INTEGERS and int(array.max()) > np.iinfo(kind).max:
        raise InvalidValue(explain(f"a tensor of {kind} cannot hold these numbers.", received=int(array.max())))
    if array.dtype.kind == "f" and kind == "float32" and not (np.abs(array[np.isfinite(array)]) <= np.finfo(kind).max).all():
        raise InvalidValue(
            explain(
                "a tensor of float32 cannot hold these numbers.",
                expected=f"magnitudes up to {np.finfo(kind).max:.3g}",
                received=float(np.abs(array[np.isfinite(array)]).max()),
                fix='af.tensor(array, dtype="float64")',
            )
        )
    variable = Variable("tensor", array.shape, kind, TENSOR, lambda: array.astype(kind))
    devices.materialise(variable, {}, target)
    variable.initial = None
    return Leaf(variable)


_CPU, _CUDA, _PINNED = 1, 2, 3  # kinds of devices in DLPack


def from_dlpack(array: Any) -> Leaf:
    """A tensor with a copy of what another library has, where it is: on the CPU, or on a CUDA device.

    array: an object with `__dlpack__`, e.g. of PyTorch, CuPy or JAX; float32, float64, int32, int64 or bool.
    """
    if isinstance(array, Tensor):
        return tensor(array.numpy(), array.dtype, array.device)
    if not hasattr(array, "__dlpack__") or not hasattr(array, "__dlpack_device__"):
        raise InvalidType(
            explain(
                "this array cannot be taken over.",
                expected="an object with __dlpack__",
                received=type(array).__name__,
                fix="af.tensor(array)",
            )
        )
    try:
        kind, index = array.__dlpack_device__()
        host = np.from_dlpack(array) if kind in (_CPU, _PINNED) else None
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise _not_taken(array, error) from None
    if host is not None:
        return tensor(host, str(host.dtype))
    if kind != _CUDA:
        raise InvalidValue(
            explain(
                "this array is on a device that Aforo does not know.",
                expected="DLPack's device 1 (CPU) or 2 (CUDA)",
                received=f"device {int(kind)}",
                fix="move it to the CPU first",
            )
        )
    target = devices.device(f"cuda:{index}")
    variable = Variable("tensor", tuple(array.shape), as_dtype(str(array.dtype).rpartition(".")[2]), TENSOR)
    devices.materialise(variable, {}, target)
    try:
        target.backend.adopt(devices.contents(variable), array)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise _not_taken(array, error) from None
    return Leaf(variable)


def _not_taken(array: Any, error: Exception) -> InvalidValue:
    return InvalidValue(
        explain(
            f"this array does not let itself be taken over: {error}",
            expected="numbers of a dtype that Aforo has, and no gradients attached",
            received=f"{type(array).__name__} of {getattr(array, 'dtype', 'an unknown dtype')}",
            fix="af.from_dlpack(x.detach().float()), for a PyTorch tensor",
        )
    )


def evaluate(tensors: Sequence[Tensor]) -> None:
    """Compute these tensors, all in one program, and remember their values, and those of what is held on the way to them."""
    with _lock:
        missing = [x for x in {id(x): x for x in tensors}.values() if x.value is None and x.op != "variable"]
        if not missing:
            return
        nodes = _unknown(missing)
        missing += _held(nodes, missing)
        leaves, key = _structure(nodes, missing)
        target, free = _common_device(leaves)
        found = _programs.get((key, target.name))
        if found is None:
            found = _programs[key, target.name] = _compiled(missing, nodes, leaves, target)
            if len(_programs) > _KEPT_PROGRAMS:
                _programs.popitem(last=False)
        _programs.move_to_end((key, target.name))
        program, slots, _ = found
        for slot, held in zip(slots, leaves, strict=True):
            if held.device is target:
                target.backend.copy(devices.contents(slot), devices.contents(held))
            else:
                target.backend.copy_in(devices.contents(slot), devices.read(held))
        program.run()
        for i, x in enumerate(missing):
            value = Variable("value", x.shape, x.dtype, TENSOR)
            value.anywhere = free
            devices.materialise(value, {}, target)
            target.backend.copy(devices.contents(value), program.outputs[str(i)])
            x.value = value


def _start(node: Tensor) -> Variable | None:
    """The variable that holds a node's value already."""
    if node.value is not None:
        return node.value
    if node.op != "variable":
        return None
    variable = node.variable
    return variable.source or variable


def _unknown(wanted: Sequence[Tensor]) -> list[Tensor]:
    """What these are computed from, back to values that are there, inputs first."""
    found: dict[int, Tensor] = {id(x): x for x in wanted}
    stack = list(wanted)
    while stack:
        node = stack.pop()
        for x in node.inputs if _start(node) is None else ():
            if id(x) not in found:
                found[id(x)] = x
                stack.append(x)
    return sorted(found.values(), key=lambda node: node.serial)


def _held(nodes: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[Tensor]:
    """Those that somebody else than an expression refers to. Without their values, what is computed from them later would
    start at the beginning again, as would the velocity of a momentum by hand at every step."""
    (alone,) = [getrefcount(x) for x in [object()]]  # what a list and the loop over it refer to
    own = {id(x): alone for x in nodes}
    for node in nodes:
        for x in (*node.inputs, *(node.spelling.inputs if node.spelling is not None else ())):
            if id(x) in own:
                own[id(x)] += 1
    done = {id(x) for x in nodes if x.op == SCAN or _start(x) is not None} | set(map(id, wanted))  # a loop is no value
    return [x for x in nodes if getrefcount(x) > own[id(x)] and id(x) not in done]


def _structure(nodes: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[list[Variable], Any]:
    """The variables that nodes start from, and a key that is equal for expressions of the same structure."""
    index: dict[int, int] = {}
    leaves: dict[int, tuple[int, Variable]] = {}
    key: list[Any] = []
    for i, node in enumerate(nodes):
        index[id(node)] = i
        held = _start(node)
        if held is None:
            attributes = tuple(node.attributes.items()) if node.attributes else ()
            key.append((node.op, tuple([index[id(x)] for x in node.inputs]), attributes))
            continue
        if held.storage is None and (any(isinstance(size, Dim) for size in held.shape) or held.initial is None):
            node.no_value()
        number, _ = leaves.setdefault(id(held), (len(leaves), held))
        key.append((number, held.shape, held.dtype))
    started = [held for _, held in leaves.values()]
    here = next((held.device for held in started if held.storage is not None and not held.anywhere), devices.CPU)
    for held in started:
        if held.storage is None:  # a weight that nobody placed goes where the rest is
            devices.materialise(held, {}, held.device or here)
    return started, (tuple(key), tuple(index[id(x)] for x in wanted))


def _common_device(leaves: Sequence[Variable]) -> tuple[devices.Device, bool]:
    """Where an expression is computed, and whether no device has a part in it: it is then computed on the CPU."""
    bound = [each for each in leaves if not each.anywhere]
    if not bound:
        return devices.CPU, True
    first = next((each for each in bound if each.role == PARAMETERS), bound[0])  # a weight is where its model is
    for other in bound:
        if other.device is not first.device:
            fix = f't.to("{first.device}") for the tensor'
            if first.role == PARAMETERS:
                fix += f', or model.to("{other.device}") before it is used'
            raise InvalidValue(
                explain(
                    "tensors of one expression must be on one device.",
                    received=f"{_named(first)} on {first.device}, {_named(other)} on {other.device}",
                    fix=fix,
                )
            )
    return first.device, False


def _named(variable: Variable) -> str:
    return f"{variable.owner}.{variable.name}" if variable.owner else f"a tensor of shape {variable.shape}"


def _compiled(
    wanted: Sequence[Tensor], nodes: Sequence[Tensor], leaves: Sequence[Variable], target: devices.Device
) -> tuple[Program, list[Variable], Workspace]:
    """A program for this structure, with slots of its own for the values it starts from."""
    slots = {id(held): Variable("slot", held.shape, held.dtype, TENSOR) for held in leaves}
    now: dict[int, Tensor] = {}
    for node in nodes:
        held = _start(node)
        if held is None:
            now[id(node)] = rebuilt(node, tuple(now[id(x)] for x in node.inputs))
        else:
            slot = {"variable": slots[id(held)]}
            now[id(node)] = Tensor(PRIMITIVES["variable"], (), slot, node.shape, node.dtype, Place(), serial=node.serial)
    graph = Graph({str(i): now[id(x)] for i, x in enumerate(wanted)}, {})
    workspace = Workspace(target)
    program = workspace.program("expression", 1, lambda: graph)
    for slot_variable in slots.values():
        devices.materialise(slot_variable, {}, target)
    return program, list(slots.values()), workspace


@strict
def grad(of: Tensor, wrt: Tensor | Sequence[Tensor]) -> Any:
    """d of / d w for each w: tensors of w's shape. `of` is a single number; w may be a weight, a tensor, or an intermediate.

    The results can be differentiated again. One tensor gives one tensor, a list gives a list.
    """
    many = isinstance(wrt, (list, tuple))
    for x in (of, *(wrt if many else [wrt])):
        if not isinstance(x, Tensor):
            raise InvalidType(
                explain(
                    "only tensors have gradients.",
                    expected="what operators, layers and af.ops functions give",
                    received=type(x).__name__,
                    fix="af.tensor(array), and af.ops functions instead of those of NumPy",
                )
            )
    asked: Sequence[Tensor] = wrt if many else [wrt]  # type: ignore[assignment, list-item]
    whole = next((w for w in asked if w.dtype not in FLOATS), None)
    if whole is not None:
        raise InvalidType(
            explain(
                "only floating-point tensors have gradients.",
                expected="float32 or float64",
                received=f"{whole.dtype} of shape {written(whole.shape)}",
                fix='t = af.ops.cast(t, "float32"), and E computed from that',
            )
        )
    of = of.used()
    wanted = [_as_in(of, w) for w in asked]
    found = _gradients(of, wanted)
    evaluate([of, *found, *wanted])  # what is asked for again a step later begins at numbers
    return found if many else found[0]


def _gradients(of: Tensor, wanted: Sequence[Tensor]) -> list[Tensor]:
    """Also of probabilities, where a loss was computed from what is behind them."""
    nodes = _spelled([of], min((w.serial for w in wanted), default=0))
    behind: set[int] = set()
    for node in nodes:
        if node.spelling is not None and node.spelling.source is not None:
            # Leaves are never in front of the logits.
            made = {id(x) for x in ancestors(node.spelling.inputs[-1:]) if x.op != "variable"}
            behind |= made - {id(x) for x in ancestors([node.spelling.source])}
    if not any(id(w) in behind for w in wanted):
        return gradient(of, wanted)
    plain = _written_out(of, nodes)
    return [gradient(plain if id(w) in behind else of, [w])[0] for w in wanted]


def _spelled(wanted: Sequence[Tensor], since: float) -> list[Tensor]:
    """What these are made of, and what that is spelled with where that is plainer; nothing that is older."""
    found: dict[int, Tensor] = {}
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if id(node) not in found and node.serial >= since:
            found[id(node)] = node
            stack += node.inputs
            if node.spelling is not None and node.spelling.plainly is not None:
                stack += node.spelling.inputs
    return sorted(found.values(), key=lambda node: node.serial)


def _written_out(of: Tensor, nodes: Sequence[Tensor]) -> Tensor:
    """The same value, in which what has a plainer way to be computed from what it is spelled with is computed that way."""
    now: dict[int, Tensor] = {}
    for node in nodes:
        inputs = tuple(now.get(id(x), x) for x in node.inputs)
        if node.spelling is not None and node.spelling.plainly is not None:
            now[id(node)] = node.spelling.plainly(*(now.get(id(x), x) for x in node.spelling.inputs))
        elif any(a is not b for a, b in zip(inputs, node.inputs, strict=True)):
            now[id(node)] = Tensor(node.primitive, inputs, node.attributes, node.shape, node.dtype, node.place, node.spelling)
    return now.get(id(of), of)


def _as_in(of: Tensor, w: Tensor) -> Tensor:
    """A weight as `of` knows it: with the value it had when that was written, also if it was assigned another since."""
    if isinstance(w, Leaf):
        known = [x for x in ancestors([of]) if x.op == "variable" and x.variable.origin is w.variable]
        return known[-1] if known else w.used()
    return w


class _Evaluation:
    @staticmethod
    def numpy(x: Tensor) -> np.ndarray[Any, Any]:
        evaluate([x])
        held = _start(x)
        assert held is not None
        if held.storage is None and held.initial is None:
            x.no_value()
        return devices.read(held)

    @staticmethod
    def device(x: Tensor) -> str:
        stack, seen = [x], {id(x)}
        while stack:
            node = stack.pop()
            held = _start(node)
            if held is not None and held.device is not None and not held.anywhere:
                return str(held.device)
            new = [i for i in (node.inputs if held is None else ()) if id(i) not in seen]
            seen.update(map(id, new))
            stack.extend(new)
        return str(devices.CPU)

    @staticmethod
    def export(x: Tensor) -> Any:
        evaluate([x])
        held = _start(x)
        assert held is not None
        if held.storage is None:
            return devices.read(held)
        try:
            return held.device.backend.export(devices.contents(held))
        except BufferError as error:
            raise InvalidValue(
                explain(f"this tensor cannot be handed over: {error}.", received=f"on {held.device}", fix='t.to("cpu")')
            ) from None

    @staticmethod
    def kept(x: Tensor) -> tuple[Any, ...]:
        """What makes a tensor of these numbers again."""
        return tensor, (x.numpy(), x.dtype, x.device)

    @staticmethod
    def to(x: Tensor, device: Any) -> Tensor:
        return tensor(x.numpy(), x.dtype, device)


Tensor.evaluation = _Evaluation()
