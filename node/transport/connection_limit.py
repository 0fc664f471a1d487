"""Who may have a connection open: counted before TLS, so that sockets on which nobody speaks cost the node nothing."""

import ipaddress
import resource
from collections import Counter
from collections.abc import Callable
from typing import Any

from ..errors import Failure

CONNECTIONS = 200
BY_ADDRESS = 50  # of one address: a partner's long polls, one for each connected project, and its exchanges
BY_CALLER = 50  # of one partner's key
RESERVED = 128  # descriptors for the store, files, jobs and calls to partners
FEWEST = 16  # connections, below which a service would be no use
WANTED = 1_024  # descriptors, where the system lets us have more than it gives


def connections_at_most() -> int:
    """Return how many connections this process has descriptors for, beside those for its own work.

    Raises the soft limit if the hard one allows it, and Failure where there are too few.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < WANTED and (hard == resource.RLIM_INFINITY or hard > soft):
        soft = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < RESERVED + FEWEST:
        raise Failure(
            f"this process may have {soft} files open, and needs {RESERVED + FEWEST}",
            hint=f"raise the limit before the service starts, for example by: ulimit -n {WANTED}",
        )
    return min(CONNECTIONS, soft - RESERVED)


class Slot:
    """One open connection. `end` closes it at once."""

    def __init__(self, limit: "ConnectionLimit", host: str, end: Callable[[], None]) -> None:
        self._limit, self.host, self.end = limit, host, end
        self.caller: bytes | None = None

    def authenticate(self, caller: bytes) -> None:
        """Note that a partner has signed a request on this connection: no stranger's takes its place from now on."""
        self._limit.authenticate(self, caller)

    def free(self) -> None:
        """Note that the connection is closed."""
        self._limit.free(self)


class ConnectionLimit:
    """Counts connections, in all and by address. Where there are too many, the oldest on which no partner has spoken ends.

    So a caller that opens connections and says nothing ends its own, and partners stay.
    """

    def __init__(self, most: int, by_address: int) -> None:
        self._most, self._by_address = most, by_address
        self._slots: dict[Slot, None] = {}  # the oldest first
        self._by_host: Counter[str] = Counter()
        self._by_caller: Counter[bytes] = Counter()

    def __len__(self) -> int:
        """Return how many connections are open."""
        return len(self._slots)

    def admit(self, host: str, end: Callable[[], None]) -> Slot | None:
        """Return the slot of a new connection, or None if there is no room for it."""
        place = _network(host)
        if self._by_host[place] >= self._by_address and not self._make_room(place):
            return None
        if len(self._slots) >= self._most and not self._make_room(None):
            return None
        slot = Slot(self, place, end)
        self._slots[slot] = None
        self._by_host[place] += 1
        return slot

    def authenticate(self, slot: Slot, caller: bytes) -> None:
        if slot.caller is None and slot in self._slots and self._by_caller[caller] < BY_CALLER:
            slot.caller = caller
            self._by_caller[caller] += 1

    def free(self, slot: Slot) -> None:
        if slot in self._slots:
            del self._slots[slot]
            _less(self._by_host, slot.host)
            if slot.caller is not None:
                _less(self._by_caller, slot.caller)

    def end_all(self) -> None:
        """Close every connection at once."""
        for slot in list(self._slots):
            slot.end()

    def _make_room(self, host: str | None) -> bool:
        """End the oldest connection on which no partner has spoken, of this address or of any; return whether there was one."""
        for slot in self._slots:
            if slot.caller is None and host in (None, slot.host):
                slot.free()
                slot.end()
                return True
        return False


def _network(host: str) -> str:
    """Return what counts as one address: of IPv6 the network, in which one machine may have any address."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return host


def _less(counter: Counter[Any], key: Any) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
