"""The primitives, one record each, and the functions composed of them.

`from aforo import ops`: every function takes tensors, arrays and numbers, and gives a tensor: of float32, unless a tensor of
float64 takes part.
"""

from ..graph import Tensor
from . import elementwise as _elementwise
from . import matmul as _matmul
from . import random as random
from . import reduce as _reduce
from . import select as _select
from . import shape as _shape
from .composed import (
    clip,
    elu,
    expand_dims,
    gelu,
    leaky_relu,
    log_softmax,
    one_hot,
    relu,
    silu,
    softmax,
    squeeze,
    stack,
    std,
    var,
)
from .elementwise import (
    absolute,
    add,
    cast,
    cos,
    divide,
    equal,
    erf,
    exp,
    floor,
    greater,
    greater_equal,
    log,
    maximum,
    minimum,
    multiply,
    negative,
    power,
    reciprocal,
    sigmoid,
    sign,
    sin,
    softplus,
    sqrt,
    square,
    subtract,
    tan,
    tanh,
)
from .index import gather
from .leaves import iota
from .matmul import matmul
from .reduce import argmax, max, mean, min, sum
from .select import logical_not, where
from .shape import broadcast_to, concatenate, reshape, stop_gradient, transpose

abs = absolute


class _Operations:
    binary = staticmethod(_elementwise.binary)
    negative = staticmethod(_elementwise.negative)
    absolute = staticmethod(_elementwise.absolute)
    opposite = staticmethod(_select.logical_not)
    both = staticmethod(_select.both)
    either = staticmethod(_select.either)
    exponential = staticmethod(_elementwise.exponential)
    power = staticmethod(_elementwise.power)
    matmul = staticmethod(_matmul.matmul)
    getitem = staticmethod(_shape.getitem)
    reshape = staticmethod(_shape.reshape)
    transpose = staticmethod(_shape.transpose)
    sum = staticmethod(_reduce.sum)
    mean = staticmethod(_reduce.mean)

    @staticmethod
    def names() -> list[str]:
        return __all__


Tensor.operations = _Operations()

__all__ = [
    "abs", "absolute", "add", "argmax", "broadcast_to", "cast", "clip", "concatenate", "cos", "divide", "elu", "equal",
    "erf", "exp", "expand_dims", "floor", "gather", "gelu", "greater", "greater_equal", "iota", "leaky_relu", "log",
    "log_softmax", "logical_not", "matmul", "max", "maximum", "mean", "min", "minimum", "multiply", "negative",
    "one_hot", "power", "reciprocal", "relu", "reshape", "sigmoid", "sign", "silu", "sin", "softmax", "softplus",
    "sqrt", "square", "squeeze", "stack", "std", "stop_gradient", "subtract", "sum", "tan", "tanh", "transpose", "var",
    "where",
]  # fmt: skip
