"""How often something may be done for one partner, in this process."""

import threading
import time
from collections.abc import Callable

KEYS = 10_000  # remembered at once; only partners that we know have one


class Rate:
    """Allows `burst` acts of one key at once, and one more each `seconds` from then on."""

    def __init__(self, burst: int, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.burst, self._seconds, self._now = burst, seconds, now
        self._used: dict[str, tuple[float, float]] = {}  # key -> how much is used up, and when that was
        self._lock = threading.Lock()

    def allows(self, key: str) -> bool:
        """Return whether the key may act now, and count that it does."""
        now = self._now()
        with self._lock:
            used, since = self._used.get(key, (0.0, now))
            used = max(0.0, used - (now - since) / self._seconds)
            if used + 1 > self.burst:
                return False
            if len(self._used) >= KEYS and key not in self._used:
                self._used.pop(next(iter(self._used)))
            self._used[key] = used + 1, now
            return True
