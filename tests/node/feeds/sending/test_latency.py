"""How late a run is counts from when the receiver took what it brings, if it took it after the change."""

import pytest
from sides import EMAIL, Pair, Person

from node.feeds.sending.edits import Addition

pytestmark = [pytest.mark.two_nodes, pytest.mark.feature("EX1")]


def test_what_waited_for_the_receiver_is_not_late(pair: Pair, person: type[Person]) -> None:
    known = [person(f"p{n}", f"p{n}@example.com") for n in range(8)]
    pair.prepare(known, known, {"vip": [f"p{n}" for n in range(6)], "more": ["p6"]})
    pair.share("f", ["vip"], [EMAIL])
    acme, globe = pair.acme.project, pair.globe.project
    acme.feeds.sync("f")

    acme.feeds.edit("f", addition=Addition(segments=["more"]))
    pair.post()
    pair.clock.advance(days=2)
    globe.received.enable("f")
    pair.post()
    pair.clock.advance(seconds=5)
    acme.feeds.sync("f")
    assert acme.feeds.show("f")["partners"][0]["last_run"]["latency"] == 5
    assert globe.received.show("f")["last_run"]["latency"] == 5

    globe.received.disable("f")
    pair.post()
    acme.consent.set("p0", "n")
    pair.clock.advance(days=2)
    globe.received.enable("f")
    pair.post()
    pair.clock.advance(seconds=7)
    acme.feeds.sync("f")
    assert acme.feeds.show("f")["partners"][0]["last_run"]["latency"] == 7

    acme.consent.set("p1", "n")
    pair.clock.advance(seconds=9)
    acme.feeds.sync("f")
    assert acme.feeds.show("f")["partners"][0]["last_run"]["latency"] == 9
