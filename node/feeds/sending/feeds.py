"""Feeds that we send: drafts, immutable versions, and each partner's state of them."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import insert, select

from protocol.feed import MEMBERSHIP_DAYS, Definition
from protocol.letters import FeedNotice
from psi.errors import Remedy, VesicaError

from ...access.scope import Scope
from ...errors import AlreadyExists, InvalidInput, NotAllowed, NotFound, check_name
from ...exchanges.records import give_up_releases
from ...governance.governance import Governance
from ...governance.policies import SHARING, check_action
from ...governance.visibility import Visibility
from ...operations.jobs import Jobs, JobState, Progress, no_progress
from ...partners.connections import Connection, ConnectionStatus
from ...partners.letters import Letters
from ...partners.partners import Partners
from ...storage.database import Tx
from ...storage.ids import wire_id
from ...storage.records import Document, Documents, record
from ...storage.tables import feeds
from .. import lifetimes, prerequisites, purges, runs, versions
from ..estimates import asking, estimates
from ..states import CURRENT, FeedStatus, RecipientStatus
from . import deleting, edits, publishing, recipients, releases
from .edits import Addition, Removal
from .parts import namespace, segment_ref
from .recipients import Feed, Pairs

Shares = list[tuple[str, Connection, RecipientStatus, Definition]]
Found = list[Feed]


class Feeds:
    """The feeds that a project sends, and the acts on them."""

    def __init__(self, scope: Scope) -> None:
        self._scope, self._home = scope, scope.home

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
        """Draft a feed: nothing leaves before it is published. Segments and partners may come later, by edits.

        Raises NotAllowed if a prerequisite is missing, or a label or policy forbids it.
        """
        detail: Document = {}
        with self._scope.act("feed.create", name, detail=detail) as tx:
            check_name(name, "feed")
            detail |= self._free(tx, name)
            if not namespaces:
                raise InvalidInput("a feed needs a namespace to match by", hint="name one or more")
            for use in restricted_uses:
                check_action(use)
            lifetimes.check(membership_days, valid_until, self._home.now())
            prerequisites.check(self._scope, tx)
            connections = [
                Partners(self._scope).get(alias, tx, status=ConnectionStatus.ACTIVE)
                for alias in dict.fromkeys(partners)
            ]
            feed_id, now = self._home.new_id(), self._home.now()
            definition = Definition(
                feed=wire_id(feed_id),
                version=1,
                name=name,
                description=description,
                segments=tuple(segment_ref(self._scope, tx, segment) for segment in dict.fromkeys(segments)),
                namespaces=tuple(namespace(self._scope, tx, each, connections) for each in dict.fromkeys(namespaces)),
                restricted_uses=tuple(sorted(set(restricted_uses))),
                membership_days=membership_days,
                valid_until=valid_until,
                created=now,
            )
            Governance(self._scope).check_feed(definition, tx)
            first = Feed(
                id=feed_id,
                project_id=self._scope.id,
                name=name,
                status=FeedStatus.DRAFT,
                version=1,
                revision=0,
                created=now,
                changed=now,
            )
            tx.execute(insert(feeds).values(asdict(first)))
            versions.keep(self._scope, tx, feed_id, definition)
            for connection in connections:
                recipients.add_partner(self._scope, tx, feed_id, connection)

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

        It asks about all namespaces of the feed, or those that are named. If one partner does not answer, its rows are
        "failed", with the error; if nobody answers, the first error is raised. Without `wait` the questions are only
        queued, and returned with the ids of their jobs.
        """
        self._scope.require("feed.estimate", name)
        with self._scope.refusals("feed.estimate", name), self._home.read() as tx:
            definition, connections = self._to_estimate(tx, name, partner)
            asked = [namespace(self._scope, tx, each, ()) for each in namespaces] or list(definition.namespaces)
            if strange := set(asked) - set(definition.namespaces):
                raise NotFound(f"feed {name} has no {min(strange)!r}", hint="look at it", remedy=_show(name))
        names = [segment.name for segment in definition.segments]
        if not wait:
            return estimates.queue(self._scope, connections, asked, names)
        waiting = estimates.ask(self._scope, connections, asked, names, progress)
        kept = {(each["partner"], each["namespace"]) for each in waiting}
        return waiting + [each for each in self.estimates(name) if (each["partner"], each["namespace"]) not in kept]

    def estimates(self, name: str) -> Documents:
        """Return the newest estimate per partner, segment and namespace of a feed, with its age and our budget left."""
        feed = self.get(name)
        return estimates.newest(self._scope, feed.id, self.definition(feed))

    def publish(self, name: str) -> None:
        """Offer a feed, or its newest version, to its partners; members leave only after a partner has enabled it."""
        with self._scope.act("feed.publish", name) as tx:
            offered = publishing.publish(self._scope, tx, self.get(name, tx))
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
        detail: Document = {"removed": asdict(removal), "added": asdict(addition)}
        with self._scope.act("feed.edit", name, detail=detail) as tx:
            feed = self.get(name, tx)
            version, notified = edits.edit(self._scope, tx, feed, removal, addition, description)
            detail["version"] = version
        self._deliver(notified)
        return version

    def unshare(self, name: str, *, segment: str | None = None, partner: str | None = None, reason: str = "") -> None:
        """Take one segment from all partners, or the whole feed from one partner; they purge it and sign that they did."""
        if (segment is None) == (partner is None):
            raise InvalidInput("name what to unshare", hint="a segment, or a partner")
        if segment is not None:
            self.edit(name, Removal(segments=[segment]))
            return
        with self._scope.act("feed.unshare", name) as tx:
            feed = self.get(name, tx)
            pairs = [pair for pair in recipients.partners_of(self._scope, tx, feed) if pair[0].alias == partner]
            if not pairs:
                raise NotFound(
                    f"feed {name} does not go to a partner {partner!r}", hint="look at it", remedy=_show(name)
                )
            recipients.check_current(tx, feed, pairs)
            self._revoke(tx, feed, pairs, reason)
        self._deliver([connection for connection, _ in pairs])

    def revoke(self, name: str, reason: str = "") -> None:
        """End a feed for good: every receiver purges its memberships and signs a statement of it."""
        with self._scope.act("feed.revoke", name) as tx:
            feed = self.get(name, tx)
            if feed.status is FeedStatus.REVOKED:
                raise NotAllowed(f"feed {name} was revoked already", hint="look at it", remedy=_show(name))
            pairs = recipients.partners_of(self._scope, tx, feed)
            self._revoke(tx, feed, pairs, reason)
            recipients.change_feed(self._scope, tx, feed.id, status=FeedStatus.REVOKED)
        self._deliver([connection for connection, _ in pairs])

    def delete(self, name: str) -> None:
        """Take a draft, or a feed that no partner has any more, out of the lists; what partners signed about it stays."""
        detail: Document = {}
        with self._scope.act("feed.delete", name, detail=detail) as tx:
            detail |= deleting.delete(self._scope, tx, self.get(name, tx))

    def sync(self, name: str | None = None, progress: Progress = no_progress, *, wait: bool = True) -> Documents:
        """Bring the newest members of our published feeds to every partner that has enabled them; returns the runs.

        One that fails is among them, with its error; if all fail, the first error is raised. Without `wait` they are only
        queued, and returned with the ids of their jobs.
        """
        self._scope.require("feed.sync", name or "all")
        done: Documents = []
        errors: list[VesicaError] = []
        with self._scope.refusals("feed.sync", name or "all"):
            wanted = [self._to_sync(name)] if name is not None else self._visible(self._rows(FeedStatus.PUBLISHED))
        for feed in wanted:
            for connection, recipient in self.partners_of(feed):
                if recipient.status is not RecipientStatus.ENABLED:
                    continue
                job = Jobs(self._home).submit_once(
                    releases.JOB, {"connection": connection.id, "feed": feed.id}, self._scope
                )
                about = {"feed": feed.name, "partner": connection.alias}
                if not wait:
                    done.append({**about, "status": JobState.QUEUED, "job": job})
                    continue
                try:
                    done.append(Jobs(self._home).wait(job, progress))
                except VesicaError as error:  # one partner's trouble is not the others'
                    errors.append(error)
                    done.append({**about, "status": JobState.FAILED, "error": error.document()})
        if errors and len(errors) == len(done):
            raise errors[0]
        return done

    def all(self) -> Documents:
        """Return our feeds, with each partner's state."""
        return [
            {
                "name": feed.name,
                "status": feed.status.value,
                "version": feed.version,
                "segments": [segment.name for segment in self.definition(feed).segments],
                "partners": {
                    connection.alias: recipient.status.value for connection, recipient in self.partners_of(feed)
                },
                "offered": {
                    connection.alias: edits.offered(recipient) for connection, recipient in self.partners_of(feed)
                },
                "failures": {
                    connection.alias: recipient.failure
                    for connection, recipient in self.partners_of(feed)
                    if recipient.failure is not None and recipient.status is RecipientStatus.ENABLED
                },
            }
            for feed in self._visible(self._rows())
        ]

    def show(self, name: str) -> Document:
        """Return one of our feeds: definition, version hash, partners, estimates and runs."""
        feed = self.get(name)
        with self._home.read() as tx:
            definition = self.definition(feed, tx)
            pairs = recipients.partners_of(self._scope, tx, feed)
            partners = [self._partner(tx, feed, definition, pair) for pair in pairs]
            recent = runs.recent(tx, feed.id, ours=True)
        aliases = {connection.id: connection.alias for connection, _ in pairs}
        published = feed.status is not FeedStatus.DRAFT
        steps = publishing.steps(definition, partners=publishing.goes_to(pairs), published=published)
        if feed.status is FeedStatus.REVOKED:
            steps = []  # nothing is left to do
        return {
            **versions.describe(definition),
            "status": feed.status.value,
            "steps": [step.document() for step in steps],
            "partners": partners,
            "estimates": self.estimates(name),
            "runs": [{"partner": aliases.get(run.connection_id), **run.shown()} for run in recent],
        }

    def _partner(
        self, tx: Tx, feed: Feed, definition: Definition, pair: tuple[Connection, recipients.Recipient]
    ) -> Document:
        connection, recipient = pair
        return {
            "alias": connection.alias,
            "status": recipient.status.value,
            "budget": asking.budget(self._scope, connection),
            **edits.position(self._scope, tx, connection, recipient, definition),
            "last_revision": recipient.last_revision,
            "last_receipt": recipient.last_receipt.hex() if recipient.last_receipt else None,
            "last_run": runs.last(tx, connection.id, feed.id, self._home.now()),
            "failure": recipient.failure,
            "next_attempt": recipient.next_attempt,
            "reason": recipient.reason,
            "universes": recipient.universes,
            "purges": purges.documents(tx, feed.id, connection.id),
        }

    def get(self, name: str, tx: Tx | None = None) -> Feed:
        """Return one of our feeds by name; raises NotFound, also for one that is hidden from the caller."""
        feed = self._find(name, tx)
        if feed is None or feed.deleted is not None or not self._visible([feed], tx):
            raise NotFound(f"there is no feed {name!r}", hint="look at the feeds", remedy=Remedy("feed.list"))
        return feed

    def definition(self, feed: Feed, tx: Tx | None = None) -> Definition:
        """Return a feed's newest version."""
        with self._home.read(tx) as tx:
            return versions.get(tx, feed.id, feed.version)

    def recipients(self) -> Shares:
        """Return what each partner is offered or gets: the feed's name, the connection, the status, and the version.

        Feeds that are hidden from the caller are left out.
        """
        found = []
        with self._home.read() as tx:
            for feed in self._visible(self._rows(FeedStatus.PUBLISHED), tx):
                for connection, recipient in recipients.partners_of(self._scope, tx, feed):
                    if recipient.live:
                        version = recipient.accepted_version or feed.version
                        found.append((feed.name, connection, recipient.status, versions.get(tx, feed.id, version)))
        return found

    def partners_of(self, feed: Feed) -> Pairs:
        """Return the connections that a feed goes to or went to, each with its state of it, by alias."""
        with self._home.read() as tx:
            return recipients.partners_of(self._scope, tx, feed)

    def _to_estimate(self, tx: Tx, name: str, partner: str | None) -> tuple[Definition, list[Connection]]:
        """Return what may be asked about, and the partners to ask: the one that is named, or all."""
        prerequisites.check(self._scope, tx)
        feed = self.get(name, tx)
        definition = self.definition(feed, tx)
        Governance(self._scope).check_feed(definition, tx)
        if partner is not None:
            Partners(self._scope).get(partner, tx)
        pairs = [p for p in recipients.partners_of(self._scope, tx, feed) if partner in (None, p[0].alias)]
        recipients.check_current(tx, feed, pairs)
        connections = [connection for connection, recipient in pairs if recipient.status in CURRENT]
        if not connections and partner is None:
            remedy = Remedy("feed.edit", {"name": name, "add_partner": "NAME"})
            raise NotAllowed(f"feed {name} goes to no partner", hint="add one", remedy=remedy)
        if not connections:
            raise NotFound(f"feed {name} has no such partner", hint="look at it", remedy=_show(name))
        return definition, connections

    def _to_sync(self, name: str) -> Feed:
        """Return a feed that may run: one that some partner has, or may take."""
        with self._home.read() as tx:
            feed = self.get(name, tx)
            recipients.check_current(tx, feed, recipients.partners_of(self._scope, tx, feed))
            return feed

    def _revoke(self, tx: Tx, feed: Feed, pairs: Pairs, reason: str) -> None:
        give_up_releases(self._home, tx, feed.id)
        for connection, recipient in pairs:
            if recipient.status not in CURRENT:
                continue
            if recipient.live and connection.status is ConnectionStatus.ACTIVE:
                notice = FeedNotice(feed=feed.wire_id, version=feed.version, reason=reason)
                Letters(self._scope).send(tx, connection.id, "feed.revoke", notice)
            recipients.change_state(self._scope, tx, recipient, status=RecipientStatus.REVOKED, reason=reason)

    def _find(self, name: str, tx: Tx | None) -> Feed | None:
        query = select(feeds).where(feeds.c.project_id == self._scope.id, feeds.c.name == name)
        with self._home.read(tx) as tx:
            row = tx.execute(query).first()
            return None if row is None else record(Feed, row)

    def _free(self, tx: Tx, name: str) -> Document:
        """Raise AlreadyExists if a feed has a name; rename one that is revoked, and return what the audit log says of that."""
        if (before := self._find(name, tx)) is None:
            return {}
        if before.status is not FeedStatus.REVOKED:
            raise AlreadyExists(f"there is a feed {name!r} already", hint="choose another name")
        aside = deleting.free_name(tx, before, "deleted" if before.deleted else "revoked")
        recipients.change_feed(self._scope, tx, before.id, name=aside)
        return {"renamed": {"feed": before.id, "from": name, "to": aside}}

    def _visible(self, found: Found, tx: Tx | None = None) -> Found:
        """Leave out the feeds with a segment that is hidden from the caller, or narrowed by what is.

        The newest version is enough to look at: no accepted one has a segment that it lacks (see edits.py).
        """
        with self._home.read(tx) as tx:
            visibility = Visibility(self._scope, tx)
            return [
                feed
                for feed in found
                if visibility.whole
                or visibility.sees_use([each.name for each in self.definition(feed, tx).segments], SHARING)
            ]

    def _rows(self, status: FeedStatus | None = None) -> Found:
        with self._home.read() as tx:
            query = select(feeds).where(feeds.c.project_id == self._scope.id).order_by(feeds.c.name)
            found = [record(Feed, row) for row in tx.execute(query)]
        return [feed for feed in found if feed.deleted is None and status in (None, feed.status)]

    def _deliver(self, connections: Sequence[Connection]) -> None:
        for connection in connections:
            Letters(self._scope).deliver_soon(connection)


def _show(name: str) -> Remedy:
    return Remedy("feed.show", {"name": name})
