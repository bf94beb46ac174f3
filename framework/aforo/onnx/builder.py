"""An ONNX graph in the making."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import device as devices
from ..errors import InvalidValue, explain
from ..graph import BATCH, RESULT, Tensor, Variable
from ..ops.elementwise import broadcast_shapes
from ..specs import Dim, Shape, Size, written
from .rules import LOOSE, REASONS, RULES

Array = np.ndarray[Any, Any]


class Builder:
    """Takes the nodes of a prediction in order, and translates each. Rules make ONNX nodes through it; values are names."""

    def __init__(
        self,
        onnx: Any,
        inputs: Sequence[Variable],
        outputs: Mapping[str, Tensor],
        weight_names: Mapping[Variable, str],
        fixed: Mapping[str, int],
    ) -> None:
        self.onnx = onnx
        self.inputs = inputs
        self.weight_names = weight_names
        self.fixed = fixed  # symbolic sizes that are known all the same
        self.nodes: list[Any] = []
        self.initializers: dict[str, Array] = {}
        self.values: dict[int, str] = {}
        self.taken = {*(each.name for each in inputs), *outputs}
        self.wished: dict[int, str] = {}  # nodes that are outputs, and the first name that each is given
        for name, node in outputs.items():
            self.wished.setdefault(id(node), name)
        self.numbers: dict[Any, str] = {}
        self.sizes: dict[Size, str] = {}
        self.asked: dict[int, dict[tuple[str, int], str]] = {}  # what is read of each loop, and the name it has
        self.captured: dict[str, set[str]] = {}  # what the body of a loop reads from outside, by the name of the loop
        self.where = ""

    # --- what rules use -----------------------------------------------------------------------------------------------

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A new ONNX node; the name of its output."""
        name = self._free(f"{self.where}{op}")
        self.nodes.append(self.onnx.helper.make_node(op, [*inputs], [name], name=name, **attributes))
        return name

    def number(self, values: Any, dtype: str) -> str:
        """Numbers that are known now."""
        array = np.asarray(values, dtype)
        key = array.tobytes(), array.shape, dtype
        if key not in self.numbers:
            self.numbers[key] = self._keep("constant", array)
        return self.numbers[key]

    def size(self, size: Size) -> str:
        """A size as an int64 array of one value, computed from the shapes of the inputs where it is symbolic."""
        size = self._known(size)
        if not isinstance(size, Dim):
            return self.number([size], "int64")
        if size not in self.sizes:
            terms = [self._term(symbols, factor) for symbols, factor in size.terms.items()]
            self.sizes[size] = self._folded("Add", terms)
        return self.sizes[size]

    def shape(self, sizes: Shape, one_left_out: bool = False) -> str:
        """Sizes as an int64 vector. one_left_out: a symbolic one may be -1, as in a reshape."""
        sizes = tuple(map(self._known, sizes))
        symbolic = [i for i, size in enumerate(sizes) if isinstance(size, Dim)]
        if not symbolic:
            return self.number(np.array(sizes, "int64"), "int64")
        if one_left_out and len(symbolic) == 1:
            return self.number([-1 if isinstance(size, Dim) else size for size in sizes], "int64")
        parts = [self.size(size) for size in sizes]
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=0)

    def cast(self, value: str, dtype: str) -> str:
        return self.add("Cast", value, to=self.kind(dtype))

    def kind(self, dtype: str) -> int:
        """ONNX's number for a dtype."""
        kind: int = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return kind

    def loop(self, node: Tensor, inputs: Sequence[str]) -> str:
        """A loop over time as ONNX's Scan, whose body reads what is the same at every step from outside."""
        body, length, a = node.attributes["body"], node.attributes["length"], node.attributes
        along, starts = len(body.sequences), len(body.states)
        outer, sizes, where = self.nodes, self.sizes, self.where
        walked = list(inputs[:along]) or [self.add("Expand", self.number(0, "int64"), self.size(length))]
        label = self._free(f"{where}Scan")
        given = [self._free(f"{label}/{x.variable.name}") for x in (*body.states, *body.sequences)]
        infos = [self._info(n, x.shape, x.dtype) for n, x in zip(given, (*body.states, *body.sequences), strict=True)]
        if not along:
            infos.append(self._info(self._free(f"{label}/step"), (), "int64"))
        for x, name in zip((*body.states, *body.sequences, *body.invariants), [*given, *inputs[along + starts :]], strict=True):
            self.values[id(x)] = name
        self.nodes, self.sizes = [], dict(sizes)
        self.translate_all([x for x in body.nodes if id(x) not in {id(leaf) for leaf in body.leaves}])
        self.where = f"{label}/"
        asked = self.asked.get(id(node), {})
        read = [number for kind, number in asked if kind == "each"]
        after = [*body.nexts, *(body.nodes[number] for number in read)]
        results = [self.add("Identity", self.values[id(x)]) for x in after]
        made = [self._info(n, x.shape, x.dtype) for n, x in zip(results, after, strict=True)]
        inside = self._needed(results)
        graph = self.onnx.helper.make_graph(inside, label, infos, made)
        self.nodes, self.sizes, self.where = outer, sizes, where
        outputs = [self._free(f"{label}/output") for _ in after]
        names = {("last", i): name for i, name in enumerate(outputs[:starts])}
        names |= {("each", number): name for number, name in zip(read, outputs[starts:], strict=True)}
        self.asked[id(node)] = {key: names[key] for key in asked}
        self.captured[label] = {name for each in inside for name in self._reads(each)}
        directions = {"scan_input_directions": [1] * len(walked)} if a["reverse"] else {}
        directions |= {"scan_output_directions": [1] * len(read)} if a["reverse"] and read else {}
        self.nodes.append(
            self.onnx.helper.make_node(
                "Scan",
                [*inputs[along : along + starts], *walked],
                outputs,
                name=label,
                body=graph,
                num_scan_inputs=len(walked),
                **directions,
            )
        )
        return ""

    # --- nodes --------------------------------------------------------------------------------------------------------

    def translate_all(self, nodes: Sequence[Tensor]) -> None:
        """Put nodes of Aforo's graph into this one, in their order."""
        for node in nodes:
            if node.op == RESULT:
                key = node.attributes["kind"], node.attributes["number"]
                self.asked.setdefault(id(node.inputs[0]), {})[key] = ""
        for node in nodes:
            self.translate(node)

    def translate(self, node: Tensor) -> None:
        """Put a node of Aforo's graph into this one. Raises for one that has no translation."""
        if node.op not in RULES:
            reason, fix = REASONS.get(node.op, ("no rule says how", "model.predict(x) runs it here"))
            layer = f" of layer {node.place.layer!r}" if node.place.layer else ""
            raise InvalidValue(
                explain(
                    f"the operation {node.op!r}{layer} has no translation to ONNX yet: {reason}.",
                    expected="operations with a translation: " + ", ".join(sorted(RULES)),
                    received=f"{node.op!r}, from {node.place.site}" if node.place.site else repr(node.op),
                    fix=fix,
                )
            )
        if node.op == "variable":
            self.values[id(node)] = self._variable(node.variable)
            return
        self.where = f"{node.place.layer}/" if node.place.layer else ""
        count = len(self.nodes)
        name = RULES[node.op](self, node, self._operands(node))
        wished = self.wished.get(id(node))
        if wished is not None and len(self.nodes) > count and self.nodes[-1].output[0] == name:
            self.nodes[-1].output[0] = name = wished
        self.values[id(node)] = name

    def _operands(self, node: Tensor) -> list[str]:
        """The inputs; without the broadcasts before operators that broadcast by themselves."""
        inputs = node.inputs
        if node.op in LOOSE:
            short = tuple(x.inputs[0] if x.op == "broadcast" else x for x in inputs)
            shape: Shape = ()
            for x in short:
                shape = broadcast_shapes(node.op, shape, x.shape)
            inputs = short if shape == node.shape else inputs
        return [self.values[id(x)] for x in inputs]

    def _variable(self, variable: Variable) -> str:
        if variable.role == BATCH:
            return variable.name
        known = self.weight_names.get(variable) or "/".join(filter(None, (variable.owner, variable.name)))
        return self._keep(known, devices.read(variable))

    # --- the whole ----------------------------------------------------------------------------------------------------

    def finished(self, name: str, outputs: Mapping[str, Tensor]) -> Any:
        """The ONNX graph: what the outputs need, and nothing else."""
        helper = self.onnx.helper
        self.where = ""
        for label, node in outputs.items():
            value = self.values[id(node)]
            if value != label:
                self.nodes.append(helper.make_node("Identity", [value], [label], name=self._free(f"{label}/Identity")))
        kept = self._needed(outputs)
        needed = {name for each in kept for name in self._reads(each)}
        inputs = [self._info(variable.name, variable.shape, variable.dtype) for variable in self.inputs]
        results = [self._info(label, node.shape, node.dtype) for label, node in outputs.items()]
        arrays = [
            self.onnx.numpy_helper.from_array(array, label) for label, array in self.initializers.items() if label in needed
        ]
        return helper.make_graph(kept, name, inputs, results, arrays)

    def _reads(self, node: Any) -> set[str]:
        """What an ONNX node reads, in a body of its own too."""
        return {*node.input, *self.captured.get(node.name, ())}

    def _needed(self, results: Iterable[str]) -> list[Any]:
        """The nodes that lead to these results."""
        needed, kept = set(results), []
        for each in reversed(self.nodes):
            if needed & set(each.output):
                needed.update(self._reads(each))
                kept.append(each)
        return kept[::-1]

    def _info(self, name: str, shape: Shape, dtype: str) -> Any:
        sizes = [str(size) if isinstance(size, Dim) else size for size in map(self._known, shape)]
        return self.onnx.helper.make_tensor_value_info(name, self.kind(dtype), sizes)

    def _known(self, size: Size) -> Size:
        """A size with those that are fixed put in."""
        if not isinstance(size, Dim):
            return size
        total: Size = 0
        for symbols, factor in size.terms.items():
            term: Size = factor
            for symbol in symbols:
                term = term * self.fixed.get(symbol, Dim.symbol(symbol))
            total = term + total
        return total

    def _term(self, symbols: Sequence[str], factor: int) -> str:
        """A product of symbolic sizes and a number."""
        found = [self._symbol(symbol) for symbol in symbols]
        return self._folded("Mul", [*found, *([self.number([factor], "int64")] * (factor != 1 or not found))])

    def _symbol(self, symbol: str) -> str:
        dim = Dim.symbol(symbol)
        if dim not in self.sizes:
            places = [(each.name, each.shape.index(dim)) for each in self.inputs if dim in each.shape]
            if not places:
                raise InvalidValue(
                    explain(
                        f"the size {symbol!r} has no translation to ONNX: no input has an axis of that size.",
                        received=", ".join(f"{each.name} {written(each.shape)}" for each in self.inputs),
                        fix="model.predict(x) runs it here",
                    )
                )
            name, axis = places[0]
            self.sizes[dim] = self.add("Shape", name, start=axis, end=axis + 1)
        return self.sizes[dim]

    def _folded(self, op: str, values: Iterable[str]) -> str:
        first, *rest = values
        for value in rest:
            first = self.add(op, first, value)
        return first

    def _keep(self, name: str, array: Array) -> str:
        name = self._free(name)
        self.initializers[name] = np.ascontiguousarray(array).reshape(array.shape)
        return name

    def _free(self, name: str) -> str:
        label, number = name, 1
        while label in self.taken:
            number += 1
            label = f"{name}_{number}"
        self.taken.add(label)
        return label
