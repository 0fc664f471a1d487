"""Restoring a home from a backup, and what has to be different in it afterwards.

Partners have gone on since the backup was made, and a node that is set back must not repeat itself: key epochs begin
anew, letters and data revisions go on far above the old numbers, what partners may use up counts as spent. What was
taken back since the backup is back: consent, feeds, tokens. So tokens and Connect IDs end, and every project is on hold
until a person says that it goes on. Partners are told; what they answer is in `node.resuming`.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, func, insert, select, update

from protocol.letters import Restored

from ..access.audit import RESTORE, date
from ..errors import AlreadyExists, Refused
from ..storage.config import Config
from ..storage.database import Store
from ..storage.files import explained, sync_directory
from ..storage.tables import DAY, connections, epochs, feed_partners, feeds, jobs, projects, runs, tokens
from .backup import ROWS, Backup, BackupIncomplete, copy_rows, opened

if TYPE_CHECKING:
    from ..node import Node

A_SECOND = 1_000  # letters or revisions that no node makes in one second
TOLD = ("pending", "requested", "active")
NAMED = 5  # files that an error names

Open = Callable[[Path, Config, Store], "Node"]


def restore(source: Path, home: Path, *, database: str | None, node: Open) -> dict[str, Any]:
    """Make a home of a backup, whole or not at all, and return what is in it.

    The rows go into SQLite, or into an empty PostgreSQL if `database` names one. `node` opens a home. Raises
    BackupIncomplete with the names of what is missing.
    """
    home = home.absolute()
    if home.exists() and any(home.iterdir()):
        raise AlreadyExists(f"there is something in {home} already", hint="name a new directory with --home")
    staging = home.with_name(f".{home.name}.restoring")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700, parents=True)
        with opened(source) as backup:
            _copy(backup, source, staging)
            made = int(backup.document["made"])
        for name in ("spool", "cache", "data"):
            (staging / name).mkdir(mode=0o700, exist_ok=True)
        config = replace(Config.load(staging), database=database)
        (staging / "config.json").unlink()
        store = _rows(staging, database)
        with node(staging, config, store) as restored:
            done = _begin_anew(restored, made, source)
            key = restored.key.hex()
        if database is not None:
            (staging / ROWS).unlink()
        config.save(staging)  # before that it is no home
        home.parent.mkdir(parents=True, exist_ok=True)
        staging.replace(home)
        sync_directory(home.parent)
    except OSError as error:
        raise explained(error, home) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return {"home": str(home), "organisation": config.organisation, "key": key, "made": made, **done}


def _copy(backup: Backup, source: Path, staging: Path) -> None:
    wrong = [name for name in backup.files if not backup.copy(name, staging / name)]
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise BackupIncomplete(
            f"{source} is not whole: missing or changed are {', '.join(wrong[:NAMED])}{more}",
            hint="copy it again, or use another backup",
        )


def _rows(staging: Path, database: str | None) -> Store:
    """Return the store of the home: the backup's own, or the one named, with the backup's rows in it."""
    own = Store.open(staging / ROWS)
    if database is None:
        return own
    store = Store.open(database)
    try:
        with own.read() as reading, store.begin() as tx:
            if tx.execute(select(projects.c.id).limit(1)).first() is not None:
                raise Refused("that database holds a node already", hint="name an empty one with --database")
            copy_rows(reading, tx)
    except BaseException:
        store.close()
        raise
    finally:
        own.close()
    return store


def _begin_anew(node: "Node", made: int, source: Path) -> dict[str, Any]:
    """Change what must not be as it was, in one transaction, as the node's own work: its users have no tokens yet.

    Returns the partners that will be told, the projects that are on hold, and how many tokens have ended.
    """
    now = node.now()
    passed = max(0, now - made) + 1
    told: list[str] = []
    held = node.all_projects()
    detail: dict[str, Any] = {"made": made, "partners": told}
    reason = {"code": "restored", "message": "the home was restored from a backup", "hint": "run the command again"}
    with node.act(RESTORE, str(source), detail=detail) as tx:
        tx.execute(update(projects).values(restored=now, resumed=None, connect_secret=None, connect_expires=None))
        detail["tokens"] = tx.execute(delete(tokens)).rowcount
        tx.execute(update(feeds).values(revision=feeds.c.revision + A_SECOND * passed))
        tx.execute(update(feed_partners).values(anew=True))
        tx.execute(update(runs).where(runs.c.ours, runs.c.state == "prepared").values(state="failed", changed=now))
        tx.execute(
            update(jobs)
            .where(jobs.c.state.in_(("queued", "running")))
            .values(state="failed", error=reason, changed=now)
        )
        _end_epochs(node, tx, now, passed)
        for project in held:
            text = f"on hold since a restore from a backup of {date(made)}: nothing is shared or answered"
            project.alerts.add(tx, "on_hold", f"{text} until you say so: vesica project resume {project.name}")
            mine = (connections.c.project_id == project.id, connections.c.status.in_(TOLD))
            for row in tx.execute(select(connections).where(*mine).order_by(connections.c.alias)).all():
                number = row.letters_sent + A_SECOND * passed
                sent = update(connections).where(connections.c.id == row.id)
                tx.execute(sent.values(letters_sent=number, head_sent=None))
                message = Restored(received=row.letters_received, made=made)
                project.letters.send(tx, row.id, "connect.restored", message)
                told.append(row.alias)
    return {"told": told, "on_hold": [project.name for project in held], "tokens_ended": detail["tokens"]}


def _end_epochs(node: "Node", tx: Connection, now: int, passed: int) -> None:
    """End the running epochs, and let the next ones have numbers that the partner has most likely not reached."""
    tx.execute(update(epochs).where(epochs.c.ended.is_(None)).values(secret=b"", ended=now))
    last = dict(
        map(
            tuple,
            tx.execute(select(epochs.c.connection_id, func.max(epochs.c.number)).group_by(epochs.c.connection_id)),
        )
    )
    for connection_id in tx.scalars(select(connections.c.id).where(connections.c.status.in_(TOLD))).all():
        number = last.get(connection_id, 0) + 1 + passed // DAY
        skipped = {"id": node.new_id(), "connection_id": connection_id, "number": number, "secret": b""}
        tx.execute(insert(epochs).values(**skipped, started=now, ended=now))
