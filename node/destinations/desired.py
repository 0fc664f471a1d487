"""Who should be at a target now: decided from the data, consent, labels, policies and partners' restrictions."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap
from sqlalchemy import func, select

from psi.values import U8, Bools, Indices, Values

from ..access.scope import Scope
from ..consent import consent_policies
from ..consent.consent_policies import ConsentPolicies
from ..consent.consents import Consents
from ..errors import NotAllowed
from ..governance.governance import FILE_USES, Governance
from ..governance.lineage import Lineage, Place, PlaceKind, is_pickable, is_shared, place_of
from ..governance.policies import Policies
from ..governance.ports import INCOMING
from ..governance.violations import PolicyViolation
from ..people import consent
from ..people.snapshots import Snapshot, noted_codes, one_to_one
from ..segments import evaluation, references
from ..storage.database import Tx
from ..storage.tables import audit, manifests
from . import partner_addresses, primaries
from .changes import NOBODY, Digests, Entries, State
from .codes import EXCLUDED
from .mapping import Mapped, Numbers, columns_of
from .primaries import PRIMARY, Prefixed
from .records import PROFILE_ID, Activation, ActivationStatus, Destination

FORMAT = 2  # counts up when another decision is made from the same
STOPPING = {code: state for state, code in EXCLUDED.items()} | {"partner_address": State.RESTRICTED_USE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """The members of a segment with their identities, PRESENT or why not; `stopped` is the code where nobody may leave.

    `profiles` has the number of a profile for each entry, uint32 (n,): the one whose attributes `mapped` has. `brakes` is
    whether the brake stops a run that removes many: not where others took back what they had given.
    """

    entries: Entries
    stopped: str | None
    segment_id: str
    labels: tuple[str, ...]
    profiles: Numbers
    mapped: Mapped | None = None
    brakes: bool = False


@dataclass(frozen=True, slots=True)
class _OfNamespace:
    """Members by identity: `places` are those among a snapshot's `values`."""

    values: Values
    places: Indices
    states: U8
    profiles: Numbers
    marks: Digests | None

    def __len__(self) -> int:
        return len(self.places)

    def part(self, start: int, stop: int) -> tuple[Values, U8]:
        return self.values.take(self.places[start:stop]), self.states[start:stop]

    def digests(self, start: int, stop: int) -> Digests:
        return _of(self.marks, self.profiles[start:stop])


@dataclass(frozen=True, slots=True)
class _OfProfiles:
    """Members by profile id: `numbers` are those of profiles, in order of their ids."""

    ids: npt.NDArray[np.bytes_]
    profiles: Numbers
    states: U8
    marks: Digests | None

    def __len__(self) -> int:
        return len(self.profiles)

    def part(self, start: int, stop: int) -> tuple[Values, U8]:
        ids = np.ascontiguousarray(self.ids[self.profiles[start:stop]])
        rows = ids.view(np.uint8).reshape(len(ids), self.ids.dtype.itemsize)
        return Values(rows, np.char.str_len(ids).astype(np.uint8)), self.states[start:stop]

    def digests(self, start: int, stop: int) -> Digests:
        return _of(self.marks, self.profiles[start:stop])


@dataclass(frozen=True, slots=True)
class _OfNobody:
    """Members without an identity that may leave, by their numbers."""

    profiles: Numbers

    def __len__(self) -> int:
        return len(self.profiles)

    def part(self, start: int, stop: int) -> tuple[Values, U8]:
        rows = self.profiles[start:stop].astype(">u4").view(np.uint8).reshape(-1, 4)
        return Values(rows), np.full(len(rows), State.NAMESPACE, np.uint8)

    def digests(self, start: int, stop: int) -> Digests:
        return _of(None, self.profiles[start:stop])


def _of(marks: Digests | None, profiles: Numbers) -> Digests:
    """Return the digests of some profiles; `marks` has those of all by their numbers."""
    return np.zeros(len(profiles), np.uint64) if marks is None else marks[profiles]


class Basis:
    """All that `decide` decides from, as one transaction sees it; what is the same for all activations is read once."""

    def __init__(self, scope: Scope, tx: Tx) -> None:
        self.scope, self._scope, self._tx, self._lineage = scope, scope, tx, Lineage(scope, tx)

    def of(self, destination: Destination, activation: Activation) -> str:
        """Return a digest: while it is the same, deciding again would end as before."""
        found = [
            self._common,
            activation.status,
            destination.identity,
            sorted(destination.uses),
            destination.settings,
            sorted(activation.mapping.items()),
            sorted(columns_of(self._scope, self._tx, activation).items()),
            [sorted(self._lineage.labels(PlaceKind.FIELD, each)) for each in fields_of(activation)],
            [sorted(self._lineage.labels_for(activation.segment, use)) for use in destination.uses or FILE_USES],
        ]
        return hashlib.sha256(repr(found).encode()).hexdigest()

    @cached_property
    def _common(self) -> str:
        scope, tx, put = self._scope, self._tx, self._lineage.put
        restrictions = [each for room in INCOMING.values() for each in room(scope).restrictions(tx)]
        found = [
            FORMAT,
            scope.row(tx).consent_model,
            sorted(Snapshot.open(scope, tx).content.document().items()),
            evaluation.read_by_rules(scope, tx),
            consent_policies.stored(scope, tx),
            Policies(scope).all(tx),
            sorted((str(place), sorted(labels)) for place, labels in put.items()),
            sorted((each.title, sorted(map(str, each.places)), sorted(each.uses)) for each in restrictions),
            partner_addresses.partner_hosts(scope, tx),
        ]
        return hashlib.sha256(repr(found).encode()).hexdigest()


def stamp(scope: Scope, tx: Tx) -> tuple[int | None, ...]:
    """Return what every act changes but for sending, and whatever changes the data: cheaper than to look at each thing."""
    acts = (
        select(audit.c.number)
        .where(audit.c.act != "destination.send")
        .order_by(audit.c.number.desc())
        .limit(1)
        .scalar_subquery()
    )
    mine = manifests.c.project_id == scope.id
    return tuple(tx.execute(select(acts, select(func.max(manifests.c.generation)).where(mine).scalar_subquery())).one())


def check_leaves(scope: Scope, tx: Tx, destination: Destination, segment: str, fields: Iterable[str] = ()) -> None:
    """Raise PolicyViolation or NotAllowed where nobody of a segment may leave to a destination with some attributes of
    theirs ("dataset.column")."""
    partner_addresses.check_name(scope, tx, destination, segment)
    _check_own(scope, tx, destination, segment)
    refused: PolicyViolation | None = None
    for namespace in _namespaces(scope, tx, destination):
        try:
            return Governance(scope).check_export(segment, destination.uses, tx, namespace=namespace, fields=fields)
        except PolicyViolation as error:
            refused = error
    assert refused is not None
    raise refused


def _check_own(scope: Scope, tx: Tx, destination: Destination, segment: str) -> None:
    """Raise NotAllowed for what is made of segments of others and goes to the project's own Audience Manager side: what
    comes back from there would have lost whose it is, and what they restrict."""
    if not destination.is_here:
        return
    picked = place_of(segment) if is_pickable(segment) else None
    place = picked or Place(kind=PlaceKind.SEGMENT, target=segment)
    if any(each.kind in (PlaceKind.RECEIVED, PlaceKind.SHARED) for each in Lineage(scope, tx).made_of(place)):
        raise NotAllowed(
            f"{segment[:80]} is made of segments of others, whose restrictions would end at destination {destination.name}",
            hint="choose a segment that is your own",
        )


def _namespaces(scope: Scope, tx: Tx, destination: Destination) -> list[str | None]:
    """Return by what a destination gets members, None where that is no namespace."""
    if destination.identity == PROFILE_ID:
        return [None]
    if destination.identity == PRIMARY:
        return [*primaries.present(Snapshot.open(scope, tx))] or [None]
    return [destination.identity]


def decide(scope: Scope, tx: Tx, destination: Destination, activation: Activation) -> Desired:
    """Return who should be at a target, as one transaction sees it."""
    if activation.deleted_id is not None:
        return _nobody(activation.deleted_id, ())
    try:
        picked = references.pick(scope, tx, activation.segment)
    except references.Gone:  # another project shares it no more
        return _nobody(activation.id, ())
    segment_id = segment_id_of(activation, picked)
    lineage = Lineage(scope, tx)
    carried = {label for each in fields_of(activation) for label in lineage.labels(PlaceKind.FIELD, each)}
    labels = tuple(sorted(carried | lineage.labels(PlaceKind.SEGMENT, activation.segment).keys()))
    if activation.status is ActivationStatus.LEAVING:
        return _nobody(segment_id, labels)
    stopped = _stopped(scope, tx, destination, activation)
    snapshot = Snapshot.open(scope, tx)
    members = _mask(snapshot, snapshot.members(picked.id))
    mapped = None if stopped is not None else Mapped.of(scope, tx, destination, activation)
    entries = _found(scope, tx, _By(destination, activation, stopped, mapped), members)
    of = Place(kind=PlaceKind.SEGMENT, target=activation.segment)
    return Desired(
        entries=entries,
        stopped=stopped,
        segment_id=segment_id,
        labels=labels,
        profiles=entries.profiles,
        mapped=mapped,
        brakes=not (is_shared(of.target) or lineage.reads_received(of.target) or lineage.shared_in(of)),
    )


def segment_id_of(activation: Activation, picked: references.Picked) -> str:
    """Return the id under which messages name a segment, which is the same for as long as it is activated."""
    return activation.id if is_pickable(activation.segment) else picked.id


def everyone(scope: Scope, tx: Tx, destination: Destination, activation: Activation) -> Entries:
    """Return all people with the state that they would have as members of a segment."""
    members = np.ones(Snapshot.open(scope, tx).profile_count, bool)
    stopped = _stopped(scope, tx, destination, activation)
    return _found(scope, tx, _By(destination, activation, stopped, None), members)


@dataclass(frozen=True, slots=True)
class _By:
    """What decides whether members may leave; `stopped` is the code where nobody may."""

    destination: Destination
    activation: Activation
    stopped: str | None
    mapped: Mapped | None


def _found(scope: Scope, tx: Tx, by: _By, members: Bools) -> _OfProfiles | _OfNamespace | Prefixed:
    snapshot, model = Snapshot.open(scope, tx), Consents(scope).require_model(tx)
    uses = by.destination.uses
    policies = ConsentPolicies(scope).qualified([by.activation.segment], snapshot, actions=uses, tx=tx)
    qualified = [_mask(snapshot, each) for each in policies if each is not None]
    asked = _Asked(snapshot, model, members, qualified, by.stopped, by.mapped)
    identity = by.destination.identity
    if identity == PRIMARY:
        return asked.primaries(_stopped_namespaces(scope, tx, by.destination, by.activation))
    return asked.profiles() if identity == PROFILE_ID else asked.identities(identity)


def fields_of(activation: Activation) -> list[str]:
    """Return the attributes ("dataset.column") that leave with the members."""
    return sorted(set(activation.mapping.values()))


def _nobody(segment_id: str, labels: tuple[str, ...]) -> Desired:
    return Desired(entries=NOBODY, stopped=None, segment_id=segment_id, labels=labels, profiles=np.zeros(0, np.uint32))


def _stopped(scope: Scope, tx: Tx, destination: Destination, activation: Activation) -> str | None:
    try:
        check_leaves(scope, tx, destination, activation.segment, fields_of(activation))
    except PolicyViolation as error:
        return _code(error)
    except NotAllowed:
        return "partner_address"
    return None


def _stopped_namespaces(scope: Scope, tx: Tx, destination: Destination, activation: Activation) -> dict[str, str]:
    """Return the namespaces of which nobody may leave, each with the code of the reason."""
    found, fields = {}, fields_of(activation)
    for each in filter(None, _namespaces(scope, tx, destination)):
        try:
            Governance(scope).check_export(activation.segment, destination.uses, tx, namespace=each, fields=fields)
        except PolicyViolation as error:
            found[each] = _code(error)
    return found


def _code(error: PolicyViolation) -> str:
    restricted = any(each.reason.condition == "restricted use" for each in error.violations)
    return "restricted_use" if restricted else "label"


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who of `members` may leave: masks by the number of a profile."""

    snapshot: Snapshot
    model: str
    members: Bools
    qualified: Sequence[Bools]
    stopped: str | None
    mapped: Mapped | None

    def profiles(self) -> _OfProfiles:
        """Return them by their ids."""
        order = self.snapshot.profile_order
        numbers = order[self.members[order]]
        said = self.snapshot.profile_consent[numbers]
        may = consent.may_share(self.model, said, np.zeros_like(said))
        states = self._states(may, [each[numbers] for each in self.qualified], numbers)
        return _OfProfiles(self.snapshot.profile_ids, numbers, states, self._marks())

    def primaries(self, stopped: Mapping[str, str]) -> Prefixed:
        """Return them by their primary identities; `stopped` has by namespace why nobody of it may leave."""
        without, groups = np.array(self.members), list[tuple[int, _OfNamespace | _OfNobody]]()
        for place, name in enumerate(primaries.NAMESPACES, 1):
            given = self.snapshot.identities(name)
            primary = self.snapshot.primary(name)
            without[given.profiles[primary]] = False
            asked = replace(self, stopped=self.stopped or stopped.get(name))
            groups.append((place, asked.identities(name, primary)))
        return Prefixed([(0, _OfNobody(np.flatnonzero(without).astype(np.uint32))), *groups])

    def identities(self, namespace: str, only: Bools | None = None) -> _OfNamespace:
        """Return them by their identities, of some rows `only`: an identity of several has the attributes of the first of
        them in the segment."""
        rows = one_to_one(self.snapshot, namespace) if only is None else None
        if rows is not None:
            places = np.flatnonzero(self.members[rows.profiles])
            numbers = rows.profiles[places]
            said = noted_codes(self.snapshot, namespace)[numbers]
            may = consent.may_share(self.model, self.snapshot.profile_consent[numbers], said)
            states = self._states(may, [each[numbers] for each in self.qualified], numbers)
            return _OfNamespace(rows.values, places, states, numbers, self._marks())
        given, starts = self.snapshot.identities(namespace), self.snapshot.starts(namespace)
        if not len(starts):
            nothing = np.zeros(0, np.uint8)
            return _OfNamespace(given.values, starts, nothing, np.zeros(0, np.uint32), None)
        members = self.members[given.profiles] if only is None else self.members[given.profiles] & only
        is_member = np.logical_or.reduceat(members, starts)
        may = consent.may_share(self.model, self.snapshot.profile_consent[given.profiles], given.consent)
        may = np.logical_and.reduceat(may, starts)[is_member]
        meets = [np.logical_and.reduceat(each[given.profiles], starts)[is_member] for each in self.qualified]
        no_one = np.iinfo(np.uint32).max
        first = np.minimum.reduceat(np.where(members, given.profiles, no_one), starts)[is_member].astype(np.uint32)
        return _OfNamespace(given.values, starts[is_member], self._states(may, meets, first), first, self._marks())

    def _states(self, may: Bools, qualified: Sequence[Bools], profiles: Numbers) -> U8:
        if self.stopped is not None:
            return np.full(len(may), STOPPING[self.stopped], np.uint8)
        states = np.where(may, State.PRESENT, State.CONSENT).astype(np.uint8)
        for each in qualified:
            states[(states == State.PRESENT) & ~each] = State.POLICY_CONSENT
        if self.mapped is not None and self.mapped.required:
            states[(states == State.PRESENT) & self.mapped.missing[profiles]] = State.MISSING_MAPPING
        return states

    def _marks(self) -> Digests | None:
        return None if self.mapped is None else self.mapped.digests


def _mask(snapshot: Snapshot, profiles: BitMap) -> Bools:
    mask = np.zeros(snapshot.profile_count, bool)
    mask[profiles.to_array()] = True
    return mask
