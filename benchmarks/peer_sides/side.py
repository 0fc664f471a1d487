"""What the process of one party does for `benchmarks.peers`: it waits for a phase, runs it, and tells what it spent.

The same in the project's environment and in that of the peers, so it imports the standard library alone. Orders are lines
of JSON on stdin, replies are lines of JSON on stdout; whatever the peer's library prints goes to stderr.
"""

import json
import os
import re
import resource
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

HEAD = "email"
Work = Callable[..., int | str | None]  # the number found, the path of a file of e-mails found, or neither


def serve(phases: Mapping[str, Work]) -> None:
    """Run the phases that stdin asks for, until it ends. What was imported before is in no phase."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    replies.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        Path("/proc/self/clear_refs").write_text("5")  # a new peak of memory begins
        before = _cpu()
        found = phases[order["phase"]](**order["arguments"])
        replies.write(json.dumps({"cpu": _cpu() - before, "peak": _peak(), "found": found}) + "\n")


def read(path: str) -> list[str]:
    """Return the e-mails of a file of one column."""
    return Path(path).read_text().splitlines()[1:]


def write(path: str, emails: Iterable[str]) -> str:
    Path(path).write_text("".join(f"{email}\n" for email in (HEAD, *emails)))
    return path


def _cpu() -> float:
    """Return the user and system seconds of all threads, and of the programs that have ended (spu calls `sort`)."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak() -> int:
    """Return the peak of resident memory in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
