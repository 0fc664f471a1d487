"""What a partner that does not play by the rules can not do, beyond the count (see test_attacks)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from sides import EMAIL, HERE, PHONE, Pair, Person, Side
from sqlalchemy import insert, select

from node.access.audit import Result
from node.access.scope import Scope
from node.errors import NotAllowed, NotFound, RefusedByPartner, RefusedToPartner
from node.exchanges import requests
from node.exchanges.handlers import KINDS, handler
from node.exchanges.http import open_at
from node.exchanges.opening import Plan, run_exchange
from node.feeds.receiving import evaluations
from node.feeds.receiving import offers as offers_module
from node.feeds.receiving import releases as received_releases
from node.feeds.sending import preparing, releases
from node.feeds.sending.edits import Removal
from node.feeds.sending.evaluations import allowance
from node.governance.violations import PolicyViolation
from node.operations.jobs import JobState, no_progress
from node.partners.connections import Connection
from node.partners.letters import receive
from node.people.snapshots import Snapshot
from node.storage.ids import wire_id
from node.storage.tables import feed_versions, jobs, label_uses, runs
from node.transport import paths
from node.transport.client import Peer, PeerClient
from protocol.errors import RemoteProtocolError
from protocol.exchange import Opening, Role
from protocol.feed import Definition
from protocol.letters import FeedAccept, FeedNotice, FeedVersion, Letter, Wanted
from protocol.receipt import SignedReceipt
from protocol.states import Kind, Part


@pytest.fixture
def shared(pair: Pair, person: type[Person]) -> Pair:
    """Acme shares "vip" (a0 to a9) with globe, which has them all; the feed is enabled, nothing was released."""
    people = [(f"person{number}@example.com", f"+44740000{number:04}") for number in range(20)]
    pair.prepare(
        [person(f"a{number}", *row) for number, row in enumerate(people)],
        [person(f"g{number}", *row) for number, row in enumerate(people)],
        {"vip": [f"a{number}" for number in range(10)]},
    )
    pair.share("summer", ["vip"], [EMAIL])
    return pair


def connection(side: Side, alias: str) -> Connection:
    return side.project.partners.get(alias)


def prepare_revision(pair: Pair) -> dict[str, str | bytes | int]:
    """Make a revision ready at acme without sending it; return the subject of its exchange."""
    acme, row = pair.acme, connection(pair.acme, "globe")
    release = preparing.decide(acme.project.scope, row, acme.project.feeds.get("summer").id)
    run = preparing.prepare(release, no_progress)
    assert run is not None
    return {"feed": wire_id(run.feed_id), "version": run.version, "revision": run.revision}


def refusal(pair: Pair, subject: dict[str, str | bytes | int]) -> str:
    """Return why acme does not let globe fetch a revision."""
    acme = pair.acme
    asked = acme.opening("globe", Kind.RELEASE, Part.RECEIVER, subject=subject)
    with pytest.raises(RefusedToPartner) as caught:
        releases.HANDLER.answer(acme.project.scope, connection(acme, "globe"), asked, None)
    return caught.value.code


def test_a_prepared_revision_is_not_handed_out_after_the_feed_was_revoked(shared: Pair) -> None:
    subject = prepare_revision(shared)
    shared.acme.project.feeds.revoke("summer")
    assert refusal(shared, subject) == "not_enabled"


def test_a_prepared_revision_is_not_handed_out_once_somebody_in_it_has_opted_out(shared: Pair) -> None:
    subject = prepare_revision(shared)
    shared.acme.project.consent.set("a3", "n")
    assert refusal(shared, subject) == "stale"


@pytest.mark.parametrize("how", ["revoked", "opted out"])
def test_a_release_that_was_opened_before_is_not_handed_out_any_more(shared: Pair, how: str) -> None:
    """The receiver fetches the manifest, and the records only after they were taken from it."""
    acme, globe = shared.acme, shared.globe
    row = connection(globe, "acme")
    evaluations.run(globe.project.scope, row, EMAIL, no_progress, Snapshot.open(globe.project.scope))
    subject = prepare_revision(shared)
    opening = globe.opening("acme", Kind.RELEASE, Part.RECEIVER, subject=subject, exchange=b"z" * 16)
    with PeerClient(globe.node.home, Peer(row.peer_address, acme.node.key, allowed=HERE)) as client:
        open_at(client, opening)
        client.get(f"{paths.EXCHANGES}/{opening.exchange.hex()}/manifest/0")
        if how == "revoked":
            acme.project.feeds.revoke("summer")
        else:
            acme.project.consent.set("a3", "n")
        with pytest.raises(RefusedByPartner) as refused:
            client.get(f"{paths.EXCHANGES}/{opening.exchange.hex()}/records/0")
    assert refused.value.code == ("over" if how == "revoked" else "stale")


def test_nobody_who_opted_out_goes_out_with_a_revision_that_was_made_ready_before(shared: Pair) -> None:
    prepare_revision(shared)
    shared.acme.project.consent.set("a3", "n")
    shared.acme.project.feeds.sync("summer")
    assert shared.globe.members("acme", "vip") == {f"g{number}" for number in range(10) if number != 3}
    assert [run["revision"] for run in shared.globe.project.received.show("summer")["runs"]] == [2]


def test_the_receivers_own_opt_out_takes_effect_without_a_release(shared: Pair) -> None:
    shared.acme.project.feeds.sync("summer")
    shared.globe.project.consent.set("g4", "n")
    assert "g4" not in shared.globe.members("acme", "vip")


def test_a_partner_cannot_ask_for_a_namespace_that_was_not_agreed_or_has_no_feed(shared: Pair) -> None:
    acme, globe = shared.acme, shared.globe
    row = connection(globe, "acme")

    def wanted(namespace: str) -> Letter:
        message = Wanted(kind=Kind.EVALUATE, subject={"namespace": namespace})
        number = connection(globe, "acme").letters_received + 1
        return Letter.of("exchange.wanted", message, connection=bytes.fromhex(row.id), number=number)

    receive(globe.node.home, acme.node.key, wanted("idfa/uuid-v1"))
    assert globe.acts("letter.exchange.wanted", Result.DENY)[0]["detail"]["error"]["code"] == "namespace"
    receive(globe.node.home, acme.node.key, wanted(PHONE))
    receive(globe.node.home, acme.node.key, wanted(PHONE))
    with globe.node.home.database.read() as tx:
        assert len(tx.execute(select(jobs).where(jobs.c.kind == requests.JOB)).all()) == 1
    globe.post()
    (job,) = globe.node.jobs.all(state=JobState.FAILED)
    assert job.error is not None
    assert job.error["code"] == "no_feed"


def test_a_job_that_waited_does_not_talk_to_a_partner_that_was_disconnected_since(shared: Pair) -> None:
    acme = shared.acme
    row = connection(acme, "globe")
    acme.project.partners.disconnect("globe")
    role = cast(Callable[[int], Role], None)  # nobody gets so far as to make one
    plan = Plan(kind=Kind.EVALUATE, part=Part.SENDER, subject={"namespace": EMAIL}, role=role)
    with pytest.raises(NotAllowed):
        run_exchange(acme.project.scope, row, plan)


def test_a_partner_cannot_squat_on_our_feeds_or_on_another_partners(shared: Pair) -> None:
    """It offers our own feed's id as later versions of its own: our edits must not collide with them."""
    acme, globe = shared.acme, shared.globe
    definition = acme.project.feeds.definition(acme.project.feeds.get("summer"))
    row = connection(acme, "globe")
    for version in (2, 3):
        with globe.node.home.database.begin() as tx:
            message = FeedVersion(definition=replace(definition, version=version))
            globe.project.letters.send(tx, row.id, "feed.publish", message)
    shared.post()
    assert acme.project.feeds.edit("summer", Removal(), description="ours") == 2
    with acme.node.home.database.read() as tx:
        owners = {each.feed_id for each in tx.execute(select(feed_versions))}
    assert len(owners) == 2


def test_the_evaluations_that_a_receiver_may_ask_for_have_a_ceiling(shared: Pair) -> None:
    acme = shared.acme
    row = connection(acme, "globe")
    definition = acme.project.feeds.definition(acme.project.feeds.get("summer"))
    with shared.globe.node.home.database.begin() as tx:
        letter = FeedAccept(feed=definition.feed, version=1, definition=definition.digest(), universes={EMAIL: 10**12})
        shared.globe.project.letters.send(tx, row.id, "feed.accept", letter)
    shared.post()
    with acme.node.home.database.read() as tx:
        assert allowance(acme.project.scope, tx, row, EMAIL) <= 12_000_000
    (alert,) = [each for each in acme.project.alerts.all() if each.kind == "feed_enabled"]  # with the newest number
    assert "1,000,000,000,000" in alert.text


def test_a_partner_that_we_can_call_cannot_make_us_ask_again(shared: Pair) -> None:
    acme = shared.acme
    acme.project.feeds.estimate("summer")
    asked = acme.opening("globe", part=Part.ANSWERER)
    with pytest.raises(RefusedToPartner) as caught:
        handler(Kind.COUNT, Part.ASKER).answer(acme.project.scope, connection(acme, "globe"), asked, None)
    assert caught.value.code == "nothing_wanted"


def test_one_revision_has_one_receipt(shared: Pair) -> None:
    shared.acme.project.feeds.sync("summer")
    globe = shared.globe
    row = connection(globe, "acme")
    with globe.node.home.database.read() as tx:
        run = tx.execute(select(runs)).one()

    receipt = SignedReceipt.decode(run.receipt).receipt
    received_releases.note_signed(globe.project.scope, row, receipt)
    with pytest.raises(RemoteProtocolError) as caught:
        received_releases.note_signed(globe.project.scope, row, replace(receipt, made=receipt.made + 1))
    assert caught.value.code == "revision"


def test_a_label_stops_estimates_too(shared: Pair) -> None:
    acme = shared.acme.project
    row = {"project_id": acme.id, "label": "C11", "kind": "segment", "target": "vip"}
    # Written past the commands, which refuse the label under a published feed.
    with acme.scope.home.database.begin() as tx:
        tx.execute(insert(label_uses).values(id=acme.scope.home.new_id(), **row))
    with pytest.raises(PolicyViolation):
        shared.acme.project.feeds.estimate("summer")


def test_a_segment_counts_as_large_by_those_who_may_be_shared(pair: Pair, person: type[Person]) -> None:
    people = [(f"person{number}@example.com", f"+44740000{number:04}") for number in range(8)]
    pair.prepare(
        [person(f"a{number}", *row, "n" if number < 5 else "y") for number, row in enumerate(people)],
        [person(f"g{number}", *row) for number, row in enumerate(people)],
        {"vip": [f"a{number}" for number in range(8)]},
        minimum_segment=5,
    )
    pair.share("summer", ["vip"])
    (run,) = pair.acme.project.feeds.sync("summer")
    assert (run["sent"], run["small_segments"]) == (0, ["vip"])
    assert pair.globe.members("acme", "vip") == set()


def test_a_wish_for_a_feed_that_nobody_enabled_is_not_followed(shared: Pair) -> None:
    """The sender would see how many identities we have: it wishes for a revision of a feed that it only offered."""
    shared.acme.project.feeds.create("other", segments=["vip"], namespaces=[EMAIL], partners=["globe"])
    shared.acme.project.feeds.publish("other")
    shared.post()
    feed = shared.acme.project.feeds.get("other")
    for subject in (feed.id, "ab" * 16):  # offered, invented
        with shared.acme.node.home.database.begin() as tx:
            wish = Wanted(kind=Kind.RELEASE, subject={"feed": bytes.fromhex(subject), "version": 1, "revision": 1})
            shared.acme.project.letters.send(tx, connection(shared.acme, "globe").id, "exchange.wanted", wish)
    shared.post()
    denied = shared.globe.acts("letter.exchange.wanted", Result.DENY)
    assert [entry["detail"]["error"]["code"] for entry in denied] == ["not_enabled"] * 2
    assert shared.globe.node.jobs.all() == []


def offers(pair: Pair, *definitions: Definition, kind: str = "feed.publish") -> None:
    """Let acme offer versions that no command of ours would make."""
    row = connection(pair.acme, "globe")
    for definition in definitions:
        with pair.acme.node.home.database.begin() as tx:
            pair.acme.project.letters.send(tx, row.id, kind, FeedVersion(definition=definition))
    pair.post()


def test_a_sender_that_says_the_same_again_and_again_does_not_fill_the_store(shared: Pair) -> None:
    shared.acme.project.feeds.sync("summer")
    first = shared.acme.project.feeds.definition(shared.acme.project.feeds.get("summer"))
    offers(shared, *(replace(first, version=number) for number in range(2, 8)), kind="feed.unshare")
    with shared.globe.node.home.database.read() as tx:
        kept = set(tx.scalars(select(feed_versions.c.version)))
    assert kept == {1, 7}  # what came is of the first
    shown = shared.globe.project.received.show("summer")
    assert (shown["accepted_version"], shown["hash"]) == (7, replace(first, version=7).digest().hex())
    assert len(shared.globe.members("acme", "vip")) == 10


def test_a_version_stays_while_a_release_of_it_is_under_way(shared: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shared.acme.project.feeds.definition(shared.acme.project.feeds.get("summer"))
    receiver = received_releases.HANDLER

    def late(scope: Scope, connection: Connection, opening: Opening, released: Any) -> None:
        """Two versions come before the records are kept."""
        offers(shared, replace(first, version=2), replace(first, version=3), kind="feed.unshare")
        receiver.finished(scope, connection, opening, released)

    monkeypatch.setitem(KINDS, (Kind.RELEASE, Part.RECEIVER), lambda: replace(receiver, finished=late))
    shared.acme.project.feeds.sync("summer")
    assert len(shared.globe.members("acme", "vip")) == 10


def test_a_sender_offers_so_many_feeds_and_no_more(shared: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers_module, "FEEDS_AT_MOST", 3)
    first = shared.acme.project.feeds.definition(shared.acme.project.feeds.get("summer"))
    many = [replace(first, feed=bytes([number]) * 16, name=f"feed{number}") for number in range(9)]
    offers(shared, *many[:4])
    globe, row = shared.globe, connection(shared.acme, "globe")
    assert [feed["name"] for feed in globe.project.received.all()] == ["summer", "feed0", "feed1"]
    assert len(globe.acts("letter.feed.publish", Result.DENY)) == 2
    for definition in many[:1] + many[4:]:
        with shared.acme.node.home.database.begin() as tx:
            notice = FeedNotice(feed=definition.feed, version=1, reason="")
            shared.acme.project.letters.send(tx, row.id, "feed.publish", FeedVersion(definition=definition))
            shared.acme.project.letters.send(tx, row.id, "feed.revoke", notice)
    shared.post()
    assert len(globe.project.received.all()) <= 6
    with globe.node.home.database.read() as tx:
        assert len(tx.scalars(select(feed_versions.c.id)).all()) <= 6


def test_two_offers_do_not_add_what_nobody_accepted(shared: Pair) -> None:
    """The sender offers more, then "removes" a part of it: what we accepted is what is compared with."""
    acme = shared.acme
    first = acme.project.feeds.definition(acme.project.feeds.get("summer"))
    more = replace(first, version=2, namespaces=(EMAIL, PHONE))
    for definition in (more, replace(more, version=3, description="less")):
        with acme.node.home.database.begin() as tx:
            letter = FeedVersion(definition=definition)
            acme.project.letters.send(tx, connection(acme, "globe").id, "feed.unshare", letter)
    shared.post()
    shown = shared.globe.project.received.show("summer")
    assert (shown["accepted_version"], shown["offered_version"]) == (1, 3)
    assert shown["namespaces"] == [EMAIL]


def test_to_estimate_with_a_partner_that_the_feed_does_not_go_to_is_refused_and_audited(shared: Pair) -> None:
    shared.acme.project.feeds.create("alone", segments=["vip"], namespaces=[EMAIL])
    with pytest.raises(NotFound, match="no such partner"):
        shared.acme.project.feeds.estimate("alone", "globe")
    (entry,) = shared.acme.acts("feed.estimate", Result.DENY)
    assert entry["target"] == "alone"
