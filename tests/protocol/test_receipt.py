"""What both sides sign: a receipt needs both signatures, and a purge names what it took out or the whole feed."""

from dataclasses import replace

import pytest
from parties import CONNECTION, FEED, NAMESPACE, World

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.receipt import PurgeStatement, SignedReceipt
from protocol.release import ReleaseSender
from protocol.states import Kind


@pytest.fixture
def signed(world: World) -> SignedReceipt:
    return world.play(Kind.RELEASE).of(ReleaseSender).result


def test_both_signatures_are_needed(world: World, signed: SignedReceipt) -> None:
    keys = {"receiver_key": world.left.key, "sender_key": world.right.key}
    signed.verify_both(**keys)
    for forged in (
        replace(signed, receiver_signature=signed.sender_signature),
        replace(signed, sender_signature=signed.receiver_signature),
        replace(signed, sender_signature=bytes(64)),
        replace(signed, receipt=replace(signed.receipt, revision=signed.receipt.revision + 1)),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            forged.verify_both(**keys)
        assert caught.value.code == "signature"


WHOLE = PurgeStatement(connection=CONNECTION, feed=FEED, version=0, revision=7, segments=(), namespaces=(), made=1)


def test_a_purge_of_the_whole_feed_names_nothing_and_one_of_a_version_something() -> None:
    part = replace(WHOLE, version=2, segments=(bytes(16),))
    for good in (WHOLE, part, replace(WHOLE, version=2, namespaces=(NAMESPACE,))):
        assert PurgeStatement.decode(good.encode()) == good
    for bad in (replace(WHOLE, version=2), replace(part, version=0), replace(WHOLE, namespaces=(NAMESPACE,))):
        with pytest.raises(LocalProtocolError):
            bad.encode()
