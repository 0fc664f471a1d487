"""The types of what tests use to run a command."""

from collections.abc import Callable
from typing import Any

Run = Callable[..., tuple[int, str, str]]  # from words to the exit code, the output and the errors
Document = Callable[..., Any]  # from words to the JSON document that a command printed
