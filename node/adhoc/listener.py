"""The side of an ad hoc match that waits: it makes the Connect ID, answers one session, and ends."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from protocol import handshake, wire
from protocol.agreement import Agreement, Offer
from protocol.connectid import ConnectId
from protocol.errors import RemoteProtocolError
from protocol.evaluation import EvaluateSender
from protocol.exchange import Machine, Opened, Opening, Role
from protocol.states import Kind, Part
from psi.errors import VesicaError

from ..compute.scratch import ScratchSpool
from ..errors import Failure, InvalidInput, NotAllowed, NotFound, RefusedToPartner, UnknownCaller
from ..exchanges.http import Answering
from ..operations.jobs import Progress, no_progress
from ..transport import paths, tls
from ..transport.addresses import split_address
from ..transport.endpoint import Call, Route, application
from ..transport.server import address_of, bind, server
from .answers import Answers, Learned
from .session import (
    DONE_PATH,
    EPOCH,
    SCRATCH,
    SESSION_SECONDS,
    Between,
    Columns,
    Mode,
    Party,
    check_sizes,
    check_worth_listening,
    fingerprint,
    offer,
    terms,
)

PARTNER_SECONDS = 300  # how long a dialler may be silent within a session
LINGER_SECONDS = 20  # for a dialler that lost the last answer
QUIET_SECONDS = 10  # after so long, who dials again shows that an unfinished session will not go on
Ready = Callable[[str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a listener allows, and asks for: the agreement takes the stricter terms of both sides."""

    allow: Mode = "count"
    minimum: int | None = None
    exact: bool = False
    most: int | None = None  # identities of the dialler in a namespace, for `members`; None is 1.2 times our own


def listen(
    columns: Columns,
    rules: Rules = Rules(),
    *,
    bind_to: str = "127.0.0.1:0",
    address: str | None = None,
    ready: Ready,
    progress: Progress = no_progress,
) -> Learned:
    """Answer one session, and return what we learned. `ready` gets the Connect ID and the address it names.

    Raises Failure when nobody came within an hour, or when the other side went away in the middle.
    """
    check_worth_listening(terms(minimum=rules.minimum, exact=rules.exact).minimum_universe, columns)
    party = Party()
    if address is None and split_address(bind_to)[0] in ("0.0.0.0", "::"):  # noqa: S104 - looked for, not bound to
        raise InvalidInput(
            "the Connect ID must name an address that the other side can reach",
            hint="give it as HOST:PORT",
        )
    bound = bind(bind_to)
    connect_id = ConnectId(
        flags=0,
        address=address or address_of(bound),
        key=party.key,
        project=party.random(16),
        secret=party.random(16),
        expires=party.now() + SESSION_SECONDS,
    )
    session = _Session(party, connect_id, columns, rules, progress)
    endpoint = server(
        application(party, session.routes(), session.admit), tls.server_context(party.secret, party.now())
    )

    def watch() -> None:
        while not endpoint.should_exit and not session.over():
            time.sleep(0.1)
        endpoint.should_exit = True

    ready(connect_id.encode(), connect_id.address)
    threading.Thread(target=watch, daemon=True).start()
    endpoint.run(sockets=[bound])
    return session.outcome()


class _Session:
    """The state of one listener: who dialled, what was agreed, what was answered."""

    def __init__(self, party: Party, connect_id: ConnectId, columns: Columns, rules: Rules, progress: Progress) -> None:
        self._party, self._connect_id, self._columns, self._rules = party, connect_id, columns, rules
        self._terms = terms(minimum=rules.minimum, exact=rules.exact)
        self._progress = progress
        self._lock = threading.Lock()
        self._started = self._heard = time.monotonic()
        self._working = 0
        self._spent = False  # whether something was answered that depends on both files
        self._ended = False
        self._error: VesicaError | None = None
        self._answering = Answering(self)
        self._begin(b"", None)

    def _begin(self, peer: bytes, agreement: Agreement | None) -> None:
        """Begin with a dialler, or wait for one: what an earlier one did that got no answer is forgotten, and its keys."""
        self._answering.forget_all()
        self._peer = peer
        self._between: Between | None = None
        if agreement is not None:
            secret = self._party.random(32)
            self._between = Between(agreement, self._party.fingerprint, fingerprint(peer), secret)
        self._open: set[tuple[Kind, str]] = set()
        self._done: set[tuple[Kind, str]] = set()
        self._answers = Answers(self._party, self._columns, most=self._rules.most, spend=self._spend)
        self.learned = self._answers.learned
        self.learned.agreement = agreement

    def _spend(self, between: Between) -> None:
        """Use up the one answer, for the session that stands: from now on no other can begin."""
        with self._lock:
            if self._between is not between:
                raise _in_use()
            self._spent = True

    # What the endpoint asks

    def admit(self, caller: bytes, path: str) -> bool:
        if path != paths.CONNECT and caller != self._peer:
            raise UnknownCaller("this listener is in a session with someone else, or in none")
        return caller == self._peer

    def routes(self) -> list[Route]:
        exchanges = [replace(route, handler=self._watched(route)) for route in self._answering.routes()]
        connect = Route("POST", paths.CONNECT, self._connect, wire.MAX_BODY_OF_STRANGERS)
        return [connect, Route("POST", DONE_PATH, self._goodbye), *exchanges]

    def _watched(self, route: Route) -> Callable[[Call], bytes | None]:
        def handler(call: Call) -> bytes | None:
            with self._lock:
                self._working += 1
            try:
                body = route.handler(call)
            finally:
                with self._lock:
                    self._working -= 1
                    self._heard = time.monotonic()
            if "step" in call.parameters:
                self._progress(call.parameters["step"], int(call.parameters["chunk"]) + 1, None)
            return body

        return handler

    def _connect(self, call: Call) -> bytes:
        if wire.unpack(call.body).get("type") == handshake.Hello.TYPE:
            hello = handshake.Hello.decode(call.body)
            self._check_caller(call, hello)
            ours = self._offer(hello)
            return handshake.reply(hello, ours, secret=self._connect_id.secret).encode()
        request = handshake.Request.decode(call.body)
        self._check_caller(call, request.hello)
        agreement = handshake.check_request(request, self._offer(request.hello), secret=self._connect_id.secret)
        if not agreement.namespaces:
            raise RefusedToPartner(
                "nothing_common",
                "the two files have no namespace in common",
                hint="give both a column of the same namespace",
            )
        try:
            check_sizes(agreement, self._columns)
        except NotAllowed:
            raise RefusedToPartner(
                "too_few",
                "the listener's file is smaller than the agreed minimum",
                hint="lower the minimum on both sides",
            ) from None
        with self._lock:
            if self.learned.agreement != agreement:
                if self._spent:
                    raise self._used()
                self._begin(call.caller, agreement)
            self._heard = time.monotonic()
        return handshake.accept(agreement, sign=self._party.sign).encode()

    def _check_caller(self, call: Call, hello: handshake.Hello) -> None:
        if hello.key != call.caller or hello.project != self._connect_id.project:
            raise RemoteProtocolError("connect_id_proof", "this Connect ID is not (or no longer) valid")
        handshake.check_hello(hello, key=self._party.key, secret=self._connect_id.secret)
        if self._party.now() >= self._connect_id.expires:
            raise RefusedToPartner("expired", "this Connect ID has expired", hint="ask for a new one")
        if self._spent and self._peer != call.caller:
            raise self._used()

    def _offer(self, hello: handshake.Hello) -> Offer:
        nonce = handshake.offer_nonce(hello, secret=self._connect_id.secret)
        where = self._connect_id
        return offer(self._party, where.project, where.address, self._terms, self._columns, nonce)

    def _used(self) -> RefusedToPartner:
        """Return the refusal of who dials after an answer was given; an unfinished session ends with it."""
        if not self._working and time.monotonic() - self._heard > QUIET_SECONDS:
            self._ended = True
        return _in_use()

    def _goodbye(self, call: Call) -> bytes:
        with self._lock:
            if self._spent:
                self._ended = True
            elif self._peer == call.caller:
                self._begin(b"", None)
        return b""

    # What Answering asks

    def begin(self, caller: bytes, opening: Opening) -> tuple[Opened, Machine]:
        between = self._between
        if between is None or (opening.connection, opening.agreement, opening.epoch) != (
            between.agreement.connection,
            between.agreement.digest(),
            EPOCH,
        ):
            raise RemoteProtocolError("session", "the exchange does not belong to this session")
        mode: Mode = "count" if opening.kind is Kind.COUNT else "members"
        if mode == "members" and self._rules.allow == "count":
            raise RefusedToPartner(
                "not_allowed",
                "the listener allows a count only",
                hint="ask for a count, or ask the other side to allow members",
            )
        if self.learned.mode not in (None, mode):
            raise RefusedToPartner(
                "one_answer",
                "a session is either a count or members",
                hint="ask for a new Connect ID for the other",
            )
        if opening.part not in (Part.ASKER, Part.RECEIVER):
            raise RefusedToPartner("part", "who dials asks, and who listens answers")
        subject = (opening.kind, str(opening.subject.get("namespace", "")))
        if opening.kind is not Kind.RELEASE and subject[1] not in between.agreement.namespaces:
            raise RefusedToPartner("namespace", "this namespace was not agreed")
        with self._lock:
            if self._between is not between:
                raise _in_use()
            if subject in self._open:
                raise RefusedToPartner(
                    "one_answer",
                    "this was answered already; a Connect ID is good for one session",
                    hint="ask for a new one",
                )
            self.learned.mode = mode
            self._open.add(subject)
            answers, peer = self._answers, self._peer
        role = answers.role(opening, between, peer)
        opened = opening.accept(self._party.random)
        return opened, Machine(opening, opened, role, ScratchSpool(SCRATCH))

    def resume(self, caller: bytes, exchange: bytes) -> tuple[Opening, Machine]:
        raise NotFound("there is no such exchange")

    def standing(self, caller: bytes, opening: Opening, *, begun: bool) -> bytes:
        return b""  # a session has one agreement and one caller

    def those_over(self, exchange_ids: Iterable[bytes]) -> set[bytes]:
        return set()

    def finished(self, opening: Opening, role: Role) -> None:
        namespace = str(opening.subject.get("namespace", ""))
        with self._lock:
            if not self._stands(opening):
                return
            if isinstance(role, EvaluateSender):
                self._answers.evaluated(namespace, role.result)
            self._done.add((opening.kind, namespace))

    def failed(self, opening: Opening, error: VesicaError) -> None:
        with self._lock:
            if self._stands(opening):
                self._error = error

    def _stands(self, opening: Opening) -> bool:
        """Return whether an exchange belongs to the session that stands, not to one that was given up."""
        return self._between is not None and opening.connection == self._between.agreement.connection

    # How it ends

    def over(self) -> bool:
        with self._lock:
            return self._is_over(time.monotonic())

    def _is_over(self, now: float) -> bool:
        if self._ended or self._error is not None:
            return True
        if self._working:
            return False
        if self._complete():
            return now - self._heard > LINGER_SECONDS
        if self._between is not None and now - self._heard > PARTNER_SECONDS:
            return True
        return now - self._started > SESSION_SECONDS

    def _complete(self) -> bool:
        if self.learned.mode == "count":
            assert self._between is not None
            return self._done == {(Kind.COUNT, name) for name in self._between.agreement.namespaces}
        return (Kind.RELEASE, "") in self._done

    def outcome(self) -> Learned:
        if self._error is not None:
            raise self._error
        if self._complete():
            return self.learned
        hint = "start again, and send the other side the new Connect ID"
        if self._between is not None:
            raise Failure("the other side went away before the session was complete", hint=hint)
        raise Failure("no session took place", hint=hint)


def _in_use() -> RefusedToPartner:
    return RefusedToPartner(
        "in_use",
        "this Connect ID has been used: it is good for one answer",
        hint="ask for a new one",
    )
