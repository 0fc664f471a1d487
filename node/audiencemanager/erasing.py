"""Erased people leave the visitors: with every id and trait that their visitor has, and signals with one of their ids.

That is committed before the control rows are. Killed in between, the erasure has to be said again; and who came back
before the suppressions were there leaves with the sweep that follows.
"""

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.values import Values

from ..access.scope import Scope
from ..people.suppressions import Kinds, Suppressions
from ..storage.database import Tx
from . import signals, sources
from .visitors import NOBODY, Visitors, opened, split


def find(scope: Scope, tx: Tx, kinds: Kinds) -> BitMap:
    """Return the visitors who have one of some identities, by namespace with its rule."""
    visitors, found = opened(scope), BitMap()
    for source, namespace in _namespaces(scope, tx).items():
        values = kinds.get(namespace)
        if isinstance(values, Values):
            found |= BitMap(visitors.numbers(source, values, make=False))
    found.discard(NOBODY)
    return found


def take_out(scope: Scope, tx: Tx, kinds: Kinds) -> tuple[int, Kinds]:
    """Erase the visitors who have one of some identities; return how many, and all ids that they had, by namespace."""
    visitors = opened(scope)
    if not visitors.file.path.exists():
        return 0, {}
    had: dict[str, list[Values]] = {}
    with visitors.begin() as writing:
        found = find(scope, tx, kinds)
        for source, namespace in _namespaces(scope, tx).items():
            had.setdefault(namespace, []).append(visitors.ids(found, source)[1])
        ids = {namespace: Values.join(values) for namespace, values in had.items() if any(map(len, values))}
        visitors.erase(found)
        signals.erase(writing, {text for each in (kinds, ids) for text in _texts(each)})
    return len(found), ids


def sweep(scope: Scope) -> bool:
    """Erase visitors with an id that is left out, and return whether nothing of who was erased is left in the file.

    It is for now, while somebody reads an older state.
    """
    visitors = opened(scope)
    if not visitors.file.path.exists():
        return True
    with visitors.begin():
        with scope.home.read() as tx:
            erased, namespaces = Suppressions.read(scope, tx), _namespaces(scope, tx)
        if erased.digests:
            visitors.erase(_erased(visitors, erased, namespaces))
    return visitors.file.overwrite_deleted()


def _erased(visitors: Visitors, erased: Suppressions, namespaces: Mapping[int, str]) -> BitMap:
    """Return the visitors with an id that is left out."""
    found = BitMap()
    for source, namespace in namespaces.items():
        for numbers, values in visitors.every_id(source):
            found |= BitMap(numbers[erased.has(namespace, values)])
    return found


def _namespaces(scope: Scope, tx: Tx) -> dict[int, str]:
    """Return the namespace, with its rule, of the ids of each data source that has some."""
    return {each.number: each.namespace for each in sources.stored(scope, tx) if each.namespace is not None}


def _texts(kinds: Mapping[str, Values | npt.NDArray[Any]]) -> Iterator[str]:
    """Yield how ids and identities are written in signals."""
    for kind, values in kinds.items():
        for value in split(values) if isinstance(values, Values) else np.asarray(values).tolist():
            if kind.endswith("/uuid-v1"):
                form = uuid.UUID(bytes=value)
                yield from (str(form), str(form).upper(), form.hex)
            elif kind.startswith(("email_sha256/", "phone_sha256/")) or kind.endswith("/hex-v1"):
                yield from (value.hex(), value.hex().upper())
            else:
                yield value.decode(errors="replace")
