"""Temporary files and directories, each locked by the process that makes it: so it is known what a dead process left.

The kernel lets go of a lock (flock) however a process ends. A name says on which machine it was made, since a file system
that machines share may keep the locks of each to itself. Where no lock can answer, what is there stays.
"""

import fcntl
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from functools import cache
from pathlib import Path
from typing import BinaryIO

OLD_SECONDS = 3600
RESTORING = "restoring"
_UNLOCKED = "unlocked"
_MADE = re.compile(r"\..*\.(?:([0-9a-f]{8})-([0-9a-f]{8})|unlocked)\.[a-z0-9_]{8}", re.DOTALL)
_OF_OLDER_RELEASES = (".backup.", ".duckdb.", ".owner.", ".config.json.")  # and files in _PRIVATE: they have no owner
_PRIVATE = (("keys",), ("cache",), ("spool",))
_NAME_BYTES = 180  # of a name that may have 255


class Owner(Enum):
    """What is known of the process that made a temporary file."""

    ALIVE = auto()
    DEAD = auto()
    UNKNOWN = auto()  # another machine's, or one that could not lock


def new_file(folder: Path, name: str) -> tuple[BinaryIO, Path]:
    """Make a file of mode 0600 for what will be called `name`; its process owns it as long as it is open."""
    while True:
        descriptor, made = tempfile.mkstemp(dir=folder, prefix=_prefix(name))
        path = _own(descriptor, Path(made))
        if path is not None:
            return os.fdopen(descriptor, "wb"), path
        os.close(descriptor)


@contextmanager
def new_directory(folder: Path, name: str) -> Iterator[Path]:
    """Make a directory of mode 0700, which is deleted at the end unless it has another name by then."""
    descriptor, path = _new_directory(folder, name)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _new_directory(folder: Path, name: str) -> tuple[int, Path]:
    while True:
        made = Path(tempfile.mkdtemp(dir=folder, prefix=_prefix(name)))
        with suppress(FileNotFoundError):  # deleted before it was locked
            descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
            path = _own(descriptor, made)
            if path is not None:
                return descriptor, path
            os.close(descriptor)


def remove_leftovers(home: Path) -> None:
    """Delete what dead processes left in a home, and beside it where it was being restored."""
    for path in in_home(home):
        _remove(path)


def remove_leftovers_of(folder: Path, name: str | None = None) -> None:
    """Delete what dead processes left in a directory of what was to be called `name`, or of all there."""
    for path in _beginning(folder, "." if name is None else _begins(name)):
        if _MADE.fullmatch(path.name):
            _remove(path)


def in_home(home: Path) -> Iterator[Path]:
    """Yield the temporary files and directories of a home, and those beside it that were to become it."""
    for folder, folders, files in os.walk(home):
        here = Path(folder)
        old = set(files) if here.relative_to(home).parts[:1] in _PRIVATE else set()
        hidden = [name for name in (*folders, *files) if name.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in hidden:
            if _MADE.fullmatch(name) or name.startswith(_OF_OLDER_RELEASES) or name in old:
                yield here / name
    yield from _beginning(home.parent, _begins(f"{home.name}.{RESTORING}"))


def owner_of(path: Path) -> Owner:
    """Return whether the process that made a temporary file or directory lives."""
    with _claimed(path) as owner:
        return owner


def is_old(path: Path) -> bool:
    """Return whether nobody can be writing there any more; a file that has just gone is not old."""
    try:
        return time.time() - path.stat().st_mtime > OLD_SECONDS
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    with _claimed(path) as owner, suppress(OSError):  # what cannot be deleted now, the doctor names
        if owner is not Owner.DEAD:
            return
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _claimed(path: Path) -> Iterator[Owner]:
    """Say whether its owner lives. If not, it is locked here meanwhile: whoever has just made it makes another one."""
    made = _MADE.fullmatch(path.name)
    if made is None:
        yield Owner.DEAD if is_old(path) else Owner.UNKNOWN
    elif made[1] is None or (made[1] != boot() and made[2] != machine()):
        yield Owner.UNKNOWN
    else:
        descriptor = -1
        try:
            descriptor = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_NOFOLLOW)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            owner = Owner.DEAD if _is_there(descriptor, path) else Owner.ALIVE
        except (BlockingIOError, FileNotFoundError):  # at work, or just done
            owner = Owner.ALIVE
        except OSError:
            owner = Owner.UNKNOWN
        try:
            yield owner
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _own(descriptor: int, path: Path) -> Path | None:
    """Lock what was just made, and return its path: None where it was deleted before, another one without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        name, _, random = path.name.rpartition(".")
        return path.rename(path.with_name(f"{name.removesuffix(_here())}{_UNLOCKED}.{random}"))
    return path if _is_there(descriptor, path) else None


def _is_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _prefix(name: str) -> str:
    return f"{_begins(name)}{_here()}."


def _begins(name: str) -> str:
    return f".{os.fsdecode(os.fsencode(name)[:_NAME_BYTES])}."


def _beginning(folder: Path, beginning: str) -> list[Path]:
    with suppress(OSError):
        return [folder / name for name in os.listdir(folder) if name.startswith(beginning)]
    return []


def _here() -> str:
    return f"{boot()}-{machine()}"


@cache
def boot() -> str:
    """Return what all processes under one kernel have in common, in whatever containers: they see each other's locks."""
    return _digest(_read("/proc/sys/kernel/random/boot_id") or f"{machine()} has no boot id")


@cache
def machine() -> str:
    """Return what a machine is told by after a new start."""
    return _digest(_read("/etc/machine-id") + socket.gethostname())


def _read(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text()
    return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
