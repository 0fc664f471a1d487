"""Standard input as a file that can be read more than once; secrets from files or from there."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from psi.errors import VesicaError

NAME = "standard input"
LONGEST_SECRET = 1 << 16  # bytes


def secret(path: str, *, line: bool = False) -> bytes:
    """Return what a file has, or standard input where that is "-": all of it, or one `line`."""
    if path == "-":
        return sys.stdin.buffer.readline() if line else sys.stdin.buffer.read(LONGEST_SECRET)
    from node.homes import check_input

    check_input(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from error


@contextmanager
def standard_input() -> Iterator[Path]:
    """Yield a path at which what comes from standard input can be read. It is kept in memory, and nothing of it on a disk.

    An error that names the path names standard input instead.
    """
    if not hasattr(os, "memfd_create"):
        raise click.UsageError("standard input cannot be read on this system: save the data in a file, and name that")
    with os.fdopen(os.memfd_create("vesica"), "wb") as memory, TemporaryDirectory(prefix="vesica-") as folder:
        shutil.copyfileobj(sys.stdin.buffer, memory)
        memory.flush()
        path = Path(folder) / NAME
        path.symlink_to(f"/proc/{os.getpid()}/fd/{memory.fileno()}")
        try:
            yield path
        except VesicaError as error:
            error.args = (str(error).replace(str(path), NAME),)
            error.hint = error.hint.replace(str(path), NAME)
            raise
