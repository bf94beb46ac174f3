"""What a fit holds besides its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..device import Device
from ..specs import value_bytes
from .report import Held

if TYPE_CHECKING:
    from ..model import Model

_INDEX_BYTES = 8  # the shuffled order: an int64 for each row


def held_data(
    model: Model,
    target: Device,
    batch_size: int,
    rows: int,
    validation_rows: int,
    weighted: tuple[bool, bool],
    times: tuple[int, int],
) -> tuple[Held, ...]:
    """The data in the dtypes of the batch slots, and the order of the rows; on the host, and on a device with its own memory.

    weighted, times: whether there are weights, and steps of the sequences; in training, and in what it validates with. Arrays
    that are given in these dtypes, row after row, are used where they lie; of any others fit makes a copy.
    """
    slots = [*model.inputs, *(head.target for head in model.heads)]
    columns, others = (
        [
            value_bytes(slot.shape, slot.dtype, {"batch": 1, "time": time})
            for slot in (*slots, model.sample_weight if has_weights else None)
            if slot is not None
        ]
        for has_weights, time in zip(weighted, times, strict=True)
    )
    held = [Held("training data", rows * sum(columns), "host"), Held("order of the rows", rows * _INDEX_BYTES, "host")]
    if validation_rows:
        held.append(Held("validation data", validation_rows * sum(others), "host"))
    if target.profile.resident:
        held += _on_the_device(target, columns, batch_size, rows, "training data", ordered=True)
        if validation_rows:
            held += _on_the_device(target, others, batch_size, validation_rows, "validation data", ordered=False)
    return tuple(held)


def _on_the_device(target: Device, columns: list[int], batch_size: int, rows: int, name: str, *, ordered: bool) -> list[Held]:
    """A data set that stays there, or two slots of a batch that it passes through."""
    footprint, where = target.profile.footprint, str(target)
    whole = sum(footprint(rows * column) for column in columns)
    if whole <= target.profile.resident:
        order = [Held("order of the rows", footprint(rows * _INDEX_BYTES), where)] if ordered else []
        return [Held(name, whole, where), *order]
    batch = min(batch_size, rows)
    return [
        Held(f"two batches of {name}", 2 * sum(footprint(batch * column) for column in columns), where),
        Held(f"two pinned batches of {name}", 2 * batch * sum(columns), "host"),
    ]
