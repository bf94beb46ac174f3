"""What a fit holds besides its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aforo_backends.contract import Profile

from ..specs import value_bytes
from .report import Held

if TYPE_CHECKING:
    from ..model import Model

_INDEX_BYTES = 8  # the shuffled order: an int64 for each row


def held_data(model: Model, profile: Profile, rows: int, validation_rows: int, weighted: bool) -> tuple[Held, ...]:
    """The data in the dtypes of the batch slots, and the order of the rows; all of it on the host, for every device.

    Arrays that are given in these dtypes, row after row, are used where they lie; of any others fit makes a copy.
    """
    targets = [head.target for head in model.heads]
    slots = [*model.inputs, *targets, *([model.sample_weight] if weighted else [])]
    row = sum(value_bytes(slot.shape, slot.dtype, {"batch": 1}) for slot in slots if slot is not None)
    held = [Held("training data", rows * row, "host"), Held("order of the rows", rows * _INDEX_BYTES, "host")]
    if validation_rows:
        held.append(Held("validation data", validation_rows * row, "host"))
    return tuple(held)
