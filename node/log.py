"""The log: lines of JSON on stderr, since stdout is for answers. structlog is not loaded before the first line."""

import logging
import sys
import threading
import time
from collections.abc import MutableMapping
from functools import cache
from typing import Any

_level = logging.WARNING
MOST = 30  # lines of one kind
WINDOW_SECONDS = 60.0  # within which they are counted: what strangers can cause must not fill a disk
KINDS = 1_000


def info(event: str, **values: object) -> None:
    _logger().info(event, **values)


def warning(event: str, **values: object) -> None:
    _logger().warning(event, **values)


def error(event: str, **values: object) -> None:
    _logger().error(event, **values)


def show(level: int) -> None:
    """Write lines of `level` and above from now on; before, only warnings and errors are written."""
    global _level
    _level = level
    _logger.cache_clear()


class _Limit:
    """Leaves out lines of a kind that come too often; the next one that is written says how many those were."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[object, ...], tuple[float, int]] = {}  # kind -> since when, and how many since then
        self._lock = threading.Lock()

    def __call__(self, _logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        kind, now = (line["event"], line.get("code"), line.get("kind")), time.monotonic()
        with self._lock:
            since, count = self._kinds.get(kind, (now, 0))
            if now - since > WINDOW_SECONDS:
                if count > MOST:
                    line["left_out"] = count - MOST
                since, count = now, 0
            if len(self._kinds) >= KINDS and kind not in self._kinds:
                self._kinds.clear()
            self._kinds[kind] = since, count + 1
        if count >= MOST:
            from structlog import DropEvent

            raise DropEvent
        return line


@cache
def _logger() -> Any:
    import structlog

    structlog.configure(
        processors=[
            _Limit(),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_level),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # of the moment: tests change it
    )
    return structlog.get_logger()
