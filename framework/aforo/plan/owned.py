"""What programs that share one arena own, by what it is for."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import BATCH, OPTIMIZER_STATE, PARAMETERS, STATE, TENSOR
from ..specs import value_bytes
from .plan import Plan

ARENA = "arena"


def owned_bytes(plans: Sequence[Plan]) -> dict[str, int]:
    """Bytes by role: each variable and each constant once, at its largest, and the largest arena. They sum to what is held."""
    largest: dict[object, tuple[str, int]] = {}
    for plan in plans:
        for variable in plan.variables:
            role = STATE if variable.role == TENSOR else variable.role  # an array the model uses is one of its constants
            nbytes = plan.profile.footprint(value_bytes(variable.shape, variable.dtype, plan.sizes))
            largest[variable] = role, max(nbytes, largest.get(variable, ("", 0))[1])
        for constant in plan.constants:
            nbytes = plan.profile.footprint(value_bytes(constant.shape, constant.dtype, plan.sizes))
            largest[constant] = STATE, max(nbytes, largest.get(constant, ("", 0))[1])
    totals = dict.fromkeys((PARAMETERS, OPTIMIZER_STATE, STATE, BATCH), 0)
    for role, nbytes in largest.values():
        totals[role] += nbytes
    return {**totals, ARENA: max(plan.arena_bytes for plan in plans)}
