"""Who the audit log says did something: a user, a partner, the node itself, or an account of the operating system."""

import csv
import io
import json

import pytest
from callers import crew, signed_in
from sides import EMAIL, Pair, Person

from node.access.audit import ActorKind


@pytest.mark.feature("OP2")
def test_each_row_says_what_kind_of_actor_it_names(pair: Pair, person: type[Person]) -> None:
    people = [person(str(each), f"p{each}@x.com") for each in range(5)]
    pair.prepare(people, people, {"vip": ["1", "2", "3"]})
    pair.share("summer", ["vip"], [EMAIL])
    acme = pair.acme
    operator = acme.node.audit.entries(act="feed.publish")[0]
    assert operator.actor_kind is ActorKind.ACCOUNT
    acme.project.feeds.sync("summer")
    tokens = crew(acme.node, sam="shares")
    with acme.node.home.guard.itself():  # it serves
        pair.clock.advance(days=2)
        with signed_in(acme.node, tokens["sam"]) as sams:
            sams.project().feeds.sync("summer")
        pair.clock.advance(days=2)
        acme.project.feeds.sync("summer")
        rows = json.loads(acme.node.audit.export("json"))
        cells = csv.DictReader(io.StringIO(acme.node.audit.export("csv")))
        assert [each["actor_kind"] for each in cells] == [each["actor_kind"] for each in rows]
        acme.node.audit.verify()

    def by(act: str) -> list[tuple[str, str]]:
        found = [(each["actor_kind"], each["actor"]) for each in rows if each["act"] == act]
        return list(dict.fromkeys(found))

    assert by("letter.feed.accept") == [("partner", "globe")]
    assert by("user.create") == [("account", operator.actor), ("user", "ann")]
    assert by("feed.run") == [("account", operator.actor), ("user", "sam"), ("node", operator.actor)]
