"""Seeds. Everything random is drawn from Philox, a counter-based generator, keyed by what it is for.

Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from os import urandom

import numpy as np

from .errors import InvalidType, explain


@dataclass(frozen=True)
class Stream:
    """A source of random numbers: a seed, and the turn of what draws from it since that seed was set."""

    seed: int
    turn: int

    def generator(self, purpose: str) -> np.random.Generator:
        return generator(self.seed, f"{self.turn}/{purpose}")

    def key(self, purpose: str) -> tuple[int, int]:
        """A Philox key, for random numbers that are drawn while a program runs."""
        return key(self.seed, f"{self.turn}/{purpose}")


_seed = int.from_bytes(urandom(8), "little")
_turns = count()
_was_set = False


def set_seed(seed: int) -> None:
    """Make what is created from here on reproducible: initial weights, dropout, and the shuffles of a `fit` without a seed."""
    global _seed, _turns, _was_set
    _seed, _turns, _was_set = check_seed(seed), count(), True


def check_seed(seed: int) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise InvalidType(explain("a seed is a whole number.", received=repr(seed), fix="af.set_seed(11)"))
    return seed.__index__()


_streams: ContextVar[Iterator[Stream] | None] = ContextVar("streams", default=None)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What is created inside is drawn from this seed, whatever `set_seed` says, and leaves that one's turns alone."""
    token = _streams.set(Stream(seed, turn) for turn in count())
    try:
        yield
    finally:
        _streams.reset(token)


def new_stream() -> Stream:
    streams = _streams.get()
    return Stream(_seed, next(_turns)) if streams is None else next(streams)


def shuffle_seed() -> int:
    """The seed of a `fit` that was given none."""
    return _seed if _was_set else int.from_bytes(urandom(8), "little")


def key(seed: int, purpose: str) -> tuple[int, int]:
    """The two words of a Philox key that depends on nothing but the seed and what it is for."""
    from hashlib import blake2b  # loaded at the first draw: it is a tenth of the time of `import aforo`

    digest = blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator that depends on nothing but the seed and what it is for."""
    return np.random.Generator(np.random.Philox(key=np.array(key(seed, purpose), np.uint64)))
