"""Feeds that are over and leave the lists of both sides, and what stays of them."""

from pathlib import Path

import pytest
from partnering import Commands, Typed
from restoring import both, set_back
from sharing import draft, publish, small, state
from sides import EMAIL, Pair
from sqlalchemy import func, select

from cli.main import main
from node.errors import NotAllowed, NotFound
from node.partners.connections import note
from node.partners.letters import ENDED_SECONDS
from node.partners.outbox import send_again
from node.storage.tables import feed_versions, feeds, ledger, purges, received_feeds, runs
from protocol.receipt import PurgeStatement
from psi.errors import Remedy


def over(pair: Pair) -> None:
    """Let a feed run once, and revoke it."""
    small(pair)
    pair.share("summer", ["vip", "new"], [EMAIL])
    pair.acme.project.feeds.sync()
    pair.acme.project.feeds.revoke("summer")
    pair.post()


@pytest.mark.feature("EX5")
def test_a_revoked_feed_leaves_the_lists_of_both_sides_once_its_purge_is_signed(idle_pair: Pair) -> None:
    pair = idle_pair
    acme, globe = pair.acme.project, pair.globe.project
    with pair.acme.serving():
        with pair.globe.serving():
            small(pair)
            pair.share("summer", ["vip", "new"], [EMAIL])
            with pytest.raises(NotAllowed, match="globe has it") as refused:
                acme.feeds.delete("summer")
            assert refused.value.remedy == Remedy("feed.revoke", {"name": "summer"})
            with pytest.raises(NotAllowed) as refused:
                globe.received.delete("summer")
            assert refused.value.remedy == Remedy("feed.decline", {"name": "summer", "partner": "acme"})
            acme.feeds.sync()
        acme.feeds.revoke("summer")  # while the receiver is away
        with pytest.raises(NotAllowed, match="a letter about it has not reached globe") as refused:
            acme.feeds.delete("summer")
        assert refused.value.remedy == Remedy("node.sync")
        assert len(pair.acme.acts("feed.delete")) == 0
        pair.globe.post()
    feed, purged = acme.feeds.get("summer"), state(pair.acme)["purges"]
    with pair.acme.serving(), pair.globe.serving():
        acme.feeds.delete("summer")
        globe.received.delete("summer")
    assert (acme.feeds.all(), globe.received.all()) == ([], [])
    with pytest.raises(NotFound):
        acme.feeds.show("summer")
    with pytest.raises(NotFound):
        globe.received.show("summer")
    (row,) = pair.acme.acts("feed.delete")
    kept = row["detail"]["partners"]["globe"]
    assert (row["detail"]["feed"], kept["purges"]) == (feed.id, purged)
    statement = PurgeStatement(
        connection=bytes.fromhex(acme.partners.get("globe").id),
        feed=bytes.fromhex(feed.id),
        version=0,
        revision=kept["last_revision"],
        segments=(),
        namespaces=(),
        made=purged[-1]["made"],
    )
    statement.verify(bytes.fromhex(kept["purges"][-1]["signature"]), pair.globe.node.key)
    (row,) = pair.globe.acts("feed.delete")
    assert row["detail"]["last_receipt"] == kept["last_receipt"]


@pytest.mark.feature("EX5")
def test_who_has_not_signed_is_waited_for_until_a_week_after_the_end_of_the_connection(pair: Pair) -> None:
    over(pair)
    with pair.acme.node.home.database.begin() as tx:  # it never came
        tx.execute(purges.delete())
    with pytest.raises(NotAllowed, match="globe has not signed that it purged it"):
        pair.acme.project.feeds.delete("summer")
    pair.acme.project.partners.disconnect("globe")
    with pytest.raises(NotAllowed, match="has not signed"):
        pair.acme.project.feeds.delete("summer")
    pair.clock.advance(seconds=ENDED_SECONDS)
    pair.acme.project.feeds.delete("summer")
    assert pair.acme.project.feeds.all() == []


def test_of_a_draft_nothing_stays_and_its_name_is_free(pair: Pair) -> None:
    small(pair)
    draft(pair)
    pair.acme.project.feeds.edit("summer", description="other")
    pair.acme.project.feeds.delete("summer")
    with pair.acme.node.home.database.read() as tx:
        for table in (feeds, feed_versions):
            assert tx.scalar(select(func.count()).select_from(table)) == 0
    draft(pair)
    pair.acme.project.feeds.revoke("summer")  # nobody was offered it
    pair.acme.project.feeds.delete("summer")
    pair.acme.project.segments.delete("vip")


@pytest.mark.feature("RC6")
def test_a_feed_that_all_partners_declined_can_be_deleted_and_a_new_one_has_its_name(pair: Pair) -> None:
    small(pair)
    acme, globe = pair.acme.project, pair.globe.project
    for _ in range(2):
        publish(pair, "summer", ["vip"])
        pair.post()
        globe.received.decline("summer")
        acme.feeds.delete("summer")
        globe.received.delete("summer")
    assert (acme.feeds.all(), globe.received.all()) == ([], [])
    publish(pair, "summer", ["vip"])
    pair.post()
    globe.received.enable("summer")
    assert [row["status"] for row in acme.feeds.all() + globe.received.all()] == ["published", "enabled"]


def test_an_older_feed_of_the_same_name_is_deleted_not_the_one_that_goes_on(pair: Pair) -> None:
    over(pair)
    publish(pair, "summer", ["vip"])
    pair.post()
    globe = pair.globe.project.received
    assert sorted(row["status"] for row in globe.all()) == ["pending", "revoked"]
    globe.delete("summer")
    assert [row["status"] for row in globe.all()] == ["pending"]
    with pytest.raises(NotAllowed, match="it is pending"):
        globe.delete("summer")


def test_a_receivers_delete_waits_until_the_sender_has_its_letter(idle_pair: Pair) -> None:
    pair = idle_pair
    with pair.acme.serving(), pair.globe.serving():
        small(pair)
        publish(pair, "summer", ["vip"])
        pair.globe.post()
    pair.globe.project.received.decline("summer")
    with pytest.raises(NotAllowed, match="a letter about it has not reached acme"):
        pair.globe.project.received.delete("summer")
    with pair.acme.serving():
        pair.globe.post()
    pair.globe.project.received.delete("summer")
    assert pair.globe.project.received.all() == []


def test_a_partner_that_was_restored_hears_again_of_the_end_of_a_deleted_feed(idle_pair: Pair, tmp_path: Path) -> None:
    pair = idle_pair
    with both(pair):
        over(pair)
    source = tmp_path / "globe.tar"
    with both(pair):
        pair.share("winter", ["new"], [EMAIL])
        pair.acme.project.feeds.sync()
        pair.globe.node.backup(source)
        pair.acme.project.feeds.revoke("winter")
        pair.post()
        pair.acme.project.feeds.delete("winter")
    set_back(pair, pair.globe, source)
    assert pair.globe.members("acme", "new")
    with both(pair):
        pair.post()
        pair.post()
    assert [row["segments"] for row in pair.globe.project.received.all()] == [{}, {}]


@pytest.mark.feature("EX5")
def test_letters_about_a_deleted_feed_are_handled_and_nothing_is_refilled(pair: Pair) -> None:
    over(pair)
    acme, globe = pair.acme, pair.globe
    with acme.node.home.database.read() as tx:
        spent = tx.execute(select(ledger)).all()
        sent = tx.execute(select(runs)).all()
    acme.project.feeds.delete("summer")
    globe.project.received.delete("summer")
    for side, partner in ((acme, "globe"), (globe, "acme")):  # each gets all letters of the other once more
        with side.node.home.database.begin() as tx:
            connection = side.project.partners.get(partner, tx)
            assert connection.letters_received > 0
            note(tx, connection, letters_received=0)
            assert send_again(side.project.scope, tx, connection, after=0)
    pair.post()
    assert (acme.waits(), globe.waits()) == (False, False)
    assert (acme.project.feeds.all(), globe.project.received.all()) == ([], [])
    with acme.node.home.database.read() as tx:
        assert tx.execute(select(ledger)).all() == spent
        assert tx.execute(select(runs)).all() == sent
        assert tx.scalar(select(func.count()).select_from(purges)) == 1
    with globe.node.home.database.read() as tx:
        assert tx.scalars(select(received_feeds.c.status)).all() == ["revoked"]
    assert not [alert for alert in globe.project.alerts.all(open_only=True) if alert.kind == "feed-offered"]


class TestAsking(Commands):
    @pytest.mark.feature("RC6")
    def test_the_command_asks_and_takes_either_sides_feed(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        small(pair)
        publish(pair, "summer", ["vip"])
        pair.post()
        pair.globe.project.received.decline("summer")
        for side in (pair.acme, pair.globe):
            home = ["--home", str(side.node.home.path)]
            monkeypatch.setattr("sys.stdin", Typed("n\n"))
            assert main([*home, "feed", "delete", "summer"]) == 1
            assert "cannot be brought back" in capsys.readouterr().err
            monkeypatch.setattr("sys.stdin", Typed("y\n"))
            assert main([*home, "feed", "delete", "summer"]) == 0
            assert capsys.readouterr().out == "feed summer is deleted\n"
            assert main([*home, "feed", "delete", "summer", "--yes"]) == 1
            assert "vesica feed list" in capsys.readouterr().err
