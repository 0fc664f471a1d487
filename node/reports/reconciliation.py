"""Where the people of a feed went: at the sender each identity of its segments with what became of it, at the receiver
each of its own.

Every column sums to the identities. The sender's side is made of what it decided and sent, the receiver's of what it
opened, and neither goes anywhere: no number about matches is in the sender's.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pyroaring import BitMap
from sqlalchemy import Row, select

from protocol.agreement import Agreement
from protocol.feed import Definition
from psi.join import match
from psi.values import Bools, Values, sort_keys

from ..errors import Refused
from ..feeds import evaluations, versions
from ..feeds.receiving import expiry
from ..feeds.receiving.memberships import open_chain
from ..feeds.sending import revisions
from ..partners import key_epochs
from ..people import audiences
from ..people.data import Snapshot
from ..storage.tables import runs

if TYPE_CHECKING:
    from ..project import Project


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


def decide(
    snapshot: Snapshot,
    definition: Definition,
    members: Sequence[BitMap],
    *,
    model: str,
    minimum: int,
    forbidden: bool,
    qualified: Sequence[BitMap | None] = (),
) -> list[Decided]:
    """Say for every identity of the feed's members, in every namespace, why it stays; the first reason counts.

    `members` are those of the definition's segments, `minimum` the least identities of a segment; `forbidden` says that a
    label or policy keeps the whole feed back, `qualified` for each segment who meets its consent policies. A pure
    function of the snapshot.
    """
    found = {
        each: audiences.audience(snapshot, each, members, model=model, qualified=qualified)
        for each in snapshot.namespaces
    }
    may = {each: found[each].shareable() for each in definition.namespaces if each in found}
    sizes = [allowed.segments.sum(axis=1) for allowed in may.values()]
    large = np.max(sizes, axis=0, initial=0) >= max(1, minimum) if sizes else np.zeros(len(members), bool)
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
                label=len(allowed) if forbidden else 0,
                small=0 if forbidden else len(allowed) - int(fitting.sum()),
                allowed=allowed.take(fitting & (not forbidden)),
            )
        )
    return rows


def reconcile(project: "Project", name: str, partner: str | None = None) -> dict[str, Any]:
    """Return where the people of a feed went: of ours for each partner, or of one that a partner shares with us."""
    theirs = [row for row in project.received.list() if row["name"] == name and partner in (None, row["partner"])]
    ours = [
        row for row in project.feeds.list() if row["name"] == name and (partner is None or partner in row["partners"])
    ]
    return _received(project, name, partner) if theirs and not ours else _sent(project, name, partner)


def _sent(project: "Project", name: str, partner: str | None) -> dict[str, Any]:
    feed = project.feeds.get(name)
    documents = []
    for row, state in project.feeds.partners_of(feed):
        if partner not in (None, row.alias) or state.status == "revoked":
            continue
        with project.node.store.read() as tx:
            definition = versions.get(tx, feed.id, state.accepted_version or feed.version)
            snapshot = Snapshot.open(project, tx)
            model = project.consent.require_model(tx)
            reason = None
            try:
                project.governance.check_feed(definition, tx)
            except Refused as error:
                reason = str(error)
            done = (runs.c.connection_id == row.id, runs.c.feed_id == feed.id, runs.c.ours, runs.c.state == "done")
            last = tx.execute(select(runs).where(*done).order_by(runs.c.revision.desc()).limit(1)).first()
        decided = decide(
            snapshot,
            definition,
            [project.segments.members(segment.name, snapshot) for segment in definition.segments],
            model=model,
            minimum=Agreement.decode(row.agreement).terms.minimum_segment,
            forbidden=reason is not None,
            qualified=project.consent_policies.qualified([each.name for each in definition.segments], snapshot),
        )
        documents.append(
            {
                "partner": row.alias,
                "status": state.status,
                "version": definition.version,
                "revision": None if last is None else last.revision,
                "sent_at": None if last is None else last.changed,
                "forbidden": reason,
                **_columns(_went(project, row, last, decided, definition)),
            }
        )
    return {"feed": name, "side": "sender", "partners": documents}


def _went(
    project: "Project", row: Row[Any], last: Row[Any] | None, decided: Sequence[Decided], definition: Definition
) -> list[dict[str, Any]]:
    """Split what a run may send into what the last one sent, what it sent too long ago, and what waits for the next."""
    before = {} if last is None else _contents(project, row, last)
    old = last is not None and expiry.ended(definition, last.changed, project.node.now()) is not None
    rows = []
    for each in decided:
        sent = before.get(each.namespace)
        count = 0 if sent is None else len(match(sort_keys(sent), sort_keys(each.allowed))[0])
        numbers = {key: value for key, value in _fields(each).items() if key != "allowed"}
        went = {"waiting": len(each.allowed) - count, "expired": count if old else 0, "sent": 0 if old else count}
        rows.append({**numbers, **went})
    return rows


def _contents(project: "Project", row: Row[Any], last: Row[Any]) -> dict[str, Values]:
    """Return what the partner took last, by namespace; nothing where the epoch of that run is over."""
    with project.node.store.read() as tx:
        epoch = key_epochs.running(project, tx, row)
    if epoch is None or epoch.number != last.report["epoch"]:
        return {}
    kept = revisions.load(evaluations.cache_of(project, row, epoch), last.id)
    return {namespace: content.values for namespace, content in kept.items()}


def _received(project: "Project", name: str, partner: str | None) -> dict[str, Any]:
    with project.node.store.read() as tx:
        row, feed = project.received.get(name, partner, tx)
        version = feed.accepted_version or feed.offered_version
        definition = versions.get(tx, feed.id, version)
        snapshot = Snapshot.open(project, tx)
        epoch = key_epochs.running(project, tx, row)
        chain = project.memberships.chain(feed)
        then = versions.get(tx, feed.id, chain[-1].version) if chain else definition
    rows: list[dict[str, Any]] = []
    people = BitMap()
    for namespace in snapshot.namespaces:
        everyone, _ = snapshot.distinct(namespace)
        numbers = dict.fromkeys(_COLUMNS, 0) | {"identities": len(everyone)}
        if namespace not in definition.namespaces:
            rows.append({"namespace": namespace, **numbers, "not_carried": len(everyone)})
            continue
        universe, _ = audiences.universe(snapshot, namespace)
        numbers |= {"opted_out": len(everyone) - len(universe), "not_asked": len(universe)}
        if epoch is not None and chain and chain[-1].epoch == epoch.number and namespace in chain[-1].records:
            with evaluations.known(project, row, epoch, namespace, snapshot) as known:
                bitmaps, opened = open_chain(chain, namespace, known, then)
            matched = np.flatnonzero(bitmaps.any(axis=1))
            people |= audiences.holders(snapshot, namespace, known.groups[matched])
            numbers |= {
                "not_asked": len(known.missing),
                "matched": len(matched),
                "not_matched": len(known.groups) - len(matched),
                "records": sum(len(sealed.records[namespace]) for sealed in chain),
                "opened": int(opened.sum()),
            }
        rows.append({"namespace": namespace, **numbers})
    total = {key: sum(each[key] for each in rows) for key in _COLUMNS}
    return {
        "feed": name,
        "side": "receiver",
        "partner": row.alias,
        "status": feed.status,
        "version": version,
        "revision": feed.last_revision,
        "open": bool(chain) and epoch is not None and chain[-1].epoch == epoch.number,
        "profiles": len(people),
        "namespaces": rows,
        "total": total,
    }


_COLUMNS = ("identities", "not_carried", "opted_out", "not_asked", "not_matched", "matched", "records", "opened")


def _fields(decided: Decided) -> dict[str, Any]:
    return {name: getattr(decided, name) for name in decided.__slots__}


def _columns(rows: Collection[dict[str, Any]]) -> dict[str, Any]:
    names = [key for key in next(iter(rows), {}) if key != "namespace"]
    return {"namespaces": list(rows), "total": {key: sum(row[key] for row in rows) for key in names}}
