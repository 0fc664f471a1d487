"""Two nodes that reach each other over real TLS on loopback, on one clock; nothing happens that a test did not ask for."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from clock import Clock
from sides import Pair, Person

from node.partners import letters
from node.transport.client import PeerClient
from psi import count


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that does not serve here listens all the same, and never answers."""
    monkeypatch.setattr(letters, "SYNC_SECONDS", 1.0)


@pytest.fixture
def small_universes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pad to 128 points, not 4,096: the protocol is the same and a count takes a tenth of a second."""
    monkeypatch.setattr(count, "PADDING", 128)


@pytest.fixture
def pair(tmp_path: Path, clock: Clock) -> Iterator[Pair]:
    """Two nodes, both serving."""
    pair = Pair(tmp_path, clock)
    with pair.acme.serving(), pair.globe.serving():
        yield pair


@pytest.fixture
def idle_pair(tmp_path: Path, clock: Clock) -> Pair:
    """Two nodes, none of which serves yet."""
    return Pair(tmp_path, clock)


@pytest.fixture
def quiet_receiver(tmp_path: Path, clock: Clock) -> Iterator[Pair]:
    """Two nodes of which the receiver has no address: it calls, and is never called."""
    pair = Pair(tmp_path, clock, receiver_address=False)
    with pair.acme.serving():
        yield pair


@pytest.fixture
def person() -> type[Person]:
    return Person


@pytest.fixture
def pair_type() -> type[Pair]:
    return Pair


@pytest.fixture
def broken_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], AbstractContextManager[None]]:
    """Give what kills the caller of a partner where it would send or fetch a step."""

    @contextmanager
    def at(step: str) -> Iterator[None]:
        once = PeerClient.attempt

        def dead(self: PeerClient, method: str, path: str, body: bytes) -> tuple[int, bytes]:
            if f"/{step}/" in path:
                raise KeyboardInterrupt
            return once(self, method, path, body)

        with monkeypatch.context() as patched:
            patched.setattr(PeerClient, "attempt", dead)
            with pytest.raises(KeyboardInterrupt):
                yield

    return at
