"""Whether the projects of a node share segments at all: not after an installation."""

from dataclasses import replace

from ...access.scope import Home, NothingDone
from . import evaluations, shares


def turn(home: Home, on: bool) -> None:
    """Switch it on or off. Off, all members leave in the same transaction; the shares stay."""
    with home.act("node.shared-segments", "on" if on else "off") as tx:
        if home.config.shared_segments == on:
            raise NothingDone
        replace(home.config, shared_segments=on).save(home.path)
        for share in shares.every(tx):
            if not on and share.basis is not None:
                evaluations.end(home, tx, share)
            for project_id, target in ((share.project_id, share.reference), (share.source, share.segment)):
                home.audit.record(tx, "segment.shared" if on else "segment.unshared", target, project_id=project_id)
    for scope in home.all_scopes() if on else ():
        evaluations.follow(scope)
