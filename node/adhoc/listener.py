"""The side of an ad hoc match that waits: it makes the Connect ID, answers one session, and ends."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from protocol import handshake, wire
from protocol.agreement import Agreement, Offer
from protocol.connectid import ConnectId
from protocol.errors import RemoteProtocolError
from protocol.estimate import CountAnswerer, Question, commit
from protocol.exchange import Machine, Opened, Opening, Role
from protocol.messages import Answer, SegmentAnswer
from protocol.receipt import NO_RECEIPT
from protocol.release import EvaluateSender, ReleaseSender, manifest, state_key
from protocol.states import Kind, Part
from psi import count, membership, noise, oprf
from psi.errors import VesicaError
from psi.keys import Purpose
from psi.values import U8

from ..errors import Failure, InvalidInput, NotFound, Refusal, Refused, Unwelcome
from ..exchanges.http import CONNECT_PATH, Answering
from ..operations.jobs import Progress, no_progress
from ..transport import tls
from ..transport.endpoint import Call, Route, address_of, application, bind, server, split_address
from .session import (
    DONE_PATH,
    EPOCH,
    SESSION_SECONDS,
    Between,
    Columns,
    Mode,
    Party,
    check_sizes,
    fingerprint,
    members,
    offer,
    terms,
)

PARTNER_SECONDS = 300  # how long a dialler may be silent within a session
LINGER_SECONDS = 20  # for a dialler that lost the last answer
TIMES_OURS = 10  # a dialler may have so many times our own number of identities evaluated in a namespace,
POINTS_AT_LEAST = (
    100_000  # or this many: enough for two files that differ in size, too few to try out all phone numbers
)

Ready = Callable[[str, str], None]


@dataclass(slots=True)
class Learned:
    """What a session told the listener: by namespace how many identities the other side has and, of a count, how many
    of them are in our file; `told` is what the other side heard of that."""

    mode: Mode | None = None
    agreement: Agreement | None = None
    theirs: dict[str, int] = field(default_factory=dict)
    overlap: dict[str, int] = field(default_factory=dict)
    told: dict[str, SegmentAnswer] = field(default_factory=dict)


def listen(
    columns: Columns,
    *,
    allow: Mode = "count",
    bind_to: str = "127.0.0.1:0",
    address: str | None = None,
    minimum: int | None = None,
    exact: bool = False,
    ready: Ready,
    progress: Progress = no_progress,
) -> Learned:
    """Answer one session, and return what we learned. `ready` gets the Connect ID and the address it names.

    Raises Failure when nobody came within an hour, or when the other side went away in the middle.
    """
    party = Party()
    if address is None and split_address(bind_to)[0] in ("0.0.0.0", "::"):  # noqa: S104 - looked for, not bound to
        raise InvalidInput(
            "the Connect ID must name an address that the other side can reach",
            hint="give it with --address HOST:PORT",
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
    session = _Session(party, connect_id, columns, allow, minimum, exact, progress)
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
    """One listener's state: who dialled, what was agreed, what was answered."""

    def __init__(
        self,
        party: Party,
        connect_id: ConnectId,
        columns: Columns,
        allow: Mode,
        minimum: int | None,
        exact: bool,
        progress: Progress,
    ) -> None:
        self._party, self._connect_id, self._columns, self._allow = party, connect_id, columns, allow
        self._terms = terms(minimum=minimum, exact=exact)
        self._progress = progress
        self._lock = threading.Lock()
        self._peer = b""
        self._between: Between | None = None
        self._open: set[tuple[Kind, str]] = set()
        self._done: set[tuple[Kind, str]] = set()
        self._statements: dict[str, bytes] = {}  # namespace -> s*G
        self._evaluated: dict[str, int] = {}
        self._started = self._heard = time.monotonic()
        self._working = 0
        self._said_goodbye = False
        self._error: VesicaError | None = None
        self.learned = Learned()

    # What the endpoint asks

    def admit(self, caller: bytes, path: str) -> None:
        if path != CONNECT_PATH and caller != self._peer:
            raise Unwelcome("this listener is in a session with someone else, or in none")

    def routes(self) -> list[Route]:
        exchanges = [replace(route, handler=self._watched(route)) for route in Answering(self).routes()]
        return [Route("POST", CONNECT_PATH, self._connect), Route("POST", DONE_PATH, self._goodbye), *exchanges]

    def _watched(self, route: Route) -> Callable[[Call], bytes | None]:
        def handler(call: Call) -> bytes | None:
            with self._lock:
                self._working += 1
            try:
                return route.handler(call)
            finally:
                with self._lock:
                    self._working -= 1
                    self._heard = time.monotonic()
                if "step" in call.parameters:
                    self._progress(call.parameters["step"], int(call.parameters["chunk"]) + 1, None)

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
            raise Refusal(
                "nothing_common",
                "the two files have no namespace in common",
                hint="give both the same one: --column COLUMN=NAMESPACE",
            )
        try:
            check_sizes(agreement, self._columns)
        except Refused:
            raise Refusal(
                "too_few",
                "the listener's file is smaller than the agreed minimum",
                hint="lower the minimum on both sides: --minimum N",
            ) from None
        with self._lock:
            if self.learned.agreement != agreement:
                if self._open:
                    raise _in_use()
                self._peer, self.learned.agreement = call.caller, agreement
                secret, dialler = self._party.random(32), fingerprint(call.caller)
                self._between = Between(agreement, self._party.fingerprint, dialler, secret)
            self._heard = time.monotonic()
        return handshake.accept(agreement, sign=self._party.sign).encode()

    def _check_caller(self, call: Call, hello: handshake.Hello) -> None:
        if hello.key != call.caller or hello.project != self._connect_id.project:
            raise RemoteProtocolError("connect_id_proof", "this Connect ID is not (or no longer) valid")
        handshake.check_hello(hello, key=self._party.key, secret=self._connect_id.secret)
        if self._party.now() >= self._connect_id.expires:
            raise Refusal("expired", "this Connect ID has expired", hint="ask for a new one: vesica match listen")
        if self._open and self._peer != call.caller:
            raise _in_use()

    def _offer(self, hello: handshake.Hello) -> Offer:
        nonce = handshake.offer_nonce(hello, secret=self._connect_id.secret)
        where = self._connect_id
        return offer(self._party, where.project, where.address, self._terms, self._columns, nonce)

    def _goodbye(self, call: Call) -> bytes:
        self._said_goodbye = True
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
        if mode == "members" and self._allow == "count":
            raise Refusal(
                "not_allowed",
                "the listener allows a count only",
                hint="run with --count, or ask the other side for: vesica match listen --allow members",
            )
        if self.learned.mode not in (None, mode):
            raise Refusal(
                "one_answer",
                "a session is either a count or members",
                hint="ask for a new Connect ID for the other: vesica match listen",
            )
        if opening.part not in (Part.ASKER, Part.RECEIVER):
            raise Refusal("part", "who dials asks, and who listens answers")
        subject = (opening.kind, str(opening.subject.get("namespace", "")))
        if opening.kind is not Kind.RELEASE and subject[1] not in between.agreement.namespaces:
            raise Refusal("namespace", "this namespace was not agreed")
        with self._lock:
            if self._between is not between:
                raise _in_use()
            if subject in self._open:
                raise Refusal(
                    "one_answer",
                    "this was answered already; a Connect ID is good for one session",
                    hint="ask for a new one: vesica match listen",
                )
            self.learned.mode = mode
            self._open.add(subject)
        role = self._role(opening, between)
        opened = Opened(exchange=opening.exchange, epoch=EPOCH, nonce=self._party.random(32))
        return opened, Machine(opening, opened, role, {})

    def resume(self, caller: bytes, exchange: bytes) -> tuple[Opening, Machine]:
        raise NotFound("there is no such exchange")

    def given_up(self, exchange_ids: Iterable[bytes]) -> set[bytes]:
        return set()

    def finished(self, opening: Opening, role: Role) -> None:
        namespace = str(opening.subject.get("namespace", ""))
        if isinstance(role, EvaluateSender):
            self._evaluated[namespace] = self.learned.theirs[namespace] = role.result
        self._done.add((opening.kind, namespace))

    def failed(self, opening: Opening, error: VesicaError) -> None:
        self._error = error

    def _role(self, opening: Opening, between: Between) -> Role:
        if opening.kind is Kind.RELEASE:
            return self._release(opening, between)
        namespace = str(opening.subject["namespace"])
        if opening.kind is Kind.EVALUATE:
            return self._evaluate(namespace, between)
        return self._count(namespace, between)

    def _count(self, namespace: str, between: Between) -> Role:
        context = between.context(Kind.COUNT, namespace)
        key = between.key(Kind.COUNT, namespace, Purpose.COUNT_ANSWER)
        universe = count.build_universe(context, self._columns[namespace].values, key, self._party.random)
        return CountAnswerer(
            context=context,
            direction=between.direction(Kind.COUNT),
            epoch=EPOCH,
            universe=universe,
            key=key,
            commitment=commit(
                universe, context=context, epoch=EPOCH, generation=1, made=self._party.now(), sign=self._party.sign
            ),
            check_asker=lambda public: None,
            sanitise=lambda question: self._sanitise(namespace, between, question),
        )

    def _sanitise(self, namespace: str, between: Between, question: Question) -> Answer:
        """Note the true number, and return the noised one: noise, floor, clamp."""
        size, agreed = int(question.sizes[0]), between.agreement.terms
        true = int(question.consented_hits[0] + question.other_hits[0])
        if namespace not in self.learned.told:
            told, width = true, 0
            if agreed.epsilon is not None:
                told += noise.discrete_laplace(agreed.epsilon, noise.Stream(self._party.random(32)))
                width = noise.half_width(epsilon=agreed.epsilon, draws=1, size=size, sampled=size, hits=0)
            if len(question.sizes) != 1 or size < agreed.minimum_segment or told < agreed.minimum_overlap:
                answer = SegmentAnswer(status="below_minimum")
            else:
                told = min(max(told, 0), size)
                answer = SegmentAnswer(
                    status="ok", overlap=told, consented=told, half_width=width, consented_half_width=width
                )
            self.learned.theirs[namespace], self.learned.overlap[namespace] = size, true
            self.learned.told[namespace] = answer
        return Answer(segments=(self.learned.told[namespace],) * len(question.sizes), computed_at=self._party.now())

    def _evaluate(self, namespace: str, between: Between) -> Role:
        context, direction = between.context(Kind.EVALUATE, namespace), between.direction(Kind.EVALUATE)
        key = between.key(Kind.EVALUATE, namespace, Purpose.RELEASE_PRF)
        statement = state_key(
            key,
            context=context,
            direction=direction,
            epoch=EPOCH,
            random=self._party.random,
            sign=self._party.sign,
        )
        self._statements[namespace] = key.public
        charged, most = 0, max(POINTS_AT_LEAST, TIMES_OURS * len(self._columns[namespace].values))

        def charge(points: U8) -> None:
            nonlocal charged
            charged += len(points)
            if charged > most:
                raise Refusal(
                    "too_many",
                    f"more than {most:,} identities in {namespace}: this file is too small for that",
                    hint="match a smaller file against it",
                )

        return EvaluateSender(key=key, statement=statement, charge=charge, random=self._party.random)

    def _release(self, opening: Opening, between: Between) -> Role:
        agreement, definition = between.agreement, between.definition()
        subject = {"feed": definition.feed, "version": definition.version, "revision": 1}
        if opening.subject != subject:
            raise Refusal("subject", "this session has one feed, one version and one revision")
        if self._evaluated.keys() != set(agreement.namespaces):
            raise Refusal("out_of_order", "every namespace is evaluated before the release", status=409)
        if min(self._evaluated.values()) < agreement.terms.minimum_universe:
            raise Refusal(
                "too_few",
                "fewer identities were asked about than the agreed minimum",
                hint="lower the minimum on both sides: --minimum N",
            )
        records = {}
        for namespace in agreement.namespaces:
            values = self._columns[namespace].values
            key = between.key(Kind.EVALUATE, namespace, Purpose.RELEASE_PRF)
            prf = oprf.prf(between.context(Kind.EVALUATE, namespace), values, key)
            records[namespace] = membership.seal(
                prf, members(len(values)), feed=definition.feed, version=definition.version, revision=1
            )
        return ReleaseSender(
            connection=agreement.connection,
            manifest=manifest(
                definition,
                records,
                revision=1,
                full=True,
                evaluated=self._evaluated,
                publics=self._statements,
                previous=NO_RECEIPT,
                made=self._party.now(),
            ),
            records=records,
            peer_key=self._peer,
            sign=self._party.sign,
        )

    # How it ends

    def over(self) -> bool:
        now = time.monotonic()
        if self._said_goodbye or self._error is not None:
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


def _in_use() -> Refusal:
    return Refusal(
        "in_use",
        "this Connect ID is in use: it is good for one session",
        hint="ask for a new one: vesica match listen",
    )
