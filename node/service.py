"""A node's process: its endpoint, its jobs, and the post, until it is told to stop."""

import gc
import logging
import signal
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy import select
from starlette.applications import Starlette

from psi.errors import VesicaError

from . import log
from .access.guard import ITSELF
from .errors import Refused, Unwelcome
from .exchanges import http
from .exchanges.exchanges import NodeAnswers, register
from .exchanges.http import CONNECT_PATH, Answering
from .feeds.sending import schedule
from .operations.jobs import service_lock
from .partners import letters
from .storage.files import explained
from .storage.tables import connections
from .transport import tls
from .transport.endpoint import Call, Route, address_of, application, bind, server

if TYPE_CHECKING:
    from .node import Node

JOB_WORKERS = 2  # one waits for a partner while the other computes
IDLE_SECONDS = 0.3
KNOWN_SECONDS = 5.0  # how long a caller's key counts as known without a look into the store
UPKEEP_SECONDS = 600.0
STOP_SECONDS = 5.0


def serve(node: "Node", listen: str | None = None, *, ready: Callable[[str], None]) -> None:
    """Answer partners, run jobs, and carry letters, until SIGTERM or SIGINT.

    `ready` is told the address once it is bound. Raises Refused if a service has this home, and Failure if the address
    cannot be had.
    """
    with service_lock(node.home) as holder:
        if holder is not None:
            raise Refused(
                f"a service is running on this home already (pid {holder})",
                hint=f"stop it first: kill {holder}",
            )
        log.show(logging.INFO)
        node.guard.signed_in = ITSELF
        register()
        gc.freeze()  # what was imported stays: the collector need not look at it again
        node.sweep()
        bound = bind(listen or node.config.listen)
        context = tls.server_context(node.secrets.signing_key, node.now())
        endpoint = server(answering(node), context)
        stop = threading.Event()

        work: list[Callable[[], None]] = [
            letters.Post(node, stop).run,
            lambda: schedule.Schedule(node).run(stop),
            lambda: _keep_up(node, context, stop),
        ]
        work += [lambda: _run_jobs(node, stop)] * JOB_WORKERS
        threads = [threading.Thread(target=each, daemon=True) for each in work]
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # the server raises what it caught again when it has ended
        for thread in threads:
            thread.start()
        log.info("listening", address=address_of(bound))
        ready(address_of(bound))
        try:
            endpoint.run(sockets=[bound])
        finally:
            stop.set()
            deadline = time.monotonic() + STOP_SECONDS
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))


def _keep_up(node: "Node", context: ssl.SSLContext, stop: threading.Event) -> None:
    renewed = time.monotonic()
    while not stop.wait(UPKEEP_SECONDS):
        if time.monotonic() - renewed > tls.RENEW_SECONDS:
            try:
                tls.renew(context, node.secrets.signing_key, node.now())
                renewed = time.monotonic()
            except OSError as error:  # two thirds of its life are left to try again
                tell_ending(node, explained(error, node.home))
        node.sweep()


def tell_ending(node: "Node", error: VesicaError) -> None:
    """Raise an alert in every project: the service's certificate ends and cannot be renewed."""
    log.error("the certificate cannot be renewed", code=error.code)
    for project in node.projects():
        with suppress(VesicaError), node.store.begin() as tx:
            project.alerts.add(tx, "certificate_ending", f"the certificate cannot be renewed: {error}")


def answering(node: "Node") -> Starlette:
    """Return the application that answers a node's partners."""

    def connect(call: Call) -> bytes:
        from .partners.partners import answer

        return answer(node, call.caller, call.body)

    routes = [Route("POST", CONNECT_PATH, connect), *letters.routes(node), *Answering(NodeAnswers(node)).routes()]
    return application(node, routes, Doorkeeper(node))


class Doorkeeper:
    """Lets in whoever asks to connect, and the keys of connections; what they may do there is the handlers' matter.

    Two more doors are open because their handlers raise an alert where a stranger names one of our connections.
    """

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._known: dict[bytes, float] = {}

    def __call__(self, caller: bytes, path: str) -> None:
        if path in (CONNECT_PATH, letters.PATH, http.PATH) or self._known.get(caller, 0.0) > time.monotonic():
            return
        query = select(connections.c.id).where(
            connections.c.peer_key == caller, connections.c.status.in_(letters.CORRESPONDING)
        )
        with self._node.store.read() as reading:
            if reading.execute(query).first() is None:
                raise Unwelcome("there is no connection with the caller")
        self._known[caller] = time.monotonic() + KNOWN_SECONDS


def _run_jobs(node: "Node", stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            job = node.jobs.claim_next()
        except VesicaError as error:
            log.warning("jobs wait", code=error.code)
            job = None
        if job is None:
            stop.wait(IDLE_SECONDS)
        else:
            node.jobs.execute(job)
