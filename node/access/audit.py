"""The audit log: who did what to what, when, and what came of it; each row carries the hash of the one before.

Rows hold names and numbers, never an identity or a secret. They are only ever added.
"""

import csv
import getpass
import hashlib
import io
import json
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

from sqlalchemy import Connection, Row, delete, func, select

from psi.hashing import length_prefixed

from ..errors import AuditBroken, InvalidInput, Refused
from ..storage.database import Store
from ..storage.tables import DAY
from ..storage.tables import audit as rows

Result = Literal["allow", "deny", "fail"]

KEPT_DAYS = 365
PRUNE, RESTORE = "audit.prune", "node.restore"  # the acts whose rows explain why others are not there

_LABEL = b"vesica/1 audit"
_START = bytes(32)  # the hash before the first row
_MAX_TARGET = 400  # the column's width


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    number: int
    at: int
    project_id: str | None
    actor: str
    act: str
    target: str
    result: str
    detail: dict[str, Any]
    digest: bytes

    def as_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "at": date(self.at),
            "project": self.project_id,
            "actor": self.actor,
            "act": self.act,
            "target": self.target,
            "result": self.result,
            "detail": self.detail,
            "digest": self.digest.hex(),
        }


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain: whoever keeps one can later tell whether the rows up to it are still the same."""

    number: int
    digest: bytes

    def __str__(self) -> str:
        return f"{self.number}:{self.digest.hex()}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        number, _, digest = text.partition(":")
        if number.isascii() and number.isdigit() and re.fullmatch("[0-9a-f]{64}", digest):
            return cls(int(number), bytes.fromhex(digest))
        raise InvalidInput("that is no head of an audit log", hint="'vesica audit verify' prints one: NUMBER:HEX")


class Audit:
    """`actor` names who acts; `check` raises unless whoever acts may read a project's rows, or with None all of them."""

    def __init__(
        self, store: Store, now: Callable[[], int], *, actor: Callable[[], str], check: Callable[[str | None], None]
    ) -> None:
        self._store = store
        self._now = now
        self._actor = actor
        self._check = check

    def record(
        self,
        tx: Connection,
        act: str,
        target: str,
        *,
        project_id: str | None,
        result: Result = "allow",
        detail: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> None:
        """Add a row in the caller's transaction, so that the change and its row are kept or lost together.

        `actor` is whoever acts through this node unless given (a partner's alias).
        """
        end = last(tx)
        values: dict[str, Any] = {
            "number": end.number + 1,
            "at": self._now(),
            "project_id": project_id,
            "actor": _clean(actor or self._actor())[:255],
            "act": act,
            "target": _clean(target)[:_MAX_TARGET],
            "result": result,
            "detail": dict(detail or {}),
            "previous": end.digest,
        }
        tx.execute(rows.insert().values(**values, digest=_digest(**values)))

    def list(
        self,
        *,
        project_id: str | None = None,
        act: str | None = None,
        actor: str | None = None,
        result: str | None = None,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
    ) -> list[Entry]:
        """Return rows, newest first. `act` is an act or the noun before its dot ("feed"); times are Unix seconds,
        `until` is not included."""
        self._check(project_id)
        query = select(rows).order_by(rows.c.number.desc())
        if project_id is not None:
            query = query.where(rows.c.project_id == project_id)
        if act is not None:
            query = query.where((rows.c.act == act) | rows.c.act.startswith(f"{act}.", autoescape=True))
        if actor is not None:
            query = query.where(rows.c.actor == actor)
        if result is not None:
            query = query.where(rows.c.result == result)
        if since is not None:
            query = query.where(rows.c.at >= since)
        if until is not None:
            query = query.where(rows.c.at < until)
        if limit is not None:
            query = query.limit(limit)
        with self._store.read() as connection:
            return [_entry(row) for row in connection.execute(query)]

    def head(self) -> Head:
        with self._store.read() as connection:
            return last(connection)

    def verify(self, *, upto: Head | None = None) -> Head:
        """Recompute the whole chain and return its head; raises AuditBroken with the first number that is wrong.

        `upto` is a head noted earlier, here or by a partner: it must be in the chain, so rows cut off the end show. A log
        that does not begin with row 1 must say itself, in the row of a `prune`, after which head it begins.
        """
        self._check(None)
        previous, number, begins = _START, 0, None
        met = upto is None or upto == Head(0, _START)
        pruned: set[str] = set()
        with self._store.read() as connection:
            for row in connection.execute(select(rows).order_by(rows.c.number)).yield_per(1_000):
                if begins is None:
                    begins = Head(row.number - 1, row.previous)
                    previous, number, met = row.previous, row.number - 1, met or upto == begins
                number += 1
                content = row._asdict()
                digest = content.pop("digest")
                if row.number != number or row.previous != previous or _digest(**content) != digest:
                    raise AuditBroken(
                        f"the audit log was changed: row {number} does not follow from the rows before it",
                        hint="compare it with an earlier export or backup",
                    )
                if (row.act, row.result) == (PRUNE, "allow"):
                    pruned.add(row.detail.get("begins_after"))
                previous = digest
                met = met or upto == Head(number, digest)
        if begins not in (None, Head(0, _START)) and str(begins) not in pruned:
            raise AuditBroken(
                f"the audit log was changed: it begins after row {begins.number if begins else 0}, and nobody pruned it",
                hint="compare it with an earlier export or backup",
            )
        if not met:
            raise AuditBroken(
                "the audit log does not hold the head that was noted",
                hint="rows were replaced or cut off its end, or the head is older than what was pruned",
            )
        return Head(number, previous)

    def prune(self, tx: Connection, before: int) -> Mapping[str, Any]:
        """Delete the rows up to the first one that is not from before a time, and return what the act's row has to say.

        Refused for a time that is not KEPT_DAYS ago. What stays verifies, since the act's row names the head before it.
        """
        latest = self._now() - KEPT_DAYS * DAY
        if before > latest:
            raise Refused(
                f"rows of the audit log are kept for {KEPT_DAYS} days",
                hint=f"vesica audit prune --before {date(latest)[:10]}",
            )
        first = tx.scalar(select(func.min(rows.c.number)).where(rows.c.at >= before))
        gone = rows.c.number < (last(tx).number if first is None else first)  # the newest stays: the next one names it
        count = tx.scalar(select(func.count()).where(gone)) or 0
        head = tx.execute(
            select(rows.c.number, rows.c.digest).where(gone).order_by(rows.c.number.desc()).limit(1)
        ).first()
        tx.execute(delete(rows).where(gone))
        return {"rows": count, "begins_after": str(Head(head.number, head.digest)) if head else None}

    def export(self, format: Literal["csv", "json"], **filters: Any) -> str:
        """Return what `list` finds, oldest first, as one text: CSV with a header line, or a JSON array."""
        documents = [entry.as_dict() for entry in reversed(self.list(**filters))]
        if format == "json":
            return json.dumps(documents, indent=2) + "\n"
        file = io.StringIO(newline="")
        names = ["number", "at", "project", "actor", "act", "target", "result", "detail", "digest"]
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for document in documents:
            cells = {**document, "detail": json.dumps(document["detail"], sort_keys=True)}
            writer.writerow({name: _cell(value) for name, value in cells.items()})
        return file.getvalue()


def date(seconds: int) -> str:
    """Return Unix seconds as the log's exports spell them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def last(connection: Connection) -> Head:
    """Return the head of the log, as this transaction sees it."""
    row = connection.execute(select(rows.c.number, rows.c.digest).order_by(rows.c.number.desc()).limit(1)).first()
    return Head(row.number, row.digest) if row else Head(0, _START)


def stands(connection: Connection, head: Head, *, made: int) -> str:
    """Say how the log stands to a head of it that was noted when it was `made`.

    "there"; "pruned" if it is from before the log begins; "restored" if a later restore set the log back behind it, which
    only people can judge; else "changed".
    """
    found = connection.scalar(select(rows.c.digest).where(rows.c.number == head.number))
    if found == head.digest or head == Head(0, _START):
        return "there"
    begins = connection.execute(select(rows.c.number, rows.c.previous).order_by(rows.c.number).limit(1)).first()
    if found is None and begins is not None and head.number < begins.number:
        known = head.number < begins.number - 1 or head.digest == begins.previous
        return "pruned" if known else "changed"
    back = select(rows.c.number).where(rows.c.act == RESTORE, rows.c.result == "allow", rows.c.at >= made)
    return "restored" if connection.execute(back.where(rows.c.number <= head.number)).first() else "changed"


def _entry(row: Row[Any]) -> Entry:
    content = row._asdict()
    del content["previous"]
    return Entry(**content)


def _digest(
    *,
    number: int,
    at: int,
    project_id: str | None,
    actor: str,
    act: str,
    target: str,
    result: str,
    detail: dict[str, Any],
    previous: bytes,
) -> bytes:
    content = json.dumps(detail, sort_keys=True, separators=(",", ":"), allow_nan=False)
    words = (project_id or "", actor, act, target, result, content)
    return hashlib.sha256(
        length_prefixed(
            _LABEL, previous, number.to_bytes(8, "big"), at.to_bytes(8, "big"), *(word.encode() for word in words)
        )
    ).digest()


def _clean(text: str) -> str:
    """Keep what every database can hold: no NUL, no half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _cell(value: Any) -> Any:
    """Keep a spreadsheet from running a partner's name as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


@cache
def process_user() -> str:
    """Return the name of who runs this process."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a passwd entry
        name = "unknown"
    return f"{name}@{socket.gethostname()}"
