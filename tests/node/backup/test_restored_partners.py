"""Both sides go on after one of them was restored from a backup, though the other went further meanwhile."""

from pathlib import Path

import pytest
from clock import Clock
from partnering import alerts
from restoring import both, forgotten, go_on, people, prepare, replace_members, set_back
from sides import EMAIL, PHONE, Pair, Person
from sqlalchemy import select

from node.access.audit import Result
from node.feeds.sending.edits import Addition
from node.storage import tables
from protocol.letters import FeedReport, Restored
from psi.errors import VesicaError


@pytest.mark.feature("OP9")
def test_a_restored_sender_goes_on_with_a_receiver_that_went_further(
    idle_pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    """Revisions, receipts, letters, versions and epochs moved on since the backup; nobody mends anything by hand."""
    pair = idle_pair
    with both(pair):
        pair.prepare(people(person, "abcdef"), people(person, "cdefgh"), {"vip": ["pc", "pd"], "all": ["pe", "pf"]})
        pair.share("summer", ["vip", "all"], [EMAIL])
        pair.acme.project.feeds.sync()
        assert pair.globe.members("acme", "vip") == {"pc", "pd"}
        pair.acme.node.backup(tmp_path / "backup")
        for ids in (["pc"], ["pc", "pe"], ["pd"]):
            pair.clock.advance(seconds=60)
            replace_members(pair.acme, "vip", ids)
            pair.acme.project.feeds.sync()
        pair.globe.project.received.disable("summer")  # a letter that acme is going to forget
        pair.post()
        revision = pair.globe.project.received.show("summer")["revision"]
    pair.clock.advance(days=2)
    document = set_back(pair, pair.acme, tmp_path / "backup")
    assert document["to_notify"] == ["globe"]
    with both(pair):
        pair.post()
        assert pair.acme.project.feeds.show("summer")["partners"][0]["status"] == "disabled"  # the letter came again
        assert pair.acme.project.feeds.show("summer")["partners"][0]["last_revision"] == revision
        assert len(alerts(pair.globe, "restored")) == 1
        pair.globe.project.received.enable("summer")
        pair.post()
        go_on(pair.acme, "globe")
        (run,) = pair.acme.project.feeds.sync()
        assert run["status"] == "done"
        assert run["revision"] > revision
        assert pair.globe.members("acme", "vip") == {"pc", "pd"}  # as the backup has it
        replace_members(pair.acme, "vip", ["pd", "pf"])
        pair.acme.project.feeds.sync()
        assert pair.globe.members("acme", "vip") == {"pd", "pf"}
        assert pair.globe.acts("exchange.release", Result.DENY) == []
        ours = pair.acme.project.feeds.show("summer")["partners"][0]["last_receipt"]
        assert ours == pair.globe.project.received.show("summer")["last_receipt"]


@pytest.mark.feature("OP9")
def test_a_restored_receiver_gets_back_what_it_forgot(idle_pair: Pair, person: type[Person], tmp_path: Path) -> None:
    pair = idle_pair
    with both(pair):
        pair.prepare(people(person, "abcdef"), people(person, "cdefgh"), {"vip": ["pc", "pd"], "gone": ["pc"]})
        pair.share("summer", ["vip"], [EMAIL])
        pair.share("winter", ["gone"], [EMAIL])
        pair.acme.project.feeds.sync()
        pair.globe.node.backup(tmp_path / "backup.tar")
        pair.clock.advance(seconds=60)
        replace_members(pair.acme, "vip", ["pe"])
        pair.acme.project.feeds.sync()
        pair.acme.project.feeds.revoke("winter")
        pair.post()
        revision = pair.acme.project.feeds.show("summer")["partners"][0]["last_revision"]
    pair.clock.advance(days=2)
    set_back(pair, pair.globe, tmp_path / "backup.tar")
    with both(pair):
        assert pair.globe.members("acme", "vip") == {"pc", "pd"}
        assert pair.globe.members("acme", "gone") == {"pc"}
        pair.post()
        assert pair.globe.project.received.show("winter")["status"] == "revoked"  # purged once more
        assert pair.globe.project.received.show("summer")["revision"] == revision
        replace_members(pair.acme, "vip", ["pf"])
        with pytest.raises(VesicaError) as spent:  # all of its people are new points in a new epoch
            pair.acme.project.feeds.sync("summer")
        assert spent.value.code == "evaluations_spent"
        pair.clock.advance(seconds=60)
        pair.acme.project.partners.allow("globe")
        (run,) = pair.acme.project.feeds.sync("summer")
        assert run["status"] == "done"
        assert pair.globe.members("acme", "vip") == {"pf"}
        assert pair.acme.acts("partner.allow")


@pytest.mark.feature("OP9")
def test_an_edit_that_was_forgotten_is_not_undone_by_a_run(
    idle_pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    pair = idle_pair
    with both(pair):
        pair.prepare(people(person, "abcdef"), people(person, "cdefgh"), {"vip": ["pc"], "gone": ["pd"]})
        pair.share("summer", ["vip", "gone"], [EMAIL])
        pair.acme.project.feeds.sync()
        pair.acme.node.backup(tmp_path / "backup")
        pair.acme.project.feeds.unshare("summer", segment="gone")
        pair.post()
    pair.clock.advance(days=2)
    set_back(pair, pair.acme, tmp_path / "backup")
    with both(pair):
        pair.post()
        assert "version 2 of feed summer" in alerts(pair.acme, "feed_version_lost")[0]
        go_on(pair.acme, "globe")
        with pytest.raises(VesicaError, match="version"):
            pair.acme.project.feeds.sync()
        with pytest.raises(VesicaError):
            pair.globe.members("acme", "gone")
        pair.acme.project.feeds.unshare("summer", segment="gone")
        pair.post()
        (run,) = pair.acme.project.feeds.sync()
        assert run["status"] == "done"
        assert pair.globe.members("acme", "vip") == {"pc"}
        assert pair.globe.project.received.show("summer")["hash"] == pair.acme.project.feeds.show("summer")["hash"]


@pytest.mark.feature("OP9")
def test_a_node_without_an_address_is_restored_too(
    tmp_path: Path, clock: Clock, person: type[Person], pair_type: type[Pair]
) -> None:
    pair = pair_type(tmp_path, clock, receiver_address=False)
    with pair.acme.serving():
        pair.prepare(people(person, "abcd"), people(person, "bcde"), {"vip": ["pb"]})
        pair.share("summer", ["vip"], [EMAIL])
        pair.globe.node.backup(tmp_path / "backup")
        pair.acme.project.feeds.revoke("summer")
        pair.post()
    clock.advance(days=2)
    set_back(pair, pair.globe, tmp_path / "backup")
    with pair.acme.serving():
        assert pair.globe.project.received.show("summer")["status"] == "enabled"
        pair.post()
        assert pair.globe.project.received.show("summer")["status"] == "revoked"


@pytest.mark.feature("OP9")
def test_a_partner_that_says_it_was_restored_again_and_again_is_put_off(idle_pair: Pair, person: type[Person]) -> None:
    pair = idle_pair
    with both(pair):
        pair.prepare(people(person, "ab"), people(person, "bc"), {"vip": ["pb"]})
        acme, row = pair.acme, pair.acme.project.partners.get("globe")
        for _ in range(3):
            with acme.node.home.database.begin() as tx:
                acme.project.letters.send(tx, row.id, "connect.restored", Restored(received=0, made=1))
            pair.post()
        waiting = acme.project.reports.partner("globe")["letters_waiting"]
        assert waiting == 2
        pair.clock.advance(seconds=3_601)
        pair.post()
        assert acme.project.reports.partner("globe")["letters_waiting"] == 1
        assert len(alerts(pair.globe, "restored")) == 1


@pytest.mark.feature("OP9")
def test_a_partner_that_forgot_the_end_of_a_connection_is_told_again(
    idle_pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    pair, acme, globe = idle_pair, idle_pair.acme, idle_pair.globe
    with forgotten(pair, person, acme, tmp_path / "backup"):
        acme.project.partners.disconnect("globe", "enough")
        pair.post()
        assert globe.project.partners.get("acme").status == "disconnected"
    with both(pair):
        assert acme.project.partners.get("globe").status == "active"
        pair.post()
        assert acme.project.partners.get("globe").status == "disconnected"
        assert acme.project.feeds.show("summer")["partners"][0]["status"] == "revoked"


@pytest.mark.feature("OP9")
def test_a_partner_is_told_no_version_that_it_was_never_offered(
    idle_pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    pair, acme, globe = idle_pair, idle_pair.acme, idle_pair.globe
    with forgotten(pair, person, globe, tmp_path / "backup"):
        acme.project.feeds.edit("summer", addition=Addition(namespaces=[PHONE]))
        shown = acme.project.feeds.show("summer")["partners"][0]
        assert (shown["accepted_version"], shown["waits_for_estimate"]) == (1, [PHONE])
    with acme.serving():
        globe.post()
        with acme.node.home.database.read() as tx:
            (held,) = tx.scalars(select(tables.letters.c.body).where(tables.letters.c.kind == "feed.held"))
        definition = FeedReport.decode(held).definition
        assert (definition.version, definition.namespaces) == (1, (EMAIL,))


@pytest.mark.feature("OP9")
@pytest.mark.parametrize("restored", ["acme", "globe"])
def test_a_withdrawal_gets_through_though_the_key_epoch_is_younger_than_a_day(
    idle_pair: Pair, person: type[Person], tmp_path: Path, restored: str
) -> None:
    pair = idle_pair
    side = pair.acme if restored == "acme" else pair.globe
    with forgotten(pair, person, side, tmp_path / "backup", days=0):
        pair.clock.advance(seconds=3600)
    with both(pair):
        pair.post()
        pair.clock.advance(seconds=60)
        side.project.resume()
        pair.acme.project.partners.allow("globe")
        pair.acme.project.consent.set("pb", "n")
        (run,) = pair.acme.project.feeds.sync()
        assert run["status"] == "done"
        assert pair.globe.members("acme", "vip") == {"pa", "pc", "pd"}


@pytest.mark.feature("OP9")
def test_on_hold_no_feed_is_published_and_the_refusal_says_what_to_do(
    idle_pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    pair = idle_pair
    with both(pair):
        prepare(pair, person)
        pair.acme.project.feeds.create("winter", segments=["new"], namespaces=[EMAIL], partners=["globe"])
        pair.acme.node.backup(tmp_path / "backup")
    set_back(pair, pair.acme, tmp_path / "backup", days=1)
    with pytest.raises(VesicaError, match="on hold") as refused:
        pair.acme.project.feeds.publish("winter")
    assert refused.value.remedy is not None
    assert refused.value.remedy.act == "project.resume"


@pytest.mark.feature("OP9")
def test_letters_that_a_process_took_as_it_ended_come_again(
    idle_pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    """The old service confirms letters after its home was restored elsewhere: the new home never had them."""
    pair = idle_pair
    with forgotten(pair, person, pair.globe, tmp_path / "backup", days=0):
        pass
    with both(pair):
        pair.post()
        pair.acme.project.feeds.create("winter", segments=["new"], namespaces=[EMAIL], partners=["globe"])
        with pair.globe.node.home.database.begin() as tx:  # nobody there: the letter waits
            before = tx.scalar(select(tables.connections.c.letters_received)) or 0
    pair.acme.project.feeds.publish("winter")
    with pair.acme.node.home.database.begin() as tx:
        tx.execute(tables.letters.update().values(delivered=pair.clock()))
    pair.acme.project.feeds.revoke("summer")
    with both(pair):
        pair.acme.post()  # refused, since one before it is missing
        pair.post()
        with pair.globe.node.home.database.begin() as tx:
            assert tx.scalar(select(tables.connections.c.letters_received)) == before + 2
        assert pair.globe.project.received.show("winter")["status"] == "pending"


def test_letters_that_nobody_takes_for_a_day_raise_an_alert_until_they_arrive(
    idle_pair: Pair, person: type[Person]
) -> None:
    pair = idle_pair
    with both(pair):
        prepare(pair, person)
    pair.acme.project.feeds.revoke("summer")
    pair.clock.advance(days=1)
    pair.acme.node.sweep()
    assert "letters to globe have waited since" in alerts(pair.acme, "letters_stuck")[0]
    with both(pair):
        pair.post()
    pair.acme.node.sweep()
    (alert,) = [each for each in pair.acme.project.alerts.all() if each.kind == "letters_stuck"]
    assert alert.acknowledged is not None


def test_an_alert_of_letters_that_wait_ends_with_the_connection(idle_pair: Pair, person: type[Person]) -> None:
    pair = idle_pair
    with both(pair):
        prepare(pair, person)
    pair.acme.project.feeds.revoke("summer")
    pair.clock.advance(days=1)
    pair.acme.node.sweep()
    pair.acme.project.partners.disconnect("globe")
    pair.acme.node.sweep()
    (alert,) = [each for each in pair.acme.project.alerts.all() if each.kind == "letters_stuck"]
    assert alert.acknowledged is not None
