"""A feed's life between two nodes, from draft to revocation."""

from typing import Any

import pytest

PEOPLE = [(f"a{number}", f"person{number}@example.com", f"+44740000{number:04}") for number in range(40)]


def acme_people(person: Any) -> list[Any]:
    return [person(*row) for row in PEOPLE[:30]]


def globe_people(person: Any) -> list[Any]:
    return [person(f"g{row[0][1:]}", row[1], row[2]) for row in PEOPLE[10:]]


@pytest.mark.feature("FD5")
def test_a_published_feed_reaches_the_partner_and_its_members_are_the_plain_join(pair: Any, person: Any) -> None:
    pair.prepare(acme_people(person), globe_people(person), {"vip": [f"a{n}" for n in range(5, 25)]})
    pair.share("summer", ["vip"])
    runs = pair.acme.project.feeds.sync("summer")
    assert [run["status"] for run in runs] == ["done"]
    assert pair.globe.members("acme", "vip") == {f"g{n}" for n in range(10, 25)}


def test_a_receiver_without_an_address_calls_for_everything(quiet_receiver: Any, person: Any) -> None:
    pair = quiet_receiver
    pair.prepare(acme_people(person), globe_people(person), {"vip": [f"a{n}" for n in range(5, 25)]})
    pair.acme.project.feeds.create("summer", segments=["vip"], namespaces=["email_sha256"], partners=["globe"])
    pair.acme.project.feeds.estimate("summer")
    pair.post()
    (estimate,) = pair.acme.project.feeds.estimates("summer")
    assert (estimate["overlap"], estimate["consented"]) == (15, 15)
    pair.acme.project.feeds.publish("summer")
    pair.post()
    pair.globe.project.received.enable("summer")
    pair.post()
    pair.acme.project.feeds.sync("summer")
    pair.post()
    assert pair.globe.members("acme", "vip") == {f"g{n}" for n in range(10, 25)}
