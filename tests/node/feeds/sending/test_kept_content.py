"""What is kept of a run's content: the same as all of it, after changes, kills and damage; and no more of whoever is erased."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from node.errors import Failure
from node.feeds.sending.kept_content import KeptContent, in_order, kept
from node.feeds.sending.revisions import Content
from node.storage import parts, sorted_files
from node.storage.cache import Cache, Epoch
from node.storage.sorted_files import SortedFile
from psi.join import order_of
from psi.values import U8, Values, sort_keys

EMAIL, CUSTOMER = "email_sha256/lc-v1", "customer/opaque-v1"
Rows = dict[bytes, int]  # bitmaps by identity


class Killed(BaseException):
    pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """Few rows fill a piece, and few parts become one."""
    monkeypatch.setattr(sorted_files, "PIECE", 64)
    monkeypatch.setattr(sorted_files, "LEAST_ROWS", 4)
    monkeypatch.setattr(parts, "MOST_PARTS", 2)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    return Cache(tmp_path, "c", Epoch(number=1, secret=b"s" * 32), os.urandom)


def content(rows: Rows) -> Content:
    values = Values.of([*rows])
    if values.lengths is None and values.rows.shape[1] != 32:
        values = Values(values.rows, np.full(len(rows), values.rows.shape[1], np.uint8))
    order = order_of(values)
    bitmaps = np.array([[each] for each in rows.values()], np.uint8).reshape(-1, 1)
    return Content(values=values.take(order), bitmaps=bitmaps[order])


def identity(namespace: str, number: int) -> bytes:
    return np.random.default_rng(number).bytes(32) if namespace == EMAIL else b"customer %d" % number


def saved(cache: Cache, run: str, namespace: str, rows: Rows) -> U8:
    digests = in_order({namespace: content(rows)})[namespace]
    KeptContent(cache, run, namespace, 1).save(content(rows), digests)
    return digests


def same_digests(of: KeptContent, digests: U8) -> bool:
    found = of.digests()
    return found is not None and np.array_equal(found, digests)


def read(cache: Cache, run: str, namespace: str) -> Rows:
    with kept(cache, run)[namespace].open() as found:
        whole = found.whole()
    return {whole.values[place]: int(whole.bitmaps[place, 0]) for place in range(len(whole.values))}


@pytest.mark.parametrize("namespace", [EMAIL, CUSTOMER])
def test_runs_that_follow_each_other_have_what_a_dict_has_and_its_digests(cache: Cache, namespace: str) -> None:
    random = np.random.default_rng(1)
    now = {identity(namespace, n): 0x80 for n in range(300)}
    digests = saved(cache, "run0", namespace, now)
    for number in range(1, 12):
        changes = {identity(namespace, int(n)): int(random.choice([0, 0x40, 0xC0])) for n in random.choice(400, 9)}
        changed = content({each: bitmap for each, bitmap in changes.items() if bitmap or each in now})
        now = {each: bitmap for each, bitmap in {**now, **changes}.items() if bitmap}
        last = KeptContent(cache, f"run{number - 1}", namespace, 1)
        with last.open() as before:
            digests = before.digests(digests, changed)
        assert np.array_equal(digests, in_order({namespace: content(now)})[namespace])
        KeptContent(cache, f"run{number}", namespace, 1).follow(last, changed, digests)
        for name in [*cache.names(f"content run{number - 1} "), *cache.names(f"digests run{number - 1} ")]:
            cache.drop(name)
        assert read(cache, f"run{number}", namespace) == now
        assert same_digests(kept(cache, f"run{number}")[namespace], digests)


def test_a_kill_while_a_run_is_kept_leaves_the_last_one_as_it_was(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {identity(EMAIL, n): 0x80 for n in range(50)}
    digests = saved(cache, "last", EMAIL, rows)
    changes = content({identity(EMAIL, 1): 0, identity(EMAIL, 60): 0x80})
    real, left = os.replace, [0]

    def killed(made: Path, path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        real(made, path)

    monkeypatch.setattr(os, "replace", killed)
    for steps in range(6):
        left[0] = steps
        last = KeptContent(cache, "last", EMAIL, 1)
        with suppress(Killed):
            KeptContent(cache, f"next{steps}", EMAIL, 1).follow(last, changes, digests)
        left[0] = 100
        assert read(cache, "last", EMAIL) == rows
        assert same_digests(kept(cache, "last")[EMAIL], digests)
    assert left[0] == 100
    assert len(read(cache, "next5", EMAIL)) == 50


def test_whoever_is_erased_is_in_no_file_even_where_the_run_has_them_no_more(cache: Cache) -> None:
    rows = {identity(EMAIL, n): 0x80 for n in range(50)}
    gone = identity(EMAIL, 7)
    digests = saved(cache, "last", EMAIL, rows)
    following = KeptContent(cache, "next", EMAIL, 1)
    following.follow(KeptContent(cache, "last", EMAIL, 1), content({gone: 0}), digests)
    known = content({each: 1 for each in rows if each != gone}).values
    for run in ("last", "next"):
        kept(cache, run)[EMAIL].retain(known)
    for name in cache.names("content "):
        if " part " in name:
            stored = SortedFile.open(cache, cache.path(name), f"content {EMAIL}")
            keys = np.concatenate([block.keys for block in stored.blocks()])
            stored.close()
            assert gone not in {key.tobytes() for key in keys}
    assert kept(cache, "last")[EMAIL].digests() is None  # they were of somebody more
    assert kept(cache, "next")[EMAIL].digests() is not None


def test_content_that_is_damaged_is_nothing(cache: Cache) -> None:
    digests = saved(cache, "last", EMAIL, {identity(EMAIL, n): 0x80 for n in range(50)})
    following = KeptContent(cache, "next", EMAIL, 1)
    following.follow(KeptContent(cache, "last", EMAIL, 1), content({identity(EMAIL, 60): 0x80}), digests)
    path = max((cache.path(name) for name in cache.names("content next ") if " part " in name), key=os.path.getsize)
    damaged = bytearray(path.read_bytes())
    damaged[200] ^= 1
    path.unlink()  # the other name stays as it is
    path.write_bytes(damaged)
    with pytest.raises(Failure), following.open() as found:
        found.whole()
    assert kept(cache, "next") == {}
    assert len(read(cache, "last", EMAIL)) == 50


@pytest.mark.parametrize("namespace", [EMAIL, CUSTOMER])
def test_content_of_the_version_before_is_taken_over_without_digests(cache: Cache, namespace: str) -> None:
    rows = {identity(namespace, n): 0x80 for n in range(20)}
    before = content(rows)
    cache.save(f"content old {namespace}", **before.values.arrays(), bitmaps=before.bitmaps)
    assert read(cache, "old", namespace) == rows
    assert kept(cache, "old")[namespace].digests() is None
    assert read(cache, "old", namespace) == rows


def test_few_identities_are_found(cache: Cache) -> None:
    saved(cache, "run", EMAIL, {identity(EMAIL, n): n for n in range(1, 50)})
    wanted = content({identity(EMAIL, n): 1 for n in (3, 9, 100)}).values
    with kept(cache, "run")[EMAIL].open() as found:
        some = found.find(wanted)
        assert sorted(some.bitmaps[:, 0].tolist()) == [3, 9]
        assert np.array_equal(sort_keys(some.values), sort_keys(some.values.take(order_of(some.values))))
        assert len(found.outside(wanted)) == 47
