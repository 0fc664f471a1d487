"""The exchange engine: one table-driven machine for both roles, sans-I/O, that a crash cannot confuse.

Each step's message travels in chunks with numbers; every transfer is idempotent. What came and what was handed out is
in the spool, byte for byte, so a new machine over the same spool goes on where the last one stopped. A driver
that is the HTTP client does

    while not isinstance(action := machine.next(), Done):
        if isinstance(action, Send):
            partner.put(action, machine.get(*action))
            machine.sent(*action)
        else:
            machine.put(*action, partner.get(action))

and the one that is the server answers PUTs with `put` and GETs with `get`, one call at a time per exchange.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, NamedTuple, overload

from psi.errors import DuplicatePoint, InvalidPoint, InvalidProof, InvalidScalar, InvalidTags, WrongCount
from psi.hashing import length_prefixed

from .errors import ChunkChanged, LocalProtocolError, Malformed, NoSuchChunk, NotReady, RemoteProtocolError
from .messages import MAX_CHUNKS
from .states import PARTS, STEPS, Kind, Part, Step, Subject, check_subject
from .wire import VERSION, Digest, Id, Limit, Message, Number, Short, check_version, pack, unpack

SUITE = b"ristretto255-SHA512"

Spool = MutableMapping[tuple[str, int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening(Message):
    """The client's wish to run an exchange as `part`, about `subject` (the fields of SUBJECTS[kind])."""

    TYPE: ClassVar[str] = "opening"
    exchange: Id
    kind: Kind
    part: Part
    connection: Id
    agreement: Digest
    epoch: Number
    subject: Subject
    nonce: Digest

    def check(self) -> None:
        if self.part not in PARTS[self.kind]:
            raise Malformed("opening: this part does not occur in this kind of exchange")
        check_subject(self.kind, self.subject)

    def accept(self, random: Callable[[int], bytes]) -> "Opened":
        """Return the server's yes to this opening, with a nonce of its own."""
        return Opened(exchange=self.exchange, epoch=self.epoch, nonce=random(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Message):
    """The server's yes, in the same epoch."""

    TYPE: ClassVar[str] = "opened"
    exchange: Id
    epoch: Number
    nonce: Digest


def session(opening: Opening, opened: Opened) -> bytes:
    """Return what every chunk names, 32 bytes over the suite, the version, and all of the opening and its reply.

    Raise RemoteProtocolError if the reply is to another opening.
    """
    if opened.exchange != opening.exchange:
        raise RemoteProtocolError("session", "the partner opened another exchange than the one asked for")
    if opened.epoch != opening.epoch:
        raise RemoteProtocolError("epoch", f"the partner opened in epoch {opened.epoch}, not {opening.epoch}")
    parts = length_prefixed(b"vesica/1 session", SUITE, bytes([VERSION]), opening.encode(), opened.encode())
    return hashlib.sha256(parts).digest()


class Role(ABC):
    """What one part does in one kind of exchange. The machine decides when; a role decides what is in a message.

    After a restart a new role receives again all that the one before it received, and is not asked again for what that
    one produced, but for steps that are `drawn`. So callbacks that charge or decide must give the same answer to the same input.
    """

    kind: ClassVar[Kind]
    part: ClassVar[Part]
    drawn: ClassVar[frozenset[str]] = frozenset()  # steps that `produce` gives again, always the same: none is kept

    @abstractmethod
    def produce(self, step: str) -> Sequence[Message]:
        """Return all chunks, at least one, of a step of ours; every earlier step is complete."""

    @abstractmethod
    def receive(self, step: str, chunk: int, payload: Message) -> None:
        """Take one chunk of theirs, in order; it has the step's type. Raise what a partner may not send."""

    def reply(self, step: str, chunk: int, payload: Message) -> Message:
        """Return chunk `chunk` of a step that replies to another, of which `payload` is that chunk."""
        raise NotImplementedError

    def complete(self, step: str) -> None:  # noqa: B027 - most steps need nothing
        """Check a step of theirs as a whole: its last chunk is in."""


class Repeating(Role):
    """Stands where an exchange is done: all that was said is in the spool, and nothing is left to decide."""

    def __init__(self, kind: Kind, part: Part) -> None:
        self.kind, self.part = kind, part  # type: ignore[misc]  # class variables of every other role

    def produce(self, step: str) -> Sequence[Message]:
        raise LocalProtocolError(f"the spool of an exchange that is done lacks {step}")

    def receive(self, step: str, chunk: int, payload: Message) -> None: ...


class LazyChunks(Sequence[Message]):
    """Chunks that are made when they are asked for, so that one at a time is in memory."""

    def __init__(self, count: int, make: Callable[[int], Message]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> Message: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Message]: ...
    def __getitem__(self, number: int | slice) -> Message | Sequence[Message]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(self._count))]
        if not 0 <= number < self._count:
            raise IndexError(number)
        return self._make(number)


class Send(NamedTuple):
    """Hand chunk `chunk` of our step to the partner."""

    step: str
    chunk: int


class Fetch(NamedTuple):
    """Ask the partner for chunk `chunk` of its step."""

    step: str
    chunk: int


class Done(NamedTuple):
    """Nothing is left to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header(Message):
    """Stands before the payload of every chunk. `of` is the number of chunks of the step."""

    TYPE: ClassVar[str] = "chunk"
    session: Digest
    step: Short
    chunk: Number
    of: Annotated[int, Limit(1, MAX_CHUNKS)]


_HEADER = [field.name for field in fields(Header)]
_FROM_PARTNER = (InvalidPoint, DuplicatePoint, InvalidScalar, InvalidProof, WrongCount, InvalidTags)


class Machine:
    """One side of one exchange. `spool` maps (step, chunk) to bodies and outlives the machine; one writer at a time."""

    def __init__(self, opening: Opening, opened: Opened, role: Role, spool: Spool) -> None:
        if role.kind != opening.kind:
            raise LocalProtocolError(f"this role is for {role.kind} exchanges, not {opening.kind}")
        self.role = role
        self._part = role.part
        self._session = session(opening, opened)
        self._spool = spool
        self._steps = {step.name: step for step in STEPS[opening.kind]}
        self._of: dict[str, int] = {}  # chunks of each step, once known
        self._have: dict[str, set[int]] = {name: set() for name in self._steps}  # chunks that came or were made
        self._drawn: dict[str, Sequence[Message]] = {}  # steps that were made, and are not in the spool
        self._sent = {name: int.from_bytes(spool.get((f"{name}-sent", 0), b"")) for name in self._steps}
        self._failure: Exception | None = None
        self._resume()

    @property
    def done(self) -> bool:
        """Whether every step is complete on this side."""
        return all(self._complete(name) for name in self._steps)

    def retire(self) -> None:
        """Release the role and its data: a machine that is done only repeats what it said, but for what it drew."""
        assert self.done
        self.role = Repeating(self.role.kind, self.role.part)
        self._drawn = dict.fromkeys(self._drawn, ())

    def next(self) -> Send | Fetch | Done:
        """Return what the client does next; the same again until `sent` or `put` reports that it happened."""
        for name, step in self._steps.items():
            if step.sender == self._part:
                if self._sent[name] < self._of.get(step.replies_to or name, 1):
                    return Send(name, self._sent[name])
            elif not self._complete(name):
                return Fetch(name, len(self._have[name]))
        return Done()

    def sent(self, step: str, chunk: int) -> None:
        """Note that the partner has this chunk of ours, and all before it."""
        self._sent[step] = chunk + 1
        self._spool[(f"{step}-sent", 0)] = (chunk + 1).to_bytes(4)

    def put(self, step: str, chunk: int, body: bytes) -> None:
        """Take a chunk of the partner's. The same bytes again do nothing.

        Raise RemoteProtocolError for a body of another session, direction, step, chunk, type or version, for one that
        comes too early, and, as ChunkChanged, for other bytes of a chunk that we have: the exchange can go on. Once a
        chunk's content is refused the exchange is over, and every later call raises the same error.
        """
        row = self._row(step, ours=False)
        if chunk in self._have[step]:
            if self._spool[step, chunk] != body:
                raise ChunkChanged(step, chunk)
            return
        header, payload = self._read(row, chunk, body)
        if missing := self._missing(row, chunk):
            raise RemoteProtocolError("out_of_order", f"{step} chunk {chunk} came before {missing} was complete")
        if chunk != len(self._have[step]):
            raise RemoteProtocolError("out_of_order", f"{step} chunk {chunk} came before chunk {len(self._have[step])}")
        with self._ending_on_error(step, chunk):
            self.role.receive(step, chunk, payload)
            self._spool[step, chunk] = body
            self._take(step, chunk, header.of)

    def get(self, step: str, chunk: int) -> bytes:
        """Return a chunk of ours, always the same bytes.

        Raise NotReady while an earlier step is incomplete, NoSuchChunk past the last. Neither makes or ends anything.
        """
        row = self._row(step, ours=True)
        if chunk not in self._have[step] and not self._complete(step):
            if missing := self._missing(row, chunk):
                raise NotReady(f"{step} chunk {chunk} needs all of {missing} first")
            with self._ending_on_error(step, chunk):
                self._make(row, chunk)
        if chunk not in self._have[step]:
            raise NoSuchChunk(f"{step} has {len(self._have[step])} chunks; there is no chunk {chunk}")
        if step not in self._drawn:
            return self._spool[step, chunk]
        if not self._drawn[step] and step not in self.role.drawn:  # the partner has said that it has all of it
            raise NoSuchChunk(f"the exchange is done; {step} is not there any more")
        with self._ending_on_error(step, chunk):
            payloads = self._drawn[step] = self._drawn[step] or self.role.produce(step)
            if len(payloads) != self._of[step]:
                raise LocalProtocolError(f"{step} is not what it was: the exchange cannot go on")
            return self._body(row, chunk, self._of[step], payloads[chunk])

    def _resume(self) -> None:
        for name, step in self._steps.items():
            if step.replies_to and step.sender == self._part:
                made = range(self._of.get(step.replies_to, 0))
                self._have[name] = {chunk for chunk in made if (name, chunk) in self._spool}
                continue
            if (count := self._spool.get((f"{name}-made", 0))) is not None:
                self._drawn[name] = ()  # produced again where it is asked for
                self._made_whole(name, int.from_bytes(count))
            while (name, chunk := len(self._have[name])) in self._spool and not self._complete(name):
                header, payload = self._read(step, chunk, self._spool[name, chunk])
                if step.sender != self._part:
                    with self._ending_on_error(name, chunk):
                        self.role.receive(name, chunk, payload)
                        self._take(name, chunk, header.of)
                else:
                    self._made_whole(name, header.of)

    def _row(self, name: str, *, ours: bool) -> Step:
        if self._failure:
            raise self._failure
        if name not in self._steps:
            raise RemoteProtocolError("step", "this kind of exchange has no such step")
        step = self._steps[name]
        if (step.sender == self._part) != ours:
            raise RemoteProtocolError("direction", f"{name} goes from the {step.sender} to the other side")
        return step

    def _missing(self, step: Step, chunk: int) -> str:
        """Return the name of the first step that must be complete before this chunk and is not, or nothing."""
        for name in self._steps:
            if name == step.name:
                break
            if not (chunk in self._have[name] if name == step.replies_to else self._complete(name)):
                return name
        return ""

    def _complete(self, name: str) -> bool:
        return len(self._have[name]) == self._of.get(self._steps[name].replies_to or name)

    def _read(self, step: Step, chunk: int, body: bytes) -> tuple[Header, Message]:
        document = unpack(body)
        check_version(document.pop("v", None))
        header = Header.from_document({name: document.pop(name, None) for name in _HEADER})
        if header.session != self._session:
            raise RemoteProtocolError("session", "this chunk belongs to another session")
        if header.step != step.name:
            raise RemoteProtocolError("step", f"expected a chunk of {step.name}, got one of another step")
        if header.chunk != chunk or chunk >= header.of:
            raise RemoteProtocolError("chunk", f"expected {step.name} chunk {chunk}, got {header.chunk} of {header.of}")
        known = self._of.get(step.replies_to or step.name, header.of)
        if header.of != known:
            raise RemoteProtocolError("chunk", f"{step.name} has {known} chunks; chunk {chunk} says {header.of}")
        return header, step.message.from_document(document)

    def _take(self, name: str, chunk: int, of: int) -> None:
        self._of[name] = of
        self._have[name].add(chunk)
        if self._complete(name):
            self.role.complete(name)

    def _made_whole(self, name: str, of: int) -> None:
        self._of[name] = of
        self._have[name] = set(range(of))

    def _make(self, step: Step, chunk: int) -> None:
        if step.replies_to:
            of = self._of[step.replies_to]
            _, asked = self._read(self._steps[step.replies_to], chunk, self._spool[step.replies_to, chunk])
            self._spool[step.name, chunk] = self._body(step, chunk, of, self.role.reply(step.name, chunk, asked))
            self._have[step.name].add(chunk)
            return
        payloads = self.role.produce(step.name)
        if step.name in self.role.drawn:
            self._spool[f"{step.name}-made", 0] = len(payloads).to_bytes(4)
            self._drawn[step.name] = payloads
            self._made_whole(step.name, len(payloads))
            return
        for number in reversed(range(len(payloads))):  # chunk 0 last: where it is in the spool, the whole step is
            self._spool[step.name, number] = self._body(step, number, len(payloads), payloads[number])
        self._made_whole(step.name, len(payloads))

    def _body(self, step: Step, chunk: int, of: int, payload: Message) -> bytes:
        assert isinstance(payload, step.message)
        header = Header(session=self._session, step=step.name, chunk=chunk, of=of)
        return pack({"v": VERSION, **header.document(), **payload.document()})

    @contextmanager
    def _ending_on_error(self, step: str, chunk: int) -> Iterator[None]:
        """End the exchange on any error inside; an error that only a partner can cause becomes RemoteProtocolError."""
        try:
            yield
        except _FROM_PARTNER as error:
            self._failure = RemoteProtocolError(error.code, f"{step} chunk {chunk}: {error}", hint=error.hint)
            raise self._failure from error
        except Exception as error:
            self._failure = error
            raise
