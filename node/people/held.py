"""Who has which identities: looked up for a few people, without reading a namespace's identities from end to end.

What is found is what `audiences` finds for everybody.
"""

from dataclasses import dataclass

import numpy as np
from pyroaring import BitMap

from psi.values import U8, Bools, Indices, Values

from . import consent
from .identity_rows import ProfileNumbers, begins
from .snapshots import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Distinct identities of one namespace, sorted, each with all the profiles that have it.

    The holders of `values[i]` are `profiles[starts[i]:starts[i + 1]]`, uint32; each has at least one.
    """

    values: Values
    starts: Indices
    profiles: ProfileNumbers

    def holders(self) -> BitMap:
        return BitMap(self.profiles)

    def take(self, kept: Bools) -> "Held":
        lengths = np.diff(np.append(self.starts, len(self.profiles)))
        starts = np.cumsum(lengths[kept]) - lengths[kept]
        return Held(values=self.values.take(kept), starts=starts, profiles=self.profiles[np.repeat(kept, lengths)])

    def each(self) -> Indices:
        """Return for each row of `profiles` which identity it has."""
        return np.repeat(np.arange(len(self.starts)), np.diff(np.append(self.starts, len(self.profiles))))


def held_by(snapshot: Snapshot, namespace: str, profiles: BitMap) -> Values:
    """Return the distinct identities that profiles have in a namespace, sorted."""
    rows = snapshot.rows(namespace)
    wanted = np.zeros(snapshot.profile_count, bool)
    wanted[BitMap(profiles & BitMap(range(snapshot.profile_count))).to_array()] = True
    values = rows.values.take(np.flatnonzero(wanted[rows.profiles]))
    return values.take(begins(values))


def holders_of(snapshot: Snapshot, namespace: str, values: Values) -> Held:
    """Return those of some distinct identities, sorted, that anybody has in a namespace, and who has them."""
    rows = snapshot.rows(namespace)
    first, last = spans(rows.values.rows, values.rows)
    lengths = last - first
    identity = np.repeat(np.arange(len(values)), lengths)
    places = np.arange(len(identity)) + np.repeat(first - (np.cumsum(lengths) - lengths), lengths)
    if rows.values.lengths is not None or values.lengths is not None:  # rows of zeros past the end say nothing of where
        same = _lengths(rows.values, places) == _lengths(values, identity)
        identity, places = identity[same], places[same]
    starts = np.flatnonzero(np.append(True, identity[1:] != identity[:-1])) if len(identity) else identity
    return Held(values=values.take(identity[starts]), starts=starts, profiles=np.asarray(rows.profiles)[places])


def opted_out(snapshot: Snapshot, namespace: str, held: Held) -> Bools:
    """Return which of some identities one of the profiles that have it said no for, as `audiences.opted_out` does."""
    if not len(held.starts):
        return np.zeros(0, bool)
    noted = snapshot.noted(namespace)
    codes = np.zeros(len(held.profiles), np.uint8)
    if len(noted):
        known = np.asarray(noted["profile"])
        places = np.minimum(np.searchsorted(known, held.profiles), len(known) - 1)
        codes = np.where(known[places] == held.profiles, noted["code"][places], np.uint8(0))
    out = consent.opted_out(snapshot.profile_consent[held.profiles], codes)
    return np.asarray(np.logical_or.reduceat(out, held.starts))


def spans(rows: U8, wanted: U8) -> tuple[Indices, Indices]:
    """Return where the rows that equal each of `wanted` begin and end; `rows`, uint8 (n, width), are sorted.

    Of a mapped file only what a search looks at is read. Of wider rows in `wanted` the beginning is compared, narrower
    ones are filled with zeros.
    """
    width = rows.shape[1]
    if not len(rows) or not len(wanted) or not width:
        return np.zeros(len(wanted), np.intp), np.zeros(len(wanted), np.intp)
    sought = np.zeros((len(wanted), width), np.uint8)
    sought[:, : wanted.shape[1]] = wanted[:, :width]
    keys, sought_keys = (np.ascontiguousarray(each).view(f"S{width}").ravel() for each in (rows, sought))
    return np.searchsorted(keys, sought_keys), np.searchsorted(keys, sought_keys, side="right")


def _lengths(values: Values, places: Indices) -> U8:
    if values.lengths is None:
        return np.full(len(places), values.rows.shape[1], np.uint8)
    return np.asarray(values.lengths[places])
