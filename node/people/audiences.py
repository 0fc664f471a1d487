"""Who enters a match, and who may be released: pure functions of a pinned snapshot.

An identity that several profiles have counts once. It is consented only if each of them may be shared: otherwise the
phone of a household would be released although one member said no.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.hashing import length_prefixed
from psi.join import match
from psi.values import SLICE, U8, Bools, Indices, Values, sort_keys

from ..storage.files import let_go
from . import consent, held
from .identity_rows import begins, near
from .snapshots import Identities, Snapshot, noted_codes
from .taken_values import Taken, numbers_of
from .touched import SEARCHED


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
    snapshot: Snapshot,
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
    found = taken_audience(snapshot, namespace, members, model=model, qualified=qualified, left_out=left_out)
    return replace(found, values=found.values.copied()) if isinstance(found.values, Taken) else found


def taken_audience(
    snapshot: Snapshot,
    namespace: str,
    members: Sequence[BitMap],
    *,
    model: str,
    qualified: Sequence[BitMap | None] = (),
    left_out: consent.LeftOut = consent.LeftOut.NOBODY,
) -> Audience:
    """Return what `audience` does; the identities are copied when some are asked for (see Taken)."""
    everyone = members_in(snapshot, namespace, members, model=model, qualified=qualified)
    if not len(everyone.values):
        return everyone
    match left_out:
        case consent.LeftOut.NOBODY:
            kept = everyone.segments.any(axis=0)
        case consent.LeftOut.OPTED_OUT:
            kept = everyone.segments.any(axis=0) & ~opted_out(snapshot, namespace)
        case consent.LeftOut.UNCONSENTED:
            everyone = everyone.as_one()
            kept = everyone.segments.any(axis=0) & everyone.consented
    return everyone.take(np.asarray(kept))


def members_in(
    snapshot: Snapshot,
    namespace: str,
    members: Sequence[BitMap],
    *,
    model: str,
    qualified: Sequence[BitMap | None] = (),
) -> Audience:
    """Return all distinct identities in `namespace`, with those segments that their holders are members of.

    They are copied when some are asked for (see Taken).
    """
    given = snapshot.identities(namespace)
    starts = _starts(given.values)
    values = Taken(given.values, starts)
    if not len(values):
        return Audience(values=given.values, segments=np.zeros((len(members), 0), bool), consented=np.zeros(0, bool))
    rows = np.zeros((len(members), len(given.profiles)), bool)
    for row, segment in zip(rows, members, strict=True):
        row[:] = _mask(segment, snapshot.profile_count)[given.profiles]
    segments = _by_value(np.logical_or, rows, starts)
    met = None
    if any(each is not None for each in qualified):
        met = np.ones_like(segments)
        for row, each in zip(met, qualified, strict=True):
            if each is not None:
                row[:] = _by_value(np.logical_and, _mask(each, snapshot.profile_count)[given.profiles], starts)
    return Audience(
        values=values, segments=segments, consented=_consented(snapshot, given, starts, model), qualified=met
    )


def opted_out(snapshot: Snapshot, namespace: str) -> Bools:
    """Return which of the distinct identities in `namespace` one of the profiles that have it said no for."""
    rows, codes = snapshot.rows(namespace), noted_codes(snapshot, namespace)
    first = begins(rows.values)
    out = np.zeros(np.count_nonzero(first), bool)
    for part, places in _places_of(first):
        profiles = rows.profiles[part]
        out[places[consent.opted_out(snapshot.profile_consent[profiles], codes[profiles])]] = True
    return out


def _places_of(first: Bools) -> Iterator[tuple[slice, Indices]]:
    """Yield some rows at a time, and the place of each row's identity among the distinct ones; `first` of its rows begin it."""
    count = 0
    for start in range(0, len(first), SLICE):
        part = slice(start, start + SLICE)
        places = np.cumsum(first[part]) + (count - 1)
        yield part, places
        count = int(places[-1]) + 1


def consented(snapshot: Snapshot, namespace: str, model: str) -> Bools:
    """Return which of the distinct identities in `namespace` may be shared: every profile that has one may be."""
    given = snapshot.identities(namespace)
    return _consented(snapshot, given, _starts(given.values), model)


def _consented(snapshot: Snapshot, given: Identities, starts: Indices | None, model: str) -> Bools:
    allowed = consent.may_share(model, snapshot.profile_consent[given.profiles], given.consent)
    return _by_value(np.logical_and, allowed, starts)


def _starts(values: Values) -> Indices | None:
    """Return where each distinct value begins; None where no value is there twice."""
    first = begins(values)
    return None if first.all() else np.flatnonzero(first)


def _by_value(of: np.ufunc, rows: Bools, starts: Indices | None) -> Bools:
    """Return for each distinct value what is said of all profiles that have it, bool (..., n), as one."""
    return rows if starts is None else np.asarray(of.reduceat(rows, starts, axis=-1))


def universe(snapshot: Snapshot, namespace: str) -> tuple[Values, Bools]:
    """Return the distinct identities to match against, and which of the snapshot's distinct ones they are.

    Those of people who have opted out are left out, whatever the consent model. The identities are copied when some are
    asked for (see Taken).
    """
    values, kept = snapshot.rows(namespace).values, ~opted_out(snapshot, namespace)
    matched = begins(values)
    if len(kept) == len(matched) and kept.all():
        return Taken(values), kept
    return Taken(values, numbers_of(within(matched, kept))), kept


def within(mask: Bools, chosen: Bools) -> Bools:
    """Return where a mask, bool (n,), is true and `chosen`, bool of as many as are true in it, is so too."""
    found = np.zeros_like(mask)
    found[mask] = chosen
    return found


def stamp(snapshot: Snapshot, namespace: str) -> bytes:
    """Return a digest of what `universe` and `holders` read of a namespace, 32 bytes: while it is the same, so are they.

    Files of a snapshot never change, so their names stand for them.
    """
    content, files = snapshot.content, snapshot.content.identities.get(namespace)
    said = (content.consent, content.noted.get(namespace.partition("/")[0]))
    names = [str(content.count), *("" if name is None else name for name in said), *(files.files if files else ())]
    return hashlib.sha256(length_prefixed(namespace.encode(), *(name.encode() for name in names))).digest()


def holders(snapshot: Snapshot, namespace: str, places: Indices | Bools) -> BitMap:
    """Return the profiles that have one of some of the distinct identities: those at places, or of a mask."""
    rows, found = snapshot.rows(namespace), BitMap()
    first = begins(rows.values)
    wanted = np.zeros(np.count_nonzero(first), bool)
    wanted[places] = True
    for part, here in _places_of(first):
        found |= BitMap(rows.profiles[part][wanted[here]])
    return found


def known(snapshot: Snapshot, namespace: str, values: Values) -> Bools:
    """Return which identities, sorted and without repetition, somebody has in a snapshot."""
    mask, rows = np.zeros(len(values), bool), snapshot.rows(namespace)
    if len(values) * SEARCHED <= len(rows):
        there = held.holders_of(snapshot, namespace, values).values
        mask[match(sort_keys(values), sort_keys(there))[0]] = True
        return mask
    for start in range(0, len(values), SLICE):
        keys = sort_keys(values.part(slice(start, start + SLICE)))
        mask[start + match(keys, sort_keys(near(rows.values, keys)))[0]] = True
        let_go(rows.values.rows)
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
