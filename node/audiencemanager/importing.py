"""Traits and segments of traits that become segments of the project, and their visitors that become profiles."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from pyroaring import BitMap

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import InvalidInput, NotAllowed
from ..governance.governance import Governance
from ..governance.lineage import Place, PlaceKind, place_of
from ..governance.visibility import Visibility
from ..inputs.normalise import rule
from ..people.changes import announce
from ..people.datasets import Field, FieldKind, fields_of, record_fields
from ..people.drafts import Draft
from ..people.identity_rows import IdentityRows
from ..people.named import note
from ..people.numbering import GivenIds
from ..people.snapshots import Snapshot
from ..people.suppressions import Suppressions
from ..segments import evaluation
from ..storage.database import Tx
from ..storage.records import Document, Documents
from . import following, imported, visitor_profiles
from .catalogue import Catalogue
from .imported import Imported
from .members import Members
from .sight import Sight
from .visitor_profiles import VisitorIds
from .visitors import opened

DATASET = "audience"  # of the profiles that are made
PROFILE = b"visitor-"  # what the ids of these begin with


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What an import does: `known` of the visitors are profiles, `new` become some, `left_out` were erased here."""

    traits: list[str]
    segments: list[str]
    visitors: int
    identities: int
    known: int
    new: int
    left_out: int
    before: int
    after: int

    @property
    def percent(self) -> float:
        """By how much the number of profiles grows."""
        return 100.0 * self.new / self.before if self.before else 100.0 * bool(self.new)

    def as_dict(self) -> Document:
        return {**asdict(self), "percent": round(self.percent, 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """What is to be imported: each kind with its number and its name there."""

    parts: Sequence[tuple[str, int, str]]

    def titles(self, kind: str) -> list[str]:
        return [title for each, _, title in self.parts if each == kind]


class Imports:
    """What a project has imported from the Audience Manager side."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def all(self) -> Documents:
        """Return what is imported, as rules name it, with how many profiles are in each."""
        following.follow(self._scope)
        with self._scope.read(act="audience.view") as tx:
            visibility = Visibility(self._scope, tx)
            return [each.as_dict() for each in imported.stored(self._scope, tx) if visibility.sees(each.place)]

    def preview(
        self, traits: Sequence[str | int] = (), segments: Sequence[str | int] = (), *, everything: bool = False
    ) -> Growth:
        """Return what importing some traits and segments, or everything, would do; it changes nothing."""
        self._scope.require("audience.import", DATASET)
        with self._scope.read(act="audience.view") as tx:
            chosen = self._chosen(tx, traits, segments, everything=everything)
            return _Import(self._scope, tx, chosen).growth()

    def import_(
        self, traits: Sequence[str | int] = (), segments: Sequence[str | int] = (), *, everything: bool = False
    ) -> Growth:
        """Make some traits and segments, or everything, references of rules; visitors who are no profiles become some.

        These are of the dataset "audience", with their ids as identities, and have said nothing about consent. Raises
        NotFound, and PolicyConflict where a published feed would break a policy.
        """
        detail: Document = {}
        place = Place(kind=PlaceKind.DATASET, target=DATASET)
        with Governance(self._scope).act("audience.import", DATASET, place, detail=detail) as tx:
            run = _Import(self._scope, tx, self._chosen(tx, traits, segments, everything=everything))
            growth, made = run.growth(), run.apply()
            detail |= {"references": [each.reference for each in made][:100], "added": growth.new}
        announce(self._scope)
        return growth

    def segment(self, segment: str | int) -> Document:
        """Return a segment of traits as rules name it; raises NotFound, and NotAllowed where it is not imported."""
        with self._scope.read(act="audience.view") as tx:
            found = Sight(self._scope, tx).segment(segment)
            for each in imported.stored(self._scope, tx):
                if (each.kind, each.number) == ("segment", found.number):
                    return each.as_dict()
        raise NotAllowed(
            f"segment {found.number} {found.name!r} is not imported: destinations get profiles, and no visitors",
            hint="import it first",
            remedy=Remedy("audience.import", {"segments": [str(found.number)]}),
        )

    def remove(self, reference: str) -> list[str]:
        """Take a reference away; return the segments that have nobody from now on, because they read it."""
        with self._scope.act("audience.remove-import", reference[:100]) as tx:
            place = place_of(reference)
            if place is None or place.kind not in imported.KINDS:
                raise InvalidInput(f"{reference[:80]!r} is nothing that is imported", hint="write trait.NAME")
            found = imported.find(self._scope, tx, place)
            if found is None or not Visibility(self._scope, tx).sees(place):
                raise imported.not_imported(place)
            return following.end(self._scope, tx, found)

    def _chosen(
        self, tx: Tx, traits: Sequence[str | int], segments: Sequence[str | int], *, everything: bool
    ) -> _Chosen:
        if Visibility(self._scope, tx).limited:
            raise NotAllowed(
                "an import counts all profiles, and some are hidden from you",
                hint="ask somebody who may see all of them",
            )
        sight = Sight(self._scope, tx)
        found_traits = sight.traits() if everything else [sight.trait(each) for each in traits]
        found_segments = sight.segments() if everything else [sight.segment(each) for each in segments]
        parts = [("trait", each.number, each.name) for each in found_traits]
        parts += [("segment", each.number, each.name) for each in found_segments]
        if not parts:
            raise InvalidInput(
                "nothing is chosen to be imported",
                hint="name traits or segments",
                remedy=Remedy("audience.trait.list"),
            )
        return _Chosen(parts=list(dict.fromkeys(parts)))


class _Import:
    """One import, in one transaction."""

    def __init__(self, scope: Scope, tx: Tx, chosen: _Chosen) -> None:
        self._scope, self._tx, self._chosen = scope, tx, chosen
        self._revision = opened(scope).revision
        self._members = Members(scope, tx, Catalogue(scope, tx))
        visitors = BitMap.union(BitMap(), *(self._members.of(kind, number) for kind, number, _ in chosen.parts))
        self._base = Snapshot.open(scope, tx)
        self._joined = visitor_profiles.joined(scope, tx, self._base, visitors)
        self._ids = list(visitor_profiles.ids_of(scope, tx, visitors - self._joined.known))
        erased = Suppressions.read(scope, tx)
        self._left_out = BitMap.union(
            BitMap(), *(BitMap(each.visitors[erased.has(each.namespace, each.values)]) for each in self._ids)
        )
        self._visitors = visitors
        self._new = BitMap.union(BitMap(), *(BitMap(each.visitors) for each in self._ids)) - self._left_out

    def growth(self) -> Growth:
        before = len(self._base.everyone)
        return Growth(
            traits=self._chosen.titles("trait"),
            segments=self._chosen.titles("segment"),
            visitors=len(self._visitors),
            identities=self._joined.ids,
            known=len(self._joined.known),
            new=len(self._new),
            left_out=len(self._left_out),
            before=before,
            after=before + len(self._new),
        )

    def apply(self) -> list[Imported]:
        """Make the profiles, the references and their members."""
        draft = Draft(self._scope, self._tx)
        if self._new:
            self._add_profiles(draft)
        made = [imported.add(self._scope, self._tx, *each) for each in self._chosen.parts]
        basis = following.basis(self._scope, self._tx, draft.snapshot, self._revision)
        for each in made:
            members = following.evaluate(self._scope, draft, each, self._members)
            following.note(self._scope, draft, each, members, basis)
        draft.publish()
        evaluation.renew(self._scope, self._tx, {each.reference for each in made})
        return made

    def _add_profiles(self, draft: Draft) -> None:
        """Give each new visitor a profile of its own, with its ids as identities."""
        visitors = np.asarray(self._new.to_array(), np.uint32)
        numbers = draft.add_profiles(GivenIds(np.char.add(PROFILE, visitors.astype("S10"))))
        note(draft, DATASET, numbers)
        touched = np.zeros(draft.content.count, bool)
        touched[numbers] = True
        by_namespace: dict[str, list[IdentityRows]] = {}
        for rank, each in enumerate(self._ids):
            there = np.isin(each.visitors, visitors)
            rows = numbers[np.searchsorted(visitors, each.visitors[there])]
            given = IdentityRows(
                values=each.values.take(there),
                profiles=rows,
                sources=np.full(len(rows), draft.source(DATASET), np.uint16),
                ranks=np.full(len(rows), rank, np.uint16),
            )
            by_namespace.setdefault(each.namespace, []).append(given)
        fields = self._fields(self._ids)
        Visibility(self._scope, self._tx).check_import(DATASET, fields)
        record_fields(self._scope, self._tx, DATASET, fields)
        for namespace, parts in by_namespace.items():
            joined = parts[0]
            for part in parts[1:]:
                joined = joined.join(part)
            draft.replace_identities(namespace, DATASET, touched, joined.sorted())

    def _fields(self, ids: Iterable[VisitorIds]) -> dict[str, Field]:
        """Return a field of the dataset for each namespace, called after it."""
        known = fields_of(self._scope, self._tx, DATASET)
        wanted = dict[str, Field]()
        for each in ids:
            plain = rule(each.namespace).namespace
            there = wanted.get(plain) or known.get(plain)
            wanted[plain if there is None or there.rule == each.namespace else each.namespace] = Field(
                FieldKind.IDENTITY, each.namespace
            )
        return wanted
