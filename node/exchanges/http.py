"""Both ends of an exchange over HTTP: what drives a machine against a partner, and what answers one. No store here."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from protocol import wire
from protocol.errors import NoSuchChunk, NotReady, RemoteProtocolError
from protocol.exchange import Done, Fetch, Machine, Opened, Opening, Role, Send
from protocol.messages import MAX_CHUNKS
from psi.errors import VesicaError

from ..errors import RefusedToPartner, UnknownCaller
from ..operations.jobs import Progress, no_progress
from ..storage.ids import stored_id, wire_id
from ..transport import paths

if TYPE_CHECKING:
    from ..transport.client import PeerClient
    from ..transport.endpoint import Call, Route

OPEN_PER_CALLER = 64
MACHINES_PER_CALLER = 3  # in memory: as many as requests of one caller are worked on at once
IDLE_SECONDS = 900  # an exchange that nobody asks about leaves the memory; a node has it on disk


def open_at(client: "PeerClient", opening: Opening) -> Opened:
    """Ask the partner to take part; raises RefusedByPartner with its reason."""
    return Opened.decode(client.post(paths.EXCHANGES, opening.encode()))


def drive(
    client: "PeerClient",
    machine: Machine,
    exchange: bytes,
    progress: Progress = no_progress,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Send and fetch, in the order that the machine says, until it is done. `check` raises where it may not go on.

    The chunk after the one that is being worked on is fetched meanwhile, and while the partner works on a chunk of ours
    we make the next: so both sides compute at the same time.
    """
    base = f"{paths.EXCHANGES}/{stored_id(exchange)}"
    totals: dict[str, int] = {}
    ahead: dict[Fetch, Future[bytes]] = {}
    made: dict[Send, bytes] = {}
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        while not isinstance(action := machine.next(), Done):
            check()
            step, chunk = action
            progress(step, chunk, totals.get(step))
            if isinstance(action, Send):
                body = made.pop(action, None) or machine.get(step, chunk)
                sending = pool.submit(client.put, f"{base}/{step}/{chunk}", body, status=base)
                totals.setdefault(step, _chunks(body))
                if chunk + 1 < totals[step]:
                    made[Send(step, chunk + 1)] = machine.get(step, chunk + 1)
                sending.result()
                machine.sent(step, chunk)
            else:
                waiting = ahead.pop(action, None)
                body = waiting.result() if waiting else client.get(f"{base}/{step}/{chunk}")
                if chunk == 0:
                    totals[step] = _chunks(body)
                if chunk + 1 < totals.get(step, 0):
                    ahead[Fetch(step, chunk + 1)] = pool.submit(client.get, f"{base}/{step}/{chunk + 1}")
                machine.put(step, chunk, body)
            if step not in totals:
                totals[step] = _chunks(body)
            progress(step, chunk + 1, totals[step])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # what is under way ends when the caller closes the client


def _chunks(body: bytes) -> int:
    return wire.number(wire.unpack(body).get("of"), "of", most=MAX_CHUNKS)


class Answers(Protocol):
    """What stands behind the exchanges that others open: a node's store, or one ad hoc session."""

    def begin(self, caller: bytes, opening: Opening) -> tuple[Opened, Machine]:
        """Take part in a new exchange, or in one from before a restart; raises UnknownCaller or RefusedToPartner."""
        ...

    def resume(self, caller: bytes, exchange: bytes) -> tuple[Opening, Machine]:
        """Return an exchange from before a restart, or from before we failed; raises NotFound."""
        ...

    def standing(self, caller: bytes, opening: Opening, *, begun: bool) -> bytes:
        """Return under what the caller is answered now: a machine that was made under anything else is made anew.

        Raises UnknownCaller or RefusedToPartner where the caller is answered no more; if the exchange has begun, also where
        that may not go on, which ends it.
        """
        ...

    def those_over(self, exchange_ids: Iterable[bytes]) -> set[bytes]:
        """Return those of these exchanges that are over."""
        ...

    def finished(self, opening: Opening, role: Role) -> None:
        """Note that every step is complete here; called again after a restart."""
        ...

    def failed(self, opening: Opening, error: VesicaError) -> None:
        """Note that the partner broke the protocol, or was refused: this exchange is over."""
        ...


_ENDING = (RemoteProtocolError, RefusedToPartner)


@dataclass(slots=True)
class _Live:
    caller: bytes
    opening: Opening | None = None
    opened: bytes = b""
    machine: Machine | None = None
    standing: bytes = b""  # under which the machine was made; read before that was
    error: VesicaError | None = None
    finished: bool = False
    used: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Answering:
    """Exchanges that partners opened with us: one machine each, and one thread at a time in it."""

    def __init__(self, answers: Answers, *, machines: int | None = None) -> None:
        """`machines`: how many of a caller stay in memory, where `answers` can resume the others from disk."""
        self._answers, self._machines = answers, machines
        self._live: dict[bytes, _Live] = {}
        self._lock = threading.Lock()

    def in_memory(self) -> frozenset[bytes]:
        """Return the ids of the exchanges whose machines are in memory."""
        with self._lock:
            return frozenset(self._live)

    def forget_all(self) -> None:
        """Forget every machine, as a restart does: what partners go on with is read from its rows."""
        with self._lock:
            self._live.clear()

    def routes(self) -> "list[Route]":
        from ..transport.endpoint import Route

        chunk = paths.EXCHANGES + "/{exchange}/{step}/{chunk}"
        return [
            Route("POST", paths.EXCHANGES, self._open),
            Route("PUT", chunk, self._put),
            Route("GET", chunk, self._get),
            Route("GET", paths.EXCHANGES + "/{exchange}", self._status),
        ]

    def _open(self, call: "Call") -> bytes:
        opening = Opening.decode(call.body)
        live = self._entry(opening.exchange, call.caller)
        with live.lock:
            if not live.opened:
                try:
                    live.standing = self._answers.standing(call.caller, opening, begun=False)
                    opened, live.machine = self._answers.begin(call.caller, opening)
                except Exception:
                    self._drop(opening.exchange, live)
                    raise
                live.opening, live.opened = opening, opened.encode()
                self._rest_others(live)
            elif live.opening != opening:
                raise RemoteProtocolError("session", "this exchange was opened before, with other contents")
            return live.opened

    def _put(self, call: "Call") -> bytes:
        return self._step(call, _put(call.body))

    def _get(self, call: "Call") -> bytes:
        return self._step(call, Machine.get)

    def _step(self, call: "Call", act: Callable[[Machine, str, int], bytes]) -> bytes:
        exchange, step, number = _exchange(call), call.parameters["step"], call.parameters["chunk"]
        if not number.isascii() or not number.isdigit() or len(number) > 9:
            raise RemoteProtocolError("chunk", "a chunk's number is not a number")
        live = self._found(exchange, call.caller)
        with live.lock:
            if isinstance(live.error, _ENDING):
                raise live.error
            live.error = None
            if self._answers.those_over([exchange]):
                self._drop(exchange, live)
                raise over()
            self._look_again(exchange, live)
            if live.machine is None or live.opening is None:
                live.opening, live.machine = self._answers.resume(call.caller, exchange)
                self._rest_others(live)
            try:
                body = act(live.machine, step, int(number))
                if live.machine.done and not live.finished:
                    self._answers.finished(live.opening, live.machine.role)
                    live.machine.retire()
                    live.finished = True
            except (NotReady, NoSuchChunk):  # the machine is as it was
                raise
            except VesicaError as error:
                live.error = error
                if isinstance(error, _ENDING):
                    self._answers.failed(live.opening, error)
                live.machine = None  # what failed here, a full disk perhaps, is tried again from the spool
                raise
            return body

    def _status(self, call: "Call") -> bytes:
        """Wait for the work on an exchange, and return how it ended: the answer to a PUT that took long."""
        exchange = _exchange(call)
        live = self._found(exchange, call.caller)
        with live.lock:
            if live.error is not None:
                raise live.error
            self._look_again(exchange, live)
            return wire.pack({"state": "done" if live.finished else "open"})

    def _look_again(self, exchange: bytes, live: _Live) -> None:
        """Look whether an exchange in memory may go on, and under what: the connection may have changed since."""
        if live.opening is None or live.finished:  # what is done is only repeated
            return
        try:
            standing = self._answers.standing(live.caller, live.opening, begun=True)
        except Exception:
            self._drop(exchange, live)
            raise
        if standing != live.standing:
            live.standing, live.machine = standing, None

    def _entry(self, exchange: bytes, caller: bytes) -> _Live:
        now = time.monotonic()
        if exchange not in self._live:
            self._forget(now)
        with self._lock:
            open_now = sum(live.caller == caller and not live.finished for live in self._live.values())
            if exchange not in self._live and open_now >= OPEN_PER_CALLER:
                raise RefusedToPartner("too_many", "too many exchanges are open at once", status=409)
            live = self._live.setdefault(exchange, _Live(caller))
            live.used = now
        if live.caller != caller:
            raise UnknownCaller("this exchange is another partner's")
        return live

    def _found(self, exchange: bytes, caller: bytes) -> _Live:
        with self._lock:
            known = exchange in self._live
        live = self._entry(exchange, caller)
        if not known:
            with live.lock:
                try:
                    live.opening, live.machine = self._answers.resume(caller, exchange)
                except Exception:
                    self._drop(exchange, live)
                    raise
                self._rest_others(live)
        return live

    def _forget(self, now: float) -> None:
        """Forget what nobody asked about for long, and what was given up: a machine may have a universe in memory."""
        with self._lock:
            resting = {other: live for other, live in self._live.items() if not live.lock.locked()}
        over = self._answers.those_over(resting)
        with self._lock:
            for other, live in resting.items():
                begun = live.machine is not None or live.opened
                left = now - live.used > IDLE_SECONDS or (begun and other in over and live.error is None)
                if left and not live.lock.locked() and self._live.get(other) is live:
                    del self._live[other]

    def _rest_others(self, newest: _Live) -> None:
        """Take the machines out of memory that a caller has not used for longest, but for a few: the disk has them all."""
        if self._machines is None:
            return
        with self._lock:
            others = [each for each in self._live.values() if each.caller == newest.caller and each is not newest]
        others = [each for each in others if each.machine is not None and not each.finished]
        for each in sorted(others, key=lambda each: each.used, reverse=True)[self._machines - 1 :]:
            if each.lock.acquire(blocking=False):  # what is worked on now stays
                each.machine = None
                each.lock.release()

    def _drop(self, exchange: bytes, live: _Live) -> None:
        with self._lock:
            if self._live.get(exchange) is live:
                del self._live[exchange]


def over() -> RefusedToPartner:
    """Return the refusal of an exchange that is over."""
    return RefusedToPartner("over", "this exchange is over", status=409)


def _exchange(call: "Call") -> bytes:
    text = call.parameters["exchange"]
    try:
        exchange = wire_id(text)
    except ValueError:
        exchange = b""
    if len(exchange) != 16 or stored_id(exchange) != text:
        raise RemoteProtocolError("session", "an exchange's id has 32 lower-case hex digits")
    return exchange


def _put(body: bytes) -> Callable[[Machine, str, int], bytes]:
    def put(machine: Machine, step: str, chunk: int) -> bytes:
        machine.put(step, chunk, body)
        return b""

    return put
