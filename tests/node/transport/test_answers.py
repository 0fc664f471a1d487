"""Answers that a caller has got are not kept for it."""

import threading
import tracemalloc

from sides import HERE

from node.adhoc.session import Party
from node.transport import paths, tls
from node.transport.client import Peer, PeerClient
from node.transport.endpoint import Call, Route, application
from node.transport.server import address_of, bind, server
from protocol import wire

ANSWERS, SIZE = 40, 500_000
BOUND = 20.0  # seconds that no test needs


def test_an_answer_that_came_takes_no_memory_any_more() -> None:
    party, caller, bound = Party(), Party(), bind("127.0.0.1:0")

    def work(call: Call) -> bytes:
        return wire.pack({"number": call.body, "content": bytes(SIZE)})

    routes = [Route("POST", paths.LETTERS, work)]
    running = server(application(party, routes, lambda *_: True), tls.server_context(party.secret, party.now()))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
    thread.start()
    tracemalloc.start()
    try:
        with PeerClient(caller, Peer(address_of(bound), party.key, allowed=HERE)) as client:
            for number in range(ANSWERS):
                assert len(client.post(paths.LETTERS, wire.pack({"number": number}))) > SIZE
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        running.should_exit = True
        thread.join(BOUND)
    assert kept < ANSWERS * SIZE / 4
