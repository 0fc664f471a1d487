"""Restoring a home from a backup, and what has to be different in it afterwards.

Partners kept what came after the backup, and a restored node must not use a number twice: new key epochs begin, letters
and data revisions get numbers far above the old ones, what partners may use up counts as spent. What was taken back since
the backup is there again: consent, feeds, tokens. So tokens and Connect IDs end, and every project is on hold until a
person resumes it. A letter notifies partners; what they do about it is in restored_partners.py.
"""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from protocol.letters import Restored
from psi.errors import Remedy

from ..access.audit import RESTORE, date
from ..access.scope import Home
from ..audiencemanager import audience_file
from ..destinations import upkeep
from ..errors import AlreadyExists, NotAllowed, StoreUnavailable
from ..feeds.runs import RunState
from ..operations.alerts import AlertKind, Alerts
from ..operations.jobs import OPEN, JobState
from ..partners import key_epochs
from ..partners.connections import BEGUN, note, with_status
from ..partners.letters import Letters
from ..storage.config import Config
from ..storage.database import Database
from ..storage.files import failure_of, sync_directory
from ..storage.records import Document
from ..storage.tables import DAY, feed_partners, feeds, jobs, projects, runs, tokens
from ..storage.temporary import RESTORING, new_directory, remove_leftovers
from .backup import ROWS, Backup, BackupIncomplete, copy_rows, opened

A_SECOND = 1_000  # letters or revisions: more than a node makes in one second
NAMED = 5  # files that an error names
DEFAULT = 100  # characters of a column's default value
_INDEX = re.compile(r"CREATE (?:UNIQUE )?INDEX \w+ ON \w+ \([\w, ]+\)")
_CHECK = re.compile(r"\bcheck\b", re.IGNORECASE)

Open = Callable[[Path, Config, Database], Home]


def restore(source: Path, home: Path, *, database: str | None, open_home: Open) -> Document:
    """Make a home of a backup, whole or not at all, and return what is in it.

    The rows go into SQLite, or into an empty PostgreSQL if `database` names one. `open_home` opens one. Raises
    BackupIncomplete with the names of what is missing.
    """
    home = home.absolute()
    if home.exists() and any(home.iterdir()):
        raise AlreadyExists(f"there is something in {home} already", hint="name a new directory")
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(home)
        with new_directory(home.parent, f"{home.name}.{RESTORING}") as staging:
            with opened(source) as backup:
                _copy(backup, source, staging)
                made = int(backup.document["made"])
            _check_visitors(staging, source)
            for name in ("spool", "cache", "data"):
                (staging / name).mkdir(mode=0o700, exist_ok=True)
            config = replace(Config.load(staging), database=database)
            (staging / "config.json").unlink()
            store = _rows(staging, database, source)
            with closing(open_home(staging, config, store)) as restored:
                done = _set_right(restored, made, source)
                key = restored.key.hex()
            config.save(staging)  # before that it is no home
            staging.replace(home)
            sync_directory(home.parent)
    except OSError as error:
        raise failure_of(error, home) from error
    return {"home": str(home), "organisation": config.organisation, "key": key, "made": made, **done}


def _copy(backup: Backup, source: Path, staging: Path) -> None:
    wrong = [name for name in backup.files if not backup.copy(name, staging / name)]
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise BackupIncomplete(
            f"{source} is not whole: missing or changed are {', '.join(wrong[:NAMED])}{more}",
            hint="copy it again, or use another backup",
        )


def _check_visitors(staging: Path, source: Path) -> None:
    """Raise BackupIncomplete where the visitors of a project are not such as a node writes."""
    for file in staging.glob("/".join(("data", "*", *audience_file.PLACE))):
        try:
            audience_file.check(file)
        except StoreUnavailable as error:
            name = file.relative_to(staging)
            raise BackupIncomplete(f"{name} of {source} is damaged", hint="use another backup") from error


def _rows(staging: Path, database: str | None, source: Path) -> Database:
    """Return the database of the home, its own or the one named, with the backup's rows in it.

    The backup's own file is not used any further. Raises BackupIncomplete where it is not such as a node writes.
    """
    taken = staging / f".{ROWS}.backup"
    (staging / ROWS).replace(taken)
    damaged = BackupIncomplete(f"{ROWS} of {source} is damaged", hint="use another backup, one that you trust")
    try:
        if not _is_plain(taken):
            raise damaged
        own = Database.open(taken)
        store = Database.open(staging / ROWS if database is None else database)
        try:
            with own.read() as reading, store.begin() as tx:
                if tx.execute(select(projects.c.id).limit(1)).first() is not None:
                    raise NotAllowed("that database has a node in it already", hint="name an empty one")
                copy_rows(reading, tx)
        except BaseException:
            store.close()
            raise
        finally:
            own.close()
    except (sqlite3.Error, SQLAlchemyError, ValueError, TypeError, RecursionError) as error:
        raise damaged from error
    finally:
        for file in staging.glob(f"{taken.name}*"):
            file.unlink()
    return store


def _is_plain(file: Path) -> bool:
    """Return whether a SQLite file has tables and indexes alone, whose pages hold each row once.

    A view, a generated or default value or a page that is linked twice gives rows without end, or larger than the file;
    a trigger or a check runs when rows are changed.
    """
    with closing(sqlite3.connect(file)) as own:
        own.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(file.stat().st_size, DEFAULT))
        for kind, name, page, sql in own.execute("SELECT type, name, rootpage, sql FROM sqlite_master").fetchall():
            if kind == "index":
                if sql is not None and not _INDEX.fullmatch(sql):
                    return False
            elif kind != "table" or not page or _CHECK.search(sql):
                return False
            else:
                columns = own.execute("SELECT dflt_value, hidden FROM pragma_table_xinfo(?)", (name,)).fetchall()
                if any(hidden or len(value or "") > DEFAULT for value, hidden in columns):
                    return False
        return bool(own.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)])


def _set_right(home: Home, made: int, source: Path) -> Document:
    """Change what must not be as it was, in one transaction, as the node's own work: its users have no tokens yet.

    Returns the partners that get a letter about it, the projects that are on hold, and how many tokens have ended and
    destinations are disabled.
    """
    now = home.now()
    passed = max(0, now - made) + 1
    partners: list[str] = []
    scopes = home.all_scopes()
    detail: Document = {"made": made, "partners": partners}
    reason = {"code": "restored", "message": "the home was restored from a backup", "hint": "run the command again"}
    with home.act(RESTORE, str(source), detail=detail) as tx:
        tx.execute(update(projects).values(restored=now, resumed=None, connect_secret=None, connect_expires=None))
        detail["tokens"] = tx.execute(delete(tokens)).rowcount
        tx.execute(update(feeds).values(revision=feeds.c.revision + A_SECOND * passed))
        tx.execute(update(feed_partners).values(full=True))
        tx.execute(
            update(runs)
            .where(runs.c.ours, runs.c.state == RunState.PREPARED)
            .values(state=RunState.FAILED, changed=now)
        )
        tx.execute(update(jobs).where(jobs.c.state.in_(OPEN)).values(state=JobState.FAILED, error=reason, changed=now))
        detail["destinations"] = upkeep.disable_restored(tx)
        upkeep.number_afresh(tx, passed)
        key_epochs.end_all_after_restore(home, tx, days=passed // DAY)
        for scope in scopes:
            text = f"on hold since a restore from a backup of {date(made)}: nothing is shared or answered"
            text += f" until a person resumes project {scope.name}"
            Alerts(scope).add(tx, AlertKind.ON_HOLD, text, remedy=Remedy("project.resume"))
            for connection in with_status(scope, *BEGUN, tx=tx):
                number = connection.letters_sent + A_SECOND * passed
                note(tx, connection, letters_sent=number, head_sent=None)
                message = Restored(received=connection.letters_received, made=made)
                Letters(scope).send(tx, connection.id, "connect.restored", message)
                partners.append(connection.alias)
    return {"to_notify": partners, "on_hold": [scope.name for scope in scopes], "tokens_ended": detail["tokens"]} | {
        "destinations_disabled": detail["destinations"]
    }
