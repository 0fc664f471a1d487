"""What a person should look at: a connection request, a feed, a run that fails, a key that changed, a partner that cheats."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, select, update

from ..errors import InvalidInput, NotFound
from ..storage.tables import DAY
from ..storage.tables import alerts as rows

if TYPE_CHECKING:
    from ..project import Project

KEPT_DAYS = 365
KEPT_OF_KIND = 1_000  # partners choose some of the words: they must neither fill the disk nor wash other kinds away
LASTING = ("key_changed", "audit_log", "restored")  # never too many: each comes once a day, or hour, for a partner
BROKEN = "exchange."  # begins the kinds that say how a partner broke the protocol, which last too

NAMELESS = (  # the kinds that name no feed and no segment: what is there for those whom labels limit
    "audit_log",
    "certificate_ending",
    "connection_accepted",
    "connection_declined",
    "connection_request",
    "disconnected",
    "key_changed",
    "preflight",
    "restored",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    id: str
    kind: str
    text: str
    at: int
    acknowledged: int | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Alerts:
    def __init__(self, project: "Project") -> None:
        self._project = project

    def add(self, tx: Connection, kind: str, text: str, *, alike: str = "") -> bool:
        """Add an alert in the caller's transaction, unless there was the same one within a day; says whether it did.

        `text` names no identity. Where a partner chooses what it ends with, `alike` is how it begins: one that began so
        within a day gets the new words instead, and is open again.
        """
        node = self._project.node
        words = rows.c.text.startswith(alike, autoescape=True) if alike else rows.c.text == text
        same = (rows.c.project_id == self._project.id, rows.c.kind == kind, rows.c.at > node.now() - DAY)
        known = tx.execute(select(rows.c.id, rows.c.text).where(*same, words)).first()
        if known is not None:
            if known.text != text:
                tx.execute(update(rows).where(rows.c.id == known.id).values(text=text, acknowledged=None))
            return False
        tx.execute(
            rows.insert().values(id=node.new_id(), project_id=self._project.id, kind=kind, text=text, at=node.now())
        )
        return True

    def settle(self, tx: Connection, kind: str, beginning: str) -> None:
        """Close the open alerts of a kind that begin so, as what they told has been settled.

        They say so from then on, so that the same trouble another time is an alert of its own.
        """
        open_ = (rows.c.project_id == self._project.id, rows.c.kind == kind, rows.c.acknowledged.is_(None))
        settled = update(rows).where(*open_, rows.c.text.startswith(beginning, autoescape=True))
        tx.execute(settled.values(text=rows.c.text + " (settled)", acknowledged=self._project.node.now()))

    def list(self, *, open_only: bool = False) -> "list_[Alert]":
        """Return the project's alerts, newest first; `open_only`: those that nobody has acknowledged.

        Whom labels limit sees none of a kind that names feeds or segments.
        """
        query = select(rows).order_by(rows.c.at.desc(), rows.c.id)
        if open_only:
            query = query.where(rows.c.acknowledged.is_(None))
        with self._project.node.store.read() as connection:
            query = query.where(self._mine(connection))
            return [
                Alert(id=row.id, kind=row.kind, text=row.text, at=row.at, acknowledged=row.acknowledged)
                for row in connection.execute(query)
            ]

    def acknowledge(self, *ids: str, every: bool = False) -> int:
        """Note that somebody has seen alerts, by id or all that are open; the audit says who. Returns how many."""
        detail: dict[str, Any] = {}
        with self._project.act("alert.acknowledge", "all" if every else ", ".join(ids)[:400], detail=detail) as tx:
            if every == bool(ids):
                raise InvalidInput("name the alerts", hint="vesica alert acknowledge ID, or --all")
            mine = self._mine(tx)
            for each in ids:
                if tx.execute(select(rows.c.id).where(mine, rows.c.id == each)).first() is None:
                    raise NotFound(f"there is no alert {each[:40]!r}", hint="'vesica alert list' shows them")
            wanted = mine if every else mine & rows.c.id.in_(ids)
            now = self._project.node.now()
            seen = tx.execute(update(rows).where(wanted, rows.c.acknowledged.is_(None)).values(acknowledged=now))
            detail["alerts"] = seen.rowcount
        return int(seen.rowcount)

    def _mine(self, connection: Connection) -> ColumnElement[bool]:
        """Return what holds of the alerts that are there for whoever acts."""
        cleared = self._project.node.guard.cleared(connection, self._project.id)
        mine = rows.c.project_id == self._project.id
        return mine if cleared is None else mine & rows.c.kind.in_(NAMELESS)

    def forget_old(self) -> None:
        """Delete alerts of more than a year ago, and of a kind that came very often first what was acknowledged, then the
        oldest; but not what says that a partner is not who it was, or cheats."""
        mine, old = rows.c.project_id == self._project.id, rows.c.at < self._project.node.now() - KEPT_DAYS * DAY
        with self._project.node.store.begin() as tx:
            tx.execute(rows.delete().where(mine, old))
            for kind in tx.scalars(select(rows.c.kind).where(mine).distinct()).all():
                if kind in LASTING or kind.startswith(BROKEN):
                    continue
                first = select(rows.c.id).where(mine, rows.c.kind == kind)
                first = first.order_by(rows.c.acknowledged.is_not(None), rows.c.at.desc(), rows.c.id)
                tx.execute(rows.delete().where(rows.c.id.in_(first.offset(KEPT_OF_KIND))))


list_ = list  # inside the class `list` is the method
