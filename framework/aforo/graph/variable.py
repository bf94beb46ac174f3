"""Values that outlive a program: weights, optimizer slots, counters, batch slots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..specs import Shape

PARAMETERS = "parameters"
OPTIMIZER_STATE = "optimizer_state"
STATE = "state"
BATCH = "batch"


class Variable:
    """A named value with memory of its own, which programs read and update in place.

    It has no memory until a program needs it: `initial()` then gives its first value (None: whatever is written first).
    `storage` and `device` belong to the floor that runs programs; nothing below it looks at them.
    """

    __slots__ = ("__weakref__", "device", "dtype", "initial", "name", "owner", "role", "shape", "storage", "trainable")

    def __init__(
        self,
        name: str,
        shape: Shape,
        dtype: str,
        role: str,
        initial: Callable[[], Any] | None = None,
        *,
        owner: str = "",
        trainable: bool = False,
    ) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.role = role
        self.initial = initial
        self.owner = owner
        self.trainable = trainable
        self.storage: Any = None
        self.device: Any = None

    def __repr__(self) -> str:
        return f"<{self.role} {self.owner}/{self.name} {self.shape} {self.dtype}>"
