"""Nodes and graphs: what is computed, before anyone says where or when."""

from .body import RESULT, SCAN, Body
from .graph import Graph, ancestors, merge, rebuilt, verify
from .place import BACKWARD, FORWARD, LOSS, UPDATE, Place, current_layer, tracing, within
from .primitive import PRIMITIVES, Primitive, Sample, primitive
from .tensor import Spelling, Tensor, apply, constant, leaf
from .variable import BATCH, LOOP, OPTIMIZER_STATE, PARAMETERS, STATE, TENSOR, Variable

__all__ = [
    "BACKWARD",
    "BATCH",
    "FORWARD",
    "LOOP",
    "LOSS",
    "OPTIMIZER_STATE",
    "PARAMETERS",
    "PRIMITIVES",
    "RESULT",
    "SCAN",
    "STATE",
    "TENSOR",
    "UPDATE",
    "Body",
    "Graph",
    "Place",
    "Primitive",
    "Sample",
    "Spelling",
    "Tensor",
    "Variable",
    "ancestors",
    "apply",
    "constant",
    "current_layer",
    "leaf",
    "merge",
    "primitive",
    "rebuilt",
    "tracing",
    "verify",
    "within",
]  # fmt: skip
