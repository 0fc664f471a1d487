"""F as the cache keeps it: found, added and deleted by identities of every namespace, whatever a version before kept."""

import os
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from node.exchanges.kept_prf import PRF_BYTES, KeptPrf
from node.inputs.normalise import normalise, rule
from node.storage.cache import Cache, Epoch
from psi.join import union
from psi.values import U8, Values

NAMESPACES = ["email_sha256/lc-v1", "ecid/digits-v1", "idfa/uuid-v1", "android_id/hex-v1", "member/opaque-v1"]


def cache_in(home: Path) -> Cache:
    return Cache(home, "partner", Epoch(1, bytes(32)), os.urandom)


def identities(namespace: str, numbers: Iterable[int]) -> Values:
    """Return sorted identities; those of a namespace of one's own are of any length up to 255 bytes."""
    width = rule(namespace).width
    if not width:
        texts = [f"{number}" + "x" * (number * 7 % 250) for number in numbers]
        return union([normalise(rule(namespace), texts).values])
    return union([Values.of([number.to_bytes(4, "little").ljust(width, b"\0") for number in numbers])])


def f_of(values: Values) -> U8:
    """Return rows that stand for F: another one for each identity."""
    rows = [values[place][:PRF_BYTES].ljust(PRF_BYTES, b"\1") for place in range(len(values))]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, PRF_BYTES)


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_it_is_found_added_and_deleted_by_identity(tmp_path: Path, namespace: str) -> None:
    kept = KeptPrf(cache_in(tmp_path), "own", namespace)
    first, some, everybody = (identities(namespace, each) for each in (range(90), range(80, 120), range(120)))
    kept.add(first, f_of(first), public=b"key")
    kept.add(some, f_of(some))
    with kept.open() as have:
        assert (len(have), have.public, have.lost) == (120, b"key", 0)
        places, prf = have.find(everybody)
        assert places.tolist() == list(range(120))
        assert np.array_equal(prf, f_of(everybody))
        assert have.has(some)
        stamp = have.stamp
    went: list[int] = []
    kept.retain(everybody, went.append)
    assert kept.stamp() == stamp
    kept.retain(first, went.append)
    assert went == [30]
    with kept.open() as have:
        assert not have.has(everybody)
        assert np.array_equal(
            everybody.take(~have.missing(everybody)).rows, everybody.take(have.find(everybody)[0]).rows
        )
        assert union([everybody.take(~have.missing(everybody))]).equals(union([first])) or not rule(namespace).width
        assert len(have) == 90
    kept.retain(everybody.take(np.empty(0, np.intp)), went.append)
    with kept.open() as have:
        assert len(have) == 0
        assert have.missing(everybody).all()
        assert have.public == b"key"


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_what_a_version_before_kept_is_taken_over(tmp_path: Path, namespace: str) -> None:
    cache, values = cache_in(tmp_path), identities(namespace, range(50))
    cache.save("own", **values.arrays(), prf=f_of(values), public=np.frombuffer(b"key", np.uint8))
    kept = KeptPrf(cache, "own", namespace)
    with kept.open() as have:
        assert have.public == b"key"
        assert np.array_equal(have.find(values)[1], f_of(values))
    again = KeptPrf(cache, "own", namespace)
    assert again.stamp() == kept.stamp() != b""


def test_what_a_version_before_kept_is_nothing_where_it_is_damaged(tmp_path: Path) -> None:
    cache, values = cache_in(tmp_path), identities(NAMESPACES[0], range(50))
    cache.save("own", **values.arrays(), prf=f_of(values))
    path = cache.path("own")
    path.write_bytes(path.read_bytes()[:-1] + b"\0\0")
    kept = KeptPrf(cache, "own", NAMESPACES[0])
    assert not kept.stamp()
    kept.add(values, f_of(values))
    with kept.open() as have:
        assert have.has(values)


def test_what_is_lost_is_counted_until_nothing_is_missing(tmp_path: Path) -> None:
    kept, values = KeptPrf(cache_in(tmp_path), "own", NAMESPACES[0]), identities(NAMESPACES[0], range(1000))
    more = identities(NAMESPACES[0], range(1000, 1010))
    kept.add(values, f_of(values))
    (base,) = tmp_path.rglob("* part *")
    kept.add(more, f_of(more))
    base.write_bytes(base.read_bytes()[:-1000])
    with kept.open() as have:
        assert have.missing(values).all()
        assert have.has(more)
    with kept.open() as have:
        assert (len(have), have.lost) == (10, 1000)
    kept.found()
    with kept.open() as have:
        assert (len(have), have.lost) == (10, 0)


def test_f_is_merged_and_read_a_block_at_a_time(tmp_path: Path) -> None:
    """Of 524,288 identities a quarter is new: what is in memory is less than half of F, which is 32 MiB."""
    kept, random = KeptPrf(cache_in(tmp_path), "own", NAMESPACES[0]), np.random.default_rng(5)
    rows = np.sort(random.integers(0, 256, (1 << 19, 32), np.uint8).view("S32"), axis=0).view(np.uint8)
    values = Values(rows.reshape(-1, 32))
    prf = random.integers(0, 256, (len(values), PRF_BYTES), np.uint8)
    old = random.random(len(values)) < 0.75
    first, second, fresh = values.take(old), values.take(~old), prf[~old]
    kept.add(first, prf[old])
    tracemalloc.start()
    try:
        kept.add(second, fresh)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < prf.nbytes / 2
    assert len(list(tmp_path.rglob("* part *"))) == 1
    with kept.open() as have:
        assert np.array_equal(have.find(values)[1], prf)
