"""A node whose programs call it over loopback, as the users whose tokens they have."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from node.audiencemanager import listener
from node.node import Node
from node.transport.server import Server, address_of, bind, server

ADMINISTRATOR, PROGRAM, VIEWER = "ann", "crm", "vic"


@dataclass
class Programs:
    """The address for programs of a node, and a token for each of its users."""

    node: Node
    address: str
    server: Server
    tokens: dict[str, str]
    listener: listener.Listener

    def waiting(self) -> int:
        """Return how many requests wait for a transaction."""
        return len(self.listener._queue._waiting)

    def client(self, user: str | None = PROGRAM, path: str = "", **options: object) -> httpx.Client:
        headers = {} if user is None else {"authorization": f"Bearer {self.tokens[user]}"}
        return httpx.Client(base_url=f"http://{self.address}{path}", headers=headers, timeout=20, **options)  # type: ignore[arg-type]


@contextmanager
def programs_of(node: Node) -> Iterator[Programs]:
    """Have a node answer programs; it has an administrator, a user who may receive, and one who may look."""
    token = node.users.create(ADMINISTRATOR, ["administrator"])
    node.sign_in(token.text)
    tokens = {ADMINISTRATOR: token.text}
    tokens |= {
        name: node.users.create(name, [role], scope=node.project("default").scope).text
        for name, role in ((PROGRAM, "audience-receiver"), (VIEWER, "viewer"))
    }
    bound = bind("127.0.0.1:0")
    application = listener.application(node.home)
    answers = server(application, None, proxy=True)
    thread = threading.Thread(target=lambda: answers.run(sockets=[bound]), daemon=True)
    thread.start()
    try:
        yield Programs(node, address_of(bound), answers, tokens, application)
    finally:
        answers.should_exit = True
        application.close()
        thread.join(5)
