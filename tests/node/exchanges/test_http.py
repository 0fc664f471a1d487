import threading
from typing import Any, cast

from node.exchanges import http
from node.transport.client import PeerClient
from protocol import wire
from protocol.exchange import Done, Machine, Send


class Chunks:
    """A machine with one step of `count` chunks to send, which notes what it was asked to make."""

    def __init__(self, count: int) -> None:
        self.count, self.done = count, 0
        self.made = [threading.Event() for _ in range(count)]

    def next(self) -> Send | Done:
        return Send("step", self.done) if self.done < self.count else Done()

    def get(self, step: str, chunk: int) -> bytes:
        assert not self.made[chunk].is_set()
        self.made[chunk].set()
        return wire.pack({"chunk": chunk, "of": self.count})

    def sent(self, step: str, chunk: int) -> None:
        assert chunk == self.done
        self.done = chunk + 1


class Partner:
    """Takes a chunk only after the next one was made."""

    def __init__(self, machine: Chunks) -> None:
        self.machine = machine
        self.taken: list[int] = []

    def put(self, path: str, body: bytes, *, status: Any) -> None:
        chunk = int(str(wire.unpack(body)["chunk"]))
        if chunk + 1 < self.machine.count:
            assert self.machine.made[chunk + 1].wait(30), "nothing is made while the partner works"
        self.taken.append(chunk)


def test_the_next_chunk_is_made_while_the_partner_works_on_this_one() -> None:
    machine = Chunks(4)
    partner = Partner(machine)
    http.drive(cast(PeerClient, partner), cast(Machine, machine), bytes(16))
    assert partner.taken == [0, 1, 2, 3]
