"""What a test puts in place of the clock and the randomness of a node."""

import hashlib
import time
from itertools import count


class Clock:
    """Unix seconds that move only when a test says so."""

    def __init__(self, now: int = 1_800_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, *, days: int = 0, seconds: int = 0) -> None:
        self.now += days * 86_400 + seconds


class RealClock(Clock):
    """The clock of this machine, and what a test adds to it."""

    def __init__(self) -> None:
        super().__init__(0)

    def __call__(self) -> int:
        return int(time.time()) + self.now


class SeededRandom:
    """The same bytes in every run, for whoever takes `random: Callable[[int], bytes]`."""

    def __init__(self, seed: str = "vesica") -> None:
        self._seed = seed.encode()
        self._numbers = count(1)  # no two threads get the same

    def __call__(self, size: int) -> bytes:
        return hashlib.shake_256(self._seed + next(self._numbers).to_bytes(8, "big")).digest(size)
