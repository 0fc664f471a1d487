"""The audit log: who did what to what, when, and what came of it; each row carries the hash of the one before.

Rows have names and numbers in them, never an identity or a secret: one that somebody types in place of a name is written
as "?". They are only ever added.
"""

import hashlib
import json
import os
import pwd
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Any, Literal

from sqlalchemy import delete, func, select

from psi.errors import Remedy
from psi.hashing import length_prefixed

from ..errors import AuditBroken, InvalidInput, NotAllowed
from ..storage.csv_text import csv_text
from ..storage.database import Tx
from ..storage.records import Document, record
from ..storage.tables import DAY
from ..storage.tables import audit as rows
from .reached import Reached

KEPT_DAYS = 365
PRUNE, RESTORE = "audit.prune", "node.restore"  # the acts whose rows explain why others are not there

_LABEL = b"vesica/1 audit"
_START = bytes(32)  # the hash before the first row
_MAX_TARGET = 400  # the column's width


class Result(StrEnum):
    ALLOW = "allow"
    DENY = "deny"  # a rule refused the act
    FAIL = "fail"  # the machine could not do it


class ActorKind(StrEnum):
    USER = "user"
    PARTNER = "partner"  # by its alias, or by its key while it has none
    NODE = "node"  # on its own account; named after the process
    ACCOUNT = "account"  # of the operating system: whoever runs commands on a node without users


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, as the log writes it: a user and a partner may have the same name."""

    kind: ActorKind
    name: str


class Standing(StrEnum):
    """How the log stands to a head of it that was noted earlier."""

    THERE = "there"
    PRUNED = "pruned"  # it is from before the log begins
    RESTORED = "restored"  # a later restore set the log back behind it, which only people can judge
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of the log, without the hash of the row before it."""

    number: int
    at: int
    project_id: str | None
    actor: str
    actor_kind: ActorKind | None  # None in rows of an older release
    act: str
    target: str
    result: Result
    detail: Document
    digest: bytes

    def as_dict(self) -> Document:
        return {
            "number": self.number,
            "at": date(self.at),
            "project": self.project_id,
            "actor_kind": self.actor_kind,
            "actor": self.actor,
            "act": self.act,
            "target": self.target,
            "result": self.result,
            "detail": self.detail,
            "digest": self.digest.hex(),
        }


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain: with a head that was noted one can later tell whether the rows up to it are still the same."""

    number: int
    digest: bytes

    def __str__(self) -> str:
        return f"{self.number}:{self.digest.hex()}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        number, _, digest = text.partition(":")
        if number.isascii() and number.isdigit() and re.fullmatch("[0-9a-f]{64}", digest):
            return cls(int(number), bytes.fromhex(digest))
        raise InvalidInput(
            "that is no head of an audit log",
            hint="one reads NUMBER:HEX; this shows the present one",
            remedy=Remedy("audit.verify"),
        )


class Audit:
    """`actor` names the caller; `check` raises unless the caller may read a project's rows, or with None all of them;
    `reached` says of which projects these may speak."""

    def __init__(
        self,
        read: Callable[[], AbstractContextManager[Tx]],
        now: Callable[[], int],
        *,
        actor: Callable[[], Actor],
        check: Callable[[str | None], None],
        reached: Callable[[Tx], Reached],
    ) -> None:
        self._read = read
        self._reached = reached
        self._now = now
        self._actor = actor
        self._check = check

    def record(
        self,
        tx: Tx,
        act: str,
        target: str,
        *,
        project_id: str | None,
        result: Result = Result.ALLOW,
        detail: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> None:
        """Add a row in the given transaction, so that the change and its row are kept or lost together.

        `actor` is the caller unless given: a partner, by its alias.
        """
        end = last(tx)
        by = self._actor() if actor is None else Actor(ActorKind.PARTNER, actor)
        values: Document = {
            "number": end.number + 1,
            "at": self._now(),
            "project_id": project_id,
            "actor": _clean(by.name)[:255],
            "actor_kind": by.kind,
            "act": act,
            "target": _without_secrets(_clean(target))[:_MAX_TARGET],
            "result": result,
            "detail": dict(detail or {}) if result is Result.ALLOW else _refused(detail or {}),
            "previous": end.digest,
        }
        tx.execute(rows.insert().values(**values, digest=row_digest(values)))

    def entries(
        self,
        *,
        project_id: str | None = None,
        act: str | None = None,
        actor: str | None = None,
        result: Result | None = None,
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
        with self._read() as tx:
            reached = self._reached(tx)
            return [_shown(record(Entry, row), reached) for row in tx.execute(query)]

    def head(self) -> Head:
        with self._read() as tx:
            return last(tx)

    def verify(self, *, upto: Head | None = None) -> Head:
        """Recompute the whole chain and return its head; raises AuditBroken with the first number that is wrong.

        `upto` is a head noted earlier, here or by a partner: it must be in the chain, so rows cut off the end show. A log
        that does not begin with row 1 must say itself, in the row of a `prune`, after which head it begins.
        """
        self._check(None)
        previous, number, begins = _START, 0, None
        met = upto is None or upto == Head(0, _START)
        pruned: set[str] = set()
        with self._read() as tx:
            for row in tx.execute(select(rows).order_by(rows.c.number)).yield_per(1_000):
                if begins is None:
                    begins = Head(row.number - 1, row.previous)
                    previous, number, met = row.previous, row.number - 1, met or upto == begins
                number += 1
                content = row._asdict()
                digest = content.pop("digest")
                if row.number != number or row.previous != previous or row_digest(content) != digest:
                    raise AuditBroken(
                        f"the audit log was changed: row {number} does not follow from the rows before it",
                        hint="compare it with an earlier export or backup",
                    )
                if (row.act, row.result) == (PRUNE, Result.ALLOW):
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
                "the audit log does not have the head that was noted",
                hint="rows were replaced or cut off its end, or the head is older than what was pruned",
            )
        return Head(number, previous)

    def prune(self, tx: Tx, before: int) -> Mapping[str, Any]:
        """Delete the rows from before a time, up to the first that is not, and return the detail of the act's own row.

        Refused for a time that is not KEPT_DAYS ago. What stays verifies, since that detail names the head before it.
        """
        latest = self._now() - KEPT_DAYS * DAY
        if before > latest:
            raise NotAllowed(
                f"rows of the audit log are kept for {KEPT_DAYS} days",
                hint="delete what is older",
                remedy=Remedy("audit.prune", {"before": date(latest)[:10]}),
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
        """Return what `entries` finds, oldest first, as one text: CSV with a header line, or a JSON array."""
        documents = [entry.as_dict() for entry in reversed(self.entries(**filters))]
        if format == "json":
            return json.dumps(documents, indent=2) + "\n"
        names = ["number", "at", "project", "actor_kind", "actor", "act", "target", "result", "detail", "digest"]
        details = ({**each, "detail": json.dumps(each["detail"], sort_keys=True)} for each in documents)
        return csv_text(names, ([each[name] for name in names] for each in details))


def date(seconds: int) -> str:
    """Return Unix seconds as the log's exports spell them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def last(tx: Tx) -> Head:
    """Return the head of the log, as this transaction sees it."""
    row = tx.execute(select(rows.c.number, rows.c.digest).order_by(rows.c.number.desc()).limit(1)).first()
    return Head(row.number, row.digest) if row else Head(0, _START)


def stands(tx: Tx, head: Head, *, made: int) -> Standing:
    """Return how the log stands to a head of it that was noted when it was `made`."""
    found = tx.scalar(select(rows.c.digest).where(rows.c.number == head.number))
    if found == head.digest or head == Head(0, _START):
        return Standing.THERE
    begins = tx.execute(select(rows.c.number, rows.c.previous).order_by(rows.c.number).limit(1)).first()
    if found is None and begins is not None and head.number < begins.number:
        known = head.number < begins.number - 1 or head.digest == begins.previous
        return Standing.PRUNED if known else Standing.CHANGED
    back = select(rows.c.number).where(rows.c.act == RESTORE, rows.c.result == Result.ALLOW, rows.c.at >= made)
    restored = tx.execute(back.where(rows.c.number <= head.number)).first() is not None
    return Standing.RESTORED if restored else Standing.CHANGED


def row_digest(row: Mapping[str, Any]) -> bytes:
    """Return the digest of a row's other columns, the digest of the row before it among them."""
    content = json.dumps(row["detail"], sort_keys=True, separators=(",", ":"), allow_nan=False)
    words = [row["project_id"] or "", row["actor"], row["act"], row["target"], row["result"], content]
    if row["actor_kind"] is not None:  # rows of an older release have none
        words.append(row["actor_kind"])
    numbers = (number.to_bytes(8, "big") for number in (row["number"], row["at"]))
    return hashlib.sha256(
        length_prefixed(_LABEL, row["previous"], *numbers, *(word.encode() for word in words))
    ).digest()


def _shown(entry: Entry, reached: Reached) -> Entry:
    """Return a row without what it says of projects that its reader does not reach."""
    target, detail = reached.text(entry.target), reached.value(entry.detail)
    if target != entry.target:
        return replace(entry, target=target, detail={})
    if detail != entry.detail:  # its other words and numbers are about them too
        detail = {"error": {"code": detail["error"]["code"]}} if "error" in detail else {}
    return replace(entry, detail=detail)


def _clean(text: str) -> str:
    """Return what every database can store: no NUL, no half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


_SECRET = re.compile(
    r"""vesica-token-\w+ | \bvesica1\w{8,}  # what lets in, or connects
    | [^\s'"=/,]+(?:[@\uff20\ufe6b]|%40)[^\s'"/,]+  # an e-mail address
    | [+\uff0b]\d(?:[ ().\-/]{0,2}\d){6,14} | (?<![\w:])(?<!\d[.-])\(?0(?:[ ().\-/]{0,2}\d){8,14}(?!\w)  # a phone number""",
    re.VERBOSE,
)


def _without_secrets(text: str) -> str:
    return _SECRET.sub("?", text)


def _refused(given: Any) -> Any:
    """Return the detail of an act that was refused or failed, in which stands what somebody typed."""
    match given:
        case str():
            return _without_secrets(given)
        case Mapping():
            return {name: _refused(each) for name, each in given.items()}
        case list() | tuple():
            return [_refused(each) for each in given]
    return given


@cache
def process_user() -> str:
    """Return the account that runs this process, at its machine: as the operating system has it, whatever the environment
    says."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # a container's user without a passwd entry
        name = f"uid {uid}"
    return f"{name}@{socket.gethostname()}"
