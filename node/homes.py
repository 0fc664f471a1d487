"""Where nodes keep what is theirs: no command reads its input from there, or writes a result there.

A home has people whom a caller may not see, keys and the audit log; and so has a backup of one, which is laid out alike.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from .errors import InvalidInput

OPENED: set[Path] = set()  # the homes that this process has open


def check_outside(path: Path | str) -> None:
    """Raise InvalidInput for a path in a node's home, this one's or another's, or in a backup; links are followed."""
    found = Path(os.path.realpath(path))
    for each in (found, *found.parents):
        if os.path.isdir(each / "keys") and os.path.exists(each / "config.json"):
            raise _inside(path)


def check_input(path: Path | str) -> None:
    """Raise InvalidInput for what `check_outside` refuses, and for another name of a file in a home that is open here."""
    check_outside(path)
    try:
        found = os.stat(path)
    except OSError:
        return  # whoever opens it says so
    if found.st_nlink > 1 and any(os.path.samestat(found, each) for home in OPENED for each in _files(home)):
        raise _inside(path)


def check_file(path: Path | str) -> None:
    """Raise InvalidInput for what `check_input` refuses, and for a pipe or a device, which may never end."""
    check_input(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise InvalidInput(f"{path} is no file", hint="name a file")


def _files(home: Path) -> Iterator[os.stat_result]:
    for folder, _, names in os.walk(home):
        for name in names:
            try:
                yield os.lstat(os.path.join(folder, name))
            except OSError:  # it has just gone
                continue


def _inside(path: Path | str) -> InvalidInput:
    return InvalidInput(
        f"{path} is in the home of a node, or in a backup of one, which are the node's alone",
        hint="name a file elsewhere",
    )
