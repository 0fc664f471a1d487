"""Edits of feeds that we send: what is taken out is gone at once, what is added waits until each partner accepts it.

A feed has one line of versions, and each partner is somewhere on it. Where a partner has not accepted the newest one, an
edit that takes something out makes two versions for it. An example, of a feed that one partner gets:

    v1  segments A, B       accepted, and in force
    v2  segments A, B, C    offered, not answered yet; then an edit takes A out
    v3  segment  B          v1 without A: in force at once
    v4  segments B, C       v2 without A: offered in place of v2
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from protocol.feed import MAX_SEGMENTS, Definition
from protocol.letters import FeedVersion
from psi.errors import Remedy

from ...access.scope import Scope
from ...errors import AlreadyExists, InvalidInput, NotAllowed, NotFound
from ...exchanges.records import give_up_releases
from ...governance.governance import Governance
from ...governance.lineage import Lineage
from ...governance.policies import SHARING, check_action
from ...partners.connections import Connection, ConnectionStatus
from ...partners.letters import Letters
from ...partners.partners import Partners
from ...storage.database import Tx
from ...storage.records import Document
from .. import prerequisites, versions
from ..estimates.records import ESTIMATE_DAYS, not_asked
from ..states import CURRENT, FeedStatus
from . import parts, recipients
from .recipients import Feed, Pairs, Recipient


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What an edit takes out of a feed."""

    segments: Sequence[str] = ()
    namespaces: Sequence[str] = ()
    restricted_uses: Sequence[str] = ()

    def __bool__(self) -> bool:
        return any((self.segments, self.namespaces, self.restricted_uses))

    def of(self, definition: Definition, description: str | None = None) -> Definition:
        """Return a definition without this, and with another description if one is given."""
        return replace(
            definition,
            description=definition.description if description is None else description,
            segments=tuple(each for each in definition.segments if each.name not in self.segments),
            namespaces=tuple(
                each
                for each in definition.namespaces
                if each not in self.namespaces and each.partition("/")[0] not in self.namespaces
            ),
            restricted_uses=tuple(each for each in definition.restricted_uses if each not in self.restricted_uses),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What an edit puts into a feed. A new partner is in no version: it is offered the newest one at the next publish."""

    segments: Sequence[str] = ()
    namespaces: Sequence[str] = ()
    restricted_uses: Sequence[str] = ()
    partners: Sequence[str] = ()


NO_REMOVAL: Removal = Removal()
NO_ADDITION: Addition = Addition()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """An edit of the newest version, before and after.

    `reduce` applies what is in force at once, without a partner's word, to any version: removals, and new labels.
    """

    feed: Feed
    before: Definition
    after: Definition
    reduce: Callable[[Definition], Definition] | None


def edit(
    scope: Scope, tx: Tx, feed: Feed, removal: Removal, addition: Addition, description: str | None
) -> tuple[int, list[Connection]]:
    """Make the next version of a feed and send it to its partners; return its number, and who has a letter waiting.

    What is taken out is purged at the receivers at once. What is added they may accept. A namespace is offered only with
    a fresh estimate: until there is one the version waits here.
    """
    name = feed.name
    recipients.check_not_revoked(tx, feed)
    before = versions.get(tx, feed.id, feed.version)
    _check_there(before, removal)
    pairs = [pair for pair in recipients.partners_of(scope, tx, feed) if pair[1].status in CURRENT]
    added = [_new_partner(scope, tx, feed, alias) for alias in dict.fromkeys(addition.partners)]
    after = _with(scope, tx, removal.of(before, description), addition, [connection for connection, _ in pairs] + added)
    if not after.namespaces or (not after.segments and feed.status is not FeedStatus.DRAFT):
        raise NotAllowed(
            f"that would leave feed {name} without a segment or a namespace",
            hint="end it instead",
            remedy=Remedy("feed.revoke", {"name": name}),
        )
    for connection in added:
        for namespace in after.namespaces:
            parts.namespace(scope, tx, namespace, [connection])
        recipients.add_partner(scope, tx, feed.id, connection)
    if not versions.only_removes(before, after):
        prerequisites.check(scope, tx)
        Governance(scope).check_feed(after, tx)
    if after == before:
        if not added:
            raise InvalidInput(
                f"that changes nothing in feed {name}", hint="look at it", remedy=Remedy("feed.show", {"name": name})
            )
        return feed.version, []
    takes_out = bool(removal) or description is not None
    reduce = partial(removal.of, description=description) if takes_out else None
    change = _Change(feed=feed, before=before, after=after, reduce=reduce)
    return _notify(scope, tx, change, [pair for pair in pairs if pair[1].live])


def relabel(scope: Scope, tx: Tx, feed: Feed, before: Definition, lineage: Lineage) -> list[Connection] | None:
    """Give a feed whose segments have other labels now a version that says so; return whom to call, None if they are the same.

    Labels are the sender's word on its data, and nobody has to accept them: they are in force at once.
    """

    def labelled(definition: Definition) -> Definition:
        segments = tuple(
            replace(each, labels=tuple(sorted(lineage.labels_for(each.name, SHARING)))) for each in definition.segments
        )
        return replace(definition, segments=segments)

    after = labelled(before)
    if after == before:
        return None
    pairs = [pair for pair in recipients.partners_of(scope, tx, feed) if pair[1].live]
    return _notify(scope, tx, _Change(feed=feed, before=before, after=after, reduce=labelled), pairs)[1]


def offer(scope: Scope, tx: Tx, connection: Connection, recipient: Recipient, definition: Definition) -> None:
    """Offer a version to a partner, which may accept it."""
    Letters(scope).send(tx, connection.id, "feed.publish", FeedVersion(definition=definition))
    recipients.change_state(scope, tx, recipient, offers=[*recipient.offers, definition.version])


def offered(recipient: Recipient) -> int | None:
    """Return the number of the version that waits for a partner's answer."""
    if not recipient.live or recipient.offers[-1] in (recipient.accepted_version, recipient.declined_version):
        return None
    return recipient.offers[-1]


def waits_for(scope: Scope, tx: Tx, connection: Connection, now: Definition, newest: Definition) -> list[str]:
    """Return the namespaces that a version would add at a partner and in which its segments have no fresh estimate."""
    new = [namespace for namespace in newest.namespaces if namespace not in now.namespaces]
    return not_asked(scope, tx, connection, {segment.name for segment in newest.segments}, new)


def not_estimated(name: str, connection: Connection, namespaces: Sequence[str]) -> NotAllowed:
    """Return the refusal to offer namespaces in which there is no fresh estimate."""
    return NotAllowed(
        f"{connection.alias} was not asked about {', '.join(namespaces)} in the last {ESTIMATE_DAYS} days",
        hint="ask it",
        remedy=Remedy("feed.estimate", {"name": name, "namespaces": list(namespaces)}),
    )


def position(scope: Scope, tx: Tx, connection: Connection, recipient: Recipient, newest: Definition) -> Document:
    """Return where a partner is on the feed's line of versions: what runs, what it may accept, what waits here."""
    unoffered = recipient.live and recipient.offers[-1] != newest.version
    accepted = (
        versions.get(tx, recipient.feed_id, recipient.accepted_version)
        if recipient.accepted_version is not None
        else None
    )
    now = recipients.in_force(tx, recipient) if recipient.live else None
    return {
        "accepted_version": recipient.accepted_version,
        "accepted_hash": accepted.digest().hex() if accepted else None,
        "lacks": versions.difference(now, newest)["adds"] if accepted and now else {},
        "offered_version": offered(recipient),
        "declined_version": recipient.declined_version,
        "waits_for_estimate": waits_for(scope, tx, connection, now, newest) if unoffered and now else [],
    }


def _notify(scope: Scope, tx: Tx, change: _Change, pairs: Pairs) -> tuple[int, list[Connection]]:
    """Keep the versions of an edit and send each partner its own; return the newest number, and who has a letter waiting.

    What an edit takes out stays out, even if the partner later accepts an older offer.
    """
    feed, after = change.feed, change.after
    before = {recipient.id: recipients.in_force(tx, recipient) for _, recipient in pairs}
    fresh = versions.new_segments(change.before, after)
    for connection, _ in pairs:
        parts.check_sizes(scope, tx, feed.name, fresh, connection)
    reduced = _reduced(scope, change, [(connection, before[recipient.id]) for connection, recipient in pairs])
    newest = replace(after, version=feed.version + len(reduced) + 1, created=scope.home.now())
    for definition in (*reduced.values(), newest):
        versions.keep(scope, tx, feed.id, definition)
    recipients.change_feed(scope, tx, feed.id, version=newest.version)
    adds, notified = not versions.only_removes(change.before, after), []
    for connection, recipient in pairs:
        in_force = before[recipient.id]
        made = _VersionsForOnePartner(before=in_force, reduced=reduced.get(in_force.version), newest=newest, adds=adds)
        if _send_versions(scope, tx, connection, recipient, made):
            notified.append(connection)
    if change.reduce:
        give_up_releases(scope.home, tx, feed.id)
    return newest.version, notified


def _reduced(scope: Scope, change: _Change, pairs: Sequence[tuple[Connection, Definition]]) -> dict[int, Definition]:
    """Return the versions that are in force from now on at partners that cannot have the newest one yet.

    The keys are the numbers of the versions that were in force there until now.
    """
    found: dict[int, Definition] = {}
    if change.reduce is None:
        return found
    for connection, definition in pairs:
        left = change.reduce(definition)
        if versions.only_removes(left, change.after) or definition.version in found:
            continue
        if not left.namespaces:
            raise NotAllowed(
                f"{connection.alias} would have no namespace left before it accepts the new version",
                hint="take the feed from it first",
                remedy=Remedy("feed.unshare", {"name": change.feed.name, "partner": connection.alias}),
            )
        number = change.feed.version + len(found) + 1
        found[definition.version] = replace(left, version=number, created=scope.home.now())
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _VersionsForOnePartner:
    """The versions that an edit makes for one partner."""

    before: Definition  # was in force
    reduced: Definition | None  # is in force from now on, if the edit takes something out of `before`
    newest: Definition
    adds: bool  # whether the edit adds something


def _send_versions(
    scope: Scope, tx: Tx, connection: Connection, recipient: Recipient, made: _VersionsForOnePartner
) -> bool:
    """Send a partner the versions of an edit that are for it; return whether there was one."""
    known, now, newest = list(recipient.offers), made.reduced or made.before, made.newest
    if made.reduced is not None:
        known.append(_send(scope, tx, connection, "feed.unshare", made.reduced))
    if versions.only_removes(now, newest):
        now = newest
        known.append(_send(scope, tx, connection, "feed.unshare", newest))
    elif (made.adds or not _declined(tx, recipient, newest)) and not waits_for(scope, tx, connection, now, newest):
        known.append(_send(scope, tx, connection, "feed.publish", newest))
    accepted = now.version if recipient.accepted_version is not None else None
    recipients.change_state(scope, tx, recipient, offers=known, accepted_version=accepted)
    return known != recipient.offers


def _send(scope: Scope, tx: Tx, connection: Connection, kind: str, definition: Definition) -> int:
    Letters(scope).send(tx, connection.id, kind, FeedVersion(definition=definition))
    return definition.version


def _declined(tx: Tx, recipient: Recipient, definition: Definition) -> bool:
    """Return whether a partner has turned down all that a version would add."""
    if recipient.declined_version is None:
        return False
    return versions.only_removes(versions.get(tx, recipient.feed_id, recipient.declined_version), definition)


def _with(
    scope: Scope, tx: Tx, definition: Definition, addition: Addition, connections: Sequence[Connection]
) -> Definition:
    """Return a definition with what is added to it.

    Raises AlreadyExists for what it has, and NotAllowed for what may not be shared, or not with one of the partners.
    """
    for use in addition.restricted_uses:
        check_action(use)
    segments = tuple(parts.segment_ref(scope, tx, each) for each in dict.fromkeys(addition.segments))
    namespaces = tuple(dict.fromkeys(parts.namespace(scope, tx, each, connections) for each in addition.namespaces))
    uses = set(addition.restricted_uses)
    known = {*(each.name for each in definition.segments), *definition.namespaces, *definition.restricted_uses}
    for each in (*(segment.name for segment in segments), *namespaces, *sorted(uses)):
        if each in known:
            raise AlreadyExists(
                f"feed {definition.name} has {each} already",
                hint="look at it",
                remedy=Remedy("feed.show", {"name": definition.name}),
            )
    if len(definition.segments) + len(segments) > MAX_SEGMENTS:
        raise InvalidInput(f"a feed has at most {MAX_SEGMENTS} segments", hint="put the others into another feed")
    return replace(
        definition,
        segments=definition.segments + segments,
        namespaces=definition.namespaces + namespaces,
        restricted_uses=tuple(sorted({*definition.restricted_uses, *uses})),
    )


def _check_there(definition: Definition, removal: Removal) -> None:
    """Raise NotFound for what is to be removed and is not there."""
    rules = [each.partition("/")[0] for each in definition.namespaces]
    for given, known in (
        (removal.segments, [segment.name for segment in definition.segments]),
        (removal.namespaces, [*rules, *definition.namespaces]),
        (removal.restricted_uses, definition.restricted_uses),
    ):
        for each in given:
            if each not in known:
                raise NotFound(
                    f"feed {definition.name} has no {each!r}",
                    hint="look at it",
                    remedy=Remedy("feed.show", {"name": definition.name}),
                )


def _new_partner(scope: Scope, tx: Tx, feed: Feed, alias: str) -> Connection:
    connection = Partners(scope).get(alias, tx, status=ConnectionStatus.ACTIVE)
    known = recipients.find(tx, connection.id, feed.id)
    if known is not None and known.status not in CURRENT:
        raise recipients.gone(tx, feed, [(connection, known)])
    if known is not None:
        raise AlreadyExists(
            f"feed {feed.name} goes to {alias} already ({known.status})",
            hint="look at it",
            remedy=Remedy("feed.show", {"name": feed.name}),
        )
    return connection
