"""Statements of purge that a receiver signs too early, or about too little, are not kept: the true one is."""

from typing import Any

import pytest
from edited import at_sender, edit
from sides import Pair

from node.access.audit import Result
from node.feeds import purges
from node.feeds.sending.edits import Removal
from node.partners.letters import Letters
from node.storage import tables
from node.storage.ids import wire_id
from protocol.letters import FeedNotice, Purged
from protocol.receipt import PurgeStatement

pytestmark = pytest.mark.two_nodes


def say(pair: Pair, *, version: int, revision: int, segments: tuple[bytes, ...] = ()) -> None:
    """Let globe sign a statement that an honest node would not."""
    globe, connection = pair.globe.project, pair.globe.project.partners.get("acme")
    statement = PurgeStatement(
        connection=connection.wire_id,
        feed=wire_id(pair.acme.project.feeds.get("summer").id),
        version=version,
        revision=revision,
        segments=segments,
        namespaces=(),
        made=pair.clock(),
    )
    signed = Purged(statement=statement, signature=statement.sign(globe.scope.home.sign))
    with globe.scope.begin() as tx:
        Letters(globe.scope).send(tx, connection.id, "feed.purged", signed)
    pair.post()


def signed(pair: Pair) -> list[tuple[Any, ...]]:
    return [(each["version"], each["revision"], each["made"]) for each in at_sender(pair)["purges"]]


def refused(pair: Pair) -> int:
    return len(pair.acme.acts("letter.feed.purged", Result.DENY))


def test_a_statement_about_a_feed_that_goes_on_is_not_kept(shared: Pair) -> None:
    pair = shared
    pair.acme.project.feeds.sync("summer")
    say(pair, version=0, revision=1)
    assert (signed(pair), refused(pair)) == ([], 1)
    pair.clock.advance(days=40)
    pair.acme.project.feeds.sync("summer")
    last = at_sender(pair)["last_revision"]
    assert last > 1
    pair.acme.project.feeds.revoke("summer")
    pair.post()
    assert signed(pair) == [(None, last, pair.clock())]


def test_a_statement_about_an_earlier_revision_is_not_kept(shared: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = shared
    pair.acme.project.feeds.sync("summer")
    with monkeypatch.context() as lying:
        lying.setattr(purges, "sign", lambda *_: None)
        pair.acme.project.feeds.revoke("summer")
        pair.post()
    say(pair, version=0, revision=0)
    assert (signed(pair), refused(pair)) == ([], 1)


def test_a_statement_that_leaves_something_out_is_not_kept(shared: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = shared
    pair.acme.project.feeds.sync("summer")
    with monkeypatch.context() as lying:
        lying.setattr(purges, "sign", lambda *_: None)
        edit(pair, Removal(segments=["vip"]))
    say(pair, version=2, revision=1, segments=(bytes(16),))
    assert (signed(pair), refused(pair)) == ([], 1)
    pair.acme.project.feeds.sync("summer")  # the version that took it out was released meanwhile
    say(pair, version=2, revision=1, segments=(bytes(16),))
    assert (signed(pair), refused(pair)) == ([], 2)
    (vip,) = [wire_id(each.id) for each in pair.acme.project.segments.all() if each.name == "vip"]
    say(pair, version=2, revision=1, segments=(vip,))
    assert [each[:2] for each in signed(pair)] == [(2, 1)]


def test_a_receiver_that_is_told_again_signs_again(shared: Pair) -> None:
    """The sender has lost the first statement with a restore."""
    pair = shared
    pair.acme.project.feeds.sync("summer")
    pair.acme.project.feeds.revoke("summer")
    pair.post()
    first = signed(pair)
    connection = pair.acme.project.partners.get("globe")
    feed = pair.acme.project.feeds.get("summer")
    with pair.acme.project.scope.begin() as tx:
        tx.execute(tables.purges.delete())
        notice = FeedNotice(feed=wire_id(feed.id), version=feed.version, reason="")
        Letters(pair.acme.project.scope).send(tx, connection.id, "feed.revoke", notice)
    assert signed(pair) == []
    pair.post()
    assert signed(pair) == first
