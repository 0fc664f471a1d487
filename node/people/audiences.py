"""Who enters a match, and who may be released: pure functions of a pinned snapshot.

An identity that several profiles have counts once. It is consented only if each of them may be shared: otherwise the
phone of a household would be released although one member said no.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.hashing import length_prefixed
from psi.join import match
from psi.values import U8, Bools, Indices, Values, sort_keys

from . import consent

if TYPE_CHECKING:
    from .snapshots import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """The distinct identities of one namespace that are in at least one of k segments.

    `segments` is bool (k, n); `consented` is bool (n,): every profile that has the identity may be
    shared. `qualified` is bool (k, n): each of them meets the consent policies on that segment; None where there is no
    such policy.
    """

    values: Values
    segments: Bools
    consented: Bools
    qualified: Bools | None = None

    def take(self, mask: Bools) -> "Audience":
        if mask.all():  # nothing is copied
            return self
        return Audience(
            values=self.values.take(mask),
            segments=self.segments[:, mask],
            consented=self.consented[mask],
            qualified=None if self.qualified is None else self.qualified[:, mask],
        )

    def allowed(self) -> Bools:
        """Return in which segments each identity may be shared, bool (k, n): it is consented and meets their policies."""
        met = self.segments if self.qualified is None else self.segments & self.qualified
        return met & self.consented

    def shareable(self) -> "Audience":
        """Return the consented identities, each in those segments only whose consent policies it meets."""
        may = replace(self, segments=self.allowed(), qualified=None)
        return may.take(np.asarray(may.segments.any(axis=0)))

    def as_one(self) -> "Audience":
        """Return the same with one consent for all segments, for questions that have room for one.

        An identity that fails a policy of one of its segments counts as not consented in any.
        """
        if self.qualified is None:
            return self
        all_met = (self.qualified | ~self.segments).all(axis=0)
        return replace(self, consented=np.asarray(self.consented & all_met), qualified=None)

    def bitmaps(self, width: int) -> U8:
        """Return one bitmap over the segments per identity, uint8 (n, width), the first segment in the highest bit."""
        packed = np.packbits(self.segments.T, axis=1)
        return np.pad(packed, ((0, 0), (0, width - packed.shape[1])))


def audience(
    snapshot: "Snapshot",
    namespace: str,
    members: Sequence[BitMap],
    *,
    model: str,
    qualified: Sequence[BitMap | None] = (),
    left_out: consent.LeftOut = consent.LeftOut.NOBODY,
) -> Audience:
    """Return the distinct identities in `namespace` of the members of each segment, but for those that are left out.

    `qualified` are, for each segment, the profiles that meet the consent policies on it, None where there is none.
    """
    given = snapshot.identities(namespace)
    values, starts = snapshot.distinct(namespace)
    if not len(starts):
        return Audience(values=values, segments=np.zeros((len(members), 0), bool), consented=np.zeros(0, bool))
    rows = np.zeros((len(members), len(given.profiles)), bool)
    for row, segment in zip(rows, members, strict=True):
        row[:] = _mask(segment, snapshot.profile_count)[given.profiles]
    segments = np.logical_or.reduceat(rows, starts, axis=1)
    met = None
    if any(each is not None for each in qualified):
        met = np.ones_like(segments)
        for row, each in zip(met, qualified, strict=True):
            if each is not None:
                row[:] = np.logical_and.reduceat(_mask(each, snapshot.profile_count)[given.profiles], starts)
    everyone = Audience(
        values=values, segments=segments, consented=consented(snapshot, namespace, model), qualified=met
    )
    match left_out:
        case consent.LeftOut.NOBODY:
            kept = segments.any(axis=0)
        case consent.LeftOut.OPTED_OUT:
            kept = segments.any(axis=0) & ~opted_out(snapshot, namespace)
        case consent.LeftOut.UNCONSENTED:
            everyone = everyone.as_one()
            kept = segments.any(axis=0) & everyone.consented
    return everyone.take(np.asarray(kept))


def opted_out(snapshot: "Snapshot", namespace: str) -> Bools:
    """Return which of the distinct identities in `namespace` one of the profiles that have it said no for."""
    given = snapshot.identities(namespace)
    _, starts = snapshot.distinct(namespace)
    if not len(starts):
        return np.zeros(0, bool)
    out = consent.opted_out(snapshot.profile_consent[given.profiles], given.consent)
    return np.asarray(np.logical_or.reduceat(out, starts))


def consented(snapshot: "Snapshot", namespace: str, model: str) -> Bools:
    """Return which of the distinct identities in `namespace` may be shared: every profile that has one may be."""
    given = snapshot.identities(namespace)
    _, starts = snapshot.distinct(namespace)
    if not len(starts):
        return np.zeros(0, bool)
    allowed = consent.may_share(model, snapshot.profile_consent[given.profiles], given.consent)
    return np.asarray(np.logical_and.reduceat(allowed, starts))


def universe(snapshot: "Snapshot", namespace: str) -> tuple[Values, Indices]:
    """Return the distinct identities to match against, and their places among the snapshot's distinct ones.

    Those of people who have opted out are left out, whatever the consent model.
    """
    values, _ = snapshot.distinct(namespace)
    kept = np.flatnonzero(~opted_out(snapshot, namespace))
    return values if len(kept) == len(values) else values.take(kept), kept


def stamp(snapshot: "Snapshot", namespace: str) -> bytes:
    """Return a digest of what `universe` and `holders` read of a namespace, 32 bytes: while it is the same, so are they.

    Files of a snapshot never change, so their names stand for them.
    """
    content, files = snapshot.content, snapshot.content.identities.get(namespace)
    said = (content.consent, content.noted.get(namespace.partition("/")[0]))
    names = [str(content.count), *("" if name is None else name for name in said), *(files.files if files else ())]
    return hashlib.sha256(length_prefixed(namespace.encode(), *(name.encode() for name in names))).digest()


def holders(snapshot: "Snapshot", namespace: str, places: Indices) -> BitMap:
    """Return the profiles that have one of the distinct identities at `places`."""
    given = snapshot.identities(namespace)
    _, starts = snapshot.distinct(namespace)
    wanted = np.zeros(len(starts), bool)
    wanted[places] = True
    lengths = np.diff(np.append(starts, len(given.profiles)))
    return BitMap(given.profiles[np.repeat(wanted, lengths)])


def known(snapshot: "Snapshot", namespace: str, values: Values) -> Bools:
    """Return which identities, sorted and without repetition, somebody has in a snapshot."""
    mask = np.zeros(len(values), bool)
    mask[match(sort_keys(values), sort_keys(snapshot.distinct(namespace)[0]))[0]] = True
    return mask


def places(distinct: Values, values: Values) -> Indices:
    """Return where identities stand among the distinct ones of a snapshot; those that do not are left out."""
    return match(sort_keys(distinct), sort_keys(values))[0]


def in_both(these: Values, those: Values) -> int:
    """Return how many identities are among both; each are sorted and without repetition."""
    return len(match(sort_keys(these), sort_keys(those))[0])


def numbers(profiles: BitMap) -> npt.NDArray[np.uint32]:
    """Return the profile numbers of a bitmap, ascending."""
    return np.array(profiles.to_array(), np.uint32)


def _mask(members: BitMap, size: int) -> Bools:
    mask = np.zeros(size, bool)
    mask[numbers(members)] = True
    return mask
