"""What a backend is.

Plain data (`Profile`, `View`, `Instruction`) and one protocol (`Backend`). Nothing here imports an array library, so a
plan for any backend can be made on a machine that has none of its hardware or software.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

ITEM_BYTES = {"float32": 4, "float64": 8, "int32": 4, "int64": 8, "bool": 1}


def round_up(nbytes: int, multiple: int) -> int:
    return -(-nbytes // multiple) * multiple


class Unavailable(RuntimeError):
    """Why a backend cannot run on this machine: what is missing, what was found, and what would help."""

    def __init__(self, what: str, found: str, fix: str) -> None:
        super().__init__(f"{what} ({found})")
        self.what = what
        self.found = found
        self.fix = fix


class OutOfMemory(MemoryError):
    """A device has no room for a storage."""


@dataclass(frozen=True)
class Reserve:
    """Memory that libraries and drivers take outside what a framework allocates: how much, and where that was measured."""

    name: str
    nbytes: int
    measured: str


@dataclass(frozen=True)
class Scratch:
    """Memory that the kernel of an operation needs while it runs.

    `arrays` of the output's shape and dtype; or one for each `every` values that a product sums up, `times` at most, no more
    than `most` bytes, and none where that is fewer than `least`.
    """

    op: str
    arrays: int = 0
    every: int = 0
    times: int = 0
    least: int = 0
    most: int = 0


@dataclass(frozen=True)
class Profile:
    """What a planner must know of a backend, as data.

    alignment        every value starts at a multiple of this many bytes
    slack            bytes a storage takes beyond its size, so that its first value can start aligned
    rounding         a storage takes a multiple of this many bytes
    product_sums     sums over the leading axis run as a matrix product with a row of ones
    scratch          operations whose kernels need memory of their own
    fuses            elementwise operations and reductions that may share one kernel, a `fused` instruction
    parts            (values to fold) -> in how many parts a fused kernel folds all of them, each with a place in scratch memory
    accumulates      whether a matrix product can be added to what its output holds
    resident         a data set that is walked over again and again stays on the device up to this many bytes; a larger one
                     passes through two slots of a batch each. 0: the device reads the host's memory
    tf32             whether matrix products of float32 may run in TF32, where an instruction says so
    reserve          what is taken outside the storages
    """

    name: str
    alignment: int
    slack: int
    rounding: int
    product_sums: bool
    scratch: tuple[Scratch, ...] = ()
    fuses: frozenset[str] = frozenset()
    parts: Callable[[int], int] | None = None
    accumulates: bool = False
    resident: int = 0
    tf32: bool = False
    reserve: tuple[Reserve, ...] = ()

    def footprint(self, nbytes: int) -> int:
        """Bytes that a storage of `nbytes` takes from the allocator, padding included."""
        return round_up(nbytes + self.slack, self.rounding) if nbytes else 0


@dataclass(frozen=True)
class View:
    """A strided window on a storage. `offset` and `strides` are in bytes."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Instruction:
    """One operation: its name, its constants, and how it looks at each operand. Most have one output."""

    op: str
    inputs: tuple[View, ...]
    outputs: tuple[View, ...]
    scratch: tuple[View, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


# Instructions that no graph has: a backend whose data asks for them gets them from the planner.
# `fused` computes its lines for each place of `shape`; reductions fold the axes `reduced`, the leading or the trailing ones.
# `matmul_add` gives alpha · a @ b + beta · c.
FUSED, ADDED_PRODUCT = "fused", "matmul_add"
# The inputs whose memory an output of theirs may take, looked at in the same way: a place is read before it is written.
OVERWRITTEN = {FUSED: slice(None), ADDED_PRODUCT: slice(2, 3)}


@dataclass(frozen=True)
class Line:
    """One operation within a fused instruction. `arguments` number the instruction's inputs, then the lines before it."""

    op: str
    dtype: str
    arguments: tuple[int, ...]
    attributes: tuple[tuple[str, Any], ...] = ()


class Storage(Protocol):
    """One block of memory, freed when the last reference to it goes."""

    @property
    def nbytes(self) -> int:
        """The bytes taken from the allocator."""


class Feed(Protocol):
    """A data set on its way into batch slots."""

    def arrange(self, order: np.ndarray[Any, Any] | None) -> None:
        """The order of the rows from here on, int64; None: as they lie. The caller must not change it."""

    def put(self, slots: Sequence[Any], start: int, stop: int) -> None:
        """Fill a slot for each column with the rows from `start` to `stop` of that order; None for a column nobody reads."""


class Backend(Protocol):
    """Memory, copies and kernels of one kind of device.

    Kernels write into outputs that were planned for them, return nothing and never allocate.
    """

    profile: Profile

    def open(self, nbytes: int) -> Storage:
        """A new storage with room for `nbytes`, its contents undefined. Raises OutOfMemory if there is none."""

    def view(self, storage: Storage, view: View) -> Any:
        """The backend's own array over that part of the storage. Copies nothing."""

    def copy_in(self, array: Any, values: np.ndarray[Any, Any] | float) -> None:
        """Write host values into one of the backend's arrays: an array of its shape, or one number for all."""

    def copy_out(self, array: Any) -> np.ndarray[Any, Any]:
        """A new host array with the values of one of the backend's arrays."""

    def copy(self, target: Any, source: Any) -> None:
        """Copy one of the backend's arrays into another of the same shape and dtype."""

    def feed(self, columns: Sequence[np.ndarray[Any, Any]], most_rows: int, again: bool) -> Feed:
        """A way for these columns of a data set into batch slots of at most so many rows; `again`: for many walks over it."""

    def export(self, array: Any) -> Any:
        """A copy of one of the backend's arrays that other libraries can take: it has `__dlpack__`. BufferError if none can."""

    def adopt(self, array: Any, given: Any) -> None:
        """Copy what another library has on this device, an object with `__dlpack__`, into one of the backend's arrays."""

    def compile(
        self, instruction: Instruction, inputs: Sequence[Any], outputs: Sequence[Any], scratch: Sequence[Any]
    ) -> Callable[[], object]:
        """A call without arguments that runs the instruction on these arrays."""

    def program(self, calls: Sequence[Callable[[], object]]) -> Callable[[], None]:
        """A call without arguments that runs all of them, in order."""

    def synchronize(self) -> None:
        """Wait until everything queued has run."""

    def free(self) -> int | None:
        """Bytes that storages could still take; None where nobody can say."""

    def allocated(self) -> int:
        """Bytes that open storages hold now."""

    def allocations(self) -> int:
        """How many storages were ever opened."""
