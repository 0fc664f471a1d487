"""Pre-flight: both sides put the same test identities through their normalisers, before anybody is matched.

The identities stand here, in a set with a number: mail at reserved domains (and at gmail.com, under names too short to
exist), numbers reserved for fiction, ids that no device has. A partner cannot add one, so neither side hashes what the other
chose. Both sides store the first difference.
"""

from dataclasses import asdict

from protocol.errors import RemoteProtocolError
from protocol.letters import Preflight
from protocol.wire import Message

from ..access.scope import Scope
from ..errors import NotAllowed
from ..inputs.normalise import normalise, rule
from ..operations.alerts import AlertKind, Alerts
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.tables import HOUR
from .connections import Compared, Connection, ConnectionStatus, named, note
from .letters import Letters

SET = 1

_EMAILS = (
    "ann@example.com",
    "  Ann@Example.COM\t",
    "ANN.LEE+news@example.org",
    "a.b+tag@gmail.com",
    "A.B@GoogleMail.com",
    "ann @example.net",
    "\u00fcmit@example.com",
    "STRA\u00dfE@example.com",
    "I\u0307nci@example.com",
    "ann@b\u00fccher.example",
    "ann@example",
    "ann@@example.com",
    "",
)
_PHONES = (
    "+44 7700 900123",
    "tel:+44-7700-900123",
    "+44 (0)7700 900 123",
    "00447700900123",
    "07700 900123",
    "+1 (202) 555-0147",
    "+1.202.555.0147",
    "+49 30 23125 123",
    "+33 1 99 00 12 34",
    "+61 491 570 156",
    "+39 06 5550 1234",
    "+999 12345678",
    "+44",
    "",
)
_UUIDS = (
    "6D92078A-8246-4BA4-AE5B-76104861E7DC",
    "6d92078a-8246-4ba4-ae5b-76104861e7dc",
    "6d92078a82464ba4ae5b76104861e7dc",
    "{6d92078a-8246-4ba4-ae5b-76104861e7dc}",
    "00000000-0000-0000-0000-000000000000",
    "",
)
IDENTITIES = {  # of set 1, by namespace: never change one, make another set
    "email_sha256": _EMAILS,
    "phone_sha256": _PHONES,
    "ecid": ("12345678901234567890123456789012345678", " 12345678901234567890123456789012345678 ", "1234", "0" * 38),
    "idfa": _UUIDS,
    "gaid": _UUIDS,
    "idfv": _UUIDS,
    "android_id": ("9774D56D682E549C", "9774d56d682e549c", "9774d56d682e549", "0" * 16),
}
_OPAQUE = ("Member 7", " member 7 ", "", "caf\u00e9", "cafe\u0301")  # of every custom namespace


def results(namespaces: tuple[str, ...]) -> dict[str, tuple[bytes, ...]]:
    """Return what our normaliser makes of the test identities of each namespace; b"" for those it drops."""
    made = {}
    for namespace in namespaces:
        done = normalise(rule(namespace), _texts(namespace))
        made[namespace] = tuple(done.values[index] if kept else b"" for index, kept in enumerate(done.keep))
    return made


def ours(connection: Connection) -> Preflight:
    """Return what our normaliser makes of the test identities, as the partner gets it."""
    return Preflight(set=SET, results=results(connection.agreed.namespaces))


def compare(ours: Preflight, theirs: Preflight) -> Document | None:
    """Return the first difference between what both sides said, or None."""
    if ours.set != theirs.set:
        return {"what": f"test identities: set {ours.set} here, set {theirs.set} there"}
    for namespace in sorted(ours.results.keys() | theirs.results.keys()):
        here, there = ours.results.get(namespace), theirs.results.get(namespace)
        if here is None or there is None or len(here) != len(there):
            return {"what": f"{namespace}: {len(here or ())} results here, {len(there or ())} there"}
        for index, (our, their) in enumerate(zip(here, there, strict=True)):
            if our != their:
                return {
                    "what": f"{namespace}: {_texts(namespace)[index]!r}",
                    "namespace": namespace,
                    "identity": _texts(namespace)[index],
                    "ours": our.hex() or "dropped",
                    "theirs": their.hex() or "dropped",
                }
    return None


def ask(scope: Scope, alias: str) -> Document:
    """Send a partner our results and ask for its own; return what is known so far: "asked" until it answers."""
    with scope.act("partner.preflight", alias) as tx:
        connection = named(scope, alias, tx, status=ConnectionStatus.ACTIVE)
        Letters(scope).send(tx, connection.id, "preflight.ask", ours(connection))
        asked = Compared(
            status="asked",
            set=SET,
            at=scope.home.now(),
            difference=None,
            waiting=True,
            answered=_answered(connection),
        )
        note(tx, connection, preflight=asdict(asked))
    with scope.home.guard.itself():
        Letters(scope).sync(connection)
    return document(named(scope, alias)) or {}


def asked(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle preflight.ask: compare, and answer with our own results, once an hour."""
    now = scope.home.now()
    if now - _answered(connection) < HOUR:
        raise NotAllowed("that was answered less than an hour ago", hint="the results do not change; ask later")
    ours = _keep(scope, tx, connection, message, waiting=_waits(connection), answered=now)
    Letters(scope).send(tx, connection.id, "preflight.answer", ours)


def answered(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle preflight.answer."""
    if not _waits(connection):
        raise RemoteProtocolError("out_of_order", "nothing was asked")
    _keep(scope, tx, connection, message, waiting=False, answered=_answered(connection))


def document(connection: Connection) -> Document | None:
    """Return how the normalisers of both sides compared, or None where that was not asked."""
    known = connection.preflight
    if known is None:
        return None
    return {"status": known.status, "set": known.set, "at": known.at, "difference": known.difference}


def _keep(scope: Scope, tx: Tx, connection: Connection, message: Message, *, waiting: bool, answered: int) -> Preflight:
    assert isinstance(message, Preflight)
    if not message.results.keys() <= set(connection.agreed.namespaces):
        raise RemoteProtocolError("namespace", "results in a namespace that was not agreed on")
    mine = ours(connection)
    difference = compare(mine, message)
    status = "same" if difference is None else "different"
    compared = Compared(
        status=status, set=SET, at=scope.home.now(), difference=difference, waiting=waiting, answered=answered
    )
    note(tx, connection, preflight=asdict(compared))
    if difference is not None:
        text = f"{connection.alias} normalises otherwise, so people will be missed: {difference['what']}"
        Alerts(scope).add(tx, AlertKind.PREFLIGHT, text)
    return mine


def _waits(connection: Connection) -> bool:
    return connection.preflight is not None and connection.preflight.waiting


def _answered(connection: Connection) -> int:
    return 0 if connection.preflight is None else connection.preflight.answered


def _texts(namespace: str) -> tuple[str, ...]:
    return IDENTITIES.get(namespace.partition("/")[0], _OPAQUE)
