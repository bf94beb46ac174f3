"""A value in a graph."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import count as counter
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol

from ..errors import InvalidType, InvalidValue, Missing, explain
from ..specs import FLOATS, Shape, written
from .place import Place, current_layer, here, is_tracing
from .primitive import PRIMITIVES, Primitive
from .variable import BATCH, LOOP, Variable

if TYPE_CHECKING:
    import numpy as np

_serials = counter()


def now() -> int:
    """A point in the order of creation: what is made from here on has a larger serial."""
    return next(_serials)


def _is_fed(attributes: dict[str, Any]) -> bool:
    variable = attributes.get("variable")
    return variable is not None and variable.role in (BATCH, LOOP)


class Operations(Protocol):
    """What the operators of a tensor stand for. The floor that knows the primitives installs it."""

    def binary(self, name: str, a: Any, b: Any) -> Tensor: ...
    def negative(self, x: Tensor) -> Tensor: ...
    def absolute(self, x: Tensor) -> Tensor: ...
    def opposite(self, mask: Tensor) -> Tensor: ...
    def both(self, a: Any, b: Any) -> Tensor: ...
    def either(self, a: Any, b: Any) -> Tensor: ...
    def exponential(self, base: Any, x: Tensor) -> Tensor: ...
    def power(self, x: Any, exponent: Any) -> Tensor: ...
    def matmul(self, a: Any, b: Any) -> Tensor: ...
    def getitem(self, x: Tensor, key: Any) -> Tensor: ...
    def reshape(self, x: Tensor, shape: Any) -> Tensor: ...
    def transpose(self, x: Tensor, axes: Sequence[int] | None = None) -> Tensor: ...
    def sum(self, x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor: ...
    def mean(self, x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor: ...
    def names(self) -> Collection[str]: ...


class Evaluation(Protocol):
    """How a tensor gets numbers. The floor that runs programs installs it."""

    def numpy(self, x: Tensor) -> np.ndarray[Any, Any]: ...
    def device(self, x: Tensor) -> str: ...
    def to(self, x: Tensor, device: Any) -> Tensor: ...
    def export(self, x: Tensor) -> Any: ...
    def kept(self, x: Tensor) -> tuple[Any, ...]: ...


class Tensor:
    """A value in a graph: the primitive that gives it, its inputs, its shape and dtype.

    Made by operators and `af.ops` functions; never changed afterwards. An input always has a smaller `serial` than what is
    computed from it, so sorting by serial is a topological order.
    """

    __slots__ = (
        "__weakref__", "attributes", "call", "dtype", "inputs", "place", "primitive", "serial", "shape", "spelling",
        "symbolic", "value"
    )  # fmt: skip
    operations: ClassVar[Operations]
    evaluation: ClassVar[Evaluation]

    def __init__(
        self,
        primitive: Primitive,
        inputs: tuple[Tensor, ...],
        attributes: dict[str, Any],
        shape: Shape,
        dtype: str,
        place: Place,
        spelling: Spelling | None = None,
        serial: float | None = None,
    ) -> None:
        self.primitive = primitive
        self.inputs = inputs
        self.attributes = attributes
        self.shape = shape
        self.dtype = dtype
        self.place = place
        self.spelling = spelling
        # Whether it depends on what a model is fed, so that it has no numbers until a program runs.
        self.symbolic: bool = any(x.symbolic for x in inputs) if inputs else _is_fed(attributes)
        self.value: Variable | None = None  # where its numbers are, once someone has looked at them
        self.call: Any = None  # the layer that gave it, and what that was called on
        self.serial: float = next(_serials) if serial is None else serial

    @property
    def op(self) -> str:
        return self.primitive.name

    def folds(self, op: str) -> bool:
        """Whether it comes from this primitive, and operations on it may look at what that was given.

        What a layer gives may not be looked behind: the layer, and its weights, would be lost from the model.
        """
        plain = self.spelling is None or self.spelling.plainly is None
        return self.primitive.name == op and self.call is None and plain

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def variable(self) -> Variable:
        """The variable behind a leaf."""
        variable: Variable = self.attributes["variable"]
        return variable

    def __add__(self, other: Any) -> Tensor:
        return self.operations.binary("add", self, other)

    def __radd__(self, other: Any) -> Tensor:
        return self.operations.binary("add", other, self)

    def __sub__(self, other: Any) -> Tensor:
        return self.operations.binary("subtract", self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return self.operations.binary("subtract", other, self)

    def __mul__(self, other: Any) -> Tensor:
        return self.operations.binary("multiply", self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return self.operations.binary("multiply", other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return self.operations.binary("divide", self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return self.operations.binary("divide", other, self)

    def __gt__(self, other: Any) -> Tensor:
        return self.operations.binary("greater", self, other)

    def __lt__(self, other: Any) -> Tensor:
        return self.operations.binary("greater", other, self)

    def __ge__(self, other: Any) -> Tensor:
        return self.operations.binary("greater_equal", self, other)

    def __le__(self, other: Any) -> Tensor:
        return self.operations.binary("greater_equal", other, self)

    def __eq__(self, other: Any) -> Any:
        """Elementwise, as a mask; a tensor is found in a dict or a set by what it is, not by its numbers."""
        return self.operations.binary("equal", self, other) if _has_numbers(other) else NotImplemented

    def __ne__(self, other: Any) -> Any:
        return self.operations.opposite(self == other) if _has_numbers(other) else NotImplemented

    __hash__ = object.__hash__

    def __and__(self, other: Any) -> Tensor:
        return self.operations.both(self, other)

    def __or__(self, other: Any) -> Tensor:
        return self.operations.either(self, other)

    __rand__, __ror__ = __and__, __or__

    def __invert__(self) -> Tensor:
        return self.operations.opposite(self)

    def __abs__(self) -> Tensor:
        return self.operations.absolute(self)

    def __rpow__(self, base: Any) -> Tensor:
        return self.operations.exponential(base, self)

    def __pow__(self, exponent: Any) -> Tensor:
        return self.operations.power(self, exponent)

    def __matmul__(self, other: Any) -> Tensor:
        return self.operations.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return self.operations.matmul(other, self)

    def __neg__(self) -> Tensor:
        return self.operations.negative(self)

    def __getitem__(self, key: Any) -> Tensor:
        return self.operations.getitem(self, key)

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise InvalidType(
            explain(
                "a tensor is not changed piece by piece.",
                expected="a new tensor, or new values for all of it",
                received=f"t[{key!r}] = …",
                fix="a = t.numpy(); a[…] = …; t = af.tensor(a), or w.assign(a); af.ops.where(mask, a, t) in a forward",
            )
        )

    def _no_remainder(self, other: Any) -> NoReturn:
        raise InvalidType(
            explain(
                "tensors have no % and no //.",
                received="t % a or t // a",
                fix="af.ops.floor(t / a), and t - a * af.ops.floor(t / a) for what is left",
            )
        )

    __mod__ = __rmod__ = __floordiv__ = __rfloordiv__ = _no_remainder

    def __len__(self) -> int:
        if not self.shape:
            raise InvalidType(explain("a tensor without axes has no length."))
        return self.shape[0]  # type: ignore[return-value]  # a symbolic size explains itself

    @property
    def T(self) -> Tensor:
        return self.operations.transpose(self)

    def reshape(self, *shape: Any) -> Tensor:
        return self.operations.reshape(self, shape[0] if len(shape) == 1 else shape)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return self.operations.sum(self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return self.operations.mean(self, axis, keepdims)

    def used(self) -> Tensor:
        """What an expression that names this tensor reads."""
        return self

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy of its numbers, as a NumPy array. Computed at the first look."""
        if current_layer():
            self.no_value()
        return self.evaluation.numpy(self)

    @property
    def device(self) -> str:
        """Where its numbers are, or will be computed."""
        return self.evaluation.device(self)

    def to(self, device: Any) -> Tensor:
        """The same numbers on a device, as a new tensor; derivatives do not pass."""
        return self.evaluation.to(self, device)

    def __dlpack__(self, **options: Any) -> Any:
        """A copy of its numbers for another library, e.g. torch.from_dlpack(t): where they are, on the CPU or a CUDA device."""
        return self.evaluation.export(self).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        device, _, index = self.device.partition(":")
        return (2, int(index or 0)) if device == "cuda" else (1, 0)

    def item(self) -> float | int | bool:
        """The one number it holds."""
        array = self.numpy()
        if array.size != 1:
            raise InvalidValue(explain("only a tensor of one value is a number.", received=f"shape {written(self.shape)}"))
        number: float | int | bool = array.item()
        return number

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if self.device != "cpu":
            raise InvalidType(
                explain(f"this tensor is on {self.device}, where NumPy cannot read it.", fix="t.numpy() copies it to the CPU")
            )
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Operators between an array and a tensor are the tensor's; what else NumPy computes, it computes from numbers."""
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        if not options:
            if name in ("add", "subtract", "multiply", "divide", "greater", "greater_equal", "equal"):
                return self.operations.binary(name, *inputs)
            if name in ("less", "less_equal"):
                return self.operations.binary(name.replace("less", "greater"), *reversed(inputs))
            if name in ("bitwise_and", "bitwise_or"):  # the & and | of an array and a tensor
                return self.operations.both(*inputs) if name == "bitwise_and" else self.operations.either(*inputs)
            if name == "not_equal":
                return self.operations.opposite(self.operations.binary("equal", *inputs))
            if name == "power" and not isinstance(inputs[0], Tensor):
                return self.operations.exponential(*inputs)
            if name in ("matmul", "power"):
                return getattr(self.operations, name)(*inputs)
        return self._in_numpy(name, getattr(ufunc, method), inputs, options)

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        return self._in_numpy(function.__name__, function, inputs, options)

    def _in_numpy(self, name: str, function: Callable[..., Any], inputs: Any, options: Any) -> Any:
        if options.get("out") is not None or name in ("copyto", "fill_diagonal", "place", "put", "putmask"):
            raise InvalidType(
                explain(
                    f"np.{name} would write into a copy of a tensor's numbers.",
                    expected="an array to write into",
                    received=repr(self),
                    fix="t.assign(values)",
                )
            )
        if not self.symbolic and not current_layer():
            return function(*_numbers(inputs), **_numbers(options))
        known = name in self.operations.names()
        raise InvalidType(
            explain(
                f"{name!r} is a NumPy function: it needs numbers, and it cannot be differentiated.",
                expected="operators and af.ops functions",
                received=f"np.{name} of {self!r}",
                fix=f"af.ops.{name}" if known else "compose it from operators and af.ops functions",
            )
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: its numbers alone, since the order of a graph's nodes means nothing in another process."""
        if not self.symbolic:
            return self.evaluation.kept(self)
        slots = [name for kind in type(self).__mro__ for name in getattr(kind, "__slots__", ()) if name != "__weakref__"]
        return copyreg.__newobj__, (type(self),), (None, {name: getattr(self, name) for name in slots})  # type: ignore[attr-defined]

    def __copy__(self) -> Tensor:
        """Itself: it is never changed."""
        return self

    def __deepcopy__(self, memo: Any) -> Tensor:
        """Itself: it is never changed."""
        return self

    def no_value(self) -> NoReturn:
        raise InvalidType(
            explain(
                "a forward may branch on shapes, not on values: a tensor has none while its graph is built.",
                expected="arithmetic, comparisons used as masks, and af.ops functions",
                received=f"a request for the value of {self!r}",
                fix="replace `a if x > 0 else b` by `(x > 0) * a + (x <= 0) * b`, np.f(x) by af.ops.f(x)",
            )
        )

    def __iter__(self) -> NoReturn:
        raise InvalidType(explain("a tensor cannot be iterated over.", fix="take its rows by slicing, x[0:1]"))

    def __repr__(self) -> str:
        return f"<Tensor {self.op} {written(self.shape)} {self.dtype}>"

    def __str__(self) -> str:
        """Its numbers, where it has any yet."""
        return repr(self) if self.symbolic or current_layer() else str(self.numpy())

    def __format__(self, form: str) -> str:
        return format(self.item(), form) if form else str(self)

    def __round__(self, digits: int | None = None) -> float | int:
        return round(self.item(), digits)

    if not TYPE_CHECKING:  # a type checker would take every attribute for a known one

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            known = _ELSEWHERE.get(name) or (f"af.ops.{name}(t)" if name in self.operations.names() else "")
            fix = known or "t.numpy() is an array, with all that arrays have"
            raise Missing(explain(f"a tensor has no {name!r}.", fix=fix), name=name, obj=self)


_ELSEWHERE = {
    "argmin": "af.ops.argmax(-t)",
    "astype": 'af.ops.cast(t, "float64")',
    "backward": "af.grad(E, t), for a number E",
    "copy": "af.tensor(t)",
    "cpu": 't.to("cpu")',
    "cuda": 't.to("cuda")',
    "detach": "af.ops.stop_gradient(t)",
    "dot": "a @ b",
    "flatten": "t.reshape(-1)",
    "grad": "af.grad(E, t), for a number E",
    "ravel": "t.reshape(-1)",
    "size": "t.numpy().size",
    "tolist": "t.numpy().tolist()",
}


def _has_numbers(value: Any) -> bool:
    """Whether a tensor can be compared with it, number by number."""
    return isinstance(value, (Tensor, bool, int, float, list, tuple)) or hasattr(value, "__array__")


def _numbers(value: Any) -> Any:
    """Arrays in place of the tensors in an argument of a NumPy function."""
    if isinstance(value, dict):
        return {key: _numbers(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_numbers, value))
    return value.__array__() if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Spelling:
    """How a person would write a composed value: softmax(z), rather than the primitives it is made of.

    plainly: computes it from these inputs, where it was computed from `source`, which is behind the last of them.
    """

    name: str
    inputs: tuple[Tensor, ...]
    plainly: Callable[..., Tensor] | None = None
    source: Tensor | None = None


def apply(name: str, *inputs: Tensor, **attributes: Any) -> Tensor:
    """The output of a primitive. Raises when the inputs do not fit."""
    record = PRIMITIVES[name]
    if not is_tracing() and not any(x.symbolic for x in inputs):
        inputs = tuple([x.used() for x in inputs])
    shape, dtype = record.spec(*inputs, **attributes)
    return Tensor(record, inputs, attributes, shape, dtype, here())


_EXACT = 2**31  # whole numbers below fit every dtype, and a float


def _is_plain(value: float, dtype: str) -> bool:
    """Whether a float says which number of that dtype it is; 0.0 and −0.0 are equal, but not the same."""
    return (dtype in FLOATS or abs(value) < _EXACT) and not (value == 0 and str(value).startswith("-"))


def _as_array(value: float, dtype: str) -> np.ndarray[Any, Any]:
    """A number as an array of its dtype."""
    import numpy as np

    return np.array(value, dtype)


def leaf(variable: Variable) -> Tensor:
    """The value a variable has when a program starts."""
    return apply("variable", variable=variable)


def constant(value: float | np.ndarray[Any, Any], dtype: str, times: Any = 1, per: Any = 1) -> Tensor:
    """A number of the tensor's own dtype, `value · times / per`, where the sizes may be symbolic; or an array of numbers."""
    if isinstance(value, (bool, int, float)):
        try:
            number = float(value)
            array = None if _is_plain(value, dtype) else _as_array(value, dtype)
        except (OverflowError, ValueError):
            shown = f"{value:.3g}" if isinstance(value, float) else value
            raise InvalidValue(explain(f"{dtype} cannot hold this number.", received=shown)) from None
        if array is None:
            return apply("constant", value=number, dtype=dtype, times=times, per=per, shape=())
    else:
        array = value.astype(dtype)
    if array.size == 0:
        raise InvalidValue(explain("an empty array cannot be used in a forward.", received=f"shape {array.shape}"))
    return apply("constant", value=array.tobytes(), dtype=dtype, times=1, per=1, shape=array.shape)
