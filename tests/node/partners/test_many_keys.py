"""A partner replaces its key many times, goes back to one of before, or comes anew under one: it gets nothing by that."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from partnering import alerts, prepared, request, status
from restoring import both
from sides import Pair, Person, Side
from sqlalchemy import update

from node.access.audit import Result
from node.errors import NotAllowed, PeerUnreachable, RefusedByPartner, RefusedToPartner
from node.partners import key_changes
from node.storage.tables import connections
from protocol.keychange import KeyChange, KeyChanges, SignedKeyChange


@pytest.fixture
def joined(idle_pair: Pair, person: type[Person]) -> Pair:
    """Two nodes that are connected, and do not serve."""
    with both(idle_pair):
        prepared(idle_pair, person)
    return idle_pair


class Keys:
    """The keys that a node has, one after the other, as acme learns of them."""

    def __init__(self, pair: Pair) -> None:
        self._pair, self.all = pair, [pair.globe.node.key]
        self._sign: Callable[[bytes], bytes] = pair.globe.node.home.sign

    def changed(self, times: int = 1, to: Ed25519PrivateKey | None = None) -> KeyChanges:
        made = []
        for _ in range(times):
            new = to or Ed25519PrivateKey.generate()
            change = KeyChange(old=self.all[-1], new=new.public_key().public_bytes_raw(), made=self._pair.clock())
            made.append(SignedKeyChange.make(change, old=self._sign, new=new.sign))
            self.all.append(change.new)
            self._sign = new.sign
        return KeyChanges(changes=tuple(made))

    def followed(self, changes: KeyChanges) -> bool:
        return key_changes.follow(self._pair.acme.node.home, changes)


def stolen(side: Side, folder: Path) -> Side:
    folder.mkdir()
    return side.copy(folder)


@pytest.mark.feature("OP12")
def test_one_change_a_day_is_followed(joined: Pair) -> None:
    keys, acme = Keys(joined), joined.acme
    assert keys.followed(keys.changed())
    soon = keys.changed(3)
    for _ in range(2):
        with pytest.raises(RefusedToPartner, match="less than a day"):
            keys.followed(soon)
        joined.clock.advance(seconds=8 * 3_600)
    assert acme.project.partners.get("globe").peer_key == keys.all[1]
    assert len(alerts(acme, "key_replaced")) == len(acme.acts("partner.rotated-key")) == 1
    joined.clock.advance(seconds=8 * 3_600)
    assert keys.followed(soon)
    assert acme.project.partners.get("globe").peer_keys == tuple(keys.all)
    assert len(alerts(acme, "key_replaced")) == 2


@pytest.mark.feature("OP12")
def test_a_change_that_comes_too_soon_is_taken_a_day_later(joined: Pair) -> None:
    acme, globe = joined.acme, joined.globe
    globe.node.rotate_key()
    with both(joined):
        globe.post()
    globe.node.rotate_key()
    connection = acme.project.partners.get("globe")
    with both(joined):
        with pytest.raises(PeerUnreachable, match="less than a day"):
            acme.project.letters.fetch(connection)
        assert alerts(acme, "key_changed") == []
        joined.clock.advance(days=1)
        acme.project.letters.fetch(connection)
        assert acme.project.partners.get("globe").peer_key == globe.node.key


@pytest.mark.feature("OP12")
def test_a_key_of_before_is_not_followed(joined: Pair) -> None:
    first, acme = Ed25519PrivateKey.generate(), joined.acme
    keys = Keys(joined)
    assert keys.followed(keys.changed(to=first))
    for changes in (keys.changed(), keys.changed(to=first)):
        joined.clock.advance(days=1)
        followed = keys.followed(changes)
    assert not followed
    assert acme.project.partners.get("globe").peer_key == keys.all[2]
    assert any("two keys" in each for each in alerts(acme, "key_changed"))


@pytest.mark.feature("OP12")
def test_what_was_signed_under_the_first_of_many_keys_still_counts(joined: Pair) -> None:
    keys, partners = Keys(joined), joined.acme.project.partners
    for times in (32, 2):
        assert keys.followed(keys.changed(times))
        joined.clock.advance(days=1)
    row = partners.get("globe")
    assert row.peer_keys == tuple(keys.all)
    row.agreed.verify(row.their_signature or b"", *row.peer_keys)
    with joined.acme.node.home.database.begin() as tx:
        tx.execute(update(connections).values(replaced_keys=bytes(32 * (key_changes.KEYS_AT_MOST - 1))))
    with pytest.raises(RefusedToPartner, match="1,000 times"):
        keys.followed(keys.changed())


@pytest.mark.feature("OP12")
def test_a_thief_with_many_keys_is_found_out(joined: Pair) -> None:
    acme, thief = joined.acme, Keys(joined)
    for _ in range(2):
        assert thief.followed(thief.changed(32))
        joined.clock.advance(days=1)
    joined.globe.node.rotate_key()
    with acme.serving(), pytest.raises(RefusedByPartner):
        joined.globe.project.letters.fetch(joined.globe.project.partners.get("acme"))
    assert any("two keys" in each for each in alerts(acme, "key_changed"))


@pytest.mark.feature("OP12")
@pytest.mark.feature("CN7")
@pytest.mark.parametrize("asks", ["the old key", "we"])
def test_a_replaced_key_does_not_connect_anew(joined: Pair, tmp_path: Path, asks: str) -> None:
    """Its connection is over, so that what it used up is under the new key."""
    acme, old = joined.acme, stolen(joined.globe, tmp_path / "old")
    joined.globe.node.rotate_key()
    with both(joined):
        joined.globe.post()
        joined.globe.project.partners.disconnect("acme")
        joined.post()
    joined.globe.node.close()
    old.open()
    with old.node.home.database.begin() as tx:
        tx.execute(update(connections).values(status="disconnected"))
    with acme.serving(), old.serving():
        if asks == "we":
            with pytest.raises(NotAllowed, match="has replaced that key"):
                request(acme, old)
        else:
            with pytest.raises(RefusedByPartner) as refused:
                request(old, acme, "acme2")
            assert refused.value.code == "key_retired"
            assert any("a request to connect" in each for each in alerts(acme, "key_changed"))
            assert acme.acts("partner.requested", Result.DENY)
    assert set(status(acme).values()) == {"disconnected"}
