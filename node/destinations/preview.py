"""Messages as they would leave, to look at before anything does: of one member each, who is masked."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from psi.values import SLICE, Values

from ..access.scope import Scope
from ..errors import Failure
from ..inputs.normalise import rule
from ..storage.database import Tx
from . import desired, kinds
from .changes import Act, State
from .codes import EXCLUDED
from .desired import Desired
from .primaries import PRIMARY
from .records import PROFILE_ID, Activation, ActivationStatus, Destination, activations_of

MOST = 3  # messages
_MASK = "***"
_KEPT = 2  # bytes of an identity of a fixed width


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The messages, and how many members would leave and how many would not, by code."""

    messages: list[str]
    leave: int
    excluded: dict[str, int]


def preview(scope: Scope, tx: Tx, destination: Destination, segment: str, *, unmasked: bool) -> Preview:
    """Return what would leave of a segment now, whether the destination gets it or not."""
    there = {each.segment: each for each in activations_of(tx, destination)}
    activation = there.get(segment) or _imagined(scope, destination, segment)
    wanted = desired.decide(scope, tx, destination, activation)
    counted, found = np.zeros(256, np.int64), list[tuple[Values, int]]()
    for start in range(0, len(wanted.entries), SLICE):
        values, states = wanted.entries.part(start, start + SLICE)
        counted += np.bincount(states, minlength=256)
        for place in np.flatnonzero(states == State.PRESENT)[: MOST - len(found)].tolist():
            found.append((values.part(slice(place, place + 1)), start + place))
    target = kinds.opened(scope, destination, None)
    encode = getattr(target, "as_text", target.encode)  # what is no text has one all the same
    try:
        bodies = [
            encode(_batch(scope, destination, activation, wanted, (number, *each), unmasked))
            for number, each in enumerate(found)
        ]
    except kinds.NotEncoded as error:
        raise Failure(f"no message can be made: {error}", hint="look at the settings of the destination") from error
    finally:
        target.close()
    why = {code: int(counted[state]) for state, code in EXCLUDED.items() if counted[state]}
    return Preview(messages=list(map(_text, bodies)), leave=int(counted[State.PRESENT]), excluded=why)


def _batch(
    scope: Scope,
    destination: Destination,
    activation: Activation,
    wanted: Desired,
    member: tuple[int, Values, int],
    unmasked: bool,
) -> kinds.Batch:
    number, values, place = member
    cells = {} if wanted.mapped is None else wanted.mapped.cells(wanted.profiles[place : place + 1])
    attributes: Mapping[str, list[str | None]] = {name: each.tolist() for name, each in cells.items()}
    if not unmasked:
        values = masked(values, destination.identity)
        attributes = {name: [None if each is None else _MASK for each in row] for name, row in attributes.items()}
    return kinds.Batch(
        id=scope.home.new_id(),
        at=scope.home.now(),
        destination=destination.name,
        segment=activation.segment,
        segment_id=wanted.segment_id,
        labels=wanted.labels,
        identity=destination.identity,
        revision=activation.revision + 1,
        number=number,
        sequence=destination.messages + number + 1,
        values=values,
        acts=np.array([Act.ADD], np.uint8),
        attributes=attributes,
        external_id=activation.external_id,
        first=activation.file is None and number == 0,
    )


def masked(values: Values, identity: str) -> Values:
    """Return identities of which nobody knows who they are, and still of their form."""
    rows = np.array(values.rows)
    if identity == PRIMARY:
        rows[:, 1 + _KEPT :] = np.where(rows[:, :1] == 1, ord("0"), 0)  # the first namespace is of digits
    elif identity != PROFILE_ID and rule(identity).width:
        rows[:, _KEPT:] = ord("0") if rule(identity).namespace == "ecid" else 0
    else:
        lengths = np.full(len(rows), rows.shape[1]) if values.lengths is None else values.lengths
        rows[:] = np.where(np.arange(rows.shape[1]) < lengths[:, None], ord("*"), 0)
    if values.lengths is not None:
        rows[np.arange(rows.shape[1]) >= values.lengths[:, None]] = 0
    return Values(rows, values.lengths)


def _imagined(scope: Scope, destination: Destination, segment: str) -> Activation:
    """Return the activation that a destination would have if it got a segment."""
    empty = {each.name: 0 if each.type in ("int", int) else None for each in fields(Activation)}
    now: dict[str, object] = {"id": scope.home.new_id(), "destination_id": destination.id, "segment": segment}
    now |= {
        "status": ActivationStatus.ACTIVE,
        "basis": "",
        "checked": "",
        "mapping": {},
        "unmapped": [],
        "created": scope.home.now(),
    }
    return Activation(**{**empty, **now})  # type: ignore[arg-type]


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return f"({len(body):,} bytes that are no text)"
