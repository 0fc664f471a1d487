"""The rows of estimates: what partners answered us about our segments, and what we answered them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from sqlalchemy import delete, insert, select

from protocol.estimate import MAX_ASKED
from protocol.messages import Answer

from ...access.scope import Scope
from ...partners.connections import Connection
from ...storage.database import Tx
from ...storage.records import Document, record
from ...storage.tables import DAY, answers, connections, estimates, feed_partners
from .numbers import EstimatedNumbers, scaled

ESTIMATE_DAYS = 7  # after that an estimate is shown as expired, and no namespace is offered on it


class EstimateStatus(StrEnum):
    """What an estimate says: numbers, or why there are none."""

    OK = "ok"
    BELOW_MINIMUM = "below_minimum"
    REFUSED = "refused"  # by a partner of another implementation; ours refuses with an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One segment's estimate with one partner in one namespace, as the row of `estimates` has it."""

    id: str
    connection_id: str
    segment: str
    namespace: str
    status: EstimateStatus
    overlap: int | None
    consented: int | None
    half_width: int | None
    consented_half_width: int | None
    detail: Document
    at: int

    @property
    def numbers(self) -> EstimatedNumbers:
        return EstimatedNumbers(
            overlap=self.overlap,
            consented=self.consented,
            half_width=self.half_width,
            consented_half_width=self.consented_half_width,
        )

    def expired(self, now: int) -> bool:
        """Return whether its numbers are too old to be shown."""
        return is_expired(self.at, now)


def is_expired(at: int, now: int) -> bool:
    """Return whether what was answered at a time is too old to be shown."""
    return now - at > ESTIMATE_DAYS * DAY


def keep(tx: Tx, estimate: Estimate) -> None:
    """Insert an estimate; one of the same id is replaced."""
    tx.execute(delete(estimates).where(estimates.c.id == estimate.id))
    tx.execute(insert(estimates).values(**{**asdict(estimate), "status": estimate.status.value}))


def of_feed(tx: Tx, feed_id: str) -> list[tuple[str, Estimate]]:
    """Return the estimates with each partner that a feed goes or went to, oldest first, with the partner's alias."""
    query = (
        select(estimates, connections.c.alias)
        .join(connections, connections.c.id == estimates.c.connection_id)
        .join(feed_partners, feed_partners.c.connection_id == connections.c.id)
        .where(feed_partners.c.feed_id == feed_id)
        .order_by(estimates.c.at)
    )
    return [(row.alias, record(Estimate, row)) for row in tx.execute(query)]


def not_asked(scope: Scope, tx: Tx, connection: Connection, segments: set[str], names: Sequence[str]) -> list[str]:
    """Return those of the namespaces `names` in which the partner was not asked about all segments lately."""
    since = scope.home.now() - ESTIMATE_DAYS * DAY
    missing = []
    for namespace in names:
        known = select(estimates.c.segment).where(
            estimates.c.connection_id == connection.id, estimates.c.namespace == namespace, estimates.c.at >= since
        )
        if not segments <= set(tx.scalars(known)):
            missing.append(namespace)
    return missing


def question_files(namespace: str, universe_digest: bytes | None = None) -> str:
    """Return how the names of the files of questions in a namespace begin, or of those about one universe."""
    universe = "" if universe_digest is None else f"{universe_digest.hex()[:32]} "
    return f"question {namespace} {universe}"


def answered(scope: Scope, tx: Tx, connection: Connection, namespace: str) -> Document:
    """Return what we last answered a partner about a namespace; which segment is which, its question did not say."""
    mine = (
        answers.c.connection_id == connection.id,
        answers.c.points.startswith(question_files(namespace), autoescape=True),
    )
    query = select(answers.c.answer, answers.c.sizes, answers.c.at).where(*mine)
    row = tx.execute(query.order_by(answers.c.at.desc()).limit(1)).first()
    known: Document = {"namespace": namespace, "status": "none", "computed_at": None, "segments": []}
    if row is None:
        return known
    if is_expired(row.at, scope.home.now()):
        return {**known, "status": "expired", "computed_at": row.at}
    told, epsilon = Answer.decode(row.answer).segments, connection.terms.epsilon
    sizes = row.sizes or [MAX_ASKED] * len(told)  # that of before sizes were kept
    segments = [
        {"status": each.status, "asked": size, **scaled(each, size, size, epsilon).shown(size)}
        for each, size in zip(told, sizes, strict=True)
    ]
    return {**known, "status": "ok", "computed_at": row.at, "segments": segments}
