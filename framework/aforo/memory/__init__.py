"""What training and predicting take, before they run: reports, batch × width, and the largest batch that fits.

Everything is read from the plans that would run: no data, no weights, no hardware.
"""

from __future__ import annotations

from typing import Any

from aforo_backends.contract import Reserve

from .. import device as devices
from .inverse import max_width
from .report import Held, Holder, LayerRow, Moment, Report, Timeline
from .sweep import Sweep, sweep

__all__ = [
    "Held", "Holder", "LayerRow", "Moment", "Report", "Reserve", "Sweep", "Timeline", "allocated", "allocations", "max_width",
    "sweep",
]  # fmt: skip


def allocated(device: Any = "cpu") -> int:
    """Bytes the framework holds on the device now."""
    return devices.device(device).backend.allocated()


def allocations(device: Any = "cpu") -> int:
    """How many times the framework ever asked the device for memory."""
    return devices.device(device).backend.allocations()
