"""Requests that wait for one transaction together: each is answered when what it sent is on the disk."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from psi.errors import VesicaError

from .. import log
from ..access.audit import Actor
from ..access.guard import Caller
from ..access.scope import Home, Scope
from ..errors import Failure
from ..transport.operator_endpoint import Unacceptable
from .declared_ids import Known
from .numbers import revision
from .receiving import Call, receive

MOST = 2_000  # requests that wait
GROUP = 500  # requests in a transaction
GATHER_SECONDS = 0.002  # for as many requests to come as came the last time: a transaction costs as much as ten of them
RETRY_SECONDS = 1
AUDIT_SECONDS = 60.0  # between two rows of the audit log about one user
RECEIVED = "audience.received"


class Prepared(NamedTuple):
    """What a request asks for: calls, the data source that its signals are of, and what to answer.

    `finish` gets, for each call, its visitor (NOBODY where it was left out) and the traits that it realised.
    """

    calls: Sequence[Call]
    source: int
    finish: Callable[[Sequence[int], Sequence[Sequence[int]]], Any]


@dataclass(slots=True)
class _Waiting:
    scope: Scope
    caller: Caller
    prepare: Callable[[Known, int], Prepared]
    future: "asyncio.Future[Any]"
    prepared: Prepared | None = None
    result: Any = None
    error: Exception | None = None


class WriteQueue:
    """One thread that applies what many requests have sent, as much as there is at a time in one transaction."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._waiting: deque[_Waiting] = deque()
        self._some = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._wanted = 1  # requests, for which the thread is woken
        self._known: dict[str, tuple[int, Known]] = {}  # of each project, with its revision
        self._tallies: dict[tuple[str, str], tuple[Scope, Caller, int, int]] = {}
        self._audited = time.monotonic()

    async def submit(self, scope: Scope, caller: Caller, prepare: Callable[[Known, int], Prepared]) -> Any:
        """Prepare a request in the thread, apply its calls, and return what it finishes with.

        `prepare` gets the project's data sources and the time. Raises Unacceptable where too many wait already.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(scope, caller, prepare, loop.create_future())
        with self._some:
            if len(self._waiting) >= MOST or self._closed:
                raise Unacceptable(503, "busy", "too much is sent at once", hint="send it again", wait=RETRY_SECONDS)
            self._waiting.append(waiting)
            if self._thread is None:
                self._thread = threading.Thread(target=self._home.guard.as_itself(self._run), daemon=True)
                self._thread.start()
            if len(self._waiting) == self._wanted:
                self._some.notify()
        return await waiting.future

    def close(self) -> None:
        """Take nothing more, and write what the audit log does not have yet; what waits is answered first."""
        with self._some:
            self._closed = True
            self._some.notify()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        while True:
            with self._some:
                before, self._wanted = self._wanted, 1
                while not self._waiting and not self._closed:
                    if not self._some.wait(AUDIT_SECONDS if self._tallies else None):
                        break
                if 0 < len(self._waiting) < before and not self._closed:
                    self._wanted = before
                    self._some.wait(GATHER_SECONDS)
                self._wanted = max(1, min(GROUP, len(self._waiting)))
                some = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
                closed = self._closed and not self._waiting
            if some:
                self._apply(some)
                some[0].future.get_loop().call_soon_threadsafe(_settle, some)
            if closed or time.monotonic() - self._audited > AUDIT_SECONDS:
                self._audit()
            if closed:
                return

    def _apply(self, some: list[_Waiting]) -> None:
        groups: dict[str, list[_Waiting]] = {}
        for each in some:
            groups.setdefault(each.scope.id, []).append(each)
        for group in groups.values():
            try:
                self._apply_of_project(group)
            except Exception as error:
                _report(error)
                for each in group:
                    each.error = each.error or error

    def _apply_of_project(self, group: list[_Waiting]) -> None:
        scope, now = group[0].scope, self._home.now()
        with scope.home.read() as tx:
            found = revision(scope, tx)
            if scope.id not in self._known or self._known[scope.id][0] != found:
                self._known[scope.id] = found, Known.read(scope, tx)
        known = self._known[scope.id][1]
        by_source: dict[int, list[_Waiting]] = {}
        for each in group:
            try:
                each.prepared = each.prepare(known, now)
            except Exception as error:  # what is wrong with one request costs itself
                _report(error)
                each.error = error
                continue
            by_source.setdefault(each.prepared.source, []).append(each)
        for source, those in by_source.items():
            try:
                self._receive(scope, those, source)
            except Exception as error:
                if isinstance(error, Failure) or len(those) == 1:
                    raise
                for each in those:
                    self._receive_alone(scope, each, source)

    def _receive_alone(self, scope: Scope, waiting: _Waiting, source: int) -> None:
        try:
            self._receive(scope, [waiting], source)
        except Exception as error:
            _report(error)
            waiting.error = error

    def _receive(self, scope: Scope, those: list[_Waiting], source: int) -> None:
        calls = [call for each in those if each.prepared for call in each.prepared.calls]
        visitors: list[int] = []
        traits: Sequence[Sequence[int]] = []
        if calls:
            received = receive(scope, calls, source)
            visitors, traits = received.visitors.tolist(), received.traits
        start = 0
        for each in those:
            assert each.prepared is not None
            end = start + len(each.prepared.calls)
            each.result = each.prepared.finish(visitors[start:end], traits[start:end])
            start = end
            self._tally(each, len(each.prepared.calls))

    def _tally(self, waiting: _Waiting, calls: int) -> None:
        key = waiting.scope.id, waiting.caller.name or ""
        _, _, requests, before = self._tallies.get(key, (waiting.scope, waiting.caller, 0, 0))
        self._tallies[key] = waiting.scope, waiting.caller, requests + 1, before + calls

    def _audit(self) -> None:
        """Write a row for each user and project: how much has come since the last one."""
        self._audited = time.monotonic()
        tallies, self._tallies = self._tallies, {}
        for scope, caller, requests, calls in tallies.values():
            by = Actor(caller.kind, caller.name or "")
            detail = {"requests": requests, "operations": calls}
            with suppress(Failure), self._home.guard.itself(by), scope.act(RECEIVED, scope.name, detail=detail):
                pass


def _settle(some: list[_Waiting]) -> None:
    for each in some:
        if not each.future.done():
            if each.error is not None:
                each.future.set_exception(each.error)
            else:
                each.future.set_result(each.result)


def _report(error: Exception) -> None:
    if not isinstance(error, VesicaError):
        log.error("a program's request failed", kind=type(error).__name__)
