"""What happened during a fit."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .economy import Choice
    from .figures import Chart


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

    def plot(self, path: str | PathLike[str] | None = None) -> Chart:
        """The curves of loss and metrics over the epochs, training beside validation. Needs matplotlib.

        A notebook shows the result; with a path it is written, as .png, .svg or .pdf.
        """
        from .figures import curves

        return curves(self.history, self.epoch, path)

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.history.items() if values)
        return f"<History of {len(self.epoch)} epochs: {last}>"
