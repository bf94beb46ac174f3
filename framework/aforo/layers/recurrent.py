"""Layers that read sequences step by step: (batch, time, d) to (batch, units), or to (batch, time, units)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from .. import initializers, ops
from ..errors import InvalidType, InvalidValue, explain
from ..graph import Tensor
from ..ops.operands import as_tensor
from ..settings import flag, strict, whole
from ..specs import FLOATS, written
from .activation import Function, get
from .call import revertible, with_named
from .context import current
from .layer import Layer
from .recur import Step, recur


class Recurrent(Layer):
    """What SimpleRNN, GRU and LSTM have in common: a kernel for the input, one for the state, a bias, and a loop over time.

    return_sequences   the output at every step (batch, time, units), instead of the last one (batch, units)
    return_state       a list: the output, then every state after the last step
    go_backwards       from the last step to the first; a sequence that is returned stays in the order of time
    truncate           gradients stop at every so many steps (truncated back-propagation); None: never
    recompute          training keeps the states every √time steps, and computes what is between again on the way back

    Call it on x, or on x and the states to start with (batch, units): layer(x, initial_state=[…]); zeros unless given. Where
    a mask (batch, time) is false, the states and so the output stay as they are: layer(x, mask=mask).
    """

    reads_sequences = any_length = True
    instead: ClassVar[Mapping[str, str]] = {
        "dropout": "af.Dropout(rate) on what the layer reads",
        "recurrent_dropout": "af.Dropout(rate) on what the layer reads",
        "stateful": "model.step(x), which keeps the states from call to call",
        "unroll": "leave unroll out: a loop is planned once, whatever its length",
    }
    gates: ClassVar[int] = 1
    states: ClassVar[int] = 1
    pytorch_order: ClassVar[tuple[int, ...]] = (0,)
    """Where PyTorch has each of the gates."""

    def __init__(
        self,
        units: int,
        activation: str | Function | None = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        truncate: int | None = None,
        recompute: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.units = whole("units", units, 1)
        self.activation = get(activation)
        self.use_bias = flag("use_bias", use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.return_sequences = flag("return_sequences", return_sequences)
        self.return_state = flag("return_state", return_state)
        self.go_backwards = flag("go_backwards", go_backwards)
        self.truncate = None if truncate is None else whole("truncate", truncate, 1)
        self.recompute = flag("recompute", recompute)

    def __call__(
        self, *inputs: Any, mask: Any = None, initial_state: Any = None, training: bool | None = None, **named: Any
    ) -> Any:
        """x, and optionally the states to start with; a mask (batch, time), bool."""
        given = [*with_named(self, inputs, named)]
        if len(given) == 1 and isinstance(given[0], (list, tuple)) and any(isinstance(each, Tensor) for each in given[0]):
            raise InvalidType(
                explain(
                    f"layer {self.name!r} reads one sequence.",
                    expected="a tensor (batch, time, features)",
                    received=f"a list of {len(given[0])}",
                    fix="layer(x, initial_state=[…])",
                )
            )
        if initial_state is not None:
            given += [self._as_state(each) for each in _listed(initial_state)]
        if mask is not None:
            given.append(_as_mask(mask, self))
        return super().__call__(*given, training=training)

    def _as_state(self, state: Any) -> Any:
        """A state to start with; one of shape (units,) is the same for every sequence."""
        if isinstance(state, (str, Mapping)) or (isinstance(state, Tensor) and state.dtype not in FLOATS):
            raise InvalidType(
                explain(
                    f"layer {self.name!r} starts from numbers.",
                    expected=f"{self.states} of shape (batch, {self.units})",
                    received=f"{state.dtype} {written(state.shape)}" if isinstance(state, Tensor) else repr(state),
                    fix="initial_state=[h, c]" if self.states > 1 else "initial_state=h",
                )
            )
        if isinstance(state, Tensor):
            return state
        array = np.asarray(state)
        return array.astype(self.dtype) if array.dtype.kind in "iub" else array

    def build(self, input_shape: Any) -> None:
        shape = input_shape[0] if isinstance(input_shape[0], tuple) else input_shape
        self._check_sequence(shape)
        width = self.gates * self.units
        self.kernel = self.add_weight([shape[-1], width], self.kernel_initializer, "kernel")
        self.recurrent_kernel = self.add_weight([self.units, width], self.recurrent_initializer, "recurrent_kernel")
        self.bias = self.add_weight(self.bias_shape(width), self._first_bias, "bias") if self.use_bias else None

    def bias_shape(self, width: int) -> list[int]:
        return [width]

    def _first_bias(self, shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Any:
        return self.bias_initializer(shape, dtype, rng)

    def _check_sequence(self, shape: Any) -> None:
        if len(shape) == 3:
            return
        fix = "x[:, :, None] makes sequences of single numbers, x[:, None] of single steps"
        if len(shape) == 2:
            fix = f"return_sequences=True in the recurrent layer before {self.name!r}; af.Input([None, d]) for data; {fix}"
        raise InvalidValue(
            explain(
                f"layer {self.name!r} reads sequences.",
                expected="shape (batch, time, features)",
                received=f"shape {written(shape)}" + ", one vector for each sample" * (len(shape) == 2),
                fix=fix,
            )
        )

    def forward(self, x: Tensor, *given: Tensor) -> Any:
        self._check_sequence(x.shape)
        if x.shape[-1] != self.kernel.shape[0]:
            raise InvalidValue(
                explain(
                    f"layer {self.name!r} does not fit what it is given.",
                    expected=f"steps of {self.kernel.shape[0]} features",
                    received=f"shape {written(x.shape)}",
                    fix=f"a new af.{type(self).__name__}({self.units}) takes its size from the data",
                )
            )
        x = ops.cast(x, x.dtype if x.dtype in FLOATS else self.dtype)
        carrier = current().carrier
        if carrier is not None and carrier.cyclic and not self.return_sequences:
            raise InvalidValue(
                explain(
                    f"layer {self.name!r} stands on a cycle, but gives only its last output.",
                    expected="an output at every step",
                    fix=f"af.{type(self).__name__}({self.units}, return_sequences=True)",
                )
            )
        masks = [each for each in given if each.dtype == "bool"]
        same = (x.shape[0], self.units)
        states = [
            ops.broadcast_to(each, same) if each.shape == (self.units,) else each for each in given if each.dtype != "bool"
        ]
        self._check_given(x, states, masks)
        zeros = ops.broadcast_to(as_tensor(0.0, x.dtype), (x.shape[0], self.units))
        output, last = recur(
            self._step(),
            self._with_ones(x),
            states or [zeros] * self.states,
            mask=masks[0] if masks else None,
            reverse=self.go_backwards,
            cut=self.truncate or 0,
            recompute=self.recompute,
        )
        out = output if self.return_sequences else last[0]
        return [out, *last] if self.return_state else out

    def _check_given(self, x: Tensor, states: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
        shape = (x.shape[0], self.units)
        if states and (len(states) != self.states or any(state.shape != shape for state in states)):
            raise InvalidValue(
                explain(
                    f"layer {self.name!r} cannot start from these states.",
                    expected=f"{self.states} of shape {written(shape)}",
                    received=", ".join(written(state.shape) for state in states),
                    fix="initial_state=[h, c]"
                    if len(states) != self.states > 1
                    else f"af.Dense({self.units})(state) gives it the right size",
                )
            )
        for mask in masks:
            if mask.shape != x.shape[:2]:
                raise InvalidValue(
                    explain(
                        f"the mask of layer {self.name!r} does not fit its sequences.",
                        expected=f"shape {written(x.shape[:2])}",
                        received=written(mask.shape),
                        fix='af.Input([None], dtype="bool")',
                    )
                )

    def _with_ones(self, x: Tensor) -> Tensor:
        """x with a last feature that is always 1, so that the bias is a row of the kernel; laid out step after step."""
        if self.bias is None:
            return x
        first = ops.transpose(x, [1, 0, 2])
        ones = ops.broadcast_to(as_tensor(1.0, x.dtype), (*first.shape[:2], 1))
        return ops.transpose(ops.concatenate([first, ones]), [1, 0, 2])

    def _step(self) -> Step:
        """(x at t, states) -> the states after this step. A gate is a matrix of its own, (batch, units), dense in memory."""
        kernel = self.kernel if self.bias is None else ops.concatenate([self.kernel, self.input_bias()], 0)
        own, recurrent = self._by_gate(kernel), self._by_gate(self.recurrent_kernel)

        def step(x: Tensor, states: Sequence[Tensor]) -> Sequence[Tensor]:
            return self.cell(x[None] @ own, states[0][None] @ recurrent, states)

        return step

    def _by_gate(self, kernel: Tensor) -> Tensor:
        """(d, gates · units) as (gates, d, units)."""
        return ops.transpose(ops.reshape(kernel, (kernel.shape[0], self.gates, self.units)), [1, 0, 2])

    def input_bias(self) -> Tensor:
        """What the bias adds to the input's part, (1, gates · units)."""
        assert self.bias is not None
        return self.bias[None]

    def cell(self, x: Tensor, h: Tensor, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """The states after a step, from x W + B and h U by gate (gates, batch, units), and the states before it."""
        raise NotImplementedError

    @strict
    def load_pytorch(self, weight_ih: Any, weight_hh: Any = None, bias_ih: Any = None, bias_hh: Any = None) -> None:
        """Take the weights of PyTorch's layer of the same kind: weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0.

        Arrays, or PyTorch's own parameters; or that layer itself, of which the first level is taken. Theirs are
        (gates · units, d): each is transposed, and the gates are put in this layer's order. Nothing changes unless all of
        them fit.
        """
        if hasattr(weight_ih, "weight_ih_l0"):
            names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
            weight_ih, weight_hh, bias_ih, bias_hh = (getattr(weight_ih, name, None) for name in names)
        if weight_hh is None:
            raise InvalidType(
                explain(
                    "load_pytorch needs the weights for the state, too.",
                    expected="weight_ih, weight_hh, and bias_ih and bias_hh of a layer with biases",
                    received="weight_ih alone",
                    fix="layer.load_pytorch(torch_layer)",
                )
            )
        width = self.gates * self.units
        if (bias_ih is None) != (bias_hh is None) or (bias_ih is None) == self.use_bias:
            raise InvalidValue(
                explain(
                    f"layer {self.name!r} has {'a' if self.use_bias else 'no'} bias.",
                    expected="bias_ih and bias_hh" if self.use_bias else "neither bias_ih nor bias_hh",
                    fix=f"use_bias={not self.use_bias}",
                )
            )
        given = {"weight_ih": _numbers(weight_ih, "weight_ih"), "weight_hh": _numbers(weight_hh, "weight_hh")}
        features = self.kernel.shape[0] if self.built else given["weight_ih"].shape[-1] if given["weight_ih"].ndim else 1
        shapes: dict[str, tuple[Any, ...]] = {"weight_ih": (width, features), "weight_hh": (width, self.units)}
        if self.use_bias:
            given |= {"bias_ih": _numbers(bias_ih, "bias_ih"), "bias_hh": _numbers(bias_hh, "bias_hh")}
            shapes |= {"bias_ih": (width,), "bias_hh": (width,)}
        if any(array.shape != shapes[name] for name, array in given.items()):
            units = given["weight_hh"].shape[-1] if given["weight_hh"].ndim else self.units
            raise InvalidValue(
                explain(
                    f"these weights do not fit layer {self.name!r}.",
                    expected=", ".join(f"{name} {written(shape)}" for name, shape in shapes.items()),
                    received=", ".join(f"{name} {written(array.shape)}" for name, array in given.items()),
                    fix=f"a new af.{type(self).__name__}({units})",
                )
            )
        if not self.built:
            with revertible(self):
                self.build((None, None, given["weight_ih"].shape[1]))
                self.built = True
        order = np.concatenate([np.arange(self.units) + gate * self.units for gate in self.pytorch_order])
        taken = {name: array[order] for name, array in given.items()}
        self.kernel.assign(taken["weight_ih"].T)
        self.recurrent_kernel.assign(taken["weight_hh"].T)
        if self.bias is not None:
            self.bias.assign(self._bias_from(taken["bias_ih"], taken["bias_hh"]))

    def _bias_from(self, bias_ih: Any, bias_hh: Any) -> Any:
        return bias_ih + bias_hh


def _listed(states: Any) -> Sequence[Any]:
    return (
        states
        if isinstance(states, (list, tuple)) and any(isinstance(each, Tensor) or np.ndim(each) for each in states)
        else [states]
    )


def _numbers(values: Any, name: str) -> np.ndarray[Any, Any]:
    """An array of numbers, also from a tensor of PyTorch that is trained or lies on a GPU."""
    given = values.detach().cpu() if hasattr(values, "detach") else values
    try:
        array = np.asarray(given)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise InvalidType(
            explain(f"{name} takes an array of numbers.", received=f"{type(values).__name__}", fix=f"lstm.{name}_l0")
        )
    return array


def _as_mask(mask: Any, layer: Layer) -> Tensor:
    given = as_tensor(mask)
    if given.dtype != "bool":
        raise InvalidType(
            explain(
                f"the mask of layer {layer.name!r} says which steps count.",
                expected="bool",
                received=given.dtype,
                fix="mask > 0",
            )
        )
    return given


class SimpleRNN(Recurrent):
    """h ← activation(x W + h U + B): Elman (1990). kernel W (d, units), recurrent_kernel U (units, units), bias B (units,)."""

    def cell(self, x: Tensor, h: Tensor, states: Sequence[Tensor]) -> Sequence[Tensor]:
        return [self.activation(x[0] + h[0])]


class Gated(Recurrent):
    """A recurrent layer with gates: recurrent_activation gives them, a sigmoid unless something else is asked for."""

    def __init__(
        self,
        units: int,
        activation: str | Function | None = "tanh",
        recurrent_activation: str | Callable[[Tensor], Tensor] | None = "sigmoid",
        **options: Any,
    ) -> None:
        super().__init__(units, activation, **options)
        self.recurrent_activation = get(recurrent_activation)


class GRU(Gated):
    """Cho et al. (2014), as cuDNN, PyTorch and Keras (reset_after) compute it. Gates in the order z, r, n:

    z, r = σ(x W + h U + B); n = tanh(x W + B₀ + r · (h U + B₁)); h ← z · h + (1 − z) · n.

    kernel (d, 3 units), recurrent_kernel (units, 3 units), bias (2, 3 units): that of the input, then that of the state.
    """

    gates = 3
    pytorch_order = (1, 0, 2)  # theirs are r, z, n

    def bias_shape(self, width: int) -> list[int]:
        return [2, width]

    def input_bias(self) -> Tensor:
        assert self.bias is not None
        return self.bias[:1]

    def cell(self, x: Tensor, h: Tensor, states: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.bias is not None:
            h = h + ops.reshape(self.bias[1], (3, 1, self.units))
        opened = self.recurrent_activation(x[:2] + h[:2])
        n = self.activation(x[2] + opened[1] * h[2])
        return [n + opened[0] * (states[0] - n)]

    def _bias_from(self, bias_ih: Any, bias_hh: Any) -> Any:
        return np.stack([bias_ih, bias_hh])


class LSTM(Gated):
    """Hochreiter and Schmidhuber (1997), with the forget gate of Gers et al. (2000). Gates in the order i, f, o, g:

    i, f, o = σ(x W + h U + B); g = tanh(x W + h U + B); c ← f · c + i · g; h ← o · tanh(c).

    kernel (d, 4 units), recurrent_kernel (units, 4 units), bias (4 units,). States: h, then c. The forget gate's bias starts
    at 1 (Jozefowicz et al., 2015) unless unit_forget_bias=False.
    """

    gates = 4
    states = 2
    pytorch_order = (0, 1, 3, 2)  # theirs, and Keras's, are i, f, g, o; here those with one activation lie together

    def __init__(
        self,
        units: int,
        activation: str | Function | None = "tanh",
        recurrent_activation: str | Callable[[Tensor], Tensor] | None = "sigmoid",
        unit_forget_bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(units, activation, recurrent_activation, **options)
        self.unit_forget_bias = flag("unit_forget_bias", unit_forget_bias)

    def _first_bias(self, shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Any:
        values = np.array(np.broadcast_to(self.bias_initializer(shape, dtype, rng), shape))
        if self.unit_forget_bias:
            values[self.units : 2 * self.units] = 1
        return values

    def cell(self, x: Tensor, h: Tensor, states: Sequence[Tensor]) -> Sequence[Tensor]:
        gates = x + h
        opened = self.recurrent_activation(gates[:3])
        c = opened[1] * states[1] + opened[0] * self.activation(gates[3])
        return [opened[2] * self.activation(c), c]
