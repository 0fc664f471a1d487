"""Edits of feeds that we send: what is taken out holds at once, what is added waits for each partner's word.

A feed has one line of versions, and each partner is somewhere on it. Where a partner has not accepted the newest one, an
edit that takes something out makes two versions for it: what holds there without what is gone, which holds at once, and
the newest, which it may accept.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, select

from protocol.feed import MAX_SEGMENTS, Definition
from protocol.letters import FeedVersion

from ...errors import AlreadyExists, InvalidInput, NotFound, Refused
from ...exchanges.exchanges import give_up_releases
from ...governance.labels import Kind, Lineage
from ...governance.policies import check_action
from ...storage.tables import DAY, estimates
from .. import versions

if TYPE_CHECKING:
    from ...project import Project

ESTIMATE_DAYS = 7  # after that an estimate is shown as expired, and no namespace is offered on it
GOING = ("pending", "enabled", "disabled")

Pairs = list[tuple[Row[Any], Row[Any]]]  # a connection, and its state of a feed


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
    """What an edit puts into a feed. Partners are in no version: who is new is offered the newest when it is published."""

    segments: Sequence[str] = ()
    namespaces: Sequence[str] = ()
    restricted_uses: Sequence[str] = ()
    partners: Sequence[str] = ()


NO_REMOVAL, NO_ADDITION = Removal(), Addition()


def edit(project: "Project", name: str, removal: Removal, addition: Addition, description: str | None) -> int:
    """Make the next version of a feed and tell its partners; returns its number.

    What is taken out is purged at the receivers at once. What is added they may accept; a namespace is offered only when
    there is an estimate of it, so until then the version waits here.
    """
    feeds = project.feeds
    told: Sequence[Row[Any]] = ()
    detail: dict[str, Any] = {"removed": asdict(removal), "added": asdict(addition)}
    with project.act("feed.edit", name, detail=detail) as tx:
        feed = feeds.get(name, tx)
        if feed.status == "revoked":
            raise Refused(f"feed {name} was revoked", hint="create a new one")
        before = feeds.definition(feed, tx)
        _check_there(before, removal)
        pairs = [pair for pair in feeds.partners_of(feed, tx) if pair[1].status in ("draft", *GOING)]
        added = [_new_partner(project, tx, feed, alias) for alias in dict.fromkeys(addition.partners)]
        rows = [row for row, _ in pairs] + added
        after = _with(project, tx, removal.of(before, description), addition, rows)
        if not after.namespaces or (not after.segments and feed.status != "draft"):
            raise Refused(
                f"that would leave feed {name} without a segment or a namespace", hint=f"vesica feed revoke {name}"
            )
        for row in added:
            for namespace in after.namespaces:
                feeds.namespace(namespace, [row])
            feeds.add_partner(tx, feed.id, row)
        if not versions.only_removes(before, after):
            feeds.check_prerequisites()
            project.governance.check_feed(after, tx)
        if after != before:
            going = [pair for pair in pairs if pair[1].status in GOING]
            takes_out = bool(removal) or description is not None
            told = _tell(
                project,
                tx,
                feed,
                before,
                after,
                going,
                partial(removal.of, description=description) if takes_out else None,
            )
        elif not added:
            raise InvalidInput(f"that changes nothing in feed {name}", hint=f"vesica feed show {name}")
        detail["version"] = version = int(feeds.get(name, tx).version)
    for row in told:
        project.letters.deliver_soon(row)
    return version


def relabel(
    project: "Project", tx: Connection, feed: Row[Any], before: Definition, lineage: Lineage
) -> list[Row[Any]] | None:
    """Give a feed whose segments have other labels now a version that says so; returns whom to call, or None.

    Labels are the sender's word on its data and no part of the bargain: they hold at once, whatever else waits.
    """

    def labelled(definition: Definition) -> Definition:
        segments = tuple(
            replace(each, labels=tuple(sorted(lineage.labels(Kind.SEGMENT, each.name)))) for each in definition.segments
        )
        return replace(definition, segments=segments)

    after = labelled(before)
    if after == before:
        return None
    going = [pair for pair in project.feeds.partners_of(feed, tx) if pair[1].status in GOING]
    return _tell(project, tx, feed, before, after, going, labelled)


def offer(project: "Project", tx: Connection, row: Row[Any], state: Row[Any], definition: Definition) -> None:
    """Offer a version to a partner, which may accept it."""
    project.letters.send(tx, row.id, "feed.publish", FeedVersion(definition=definition))
    project.feeds.change_state(tx, state, offers=[*state.offers, definition.version])


def holds(tx: Connection, state: Row[Any]) -> Definition:
    """Return the version that holds at a partner, or that would if it accepted the first one that it was offered."""
    return versions.holding(versions.each(tx, state.feed_id, state.offers))


def offered(state: Row[Any]) -> int | None:
    """Return the version that waits for a partner's word."""
    if state.status not in GOING or state.offers[-1] in (state.accepted_version, state.declined_version):
        return None
    return int(state.offers[-1])


def waits_for(project: "Project", tx: Connection, row: Row[Any], held: Definition, newest: Definition) -> list[str]:
    """Return the namespaces that a version would bring a partner, and of which there is no estimate of its segments."""
    since = project.node.now() - ESTIMATE_DAYS * DAY
    wanted = {segment.name for segment in newest.segments}
    missing = []
    for namespace in newest.namespaces:
        known = select(estimates.c.segment).where(
            estimates.c.connection_id == row.id, estimates.c.namespace == namespace, estimates.c.at >= since
        )
        if namespace not in held.namespaces and not wanted <= set(tx.scalars(known)):
            missing.append(namespace)
    return missing


def not_estimated(name: str, row: Row[Any], namespaces: Sequence[str]) -> Refused:
    """Return the refusal to offer namespaces of which there is no estimate."""
    return Refused(
        f"{row.alias} was not asked about {', '.join(namespaces)} in the last {ESTIMATE_DAYS} days",
        hint=" --namespace ".join([f"vesica feed estimate {name}", *namespaces]),
    )


def position(project: "Project", tx: Connection, row: Row[Any], state: Row[Any], newest: Definition) -> dict[str, Any]:
    """Return where a partner is on the feed's line of versions: what runs, what it may accept, what waits here."""
    unoffered = state.status in GOING and state.offers[-1] != newest.version
    accepted = state.accepted_version and versions.get(tx, state.feed_id, state.accepted_version)
    running = accepted and state.status in GOING
    return {
        "accepted_version": state.accepted_version,
        "accepted_hash": accepted.digest().hex() if accepted else None,
        "lacks": versions.difference(holds(tx, state), newest)["adds"] if running else {},
        "offered_version": offered(state),
        "declined_version": state.declined_version,
        "waits_for_estimate": waits_for(project, tx, row, holds(tx, state), newest) if unoffered else [],
    }


def _tell(
    project: "Project",
    tx: Connection,
    feed: Row[Any],
    before: Definition,
    after: Definition,
    pairs: Pairs,
    at_once: Callable[[Definition], Definition] | None,
) -> list[Row[Any]]:
    """Keep the versions of an edit and send each partner those that are for it; returns who has a letter waiting.

    `at_once` is what the edit does to any version that holds already: it takes something out, or says it in other words.
    Whatever a partner accepts that we offered earlier, what is taken out now is not in what holds then: each version that
    holds at once is part of all that was offered before (`versions.holding`).
    """
    feeds, last, now = project.feeds, feed.version, project.node.now()
    shorter: dict[int, Definition] = {}  # by the version that held until now
    adds = not versions.only_removes(before, after)
    held = {state.id: holds(tx, state) for _, state in pairs}
    fresh = versions.new_segments(before, after)
    for row, state in pairs:
        feeds.check_sizes(tx, feed.name, fresh, row)
        left = at_once(held[state.id]) if at_once else held[state.id]
        if not at_once or versions.only_removes(left, after) or held[state.id].version in shorter:
            continue
        if not left.namespaces:
            raise Refused(
                f"{row.alias} would have no namespace left before it accepts the new version",
                hint=f"vesica feed unshare {feed.name} --partner {row.alias}",
            )
        last += 1
        shorter[held[state.id].version] = replace(left, version=last, created=now)
    newest = replace(after, version=last + 1, created=now)
    for definition in (*shorter.values(), newest):
        versions.keep(project, tx, feed.id, definition)
    feeds.change(tx, feed, version=newest.version)
    told = []
    for row, state in pairs:
        known, holding = list(state.offers), shorter.get(held[state.id].version, held[state.id])
        if holding is not held[state.id]:
            known.append(_send(project, tx, row, "feed.unshare", holding))
        if versions.only_removes(holding, newest):
            holding = newest
            known.append(_send(project, tx, row, "feed.unshare", newest))
        elif (adds or not _declined(tx, state, newest)) and not waits_for(project, tx, row, holding, newest):
            known.append(_send(project, tx, row, "feed.publish", newest))
        feeds.change_state(
            tx, state, offers=known, accepted_version=holding.version if state.accepted_version is not None else None
        )
        if known != state.offers:
            told.append(row)
    if at_once:
        give_up_releases(project.node, tx, feed.id)
    return told


def _send(project: "Project", tx: Connection, row: Row[Any], kind: str, definition: Definition) -> int:
    project.letters.send(tx, row.id, kind, FeedVersion(definition=definition))
    return definition.version


def _declined(tx: Connection, state: Row[Any], definition: Definition) -> bool:
    """Say whether a partner has turned down all that a version would add."""
    if state.declined_version is None:
        return False
    return versions.only_removes(versions.get(tx, state.feed_id, state.declined_version), definition)


def _with(
    project: "Project", tx: Connection, definition: Definition, addition: Addition, rows: Sequence[Row[Any]]
) -> Definition:
    """Return a definition with what is added to it; refused where it is there already or may not be shared with one."""
    feeds = project.feeds
    for use in addition.restricted_uses:
        check_action(use)
    segments = tuple(feeds.segment_ref(tx, each) for each in dict.fromkeys(addition.segments))
    namespaces = tuple(dict.fromkeys(feeds.namespace(each, rows) for each in addition.namespaces))
    uses = set(addition.restricted_uses)
    known = {*(each.name for each in definition.segments), *definition.namespaces, *definition.restricted_uses}
    for each in (*(segment.name for segment in segments), *namespaces, *sorted(uses)):
        if each in known:
            raise AlreadyExists(
                f"feed {definition.name} has {each} already", hint=f"vesica feed show {definition.name}"
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
    rules = [each.partition("/")[0] for each in definition.namespaces]
    for given, known in (
        (removal.segments, [segment.name for segment in definition.segments]),
        (removal.namespaces, [*rules, *definition.namespaces]),
        (removal.restricted_uses, definition.restricted_uses),
    ):
        for each in given:
            if each not in known:
                raise NotFound(f"feed {definition.name} has no {each!r}", hint=f"vesica feed show {definition.name}")


def _new_partner(project: "Project", tx: Connection, feed: Row[Any], alias: str) -> Row[Any]:
    row = project.partners.get(alias, tx, status="active")
    states = {known.id: state.status for known, state in project.feeds.partners_of(feed, tx)}
    if row.id in states:
        raise AlreadyExists(
            f"feed {feed.name} goes to {alias} already ({states[row.id]})",
            hint="what a partner declined, or what was taken from it, it is offered again as a new feed",
        )
    return row
