"""Who should be at a target now: decided from the data, consent, labels, policies and partners' restrictions."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap
from sqlalchemy import select

from psi.values import U8, Bools, Indices, Values

from ..access.scope import Scope
from ..consent import consent_policies
from ..consent.consent_policies import ConsentPolicies
from ..consent.consents import Consents
from ..errors import NotAllowed
from ..governance.governance import FILE_USES, Governance
from ..governance.lineage import Lineage, PlaceKind, is_shared
from ..governance.policies import Policies
from ..governance.ports import INCOMING
from ..governance.violations import PolicyViolation
from ..people import consent
from ..people.snapshots import Identities, Snapshot
from ..segments import evaluation, references
from ..storage.database import Tx
from ..storage.tables import connections
from ..transport.addresses import plain_host, split_address
from .changes import NOBODY, Entries, State
from .codes import EXCLUDED
from .records import PROFILE_ID, Activation, ActivationStatus, Destination

FORMAT = 1  # counts up when another decision is made from the same
STOPPING = {code: state for state, code in EXCLUDED.items()} | {"partner_address": State.RESTRICTED_USE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """The members of a segment with their identities, PRESENT or why not; `stopped` is the code where nobody may leave."""

    entries: Entries
    stopped: str | None
    segment_id: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _OfNamespace:
    """Members by identity: `places` are rows of a snapshot's identities."""

    given: Identities
    places: Indices
    states: U8

    def __len__(self) -> int:
        return len(self.places)

    def part(self, start: int, stop: int) -> tuple[Values, U8]:
        return self.given.values.take(self.places[start:stop]), self.states[start:stop]


@dataclass(frozen=True, slots=True)
class _OfProfiles:
    """Members by profile id: `numbers` are those of profiles, in order of their ids."""

    ids: npt.NDArray[np.bytes_]
    numbers: npt.NDArray[np.uint32]
    states: U8

    def __len__(self) -> int:
        return len(self.numbers)

    def part(self, start: int, stop: int) -> tuple[Values, U8]:
        ids = np.ascontiguousarray(self.ids[self.numbers[start:stop]])
        rows = ids.view(np.uint8).reshape(len(ids), self.ids.dtype.itemsize)
        return Values(rows, np.char.str_len(ids).astype(np.uint8)), self.states[start:stop]


def basis(scope: Scope, tx: Tx, destination: Destination, activation: Activation) -> str:
    """Return a digest of all that `decide` decides from: while it is the same, deciding again would end as before."""
    snapshot, lineage = Snapshot.open(scope, tx), Lineage(scope, tx)
    restrictions = [each for room in INCOMING.values() for each in room(scope).restrictions(tx)]
    found = [
        FORMAT,
        activation.status,
        destination.identity,
        sorted(destination.uses),
        destination.settings,
        scope.row(tx).consent_model,
        sorted(snapshot.content.document().items()),
        evaluation.read_by_rules(scope, tx),
        consent_policies.stored(scope, tx),
        Policies(scope).all(tx),
        sorted((str(place), sorted(labels)) for place, labels in lineage.put.items()),
        [sorted(lineage.labels_for(activation.segment, use)) for use in destination.uses or FILE_USES],
        sorted((each.title, sorted(map(str, each.places)), sorted(each.uses)) for each in restrictions),
        _partner_hosts(scope, tx),
    ]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def check_leaves(scope: Scope, tx: Tx, destination: Destination, segment: str) -> None:
    """Raise PolicyViolation or NotAllowed where nobody of a segment may leave to a destination."""
    namespace = None if destination.identity == PROFILE_ID else destination.identity
    Governance(scope).check_export(segment, destination.uses, tx, namespace=namespace)
    host = urlsplit(destination.settings.get("url", "")).hostname
    if host and plain_host(host) in _partner_hosts(scope, tx) and Lineage(scope, tx).reads_received(segment):
        raise NotAllowed(
            f"destination {destination.name} is at a partner's address, and {segment} is made of received segments",
            hint="it would tell the partner who matched: choose a segment that is your own",
        )


def decide(scope: Scope, tx: Tx, destination: Destination, activation: Activation) -> Desired:
    """Return who should be at a target, as one transaction sees it."""
    try:
        picked = references.pick(scope, tx, activation.segment)
    except references.Gone:  # another project shares it no more
        return Desired(entries=NOBODY, stopped=None, segment_id=activation.id, labels=())
    segment_id = (
        activation.id if is_shared(activation.segment) else picked.id
    )  # the same for as long as it is activated
    labels = tuple(sorted(Lineage(scope, tx).labels(PlaceKind.SEGMENT, activation.segment)))
    if activation.status is ActivationStatus.LEAVING:
        return Desired(entries=NOBODY, stopped=None, segment_id=segment_id, labels=labels)
    stopped = _stopped(scope, tx, destination, activation.segment)
    snapshot, model = Snapshot.open(scope, tx), Consents(scope).require_model(tx)
    members = _mask(snapshot, snapshot.members(picked.id))
    policies = ConsentPolicies(scope).qualified([activation.segment], snapshot, actions=destination.uses, tx=tx)
    qualified = [_mask(snapshot, each) for each in policies if each is not None]
    if destination.identity == PROFILE_ID:
        entries: Entries = _profiles(snapshot, model, members, qualified, stopped)
    else:
        entries = _identities(snapshot, destination.identity, model, members, qualified, stopped)
    return Desired(entries=entries, stopped=stopped, segment_id=segment_id, labels=labels)


def _stopped(scope: Scope, tx: Tx, destination: Destination, segment: str) -> str | None:
    try:
        check_leaves(scope, tx, destination, segment)
    except PolicyViolation as error:
        restricted = any(each.reason.condition == "restricted use" for each in error.violations)
        return "restricted_use" if restricted else "label"
    except NotAllowed:
        return "partner_address"
    return None


def _profiles(
    snapshot: Snapshot, model: str, members: Bools, qualified: Sequence[Bools], stopped: str | None
) -> _OfProfiles:
    order = snapshot.profile_order
    numbers = order[members[order]]
    said = snapshot.profile_consent[numbers]
    may = consent.may_share(model, said, np.zeros_like(said))
    states = _states(may, [each[numbers] for each in qualified], stopped)
    return _OfProfiles(snapshot.profile_ids, numbers, states)


def _identities(
    snapshot: Snapshot, namespace: str, model: str, members: Bools, qualified: Sequence[Bools], stopped: str | None
) -> Entries:
    given, starts = snapshot.identities(namespace), snapshot.starts(namespace)
    if not len(starts):
        return NOBODY
    is_member = np.logical_or.reduceat(members[given.profiles], starts)
    may = consent.may_share(model, snapshot.profile_consent[given.profiles], given.consent)
    may = np.logical_and.reduceat(may, starts)[is_member]
    meets = [np.logical_and.reduceat(each[given.profiles], starts)[is_member] for each in qualified]
    return _OfNamespace(given, starts[is_member], _states(may, meets, stopped))


def _states(may: Bools, qualified: Sequence[Bools], stopped: str | None) -> U8:
    if stopped is not None:
        return np.full(len(may), STOPPING[stopped], np.uint8)
    states = np.where(may, State.PRESENT, State.CONSENT).astype(np.uint8)
    for each in qualified:
        states[(states == State.PRESENT) & ~each] = State.POLICY_CONSENT
    return states


def _mask(snapshot: Snapshot, profiles: BitMap) -> Bools:
    mask = np.zeros(snapshot.profile_count, bool)
    mask[profiles.to_array()] = True
    return mask


def _partner_hosts(scope: Scope, tx: Tx) -> list[str]:
    """Return the hosts of a project's partners."""
    query = select(connections.c.peer_address).where(
        connections.c.project_id == scope.id, connections.c.peer_address != ""
    )
    return sorted({plain_host(split_address(each)[0]) for each in tx.scalars(query)})
