"""Where a side may call: a partner says what its own address is, and it must not lead into our network."""

import ipaddress
import queue
import socket
import threading
from dataclasses import dataclass
from enum import StrEnum

from ..errors import AddressNotAllowed, InvalidInput

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_SPECIAL = tuple(
    ipaddress.ip_network(each)
    for each in (
        *("0.0.0.0/8", "192.0.0.0/24", "192.88.99.0/24"),  # this network; protocol assignments; relays that are retired
        *("100::/64", "64:ff9b:1::/48", "2001:2::/48", "2001:10::/28", "2001:20::/28"),  # discarded; local; no hosts
        *("2001:db8::/32", "3fff::/20", "5f00::/16"),  # documentation; segment routing
        *("168.63.129.16/32", "100.100.100.200/32"),  # where clouds answer their machines, beside link-local addresses
        *("fd00:ec2::/32", "fd20:ce::/64"),
    )
)
MAX_ADDRESSES = 8  # of one name: whoever runs its DNS could have us try thousands
RESOLVE_SECONDS = 10.0  # for one look-up of a name
_LOOK_UPS = threading.BoundedSemaphore(32)  # at once: those that nobody waits for any more count until they end


class Range(StrEnum):
    """What sort of address one is."""

    PUBLIC = "a public"
    PRIVATE = "a private"
    LOOPBACK = "a loopback"
    UNUSABLE = "a special"  # unspecified, multicast, link-local (where clouds keep their credentials), reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedAddresses:
    """Which addresses may be called: public ones, and others only where the operator has said so.

    `chosen` is the HOST:PORT of a Connect ID that the operator entered: if the host is an address and no name, it may be
    called at that port. What a name means is decided by whoever runs its DNS, so a name opens nothing.
    """

    loopback: bool = False
    private: bool = False
    chosen: str = ""

    @classmethod
    def of(cls, own_address: str, *, private: bool, chosen: str = "") -> "AllowedAddresses":
        """Return what a node may call: one that has its own partners call loopback may call loopback too.

        `own_address` and `chosen` are HOST:PORT or empty, `private` is the node's setting.
        """
        own = _literal(split_address(own_address)[0]) if own_address else None
        loopback = own is not None and range_of(own) is Range.LOOPBACK
        return cls(loopback=loopback, private=private, chosen=chosen)

    def check(self, address: str) -> None:
        """Raise AddressNotAllowed if HOST:PORT is an address that may not be called; a name is looked up on calling."""
        host, port = split_address(address)
        literal = _literal(host)
        if literal is not None and not self.allows(literal, port):
            raise _refused(address, literal)

    def resolve(self, address: str) -> list[tuple[str, int]]:
        """Return the IP addresses and the port that HOST:PORT stands for now: MAX_ADDRESSES that may be called.

        Raises AddressNotAllowed if none is left, OSError if the name is not known, or if nobody says so in time.
        """
        host, port = split_address(address)
        hosts = looked_up(host, port)
        allowed = [each for each in hosts if self.allows(ipaddress.ip_address(each), port)]
        if not allowed:
            raise _refused(address, ipaddress.ip_address(hosts[0]))
        return [(each, port) for each in allowed[:MAX_ADDRESSES]]

    def allows(self, address: IPAddress, port: int) -> bool:
        """Return whether an IP address may be called at a port."""
        match range_of(address):
            case Range.PUBLIC:
                return True
            case Range.PRIVATE:
                return self.private or self._is_chosen(address, port)
            case Range.LOOPBACK:
                return self.loopback or self._is_chosen(address, port)
            case Range.UNUSABLE:
                return False

    def _is_chosen(self, address: IPAddress, port: int) -> bool:
        if not self.chosen:
            return False
        host, chosen_port = split_address(self.chosen)
        return (address, port) == (_literal(host), chosen_port)


def looked_up(host: str, port: int) -> list[str]:
    """Return the IP addresses that a host stands for now; raises OSError, TimeoutError after RESOLVE_SECONDS.

    Who asks for a name is at the mercy of those who run its DNS, and the system's resolver takes as long as it likes.
    """
    if _literal(host) is not None and host.rstrip(".").lower() != "localhost":
        return [host]
    if not _LOOK_UPS.acquire(timeout=RESOLVE_SECONDS):
        raise TimeoutError(f"too many names are being looked up to look up {host}")
    found: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def look() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.put(list(dict.fromkeys(str(each[4][0]) for each in entries)))
        except (OSError, UnicodeError) as error:
            found.put(error if isinstance(error, OSError) else OSError(f"{host} is no name"))
        finally:
            _LOOK_UPS.release()

    threading.Thread(target=look, daemon=True).start()
    try:
        answer = found.get(timeout=RESOLVE_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"nobody says in time what {host} stands for") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def range_of(address: IPAddress) -> Range:
    """Return what sort of address one is; an IPv4 address inside an IPv6 one counts as what it is."""
    if isinstance(address, ipaddress.IPv6Address) and (inner := _inner(address)) is not None:
        return range_of(inner)
    if address.is_loopback:
        return Range.LOOPBACK
    unusable = address.is_unspecified or address.is_multicast or address.is_link_local or address.is_reserved
    if (
        unusable
        or any(address in each for each in _SPECIAL)
        or (isinstance(address, ipaddress.IPv6Address) and address.is_site_local)
    ):
        return Range.UNUSABLE
    return Range.PUBLIC if address.is_global else Range.PRIVATE


def is_private(address: str) -> bool:
    """Return whether an IP address is in a network of one's own, or on this machine."""
    return range_of(ipaddress.ip_address(address)) in (Range.PRIVATE, Range.LOOPBACK)


def is_loopback(host: str) -> bool:
    """Return whether a host, as an address is written, is this machine to itself alone."""
    literal = _literal(host)
    return literal is not None and range_of(literal) is Range.LOOPBACK


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT or [IPv6]:PORT; raises InvalidInput."""
    host, found, port = address.rpartition(":")
    if not found or not host or not port.isascii() or not port.isdigit() or int(port[:6]) > 65_535:
        raise InvalidInput(f"{address!r} is not an address", hint="it reads HOST:PORT, for example 127.0.0.1:8470")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidInput(f"{address!r} is not an address", hint="an IPv6 address reads [::1]:8470")
    return host, int(port)


def joined(host: str, port: int) -> str:
    """Return HOST:PORT, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain_host(host: str) -> str:
    """Return a host in the one spelling that others of the same name or address come to."""
    literal = _literal(host)
    return host.rstrip(".").lower() if literal is None else str(literal)


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address leads to: mapped, translated or tunnelled."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _literal(host: str) -> IPAddress | None:
    """Return the IP address that a host is; None for a name, but for that of this machine."""
    if host.rstrip(".").lower() == "localhost":
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _refused(address: str, found: IPAddress) -> AddressNotAllowed:
    host = split_address(address)[0]
    kind = range_of(found)
    what = f"{address} is {kind} address" if _literal(host) else f"{address} leads to {found}, {kind} address"
    if kind is Range.PRIVATE:
        return AddressNotAllowed(
            f"{what}, and this node calls none that a partner names",
            hint="if the partner is in a network of your own, allow private addresses",
        )
    return AddressNotAllowed(
        f"{what}, which a partner cannot be reached at", hint="ask the partner for an address that others can reach"
    )
