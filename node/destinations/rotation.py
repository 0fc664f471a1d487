"""The secret of a destination, and the one before it, which signs too until the receiver knows the new one."""

from ..access.scope import Scope
from ..errors import NotAllowed
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.tables import DAY, destinations
from . import codes, kinds
from .abilities import Signing
from .kinds import Target, Unusable
from .records import RESTORED, Destination, change

PURPOSE = b"destination"  # under which secrets are wrapped
BOTH_SECONDS = DAY


def wrapped(scope: Scope, secret: bytes | None) -> bytes | None:
    return None if secret is None else scope.home.keys.wrap(secret, PURPOSE)


def opened(scope: Scope, found: Destination) -> Target:
    """Open a destination with its secret; a kind that signs gets the one before it too, after a space, while that holds."""
    if found.reason == RESTORED and found.kind in kinds.ADMINISTERED:
        raise Unusable(RESTORED, codes.reason(RESTORED))
    keys, old = scope.home.keys, found.old_secret
    secret = None if found.secret is None else keys.unwrap(found.secret, PURPOSE)
    if secret is not None and old is not None and scope.home.now() < (found.old_secret_ends or 0):
        secret += b" " + keys.unwrap(old, PURPOSE)
    return kinds.opened(scope, found, secret)


def rotate(scope: Scope, tx: Tx, found: Destination, given: bytes | None) -> bytes:
    """Give a destination another secret, a new one where none is given, and return it."""
    kind = kinds.kind(found.kind, found.settings)
    secret = kind.secret(given, scope.home.random)
    if secret is None:
        raise NotAllowed(f"destination {found.name} has no secret", hint="only what is signed or logs in has one")
    values: Document = {"secret": wrapped(scope, secret), "old_secret": None, "old_secret_ends": None}
    values["next_attempt"] = None  # what the old one may have failed for
    if isinstance(kind, Signing) and kind.signs:
        values |= {"old_secret": found.secret, "old_secret_ends": scope.home.now() + BOTH_SECONDS}
    change(tx, found.id, **values)
    return secret


def wipe_old(scope: Scope, tx: Tx) -> None:
    """Forget the secrets that sign no more."""
    over = (destinations.c.project_id == scope.id, destinations.c.old_secret_ends <= scope.home.now())
    tx.execute(destinations.update().where(*over).values(old_secret=None, old_secret_ends=None))
