"""The log: lines of JSON on stderr, since stdout is for answers. structlog is not loaded before the first line."""

import logging
import sys
from functools import cache
from typing import Any

_level = logging.WARNING


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


@cache
def _logger() -> Any:
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_level),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # of the moment: tests change it
    )
    return structlog.get_logger()
