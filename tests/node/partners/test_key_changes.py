"""A node gets a new key: its partners follow, whoever calls, and everything between them stays."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from partnering import alerts, call, prepared, share, status
from restoring import both, replace_members, set_back
from sides import HERE, Pair, Person, Side
from sqlalchemy import select

from node.access.audit import Result
from node.errors import NotAllowed, RefusedByPartner, WrongPeerKey
from node.exchanges.records import ExchangeState
from node.partners import key_changes
from node.storage.locks import service_lock
from node.storage.tables import exchanges, ledger
from node.transport import paths
from node.transport.client import Peer, PeerClient
from protocol.errors import RemoteProtocolError
from protocol.keychange import KeyChange, KeyChanges, SignedKeyChange
from psi.errors import VesicaError


@pytest.fixture
def living(idle_pair: Pair, person: type[Person]) -> Pair:
    """Two nodes that do not serve; acme's feed of a2-a5 has run to globe, which knows a4 and a5."""
    with both(idle_pair):
        prepared(idle_pair, person)
        share(idle_pair.acme, idle_pair.globe, "summer", "vip")
    return idle_pair


def used_up(side: Side) -> list[tuple[bytes, str, int]]:
    query = select(ledger.c.peer_key, ledger.c.kind, ledger.c.amount).order_by(ledger.c.kind, ledger.c.amount)
    with side.node.home.database.read() as tx:
        return [(row.peer_key, row.kind, row.amount) for row in tx.execute(query)]


@pytest.mark.feature("OP12")
@pytest.mark.parametrize("rotates", ["acme", "globe"])
@pytest.mark.parametrize("calls", ["acme", "globe"])
def test_feeds_go_on_and_nothing_is_refilled(living: Pair, rotates: str, calls: str) -> None:
    pair = living
    side, other = (pair.acme, pair.globe) if rotates == "acme" else (pair.globe, pair.acme)
    known = {key for key, *_ in used_up(pair.acme)}
    assert known == {pair.globe.node.key}
    before = [row[1:] for row in used_up(pair.acme)]
    old = side.node.key
    changed = side.node.rotate_key()
    assert changed == {"old": old.hex(), "key": side.node.key.hex()}
    with both(pair):
        (pair.acme if calls == "acme" else pair.globe).post()
        assert other.project.partners.get(side.name).peer_key == side.node.key != old
        assert len(alerts(other, "key_replaced")) == 1
        assert alerts(other, "key_changed") == alerts(side, "key_changed") == []
        assert used_up(pair.acme) == [(pair.globe.node.key, *row) for row in before]
        replace_members(pair.acme, "vip", ["a3", "a5"])
        (run,) = pair.acme.project.feeds.sync()
        assert (run["status"], run["revision"]) == ("done", 2)
        assert pair.globe.members("acme", "vip") == {"g5"}
        assert [row[1:] for row in used_up(pair.acme)] == before  # nobody was evaluated again
        ours = pair.acme.project.feeds.show("summer")["partners"][0]["last_receipt"]
        assert ours == pair.globe.project.received.show("summer")["last_receipt"]
        pair.acme.project.feeds.revoke("summer")
        pair.post()
        assert pair.acme.project.feeds.show("summer")["partners"][0]["purges"]
        assert status(pair.acme) == {"globe": "active"}


@pytest.mark.feature("OP12")
def test_a_partner_that_was_down_follows_several_changes(living: Pair) -> None:
    pair = living
    pair.acme.project.feeds.edit("summer", description="hats")  # a letter on its way
    for _ in range(3):
        pair.clock.advance(days=9)
        pair.acme.node.rotate_key()
    with pair.globe.serving():
        pair.acme.post()
        assert pair.globe.project.partners.get("acme").peer_key == pair.acme.node.key
        assert len(pair.globe.project.partners.get("acme").peer_keys) == 4
        assert pair.globe.project.received.show("summer")["description"] == "hats"
        assert len(alerts(pair.globe, "key_replaced")) == 1


@pytest.mark.feature("OP12")
def test_both_sides_change_their_keys_at_once(living: Pair) -> None:
    for side in (living.acme, living.globe):
        side.node.rotate_key()
    with both(living):
        living.acme.post()
        for side, other in ((living.acme, living.globe), (living.globe, living.acme)):
            assert side.project.partners.get(other.name).peer_key == other.node.key
        assert [run["status"] for run in living.acme.project.feeds.sync()] == ["unchanged"]


@pytest.mark.feature("OP12")
def test_a_partner_that_only_calls_follows_and_is_followed(quiet_receiver: Pair, person: type[Person]) -> None:
    """Globe has no address: whoever changes its key, globe's call shows it."""
    pair = quiet_receiver
    prepared(pair, person)
    pair.globe.node.rotate_key()
    pair.globe.post()
    assert pair.acme.project.partners.get("globe").peer_key == pair.globe.node.key
    assert alerts(pair.acme, "key_changed") == []


@pytest.mark.feature("OP12")
def test_an_exchange_that_a_kill_cut_short_is_finished_under_the_new_key(
    living: Pair, broken_off: Callable[[str], AbstractContextManager[None]]
) -> None:
    pair = living
    with both(pair):
        replace_members(pair.acme, "vip", ["a3", "a5"])
        with broken_off("receipt"):
            pair.acme.project.feeds.sync()
    pair.acme.node.rotate_key()
    pair.globe.node.rotate_key()
    with both(pair):
        (run,) = pair.acme.project.feeds.sync()
        assert (run["status"], run["revision"]) == ("done", 2)
        assert pair.globe.members("acme", "vip") == {"g5"}
    with pair.acme.node.home.database.read() as tx:
        assert set(tx.scalars(select(exchanges.c.state))) == {ExchangeState.DONE}


@pytest.mark.feature("OP12")
@pytest.mark.feature("CN7")
@pytest.mark.parametrize("how", ["fetch", "deliver", "confirm", "open", "go on"])
def test_the_old_key_is_refused_with_an_alert(living: Pair, tmp_path: Path, how: str) -> None:
    pair = living
    (tmp_path / "stolen").mkdir()
    thief = pair.acme.copy(tmp_path / "stolen")
    pair.acme.node.rotate_key()
    with both(pair):
        pair.acme.post()
        thief.open()
        with thief.node, pytest.raises(RefusedByPartner) as refused:
            call(thief.node, pair.globe, how, thief.project.partners.get("globe"))
        assert refused.value.code == "key_retired"
        (alert,) = alerts(pair.globe, "key_changed")
        assert "a key that it has replaced" in alert
        assert pair.globe.acts("partner.called", Result.DENY)
        pair.acme.post()
        assert pair.globe.project.partners.get("acme").peer_key == pair.acme.node.key


@pytest.mark.feature("OP12")
def test_a_thief_at_the_old_address_is_not_followed(living: Pair, tmp_path: Path) -> None:
    pair = living
    (tmp_path / "stolen").mkdir()
    thief = pair.acme.copy(tmp_path / "stolen")
    pair.acme.node.rotate_key()
    with both(pair):
        pair.globe.post()
    thief.open()
    with thief.node, thief.serving(), pytest.raises(WrongPeerKey):
        pair.globe.project.letters.fetch(pair.globe.project.partners.get("acme"))
    assert "another key" in alerts(pair.globe, "key_changed")[0]


@pytest.mark.feature("OP12")
def test_two_keys_that_replace_one_are_an_alert(living: Pair, tmp_path: Path) -> None:
    """A thief was faster: the partner follows it, and hears of the theft as soon as the true node speaks."""
    pair = living
    (tmp_path / "stolen").mkdir()
    thief = pair.acme.copy(tmp_path / "stolen")
    thief.open()
    thief.node.rotate_key()
    with pair.globe.serving():
        thief.post()
        assert pair.globe.project.partners.get("acme").peer_key == thief.node.key
        pair.acme.node.rotate_key()
        pair.acme.post()
    thief.node.close()
    assert pair.globe.project.partners.get("acme").peer_key != pair.acme.node.key
    assert any("two keys" in each for each in alerts(pair.globe, "key_changed"))
    assert pair.globe.acts("partner.rotated-key", Result.DENY)


@pytest.mark.feature("OP12")
@pytest.mark.feature("OP9")
def test_a_node_from_a_backup_older_than_its_key_is_told_so(living: Pair, tmp_path: Path) -> None:
    pair = living
    pair.acme.node.backup(tmp_path / "backup")
    pair.acme.node.rotate_key()
    with both(pair):
        pair.acme.post()
    set_back(pair, pair.acme, tmp_path / "backup")
    with both(pair):
        pair.acme.post()
        assert any("a newer key of this node" in each for each in alerts(pair.acme, "key_changed"))
        assert "a key that it has replaced" in alerts(pair.globe, "key_changed")[0]


@pytest.mark.feature("OP12")
@pytest.mark.feature("OP9")
def test_a_partner_from_a_backup_older_than_the_key_follows_again(living: Pair, tmp_path: Path) -> None:
    pair = living
    pair.globe.node.backup(tmp_path / "backup")
    old = pair.acme.node.key
    pair.acme.node.rotate_key()
    with both(pair):
        pair.acme.post()
    set_back(pair, pair.globe, tmp_path / "backup", days=2)
    assert pair.globe.project.partners.get("acme").peer_key == old
    with pair.globe.serving():
        for _ in range(2):
            pair.acme.post()  # refused once: globe does not know it any more
    assert pair.globe.project.partners.get("acme").peer_key == pair.acme.node.key
    with both(pair):
        pair.post()
        pair.globe.project.resume()
        replace_members(pair.acme, "vip", ["a3", "a5"])
        pair.acme.project.partners.allow("globe")
        assert [run["status"] for run in pair.acme.project.feeds.sync()] == ["done"]


@pytest.mark.feature("OP12")
def test_heads_of_the_audit_log_under_the_old_key_still_count(living: Pair) -> None:
    pair = living
    with both(pair):
        pair.clock.advance(days=1)
        pair.acme.node.sweep()
        pair.post()
    pair.acme.node.rotate_key()
    with both(pair):
        pair.clock.advance(days=2)
        pair.acme.node.sweep()
        pair.post()
        _, kept = pair.acme.node.verify_audit()
    assert len(kept) >= 2
    assert {each.stands.value for each in kept} == {"there"}


@pytest.mark.feature("OP12")
def test_a_connect_id_with_the_old_key_ends(idle_pair: Pair) -> None:
    acme, globe = idle_pair.acme, idle_pair.globe
    old = acme.project.partners.connect_id().encode()
    acme.node.rotate_key()
    with acme.serving():
        with pytest.raises(VesicaError):
            globe.project.partners.look_up(old)
        assert globe.project.partners.look_up(acme.project.partners.connect_id().encode()).theirs.key == acme.node.key


def test_a_running_service_keeps_the_key(living: Pair) -> None:
    before = living.acme.node.key
    with service_lock(living.acme.node.home.path), pytest.raises(NotAllowed, match="a service is running"):
        living.acme.node.rotate_key()
    assert living.acme.node.key == before


@contextmanager
def calling(side: Side, at: Side) -> Iterator[PeerClient]:
    with PeerClient(side.node.home, Peer(at.address, at.node.key, allowed=HERE)) as client:
        yield client


def test_changes_that_prove_nothing_change_nothing(living: Pair) -> None:
    pair = living
    third = Side(pair.acme.folder, "hooli", now=pair.clock)
    acme, globe = pair.acme.node, pair.globe
    before = globe.project.partners.get("acme").peer_key
    change = KeyChange(old=acme.key, new=third.node.key, made=pair.clock())
    forged = SignedKeyChange.make(change, old=third.node.home.sign, new=third.node.home.sign)
    unwilling = SignedKeyChange.make(change, old=acme.home.sign, new=acme.home.sign)
    own = KeyChange(old=third.node.key, new=b"n" * 32, made=pair.clock())
    strange = SignedKeyChange.make(own, old=third.node.home.sign, new=third.node.home.sign)
    with globe.serving():
        for signed, by in ((forged, third), (unwilling, third), (strange, third)):
            with calling(by, globe) as client, pytest.raises((RefusedByPartner, RemoteProtocolError)):
                client.post(paths.KEYS, KeyChanges(changes=(signed,)).encode())
    taken = KeyChange(old=acme.key, new=globe.node.key, made=pair.clock())
    both_ways = SignedKeyChange.make(taken, old=acme.home.sign, new=globe.node.home.sign)
    with pytest.raises(RemoteProtocolError, match="one of ours"):
        key_changes.follow(globe.node.home, KeyChanges(changes=(both_ways,)))
    assert globe.project.partners.get("acme").peer_key == before
    assert alerts(globe, "key_replaced") == []
