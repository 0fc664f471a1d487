"""The keys of a channel: another one for each connection, direction, namespace, epoch and purpose."""

import tracemalloc
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from exchanging import NAMESPACE, Pair

from node.exchanges import channels
from node.exchanges.channels import PRF_BYTES, Channel, save_sorted
from node.storage.cache import PIECE, Cache, Epoch, OpenRows
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


def test_f_is_merged_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 96 parts in the file and 32 new ones, what is in memory beside the identities is less than half of F."""
    monkeypatch.setattr(channels, "BLOCK_ROWS", PIECE // PRF_BYTES)
    cache = Cache(tmp_path, "partner", Epoch(1, bytes(32)), lambda size: bytes(size))
    random = np.random.default_rng(5)
    rows = np.unique(random.integers(0, 2**63, 131_072, np.int64)).astype(">i8").view(np.uint8).reshape(-1, 8)
    values = Values(np.hstack([rows, np.zeros((len(rows), 8), np.uint8)]))
    prf = random.integers(0, 256, (len(values), PRF_BYTES), np.uint8)
    old = random.random(len(values)) < 0.75
    first, second = values.take(old), values.take(~old)
    cache.save("f", **first.arrays(), prf=prf[old])
    fresh = prf[~old]
    with cache.open("f") as stored:
        tracemalloc.start()
        try:
            save_sorted(cache, "f", [first, second], [OpenRows(stored, "prf", len(first)), fresh], public=fresh[:1])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    saved = cache.load("f")
    assert saved is not None
    assert np.array_equal(saved["rows"], values.rows)
    assert np.array_equal(saved["prf"], prf)
    assert np.array_equal(saved["public"], fresh[:1])
    assert peak - 4 * values.rows.nbytes < prf.nbytes / 2
