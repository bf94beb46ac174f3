"""Order, lifetimes, sharing and offsets: from a graph to a plan."""

from .draft import Constant, Operand
from .plan import Buffer, Plan, PlannedStep, PlannedValue, make_plan
from .verify import verify

__all__ = ["Buffer", "Constant", "Operand", "Plan", "PlannedStep", "PlannedValue", "make_plan", "verify"]
