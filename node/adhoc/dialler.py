"""The side of an ad hoc match that calls: it asks one count, or learns which of its rows the other side has."""

from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from protocol import handshake
from protocol.agreement import Agreement, Terms
from protocol.connectid import ConnectId
from protocol.estimate import MAX_ASKED, CountAsker
from protocol.evaluation import EvaluateReceiver, Evaluation, EvaluationTally
from protocol.exchange import Machine, Opening, Role
from protocol.messages import Commitment, SegmentAnswer
from protocol.receipt import NO_RECEIPT
from protocol.release import ReleaseReceiver
from protocol.states import Kind, Part
from psi import noise
from psi.errors import Remedy, VesicaError
from psi.keys import Purpose
from psi.values import Indices

from ..compute.scratch import ScratchSpool
from ..errors import Failure, InvalidInput, PeerUnreachable, printable
from ..exchanges.http import drive, open_at
from ..operations.jobs import Progress, no_progress
from ..transport import paths
from ..transport.addresses import AllowedAddresses
from ..transport.client import Peer, PeerClient
from .session import (
    DONE_PATH,
    ENGINE,
    EPOCH,
    SCRATCH,
    Between,
    Columns,
    Party,
    check_common,
    check_sizes,
    fingerprint,
    offer,
    terms,
)

FIRST_CONTACT_SECONDS = 5.0  # a listener that is not there by then has gone
# Any address: a person has just entered the Connect ID, for this one session.
ASKED_FOR = AllowedAddresses(loopback=True, private=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the dialler learned about one namespace; `overlap` is None below the minimum."""

    namespace: str
    ours: int
    theirs_at_most: int  # the listener's identities, rounded up with points that stand for nobody
    overlap: int | None
    half_width: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Which of the dialler's identities of one namespace the listener has, as indices into its distinct values."""

    namespace: str
    ours: int
    theirs: int
    indices: Indices


@dataclass(slots=True)
class Outcome:
    agreement: Agreement
    counted: list[Counted] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)


def check(text: str) -> ConnectId:
    """Return a Connect ID that can be dialled now; raises InvalidConnectId before any network use."""
    connect_id = ConnectId.parse(text)
    connect_id.check_expiry(Party().now())
    return connect_id


def dial(
    text: str,
    columns: Columns,
    *,
    members: bool = False,
    minimum: int | None = None,
    exact: bool = False,
    progress: Progress = no_progress,
) -> Outcome:
    """Call the listener that a Connect ID names, and return what we learned from one session.

    Raises InvalidConnectId, PeerUnreachable, WrongPeerKey, RefusedByPartner (it allows less), NotAllowed (nothing in common, or
    too few identities), RemoteProtocolError.
    """
    connect_id, party = check(text), Party()
    with PeerClient(
        party, Peer(connect_id.address, connect_id.key, allowed=ASKED_FOR, proxy=connect_id.proxy)
    ) as client:
        client.patience, patience = FIRST_CONTACT_SECONDS, client.patience
        try:
            agreement = _agree(client, party, connect_id, columns, terms(minimum=minimum, exact=exact))
        except PeerUnreachable as error:
            raise PeerUnreachable(
                str(error), hint="is the listener still running, and can its address be reached from here?"
            ) from None
        client.patience = patience
        between = Between(agreement, fingerprint(connect_id.key), party.fingerprint, party.random(32))
        session = Dialling(client, party, connect_id, between, columns, progress)
        try:
            outcome = session.members() if members else session.count()
        except PeerUnreachable:
            raise
        except BaseException as error:
            # The listener waits for another call where it has answered nothing, else it ends.
            client.patience = FIRST_CONTACT_SECONDS
            with suppress(VesicaError):
                client.post(DONE_PATH, b"")
            if isinstance(error, KeyboardInterrupt):
                raise Failure(
                    "interrupted",
                    hint="dial again; if nobody listens any more, the answer was given already: ask for a new Connect ID",
                ) from None
            raise
        client.post(DONE_PATH, b"")
    return outcome


def _agree(client: PeerClient, party: Party, connect_id: ConnectId, columns: Columns, ours: Terms) -> Agreement:
    hello = handshake.hello(connect_id, key=party.key, nonce=party.random(32))
    reply = handshake.Reply.decode(client.post(paths.CONNECT, hello.encode()))
    theirs = handshake.check_reply(reply, hello, connect_id)
    if not theirs.is_ad_hoc:  # a node would keep the request for a person to answer
        raise InvalidInput(
            f"this is the Connect ID of a node, that of {printable(theirs.organisation)}, and not of a listener",
            hint="ask the other side to listen",
            remedy=Remedy("match.listen"),
        )
    mine = offer(party, party.random(16), "", ours, columns, party.random(32))
    request = handshake.request(
        connect_id, hello, mine, theirs, connection=party.random(16), made=party.now(), sign=party.sign
    )
    check_common(request.agreement, mine, theirs)
    check_sizes(request.agreement, columns)
    accept = handshake.Accept.decode(client.post(paths.CONNECT, request.encode()))
    handshake.check_accept(accept, request.agreement, keys=(connect_id.key,))
    return request.agreement


@dataclass(frozen=True, slots=True)
class Dialling:
    """One session as its dialler runs it: a count of every agreed namespace, or the members."""

    client: PeerClient
    party: Party
    connect_id: ConnectId
    between: Between
    columns: Columns
    progress: Progress

    def count(self) -> Outcome:
        outcome = Outcome(self.between.agreement)
        for namespace in self.between.agreement.namespaces:
            outcome.counted.append(self._count(namespace))
        return outcome

    def members(self) -> Outcome:
        outcome = Outcome(self.between.agreement)
        evaluations = {name: self._evaluate(name) for name in self.between.agreement.namespaces}
        definition = self.between.definition()
        subject: dict[str, str | bytes | int] = {
            "feed": definition.feed,
            "version": definition.version,
            "revision": 1,
        }
        role = ReleaseReceiver(
            connection=self.between.agreement.connection,
            definition=definition,
            evaluations={
                name: EvaluationTally(each.statement.statement.public, len(each.values))
                for name, each in evaluations.items()
            },
            last_revision=0,
            previous={NO_RECEIPT},
            peer_keys=(self.connect_id.key,),
            sign=self.party.sign,
            most=self.between.agreement.terms.maximum_universe,
            signing=lambda receipt: None,  # a session has one receipt
            engine=ENGINE,
        )
        self._run(Kind.RELEASE, subject, role)
        for namespace, records in sorted(role.result.records.items()):
            evaluation = evaluations[namespace]
            indices, _ = role.result.open(namespace, evaluation.prf)
            found = Found(namespace=namespace, ours=len(evaluation.values), theirs=len(records), indices=indices)
            outcome.found.append(found)
        return outcome

    def _count(self, namespace: str) -> Counted:
        values = self.columns[namespace].values
        asked = values.take(noise.sample(values, self.party.random(32), MAX_ASKED))
        committed: list[int] = []

        def check_universe(commitment: Commitment) -> None:
            committed.append(commitment.count)

        role = CountAsker(
            context=self.between.context(Kind.COUNT, namespace),
            direction=self.between.direction(Kind.COUNT),
            epoch=EPOCH,
            values=asked,
            segments=np.ones((1, len(asked)), np.bool_),
            consented=np.ones(len(asked), np.bool_),
            derive_key=lambda digest: self.between.key(Kind.COUNT, namespace, Purpose.COUNT_ASK, digest),
            check_universe=check_universe,
            maximum=self.between.agreement.terms.maximum_universe,
            peer_keys=(self.connect_id.key,),
            engine=ENGINE,
        )
        self._run(Kind.COUNT, {"namespace": namespace}, role)
        overlap, width = _scaled(role.result.segments[0], self.between.agreement, len(values), len(asked))
        return Counted(
            namespace=namespace,
            ours=len(values),
            theirs_at_most=committed[-1],
            overlap=overlap,
            half_width=width,
        )

    def _evaluate(self, namespace: str) -> Evaluation:
        values = self.columns[namespace].values
        role = EvaluateReceiver(
            context=self.between.context(Kind.EVALUATE, namespace),
            direction=self.between.direction(Kind.EVALUATE),
            epoch=EPOCH,
            values=values,
            key=self.between.key(Kind.EVALUATE, namespace, Purpose.RELEASE_BLIND),
            peer_keys=(self.connect_id.key,),
            engine=ENGINE,
        )
        self._run(Kind.EVALUATE, {"namespace": namespace}, role)
        return role.result

    def _run(self, kind: Kind, subject: dict[str, str | bytes | int], role: Role) -> None:
        opening = Opening(
            exchange=self.party.random(16),
            kind=kind,
            part=Part.ASKER if kind is Kind.COUNT else Part.RECEIVER,
            connection=self.between.agreement.connection,
            agreement=self.between.agreement.digest(),
            epoch=EPOCH,
            subject=subject,
            nonce=self.party.random(32),
        )
        self.progress("waiting for the other side", 0, 1)
        machine = Machine(opening, open_at(self.client, opening), role, ScratchSpool(SCRATCH))
        self.progress("waiting for the other side", 1, 1)
        drive(self.client, machine, opening.exchange, self.progress)


def _scaled(answer: SegmentAnswer, agreement: Agreement, size: int, sampled: int) -> tuple[int | None, int | None]:
    if answer.overlap is None:
        return None, None
    epsilon = agreement.terms.epsilon
    width = noise.half_width(epsilon=epsilon, draws=1, size=size, sampled=sampled, hits=answer.overlap)
    return noise.scale_up(answer.overlap, size=size, sampled=sampled), width
