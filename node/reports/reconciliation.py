"""What became of the identities of a feed: at the sender those of its segments, at the receiver its own.

Every column sums to the identities. The sender counts what it decided and sent, the receiver what it opened, and neither
learns the other's numbers: there is no number of matches at the sender.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from pyroaring import BitMap

from protocol.feed import Definition
from psi.join import match
from psi.values import Bools, Values, sort_keys

from ..access.scope import Scope
from ..consent.consent_policies import ConsentPolicies
from ..consent.consents import Consents
from ..errors import NotAllowed
from ..exchanges.channels import cache_of
from ..feeds import lifetimes, runs, versions
from ..feeds.receiving import evaluations, received_feeds
from ..feeds.receiving.join import open_chain
from ..feeds.receiving.membership_files import MembershipFiles
from ..feeds.receiving.received import Received
from ..feeds.runs import SentRun
from ..feeds.sending import kept_content
from ..feeds.sending.feeds import Feeds
from ..feeds.states import RecipientStatus
from ..governance.governance import Governance
from ..governance.visibility import Visibility
from ..partners import key_epochs
from ..partners.connections import Connection
from ..people import audiences
from ..people.snapshots import Snapshot
from ..segments.segments import Segments
from ..storage.records import Document, Documents


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """One namespace at the sender: identities = all other numbers together; `allowed` are those that a run may send."""

    namespace: str
    identities: int
    not_carried: int = 0
    consent: int = 0
    label: int = 0
    small: int = 0
    allowed: Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What decides, beside what people said."""

    model: str  # of consent
    minimum: int  # identities of a segment
    forbidden: bool  # a label or policy forbids the feed
    qualified: Sequence[BitMap | None] = ()  # for each segment who meets its consent policies


def decide(snapshot: Snapshot, definition: Definition, members: Sequence[BitMap], rules: Rules) -> list[Decided]:
    """Return for every namespace why identities of the feed's members are not sent; the first reason counts.

    `members` are those of the definition's segments. A pure function of the snapshot.
    """
    found = {
        each: audiences.audience(snapshot, each, members, model=rules.model, qualified=rules.qualified)
        for each in snapshot.namespaces
    }
    may = {each: found[each].shareable() for each in definition.namespaces if each in found}
    sizes = [allowed.segments.sum(axis=1) for allowed in may.values()]
    large = np.max(sizes, axis=0, initial=0) >= max(1, rules.minimum) if sizes else np.zeros(len(members), bool)
    rows = []
    for namespace, audience in found.items():
        count = len(audience.values)
        if namespace not in may:
            none = audience.values.take(np.zeros(count, bool))
            rows.append(Decided(namespace=namespace, identities=count, not_carried=count, allowed=none))
            continue
        allowed = may[namespace].values
        fitting: Bools = np.asarray(may[namespace].segments[large].any(axis=0), bool)
        rows.append(
            Decided(
                namespace=namespace,
                identities=count,
                consent=count - len(allowed),
                label=len(allowed) if rules.forbidden else 0,
                small=0 if rules.forbidden else len(allowed) - int(fitting.sum()),
                allowed=allowed.take(fitting & (not rules.forbidden)),
            )
        )
    return rows


def reconcile(scope: Scope, name: str, partner: str | None = None) -> Document:
    """Return where the people of a feed went: of ours for each partner, or of one that a partner shares with us."""
    theirs = [feed for feed in Received(scope).all() if feed["name"] == name and partner in (None, feed["partner"])]
    ours = [
        feed for feed in Feeds(scope).all() if feed["name"] == name and (partner is None or partner in feed["partners"])
    ]
    return _received(scope, name, partner) if theirs and not ours else _sent(scope, name, partner)


def _sent(scope: Scope, name: str, partner: str | None) -> Document:
    feed = Feeds(scope).get(name)
    documents = []
    for connection, recipient in Feeds(scope).partners_of(feed):
        if partner not in (None, connection.alias) or recipient.status is RecipientStatus.REVOKED:
            continue
        with scope.read() as tx:
            definition = versions.get(tx, feed.id, recipient.accepted_version or feed.version)
            snapshot = Snapshot.open(scope, tx)
            model = Consents(scope).require_model(tx)
            reason = None
            try:
                Governance(scope).check_feed(definition, tx)
            except NotAllowed as error:
                reason = str(error)
            last = runs.last_sent(tx, connection.id, feed.id)
            visibility = Visibility(scope, tx)
            hidden = {each for each in snapshot.namespaces if visibility.hidden_sources(snapshot, each)}
        decided = decide(
            snapshot,
            definition,
            [Segments(scope).members(segment.name, snapshot) for segment in definition.segments],
            Rules(
                model=model,
                minimum=connection.terms.minimum_segment,
                forbidden=reason is not None,
                qualified=ConsentPolicies(scope).qualified([each.name for each in definition.segments], snapshot),
            ),
        )
        documents.append(
            {
                "partner": connection.alias,
                "status": recipient.status,
                "version": definition.version,
                "revision": None if last is None else last.revision,
                "sent_at": None if last is None else last.changed,
                "forbidden": reason,
                **_columns(
                    _went(
                        scope,
                        connection,
                        last,
                        [each for each in decided if each.namespace not in hidden - {*definition.namespaces}],
                        definition,
                    )
                ),
            }
        )
    return {"feed": name, "side": "sender", "partners": documents}


def _went(
    scope: Scope, connection: Connection, last: SentRun | None, decided: Sequence[Decided], definition: Definition
) -> Documents:
    """Split what a run may send into what the last one sent, what it sent too long ago, and what waits for the next."""
    before = {} if last is None else _contents(scope, connection, last)
    old = last is not None and lifetimes.ended(definition, last.changed, scope.home.now()) is not None
    rows = []
    for each in decided:
        sent = before.get(each.namespace)
        count = 0 if sent is None else len(match(sort_keys(sent), sort_keys(each.allowed))[0])
        numbers = {name: getattr(each, name) for name in _DECIDED}
        went = {"waiting": len(each.allowed) - count, "expired": count if old else 0, "sent": 0 if old else count}
        rows.append({**numbers, **went})
    return rows


def _contents(scope: Scope, connection: Connection, last: SentRun) -> dict[str, Values]:
    """Return what the partner took last, by namespace; nothing where the epoch of that run is over."""
    with scope.read() as tx:
        epoch = key_epochs.running(scope, tx, connection)
    if epoch is None or epoch.number != last.report.epoch:
        return {}
    kept = kept_content.whole(cache_of(scope, connection, epoch), last.id)
    return {namespace: content.values for namespace, content in kept.items()}


def _received(scope: Scope, name: str, partner: str | None) -> Document:
    with scope.read() as tx:
        connection, feed = received_feeds.get(scope, tx, name, partner)
        version = feed.accepted_version or feed.offered_version
        definition = versions.get(tx, feed.id, version)
        snapshot = Snapshot.open(scope, tx)
        epoch = key_epochs.running(scope, tx, connection)
        chain = MembershipFiles(scope, feed).chain()
        then = versions.get(tx, feed.id, chain[-1].version) if chain else definition
        visibility = Visibility(scope, tx)
        seen = {each: visibility.values(snapshot, each) for each in snapshot.namespaces}
        there = visibility.people(snapshot)
    rows: Documents = []
    people = BitMap()
    for namespace in snapshot.namespaces:
        count = int(seen[namespace].sum())
        numbers = dict.fromkeys(_COLUMNS, 0) | {"identities": count}
        if namespace not in definition.namespaces:
            if count:
                rows.append({"namespace": namespace, **numbers, "not_carried": count})
            continue
        universe = int(seen[namespace][audiences.universe(snapshot, namespace)[1]].sum())
        numbers |= {"opted_out": count - universe, "not_asked": universe}
        if epoch is not None and chain and chain[-1].epoch == epoch.number and namespace in chain[-1].records:
            with evaluations.known(scope, connection, epoch, namespace, snapshot) as known:
                bitmaps, opened = open_chain(scope, chain, namespace, known, then)
            here = seen[namespace][known.in_snapshot]
            matched = np.flatnonzero(bitmaps.any(axis=1) & here)
            people |= audiences.holders(snapshot, namespace, np.flatnonzero(known.in_snapshot)[matched])
            numbers |= {
                "not_asked": universe - int(here.sum()),
                "matched": len(matched),
                "not_matched": int(here.sum()) - len(matched),
                "records": sum(len(sealed.records[namespace]) for sealed in chain),
                "opened": int((opened & here).sum()),
            }
        rows.append({"namespace": namespace, **numbers})
    total = {key: sum(each[key] for each in rows) for key in _COLUMNS}
    return {
        "feed": name,
        "side": "receiver",
        "partner": connection.alias,
        "status": feed.status,
        "version": version,
        "revision": feed.last_revision,
        "open": bool(chain) and epoch is not None and chain[-1].epoch == epoch.number,
        "profiles": len(people & there),
        "namespaces": rows,
        "total": total,
    }


_DECIDED = ("namespace", "identities", "not_carried", "consent", "label", "small")
_COLUMNS = ("identities", "not_carried", "opted_out", "not_asked", "not_matched", "matched", "records", "opened")


def _columns(rows: Collection[Document]) -> Document:
    names = [key for key in next(iter(rows), {}) if key != "namespace"]
    return {"namespaces": list(rows), "total": {key: sum(row[key] for row in rows) for key in names}}
