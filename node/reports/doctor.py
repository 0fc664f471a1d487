"""A look at everything on which a node rests: what is wrong, and what to do about it.

Nothing is changed but by opening the home, which closes it to others and brings its tables up to date, and by the calls to
partners, which count as any others.
"""

import importlib.metadata
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select, text

from psi.errors import Remedy, VesicaError

from ..access.scope import Home
from ..errors import Failure, NotAllowed
from ..operations.jobs import OPEN
from ..partners.connections import ConnectionStatus, knock, with_status
from ..storage.database import Tx
from ..storage.locks import dead_processes, serving
from ..storage.records import Document
from ..storage.tables import DAY, HOUR, audit, connections, jobs, letters
from ..transport.server import bind

LITTLE_BYTES = 1 << 30  # free on the disk: an epoch's caches of a large partner take as much
STUCK_SECONDS, WAITING_SECONDS = DAY, HOUR  # letters that nobody took, jobs that nobody did
CLOCK_SECONDS = 300  # by which two clocks may differ before signatures are refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found: it is as it should be, or `hint` and `remedy` say what to do."""

    check: str
    good: bool
    says: str
    hint: str = ""
    remedy: Remedy | None = None

    def as_dict(self) -> Document:
        document: Document = {"check": self.check, "good": self.good, "says": self.says, "hint": self.hint}
        return document | ({"remedy": self.remedy.document()} if self.remedy else {})


def _good(check: str, says: str) -> Finding:
    return Finding(check=check, good=True, says=says)


def _bad(check: str, says: str, hint: str, remedy: Remedy | None = None) -> Finding:
    return Finding(check=check, good=False, says=says, hint=hint, remedy=remedy)


def examine(home: Path, opened: Callable[[], Home], *, partners: bool = False) -> Iterator[Finding]:
    """Yield what every check finds. With `partners` each partner that has an address is called.

    `opened` opens the home for whoever asks; what needs no open home is looked at before, all the same. Raises
    NotAllowed after that for who may not look further.
    """
    wide = _wide(home)
    for look in (_packages(), _kernel(), _files(home), _disk(home), _left_over(home)):
        yield from look
    try:
        open_home = opened()
        open_home.guard.require("node.doctor", "node", None)
    except NotAllowed:
        raise
    except VesicaError as error:
        yield _bad("database", str(error), error.hint, error.remedy)
        return
    closed = [each for each in wide if each not in _wide(home)]
    if closed:
        yield _good("files", f"was open to others; closed now: {', '.join(map(str, closed))}")
    checks: list[Callable[[Home], Iterator[Finding]]] = [_database, _keys, _clock, _port, _log, _work]
    for check in [*checks, _partners] if partners else checks:
        yield from _checked(check, open_home)


def _checked(check: Callable[[Home], Iterator[Finding]], home: Home) -> list[Finding]:
    found = []
    try:
        with home.guard.itself():
            for each in check(home):
                found.append(each)
    except VesicaError as error:
        found.append(_bad(check.__name__.strip("_"), str(error), error.hint, error.remedy))
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
        yield _bad("packages", f"not installed: {', '.join(missing)}", "install this program again, with what it needs")
    else:
        yield _good("packages", "all that it needs are installed")


def _kernel() -> Iterator[Finding]:
    import numpy as np

    from psi import kernel

    try:
        name, one = kernel.name(), np.zeros((1, 32), np.uint8)
        one[0, 0] = 1
        right = kernel.multiply_base(one).tobytes() == kernel.GENERATOR
    except (VesicaError, OSError) as error:
        yield _bad("kernel", str(error), "unset VESICA_KERNEL, or install libsodium")
        return
    if right:
        yield _good("kernel", f"{name} computes rightly")
    else:
        yield _bad("kernel", f"{name} computes wrongly", "use another one, by VESICA_KERNEL, and report it")


def _files(home: Path) -> Iterator[Finding]:
    missing = [str(each) for each in _places(home) if not each.exists()]
    if missing:
        yield _bad("files", f"missing: {', '.join(missing)}", "restore the home from a backup", Remedy("node.restore"))
    wide = _wide(home)
    if wide:
        named, typed = ", ".join(map(str, wide)), shlex.join(map(str, wide))
        yield _bad("files", f"others on this machine may open {named}", f"take that from them: chmod go= {typed}")
    if not missing and not wide:
        yield _good("files", "there, and closed to others")


def _wide(home: Path) -> list[Path]:
    """Return which files and directories others on this machine may open."""
    folders = [home, *(home / name for name in ("keys", "data", "cache", "spool"))]
    secret = [*folders, *_places(home), home / "control.db"]
    return [each for each in secret if each.exists() and stat.S_IMODE(each.stat().st_mode) & 0o077]


def _places(home: Path) -> list[Path]:
    return [home / "config.json", *(home / "keys" / name for name in ("node.key", "master.key"))]


def _disk(home: Path) -> Iterator[Finding]:
    if not home.exists():
        return
    free = shutil.disk_usage(home).free
    if free < LITTLE_BYTES:
        yield _bad("disk", f"{free >> 20:,} MiB are free where the home is", "make room: a run may need a gigabyte")
    else:
        yield _good("disk", f"{free >> 30:,} GiB are free")


def _left_over(home: Path) -> Iterator[Finding]:
    dead = dead_processes(home)
    if dead:
        said = f"{len(dead)} processes died in the middle of their work"
        yield _bad("locks", said, "run a command that does what is due: it takes over", Remedy("node.sync"))
    else:
        yield _good("locks", "no process has died in the middle of its work")


def _database(home: Home) -> Iterator[Finding]:
    with home.read() as tx:
        if tx.dialect.name == "sqlite":
            wrong = [row[0] for row in tx.execute(text("PRAGMA quick_check")) if row[0] != "ok"]
            if wrong:
                hint = "stop the service, and restore the home from a backup"
                yield _bad("database", f"the file is damaged: {wrong[0]}", hint, Remedy("node.restore"))
                return
    yield _good("database", "whole, with the tables of this release")


def _keys(home: Home) -> Iterator[Finding]:
    yield _good("keys", f"they open; the node's begins {home.key.hex()[:16]}")


def _clock(home: Home) -> Iterator[Finding]:
    with home.read() as tx:
        newest = tx.scalar(select(func.max(audit.c.at))) or 0
    if newest > home.now() + CLOCK_SECONDS:
        yield _bad("clock", "it is behind what the audit log has seen", "set the machine's clock, by NTP")
    else:
        yield _good("clock", "not behind the audit log")


def _port(home: Home) -> Iterator[Finding]:
    listen = home.config.listen
    if serving(home.path):
        yield _good("port", f"the service runs, and listens on {listen}")
        return
    try:
        bind(listen).close()
    except Failure as error:
        yield _bad("port", str(error), "end what listens there, or choose another address", Remedy("node.set"))
    else:
        yield _good("port", f"{listen} is free; no service runs")


def _log(home: Home) -> Iterator[Finding]:
    head = home.audit.verify()
    yield _good("audit", f"whole up to row {head.number}")


def _work(home: Home) -> Iterator[Finding]:
    now = home.now()
    with home.read() as tx:
        stuck = _stuck(tx, now - STUCK_SECONDS)
        waiting = tx.scalar(select(func.count()).where(jobs.c.state.in_(OPEN), jobs.c.changed < now - WAITING_SECONDS))
    if stuck:
        said = f"letters wait for a day or longer for {', '.join(stuck)}"
        yield _bad("letters", said, "ask that partner whether its node runs, and look at it", Remedy("partner.list"))
    else:
        yield _good("letters", "none waits for long")
    if waiting:
        said = f"{waiting} jobs wait or run for an hour or longer"
        yield _bad("jobs", said, "start the service, or do them now", Remedy("node.sync"))
    else:
        yield _good("jobs", "none waits for long")


def _stuck(tx: Tx, before: int) -> list[str]:
    query = (
        select(connections.c.alias)
        .join(letters, letters.c.connection_id == connections.c.id)
        .where(letters.c.delivered.is_(None), letters.c.created < before)
        .where(connections.c.status == ConnectionStatus.ACTIVE)
    )
    return sorted(set(tx.scalars(query)))


def _partners(home: Home) -> Iterator[Finding]:
    for scope in home.all_scopes():
        for connection in with_status(scope, ConnectionStatus.ACTIVE):
            if not connection.peer_address:
                continue
            check = f"partner {connection.alias}"
            try:
                knock(scope, connection, patience=3.0)
            except VesicaError as error:
                yield _bad(check, str(error), error.hint, error.remedy)
            else:
                yield _good(check, f"answers at {connection.peer_address}, with its own key and our time")
