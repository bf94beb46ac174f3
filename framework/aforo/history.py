"""What happened during a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .economy import Choice


class History:
    """`history` maps each name to its values, one an epoch; `epoch` holds the epochs' numbers.

    `plan` says how training ran within its memory_budget; None without one.
    """

    def __init__(self, plan: Choice | None = None) -> None:
        self.plan = plan
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []

    def record(self, epoch: int, logs: dict[str, float]) -> None:
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.history.items())
        return f"<History of {len(self.epoch)} epochs: {last}>"
