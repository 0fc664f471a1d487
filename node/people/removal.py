"""What is taken out of a project's next generation for good: people, a dataset, a field of one.

A profile's number is given to nobody else: bitmaps, and readers of an older generation, stay right. What was behind it is
empty afterwards.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from pyroaring import BitMap

from psi.values import Bools

from ..inputs.sql import quoted
from . import consent, datasets, known_lines
from .drafts import Draft
from .identity_rows import IdentityRows, begins
from .named import people_of
from .snapshots import NUMBER, Snapshot

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_WITHDRAWN = consent.CODES.index("dn")  # this and what is stricter


def take_out(draft: Draft, profiles: BitMap) -> None:
    """Take profiles out of all that a generation has: ids, identities, consent, attributes, members of segments."""
    draft.touched.add(profiles)
    snapshot = draft.snapshot
    gone = np.zeros(snapshot.profile_count, bool)
    gone[profiles.to_array()] = True
    ids = np.array(snapshot.profile_ids)
    ids[gone] = b""
    order = np.array(snapshot.profile_order)  # of ids; empty ones come first
    draft.change(
        ids=draft.save("ids", ids),
        order=draft.save("order", np.concatenate([np.flatnonzero(gone), order[~gone[order]]]).astype(np.uint32)),
        erased=draft.save_bytes("erased.roaring", (snapshot.erased | profiles).serialize()),
    )
    said = snapshot.said()
    said.codes[gone], said.at[gone], said.bases[gone] = 0, 0, 0
    draft.save_consent(said)
    for name in list(draft.content.noted):
        noted = snapshot.noted(name)
        if (kept := ~gone[noted["profile"]]).all():
            continue
        draft.change(noted={**draft.content.noted, name: draft.save("noted", noted[kept])})
    for namespace in snapshot.namespaces:
        rows = snapshot.rows(namespace)
        _keep(draft, namespace, rows, ~gone[rows.profiles])
    known_lines.take_out(draft, gone)
    for dataset in snapshot.attributes:
        _rewrite(draft, dataset, where=profiles)
    for dataset in list(draft.content.named):
        if (named := people_of(snapshot, dataset)) & profiles:
            file = draft.save_bytes("named.roaring", (named - profiles).serialize())
            draft.change(named={**draft.content.named, dataset: file})
    for segment_id in list(draft.content.segments):
        members = snapshot.members(segment_id)
        if members & profiles:
            draft.set_members(segment_id, members - profiles)


def take_out_dataset(draft: Draft, dataset: str) -> BitMap:
    """Take out a dataset's identities, attributes and lists, and the profiles that no other dataset names; return these.

    Whoever said no stays, with id and consent: a withdrawal has to outlast what it was given about.
    """
    draft.touched.everybody()
    before = draft.snapshot
    known_lines.forget(draft, dataset)
    others = [name for name, _ in datasets.stored(draft.scope, draft.tx) if name != dataset]
    had = people_of(before, dataset) if others else before.everyone
    if dataset in before.content.sources:
        source = before.content.sources.index(dataset)
        for namespace in before.namespaces:
            rows = before.rows(namespace)
            _keep(draft, namespace, rows, rows.sources != source)
    draft.change(
        attributes={name: file for name, file in draft.content.attributes.items() if name != dataset},
        named={name: file for name, file in draft.content.named.items() if name != dataset},
        lists={name: lists for name, lists in draft.content.lists.items() if name != dataset},
        # The others keep their numbers.
        sources=tuple("" if each == dataset else each for each in draft.content.sources),
    )
    after = draft.snapshot
    left = had - BitMap.union(BitMap(), *(people_of(after, each) for each in others)) - _withdrawn(after)
    if left:
        take_out(draft, left)
    return left


def take_out_identities(draft: Draft, dataset: str, namespace: str) -> int:
    """Take out the identities that a dataset gave in a namespace; return how many rows that were."""
    if dataset not in draft.content.sources or namespace not in draft.content.identities:
        return 0
    known_lines.forget(draft, dataset)
    rows = draft.snapshot.rows(namespace)
    kept = rows.sources != draft.content.sources.index(dataset)
    _keep(draft, namespace, rows, kept)
    return int((~kept).sum())


def take_out_attribute(draft: Draft, dataset: str, field: str) -> None:
    """Take out one attribute of a dataset, however its name is spelled there."""
    known_lines.forget(draft, dataset)
    if dataset in draft.content.attributes:
        draft.touched.everybody()
        _rewrite(draft, dataset, without=(field,))


def _keep(draft: Draft, namespace: str, rows: IdentityRows, kept: Bools) -> None:
    if not kept.all():
        draft.touched.add(BitMap(rows.profiles[~kept]))
        rows = rows.take(kept)
        draft.set_identities(namespace, rows, repeated=not begins(rows.values, rows.profiles).all())


def _withdrawn(snapshot: Snapshot) -> BitMap:
    """Return the profiles that said no, to all or in a namespace."""
    found = BitMap(np.flatnonzero(np.asarray(snapshot.profile_consent) >= _WITHDRAWN).astype(np.uint32))
    for name in snapshot.content.noted:
        noted = snapshot.noted(name)
        found |= BitMap(noted["profile"][noted["code"] >= _WITHDRAWN])
    return found


def _rewrite(draft: Draft, dataset: str, *, where: BitMap | None = None, without: Collection[str] = ()) -> None:
    """Write a dataset's attributes again without some profiles or columns."""
    from .attributes import write

    def query(connection: "DuckDBPyConnection") -> str:
        connection.read_parquet(str(draft.snapshot.attributes[dataset])).create_view("old")
        columns = [row[0] for row in connection.execute("DESCRIBE old").fetchall()]
        left = set(map(datasets.folded, without))
        names = ", ".join(quoted(each) for each in columns if datasets.folded(each) not in left)
        connection.register("gone", {"number": np.array((where or BitMap()).to_array(), np.uint32)})
        return f"SELECT {names} FROM old WHERE {quoted(NUMBER)} NOT IN (SELECT number FROM gone) ORDER BY 1"  # noqa: S608

    write(draft, dataset, query)
