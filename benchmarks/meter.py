"""What a process has spent so far: CPU, how much of that on the curve, and the peak of its memory.

Curve arithmetic is what runs inside the library calls of `psi.kernel`, a chunk of elements at a time, in CPU time of the
thread that makes them. Hashing to the curve's input, sorting and copying are not in it. Crossing into the library (1 µs
a call, 1 to 5 % of it) is. Nothing of this is in the product: `watch` puts it around two functions of the kernel.
"""

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from psi import kernel

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Seconds of wall clock, of CPU (user and system, all threads), of CPU on the curve; peak bytes since `reset`."""

    wall: float
    cpu: float
    curve: float
    peak: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class Phase:
    """One row of the table: seconds, bytes on the wire, `peaks` in bytes by process.

    `commands` is what the `vesica` commands themselves took of `cpu`, outside the services that do the work.
    """

    part: str
    n: int
    name: str
    cpu: float
    curve: float
    wall: float
    wire: int
    commands: float = 0.0
    peaks: dict[str, int] = field(default_factory=dict)

    @property
    def other(self) -> float:
        """The share of CPU that is not curve arithmetic, 0 to 1."""
        return 1 - self.curve / self.cpu if self.cpu else 0.0


class Meter:
    def __init__(self) -> None:
        self._curve = 0.0
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Count from now on the CPU time of this process's library calls."""
        chunked, add = kernel._chunked, kernel._sum

        def watched(count: int, work: Callable[[int, int], Any]) -> list[Any]:
            calls_library = work.__qualname__.startswith("_each.")
            return chunked(count, self._timed(work) if calls_library else work)

        kernel._chunked, kernel._sum = watched, self._timed(add)

    def read(self) -> Reading:
        """Return what was spent since the process began."""
        times = os.times()
        status = Path("/proc/self/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        peak = int(found[1]) * 1024
        return Reading(wall=time.monotonic(), cpu=times.user + times.system, curve=self._curve, peak=peak)

    @staticmethod
    def reset() -> None:
        """Begin a new peak of memory (Linux)."""
        Path("/proc/self/clear_refs").write_text("5")

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            before = time.thread_time()
            try:
                return function(*arguments)
            finally:
                spent = time.thread_time() - before
                with self._lock:
                    self._curve += spent

        return timed
