"""Whether a function's time grows in proportion to its input."""

import time
from collections.abc import Callable


def is_linear(work: Callable[[int], object], size: int) -> bool:
    """Return whether eight times the size takes less than 24 times the processor time; by the square it were 64 times.

    Times under 5 ms count as that: they say nothing.
    """
    return _seconds(work, 8 * size) < 24 * max(_seconds(work, size), 0.005)


def _seconds(work: Callable[[int], object], size: int) -> float:
    begun = time.process_time()
    work(size)
    return time.process_time() - begun
