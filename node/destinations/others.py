"""In which other segments of a destination people are at the target, as far as that is known."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress

from psi.values import Values

from ..access.scope import Scope
from ..segments import references
from ..storage.database import Tx
from .at_target import AtTarget
from .changes import State
from .desired import segment_id_of
from .records import Activation, ActivationStatus, BatchRow, file_of, spool_of
from .settling import ACTS, Sent

Others = Sequence[Sequence[tuple[str, int]]]


def of(scope: Scope, tx: Tx, activation: Activation, batch: BatchRow, known: Iterable[Activation]) -> Others:
    """Return for each identity of a batch in which other segments it is, by what the target calls them, and since when.

    A segment of `known` of which a revision is under way is left out: whoever is leaving it must not come back.
    """
    assert activation.pending is not None
    places = Sent.decode(spool_of(scope, activation)[ACTS, batch.number]).places
    values = AtTarget(file_of(scope, activation.pending)).take(places)
    found: list[list[tuple[str, int]]] = [[] for _ in range(len(values))]
    for each in known:
        if each.id == activation.id or each.status is not ActivationStatus.ACTIVE or each.pending or not each.file:
            continue
        with suppress(references.Gone):
            name = each.external_id or segment_id_of(each, references.pick(scope, tx, each.segment))
            for place in _present(AtTarget(file_of(scope, each.file)), values):
                found[place].append((name, each.confirmed or each.created))
    return found


def _present(there: AtTarget, values: Values) -> list[int]:
    """Return the places of the identities that are present in a file: a few among many, so each is looked for."""
    found = []
    for place in range(len(values)):
        at = bisect_left(range(len(there)), values[place], key=lambda row: there.part(row, row + 1)[0][0])
        entry, state = there.part(at, at + 1)
        if len(entry) and entry[0] == values[place] and state[0] == State.PRESENT:
            found.append(place)
    return found
