"""From a request to an end, and what is on the wire meanwhile."""

import base64
import hashlib
from contextlib import ExitStack

import pytest
from matches import columns, emails
from partnering import TERMS, call, kinds, left, people, prepared, request, share, status
from recorder import Recorder, said
from sides import EMAIL, Pair, Person, Side

from node.access.scope import Scope
from node.adhoc import dialler
from node.adhoc.session import Party
from node.errors import (
    AlreadyExists,
    InvalidInput,
    NotAllowed,
    NotFound,
    RefusedByPartner,
)
from node.node import Node
from node.partners import connecting, handlers
from node.partners.connections import Connection, ConnectionStatus, named
from node.storage.database import Tx
from protocol.agreement import Agreement, Offer
from psi.errors import Remedy


@pytest.mark.feature("CN2")
def test_a_request_under_terms_that_changed_meanwhile_is_refused(ready: Pair) -> None:
    found = ready.globe.project.partners.look_up(ready.acme.project.partners.connect_id().encode())
    ready.acme.project.set_terms(minimum_overlap=500)
    with pytest.raises(RefusedByPartner) as refused:
        ready.globe.project.partners.request(found)
    assert refused.value.code == "agreement"
    assert status(ready.acme) == {}
    assert request(ready.globe, ready.acme) == "acme"  # the failed one gives way
    assert [alert.kind for alert in ready.acme.project.alerts.all(open_only=True)] == ["connection_request"]
    ready.acme.project.partners.accept("globe")
    assert ready.acme.project.alerts.all(open_only=True) == []
    ready.post()
    assert status(ready.globe)["acme"] == "active"
    assert ready.globe.project.reports.partners()[0]["terms"]["minimum_overlap"] == 500


@pytest.mark.feature("CN3")
def test_after_acceptance_both_are_active_and_either_may_share(pair: Pair, person: type[Person]) -> None:
    prepared(pair, person)
    assert status(pair.acme) == {"globe": "active"}
    assert status(pair.globe) == {"acme": "active"}
    assert "connection_accepted" in kinds(pair.globe)
    share(pair.acme, pair.globe, "summer", "vip")
    share(pair.globe, pair.acme, "winter", "loyal")
    assert pair.globe.members("acme", "vip") == {"g4", "g5"}
    assert pair.acme.members("globe", "loyal") == {"a4", "a5"}


def test_both_keep_the_evidence_of_what_was_agreed(pair: Pair, person: type[Person]) -> None:
    prepared(pair, person)
    rows = [side.project.partners.rows(ConnectionStatus.ACTIVE)[0] for side in (pair.acme, pair.globe)]
    for side, row, other in zip((pair.acme, pair.globe), rows, reversed(rows), strict=True):
        agreement, offer = Agreement.decode(row.agreement), Offer.decode(row.their_offer)
        assert row.agreement == other.agreement
        assert row.agreement_digest == agreement.digest()
        assert offer.key == row.peer_key
        assert offer.digest() == (agreement.requester if side is pair.acme else agreement.accepter)
        assert row.our_signature is not None
        assert row.their_signature is not None
        agreement.verify(row.our_signature, side.node.key)
        agreement.verify(row.their_signature, row.peer_key)


@pytest.mark.feature("CN3")
def test_a_decline_is_seen_by_both_and_no_feed_can_target_it(ready: Pair) -> None:
    acme, globe = ready.acme, ready.globe
    request(globe, acme, "acme")
    for side, partner, ids in ((acme, "globe", ["a1"]), (globe, "acme", ["g5"])):
        side.segment("few", ids)
        with pytest.raises(NotAllowed):  # neither before an answer
            side.project.feeds.create("early", segments=["few"], namespaces=[EMAIL], partners=[partner])
    acme.project.partners.decline("globe", "not this year")
    ready.post()
    assert status(acme) == {"globe": "declined"}
    assert status(globe) == {"acme": "declined"}
    assert globe.project.reports.partners()[0]["reason"] == "not this year"
    assert "connection_declined" in kinds(globe)
    for side, partner in ((acme, "globe"), (globe, "acme")):
        with pytest.raises(NotAllowed, match="declined"):
            side.project.feeds.create("late", segments=["few"], namespaces=[EMAIL], partners=[partner])
    with pytest.raises(NotAllowed):
        acme.project.partners.accept("globe")


@pytest.mark.feature("CN4")
def test_up_to_active_no_identity_count_or_segment_name_is_on_the_wire(idle_pair: Pair, person: type[Person]) -> None:
    pair, recorders = idle_pair, [Recorder(idle_pair.acme), Recorder(idle_pair.globe)]
    with ExitStack() as stack:
        for side, recorder in zip((pair.acme, pair.globe), recorders, strict=True):
            stack.enter_context(recorder.recording())
            stack.enter_context(side.serving())
        ours, theirs = people(person, "acme-customer-", 0, 37), people(person, "globe-customer-", 14, 67)
        pair.prepare(ours, theirs, {"vip-shoppers": [f"acme-customer-{n}" for n in range(3, 26)]})
        assert status(pair.acme) == {"globe": "active"}
        assert status(pair.globe) == {"acme": "active"}
        before = [bytes(stream) for recorder in recorders for stream in recorder.streams]
        words = [word for recorder in recorders for body in recorder.bodies() for word in said(body)]

        secrets = [b"vip-shoppers", b"customer", b"example.com"]
        for each in (*ours, *theirs):
            found = hashlib.sha256(each.email.encode())
            secrets += [found.digest(), found.hexdigest().encode(), base64.b64encode(found.digest())]
        assert len(before) >= 4
        assert {"hello", "reply", "request", "accept"} <= {word for word in words if isinstance(word, str)}
        for stream in before:
            assert not [secret for secret in secrets if secret in stream]
        assert not {37, 53, 23, 16} & {word for word in words if isinstance(word, int)}

        pair.acme.project.feeds.create("summer", segments=["vip-shoppers"], namespaces=[EMAIL], partners=["globe"])
        pair.acme.project.feeds.publish("summer")
        after = b"".join(bytes(stream) for stream in recorders[1].streams)
        assert b"vip-shoppers" in after  # or the recorder would be deaf


@pytest.mark.feature("CN6")
@pytest.mark.parametrize("who", ["acme", "globe"])
def test_a_disconnect_stops_feeds_purges_both_sides_and_tells_the_partner(
    pair: Pair, person: type[Person], who: str
) -> None:
    prepared(pair, person)
    share(pair.acme, pair.globe, "summer", "vip")
    share(pair.globe, pair.acme, "winter", "loyal")
    for side, rule in ((pair.globe, "received.acme.vip"), (pair.acme, "received.globe.loyal")):
        side.project.segments.create("derived", rule=rule)
        assert side.project.segments.show("derived").size == 2
        assert left(side)
    ender, other = (pair.acme, pair.globe) if who == "acme" else (pair.globe, pair.acme)
    ender.project.partners.disconnect(other.name, "budget cut")
    pair.post()
    for side, partner, segment, feed in (
        (pair.acme, "globe", "loyal", "summer"),
        (pair.globe, "acme", "vip", "winter"),
    ):
        (row,) = side.project.reports.partners()
        assert (row["status"], row["reason"]) == ("disconnected", "budget cut")
        assert (row["segments_shared"], row["segments_received"]) == (0, 0)
        with pytest.raises(NotFound):
            side.members(partner, segment)
        assert side.project.segments.show("derived").size == 0
        assert not side.project.segments.members("derived")
        assert left(side) == []
        assert side.project.feeds.sync() == []
        (state,) = side.project.feeds.show(feed)["partners"]
        assert (state["status"], state["reason"]) == ("revoked", "disconnected")
        assert state["purges"]  # each signed for what it had
        with pytest.raises(NotAllowed):
            side.project.feeds.create("more", segments=["derived"], namespaces=[EMAIL], partners=[partner])
        side.node.audit.verify()
    assert "disconnected" in kinds(other)
    with pytest.raises(RefusedByPartner) as refused:
        call(ender.node, other, "open", ender.project.partners.get(other.name))
    assert refused.value.code == "unwelcome"


@pytest.mark.feature("CN6")
def test_a_partner_that_is_away_hears_of_the_end_later(idle_pair: Pair, person: type[Person]) -> None:
    pair = idle_pair
    with pair.acme.serving():
        with pair.globe.serving():
            prepared(pair, person)
            share(pair.acme, pair.globe, "summer", "vip")
        pair.acme.project.partners.disconnect("globe")
        assert status(pair.acme) == {"globe": "disconnected"}
        assert status(pair.globe) == {"acme": "active"}
        pair.globe.post()
        assert status(pair.globe) == {"acme": "disconnected"}
        assert left(pair.globe) == []
        (state,) = pair.acme.project.feeds.show("summer")["partners"]
        assert state["purges"][-1]["revision"] == 1


def test_a_request_that_nobody_answers_can_be_taken_back(ready: Pair) -> None:
    request(ready.globe, ready.acme, "acme")
    ready.globe.project.partners.disconnect("acme")
    assert status(ready.globe) == {"acme": "disconnected"}
    assert status(ready.acme) == {"globe": "disconnected"}
    with pytest.raises(NotAllowed):
        ready.acme.project.partners.accept("globe")


def test_a_new_connection_after_the_end_takes_the_same_alias(pair: Pair, person: type[Person]) -> None:
    prepared(pair, person, evaluations=3)  # new keys evaluate everybody again
    share(pair.acme, pair.globe, "summer", "vip")
    pair.globe.project.segments.create("derived", rule="received.acme.vip")
    pair.globe.project.partners.disconnect("acme", "budget cut")
    with pytest.raises(AlreadyExists):
        pair.globe.project.segments.create("derived", rule="received.acme.vip")
    pair.connect()
    assert status(pair.acme) == {"globe": "active", "globe-ended": "disconnected"}
    assert status(pair.globe) == {"acme": "active", "acme-ended": "disconnected"}
    reasons = {row["alias"]: row["reason"] for row in pair.globe.project.reports.partners()}
    assert reasons == {"acme": None, "acme-ended": "budget cut"}
    share(pair.acme, pair.globe, "autumn", "vip")
    assert pair.globe.members("acme", "vip") == {"g4", "g5"}
    (derived,) = pair.globe.project.segments.evaluate("derived")
    assert derived.size == 2
    with pytest.raises(AlreadyExists) as connected:
        request(pair.globe, pair.acme, "second")
    assert connected.value.remedy == Remedy("partner.show", {"name": "acme"})


def test_a_connection_can_begin_again_before_the_partner_heard_of_the_end(
    idle_pair: Pair, person: type[Person]
) -> None:
    pair = idle_pair
    pair.terms(**TERMS)
    pair.acme.people(people(person, "a", 0, 3))
    pair.globe.people(people(person, "g", 2, 6))
    with pair.acme.serving():
        pair.connect()
    pair.globe.project.partners.disconnect("acme")
    with pair.acme.serving():
        assert status(pair.acme) == {"globe": "active"}
        assert request(pair.globe, pair.acme, "acme") == "acme"
        pair.acme.project.partners.accept("globe")
        pair.globe.post()
        assert status(pair.globe)["acme"] == "active"


def test_nobody_gets_an_alias_by_taking_the_name(ready: Pair, third: Side, person: type[Person]) -> None:
    third.people(people(person, "h", 0, 3))
    ready.connect()
    ready.acme.project.partners.disconnect("globe")
    type(third.node.home.config)(organisation="Globe", address=third.address).save(third.node.home.path)
    request(third, ready.acme)
    assert status(ready.acme) == {"globe": "disconnected", "globe-2": "requested"}


def test_every_room_ends_what_it_has_of_a_connection_or_none_does(
    node: Node, active: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope, ended = node.project().scope, []

    def fine(scope: Scope, tx: Tx, connection: Connection) -> None:
        ended.append(connection.alias)

    def broken(scope: Scope, tx: Tx, connection: Connection) -> None:
        raise NotAllowed("not now")

    monkeypatch.setattr(handlers, "ENDED", [fine, broken])
    with pytest.raises(NotAllowed), node.home.database.begin() as tx:
        connecting.end(scope, tx, active, "enough")
    assert named(scope, "globe").status is ConnectionStatus.ACTIVE
    monkeypatch.setattr(handlers, "ENDED", [fine, fine])
    with node.home.database.begin() as tx:
        connecting.end(scope, tx, active, "enough")
    assert (named(scope, "globe").status, named(scope, "globe").reason) == (ConnectionStatus.DISCONNECTED, "enough")
    assert ended == ["globe"] * 3


@pytest.mark.feature("CN2")
def test_an_answer_closes_the_alert_of_that_request_alone(ready: Pair, third: Side, person: type[Person]) -> None:
    third.people(people(person, "h", 0, 3))
    type(third.node.home.config)(organisation="Globe", address=third.address).save(third.node.home.path)
    request(ready.globe, ready.acme)
    request(third, ready.acme)
    assert status(ready.acme) == {"globe": "requested", "globe-2": "requested"}
    ready.acme.project.partners.decline("globe")
    (left_open,) = ready.acme.project.alerts.all(open_only=True)
    assert "as partner globe-2" in left_open.text


def test_a_node_is_not_dialled_for_a_match_of_two_files(ready: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Party, "now", lambda _: ready.clock())
    connect_id = ready.acme.project.partners.connect_id().encode()
    with pytest.raises(InvalidInput, match="a node, that of Acme"):
        dialler.dial(connect_id, columns(email=emails(0, 20)), minimum=1)
    assert status(ready.acme) == {}
