"""Programs that take changes: run without a shell, with nothing of the node's environment, and for no longer than they may.

What a program writes to its standard error is thrown away: it could have identities in it.
"""

import os
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ...errors import InvalidInput
from ...homes import check_outside

TIMEOUT_SECONDS = 300.0  # for all of one message
READ_SECONDS = 5.0  # for what a program that has ended has said
LONGEST_LINE = 1 << 20  # bytes that a program may write at once
MOST_OUTPUT = 1 << 24  # bytes that it may write in all
PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit status, minus the signal that ended it; or why it was ended."""

    status: int
    late: bool = False
    too_much: bool = False


def check(path: Path) -> Path:
    """Return where a program is without links; raises InvalidInput unless nobody but its owner and root can have put it
    there."""
    check_outside(path)
    try:
        program = path.resolve(strict=True)
        found = [each.stat() for each in (program, *program.parents)]
    except OSError as error:
        raise InvalidInput(f"there is no program {path}", hint="name a file, by its whole path") from error
    if not stat.S_ISREG(found[0].st_mode) or not os.access(path, os.X_OK):
        raise InvalidInput(f"{path} is no program", hint="name a file that the node's account may run")
    owners = {0, os.geteuid()}
    for each in found:
        others = each.st_mode & 0o022 and not each.st_mode & stat.S_ISVTX
        if others or each.st_uid not in owners:
            raise InvalidInput(
                f"others than the node's account can change {path}",
                hint="let it, and the folders that it is in, be root's or the node's own, writable for no one else",
            )
    return program


def run(
    program: Path, command: Sequence[str], folder: Path, lines: Iterable[bytes], hear: Callable[[bytes], None]
) -> Ended:
    """Run a program, as `check` found it, that reads lines and answers with lines, each of which is heard; `folder` is its
    home.

    It ends with all that it started in its process group. Raises OSError where it cannot be started.
    """
    process = subprocess.Popen(  # noqa: S603 - no shell; an administrator chose it
        command,
        executable=program,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"PATH": PATH, "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"},
        start_new_session=True,
        umask=0o077,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    late, too_much = threading.Event(), threading.Event()
    ends = [
        threading.Thread(target=_write, args=(process.stdin, lines), daemon=True),
        threading.Thread(target=_read, args=(process, process.stdout, hear, too_much), daemon=True),
    ]

    def end() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(TIMEOUT_SECONDS, end)
    timer.daemon = True
    for each in (*ends, timer):
        each.start()
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # as long as it is not reaped, its number is its own
    finally:
        timer.cancel()
        _kill(process)  # and what it left behind
        process.wait()
        for each in ends:
            each.join(READ_SECONDS)
        if not any(
            each.is_alive() for each in ends
        ):  # one that left its group may hold the pipes for as long as it likes
            process.stdout.close()
    return Ended(process.returncode, late.is_set(), too_much.is_set())


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _write(stdin: IO[bytes], lines: Iterable[bytes]) -> None:
    with suppress(OSError), stdin:  # it may end before it has read all
        stdin.writelines(lines)


def _read(
    process: subprocess.Popen[bytes], stdout: IO[bytes], hear: Callable[[bytes], None], too_much: threading.Event
) -> None:
    size = 0
    while line := stdout.readline(LONGEST_LINE + 1):
        size += len(line)
        if len(line) > LONGEST_LINE or size > MOST_OUTPUT:
            too_much.set()
            _kill(process)
            return
        hear(line)
