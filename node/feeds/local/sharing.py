"""Segments shared between the projects of a node: with whom ours are, and what others share with us."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from psi.errors import Remedy, VesicaError

from ...access.audit import Result
from ...access.reached import WORD
from ...access.scope import Home, Scope
from ...consent.consents import Consents
from ...errors import AlreadyExists, Failure, InvalidInput, NotAllowed, NotFound
from ...governance.governance import Governance
from ...governance.lineage import FOREIGN, Lineage, Place, PlaceKind, place_of
from ...governance.policies import check_action
from ...governance.visibility import Visibility, no_segment
from ...inputs.normalise import rule_for_import
from ...operations.alerts import AlertKind, Alerts
from ...people.snapshots import Snapshot
from ...segments.records import find
from ...storage.database import Tx
from ...storage.records import Document, Documents
from . import cycles, evaluations, references, shares, uses
from .shares import NAMESPACES, Share, SharedSegmentsOff
from .uses import Projects

MAX_NAME = 63  # characters, as any segment's: feeds and destinations take it under that name


class Sharing:
    """What a project shares with others of its node, and they with it."""

    def __init__(self, scope: Scope) -> None:
        self._scope, self._home = scope, scope.home

    def share(
        self,
        segment: str,
        projects: Sequence[str],
        *,
        namespaces: Sequence[str] = NAMESPACES,
        with_consent: bool = False,
        restricted_uses: Sequence[str] = (),
    ) -> Projects:
        """Let other projects use a segment: of their own people those who have an identity, in one of the namespaces, that a
        member has too. Return with whom it is shared then.

        Consent to be shared does not count, since nothing leaves the node, but with `with_consent`. The other projects may
        not use it for `restricted_uses`. The caller needs a role there.
        """
        detail: Document = {"projects": list(projects), "namespaces": list(namespaces)}
        detail |= {"with_consent": with_consent, "restricted_uses": list(restricted_uses)}
        with (
            self._refusals_there("segment.shared", segment, projects),
            self._scope.act("segment.share", segment, detail=detail) as tx,
        ):
            segment_id = self._shareable(tx, segment)
            self._check(tx, namespaces, restricted_uses, with_consent)
            users = self._reached(tx, projects)
            for user in users:
                self._add(
                    tx,
                    segment,
                    user,
                    segment_id=segment_id,
                    namespaces=sorted(set(namespaces)),
                    with_consent=with_consent,
                    restricted_uses=sorted(set(restricted_uses)),
                )
            cycles.check(self._scope, tx, segment)
        for user in users:
            evaluations.follow(user)
        return self.with_whom(segment)

    def unshare(self, segment: str, projects: Sequence[str] | None = None) -> Projects:
        """Take a segment back from some projects, or from all; members leave there at once. Return with whom it is still
        shared."""
        detail: Document = {"projects": None if projects is None else list(projects)}
        with (
            self._refusals_there("segment.unshared", segment, projects or ()),
            self._scope.act("segment.unshare", segment, detail=detail) as tx,
        ):
            found = {each.project_name: each for each in shares.of_segment(self._scope, tx, self._seen(tx, segment))}
            names = {each.name for each in self._reached(tx, projects or ())}
            if missing := sorted(names - found.keys()):
                raise NotFound(f"segment {segment} is not shared with {missing[0]}", remedy=_with_whom(segment))
            if not found:
                raise NotFound(f"segment {segment} is shared with no project", remedy=_with_whom(segment))
            for name, share in found.items():
                if projects is None or name in names:
                    _end(self._home, tx, share)
        return self.with_whom(segment)

    def with_whom(self, segment: str) -> Projects:
        """Return with which projects a segment is shared."""
        with self._scope.read() as tx:
            return uses.known(self._scope, tx, shares.of_segment(self._scope, tx, self._seen(tx, segment)))

    def sharing(self, segment: str) -> Document:
        """Return the projects that the caller reaches, each with whether a segment is shared with it and used there, and how
        many others it is shared with."""
        with self._scope.read() as tx:
            found = {each.project_name: each for each in shares.of_segment(self._scope, tx, self._seen(tx, segment))}
            projects = [self._row(tx, each, found.get(each.name)) for each in self._others(tx)]
            known = uses.known(self._scope, tx, [*found.values()])
        return {"segment": segment, "projects": projects, "hidden": known.others}

    def using(self, segment: str, projects: Sequence[str] = ()) -> Projects:
        """Return the projects that use a segment, in a rule, a consent policy, a destination or a feed, of those that are
        named, if some are; none of one that is not there."""
        with self._scope.read() as tx:
            seen = Visibility(self._scope, tx).sees_segments([segment])
            found = uses.using(self._scope, tx, segment) if seen else Projects(names=(), others=0)
        return Projects(names=[each for each in found.names if each in projects], others=0) if projects else found

    def segments(self) -> Documents:
        """Return what others share with this project, by name."""
        with self._scope.read() as tx:
            visibility = Visibility(self._scope, tx)
            found = [each for each in shares.used_by(self._scope, tx) if visibility.sees(_place(each))]
            return [self._document(tx, each) for each in found]

    def segment(self, reference: str) -> Document:
        """Return what others share as "shared.PROJECT.SEGMENT", with its evaluations, newest first."""
        place = place_of(reference)
        target = reference if place is None or place.kind is not PlaceKind.SHARED else place.target
        with self._scope.read() as tx:
            if not Visibility(self._scope, tx).sees(Place(kind=PlaceKind.SHARED, target=target)):
                raise shares.not_shared(target)
            share = shares.get(self._scope, tx, target)
            limited = Visibility(self._scope, tx).limited  # numbers of then would count people who are hidden from them
            past = [
                {"at": each.at, "generation": each.generation}
                | {name: None if limited else each._mapping[name] for name in ("size", "came", "left")}
                for each in shares.evaluations_of(self._home, tx, share)
            ]
            return {
                **self._document(tx, share),
                "namespaces": list(share.namespaces),
                "with_consent": share.with_consent,
                "labels": references.labels(self._scope, tx, share),
                "restricted_uses": sorted(references.restricted(self._scope, tx, share)),
                "evaluations": past,
            }

    def _document(self, tx: Tx, share: Share) -> Document:
        """Return a shared segment with the keys of our own ones."""
        snapshot, reason = Snapshot.open(self._scope, tx), shares.why_not(self._home, tx, share)
        members = Visibility(self._scope, tx).narrowed(snapshot, snapshot.members(share.id))
        about = dict.fromkeys(("id", "rule", "tree"))
        return {
            **about,
            "name": share.reference,
            "kind": "shared",
            "size": 0 if reason else len(members),
            "evaluated": share.evaluated,
            "uses": [],
            "reason": None if reason is None else str(reason),
        }

    def _row(self, tx: Tx, project: Scope, share: Share | None) -> Document:
        used = share is not None and uses.is_used(self._scope, tx, share)
        return {"project": project.name, "shared": share is not None, "used": used}

    def _seen(self, tx: Tx, segment: str) -> str:
        """Return the name of a segment of ours; raises NotFound."""
        if find(self._scope, tx, segment) is None or not Visibility(self._scope, tx).sees_segments([segment]):
            raise no_segment(segment)
        return segment

    def _shareable(self, tx: Tx, segment: str) -> str:
        """Return the id of a segment that may be shared."""
        if not self._home.config.shared_segments:
            raise SharedSegmentsOff
        self._scope.check_not_on_hold(tx)
        place = place_of(segment)
        if find(self._scope, tx, segment) is None and place is not None and place.kind in FOREIGN:
            raise NotAllowed(
                f"{segment[:140]} is not this project's own: only its own segments can be shared",
                hint="share one of its own",
                remedy=Remedy("segment.list"),
            )
        found = find(self._scope, tx, self._seen(tx, segment))
        assert found is not None
        if "." in segment:  # what stands before the last dot is the project, whose name may have some
            raise InvalidInput(
                f"the name of segment {segment} has a dot, which none that is shared can have",
                hint="share one that is made of it",
                remedy=Remedy("segment.create", {"name": segment.replace(".", "-"), "rule": f"own.{segment}"}),
            )
        Governance(self._scope).check_neighbours(segment, tx)
        if Lineage(self._scope, tx).reads_received(segment):
            raise cycles.received(segment)
        return found.id

    def _check(self, tx: Tx, namespaces: Sequence[str], restricted_uses: Sequence[str], with_consent: bool) -> None:
        if not namespaces:
            raise InvalidInput("people match by a namespace", hint=f"such as {' or '.join(NAMESPACES)}")
        for name in namespaces:
            if "/" in name:
                raise InvalidInput(f"{name[:80]!r} has a rule id", hint=f"write {name.partition('/')[0][:80]}")
            rule_for_import(name)
        for use in restricted_uses:
            check_action(use)
        if with_consent:
            Consents(self._scope).require_model(tx)

    def _others(self, tx: Tx) -> list[Scope]:
        """Return the other projects in which the caller has a role."""
        reached = self._home.guard.reached(tx).names
        return [
            each
            for each in self._home.all_scopes(tx)
            if each.id != self._scope.id and (reached is None or each.name in reached)
        ]

    def _reached(self, tx: Tx, names: Iterable[str]) -> list[Scope]:
        """Return other projects by name; the same refusal for one that does not exist and one that the caller does not
        reach."""
        there = {each.name: each for each in self._others(tx)}
        if not there and self._home.guard.reached(tx).names is not None:
            raise NotAllowed(
                "segments are shared between projects, and you have a role in one alone",
                hint="ask an administrator for a role in the other project",
            )
        for name in names:
            if name == self._scope.name:
                raise NotAllowed(
                    f"segment and project {name} are one and the same project's", hint="name another project"
                )
            if name not in there:
                raise NotFound(
                    f"there is no project {name[:80]!r}", hint="see which there are", remedy=Remedy("project.list")
                )
        return [there[name] for name in dict.fromkeys(names)]

    def _add(self, tx: Tx, segment: str, user: Scope, **values: object) -> None:
        user.check_not_on_hold(tx)
        if len(f"{WORD}.{self._scope.name}.{segment}") > MAX_NAME:
            raise InvalidInput(
                f"the name {WORD}.{self._scope.name}.{segment} has over {MAX_NAME} characters",
                hint="share one with a shorter name",
            )
        target = f"{self._scope.name}.{segment}"
        if shares.find(user, tx, target) is not None:
            raise AlreadyExists(
                f"segment {segment} is shared with {user.name} already",
                hint="see with whom it is shared",
                remedy=_with_whom(segment),
            )
        shares.add(tx, id=self._home.new_id(), project_id=user.id, created=self._home.now(), labels=[], **values)
        share = shares.get(user, tx, target)
        shares.change(tx, share, labels=references.labels(user, tx, share))
        detail = {name: values[name] for name in ("namespaces", "with_consent", "restricted_uses")}
        self._home.audit.record(tx, "segment.shared", share.reference, project_id=user.id, detail=detail)
        Alerts(user).add(tx, AlertKind.SEGMENT_SHARED, f"{share.reference} can be used here from now on")

    @contextmanager
    def _refusals_there(self, act: str, segment: str, projects: Iterable[str]) -> Iterator[None]:
        """Leave a row of a refusal in the audit logs of the other projects too."""
        try:
            yield
        except Failure:
            raise
        except VesicaError as error:
            detail = {"error": {"code": error.code}}
            with suppress(Failure), self._home.begin() as tx:
                for each in self._home.all_scopes(tx):
                    if each.name in projects and each.id != self._scope.id:
                        target = f"{WORD}.{self._scope.name}.{segment}"
                        self._home.audit.record(tx, act, target, project_id=each.id, result=Result.DENY, detail=detail)
            raise


def _end(home: Home, tx: Tx, share: Share) -> None:
    evaluations.end(home, tx, share, remove=True)
    home.audit.record(tx, "segment.unshared", share.reference, project_id=share.project_id)


def deleted(scope: Scope, tx: Tx, segment: str) -> None:
    """End the shares of a segment that is deleted, in the transaction that does it."""
    for share in shares.of_segment(scope, tx, segment):
        _end(scope.home, tx, share)


def _place(share: Share) -> Place:
    return Place(kind=PlaceKind.SHARED, target=share.target)


def _with_whom(segment: str) -> Remedy:
    return Remedy("segment.sharing", {"name": segment})
