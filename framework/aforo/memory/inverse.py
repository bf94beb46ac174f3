"""From a budget back to sizes: the largest batch, the largest width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .. import device as devices
from ..budget import as_bytes
from ..errors import InvalidValue, explain
from ..settings import strict, whole
from ..tables import bytes_written
from .measure import report
from .sweep import Build, built

if TYPE_CHECKING:
    from ..model import Model
    from .report import Report

_SCANNED = 32  # sizes looked at one by one below the last that the lower bound lets through
_MOST = 2**40


def max_batch_size(
    model: Model,
    budget: Any,
    training: bool = True,
    device: Any = None,
    length: int | None = None,
    *,
    programs: Sequence[str] | None = None,
    weighted: bool = False,
) -> int:
    """The largest batch size whose plan fits: see Model.max_batch_size; programs, weighted as for Model.memory."""
    target = devices.device(model.device if device is None else device)

    def plan(size: int) -> Report:
        return report(model, size, training, target, length, programs=programs, weighted=weighted)

    return _largest(plan, budget, "batch_size")


@strict
def max_width(
    build: Build,
    budget: Any,
    batch_size: int,
    device: Any = None,
    *,
    training: bool = True,
    multiple_of: int = 1,
    length: int | None = None,
) -> int:
    """The largest width, among the multiples of `multiple_of`, at which the plan of build(width) fits in the budget.

    It fits, and the next one does not; as for Model.max_batch_size. build must work for every such width. budget: bytes, or
    text such as "8GiB". length: time steps, for models of sequences.
    """
    batch_size = whole("batch_size", batch_size, 1)
    step = whole("multiple_of", multiple_of, 1)
    target = None if device is None else devices.device(device)
    return step * _largest(
        lambda size: report(built(build, size * step, training), batch_size, training, target, length), budget, "width", step
    )


def _largest(plan: Callable[[int], Report], budget: Any, what: str, step: int = 1) -> int:
    limit = as_bytes(budget, "budget")
    seen: dict[int, tuple[int, int]] = {}  # size -> bytes, and the least they could be for that order of instructions

    def total(size: int) -> int:
        if size not in seen:
            found = plan(size)
            seen[size] = found.total_bytes, found.total_bytes - found.gap_bytes
        return seen[size][0]

    def bound(size: int) -> int:
        total(size)
        return seen[size][1]

    top = _edge(bound, limit)
    lowest = max(1, top - _SCANNED)
    for size in range(top, lowest - 1, -1):
        if total(size) <= limit:
            return size
    over, fits, jump = lowest, lowest, _SCANNED
    while fits > 1 and total(fits) > limit:
        over, fits, jump = fits, max(1, fits - jump), 2 * jump
    if total(fits) > limit:
        least = min(nbytes for nbytes, _ in seen.values())
        raise InvalidValue(
            explain(
                f"nothing fits: not even {what} = {step} does.",
                expected=f"a budget of at least {least:,} B ({bytes_written(least)})",
                received=f"{limit:,} B ({bytes_written(limit)})",
                fix=f"budget={least}",
            )
        )
    while over - fits > 1:
        middle = (over + fits) // 2
        if total(middle) <= limit:
            fits = middle
        else:
            over = middle
    return fits


def _edge(bound: Callable[[int], int], limit: int) -> int:
    """The last size before the bound, which grows nearly evenly, passes the limit; 0 if there is none."""
    low, high = 0, 1
    while bound(high) <= limit:
        before, low = low, high
        slope = (bound(low) - bound(before)) / (low - before) if before else 0.0
        guess = low + int((limit - bound(low)) / slope) + 1 if slope > 0 else 2 * low
        high = min(max(guess, 2 * low), 64 * low)
        if high > _MOST:
            what = "every size fits: the memory hardly grows with it."
            raise InvalidValue(explain(what, expected=f"a size below {_MOST:,} that does not fit", received=f"{limit:,} B"))
    turn = 0
    while high - low > 1:
        turn += 1
        middle = (low + high) // 2
        if low and turn % 3:  # where a straight line would pass it; now and then the middle, for what is not straight
            along = low + int((limit - bound(low)) / (bound(high) - bound(low)) * (high - low))
            middle = min(max(along, low + 1), high - 1)
        if bound(middle) <= limit:
            low = middle
        else:
            high = middle
    return low
