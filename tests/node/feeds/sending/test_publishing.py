"""From a draft to a published feed: what is checked is what is written, in one transaction."""

from collections.abc import Callable

import pytest
from edited import prepare
from sides import EMAIL, Pair, Person

from node.errors import NotAllowed
from node.feeds.sending import publishing
from node.feeds.sending.edits import Addition
from node.partners.letters import Letters
from node.storage.database import Database
from protocol.feed import Definition, SegmentRef

VERSION = Definition(
    feed=bytes(16),
    version=1,
    name="summer",
    description="",
    segments=(SegmentRef(id=bytes(16), name="vip"),),
    namespaces=(EMAIL,),
    restricted_uses=(),
    created=0,
)


def test_the_steps_to_a_published_feed() -> None:
    found = publishing.steps(VERSION, partners=0, published=False)
    assert [(step.name, step.complete) for step in found] == [
        ("configure", True),
        ("segments", True),
        ("share", False),
        ("review", False),
    ]
    assert {step.remedy.act for step in found} == {"feed.edit", "feed.publish"}
    assert all(step.complete for step in publishing.steps(VERSION, partners=1, published=True))


def test_create_publish_and_edit_check_over_the_connection_that_then_writes(
    idle_pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look of its own would see what another act changes meanwhile."""
    with idle_pair.acme.serving(), idle_pair.globe.serving():
        prepare(idle_pair, person)
    monkeypatch.setattr(Letters, "deliver_soon", lambda *_: None)

    def outside(_: Database) -> None:
        raise AssertionError("a look outside of the transaction")

    feeds = idle_pair.acme.project.feeds
    acts: list[Callable[[], object]] = [
        lambda: feeds.create("summer", segments=["vip"], namespaces=["email_sha256"], partners=["globe"]),
        lambda: feeds.publish("summer"),
        lambda: feeds.edit("summer", addition=Addition(segments=["new"], restricted_uses=["analytics"])),
    ]
    for act in acts:
        with monkeypatch.context() as patched:
            patched.setattr(Database, "read", outside)
            act()
    assert feeds.show("summer")["version"] == 2


def test_a_partner_that_has_everything_is_offered_nothing_twice(shared: Pair) -> None:
    with pytest.raises(NotAllowed, match="published already"):
        shared.acme.project.feeds.publish("summer")
