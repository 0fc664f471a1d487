"""Partners of a project: from a Connect ID to a signed agreement, and back out of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol import handshake
from protocol.agreement import Agreement, Offer, mismatches
from protocol.connectid import LIFETIME, PROXY, ConnectId
from protocol.letters import Disconnect
from psi.errors import Remedy

from ..access.scope import NothingDone, Scope
from ..errors import InvalidInput, NotAllowed
from ..storage.database import Tx
from ..storage.ids import stored_id
from ..storage.records import Document
from ..transport import paths
from ..transport.addresses import AllowedAddresses
from . import agreements, connecting, handlers, key_epochs, preflight
from .connections import (
    Connection,
    ConnectionStatus,
    allowed_addresses,
    by_id,
    change,
    named,
    next_step,
    note,
    with_status,
)
from .letters import Letters

if TYPE_CHECKING:
    from ..transport.client import PeerClient


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

    def as_dict(self) -> Document:
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
    """The partners of one project, and the acts that begin, change and end a connection."""

    def __init__(self, scope: Scope) -> None:
        self._scope, self._home = scope, scope.home

    def connect_id(self, *, regenerate: bool = False) -> ConnectId:
        """Return the project's Connect ID, a new one if there is none, if it has expired, or if asked to.

        The old one is refused from then on; connections that exist stay.
        """
        with self._scope.act("partner.id", self._scope.name) as tx:
            if not self._home.config.address:
                raise NotAllowed(
                    "partners cannot call this node: it has no address",
                    hint="request the partner's Connect ID instead, or make a node that has an address",
                )
            row, now = self._scope.row(tx), self._home.now()
            if not regenerate and row.connect_secret is not None and now < (row.connect_expires or 0):
                raise NothingDone
            secret = self._home.keys.wrap(self._home.random(16), connecting.CONNECT)
            self._scope.change(tx, connect_secret=secret, connect_expires=now + LIFETIME)
            row = self._scope.row(tx)
        assert row.connect_secret is not None
        assert row.connect_expires is not None
        return ConnectId(
            flags=PROXY if self._home.config.proxy else 0,
            address=self._home.config.address,
            key=self._home.key,
            project=self._scope.wire_id,
            secret=self._home.keys.unwrap(row.connect_secret, connecting.CONNECT),
            expires=row.connect_expires,
        )

    def look_up(self, text: str) -> Introduction:
        """Ask the node behind a Connect ID who it is and on what terms it connects. It learns nothing of us but our key."""
        self._scope.require("partner.request", self._scope.name)
        with self._scope.refusals("partner.request", "a Connect ID"):  # a secret: nothing of it is written down
            connect_id = ConnectId.parse(text)
            connect_id.check_expiry(self._home.now())
            if connect_id.key == self._home.key:
                raise InvalidInput("this is a Connect ID of this very node", hint="ask the partner for its own")
            hello = handshake.hello(connect_id, key=self._home.key, nonce=self._home.random(32))
            with self._client(connect_id) as client:
                reply = handshake.Reply.decode(client.post(paths.CONNECT, hello.encode()))
            theirs = handshake.check_reply(reply, hello, connect_id)
            if theirs.is_ad_hoc:  # it would take a request for the one match that its Connect ID is good for
                raise InvalidInput(
                    "this is the Connect ID of a listener, good for one match of two files, and not of a node",
                    hint="ask the partner for that of its node, or match a file with it",
                    remedy=Remedy("match.dial"),
                )
        ours = connecting.offer(self._scope, self._home.random(32))
        agreement = Agreement.merge(ours, theirs, connection=self._home.random(16), made=self._home.now())
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
            raise NotAllowed(
                f"the two projects have no namespace under the same rule (ours: {ours}; "
                f"theirs: {', '.join(theirs.namespaces) or 'none'})",
                hint="import identities under the partner's rules first",
                remedy=Remedy("profile.import", {"identities": ["COLUMN=NAMESPACE/RULE"]}),
            )
        for earlier in self.rows(ConnectionStatus.DECLINED, ConnectionStatus.DISCONNECTED):
            if (earlier.peer_key, earlier.peer_project) == (theirs.key, theirs.project):
                self._deliver(earlier)  # it may not know yet that the last connection is over
        message = handshake.request(
            introduction.connect_id,
            introduction.hello,
            introduction.ours,
            theirs,
            connection=agreement.connection,
            made=agreement.made,
            sign=self._home.sign,
        )
        with self._scope.act("partner.request", alias or theirs.organisation) as tx:
            if connecting.offer(self._scope, introduction.ours.nonce, tx) != introduction.ours:
                raise NotAllowed(
                    "what this project offers has changed since the terms were shown",
                    hint="look at them again",
                    remedy=Remedy("partner.request"),
                )
            alias = connecting.store(self._scope, tx, theirs, agreement, message.signature, alias=alias)
            asked = by_id(self._scope, stored_id(agreement.connection), tx)
            note(tx, asked, chosen_address=introduction.connect_id.address, our_offer=introduction.ours.encode())
            allowed_addresses(self._home, by_id(self._scope, asked.id, tx)).check(theirs.address)
        try:
            with self._client(introduction.connect_id) as client:
                client.post(paths.CONNECT, message.encode())
        except Exception as error:
            with self._scope.act("partner.request_failed", alias) as tx:
                asked = by_id(self._scope, stored_id(agreement.connection), tx)
                change(self._home, tx, asked, status=ConnectionStatus.FAILED, reason=str(error)[:500])
            raise
        return alias

    def show_request(self, alias: str) -> Document:
        """Return who asks to connect, and the agreement that `accept` signs now with its hash.

        Refused as `accept` is, where the caller may not or nothing was asked.
        """
        self._scope.require("partner.accept", alias)
        with self._scope.refusals("partner.accept", alias):
            connection = self.get(alias, status=ConnectionStatus.REQUESTED)
        return {
            "organisation": connection.peer_organisation,
            "project": connection.peer_project_name,
            "key": connection.peer_key.hex(),
            "address": connection.peer_address or None,
            "agreement": connection.agreement_digest.hex(),
            "namespaces": list(connection.agreed.namespaces),
            "terms": connection.terms.as_dict(),
        }

    def accept(self, alias: str, *, agreement: str | None = None) -> None:
        """Countersign a partner's request: both sides are Active, and either may share.

        `agreement` is the hash of the agreement that a person was shown: raises NotAllowed if the partner has asked for
        another since.
        """
        detail: Document = {}
        with self._scope.act("partner.accept", alias, detail=detail) as tx:
            connection = self.get(alias, tx, status=ConnectionStatus.REQUESTED)
            detail["agreement"] = connection.agreement_digest.hex()
            if agreement not in (None, detail["agreement"]):
                raise NotAllowed(
                    f"what {alias} asks for is not the agreement with this hash",
                    hint="look at what it asks for now",
                    remedy=Remedy("partner.show", {"name": alias}),
                )
            if connection.peer_address:
                allowed_addresses(self._home, connection).check(connection.peer_address)
            message = handshake.accept(connection.agreed, sign=self._home.sign)
            change(self._home, tx, connection, status=ConnectionStatus.ACTIVE, our_signature=message.signature)
            connecting.settle_request(self._scope, tx, connection)
            Letters(self._scope).send(tx, connection.id, "connect.accept", message)
        self._deliver(connection)

    def show_change(self, alias: str) -> Document:
        """Return the change of the agreement that can be made: accepted, where the partner has proposed one, or proposed.

        `agreement` is the hash of what follows. Refused as both are, where the caller may not or nothing can change.
        """
        self._scope.require("partner.agree", alias)
        with self._scope.refusals("partner.agree", alias):
            connection = self.get(alias, status=ConnectionStatus.ACTIVE)
            return agreements.next_change(self._scope, connection).document(connection)

    def propose(self, alias: str) -> None:
        """Propose to agree anew, on what this project offers now; what is agreed goes on until the partner accepts.

        Raises NotAllowed where the partner has proposed a change itself, which a person has to look at.
        """
        detail: Document = {}
        with self._scope.act("partner.propose", alias, detail=detail) as tx:
            connection = self.get(alias, tx, status=ConnectionStatus.ACTIVE)
            found = agreements.next_change(self._scope, connection, tx)
            detail["version"] = found.agreement.version
            if found.theirs:
                raise NotAllowed(
                    f"{alias} has proposed a change itself",
                    hint="look at it: what this project offers now counts when you accept",
                    remedy=Remedy("partner.agree", {"name": alias}),
                )
            agreements.propose(self._scope, tx, connection, found)
        self._deliver(connection)

    def agree(self, alias: str, *, agreement: str | None = None) -> None:
        """Accept the change of the agreement that a partner has proposed, with what this project offers now.

        The feeds go on meanwhile. `agreement` is the hash of the agreement that a person was shown: raises NotAllowed where
        another one would follow now.
        """
        detail: Document = {}
        with self._scope.act("partner.agree", alias, detail=detail) as tx:
            connection = self.get(alias, tx, status=ConnectionStatus.ACTIVE)
            if not agreements.waits_for_us(connection):
                raise agreements.nothing_proposed(connection)
            found = agreements.next_change(self._scope, connection, tx)
            detail |= {"version": found.agreement.version, "agreement": found.agreement.digest().hex()}
            if agreement not in (None, detail["agreement"]):
                raise NotAllowed(
                    f"what {alias} proposes does not lead to the agreement with this hash",
                    hint="look at it again",
                    remedy=Remedy("partner.agree", {"name": alias}),
                )
            agreements.accept(self._scope, tx, connection, found)
        self._deliver(connection)

    def decline_change(self, alias: str, reason: str = "") -> bool:
        """Decline a change of the agreement, or take back our own part of one; see `agreements.decline`.

        What was agreed goes on. The letters that the partner can deliver are taken first: it may have confirmed already.
        """
        self._scope.require("partner.decline-change", alias)
        with self._scope.refusals("partner.decline-change", alias):
            connection = self.get(alias, status=ConnectionStatus.ACTIVE)
        if connection.accepted is not None:
            Letters(self._scope).sync(connection)
        with self._scope.act("partner.decline-change", alias) as tx:
            connection = self.get(alias, tx, status=ConnectionStatus.ACTIVE)
            theirs = agreements.decline(self._scope, tx, connection, reason)
        self._deliver(connection)
        return theirs

    def decline(self, alias: str, reason: str = "") -> None:
        """Decline a request; the partner gets the reason."""
        with self._scope.act("partner.decline", alias) as tx:
            connection = self.get(alias, tx, status=ConnectionStatus.REQUESTED)
            change(self._home, tx, connection, status=ConnectionStatus.DECLINED, reason=reason)
            connecting.settle_request(self._scope, tx, connection)
            message = handshake.Decline(agreement=connection.agreement_digest, reason=reason)
            Letters(self._scope).send(tx, connection.id, "connect.decline", message)
        self._deliver(connection)

    def disconnect(self, alias: str, reason: str = "") -> None:
        """End a connection: feeds stop, memberships are purged on both sides, keys and caches are destroyed.

        A request that the partner has not answered is taken back.
        """
        with self._scope.act("partner.disconnect", alias) as tx:
            connection = self.get(alias, tx)
            if connection.status not in (ConnectionStatus.ACTIVE, ConnectionStatus.PENDING):
                hint, remedy = next_step(connection)
                raise NotAllowed(f"partner {alias} is {connection.status}", hint=hint, remedy=remedy)
            Letters(self._scope).send(tx, connection.id, "connect.disconnect", Disconnect(reason=reason))
            connecting.end(self._scope, tx, connection, reason)
        self._deliver(connection)

    def get(self, alias: str, tx: Tx | None = None, *, status: ConnectionStatus | None = None) -> Connection:
        """Return the newest connection under an alias; raises NotFound, or NotAllowed unless it has the `status`."""
        return named(self._scope, alias, tx, status=status)

    def rows(self, *statuses: ConnectionStatus) -> list[Connection]:
        """Return the connections that have one of the statuses, or all of them."""
        return with_status(self._scope, *statuses)

    def preflight(self, alias: str) -> Document:
        """Compare both sides' normalisers on test identities that are fixed in the code; see preflight.py."""
        return preflight.ask(self._scope, alias)

    def rotate(self, alias: str) -> Document:
        """End a partner's key epoch now; see `key_epochs.rotate`."""
        return key_epochs.rotate(self._scope, alias)

    def allow(self, alias: str) -> None:
        """Let a partner evaluate its whole universe once more in this window: it lost what it had, as by a restore.

        That is a person's decision: what a partner asked before counts no more, so it may ask about others too. Refused
        where the partner gets no feed of ours.
        """
        with self._scope.act("partner.allow", alias) as tx:
            connection = self.get(alias, tx, status=ConnectionStatus.ACTIVE)
            for hook in handlers.ALLOWED:
                hook(self._scope, tx, connection)

    def _client(self, connect_id: ConnectId) -> "PeerClient":
        from ..transport.client import Peer, PeerClient

        config, address = self._home.config, connect_id.address
        allowed = AllowedAddresses.of(config.address, private=config.private_addresses, chosen=address)
        return PeerClient(self._home, Peer(address, connect_id.key, allowed=allowed, proxy=connect_id.proxy))

    def _deliver(self, connection: Connection) -> None:
        Letters(self._scope).deliver_soon(connection)
