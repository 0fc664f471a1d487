"""A receiver that has an address and runs no service gets a release all the same: it calls for what could not be brought."""

import pytest
from sides import EMAIL, Pair, Person

from node.errors import PeerUnreachable
from node.partners import letters
from node.storage.locks import service_lock
from node.transport import client

pytestmark = [pytest.mark.two_nodes, pytest.mark.feature("EX1")]


@pytest.fixture
def shared(idle_pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch) -> Pair:
    """A feed that globe has enabled and that has not run yet; nobody serves."""
    monkeypatch.setattr(client, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(letters, "SYNC_SECONDS", 0.2)
    known = [person(f"p{n}", f"p{n}@example.com") for n in range(6)]
    with idle_pair.acme.serving(), idle_pair.globe.serving():
        idle_pair.prepare(known, known, {"vip": ["p0", "p1"]})
        idle_pair.share("f", ["vip"], [EMAIL])
    return idle_pair


def test_a_receiver_without_a_service_fetches_a_release(shared: Pair) -> None:
    acme, globe = shared.acme, shared.globe
    with acme.serving():
        with pytest.raises(PeerUnreachable):
            acme.project.feeds.sync("f")
        globe.post()
        assert globe.members("acme", "vip") == {"p0", "p1"}
        ours = acme.project.feeds.show("f")["partners"][0]
        assert (ours["last_revision"], ours["failure"]) == (1, None)
        assert ours["last_receipt"] == globe.project.received.show("f")["last_receipt"]
        acme.project.consent.set("p1", "n")
        with pytest.raises(PeerUnreachable):
            acme.project.feeds.sync("f")
        globe.post()
        assert globe.members("acme", "vip") == {"p0"}
    with globe.serving():  # it is called again as before
        acme.project.consent.set("p0", "n")
        acme.project.feeds.sync("f")
    assert globe.members("acme", "vip") == set()


def test_a_receiver_with_a_service_waits_to_be_called(shared: Pair) -> None:
    acme, globe = shared.acme, shared.globe
    with acme.serving():
        with pytest.raises(PeerUnreachable):
            acme.project.feeds.sync("f")
        with service_lock(globe.node.home.path):
            globe.project.letters.fetch(globe.project.partners.get("acme"))
    assert globe.node.jobs.all() == []
