"""Values that outlive a program: weights, optimizer slots, counters, batch slots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..specs import Shape

PARAMETERS = "parameters"
OPTIMIZER_STATE = "optimizer_state"
STATE = "state"
BATCH = "batch"
TENSOR = "tensor"
LOOP = "loop"  # what the body of a loop sees of the values around it: it has no memory of its own


class Variable:
    """A named value with memory of its own, which programs read and update in place.

    It has no memory until a program needs it: `initial()` then gives its first value (None: whatever is written first).
    `storage`, `array` and `device` belong to the floor that runs programs; nothing below it looks at them.

    An expression in a notebook means the value a weight has when it is written. It reads a snapshot: a variable whose
    `source` is the weight for as long as the weight keeps that value, and whose `origin` is the weight for good. `snapshot`
    refers, weakly, to the leaf on it.
    """

    __slots__ = (
        "__weakref__",
        "anywhere",
        "array",
        "device",
        "dtype",
        "initial",
        "limit",
        "name",
        "origin",
        "owner",
        "role",
        "shape",
        "snapshot",
        "source",
        "storage",
        "trainable",
        "trained",
    )

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
        self.trained = trainable  # by its declaration, whether or not it is frozen now
        self.storage: Any = None
        self.array: Any = None
        self.device: Any = None
        self.snapshot: Any = None
        self.source: Variable | None = None
        self.origin: Variable | None = None
        self.anywhere = False  # whether no device had a part in its value: it goes where it is needed
        self.limit: int | None = None  # whole numbers fed to it must be smaller

    def __repr__(self) -> str:
        return f"<{self.role} {self.owner}/{self.name} {self.shape} {self.dtype}>"
