"""Fewer layers that predict the same: N regressions in a row are one regression.

(x W1 + B1) W2 + B2 = x (W1 W2) + (B1 W2 + B2). Batch normalization is such a map too once it is trained, with a diagonal
matrix; dropout predicts what it is given. Which neighbours are put together is chosen so that the weights take the fewest
bytes: a narrow layer between two wide ones stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import numpy as np

from .graph import Spelling, Tensor, apply, leaf
from .layers import Activation, BatchNormalization, Dense, Dropout, Flatten, Layer, Reshape
from .layers.activation import linear
from .layers.call import Call, flattened, mapped
from .model import Model
from .recurrence import Feedback, Start, needed
from .sequential import Sequential
from .specs import DTYPES, Shape
from .tables import bytes_written
from .topology import Input

if TYPE_CHECKING:
    from .parameter import Parameter

Array = np.ndarray[Any, Any]
L = TypeVar("L", bound=Layer)


@dataclass(frozen=True)
class Folded:
    """Layers that became one, or none (`into` is "" for those that only vanished), and the bytes of their weights."""

    layers: tuple[str, ...]
    into: str
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        names = " + ".join(self.layers)
        sizes = f"{bytes_written(self.bytes_before)} of weights before, {bytes_written(self.bytes_after)} after"
        return f"{names} → {self.into}: {sizes}" if self.into else f"{names} predicts what it is given: left out"


@dataclass(frozen=True)
class _Affine:
    """x ↦ x · matrix + shift on the last axis; a diagonal matrix is a vector. The layers it stands for, in order."""

    matrix: Array
    shift: Array | None
    layers: tuple[Layer, ...]
    left_out: tuple[str, ...] = ()

    @property
    def diagonal(self) -> bool:
        return self.matrix.ndim == 1

    def then(self, other: _Affine) -> _Affine:
        a, b = self.matrix, other.matrix
        if self.diagonal:
            matrix = a * b if other.diagonal else a[:, None] * b
        else:
            matrix = a * b if other.diagonal else a @ b
        moved = None if self.shift is None else self.shift * b if other.diagonal else self.shift @ b
        shift = other.shift if moved is None else moved if other.shift is None else moved + other.shift
        return _Affine(matrix, shift, self.layers + other.layers, self.left_out + other.left_out)


def _is(layer: Layer, kind: type[L]) -> TypeGuard[L]:
    """Whether a layer computes what this kind does: a subclass may have a forward of its own."""
    return isinstance(layer, kind) and type(layer).forward is kind.forward


def _affine(layer: Layer) -> _Affine | None:
    """What a layer does to its input before its activation, if that is linear."""
    if _is(layer, Dense):
        return _Affine(_wide(layer.kernel), None if layer.bias is None else _wide(layer.bias), (layer,))
    if _is(layer, BatchNormalization):
        scale = 1.0 / np.sqrt(_wide(layer.moving_variance) + layer.epsilon)
        scale = scale if layer.gamma is None else scale * _wide(layer.gamma)
        shift = -_wide(layer.moving_mean) * scale
        return _Affine(scale, shift if layer.beta is None else shift + _wide(layer.beta), (layer,))
    return None


def _wide(weight: Parameter) -> Array:
    return weight.numpy().astype(np.float64)


def _is_identity(layer: Layer, shapes: tuple[Shape, Shape]) -> bool:
    if _is(layer, Activation):
        return layer.activation is linear
    return _is(layer, Dropout) or ((_is(layer, Flatten) or _is(layer, Reshape)) and shapes[0] == shapes[1])


def _ends(layer: Layer) -> bool:
    """Whether an activation follows, so that nothing after it folds into it."""
    return isinstance(layer, Dense) and layer.activation is not linear


def _weight_bytes(layers: Sequence[Layer]) -> int:
    return sum(weight.size * DTYPES[weight.dtype] for layer in layers for weight in layer.weights)


def _numbers(run: Sequence[_Affine]) -> int:
    """How many weights one layer for all of these has."""
    if len(run) == 1:
        return sum(weight.size for layer in run[0].layers for weight in layer.weights)
    if all(each.diagonal for each in run):
        return 4 * len(run[0].matrix)
    rows, columns = int(run[0].matrix.shape[0]), int(run[-1].matrix.shape[-1])
    return rows * columns + columns * any(each.shift is not None for each in run)


def _partition(run: Sequence[_Affine]) -> list[list[_Affine]]:
    """The run cut into pieces that become one layer each, with the fewest weights in all, then the fewest layers."""
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # weights, layers, and where the last piece begins
    for end in range(1, len(run) + 1):
        options = [
            (best[start][0] + _numbers(run[start:end]), best[start][1] + 1, start) for start in range(max(0, end - 64), end)
        ]
        best.append(min(options))
    cuts, end = [], len(run)
    while end:
        cuts.append(list(run[best[end][2] : end]))
        end = best[end][2]
    return cuts[::-1]


class _Simplifier:
    """One for a model and all models in it: a layer that several of them use stays one layer."""

    def __init__(self, model: Model) -> None:
        self.uses = _uses(model)
        self.folded: list[Folded] = []
        self.copies: dict[int, Layer] = {}
        self.taken: set[str] = set()

    def model(self, model: Model) -> Model:
        """A new model that predicts the same."""
        sources, records = model.records()
        already = len(self.folded)
        with model.lock:
            if isinstance(model, Sequential):
                made: Model = _stacked(model, [record for record in records if isinstance(record, Call)], self)
            else:
                made = _connected(model, sources, records, self)
        made.folded = tuple(self.folded[already:])
        made.epochs_trained = model.epochs_trained
        model.compile_like(made)
        return made.to(model.device)

    def stack(self, layers: Sequence[tuple[Layer, tuple[Shape, Shape]]]) -> list[tuple[Layer, list[Array]]]:
        """New layers, with their weights, that do in a row what these do in a row."""
        out: list[tuple[Layer, list[Array]]] = []
        run: list[_Affine] = []

        def close() -> None:
            for piece in _partition(run):
                made = self._one(piece) if len(piece) > 1 else None
                out.extend([made] if made is not None else [self.copy(each.layers[0]) for each in piece])
            run.clear()

        for layer, shapes in layers:
            if _is_identity(layer, shapes):
                self.folded.append(Folded((layer.name,), "", 0, 0))
                continue
            affine = _affine(layer) if self.uses[id(layer)] == 1 else None
            if affine is None:
                close()
                out.append(self.copy(layer))
                continue
            run.append(affine)
            if _ends(layer):
                close()
        close()
        return out

    def _one(self, piece: Sequence[_Affine]) -> tuple[Layer, list[Array]] | None:
        """One layer for all of these; None where its weights would be too large for their dtype."""
        whole = piece[0]
        with np.errstate(over="ignore", invalid="ignore"):
            for each in piece[1:]:
                whole = whole.then(each)
            if not all(
                np.isfinite(a.astype(whole.layers[-1].dtype)).all() for a in (whole.matrix, whole.shift) if a is not None
            ):
                return None
        last = next((layer for layer in reversed(whole.layers) if isinstance(layer, Dense)), whole.layers[-1])
        made: Layer
        if isinstance(last, Dense):
            end = whole.layers[-1]
            active = end.activation if isinstance(end, Dense) else linear
            made = Dense(last.units, active, use_bias=whole.shift is not None, name=last.name)
            weights = [whole.matrix] + ([whole.shift] if whole.shift is not None else [])
        else:
            assert isinstance(last, BatchNormalization)
            made = BatchNormalization(epsilon=last.epsilon, name=last.name)
            still = np.zeros_like(whole.matrix)
            shift = still if whole.shift is None else whole.shift
            weights = [whole.matrix, shift, still, still + (1.0 - last.epsilon)]
        made.dtype = last.dtype
        nbytes = sum(array.size for array in weights) * DTYPES[last.dtype]
        names = tuple(layer.name for layer in whole.layers)
        self.folded.append(Folded(names, made.name, _weight_bytes(whole.layers), nbytes))
        return made, weights

    def copy(self, layer: Layer) -> tuple[Layer, list[Array]]:
        """A layer of its own with the same weights; the same one for every use."""
        weights = [weight.numpy() for weight in layer.weights]
        if id(layer) not in self.copies:
            if isinstance(layer, Model):
                self.copies[id(layer)] = self.model(layer)
            else:
                copy = type(layer).from_config(layer.get_config())
                copy.dtype = layer.dtype
                copy.trainable = layer.trainable
                self.copies[id(layer)] = copy
        copy = self.copies[id(layer)]
        return copy, [weight.numpy() for weight in copy.weights] if isinstance(copy, Model) else weights


def _shapes(call: Call) -> tuple[Shape, Shape]:
    (before,) = flattened(list(call.inputs))
    return before.shape, call.outputs[0].shape


def simplified(model: Model) -> Model:
    """A new model with as few layers and weights as predict the same."""
    model.require_built()
    return _Simplifier(model).model(model)


def _uses(model: Model) -> Counter[int]:
    """How many calls there are of each layer, in this model and in each of those in it."""
    uses: Counter[int] = Counter()
    models = {id(model): model}
    waiting = [model]
    while waiting:
        _, records = waiting.pop().records()
        for record in records:
            if isinstance(record, Call):
                uses[id(record.layer)] += 1
                if isinstance(record.layer, Model) and id(record.layer) not in models:
                    models[id(record.layer)] = record.layer
                    waiting.append(record.layer)
    return uses


def _give(layer: Layer, arrays: Sequence[Array]) -> None:
    for weight, values in zip(layer.weights, arrays, strict=True):
        weight.assign(values)


def _stacked(model: Sequential, calls: Sequence[Call], work: _Simplifier) -> Sequential:
    made = Sequential(name=model.name, dtype=model.dtype)
    made.add(Input(model.inputs[0].shape[1:], model.inputs[0].dtype))
    for layer, arrays in work.stack([(call.layer, _shapes(call)) for call in calls]) or [(Activation(None), [])]:
        again = layer.built
        made.add(layer)
        if not again:
            _give(layer, arrays)
    return made


def _connected(model: Model, sources: Sequence[Tensor], records: Sequence[Call | Tensor], work: _Simplifier) -> Model:
    readers: Counter[int] = Counter(id(x) for x in model.outputs)
    for record in records:
        before = flattened(list(record.inputs)) if isinstance(record, Call) else list(record.inputs)
        readers.update(map(id, before))
    late = _feedbacks(records)
    readers.update(id(x) for each in late for x in needed(each))
    giver = {id(x): record for record in records if isinstance(record, Call) for x in record.outputs}
    now: dict[int, Tensor] = {}
    learnt: dict[int, Tensor] = {}
    for x in sources:
        now[id(x)] = Input(x.shape[1:], x.dtype, x.variable.name)

    def current(x: Tensor) -> Tensor:
        if isinstance(x, Feedback) and id(x) not in now:
            now[id(x)] = _again(x, current, learnt)
        origin = x.variable.origin if x.op == "variable" else None
        return now.get(id(x), x if origin is None else leaf(origin))

    def continues(call: Call) -> bool:
        """Whether this call can follow the one that gives its input within one stack."""
        given = flattened(list(call.inputs))
        before = giver.get(id(given[0])) if len(given) == 1 else None
        return before is not None and readers[id(given[0])] == 1 and len(before.outputs) == 1 and _simple(before)

    follows = {}
    for record in records:
        if isinstance(record, Call) and _simple(record) and continues(record):
            follows[id(giver[id(flattened(list(record.inputs))[0])])] = record
    followers = {id(call) for call in follows.values()}
    for record in records:
        if not isinstance(record, Call):
            again = apply(record.op, *map(current, record.inputs), **record.attributes)
            if record.spelling is not None:
                again.spelling = Spelling(record.spelling.name, tuple(map(current, record.spelling.inputs)))
            now[id(record)] = again
        elif isinstance(record.layer, Start):
            continue  # made anew with its feedback
        elif not _simple(record):
            layer, arrays = work.copy(record.layer)
            built = layer.built
            outputs = flattened(layer(*[mapped(x, current) for x in record.inputs]))
            if not built:
                _give(layer, arrays)
            now.update((id(x), value) for x, value in zip(record.outputs, outputs, strict=True))
        elif id(record) not in followers:
            chain = [record]
            while id(chain[-1]) in follows:
                chain.append(follows[id(chain[-1])])
            value = current(flattened(list(record.inputs))[0])
            for layer, arrays in work.stack([(call.layer, _shapes(call)) for call in chain]):
                built = layer.built
                value = layer(value)
                if not built:
                    _give(layer, arrays)
            now[id(chain[-1].outputs[0])] = value
    for each in late:
        assert each.connected is not None
        fresh = current(each)
        assert isinstance(fresh, Feedback)
        fresh.connect(current(each.connected))
    return Model(
        *model.given_as([now[id(x)] for x in sources], [current(x) for x in model.outputs]), steps=model.steps, name=model.name
    )


def _feedbacks(records: Sequence[Call | Tensor]) -> list[Feedback]:
    """Every feedback that something reads."""
    found: dict[int, Feedback] = {}
    stack = [x for record in records for x in (flattened(list(record.inputs)) if isinstance(record, Call) else record.inputs)]
    while stack:
        x = stack.pop()
        if isinstance(x, Feedback) and id(x) not in found:
            found[id(x)] = x
            stack += needed(x)
    return list(found.values())


def _again(x: Feedback, current: Callable[[Tensor], Tensor], learnt: dict[int, Tensor]) -> Feedback:
    """A feedback like this one, to be connected anew. learnt: what feedbacks that share it start from, by what it was."""
    start = x.initial_state
    layer = start.call.layer if start is not None and start.call is not None else None
    known = None if start is None else learnt.get(id(start))
    made = Feedback(
        x.shape[2:],
        known if known is not None else "learnt" if isinstance(layer, Start) else None if start is None else current(start),
        mask=None if x.mask is None else current(x.mask),
        truncate=x.truncate or None,
        recompute=x.recompute,
        dtype=x.dtype,
        name=x.variable.name,
    )
    if isinstance(layer, Start) and known is None:
        assert made.initial_state is not None
        learnt[id(start)] = made.initial_state
        made.initial_state.call.layer.initial_state.assign(layer.initial_state.numpy())
    return made


def _simple(call: Call) -> bool:
    """One tensor in, one out."""
    return len(call.inputs) == 1 and isinstance(call.inputs[0], Tensor) and len(call.outputs) == 1


def report(folded: Sequence[Folded]) -> str:
    """What was folded, as text."""
    if not folded:
        return "nothing to fold: no two linear layers of this model stand in a row that would take fewer weights as one"
    return "\n".join(map(str, folded))
