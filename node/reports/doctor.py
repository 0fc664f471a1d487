"""A look at everything on which a node rests: what is wrong, and what to do about it.

Nothing is changed but by opening the home, which closes it to others and brings its tables up to date, and by the calls to
partners, which count as any others.
"""

import importlib.metadata
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import func, select, text

from psi.errors import Remedy, VesicaError

from ..access.scope import Home
from ..audiencemanager import audience_file
from ..errors import Failure, NotAllowed
from ..operations.jobs import OPEN
from ..partners.connections import ConnectionStatus, probe, with_status
from ..partners.stuck_letters import stuck
from ..storage import temporary
from ..storage.locks import check as check_locks
from ..storage.locks import dead_processes, serving
from ..storage.records import Document
from ..storage.tables import HOUR, audit, jobs
from ..transport.server import bind
from ..transport.signatures import SKEW_SECONDS

VISITORS = "/".join(("data", "*", *audience_file.PLACE))  # below the home
LITTLE_BYTES = 1 << 30  # free on the disk: an epoch's caches of a large partner take as much
WAITING_SECONDS = HOUR  # of a job that nobody does


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found: it is as it should be, or `hint` and `remedy` say what to do."""

    good: bool
    says: str
    hint: str = ""
    remedy: Remedy | None = None
    check: str = ""

    def as_dict(self) -> Document:
        document: Document = {"check": self.check, "good": self.good, "says": self.says, "hint": self.hint}
        return document | ({"remedy": self.remedy.document()} if self.remedy else {})


def _good(says: str) -> Finding:
    return Finding(good=True, says=says)


def _bad(says: str, hint: str, remedy: Remedy | None = None) -> Finding:
    return Finding(good=False, says=says, hint=hint, remedy=remedy)


def examine(home: Path, opened: Callable[[], Home], *, partners: bool = False) -> Iterator[Finding]:
    """Yield what every check finds. With `partners` each partner that has an address is called.

    `opened` opens the home for whoever asks; what needs no open home is looked at before, all the same. Raises
    NotAllowed after that for who may not look further.
    """
    wide = _wide(home)
    for name, found in {
        "packages": _packages(),
        "kernel": _kernel(),
        "files": _files(home),
        "disk": _disk(home),
        "locks": _locks(home),
        "temporary files": _temporary_files(home),
    }.items():
        yield from _named(name, found)
    try:
        open_home = opened()
        open_home.guard.require("node.doctor", "node", None)
    except NotAllowed:
        raise
    except VesicaError as error:
        yield from _named("database", [_bad(str(error), error.hint, error.remedy)])
        return
    closed = [each for each in wide if each not in _wide(home)]
    if closed:
        yield from _named("files", [_good(f"was open to others; closed now: {', '.join(map(str, closed))}")])
    for name, check in {**CHECKS, "partners": _partners}.items() if partners else CHECKS.items():
        yield from _named(name, _checked(check, open_home))


def _named(check: str, found: Iterable[Finding]) -> Iterator[Finding]:
    return (replace(each, check=each.check or check) for each in found)


def _checked(check: Callable[[Home], Iterator[Finding]], home: Home) -> list[Finding]:
    found = []
    try:
        with home.guard.itself():
            for each in check(home):
                found.append(each)
    except VesicaError as error:
        found.append(_bad(str(error), error.hint, error.remedy))
    return found


def _packages() -> Iterator[Finding]:
    missing = []
    for requirement in importlib.metadata.requires("vesica") or ():
        if "extra ==" not in requirement:
            name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
            try:
                importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                missing.append(name)
    if missing:
        yield _bad(f"not installed: {', '.join(missing)}", "install this program again, with what it needs")
    else:
        yield _good("all that it needs are installed")


def _kernel() -> Iterator[Finding]:
    import numpy as np

    from psi import kernel

    try:
        name, one = kernel.name(), np.zeros((1, 32), np.uint8)
        one[0, 0] = 1
        right = kernel.multiply_base(one).tobytes() == kernel.GENERATOR
    except (VesicaError, OSError) as error:
        yield _bad(str(error), "unset VESICA_KERNEL, or install libsodium")
        return
    if right:
        yield _good(f"{name} computes rightly")
    else:
        yield _bad(f"{name} computes wrongly", "use another one, by VESICA_KERNEL, and report it")


def _files(home: Path) -> Iterator[Finding]:
    missing = [str(each) for each in _places(home) if not each.exists()]
    if missing:
        yield _bad(f"missing: {', '.join(missing)}", "restore the home from a backup", Remedy("node.restore"))
    wide = _wide(home)
    if wide:
        named, typed = ", ".join(map(str, wide)), shlex.join(map(str, wide))
        yield _bad(f"others on this machine may open {named}", f"take that from them: chmod go= {typed}")
    if not missing and not wide:
        yield _good("there, and closed to others")


def _wide(home: Path) -> list[Path]:
    """Return which files and directories others on this machine may open."""
    folders = [home, *(home / name for name in ("keys", "data", "cache", "spool"))]
    secret = [*folders, *_places(home), home / "control.db", *home.glob(f"{VISITORS}*")]
    return [each for each in secret if each.exists() and stat.S_IMODE(each.stat().st_mode) & 0o077]


def _places(home: Path) -> list[Path]:
    return [home / "config.json", *(home / "keys" / name for name in ("node.key", "master.key"))]


def _disk(home: Path) -> Iterator[Finding]:
    if not home.exists():
        return
    free = shutil.disk_usage(home).free
    if free < LITTLE_BYTES:
        yield _bad(f"{free >> 20:,} MiB are free where the home is", "make room: a run may need a gigabyte")
    else:
        yield _good(f"{free >> 30:,} GiB are free")


def _locks(home: Path) -> Iterator[Finding]:
    if not home.exists():
        return
    try:
        check_locks(home)
    except OSError as error:
        said = f"the file system has no locks, by which processes know of each other: {error.strerror}"
        yield _bad(said, "stop what runs on this home, and move it to a file system with locks (flock)")
        return
    if dead := dead_processes(home):
        said = f"{len(dead)} processes died in the middle of their work"
        yield _bad(said, "run a command that does what is due: it takes over", Remedy("node.sync"))
    else:
        yield _good("no process has died in the middle of its work")


def _temporary_files(home: Path) -> Iterator[Finding]:
    """Name the temporary files that no process has any more, and those of which nobody can tell."""
    found: dict[temporary.Owner, list[str]] = {}
    for path in temporary.in_home(home):
        found.setdefault(temporary.owner_of(path), []).append(str(path))
    if dead := found.get(temporary.Owner.DEAD, []):
        said = f"left by processes that were killed, perhaps with data or keys in it: {', '.join(dead)}"
        hint = "run a command that does what is due: it deletes them, as a running service does in ten minutes"
        yield _bad(said, hint, Remedy("node.sync"))
    if unknown := found.get(temporary.Owner.UNKNOWN, []):
        said = f"made on another machine, without locks or by another release, so they stay: {', '.join(unknown)}"
        yield _bad(said, f"when nothing runs on this home, on any machine, delete them: rm -r {shlex.join(unknown)}")
    if not dead and not unknown:
        yield _good("none is left of a process that has ended")


def _database(home: Home) -> Iterator[Finding]:
    with home.read() as tx:
        if tx.dialect.name == "sqlite":
            wrong = [row[0] for row in tx.execute(text("PRAGMA quick_check")) if row[0] != "ok"]
            if wrong:
                hint = "stop the service, and restore the home from a backup"
                yield _bad(f"the file is damaged: {wrong[0]}", hint, Remedy("node.restore"))
                return
    yield _good("whole, with the tables of this release")


def _visitors(home: Home) -> Iterator[Finding]:
    """Look at the files of visitors, where the Audience Manager side is used."""
    there = sorted(home.path.glob(VISITORS))
    for each in there:
        audience_file.check(each)
    yield _good("whole" if there else "none are known")


def _keys(home: Home) -> Iterator[Finding]:
    yield _good(f"they open; the node's begins {home.key.hex()[:16]}")


def _clock(home: Home) -> Iterator[Finding]:
    with home.read() as tx:
        newest = tx.scalar(select(func.max(audit.c.at))) or 0
    if newest > home.now() + SKEW_SECONDS:
        yield _bad("it is behind what the audit log has seen", "set the machine's clock, by NTP")
    else:
        yield _good("not behind the audit log")


def _port(home: Home) -> Iterator[Finding]:
    listen = home.config.listen
    if serving(home.path):
        yield _good(f"the service runs, and listens on {listen}")
        return
    try:
        bind(listen).close()
    except Failure as error:
        yield _bad(str(error), "end what listens there, or choose another address", Remedy("node.set"))
    else:
        yield _good(f"{listen} is free; no service runs")


def _audit(home: Home) -> Iterator[Finding]:
    head = home.audit.verify()
    yield _good(f"whole up to row {head.number}")


def _letters(home: Home) -> Iterator[Finding]:
    with home.read() as tx:
        late = {connection.alias for scope in home.all_scopes(tx) for connection, _ in stuck(scope, tx)}
    if late:
        said = f"letters wait for a day or longer for {', '.join(sorted(late))}"
        yield _bad(said, "ask that partner whether its node runs, and look at it", Remedy("partner.list"))
    else:
        yield _good("none waits for long")


def _jobs(home: Home) -> Iterator[Finding]:
    before = home.now() - WAITING_SECONDS
    with home.read() as tx:
        waiting = tx.scalar(select(func.count()).where(jobs.c.state.in_(OPEN), jobs.c.changed < before))
    if waiting:
        said = f"{waiting} jobs wait or run for an hour or longer"
        yield _bad(said, "start the service, or do them now", Remedy("node.sync"))
    else:
        yield _good("none waits for long")


def _partners(home: Home) -> Iterator[Finding]:
    for scope in home.all_scopes():
        for connection in with_status(scope, ConnectionStatus.ACTIVE):
            if not connection.peer_address:
                continue
            try:
                probe(scope, connection, patience=3.0)
            except VesicaError as error:
                found = _bad(str(error), error.hint, error.remedy)
            else:
                found = _good(f"answers at {connection.peer_address}, with its own key and our time")
            yield replace(found, check=f"partner {connection.alias}")


CHECKS: Mapping[str, Callable[[Home], Iterator[Finding]]] = {  # of an open home, by the name that people read
    "database": _database,
    "visitors": _visitors,
    "keys": _keys,
    "clock": _clock,
    "port": _port,
    "audit": _audit,
    "letters": _letters,
    "jobs": _jobs,
}
