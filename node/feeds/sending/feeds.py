"""Feeds that we send: drafts, immutable versions, and each partner's state of them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, insert, select, update

from protocol.agreement import Agreement
from protocol.feed import MEMBERSHIP_DAYS, Definition, SegmentRef
from protocol.letters import FeedNotice
from psi.errors import VesicaError

from ...errors import AlreadyExists, InvalidInput, NotFound, Refused, check_name
from ...exchanges.exchanges import give_up_releases
from ...governance.policies import check_action
from ...operations.jobs import Progress, no_progress
from ...storage.tables import DAY, connections, estimates, feed_partners, feeds, segments
from .. import purges, runs, versions
from ..estimates import matching
from ..receiving import expiry
from . import drafts, edits, releases
from .edits import ESTIMATE_DAYS, GOING, Addition, Removal

if TYPE_CHECKING:
    from ...project import Project

Documents = list[dict[str, Any]]
Names = list[str]
Errors = list[VesicaError]
Rows = list[Row[Any]]
Pairs = list[tuple[Row[Any], Row[Any]]]  # a connection, and its state of a feed
Going = list[tuple[str, Row[Any], str, Definition]]


class Feeds:
    def __init__(self, project: "Project") -> None:
        self._project, self._node = project, project.node

    def create(
        self,
        name: str,
        *,
        namespaces: Sequence[str],
        segments: Sequence[str] = (),
        partners: Sequence[str] = (),
        restricted_uses: Sequence[str] = (),
        description: str = "",
        membership_days: int = MEMBERSHIP_DAYS,
        valid_until: int | None = None,
    ) -> None:
        """Draft a feed: nothing leaves before it is published. Refused where a prerequisite, a label or a policy says so.

        Segments and partners may come later, by edits.
        """
        with self._project.act("feed.create", name) as tx:
            check_name(name, "feed")
            if self._find(name, tx) is not None:
                raise AlreadyExists(f"there is a feed {name!r} already", hint="choose another name")
            if not namespaces:
                raise InvalidInput("a feed needs a namespace to match by", hint="name one with --namespace")
            for use in restricted_uses:
                check_action(use)
            expiry.check(membership_days, valid_until, self._node.now())
            self.check_prerequisites()
            rows = [self._project.partners.get(alias, tx, status="active") for alias in dict.fromkeys(partners)]
            feed_id, now = self._node.new_id(), self._node.now()
            definition = Definition(
                feed=bytes.fromhex(feed_id),
                version=1,
                name=name,
                description=description,
                segments=tuple(self.segment_ref(tx, segment) for segment in dict.fromkeys(segments)),
                namespaces=tuple(self.namespace(each, rows) for each in dict.fromkeys(namespaces)),
                restricted_uses=tuple(sorted(set(restricted_uses))),
                membership_days=membership_days,
                valid_until=valid_until,
                created=now,
            )
            self._project.governance.check_feed(definition, tx)
            tx.execute(
                insert(feeds).values(
                    id=feed_id,
                    project_id=self._project.id,
                    name=name,
                    status="draft",
                    version=1,
                    revision=0,
                    created=now,
                    changed=now,
                )
            )
            versions.keep(self._project, tx, feed_id, definition)
            for row in rows:
                self.add_partner(tx, feed_id, row)

    def estimate(
        self,
        name: str,
        partner: str | None = None,
        progress: Progress = no_progress,
        *,
        namespaces: Sequence[str] = (),
        wait: bool = True,
    ) -> Documents:
        """Ask each partner how many people both know, per segment and namespace; spends our budget with it.

        What one partner does not answer costs no other's answer: its rows are "failed", with the error. Raises it where
        nobody answers.
        Only about some namespaces, where they are named. Without `wait` the questions are only queued, and returned with
        the ids of their jobs.
        """
        self._project.require("feed.estimate", name)
        with self._project.refusals("feed.estimate", name):
            definition, rows = self._to_estimate(name, partner)
            asked = [self.namespace(each, ()) for each in namespaces] or definition.namespaces
            if strange := set(asked) - set(definition.namespaces):
                raise NotFound(f"feed {name} has no {min(strange)!r}", hint=f"vesica feed show {name}")
        names = [segment.name for segment in definition.segments]
        waiting: Documents = []
        errors: Errors = []

        def unanswered(row: Row[Any], namespace: str, **about: Any) -> Documents:
            known = {"partner": row.alias, "namespace": namespace, **about}
            numbers = dict.fromkeys(("overlap", "consented", "interval", "consented_interval", "computed_at"))
            budget = matching.budget(self._project, row)
            return [{**known, "segment": each, **numbers, "budget": budget} for each in names]

        for row in rows:
            for namespace in asked:
                parameters = {"connection": row.id, "namespace": namespace, "segments": names}
                if not wait:
                    job = self._node.jobs.submit_once(matching.JOB, parameters, self._project)
                    about = {"partner": row.alias, "namespace": namespace, "segments": names}
                    waiting.append({**about, "status": "queued", "job": job})
                    continue
                try:
                    result = self._node.jobs.run(matching.JOB, parameters, self._project, progress)
                except VesicaError as error:  # one partner's trouble is not the others'
                    errors.append(error)
                    waiting += unanswered(row, namespace, status="failed", error=error.document())
                    continue
                if result == matching.WAITING:
                    waiting += unanswered(row, namespace, status="waiting")
        if errors and len(errors) == len(rows) * len(asked):
            raise errors[0]
        if not wait:
            return waiting
        kept = {(row["partner"], row["namespace"]) for row in waiting}
        return waiting + [row for row in self.estimates(name) if (row["partner"], row["namespace"]) not in kept]

    def reconcile(self, name: str, partner: str | None = None) -> dict[str, Any]:
        """Return where the people of a feed went, ours or received; see `node.reconciliation`."""
        from ...reports.reconciliation import reconcile

        return reconcile(self._project, name, partner)

    def estimates(self, name: str) -> Documents:
        """Return the newest estimate per partner, segment and namespace of a feed, with its age and our budget left."""
        feed = self.get(name)
        definition = self.definition(feed)
        wanted = {segment.name for segment in definition.segments}
        found: dict[tuple[str, str, str], Row[Any]] = {}
        with self._node.store.read() as tx:
            query = (
                select(estimates, connections.c.alias, connections.c.agreement, connections.c.budget)
                .join(connections, connections.c.id == estimates.c.connection_id)
                .join(feed_partners, feed_partners.c.connection_id == connections.c.id)
                .where(feed_partners.c.feed_id == feed.id)
                .order_by(estimates.c.at)
            )
            for row in tx.execute(query):
                if row.segment in wanted and row.namespace in definition.namespaces:
                    found[row.alias, row.segment, row.namespace] = row
        return [self._estimate(found[key]) for key in sorted(found)]

    def publish(self, name: str) -> None:
        """Offer a feed, or its newest version, to its partners; members leave only after a partner has enabled it."""
        with self._project.act("feed.publish", name) as tx:
            feed = self.get(name, tx)
            if feed.status == "revoked":
                raise Refused(f"feed {name} was revoked", hint="create a new one")
            self.check_prerequisites()
            definition, pairs = self.definition(feed, tx), self.partners_of(feed, tx)
            for step in drafts.steps(definition, partners=_going(pairs), published=True):
                if not step.complete:
                    raise Refused(f"feed {name} is not complete: {step.name}", hint=step.command)
            self._project.governance.check_feed(definition, tx)
            offered = []
            refused: Refused | None = None
            for row, state in pairs:
                if state.status not in ("draft", *GOING) or definition.version in state.offers:
                    continue
                if row.status != "active":
                    raise Refused(f"partner {row.alias} is {row.status}", hint="vesica partner list")
                fresh = list(definition.segments)
                if state.status != "draft":
                    held = edits.holds(tx, state)
                    if waits := edits.waits_for(self._project, tx, row, held, definition):
                        refused = refused or edits.not_estimated(name, row, waits)
                        continue
                    fresh = versions.new_segments(held, definition)
                self.check_sizes(tx, name, fresh, row)
                edits.offer(self._project, tx, row, state, definition)
                if state.status == "draft":
                    self.change_state(tx, state, status="pending")
                offered.append(row)
            if not offered:
                raise refused or Refused(f"feed {name} is published already", hint=f"vesica feed show {name}")
            self.change(tx, feed, status="published")
        self._deliver(offered)

    def edit(
        self,
        name: str,
        removal: Removal = edits.NO_REMOVAL,
        *,
        addition: Addition = edits.NO_ADDITION,
        description: str | None = None,
    ) -> int:
        """Take things out of a feed, at once on both sides, or put things in, for each partner to accept.

        Returns the number of the newest version.
        """
        return edits.edit(self._project, name, removal, addition, description)

    def unshare(self, name: str, *, segment: str | None = None, partner: str | None = None, reason: str = "") -> None:
        """Take one segment from all partners, or the whole feed from one partner; they purge it and sign that they did."""
        if (segment is None) == (partner is None):
            raise InvalidInput("name what to unshare", hint="--segment NAME or --partner NAME")
        if segment is not None:
            self.edit(name, Removal(segments=[segment]))
            return
        with self._project.act("feed.unshare", name) as tx:
            feed = self.get(name, tx)
            told = [row for row, state in self.partners_of(feed, tx) if row.alias == partner]
            if not told:
                raise NotFound(f"feed {name} does not go to a partner {partner!r}", hint=f"vesica feed show {name}")
            self._revoke(tx, feed, told, reason)
        self._deliver(told)

    def revoke(self, name: str, reason: str = "") -> None:
        """End a feed for good: every receiver purges its memberships and signs a statement of it."""
        with self._project.act("feed.revoke", name) as tx:
            feed = self.get(name, tx)
            if feed.status == "revoked":
                raise Refused(f"feed {name} was revoked already", hint="'vesica feed list' shows them")
            told = [row for row, _ in self.partners_of(feed, tx)]
            self._revoke(tx, feed, told, reason)
            self.change(tx, feed, status="revoked")
        self._deliver(told)

    def sync(self, name: str | None = None, progress: Progress = no_progress, *, wait: bool = True) -> Documents:
        """Bring the newest members of our published feeds to every partner that has enabled them; returns the runs.

        One that fails is among them, with its error; where all fail the first error is raised. Without `wait` they are
        only queued, and returned with the ids of their jobs.
        """
        self._project.require("feed.sync", name or "all")
        done: Documents = []
        errors: Errors = []
        with self._project.refusals("feed.sync", name or "all"):
            wanted = [self.get(name)] if name is not None else self._visible(self._rows("published"))
        for feed in wanted:
            for row, state in self.partners_of(feed):
                if state.status != "enabled":
                    continue
                parameters = {"connection": row.id, "feed": feed.id}
                job = self._node.jobs.submit_once(releases.JOB, parameters, self._project)
                about = {"feed": feed.name, "partner": row.alias}
                if not wait:
                    done.append({**about, "status": "queued", "job": job})
                    continue
                try:
                    done.append(self._node.jobs.wait(job, progress))
                except VesicaError as error:  # one partner's trouble is not the others'
                    errors.append(error)
                    done.append({**about, "status": "failed", "error": error.document()})
        if errors and len(errors) == len(done):
            raise errors[0]
        return done

    def list(self) -> Documents:
        """Return our feeds, with each partner's state."""
        return [
            {
                "name": feed.name,
                "status": feed.status,
                "version": feed.version,
                "segments": [segment.name for segment in self.definition(feed).segments],
                "partners": {row.alias: state.status for row, state in self.partners_of(feed)},
                "offered": {row.alias: edits.offered(state) for row, state in self.partners_of(feed)},
            }
            for feed in self._visible(self._rows())
        ]

    def show(self, name: str) -> dict[str, Any]:
        """Return one of our feeds whole: definition, version hash, partners, estimates and runs."""
        feed = self.get(name)
        definition = self.definition(feed)
        now = self._node.now()
        with self._node.store.read() as tx:
            recent = runs.recent(tx, feed.id, ours=True)
            pairs = self.partners_of(feed, tx)
            last = {row.id: runs.last(tx, row.id, feed.id, now) for row, _ in pairs}
            positions = {row.id: edits.position(self._project, tx, row, state, definition) for row, state in pairs}
            purged = {row.id: purges.documents(tx, feed.id, row.id) for row, _ in pairs}
        aliases = {row.id: row.alias for row, _ in pairs}
        return {
            **versions.describe(definition),
            "status": feed.status,
            "steps": [
                asdict(step)
                for step in drafts.steps(definition, partners=_going(pairs), published=feed.status != "draft")
            ],
            "partners": [
                {
                    "alias": row.alias,
                    "status": state.status,
                    "budget": matching.budget(self._project, row),
                    **positions[row.id],
                    "last_revision": state.last_revision,
                    "last_receipt": state.last_receipt.hex() if state.last_receipt else None,
                    "last_run": last[row.id],
                    "failure": state.failure,
                    "next_attempt": state.next_attempt,
                    "reason": state.reason,
                    "universes": state.universes,
                    "purges": purged[row.id],
                }
                for row, state in pairs
            ],
            "estimates": self.estimates(name),
            "runs": [{"partner": aliases.get(run.connection_id), **runs.shown(run)} for run in recent],
        }

    def get(self, name: str, tx: Connection | None = None) -> Row[Any]:
        feed = self._find(name, tx)
        if feed is None or not self._visible([feed], tx):
            raise NotFound(f"there is no feed {name!r}", hint="'vesica feed list' shows them")
        return feed

    def definition(self, feed: Row[Any], tx: Connection | None = None) -> Definition:
        """Return a feed's newest version."""
        if tx is not None:
            return versions.get(tx, feed.id, feed.version)
        with self._node.store.read() as reading:
            return versions.get(reading, feed.id, feed.version)

    def segments_shared(self, connection_id: str) -> int:
        """Return how many distinct segments a partner is offered or gets."""
        names: set[str] = set()
        with self._node.store.read() as tx:
            query = select(feed_partners).where(
                feed_partners.c.connection_id == connection_id, feed_partners.c.status.in_(GOING)
            )
            for state in tx.execute(query).all():
                for definition in (edits.holds(tx, state), versions.get(tx, state.feed_id, state.offers[-1])):
                    names |= {segment.name for segment in definition.segments}
        return len(names)

    def shared_with(self, connection_id: str, namespace: str, tx: Connection) -> Names:
        """Return the segments of our feeds, drafts too, that a partner may be asked about in a namespace."""
        query = select(feeds).where(feeds.c.project_id == self._project.id, feeds.c.status != "revoked")
        names: Names = []
        for feed in tx.execute(query).all():
            states = {row.id: state.status for row, state in self.partners_of(feed, tx)}
            definition = self.definition(feed, tx)
            if states.get(connection_id) in ("draft", *GOING) and namespace in definition.namespaces:
                names += [segment.name for segment in definition.segments]
        return names

    def going(self) -> Going:
        """Return what each partner is offered or gets: the feed's name, the connection, the state, and the version.

        Without the feeds that are not there for whoever acts.
        """
        found = []
        with self._node.store.read() as tx:
            query = select(feeds).where(feeds.c.project_id == self._project.id, feeds.c.status == "published")
            for feed in self._visible([*tx.execute(query.order_by(feeds.c.name))], tx):
                for row, state in self.partners_of(feed, tx):
                    if state.status in GOING:
                        version = state.accepted_version or feed.version
                        found.append((feed.name, row, state.status, versions.get(tx, feed.id, version)))
        return found

    def sharing(self, segment: str, tx: Connection) -> Names:
        """Return the names of our feeds, drafts too, that hold a segment."""
        query = select(feeds).where(feeds.c.project_id == self._project.id, feeds.c.status != "revoked")
        found = ((feed.name, self.definition(feed, tx)) for feed in tx.execute(query).all())
        return sorted(name for name, definition in found if segment in {each.name for each in definition.segments})

    def check_prerequisites(self) -> None:
        """Raise Refused, with the command to run, where something is missing that sharing needs."""
        for each in self._project.prerequisites():
            if not each.met:
                raise Refused(f"sharing needs a {each.name} ({each.state})", hint=each.command)

    def _to_estimate(self, name: str, partner: str | None) -> tuple[Definition, Rows]:
        """Return what may be asked about, and whom, of the partner that is named or of all."""
        self.check_prerequisites()
        feed = self.get(name)
        definition = self.definition(feed)
        with self._node.store.read() as tx:
            self._project.governance.check_feed(definition, tx)
        if partner is not None:
            self._project.partners.get(partner)
        pairs = [(row, state) for row, state in self.partners_of(feed) if state.status in ("draft", *GOING)]
        rows = [row for row, _ in pairs if partner in (None, row.alias)]
        if not rows and partner is None:
            raise Refused(f"feed {name} goes to no partner", hint=f"vesica feed edit {name} --add-partner NAME")
        if not rows:
            raise NotFound(f"feed {name} has no such partner", hint=f"vesica feed show {name}")
        return definition, rows

    def segment_ref(self, tx: Connection, name: str) -> SegmentRef:
        """Return one of our segments as a version holds it; raises NotFound, Refused for what is made of received ones."""
        if name.startswith("received."):
            raise Refused(
                f"{name} was received: only first-party segments can be shared",
                hint="share a first-party segment: 'vesica segment list' shows them",
            )
        query = select(segments).where(segments.c.project_id == self._project.id, segments.c.name == name)
        row = tx.execute(query).first()
        if row is None or name in self._project.segments.hidden(tx):
            raise NotFound(f"there is no segment {name!r}", hint="'vesica segment list' shows them")
        if self._project.segments.reads_received(tx, name):
            raise Refused(
                f"segment {name} is made of received segments: only first-party segments can be shared",
                hint="share the first-party segment it is built on",
            )
        labels = tuple(sorted(self._project.labels.labels_of_segment(name, tx)))
        return SegmentRef(id=bytes.fromhex(row.id), name=name, labels=labels)

    def namespace(self, given: str, rows: Sequence[Row[Any]]) -> str:
        """Return a namespace of the project's with its rule; raises Refused for one that a connection in `rows` lacks."""
        known = [each for each in self._project.namespaces() if given in (each, each.partition("/")[0])]
        if len(known) != 1:
            offered = ", ".join(self._project.namespaces()) or "none"
            raise NotFound(f"{given!r} is not one namespace of this project", hint=f"it has {offered}")
        for row in rows:
            agreed = Agreement.decode(row.agreement).namespaces
            if known[0] not in agreed:
                raise Refused(
                    f"partner {row.alias} does not match by {known[0]}",
                    hint=f"agreed were {', '.join(agreed) or 'none'}",
                )
        return known[0]

    def check_sizes(self, tx: Connection, name: str, shared: Sequence[SegmentRef], row: Row[Any]) -> None:
        """Raise Refused for a segment below the minimum agreed with a partner."""
        minimum = Agreement.decode(row.agreement).terms.minimum_segment
        for segment in shared:
            size = tx.scalar(select(segments.c.size).where(segments.c.id == segment.id.hex())) or 0
            if size < minimum:
                raise Refused(
                    f"segment {segment.name} is below the minimum of {minimum:,} agreed with {row.alias}",
                    hint=f"leave it out: vesica feed edit {name} --remove-segment {segment.name}",
                )

    def _revoke(self, tx: Connection, feed: Row[Any], told: Sequence[Row[Any]], reason: str) -> None:
        give_up_releases(self._node, tx, feed.id)
        for row, state in self.partners_of(feed, tx):
            if row.id in {each.id for each in told} and state.status in ("draft", *GOING):
                if state.status in GOING and row.status == "active":
                    notice = FeedNotice(feed=bytes.fromhex(feed.id), version=feed.version, reason=reason)
                    self._project.letters.send(tx, row.id, "feed.revoke", notice)
                self.change_state(tx, state, status="revoked", reason=reason)

    def partners_of(self, feed: Row[Any], tx: Connection | None = None) -> Pairs:
        """Return the connections that a feed goes to or went to, each with its state of it, by alias."""
        if tx is None:
            with self._node.store.read() as reading:
                return self.partners_of(feed, reading)
        states = list(tx.execute(select(feed_partners).where(feed_partners.c.feed_id == feed.id)))
        pairs = [(self._project.partners.by_id(state.connection_id, tx), state) for state in states]
        return sorted(pairs, key=lambda pair: str(pair[0].alias))

    def _estimate(self, row: Row[Any]) -> dict[str, Any]:
        expired = self._node.now() - row.at > ESTIMATE_DAYS * DAY
        return {
            "partner": row.alias,
            "segment": row.segment,
            "namespace": row.namespace,
            "status": "expired" if expired else row.status,
            "overlap": None if expired else row.overlap,
            "consented": None if expired else row.consented,
            "interval": None if expired or row.overlap is None else _interval(row.overlap, row.half_width, row.detail),
            "consented_interval": None
            if expired or row.consented is None
            else _interval(row.consented, row.consented_half_width, row.detail),
            "computed_at": row.at,
            "budget": matching.budget(self._project, row),
            **row.detail,
        }

    def add_partner(self, tx: Connection, feed_id: str, row: Row[Any]) -> None:
        """Let a feed go to one more partner, which is offered it when it is published."""
        tx.execute(
            insert(feed_partners).values(
                id=self._node.new_id(),
                feed_id=feed_id,
                connection_id=row.id,
                status="draft",
                last_revision=0,
                changed=self._node.now(),
            )
        )

    def _find(self, name: str, tx: Connection | None) -> Row[Any] | None:
        query = select(feeds).where(feeds.c.project_id == self._project.id, feeds.c.name == name)
        if tx is not None:
            return tx.execute(query).first()
        with self._node.store.read() as reading:
            return reading.execute(query).first()

    def _visible(self, found: Rows, tx: Connection | None = None) -> Rows:
        """Leave out the feeds that are not there for whoever acts: one of their segments is hidden.

        What partners have accepted holds no segment that the newest version lacks (`edits._tell`).
        """
        if tx is None:
            with self._node.store.read() as reading:
                return self._visible(found, reading)
        hidden = self._project.segments.hidden(tx)
        return [
            feed
            for feed in found
            if not hidden or hidden.isdisjoint(each.name for each in self.definition(feed, tx).segments)
        ]

    def hides(self, tx: Connection, name: str) -> bool:
        """Tell whether one of our feeds is not there for whoever acts."""
        feed = self._find(name, tx)
        return feed is not None and not self._visible([feed], tx)

    def _rows(self, status: str | None = None) -> Rows:
        with self._node.store.read() as tx:
            query = select(feeds).where(feeds.c.project_id == self._project.id).order_by(feeds.c.name)
            return [feed for feed in tx.execute(query) if status in (None, feed.status)]

    def change(self, tx: Connection, feed: Row[Any], **values: Any) -> None:
        tx.execute(update(feeds).where(feeds.c.id == feed.id).values(changed=self._node.now(), **values))

    def change_state(self, tx: Connection, state: Row[Any], **values: Any) -> None:
        tx.execute(
            update(feed_partners).where(feed_partners.c.id == state.id).values(changed=self._node.now(), **values)
        )

    def _deliver(self, rows: Sequence[Row[Any]]) -> None:
        for row in rows:
            self._project.letters.deliver_soon(row)


def _going(pairs: Pairs) -> int:
    """Return how many partners a feed goes to, or will once it is published."""
    return sum(state.status in ("draft", *GOING) for _, state in pairs)


def _interval(value: int, half_width: int, detail: dict[str, Any]) -> list[int]:
    return [max(0, value - half_width), min(detail["size"], value + half_width)]
