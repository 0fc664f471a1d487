"""Where a command's result goes: a new file, a special file such as a pipe, or standard output.

It is opened before the work begins, so that nothing is spent on a result that has no place; a file gets its name when it is
whole, and its owner alone can read it.
"""

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import AlreadyExists, InvalidInput
from ..homes import check_outside
from .files import failure_of, sync_directory
from .temporary import new_file, remove_leftovers_of

STANDARD = "-"
_DESCRIPTOR = re.compile(r"/proc/([0-9]+)/fd/([0-9]+)")
_LINKS = 40  # as many as the kernel follows


class Output:
    """A result that is being written to `file`; it is there for others once `finish` was called."""

    def __init__(self, file: BinaryIO, path: Path, temporary: Path | None, *, force: bool) -> None:
        self.file, self._path, self._temporary, self._force = file, path, temporary, force

    def write(self, data: bytes | Iterable[bytes]) -> None:
        """Write the whole result, and finish."""
        with _failures(self._path):
            self.file.writelines([data] if isinstance(data, bytes) else data)
        self.finish()

    def finish(self) -> None:
        """Put what was written on disk under its name. Raises AlreadyExists where a file took that name meanwhile."""
        with _failures(self._path):
            self.file.flush()
            if self._temporary is not None:
                os.fsync(self.file.fileno())
                self._name(self._temporary)
                sync_directory(self._path.parent)

    def _name(self, temporary: Path) -> None:
        if not self._force:
            try:
                os.link(temporary, self._path)  # unlike a rename it replaces nothing
                return
            except FileExistsError:
                raise _exists(self._path) from None
            except OSError:  # a file system without links
                if self._path.exists():
                    raise _exists(self._path) from None
        os.replace(temporary, self._path)


@contextmanager
def opened(path: Path | str, *, force: bool = False, inputs: Iterable[Path | str] = ()) -> Iterator[Output]:
    """Open what a result is written to; "-" is standard output. Without `finish` no file appears.

    Raises AlreadyExists where a file is in the way and `force` is not given, InvalidInput for one of the `inputs`, for a
    place in a node's home and for a directory that is not there, Failure or DiskFull for what the file system says.
    """
    if str(path) == STANDARD:
        yield Output(sys.stdout.buffer, Path(STANDARD), None, force=force)
        sys.stdout.buffer.flush()
        return
    place, temporary = Path(path), None
    with _failures(place):
        place = _place(place)
        _check(place, force=force, inputs=inputs)
        if is_special(place):
            file: BinaryIO = os.fdopen(_special(place), "wb")
        else:
            remove_leftovers_of(place.parent, place.name)
            file, temporary = new_file(place.parent, place.name)
    try:
        with file:
            yield Output(file, place, temporary, force=force)
    finally:
        if temporary is not None:
            with suppress(FileNotFoundError):
                temporary.unlink()


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader has seen enough
        raise
    except OSError as error:
        raise failure_of(error, path) from error


def is_special(path: Path | str) -> bool:
    """Return whether what is written there is no file of its own: standard output, a pipe, a terminal, a device."""
    if str(path) == STANDARD:
        return True
    try:
        place = _place(Path(path))
        return _own(place) is not None or _is_no_file(place)
    except OSError:
        return False


def is_standard(path: Path | str) -> bool:
    """Return whether it is standard output, by whatever name."""
    if str(path) == STANDARD:
        return True
    return _own(_place(Path(path))) == 1


def _place(path: Path) -> Path:
    """Return where a path leads, through links, up to an open descriptor of this process: /dev/stdout is /proc/PID/fd/1."""
    for _ in range(_LINKS):
        path = Path(os.path.realpath(path.parent)) / path.name
        if _own(path) is not None or not path.is_symlink():
            break
        if _DESCRIPTOR.fullmatch(str(path)) and _is_no_file(path):  # another process's, whose link names nothing
            break
        if _is_planted(path):
            raise InvalidInput(f"{path} is another user's link in a directory of everybody", hint="name another file")
        path = path.parent / os.readlink(path)
    return path


def _is_planted(link: Path) -> bool:
    """Return whether Linux would follow a link for nobody but its owner (fs.protected_symlinks, which may be off)."""
    folder, owner = link.parent.stat(), link.lstat().st_uid
    shared = folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH
    return bool(shared) and owner not in (os.geteuid(), folder.st_uid)


def _own(path: Path) -> int | None:
    """Return which open descriptor of this process a path is."""
    found = _DESCRIPTOR.fullmatch(str(path))
    return int(found[2]) if found and int(found[1]) == os.getpid() else None


def _is_no_file(path: Path) -> bool:
    mode = path.stat().st_mode
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _check(place: Path, *, force: bool, inputs: Iterable[Path | str]) -> None:
    check_outside(place)
    if not place.parent.is_dir():
        raise InvalidInput(f"there is no directory {place.parent}", hint="make it first, or name another")
    if place.is_dir():
        raise InvalidInput(f"{place} is a directory", hint="name a file")
    for each in inputs:
        with suppress(OSError):
            if os.path.samefile(each, place):
                raise InvalidInput(f"{place} is what is read", hint="name another file for the result")
    if place.exists() and not force and not is_special(place):
        raise _exists(place)


def _special(place: Path) -> int:
    descriptor = _own(place)
    if descriptor is not None:
        # Such a descriptor is ours, for example of the database: those of a shell are inheritable.
        if not os.get_inheritable(descriptor) and descriptor > 2:
            raise InvalidInput(
                f"descriptor {descriptor} is not open for a result", hint="open it in the shell, or name a file"
            )
        return os.dup(descriptor)
    return os.open(place, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)


def _exists(place: Path) -> AlreadyExists:
    return AlreadyExists(f"there is a file {place} already", hint="name a new one, or force that it is replaced")
