"""Which profiles each dataset names: those whose ids its imports had, with or without identities and attributes."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.values import SLICE

from ..inputs.sql import quoted
from .identity_rows import ProfileNumbers
from .snapshots import NUMBER, Snapshot

if TYPE_CHECKING:
    from .drafts import Draft


def people_of(snapshot: Snapshot, dataset: str) -> BitMap:
    """Return the profiles that a dataset names.

    Where no import has noted them, those with rows of the dataset: an older release noted nobody.
    """
    noted = snapshot.named(dataset)
    if noted is not None:
        return noted
    found = BitMap()
    if dataset in snapshot.content.sources:
        source = snapshot.content.sources.index(dataset)
        for namespace in snapshot.namespaces:
            rows = snapshot.rows(namespace)
            found |= BitMap(rows.profiles[rows.sources == source])
    if dataset in snapshot.attributes:
        found |= BitMap(with_attributes(snapshot, dataset))
    return found


def note(draft: "Draft", dataset: str, numbers: ProfileNumbers) -> None:
    """Note that a dataset names some profiles, beside those that it named before."""
    found = people_of(draft.base, dataset) | profiles_of(numbers)
    draft.change(named={**draft.content.named, dataset: draft.save_bytes("named.roaring", found.serialize())})


def profiles_of(numbers: ProfileNumbers) -> BitMap:
    """Return the profiles of some rows, in whatever order."""
    having = np.zeros(int(numbers.max(initial=0)) + 1, bool)
    having[numbers] = True
    found = BitMap()
    for start in range(0, len(having), SLICE):
        found |= BitMap((start + np.flatnonzero(having[start : start + SLICE])).astype(np.uint32))
    return found


def with_attributes(snapshot: Snapshot, dataset: str) -> npt.NDArray[np.uint32]:
    """Return the profiles that have attributes of a dataset."""
    import duckdb

    with duckdb.connect(":memory:") as connection:
        query = f"SELECT {quoted(NUMBER)} AS number FROM read_parquet(?)"  # noqa: S608 - a name of our own
        found = connection.execute(query, [str(snapshot.attributes[dataset])]).fetchnumpy()["number"]
    return np.asarray(found, np.uint32)
