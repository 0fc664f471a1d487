"""The keys of a channel: another one for each connection, direction, namespace, epoch and purpose."""

from dataclasses import replace
from hashlib import sha256

import pytest
from exchanging import NAMESPACE, Pair

from node.exchanges.channels import Channel
from node.storage.cache import Epoch
from psi import oprf
from psi.keys import Purpose
from psi.values import Values


@pytest.mark.feature("EX7")
def test_every_key_is_fresh_for_connection_direction_namespace_epoch_and_purpose(pair: Pair) -> None:
    """One identity, blinded in every way that differs in one thing, gives as many points."""
    scope, connection = pair.ann.project().scope, pair.connection(pair.ann)
    other = replace(connection, id="0" * 32)
    identity, points = Values.of([sha256(b"person").digest()]), set()
    secret = bytes(32)  # even if two epochs had the same one
    ways = [
        (which, Epoch(number, secret), namespace, protocol, outward, purpose)
        for which in (connection, other)
        for number in (1, 2)
        for namespace in (NAMESPACE, "phone_sha256/e164-v1")
        for protocol in ("count", "release")
        for outward in (True, False)
        for purpose in Purpose
    ]
    for which, epoch, namespace, protocol, outward, purpose in ways:
        channel = Channel.of(scope, which, epoch, namespace, protocol=protocol, outward=outward)
        points.add(oprf.blind(channel.context, identity, channel.key(purpose)).tobytes())
    assert len(points) == len(ways) == 128
