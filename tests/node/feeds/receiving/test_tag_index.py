"""The tags of our own people: looked up they lead to the identities that records are about, whatever F has come since."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from node.exchanges.kept_prf import KeptPrf
from node.feeds.receiving import tag_index
from node.feeds.receiving.tag_index import TagIndex
from node.storage.cache import Cache, Epoch
from psi import membership
from psi.join import join_order
from psi.values import U8, Values, sort_keys

FEED, FEED_ID = b"\1" * 16, "ab" * 16
EMAIL, LOYALTY = "email_sha256/lc-v1", "loyalty/opaque-v1"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setattr(tag_index, "RUN", 40)
    return Cache(tmp_path, "partner", Epoch(1, bytes(32)), np.random.default_rng(1).bytes)


def identities(namespace: str, numbers: range) -> Values:
    texts = [str(n).encode() for n in numbers]
    if namespace == LOYALTY:
        given = Values.of([b"", *sorted(texts)])  # which has every length
        return given.take(np.arange(1, len(given)))
    return Values.of(sorted(hashlib.sha256(text).digest() for text in texts))


def f_of(values: Values) -> U8:
    digests = b"".join(hashlib.sha512(values[n]).digest() for n in range(len(values)))
    return np.frombuffer(digests, np.uint8).reshape(-1, 64)


def kept(cache: Cache, namespace: str) -> KeptPrf:
    return KeptPrf(cache, f"prf {namespace}", namespace)


def add(cache: Cache, namespace: str, values: Values) -> bytes:
    kept(cache, namespace).add(values, f_of(values), public=bytes(32))
    return kept(cache, namespace).stamp()


def index_of(cache: Cache, namespace: str, feed_id: str = FEED_ID) -> TagIndex:
    return TagIndex(cache, feed_id, FEED, namespace, kept(cache, namespace))


def find(cache: Cache, namespace: str, values: Values) -> list[bytes]:
    tags = membership.tags_of(f_of(values), FEED)
    found = index_of(cache, namespace).find(tags[join_order(tags)])
    assert found is not None
    return [found[n] for n in range(len(found))]


def listed(values: Values) -> list[bytes]:
    keys = sort_keys(values)
    return [values[int(n)] for n in join_order(keys)]


@pytest.mark.parametrize("namespace", [EMAIL, LOYALTY])
def test_those_of_ours_are_found(cache: Cache, namespace: str) -> None:
    assert find(cache, namespace, identities(namespace, range(3))) == []
    before = add(cache, namespace, identities(namespace, range(100)))
    assert find(cache, namespace, identities(namespace, range(95, 120))) == listed(
        identities(namespace, range(95, 100))
    )
    index = index_of(cache, namespace)
    for start in (100, 120, 140):  # added, in a new run where the last one is full
        new = identities(namespace, range(start, start + 20))
        after = add(cache, namespace, new)
        with pytest.MonkeyPatch.context() as patched:
            if start != 120:
                patched.setattr(TagIndex, "_make", None)  # nothing is made again
                index.add(new, f_of(new), before=before, after=after)
            assert find(cache, namespace, new) == listed(new)
        before = after
    assert find(cache, namespace, identities(namespace, range(200))) == listed(identities(namespace, range(160)))


def test_a_damaged_index_is_made_again(cache: Cache) -> None:
    values = identities(EMAIL, range(100))
    add(cache, EMAIL, values)
    assert find(cache, EMAIL, values) == listed(values)
    for number in range(len(cache.names("tags"))):
        path = cache.path(cache.names("tags")[number])
        path.write_bytes(path.read_bytes()[:-9])
        tags = membership.tags_of(f_of(values), FEED)
        first = index_of(cache, EMAIL).find(tags[join_order(tags)])  # may come upon the damage
        assert first is None or len(first) == len(values)
        assert find(cache, EMAIL, values) == listed(values)


def test_one_of_a_feed_goes_alone_and_that_of_a_namespace_with_all(cache: Cache) -> None:
    for namespace in (EMAIL, LOYALTY):
        values = identities(namespace, range(5))
        add(cache, namespace, values)
        for feed_id in (FEED_ID, "cd" * 16):
            index_of(cache, namespace, feed_id).cover()
    tag_index.forget_stale(cache, LOYALTY, b"of another F")
    assert {name.split()[1] for name in cache.names("tags")} == {EMAIL}
    tag_index.forget(cache, FEED_ID)
    assert {name.split()[2] for name in cache.names("tags")} == {"cd" * 16}
