"""Pre-flight: both sides put the same test identities through their normalisers, before anybody is matched.

The identities stand here, in a set with a number: mail at reserved domains (and at gmail.com, under names too short to
exist), numbers reserved for fiction, ids that no device has. A partner cannot add one, so nobody hashes what the other
chose. Both sides keep the first difference.
"""

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, update

from protocol.agreement import Agreement
from protocol.errors import RemoteProtocolError
from protocol.letters import Preflight
from protocol.wire import Message

from ..errors import Refused
from ..inputs.normalise import normalise, rule
from ..storage.tables import HOUR, connections
from .letters import HANDLERS as LETTERS

if TYPE_CHECKING:
    from ..project import Project

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


def results(project: "Project", namespaces: tuple[str, ...]) -> dict[str, tuple[bytes, ...]]:
    """Return what our normaliser makes of the test identities of each namespace; empty for what it drops."""
    made = {}
    for namespace in namespaces:
        done = normalise(rule(namespace), _texts(namespace))
        made[namespace] = tuple(done.values[index] if kept else b"" for index, kept in enumerate(done.keep))
    return made


def compare(ours: Preflight, theirs: Preflight) -> dict[str, Any] | None:
    """Return the first difference, or None: a pure function of what both sides said."""
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


def ask(project: "Project", alias: str) -> dict[str, Any]:
    """Tell a partner our results and ask for its own; return what is known so far, which is "asked" until it answers."""
    with project.act("partner.preflight", alias) as tx:
        row = project.partners.get(alias, tx, status="active")
        project.letters.send(tx, row.id, "preflight.ask", _ours(project, row))
        state = {"status": "asked", "set": SET, "at": project.node.now(), "difference": None}
        _store(tx, row, {**state, "waiting": True, "answered": _state(row)["answered"]})
    with project.node.guard.itself():
        project.letters.sync(row)
    return document(project.partners.get(alias)) or {}


def asked(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle preflight.ask: compare, and answer with our own results, once an hour."""
    now = project.node.now()
    if now - _state(row)["answered"] < HOUR:
        raise Refused("that was answered less than an hour ago", hint="the results do not change; ask later")
    ours = _keep(project, tx, row, message, {**_state(row), "answered": now})
    project.letters.send(tx, row.id, "preflight.answer", ours)


def answered(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle preflight.answer."""
    if not _state(row)["waiting"]:
        raise RemoteProtocolError("out_of_order", "nothing was asked")
    _keep(project, tx, row, message, {**_state(row), "waiting": False})


def document(row: Row[Any]) -> dict[str, Any] | None:
    """Return how the normalisers of both sides compared, or None where that was not asked."""
    return row.preflight and {key: row.preflight[key] for key in ("status", "set", "at", "difference")}


def _keep(project: "Project", tx: Connection, row: Row[Any], message: Message, state: dict[str, Any]) -> Preflight:
    assert isinstance(message, Preflight)
    if not message.results.keys() <= set(Agreement.decode(row.agreement).namespaces):
        raise RemoteProtocolError("namespace", "results in a namespace that was not agreed on")
    ours = _ours(project, row)
    difference = compare(ours, message)
    status = "same" if difference is None else "different"
    _store(tx, row, {**state, "status": status, "set": SET, "at": project.node.now(), "difference": difference})
    if difference is not None:
        text = f"{row.alias} normalises otherwise, so people will be missed: {difference['what']}"
        project.alerts.add(tx, "preflight", f"{text}; see vesica partner show {row.alias}")
    return ours


def _state(row: Row[Any]) -> dict[str, Any]:
    return row.preflight or {"waiting": False, "answered": 0}


def _store(tx: Connection, row: Row[Any], state: dict[str, Any]) -> None:
    tx.execute(update(connections).where(connections.c.id == row.id).values(preflight=state))


def _ours(project: "Project", row: Row[Any]) -> Preflight:
    return Preflight(set=SET, results=results(project, Agreement.decode(row.agreement).namespaces))


def _texts(namespace: str) -> tuple[str, ...]:
    return IDENTITIES.get(namespace.partition("/")[0], _OPAQUE)


LETTERS["preflight.ask"] = asked
LETTERS["preflight.answer"] = answered
