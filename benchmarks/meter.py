"""What a process has spent so far: CPU, how much of that on the curve, and the peak of its memory.

Curve arithmetic is what runs inside the calls of `psi.kernel`'s backend, a chunk of elements at a time, in CPU time of the
thread that makes them. Hashing, sorting and copying are not in it; with libsodium, crossing into the library is (1 µs
a call, 1 to 5 % of it). Nothing of this is in the product: `watch` puts it around the backend.
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
    """Seconds of wall clock, of CPU (user and system, all threads), of CPU on the curve; peak bytes since `reset`.

    `operations` are the multiplications of a point by a scalar, those with hashing to the curve too.
    """

    wall: float
    cpu: float
    curve: float
    operations: int
    peak: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class Phase:
    """One row of the table: seconds, bytes on the wire, `peaks` in bytes by process.

    `commands` is what the `vesica` commands themselves took of `cpu`, outside the services that do the work, and
    `largest_command` the peak of the largest of them.
    """

    part: str
    n: int
    name: str
    cpu: float
    curve: float
    wall: float
    wire: int
    commands: float = 0.0
    operations: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    largest_command: int = 0

    @property
    def other(self) -> float:
        """The share of CPU that is not curve arithmetic, 0 to 1."""
        return 1 - self.curve / self.cpu if self.cpu else 0.0


class _Watched:
    """A backend of the kernel whose curve functions are timed."""

    CURVE = (
        "decode",
        "from_uniform",
        "multi_scalar_vartime",
        "multiply",
        "multiply_decoded",
        "multiply_uniform",
        "sum",
    )

    def __init__(self, backend: Any, timed: Callable[..., Callable[..., Any]]) -> None:
        self._backend = backend
        for name in self.CURVE:
            setattr(self, name, timed(getattr(backend, name), counts=name.startswith("multiply")))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class Meter:
    def __init__(self) -> None:
        self._curve, self._operations = 0.0, 0
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Count from now on the CPU time of this process's calls into the curve."""
        watched = _Watched(kernel.backend(), self._timed)
        kernel.backend = lambda: watched  # type: ignore[assignment]

    def read(self) -> Reading:
        """Return what was spent since the process began."""
        times = os.times()
        status = Path("/proc/self/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        peak = int(found[1]) * 1024
        return Reading(
            wall=time.monotonic(),
            cpu=times.user + times.system,
            curve=self._curve,
            operations=self._operations,
            peak=peak,
        )

    @staticmethod
    def reset() -> None:
        """Begin a new peak of memory (Linux)."""
        Path("/proc/self/clear_refs").write_text("5")

    def _timed(self, function: Callable[..., Any], *, counts: bool) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            before = time.thread_time()
            try:
                return function(*arguments)
            finally:
                spent = time.thread_time() - before
                with self._lock:
                    self._curve += spent
                    self._operations += len(arguments[0]) if counts else 0

        return timed
