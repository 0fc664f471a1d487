"""A restored node knows the keys of its backup alone: what a thief of a replaced key gets of it, and what it does not."""

from pathlib import Path

import pytest
from partnering import alerts, prepared, share
from restoring import both, set_back
from sides import Pair, Person

from node.access.audit import Result
from psi.errors import VesicaError

pytestmark = [pytest.mark.two_nodes, pytest.mark.feature("OP12"), pytest.mark.feature("OP9")]


def test_a_restored_node_follows_a_thief_that_speaks_first_and_is_on_hold_until_somebody_looks(
    idle_pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    pair = idle_pair
    with both(pair):
        prepared(pair, person)
        share(pair.acme, pair.globe, "summer", "vip")
        share(pair.globe, pair.acme, "winter", "loyal")
    (tmp_path / "stolen").mkdir()
    thief = pair.acme.copy(tmp_path / "stolen")
    pair.globe.node.backup(tmp_path / "backup")
    pair.acme.node.rotate_key()
    with both(pair):
        pair.acme.post()
    assert pair.globe.project.partners.get("acme").peer_key == pair.acme.node.key
    set_back(pair, pair.globe, tmp_path / "backup", days=2)

    thief.open()
    thief.node.rotate_key()
    with pair.globe.serving():
        for _ in range(2):  # refused once: globe does not know its key yet
            thief.post()
        assert pair.globe.project.partners.get("acme").peer_key == thief.node.key  # not protected
        assert thief.node.key.hex()[:16] in alerts(pair.globe, "key_replaced")[0]

        thief.project.feeds.revoke("summer")  # not protected: what its letters say is done
        thief.post()
        assert pair.globe.project.received.show("summer")["status"] == "revoked"

        with pytest.raises(VesicaError) as refused:  # protected: nothing of people leaves before a person looks
            pair.globe.project.feeds.sync("winter")
        assert refused.value.code == "on_hold"
        thief.segment("guesses", ["a2", "a3"])
        thief.project.feeds.create("ask", segments=["guesses"], namespaces=["email_sha256/lc-v1"], partners=["globe"])
        with pytest.raises(VesicaError) as refused:
            thief.project.feeds.estimate("ask")
        assert refused.value.code == "on_hold"

        for _ in range(2):
            pair.acme.post()
    thief.node.close()
    assert any("two keys" in each for each in alerts(pair.globe, "key_changed"))  # protected: the theft shows
    assert pair.globe.acts("partner.rotated-key", Result.DENY)
