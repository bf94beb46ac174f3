"""Order, lifetimes, sharing and offsets: from a graph to a plan."""

from .draft import Constant, Operand
from .owned import ARENA, owned_bytes
from .plan import Buffer, Plan, PlannedStep, PlannedValue, make_plan
from .verify import verify

__all__ = [
    "ARENA",
    "Buffer",
    "Constant",
    "Operand",
    "Plan",
    "PlannedStep",
    "PlannedValue",
    "make_plan",
    "owned_bytes",
    "verify",
]
