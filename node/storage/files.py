"""Files that survive a kill: written beside, synced, renamed, and the directory synced. They are their owner's alone."""

import errno
import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DiskFull, Failure
from . import temporary

if TYPE_CHECKING:
    import numpy.typing as npt

COPIED = 1 << 20  # bytes at once
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, data: bytes | memoryview | Iterable[bytes | memoryview]) -> None:
    """Put `data`, or its pieces, at `path`, mode 0600: afterwards the whole new content is on disk, or the old file is
    as it was.

    Raises DiskFull when there is no room, Failure for whatever else the file system says.
    """
    with beside(path, data) as made:
        put(made, path)


@contextmanager
def beside(path: Path, data: bytes | memoryview | Iterable[bytes | memoryview]) -> Iterator[Path]:
    """Write what will be put at `path`, and yield where it is until then; afterwards it is deleted if it is still there.

    Raises as `write_atomically` does.
    """
    made: Path | None = None
    try:
        try:
            make_directory(path.parent)
            file, made = temporary.new_file(path.parent, path.name)
        except OSError as error:
            raise failure_of(error, path) from error
        with file:
            try:
                file.writelines([data] if isinstance(data, bytes | memoryview) else data)
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                raise failure_of(error, path) from error
            yield made
    finally:
        if made is not None:
            made.unlink(missing_ok=True)


def put(made: Path, path: Path) -> None:
    """Give a file that is on disk its name, durably; raises as `write_atomically` does."""
    try:
        os.replace(made, path)
        sync_directory(path.parent)
    except OSError as error:
        raise failure_of(error, path) from error


def link(path: Path, other: Path) -> None:
    """Give a file another name in the same directory, durably; where a file system has no second names, a copy.

    Raises FileNotFoundError where it is gone, else as `write_atomically` does.
    """
    try:
        os.link(path, other)
        sync_directory(other.parent)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:
        with path.open("rb") as file:
            write_atomically(other, iter(partial(file.read, COPIED), b""))


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


def let_go(array: "npt.NDArray[Any]") -> None:
    """Let what was read of a mapped file go from memory; it is read again where it is needed. Nothing else changes."""
    base: Any = array
    while hasattr(base, "base"):  # an array, of another or of a map
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
