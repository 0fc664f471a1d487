"""Files that survive a kill: written beside, synced, renamed, and the directory synced."""

import errno
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from ..errors import DiskFull, Failure

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
OLD_SECONDS = 3600  # a file is written in much less


def write_atomically(path: Path, data: bytes | memoryview | Iterable[bytes | memoryview]) -> None:
    """Put `data`, or its pieces, at `path`, mode 0600: afterwards the whole new content is on disk, or the old file is
    as it was.

    Raises DiskFull when there is no room, Failure for whatever else the file system says.
    """
    temporary = ""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
        with os.fdopen(descriptor, "wb") as file:
            file.writelines([data] if isinstance(data, bytes | memoryview) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise failure_of(error, path) from error


def remove_leftovers(directory: Path) -> None:
    """Delete the temporary files below a directory that a kill left there."""
    for path in directory.rglob(".*"):
        if path.is_file() and is_old(path):
            path.unlink(missing_ok=True)


def is_old(path: Path) -> bool:
    """Return whether nobody can be writing there any more; a file that has just gone is not old."""
    try:
        return time.time() - path.stat().st_mtime > OLD_SECONDS
    except FileNotFoundError:
        return False


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def failure_of(error: OSError, path: Path) -> Failure:
    """Return what an OSError about `path` means to a person."""
    if error.errno in _NO_SPACE:
        return DiskFull(f"no space left to write {path}", hint="make room on that disk and run the command again")
    return Failure(f"cannot write {path}: {error.strerror}", hint="check that the directory exists and is yours")
