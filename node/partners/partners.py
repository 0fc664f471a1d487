"""Partners of a project: from a Connect ID to a signed agreement, and back out of it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, insert, select, update

from protocol import handshake
from protocol.agreement import Agreement, Offer, mismatches
from protocol.connectid import LIFETIME, PROXY, ConnectId
from protocol.errors import RemoteProtocolError
from protocol.letters import Disconnect
from protocol.wire import Message

from ..errors import AlreadyExists, InvalidInput, NotFound, Refused, check_name, printable
from ..exchanges.http import CONNECT_PATH
from ..reports.partner import overview
from ..storage import cache
from ..storage.tables import connections, epochs, exchanges, feed_partners, ledger, projects, received_feeds
from . import preflight
from .key_epochs import rotate
from .letters import HANDLERS as LETTERS

if TYPE_CHECKING:
    from ..node import Node
    from ..project import Project
    from ..transport.client import PeerClient

CONNECT = b"connect"  # the purpose under which the Connect ID's secret is wrapped
LIVE = ("pending", "requested", "active")
STALE = "this Connect ID is not (or no longer) valid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """What a Connect ID leads to, before anything is asked: shown to a person, then given to `Partners.request`.

    `mismatches` lists namespaces that both sides have under different rules: those will not match.
    """

    connect_id: ConnectId
    hello: handshake.Hello
    ours: Offer
    theirs: Offer
    agreement: Agreement
    mismatches: list[tuple[str, tuple[str, ...], tuple[str, ...]]]

    def as_dict(self) -> dict[str, Any]:
        return {
            "organisation": self.theirs.organisation,
            "project": self.theirs.project_name,
            "key": self.theirs.key.hex(),
            "terms": self.agreement.terms.as_dict(),
            "namespaces": list(self.agreement.namespaces),
            "mismatches": [
                {"namespace": name, "ours": list(ours), "theirs": list(theirs)}
                for name, ours, theirs in self.mismatches
            ],
        }


class Partners:
    def __init__(self, project: "Project") -> None:
        self._project, self._node = project, project.node

    def connect_id(self, *, regenerate: bool = False) -> ConnectId:
        """Return the project's Connect ID, a new one if there is none, if it has expired, or if asked to.

        The old one is refused from then on; connections that exist stay.
        """
        self._project.require("partner.id", self._project.name)
        row = self._project.row()
        now = self._node.now()
        if regenerate or row.connect_secret is None or now >= row.connect_expires or not self._node.config.address:
            with self._project.act("partner.id", self._project.name) as tx:
                if not self._node.config.address:
                    raise Refused(
                        "partners cannot call this node: it has no address",
                        hint="make the node with --address HOST:PORT, or request the partner's Connect ID instead",
                    )
                values = {
                    "connect_secret": self._node.secrets.wrap(self._node.random(16), CONNECT),
                    "connect_expires": now + LIFETIME,
                }
                tx.execute(update(projects).where(projects.c.id == self._project.id).values(**values))
            row = self._project.row()
        return ConnectId(
            flags=PROXY if self._node.config.proxy else 0,
            address=self._node.config.address,
            key=self._node.key,
            project=bytes.fromhex(self._project.id),
            secret=self._node.secrets.unwrap(row.connect_secret, CONNECT),
            expires=row.connect_expires,
        )

    def look_up(self, text: str) -> Introduction:
        """Ask the node behind a Connect ID who it is and on what terms it connects. Nothing of ours is told but our key."""
        self._project.require("partner.request", self._project.name)
        with self._project.refusals("partner.request", "a Connect ID"):  # which holds a secret: not a word of it
            connect_id = ConnectId.parse(text)
            connect_id.check_expiry(self._node.now())
            if connect_id.key == self._node.key:
                raise InvalidInput("this is a Connect ID of this very node", hint="ask the partner for its own")
            hello = handshake.hello(connect_id, key=self._node.key, nonce=self._node.random(32))
            with self._client(connect_id) as client:
                reply = handshake.Reply.decode(client.post(CONNECT_PATH, hello.encode()))
            theirs = handshake.check_reply(reply, hello, connect_id)
        ours = self._offer(self._node.random(32))
        agreement = Agreement.merge(ours, theirs, connection=self._node.random(16), made=self._node.now())
        return Introduction(
            connect_id=connect_id,
            hello=hello,
            ours=ours,
            theirs=theirs,
            agreement=agreement,
            mismatches=mismatches(ours, theirs),
        )

    def request(self, introduction: Introduction, *, alias: str | None = None) -> str:
        """Ask the partner to connect on the terms shown; returns the alias under which it is listed, Pending."""
        theirs, agreement = introduction.theirs, introduction.agreement
        if not agreement.namespaces:
            ours = ", ".join(introduction.ours.namespaces) or "none"
            raise Refused(
                f"the two projects have no namespace under the same rule (ours: {ours}; "
                f"theirs: {', '.join(theirs.namespaces) or 'none'})",
                hint="import identities under the partner's rules first: vesica profile import --identity COLUMN=NAMESPACE/RULE",
            )
        for row in self.rows("declined", "disconnected"):
            if (row.peer_key, row.peer_project) == (theirs.key, theirs.project):
                self._deliver(row)  # it may not know yet that the last connection is over
        message = handshake.request(
            introduction.connect_id,
            introduction.hello,
            introduction.ours,
            theirs,
            connection=agreement.connection,
            made=agreement.made,
            sign=self._node.sign,
        )
        with self._project.act("partner.request", alias or theirs.organisation) as tx:
            self._check_new(tx, theirs)
            alias = self._alias(tx, alias, theirs)
            self._insert(tx, alias, theirs, agreement, status="pending", our_signature=message.signature)
        try:
            with self._client(introduction.connect_id) as client:
                client.post(CONNECT_PATH, message.encode())
        except Exception as error:
            with self._project.act("partner.request_failed", alias) as tx:
                values = {"status": "failed", "reason": str(error)[:500], "changed": self._node.now()}
                tx.execute(update(connections).where(connections.c.id == agreement.connection.hex()).values(**values))
            raise
        return alias

    def accept(self, alias: str) -> None:
        """Countersign a partner's request: both sides are Active, and either may share."""
        with self._project.act("partner.accept", alias) as tx:
            row = self.get(alias, tx, status="requested")
            agreement = Agreement.decode(row.agreement)
            message = handshake.accept(agreement, sign=self._node.sign)
            self.change(tx, row, status="active", our_signature=message.signature)
            self._answered(tx, row)
            self._project.letters.send(tx, row.id, "connect.accept", message)
        self._deliver(row)

    def decline(self, alias: str, reason: str = "") -> None:
        """Turn a request down; the partner is told, with the reason."""
        with self._project.act("partner.decline", alias) as tx:
            row = self.get(alias, tx, status="requested")
            self.change(tx, row, status="declined", reason=reason)
            self._answered(tx, row)
            message = handshake.Decline(agreement=row.agreement_digest, reason=reason)
            self._project.letters.send(tx, row.id, "connect.decline", message)
        self._deliver(row)

    def disconnect(self, alias: str, reason: str = "") -> None:
        """End a connection: feeds stop, memberships are purged on both sides, keys and caches are destroyed.

        A request that the partner has not answered is taken back.
        """
        with self._project.act("partner.disconnect", alias) as tx:
            row = self.get(alias, tx)
            if row.status not in ("active", "pending"):
                raise Refused(f"partner {alias} is {row.status}", hint=_NEXT.get(row.status, ""))
            self._project.letters.send(tx, row.id, "connect.disconnect", Disconnect(reason=reason))
            end(self._project, tx, row, reason)
        self._deliver(row)

    def get(self, alias: str, tx: Connection | None = None, *, status: str | None = None) -> Row[Any]:
        """Return a partner's row, the newest under that alias; raises NotFound, or Refused unless it has `status`."""
        query = (
            select(connections)
            .where(connections.c.project_id == self._project.id, connections.c.alias == alias)
            .order_by(connections.c.created.desc())
        )
        row = self._first(query, tx)
        if row is None:
            raise NotFound(f"there is no partner {alias!r}", hint="'vesica partner list' shows them")
        if status is not None and row.status != status:
            raise Refused(f"partner {alias} is {row.status}, not {status}", hint=_NEXT.get(row.status, ""))
        return row

    def by_id(self, connection_id: str, tx: Connection | None = None) -> Row[Any]:
        row = self._first(select(connections).where(connections.c.id == connection_id), tx)
        if row is None or row.project_id != self._project.id:
            raise NotFound("there is no such connection")
        return row

    def rows(self, *statuses: str) -> list[Row[Any]]:
        with self._node.store.read() as tx:
            query = (
                select(connections).where(connections.c.project_id == self._project.id).order_by(connections.c.alias)
            )
            return [row for row in tx.execute(query) if not statuses or row.status in statuses]

    def list(self) -> list[dict[str, Any]]:
        """Return every partner with its status and the number of segments shared with and received from it."""
        return [
            {
                "alias": row.alias,
                "organisation": row.peer_organisation,
                "project": row.peer_project_name,
                "status": row.status,
                "segments_shared": self._project.feeds.segments_shared(row.id),
                "segments_received": self._project.memberships.segments_received(row.id),
                "namespaces": list(Agreement.decode(row.agreement).namespaces),
                "terms": Agreement.decode(row.agreement).terms.as_dict(),
                "key": row.peer_key.hex(),
                "key_changed": row.key_changed,
                "address": row.peer_address,
                "reason": row.reason,
            }
            for row in self.rows()
        ]

    def show(self, alias: str) -> dict[str, Any]:
        """Return how things stand with one partner."""
        return overview(self._project, self.get(alias))

    def preflight(self, alias: str) -> dict[str, Any]:
        """Compare both sides' normalisers on test identities that are fixed in the code; see `node.preflight`."""
        return preflight.ask(self._project, alias)

    def rotate(self, alias: str) -> dict[str, Any]:
        """End a partner's key epoch now; see `node.epochs.rotate`."""
        return rotate(self._project, alias)

    def allow(self, alias: str) -> None:
        """Let a partner evaluate its whole universe once more in this epoch: it lost what it had, as by a restore.

        That is a person's decision: what a partner asked before counts no more, so it may ask about others too. Refused
        where the partner gets no feed of ours.
        """
        with self._project.act("partner.allow", alias) as tx:
            row = self.get(alias, tx, status="active")
            gets = select(feed_partners.c.id).where(
                feed_partners.c.connection_id == row.id, feed_partners.c.status.in_(("enabled", "disabled"))
            )
            if tx.execute(gets).first() is None:
                raise Refused(
                    f"partner {alias} has enabled no feed of ours, so it evaluates nothing here",
                    hint=f"if {alias} shares with us, it runs the command: vesica partner allow NAME",
                )
            tx.execute(
                insert(ledger).values(
                    id=self._node.new_id(),
                    project_id=self._project.id,
                    peer_key=row.peer_key,
                    kind="allowed",
                    amount=0,
                    note="",
                    at=self._node.now(),
                )
            )

    def _offer(self, nonce: bytes) -> Offer:
        config = self._node.config
        return Offer(
            organisation=config.organisation,
            project_name=self._project.name,
            key=self._node.key,
            project=bytes.fromhex(self._project.id),
            address=config.address,
            proxy=config.proxy,
            terms=self._project.terms,
            namespaces=tuple(self._project.namespaces()),
            nonce=nonce,
        )

    def answer_hello(self, hello: handshake.Hello) -> handshake.Reply:
        """Show a caller that holds our Connect ID's secret who we are; nothing is kept."""
        secret = self._secret(hello)
        return handshake.reply(hello, self._offer(handshake.offer_nonce(hello, secret=secret)), secret=secret)

    def answer_request(self, request: handshake.Request) -> None:
        """Keep a request for a person to accept or decline, and raise an alert. The same request again changes nothing."""
        fingerprint = request.hello.key.hex()[:16]
        with self._project.act("partner.requested", request.offer.organisation, actor=f"key {fingerprint}") as tx:
            secret = self._secret(request.hello)
            ours = self._offer(handshake.offer_nonce(request.hello, secret=secret))
            agreement = handshake.check_request(request, ours, secret=secret)
            known = self._first(select(connections).where(connections.c.id == agreement.connection.hex()), tx)
            if known is not None and known.agreement == agreement.encode():
                return
            if known is not None:
                raise RemoteProtocolError("agreement", "this connection id is taken")
            self._check_new(tx, request.offer)
            alias = self._alias(tx, None, request.offer)
            self._insert(tx, alias, request.offer, agreement, status="requested", their_signature=request.signature)
            text = _asks(request.offer.organisation, alias)
            for name, our_rules, their_rules in mismatches(ours, request.offer):
                text += f"; {name} will not match: {', '.join(our_rules)} here, {', '.join(their_rules)} there"
            self._project.alerts.add(tx, "connection_request", text)

    def _secret(self, hello: handshake.Hello) -> bytes:
        row = self._project.row()
        if row.connect_secret is None or self._node.now() >= row.connect_expires:
            raise RemoteProtocolError("connect_id_proof", STALE)
        secret = self._node.secrets.unwrap(row.connect_secret, CONNECT)
        handshake.check_hello(hello, key=self._node.key, secret=secret)
        return secret

    def _check_new(self, tx: Connection, theirs: Offer) -> None:
        known = tx.execute(
            select(connections.c.alias, connections.c.status).where(
                connections.c.project_id == self._project.id,
                connections.c.peer_key == theirs.key,
                connections.c.peer_project == theirs.project,
                connections.c.status.in_(LIVE),
            )
        ).first()
        if known is not None:
            raise AlreadyExists(
                f"that project is partner {known.alias} already ({known.status})",
                hint=_NEXT.get(known.status, "") or f"disconnect first: vesica partner disconnect {known.alias}",
            )

    def _answered(self, tx: Connection, row: Row[Any]) -> None:
        self._project.alerts.settle(tx, "connection_request", _asks(row.peer_organisation, row.alias))

    def _alias(self, tx: Connection, given: str | None, theirs: Offer) -> str:
        """Return a free alias: the one asked for, or one made of the organisation's name.

        A connection that is over gives its alias up, to whom we choose or, unasked, to the same organisation's key:
        nobody gets another's alias, and with it the place in our rules, by taking its name.
        """
        query = select(connections).where(connections.c.project_id == self._project.id)
        known = {row.alias: row for row in tx.execute(query)}
        stem = re.sub(r"[^a-z0-9]+", "-", theirs.organisation.lower()).strip("-")[:50] or "partner"
        if given is not None:
            check_name(given, "partner")
            if "." in given:
                raise InvalidInput(
                    f"a partner's name has no dot, which {given!r} has",
                    hint="rules name what it shares as received.PARTNER.SEGMENT",
                )
            if given in known and known[given].status in LIVE:
                raise AlreadyExists(f"there is a partner {given!r} already", hint="choose another name with --as")
        alias = given or next(
            name
            for name in _numbered(stem)
            if name not in known or (known[name].status not in LIVE and known[name].peer_key == theirs.key)
        )
        if alias in known:
            aside = next(name for name in _numbered(f"{alias[:50]}-ended") if name not in known)
            tx.execute(update(connections).where(connections.c.id == known[alias].id).values(alias=aside))
        return alias

    def _insert(self, tx: Connection, alias: str, theirs: Offer, agreement: Agreement, **values: Any) -> None:
        now = self._node.now()
        tx.execute(
            insert(connections).values(
                id=agreement.connection.hex(),
                project_id=self._project.id,
                alias=alias,
                peer_key=theirs.key,
                peer_project=theirs.project,
                peer_project_name=printable(theirs.project_name)[:63],
                peer_organisation=printable(theirs.organisation),
                peer_address=theirs.address,
                proxy=theirs.proxy,
                their_offer=theirs.encode(),
                agreement=agreement.encode(),
                agreement_digest=agreement.digest(),
                letters_sent=0,
                letters_received=0,
                created=now,
                changed=now,
                **values,
            )
        )

    def change(self, tx: Connection, row: Row[Any], **values: Any) -> None:
        tx.execute(update(connections).where(connections.c.id == row.id).values(changed=self._node.now(), **values))

    def _client(self, connect_id: ConnectId) -> "PeerClient":
        from ..transport.client import PeerClient

        return PeerClient(self._node, connect_id.address, connect_id.key, proxy=connect_id.proxy)

    def _deliver(self, row: Row[Any]) -> None:
        self._project.letters.deliver_soon(row)

    def _first(self, query: Any, tx: Connection | None) -> Row[Any] | None:
        if tx is not None:
            return tx.execute(query).first()
        with self._node.store.read() as reading:
            return reading.execute(query).first()


_NEXT = {
    "requested": "decide with: vesica partner accept NAME, or: vesica partner decline NAME",
    "pending": "wait until the partner accepts; 'vesica feed sync' asks for its answer",
    "declined": "ask the partner for a new Connect ID if it has changed its mind",
    "disconnected": "connect again with a new Connect ID",
    "failed": "ask again: vesica partner request CONNECT_ID",
}


def answer(node: "Node", caller: bytes, body: bytes) -> bytes:
    """Answer what a stranger sends to the connect endpoint: a Hello or a Request."""
    kind = handshake.Hello if len(body) < _HELLO_AT_MOST else handshake.Request
    message: Message = kind.decode(body)
    hello = message.hello if isinstance(message, handshake.Request) else message
    assert isinstance(hello, handshake.Hello)
    if hello.key != caller:
        raise RemoteProtocolError("agreement", "the request was signed by another key than the one it speaks for")
    try:
        project = node.project_by_id(hello.project.hex())
    except NotFound:
        raise RemoteProtocolError("connect_id_proof", STALE) from None
    if isinstance(message, handshake.Request):
        project.partners.answer_request(message)
        return b""
    return project.partners.answer_hello(hello).encode()


_HELLO_AT_MOST = 300  # bytes; a request holds two offers' worth


def accepted(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle connect.accept: the partner countersigned what we signed."""
    assert isinstance(message, handshake.Accept)
    if row.status != "pending":
        raise RemoteProtocolError("out_of_order", "nothing was waiting to be accepted")
    handshake.check_accept(message, Agreement.decode(row.agreement), key=row.peer_key)
    project.partners.change(tx, row, status="active", their_signature=message.signature)
    project.alerts.add(tx, "connection_accepted", f"{row.peer_organisation} accepted: partner {row.alias} is active")


def declined(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle connect.decline."""
    assert isinstance(message, handshake.Decline)
    if row.status != "pending" or message.agreement != row.agreement_digest:
        raise RemoteProtocolError("out_of_order", "nothing was waiting to be declined")
    project.partners.change(tx, row, status="declined", reason=printable(message.reason))
    project.alerts.add(tx, "connection_declined", f"{row.peer_organisation} declined")


def disconnected(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle connect.disconnect."""
    assert isinstance(message, Disconnect)
    if row.status not in LIVE:
        return
    end(project, tx, row, printable(message.reason))
    project.alerts.add(tx, "disconnected", f"{row.peer_organisation} ended the connection {row.alias}")


def end(project: "Project", tx: Connection, row: Row[Any], reason: str) -> None:
    """Stop everything that goes over a connection, and remove what came over it."""
    now = project.node.now()
    project.partners.change(tx, row, status="disconnected", reason=reason)
    tx.execute(
        update(feed_partners)
        .where(feed_partners.c.connection_id == row.id, feed_partners.c.status.not_in(("declined", "revoked")))
        .values(status="revoked", reason="disconnected", changed=now)
    )
    for feed in tx.execute(select(received_feeds).where(received_feeds.c.connection_id == row.id)).all():
        project.received.purge(tx, row, feed, reason="disconnected")
    tx.execute(
        update(epochs).where(epochs.c.connection_id == row.id, epochs.c.ended.is_(None)).values(secret=b"", ended=now)
    )
    tx.execute(
        update(exchanges)
        .where(exchanges.c.connection_id == row.id, exchanges.c.state == "open")
        .values(state="failed", error={"code": "disconnected"}, changed=now)
    )
    project.node.store.afterwards(lambda: cache.destroy(project.node.home, row.id))


def _asks(organisation: str, alias: str) -> str:
    return f"{printable(organisation)} asks to connect: 'vesica partner accept {alias}'"


def _numbered(stem: str) -> Iterable[str]:
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1


LETTERS["connect.accept"] = accepted
LETTERS["connect.decline"] = declined
LETTERS["connect.disconnect"] = disconnected
