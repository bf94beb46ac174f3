"""The lines of a whiteboard: the forward, and the backward derived from the same graph by the primitives' own rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..graph import BATCH, Spelling, Tensor, Variable, ancestors, leaf, tracing
from ..heads import Head
from ..losses import ANY, logits_of
from ..outline import DENSE, Outline, numbered, weight_name
from ..probe import Probe
from ..specs import FLOATS, Shape, count
from . import expression as e
from .expression import Expression, Scalar
from .nodes import Writer, children, factors, see_through

FORWARD, BACKWARD = "forward", "backward"
_LONG = 64  # letters; a longer formula becomes a line of its own


@dataclass(frozen=True)
class Line:
    """name = formula. also: what the name stands for, e.g. δE/δt1 beside δ1. value: what it is computed by."""

    phase: str
    name: str
    formula: Expression
    shape: Shape
    value: Tensor | None = None
    also: str = ""


class Board:
    """one_hot: the rows of a classifier's targets sum to 1."""

    def __init__(self, found: Probe, one_hot: bool = True) -> None:
        self.probe = found
        self.one_hot = one_hot
        self.outline: Outline = found.outline
        model = found.model
        self.weights: dict[int, str] = {}
        numbers = numbered(model.layers)
        for layer in model.layers:
            for weight in layer.weights:
                self.weights.setdefault(id(weight), weight_name(weight, numbers[id(layer)]))
        twice = Counter(self.weights.values())
        seen: Counter[str] = Counter()
        for key, text in self.weights.items():
            if twice[text] > 1:
                seen[text] += 1
                self.weights[key] = f"{text}_{seen[text]}"
        self.writer = Writer(lambda node: self.weights.get(id(node), node.variable.name))
        self.named: dict[int, str] = {}
        self.lines: list[Line] = []
        self.given: dict[int, list[Expression]] = {}  # contributions to a derivative, by what they belong to
        self.tensors: dict[int, Tensor] = {}
        self.losses: list[Tensor] = []
        self.closed: set[int] = set()  # values whose formula is the name of their layer
        trained = {id(weight) for weight in model.trainable_weights}
        roots = [value.tensor for value in self.outline.values if value.tensor is not None]
        starts = [each.start for each in found.late if each.start is not None]
        everything = ancestors([*roots, *found.losses, *found.penalties, *starts])
        self.depends = trained | {id(each.leaf) for each in found.late}
        for node in everything:
            if any(id(x) in self.depends for x in node.inputs):
                self.depends.add(id(node))
        reached = set(map(id, everything))
        self.trained = {id(weight): weight for weight in model.trainable_weights if id(weight) in reached}

    # --- forward ------------------------------------------------------------------------------------------------------

    def _name(self, node: Tensor, text: str) -> None:
        self.named[id(node)] = text
        self.tensors[id(node)] = node
        self.writer.name(node, text)

    def _close_loops(self) -> None:
        """Layers that loop over time are functions of their own on a whiteboard: h1 = GRU(X, W1, …)."""
        layers = {layer.name: layer for layer in self.probe.model.layers}
        for step in self.outline.steps:
            inputs = [self.outline.values[value].tensor for value in step.inputs]
            given = [x for x in inputs if x is not None]
            for value in step.outputs:
                out = self.outline.values[value].tensor
                if out is not None and not step.late and _loops(out, given):
                    out.spelling = Spelling(step.kind, (*given, *layers[step.name].weights))
                    self.closed.add(id(out))

    def forward(self) -> None:
        self._close_loops()
        values = self.outline.values
        for i in self.outline.inputs:
            tensor = values[i].tensor
            assert tensor is not None
            self._name(tensor, values[i].name)
        self._late_values()
        several = len(self.probe.targets) > 1
        for head, target in zip(self.probe.model.heads, self.probe.targets, strict=True):
            self.writer.name(target, f"y_{head.name}" if several else "y")
            if target.op == "variable":
                self.named[id(target)] = self.writer.names[id(target)].text
        wanted = {id(value.tensor): value.name for value in reversed(values) if value.tensor is not None}
        roots = [values[i].tensor for i in self.outline.outputs]
        self._write_down([root for root in roots if root is not None], wanted)
        self._error()

    def _late_values(self) -> None:
        """Values of the step before: they have names before what they are is written."""
        for step in self.outline.steps:
            if step.late:
                late, source = self.outline.values[step.outputs[0]], self.outline.values[step.inputs[0]]
                assert late.tensor is not None
                self._name(late.tensor, late.name)
                parts = [e.name(source.name)]
                if step.start is not None or step.mask is not None:
                    parts.append(e.name("0") if step.start is None else self.writer.write(step.start))
                if step.mask is not None:
                    parts.append(self.writer.write(step.mask))
                line = Line(FORWARD, late.name, e.call("previous", *parts), late.tensor.shape, late.tensor)
                self.lines.append(line)

    def _write_down(self, roots: Sequence[Tensor], wanted: Mapping[int, str]) -> None:
        """A line for each value with a name, and for what is used twice or too long to stand in another line."""
        visible, uses = _visible(roots, self.named)
        helpers = sum(name.startswith("z") for name in self.named.values())
        for node in visible:
            if id(node) in self.named or not node.inputs:
                continue
            text = wanted.get(id(node))
            formula = self.writer.made_of(node)
            if text is None:
                if see_through(node) or not (len(formula.text) > _LONG or (id(node) in self.depends and _apart(node, uses))):
                    continue
                helpers += 1
                text = f"z{helpers}"
            self._name(node, text)
            self.lines.append(Line(FORWARD, text, formula, node.shape, node))

    def _error(self) -> None:
        if self.probe.error is None:
            return
        parts = []
        heads = self.probe.model.heads
        for head, target, loss, i in zip(heads, self.probe.targets, self.probe.losses, self.outline.outputs, strict=True):
            y_pred = self.outline.values[i].tensor
            assert y_pred is not None
            if head.loss.target == ANY:
                loss = _without_repetition(loss)
                self._write_down([loss], {})
                part = self.writer.write(loss)
            else:
                part = e.call(head.loss.name, self.writer.write(target), self.writer.write(y_pred))
            self.losses.append(loss)
            parts.append(e.scaled(Scalar(head.weight), part))
        for penalty in self.probe.penalties:
            self._write_down([penalty], {})
            parts.append(self.writer.write(penalty))
        self.lines.append(Line(FORWARD, "E", e.total(parts), (), self.probe.error))

    # --- backward -----------------------------------------------------------------------------------------------------

    def backward(self) -> None:
        self._start()
        for each in self.probe.late:
            later = e.name(f"δE/δ{self.named[id(each.leaf)]}")
            how = [self.writer.write(each.mask)] if each.mask is not None else []
            how += [e.name(str(each.cut))] if each.cut else []
            self._send(each.source, e.call("next", later, *how))
            if each.start is not None:
                self._send(each.start, e.summed("Σ", e.call("first", later, *how)))
        linear = {
            self.outline.values[step.outputs[0]].name: step.weights[0][0].removeprefix("W")
            for step in self.outline.steps
            if step.links == DENSE and step.weights
        }
        once = Counter(linear.values())
        read, order = self._read(), {key: number for number, key in enumerate(self.trained)}
        waiting = Counter(key for keys in read.values() for key in keys)
        waiting.update({key: 1 for key in self.trained if key not in waiting})
        for node in sorted((self.tensors[key] for key in self.named if key in self.tensors), key=lambda t: -t.serial):
            parts = self.given.get(id(node))
            if not parts or id(node) not in self.depends:
                continue
            text = self.named[id(node)]
            slope = f"δE/δ{text}"
            number = linear.get(text)
            short = f"δ{number}" if number and once[number] == 1 else slope
            formula = e.total(parts)
            also = slope if slope not in (short, formula.text) else ""
            self.lines.append(Line(BACKWARD, short, formula, node.shape, node, also))
            self._pull(node, e.name(short))
            for key in sorted(set(read.get(id(node), ())) & self.trained.keys(), key=order.__getitem__):
                waiting[key] -= 1
                if not waiting[key]:
                    self._weight_line(self.trained[key])
        for key, weight in self.trained.items():
            if waiting[key]:  # also a line that no derivative passes, or a penalty, reads it
                self._weight_line(weight)

    def _weight_line(self, weight: Tensor) -> None:
        parts = self.given.get(id(weight))
        if parts:
            name = f"δE/δ{self.weights[id(weight)]}"
            self.lines.append(Line(BACKWARD, name, e.total(parts), weight.shape, weight))

    def _read(self) -> dict[int, list[int]]:
        """The weights and other leaves that the formula of each line mentions."""
        found: dict[int, list[int]] = {}
        for line in self.lines:
            if line.value is None or line.name == "E":
                continue
            stack, seen = list(children(line.value)), set()
            while stack:
                node = stack.pop()
                if id(node) in seen or id(node) in self.named:
                    continue
                seen.add(id(node))
                if node.op == "variable":
                    found.setdefault(id(line.value), []).append(id(node))
                stack += children(node)
        return found

    def _start(self) -> None:
        heads = self.probe.model.heads
        if self.probe.error is None:
            for i in self.outline.outputs:
                tensor = self.outline.values[i].tensor
                assert tensor is not None
                self._send(tensor, e.name(f"δE/δ{self.outline.values[i].name}"))
        for head, target, loss, i in zip(heads, self.probe.targets, self.losses, self.outline.outputs, strict=False):
            y_pred = self.outline.values[i].tensor
            assert y_pred is not None
            self._start_head(head, target, loss, y_pred)
        for penalty in self.probe.penalties:
            self._pull(penalty, e.number(1.0))

    def _start_head(self, head: Head, target: Tensor, loss: Tensor, y_pred: Tensor) -> None:
        y, n = self.writer.write(target), self.writer.write(y_pred)
        share = Scalar(head.weight)
        each = share * Scalar(1.0, (), factors(count(y_pred.shape)))
        row = share * Scalar(1.0, (), factors(count(y_pred.shape[:-1])))
        name = head.loss.name
        softmax, sigmoid = logits_of(y_pred, "softmax"), logits_of(y_pred, "sigmoid")
        if name == "mse":
            self._send(y_pred, e.scaled(each * Scalar(2.0), e.minus(n, y)))
        elif name == "mae":
            self._send(y_pred, e.scaled(each, e.call("sign", e.minus(n, y))))
        elif name == "huber":
            self._send(y_pred, e.scaled(each, e.call("clip", e.minus(n, y), e.number(-1.0), e.number(1.0))))
        elif name == "categorical_crossentropy" and softmax is not None:
            held = n if self.one_hot else e.times(n, e.summed("Σⱼ", y))
            self._send(softmax, e.scaled(row, e.minus(held, y)))
        elif name == "sparse_categorical_crossentropy" and softmax is not None:
            self._send(softmax, e.scaled(row, e.minus(n, e.call("onehot", y))))
        elif name == "binary_crossentropy" and sigmoid is not None:
            self._send(sigmoid, e.scaled(each, e.minus(n, y)))
        else:
            self._pull(loss, e.scaled(share, e.number(1.0)))

    def _send(self, x: Tensor, slope: Expression) -> None:
        """A contribution to the derivative by x."""
        if id(x) not in self.depends or e.is_zero(slope):
            return
        if id(x) in self.named or x.op == "variable":
            self.given.setdefault(id(x), []).append(slope)
        else:
            self._pull(x, slope)

    def _pull(self, node: Tensor, slope: Expression) -> None:
        """What the derivative by a node contributes to those by its inputs: the rule of its primitive, written down."""
        if id(node) in self.closed and node.spelling is not None:
            for x in node.spelling.inputs:
                self._send(x, e.call(f"{node.spelling.name}′", e.name(f"δ{self.writer.write(x).text}"), slope))
            return
        if node.spelling is not None and node.spelling.name in ("softmax", "log_softmax"):
            y, x = self.writer.write(node), node.spelling.inputs[0]
            if node.spelling.name == "softmax":
                self._send(x, e.times(y, e.minus(slope, e.summed("Σⱼ", e.times(slope, y)))))
            else:
                self._send(x, e.minus(slope, e.times(e.call("exp", y), e.summed("Σⱼ", slope))))
            return
        rule = node.primitive.gradient
        if rule is None or not node.inputs:
            return
        with tracing():
            g = leaf(Variable("g", node.shape, node.dtype, BATCH))
            self.writer.name(g, slope)
            for x, gx in zip(node.inputs, rule(node, g), strict=True):
                if gx is not None and id(x) in self.depends and x.dtype in FLOATS:
                    self._send(x, self.writer.write(gx))


def _loops(out: Tensor, given: Sequence[Tensor]) -> bool:
    """Whether a loop over time lies between a value and what its layer was given."""
    seen, stack = {id(x) for x in given}, [out]
    while stack:
        node = stack.pop()
        if node.op == "scan":
            return True
        new = [x for x in node.inputs if id(x) not in seen]
        seen.update(map(id, new))
        stack += new
    return False


def _apart(node: Tensor, uses: Counter[int]) -> bool:
    """Whether a value without a name of its own should get one: it is used twice, or its derivative is long."""
    linear = node.op == "add" and any(x.op == "matmul" for x in node.inputs)
    return node.dtype in FLOATS and (uses[id(node)] > 1 or node.op == "reciprocal" or linear)


def _visible(roots: Sequence[Tensor], named: Mapping[int, str]) -> tuple[list[Tensor], Counter[int]]:
    """The nodes that formulas mention, in order, and how often each is mentioned."""
    found, uses, stack = {id(x): x for x in roots}, Counter[int](), list(roots)
    while stack:
        node = stack.pop()
        if id(node) in named:
            continue
        for x in children(node):
            uses[id(x)] += 1
            if id(x) not in found:
                found[id(x)] = x
                stack.append(x)
    return sorted(found.values(), key=lambda node: node.serial), uses


def _without_repetition(loss: Tensor) -> Tensor:
    """The single number a custom loss gave, behind the mean over a batch that repeats it."""
    for x in (loss, *loss.inputs):
        inner = x.inputs[0] if x.op == "sum" else None
        if inner is not None and inner.op == "broadcast" and not inner.inputs[0].shape:
            return inner.inputs[0]
    return loss
