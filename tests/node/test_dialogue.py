import threading

from node.exchanges import http
from protocol import wire
from protocol.exchange import Done, Send


class Chunks:
    """A machine with one step of `count` chunks to send, which notes what it was asked to make."""

    def __init__(self, count):
        self.count, self.done = count, 0
        self.made = [threading.Event() for _ in range(count)]

    def next(self):
        return Send("step", self.done) if self.done < self.count else Done()

    def get(self, step, chunk):
        assert not self.made[chunk].is_set()
        self.made[chunk].set()
        return wire.pack({"chunk": chunk, "of": self.count})

    def sent(self, step, chunk):
        assert chunk == self.done
        self.done = chunk + 1


class Partner:
    """Takes a chunk only after the next one was made."""

    def __init__(self, machine):
        self.machine, self.taken = machine, []

    def put(self, path, body, *, status):
        chunk = wire.unpack(body)["chunk"]
        if chunk + 1 < self.machine.count:
            assert self.machine.made[chunk + 1].wait(30), "nothing is made while the partner works"
        self.taken.append(chunk)


def test_the_next_chunk_is_made_while_the_partner_works_on_this_one():
    machine = Chunks(4)
    partner = Partner(machine)
    http.drive(partner, machine, bytes(16))
    assert partner.taken == [0, 1, 2, 3]
