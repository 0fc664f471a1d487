"""What a destination gets, and how a message fared, as documents for front ends."""

from dataclasses import replace

from ..access.scope import Scope
from ..governance.visibility import Visibility
from ..storage.database import Tx
from ..storage.records import Document
from . import codes, erasing, kinds, sending
from .kinds import Delivered, Gone, Outcome
from .records import Activation, BatchRow, Destination, activations_of, count_waiting, parts_of, under_way
from .upkeep import KEPT_SECONDS


def destination(scope: Scope, tx: Tx, found: Destination) -> Document:
    """Return a destination, a connection with its solutions; a caller whom labels limit is told no numbers."""
    own = _one(scope, tx, found)
    if not found.is_connection:
        return own
    parts = [_one(scope, tx, each) for each in parts_of(scope, tx, found)]
    statuses = {each["status"] for each in parts} or {found.status}
    own["status"] = statuses.pop() if len(statuses) == 1 else "mixed"
    own["gets"] = sorted({segment for each in parts for segment in each["gets"]})
    for each in ("present", "failed", "waiting"):
        own[each] = None if own[each] is None else sum(part[each] for part in parts)
    return {**own, "solutions": parts}


def _one(scope: Scope, tx: Tx, found: Destination) -> Document:
    gets = counted_now(tx, found)
    counted: dict[str, int | None] = {
        "present": sum(each.present for each in gets),
        "failed": sum(each.failed for each in gets),
        "waiting": count_waiting(tx, found),
    }
    if Visibility(scope, tx).limited:  # they are of all people
        counted = dict.fromkeys(counted)
    return {
        "name": found.name,
        "kind": found.kind,
        "description": found.description,
        "status": found.status,
        "reason": None if found.reason is None else codes.reason(found.reason),
        "settings": kinds.shown(found.kind, found.settings),
        "identity": found.identity,
        "uses": found.uses,
        "gets": [each.segment for each in gets],
        **counted,
        "next_attempt": sending.wait_until(scope, found),
        "created": found.created,
        "brake": found.brake,
        "of_all": found.of_all,
    }


def whole(scope: Scope, tx: Tx, found: Destination) -> Document:
    """Return a destination with what it gets."""
    counted = not Visibility(scope, tx).limited
    gets = [activation(each, counted=counted) for each in counted_now(tx, found)]
    erased = erasing.waiting(scope, tx, found) if counted else None
    return {**destination(scope, tx, found), "segments": gets, "erased": erased}


def run(scope: Scope, tx: Tx, name: str, sent: int, left: Destination | None) -> Document:
    """Return how many messages arrived, and of how many changes that is not so; `left` is None once all are removed."""
    gets = [] if left is None else counted_now(tx, left)
    return {
        "name": name,
        "sent": sent,
        "waiting": 0 if left is None else count_waiting(tx, left),
        "failed": sum(each.failed for each in gets),
        "held": sum(each.held for each in gets),
        "next_attempt": None if left is None else sending.wait_until(scope, left),
        "status": "deleted" if left is None else left.status,
    }


def counted_now(tx: Tx, found: Destination) -> list[Activation]:
    """Return what a destination gets, by segment; the numbers say what has come of revisions that are under way, too."""
    gets, more = activations_of(tx, found), under_way(tx, found)
    return [
        replace(each, present=each.present + more[each.id][0], failed=each.failed + more[each.id][1])
        if each.id in more
        else each
        for each in gets
    ]


def message(found: BatchRow) -> Document:
    return {
        "message": f"msg_{found.id}",
        "segment": found.segment,
        "at": found.changed,
        "state": found.state,
        "changes": found.changes,
        "attempts": found.attempts,
        "code": found.code,
        "reason": codes.reason(found.code or ""),
    }


def dead(scope: Scope, found: BatchRow) -> Document:
    """Return a message that failed for good, and when that is forgotten."""
    answer = "" if found.answer is None else scope.home.keys.unwrap(found.answer, sending.ANSWER).decode()
    about = {"adds": found.adds, "removes": found.removes, "answer": answer, "forgotten": found.changed + KEPT_SECONDS}
    return {**message(found), **about}


def activation(found: Activation, *, counted: bool) -> Document:
    """Return what a destination gets of a segment; the numbers only if they are `counted`."""
    return {
        "segment": found.segment,
        "status": found.status,
        "mapping": found.mapping if counted else None,  # it names columns
        "external_id": found.external_id,
        "present": found.present if counted else None,
        "failed": found.failed if counted else None,
        "held": found.held if counted else None,
        "stopped": None if found.stopped is None else codes.reason(found.stopped),
        "activated": found.created,
        "confirmed": found.confirmed,
    }


def outcome(found: Outcome) -> Document:
    """Return whether a message arrived, else why not."""
    match found:
        case Delivered():
            return {"arrived": True, "code": None, "reason": None}
        case Gone(code):
            return {"arrived": False, "code": code, "reason": codes.reason(code)}
        case _:
            return {"arrived": False, "code": found.code, "reason": codes.reason(found.code)}
