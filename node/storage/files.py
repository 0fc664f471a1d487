"""Files that survive a kill: written beside, synced, renamed, and the directory synced. They are their owner's alone."""

import errno
import os
import stat
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
        make_directory(path.parent)
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


def make_directory(path: Path) -> None:
    """Make a directory, and those above it that are missing, for its owner alone."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def make_private(path: Path) -> None:
    """Take a file or directory from everybody but its owner; raises Failure where that is not ours to do."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            path.chmod(mode & 0o700)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Failure(
            f"other users of this machine can reach {path}", hint=f"as its owner, run: chmod go= {path}"
        ) from error


def below(directory: Path, *names: str) -> Path:
    """Return the path of stored names in a directory: the one place where a name from a row becomes a path.

    Rows may come from a backup that was written to do harm: raises Failure for a name that leads anywhere else.
    """
    for name in names:
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise Failure(
                f"the database names a file that cannot be one of this home: {name[:80]!r}",
                hint="restore the home from a backup that you trust",
            )
    return directory.joinpath(*names)


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
