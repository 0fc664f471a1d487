"""What a person should look at: a connection request, a feed, a run that fails, a key that changed, a partner that cheats."""

from dataclasses import asdict, dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, null, select, update

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import InvalidInput
from ..storage.database import Tx
from ..storage.ids import beginning, the_one
from ..storage.records import Document, record
from ..storage.tables import DAY
from ..storage.tables import alerts as rows

KEPT_DAYS = 365
KEPT_OF_KIND = 1_000  # partners choose some of the words: they must neither fill the disk nor wash other kinds away
BROKEN = "exchange."  # begins the kinds that say how a partner broke the protocol; the code of the error ends them


class AlertKind(StrEnum):
    ADDRESS_CHANGED = "address_changed"
    AGREEMENT_CHANGED = "agreement_changed"
    AGREEMENT_DECLINED = "agreement_declined"
    AGREEMENT_PROPOSED = "agreement_proposed"
    AUDIT_LOG = "audit_log"
    CERTIFICATE_ENDING = "certificate_ending"
    CONNECTION_ACCEPTED = "connection_accepted"
    CONNECTION_DECLINED = "connection_declined"
    CONNECTION_REQUEST = "connection_request"
    DECISION_DIFFERS = "decision_differs"
    DESTINATION_BRAKED = "destination_braked"
    DESTINATION_DELAYED = "destination_delayed"
    DESTINATION_FAILED = "destination_failed"
    DESTINATION_SKIPPED = "destination_skipped"
    DESTINATION_STARTED = "destination_started"
    DESTINATION_SUCCEEDED = "destination_succeeded"
    DISCONNECTED = "disconnected"
    FEED_CHANGED = "feed_changed"
    FEED_DECLINED = "feed_declined"
    FEED_DISABLED = "feed_disabled"
    FEED_ENABLED = "feed_enabled"
    FEED_EXPIRED = "feed_expired"
    FEED_OFFERED = "feed_offered"
    FEED_PURGED = "feed_purged"
    FEED_REVOKED = "feed_revoked"
    FEED_STALE = "feed_stale"
    FEED_VERSION_DECLINED = "feed_version_declined"
    FEED_VERSION_LOST = "feed_version_lost"
    KEY_CHANGED = "key_changed"
    KEY_REPLACED = "key_replaced"  # by the partner itself
    LETTERS_STUCK = "letters_stuck"
    MAIL_FAILED = "mail_failed"
    ON_HOLD = "on_hold"
    ORGANISATION_RENAMED = "organisation_renamed"
    OVERLAP_JUMP = "overlap_jump"
    POLICY_VIOLATION = "policy_violation"
    PREFLIGHT = "preflight"
    RESTORED = "restored"
    RUN_FAILED = "run_failed"
    RUN_OVERDUE = "run_overdue"
    SEGMENT_EMPTIED = "segment_emptied"
    SEGMENT_SHARED = "segment_shared"
    SEGMENT_UNSHARED = "segment_unshared"


LASTING = frozenset(  # never too many: each comes once a day, or an hour, for a partner
    {AlertKind.KEY_CHANGED, AlertKind.KEY_REPLACED, AlertKind.AUDIT_LOG, AlertKind.RESTORED}
)
NAMELESS = frozenset(  # the kinds that name no feed and no segment: a caller whom labels limit sees these alone
    {
        AlertKind.ADDRESS_CHANGED,
        AlertKind.AGREEMENT_CHANGED,
        AlertKind.AGREEMENT_DECLINED,
        AlertKind.AGREEMENT_PROPOSED,
        AlertKind.AUDIT_LOG,
        AlertKind.CERTIFICATE_ENDING,
        AlertKind.CONNECTION_ACCEPTED,
        AlertKind.CONNECTION_DECLINED,
        AlertKind.CONNECTION_REQUEST,
        AlertKind.DISCONNECTED,
        AlertKind.KEY_CHANGED,
        AlertKind.KEY_REPLACED,
        AlertKind.LETTERS_STUCK,
        AlertKind.MAIL_FAILED,
        AlertKind.ORGANISATION_RENAMED,
        AlertKind.PREFLIGHT,
        AlertKind.RESTORED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """`kind` is an AlertKind, or BROKEN with the code of an error."""

    id: str
    kind: str
    text: str
    at: int
    acknowledged: int | None
    remedy: Document | None = None  # the act that answers it

    def as_dict(self) -> Document:
        return asdict(self)


class Alerts:
    """The alerts of a project: rooms add and settle them, people acknowledge them."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def add(self, tx: Tx, kind: AlertKind, text: str, *, alike: str = "", remedy: Remedy | None = None) -> bool:
        """Add an alert in the caller's transaction, unless the same one was added within a day; return whether it was added.

        `text` names no identity. Where a partner chooses how it ends, `alike` is how it begins: an alert that began so
        within a day gets the new words and the new time instead, and is open again. `remedy` is the act that answers it.
        """
        return self._add(tx, kind, text, alike, remedy)

    def add_broken(self, tx: Tx, code: str, text: str, *, alike: str) -> bool:
        """Add an alert that a partner broke the protocol, by the error's code; see `add`."""
        return self._add(tx, f"{BROKEN}{code}", text, alike)

    def settle(self, tx: Tx, kind: AlertKind, beginning: str) -> None:
        """Close the open alerts of a kind that begin so: what they were about is settled.

        They say so from then on, so that the same trouble another time is an alert of its own.
        """
        open_ = (rows.c.project_id == self._scope.id, rows.c.kind == kind, rows.c.acknowledged.is_(None))
        settled = update(rows).where(*open_, rows.c.text.startswith(beginning, autoescape=True))
        tx.execute(settled.values(text=rows.c.text + " (settled)", acknowledged=self._scope.home.now()))

    def all(self, *, open_only: bool = False) -> "list[Alert]":
        """Return the project's alerts, newest first; `open_only`: those that nobody has acknowledged.

        A caller whom labels limit sees no kind that names feeds or segments, and nobody one that names a segment of a
        project that they do not reach.
        """
        query = select(rows).order_by(rows.c.at.desc(), rows.c.id)
        if open_only:
            query = query.where(rows.c.acknowledged.is_(None))
        with self._scope.read() as tx:
            return [record(Alert, row) for row in tx.execute(query.where(self._mine(tx)))]

    def acknowledge(self, *ids: str, every: bool = False) -> int:
        """Note that the caller has seen alerts, by id or all that are open, and return how many."""
        detail: Document = {}
        with self._scope.act("alert.acknowledge", "all" if every else ", ".join(ids)[:400], detail=detail) as tx:
            if every == bool(ids):
                raise InvalidInput(
                    "name the alerts",
                    hint="by their ids, or all that are open",
                    remedy=Remedy("alert.acknowledge", {"every": True}),
                )
            mine = self._mine(tx)
            named = []
            for each in ids:
                found = tx.scalars(select(rows.c.id).where(mine, beginning(rows.c.id, each))).all()
                named.append(the_one(found, each, "alert", Remedy("alert.list")))
            wanted = mine if every else mine & rows.c.id.in_(named)
            now = self._scope.home.now()
            seen = tx.execute(update(rows).where(wanted, rows.c.acknowledged.is_(None)).values(acknowledged=now))
            detail["alerts"] = seen.rowcount
        return int(seen.rowcount)

    def _add(self, tx: Tx, kind: str, text: str, alike: str, remedy: Remedy | None = None) -> bool:
        home = self._scope.home
        words = rows.c.text.startswith(alike, autoescape=True) if alike else rows.c.text == text
        same = (rows.c.project_id == self._scope.id, rows.c.kind == kind, rows.c.at > home.now() - DAY)
        known = tx.execute(select(rows.c.id, rows.c.text).where(*same, words)).first()
        if known is not None:
            if known.text != text:
                tx.execute(
                    update(rows).where(rows.c.id == known.id).values(text=text, at=home.now(), acknowledged=None)
                )
            return False
        values = {"id": home.new_id(), "project_id": self._scope.id, "kind": kind, "text": text, "at": home.now()}
        tx.execute(rows.insert().values(**values, remedy=null() if remedy is None else remedy.document()))
        return True

    def _mine(self, tx: Tx) -> ColumnElement[bool]:
        """Return the condition on the alerts that are there for the caller."""
        mine, guard = rows.c.project_id == self._scope.id, self._scope.home.guard
        if guard.limited(tx, self._scope.id):
            mine &= rows.c.kind.in_(NAMELESS)
        reached = guard.reached(tx)
        if reached.names is None:
            return mine
        texts = tx.execute(select(rows.c.id, rows.c.text).where(mine)).all()
        return mine & rows.c.id.not_in([each.id for each in texts if reached.text(each.text) != each.text])


def forget_old(scope: Scope) -> None:
    """Delete alerts of more than a year ago, and the surplus of a kind that came very often: first what was
    acknowledged, then the oldest. What says that a partner is not who it was, or cheats, stays."""
    mine, old = rows.c.project_id == scope.id, rows.c.at < scope.home.now() - KEPT_DAYS * DAY
    with scope.begin() as tx:
        tx.execute(rows.delete().where(mine, old))
        for kind in tx.scalars(select(rows.c.kind).where(mine).distinct()).all():
            if kind in LASTING or kind.startswith(BROKEN):
                continue
            first = select(rows.c.id).where(mine, rows.c.kind == kind)
            first = first.order_by(rows.c.acknowledged.is_not(None), rows.c.at.desc(), rows.c.id)
            tx.execute(rows.delete().where(rows.c.id.in_(first.offset(KEPT_OF_KIND))))
