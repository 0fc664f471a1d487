"""A node's process: it answers partners, runs jobs and carries letters, until it is stopped."""

import gc
import logging
import signal
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from sqlalchemy import select
from starlette.applications import Starlette

from psi.errors import VesicaError

from . import log
from .access.scope import Home
from .audiencemanager import following as imports
from .audiencemanager import listener
from .compute import heap
from .destinations import due as destinations
from .destinations import mails, watching
from .errors import Failure, NotAllowed, UnknownCaller
from .exchanges.answering import NodeAnswers
from .exchanges.http import MACHINES_PER_CALLER, Answering
from .feeds.local import evaluations as local
from .feeds.receiving import new_people
from .feeds.receiving.memberships import Memberships
from .feeds.sending import due
from .operations.alerts import AlertKind, Alerts
from .operations.jobs import Jobs
from .operations.workers import run_jobs
from .partners import connecting, delivery, key_changes
from .partners.connections import BEGUN
from .partners.letters import CORRESPONDING
from .segments.upkeep import Evaluated, evaluate_changed
from .storage.files import failure_of
from .storage.locks import service_lock
from .storage.tables import connections
from .transport import paths, tls
from .transport.endpoint import application
from .transport.server import address_of, bind, server
from .wiring import sweep, wire

JOB_WORKERS = 2  # one waits for a partner while the other computes
KNOWN_SECONDS = 5.0  # how long a caller's key counts as known without a look into the store
UPKEEP_SECONDS = 600.0
STOP_SECONDS = 0.5  # for threads to end by themselves; what they have not done is given back
TICK_SECONDS = 0.25  # between two looks of the schedule while rows change


def serve(home: Home, listen: str | None = None, *, ready: Callable[[str], None]) -> None:
    """Answer partners, run jobs, and carry letters, until SIGTERM or SIGINT.

    Returns within two seconds of it. Threads may still be at work then: their jobs are queued again, and whatever they
    have written is found by the next start, as after a kill. So the caller ends the process at once.
    `ready` gets the address once it is bound. Raises NotAllowed if a service has this home, and Failure if the address
    cannot be had.
    """
    wire()
    with service_lock(home.path) as holder:
        if holder is not None:
            raise NotAllowed(
                f"a service is running on this home already (pid {holder})",
                hint=f"stop it first: kill {holder}",
            )
        key = home.keys.signing_key  # raises WrongPassphrase before anything is done
        log.show(logging.INFO)
        home.guard.expect_callers()
        heap.keep_little()
        gc.freeze()  # what was imported stays: the collector need not look at it again
        home.guard.as_itself(sweep)(home)
        bound = bind(listen or home.config.listen)
        context = tls.server_context(key, home.now())
        programs = listener.opened(home)
        endpoint = server(answering(home), context, proxy=home.config.proxy, part=1 if programs is None else 2)
        stop = threading.Event()

        work: list[Callable[[], None]] = [
            delivery.LetterCarrier(home, stop).run,
            lambda: Schedule(home).run(stop),
            lambda: _keep_up(home, context, stop),
        ]
        work += [lambda: run_jobs(home, stop)] * JOB_WORKERS
        threads = [threading.Thread(target=home.guard.as_itself(each), daemon=True) for each in work]
        if programs is not None:
            threads.append(threading.Thread(target=programs.run, daemon=True))
            log.info("listening for programs", address=programs.address)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, endpoint.handle_exit)  # a signal that comes before the server runs ends it too
        with home.bell.serving():
            for thread in threads:
                thread.start()
            log.info("listening", address=address_of(bound))
            ready(address_of(bound))
            try:
                endpoint.run(sockets=[bound])
            finally:
                stop.set()
                if programs is not None:
                    programs.stop()
                home.bell.ring()
                deadline = time.monotonic() + STOP_SECONDS
                for thread in threads:
                    thread.join(max(0.0, deadline - time.monotonic()))
                with suppress(VesicaError):  # then the rows say that this process runs them, until the next one looks
                    home.guard.as_itself(Jobs(home).give_back)()
                log.info("stopped")


class Schedule:
    """What a node does by itself as time passes: it evaluates rules, runs its feeds, sends to destinations, and
    asks partners to run theirs."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._evaluated: dict[str, Evaluated] = {}
        self._asked: dict[str, new_people.Asked] = {}

    def run(self, stop: threading.Event) -> None:
        """Look when rows have changed and when something is due, until `stop` and the bell's ring."""
        with self._home.bell.event() as rung:
            while True:
                rung.clear()
                if stop.is_set():
                    return
                seconds = TICK_SECONDS
                try:
                    seconds = self._seconds(self.tick())
                except VesicaError as error:
                    log.warning("the schedule waits", code=error.code)
                except Exception as error:  # its text may name anything; feeds must go on
                    log.error("the schedule failed", kind=type(error).__name__)
                stop.wait(TICK_SECONDS)
                rung.wait(seconds - TICK_SECONDS)

    def tick(self) -> int | None:
        """Do what is due now; return when the next thing is, None where all waits for a change."""
        times: list[int | None] = []
        for scope in self._home.scopes():
            if scope.on_hold:
                continue
            try:
                times.append(evaluate_changed(scope, self._evaluated, lambda each, tx: Memberships(each).stamp(tx)))
            except VesicaError as error:
                if isinstance(error, Failure):
                    raise
                log.warning("rules cannot be evaluated", project=scope.name, code=error.code)
            times += [imports.follow(scope, settling=True), local.follow(scope, settling=True)]
            times += [due.submit_due(scope), destinations.submit_due(scope), new_people.ask_for_new(scope, self._asked)]
            times += [watching.alert_delays(scope), mails.submit_due(scope)]
        return min((each for each in times if each is not None), default=None)

    def _seconds(self, due: int | None) -> float:
        """Return how long to wait for something that is due, and never so long that a clock that jumps does harm."""
        longest = self._home.bell.seconds
        return longest if due is None else min(longest, due - self._home.now() - time.time() % 1)


def _keep_up(home: Home, context: ssl.SSLContext, stop: threading.Event) -> None:
    renewed = time.monotonic()
    while not stop.wait(UPKEEP_SECONDS):
        if time.monotonic() - renewed > tls.RENEW_SECONDS:
            try:
                tls.renew(context, home.keys.signing_key, home.now())
                renewed = time.monotonic()
            except OSError as error:  # two thirds of its life are left to try again
                alert_ending(home, failure_of(error, home.path))
        sweep(home)


def alert_ending(home: Home, error: VesicaError) -> None:
    """Raise an alert in every project: the service's certificate ends and cannot be renewed."""
    log.error("the certificate cannot be renewed", code=error.code)
    for scope in home.scopes():
        with suppress(VesicaError), home.begin() as tx:
            Alerts(scope).add(tx, AlertKind.CERTIFICATE_ENDING, f"the certificate cannot be renewed: {error}")


def answering(home: Home) -> Starlette:
    """Return the application that answers a node's partners: what they ask for is the node's own work."""
    answers = Answering(NodeAnswers(home), machines=MACHINES_PER_CALLER)
    routes = [*connecting.routes(home), *delivery.routes(home), *key_changes.routes(home), *answers.routes()]
    own = [replace(route, handler=home.guard.as_itself(route.handler)) for route in routes]
    return application(home, own, Doorkeeper(home))


class Doorkeeper:
    """Lets in all who ask to connect or show how their key changed, and the keys of connections.

    What they may do there is for the handlers to decide.

    Two more doors are open because their handlers raise an alert where a stranger names one of our connections.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._known: dict[bytes, float] = {}

    def __call__(self, caller: bytes, path: str) -> bool:
        """Return whether the caller is a partner: a key that we asked or accepted, until that ends.

        Raises UnknownCaller, and for a key that a partner has replaced what `check_caller` raises.
        """
        if self._known.get(caller, 0.0) > time.monotonic():
            return True
        query = select(connections.c.our_signature, connections.c.status).where(
            connections.c.peer_key == caller, connections.c.status.in_(CORRESPONDING)
        )
        with self._home.database.read() as reading:
            rows = reading.execute(query).all()
        if not rows and path not in (paths.CONNECT, paths.KEYS, paths.LETTERS, paths.EXCHANGES):
            with self._home.guard.itself():
                key_changes.check_not_retired(self._home, caller)
            raise UnknownCaller("there is no connection with the caller")
        known = any(row.our_signature is not None and row.status in BEGUN for row in rows)
        if known:
            self._known[caller] = time.monotonic() + KNOWN_SECONDS
        return known
