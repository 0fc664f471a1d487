"""Sorted rows in a base and parts: the same as a dict, however they came, were damaged, or the process was killed."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import Failure
from node.storage import parts as parts_module
from node.storage import sorted_files
from node.storage.cache import Cache, Epoch
from node.storage.parts import Parts
from node.storage.sorted_files import Block, SortedFile
from node.storage.views import View
from psi.values import U8

NAMES = range(120)
EXAMPLES = 40
Model = dict[bytes, bytes]


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows fill a piece, and few pieces what is open at once."""
    monkeypatch.setattr(sorted_files, "PIECE", 64)
    monkeypatch.setattr(sorted_files, "LEAST_ROWS", 4)
    monkeypatch.setattr(sorted_files, "OPENED", 256)
    monkeypatch.setattr(parts_module, "MOST_PARTS", 3)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


def key(name: int) -> bytes:
    """Return one of 120 keys, of which many begin alike, and some end with zeros."""
    return bytes([name % 3 * 127]) * 9 + (name // 3).to_bytes(3, "little") + bytes(4)


def rows(model: Model, size: int = 7) -> list[Block]:
    given = sorted(model.items())
    parts = [given[start : start + size] for start in range(0, len(given), size)]
    return [
        Block(
            array([each for each, _ in part], 16),
            {"first": array([each for _, each in part], 5), "second": second(part)},
        )
        for part in parts
    ]


def array(given: Iterable[bytes], width: int) -> U8:
    return np.frombuffer(b"".join(given), np.uint8).reshape(-1, width)


def second(part: list[tuple[bytes, bytes]]) -> U8:
    return array([each[:3] * 2 + each[-1:] for each, _ in part], 7)


def cache_in(home: Path) -> Cache:
    return Cache(home, "partner", Epoch(1, bytes(32)), os.urandom)


def kept(home: Path, *, empty: str | None = None) -> Parts:
    return Parts(cache_in(home), "some", key=16, columns={"first": 5, "second": 7}, empty=empty)


def read(parts: Parts) -> Model:
    """Return all that there is, read in every way: in order, by keys, and counted."""
    with parts.open() as view:
        everything = Block.join([*view.blocks(rows=8), *rows({bytes(16): bytes(5)})])
        found = dict(zip(map(bytes, everything.keys[:-1]), map(bytes, everything.columns["first"][:-1]), strict=True))
        assert [*found] == sorted(found)
        assert [bytes(each) for block in view.blocks(keys_only=True) for each in block.keys] == [*found]
        assert np.array_equal(everything.columns["second"][:-1], second([*found.items()]))
        for wanted in (NAMES, [3], NAMES[50:52], NAMES[::7]):
            ascending = sorted(map(key, wanted))
            places, block = view.find(array(ascending, 16))
            assert [ascending[place] for place in places] == [each for each in ascending if each in found]
            assert [bytes(each) for each in block.keys] == [ascending[place] for place in places]
            assert [bytes(each) for each in block.columns["first"]] == [found[bytes(each)] for each in block.keys]
            places, block = view.find(array(ascending, 16), ("second",))
            assert np.array_equal(block.columns["second"], second([(bytes(each), b"") for each in block.keys]))
            assert list(block.columns) == ["second"]
        assert len(view) == len(found)
        assert view.stamp == parts.stamp()
        assert bool(view.stamp) or not found
    return found


def files(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*part*") if path.is_file() and not path.name.startswith("."))


def keys_of(home: Path, path: Path) -> set[bytes]:
    file = SortedFile.open(cache_in(home), path, "some")
    try:
        return {bytes(each) for block in file.blocks(keys_only=True) for each in block.keys}
    finally:
        file.close()


names = st.sets(st.sampled_from(NAMES), max_size=30)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), names, st.integers(0, 255)),
        st.tuples(st.just("write"), st.sets(st.sampled_from(NAMES), max_size=2), st.integers(0, 255)),
        st.tuples(st.just("erase"), names, st.just(0)),
        st.tuples(st.just("damage"), st.integers(0, 9), st.integers(0, 10_000)),
    ),
    max_size=12,
)


class Home:
    """Parts in a folder, and what they should be."""

    def __init__(self, folder: Path, *, replaces: bool) -> None:
        self.folder, self.replaces, self.model = folder, replaces, Model()
        self.parts = kept(folder, empty="first" if replaces else None)

    def after(self, step: Any) -> Model:
        """Return what should be there after a step."""
        kind, some, number = step
        chosen = {key(each): bytes([number]) * 5 for each in some} if kind != "damage" else {}
        if kind == "erase":
            return {each: value for each, value in self.model.items() if each not in chosen}
        model = {**self.model, **chosen} if self.replaces else {**chosen, **self.model}
        return {each: value for each, value in model.items() if any(value) or not self.replaces}

    def do(self, step: Any) -> None:
        kind, some, number = step
        before, expected = self.model, self.after(step)
        if kind == "write":
            blocks = rows({key(each): bytes([number]) * 5 for each in some})
            change = self.parts.put(blocks) if self.replaces else self.parts.add(blocks)
            assert change == len(expected) - len(before)
        elif kind == "erase":
            gone = {key(each) for each in some}
            went = self.parts.retain(lambda keys: np.array([bytes(each) not in gone for each in keys], bool))
            assert went == len(before) - len(expected)
            assert not any(gone & keys_of(self.folder, path) for path in files(self.folder))
        else:
            self.damage(some, number)
            return
        self.model = expected

    def damage(self, which: int, place: int) -> None:
        there = files(self.folder)
        if not there:
            return
        path = there[which % len(there)]
        own, stamp, content = keys_of(self.folder, path), self.parts.stamp(), bytearray(path.read_bytes())
        content[place % len(content)] ^= 1
        path.write_bytes(content)
        if self.replaces:
            with suppress(Failure), self.parts.open() as view:
                list(view.blocks())
            assert read(self.parts) == {}
            self.model = {}
        else:
            with self.parts.open() as view:  # what is damaged is found as it is read
                list(view.blocks())
            found = read(self.parts)
            assert found == {each: value for each, value in self.model.items() if each not in own}
            self.model = found
        assert self.parts.stamp() != stamp


@pytest.mark.parametrize("replaces", [False, True])
@settings(max_examples=EXAMPLES, deadline=None)
@given(steps)
def test_they_are_what_a_dict_would_be(replaces: bool, given: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), replaces=replaces)
        for step in given:
            stamp, before = home.parts.stamp(), home.model
            home.do(step)
            assert read(home.parts) == home.model
            assert home.parts.stamp() != stamp or before == home.model
            assert len(files(home.folder)) <= 5


def killing(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the process die at one of its next steps that change what is on disk."""
    left = [at]
    for name in ("replace", "unlink", "fsync"):

        def step(real: Callable[..., Any], *given: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*given, **more)

        monkeypatch.setattr(os, name, partial(step, getattr(os, name)))


@pytest.mark.parametrize("replaces", [False, True])
@settings(max_examples=EXAMPLES, deadline=None)
@given(steps.filter(bool), st.integers(0, 12))
def test_a_kill_leaves_what_was_there_before_or_what_is_there_after(replaces: bool, given: list[Any], at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), replaces=replaces)
        *before, last = given
        for step in before:
            home.do(step)
        expected = home.after(last)
        if last[0] == "damage":
            return
        with pytest.MonkeyPatch.context() as monkeypatch:
            killing(monkeypatch, at)
            with suppress(Killed):
                home.do(last)
        assert read(home.parts) in (home.model, expected)
        home.model = read(home.parts)
        home.do(("write", {1, 50}, 7))
        home.do(("erase", {2, 50}, 0))
        assert read(home.parts) == home.model


def test_two_may_write_at_once(tmp_path: Path) -> None:
    """Both write the same keys and some of their own: nothing is there twice, and nothing is lost."""
    first, other = kept(tmp_path), kept(tmp_path)
    mine, theirs = ({key(each): bytes([each]) * 5 for each in some} for some in (range(60), range(40, 120)))

    def late() -> Iterator[Block]:
        for number, block in enumerate(rows(mine)):
            if number == 3:
                assert other.add(rows(theirs)) == 80
            yield block

    assert first.add(late()) == 40
    assert read(first) == mine | theirs


def test_what_is_erased_while_parts_are_merged_stays_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = kept(tmp_path), kept(tmp_path)
    everybody = {key(each): bytes([each + 1]) * 5 for each in NAMES}
    first.add(rows({key(each): everybody[key(each)] for each in range(60)}))
    real, erased = View.blocks, array([key(0), key(70)], 16)

    def merging(self: View, **given: Any) -> Iterator[Block]:
        blocks = list(real(self, **given))
        if "first" in given:
            other.retain(lambda keys: np.array([bytes(each) not in set(map(bytes, erased)) for each in keys]))
        return iter(blocks)

    monkeypatch.setattr(View, "blocks", merging)
    assert first.add(rows({key(each): everybody[key(each)] for each in range(60, 120)})) == 60
    monkeypatch.undo()
    assert read(first) == {each: value for each, value in everybody.items() if each not in map(bytes, erased)}
    assert all(not set(map(bytes, erased)) & keys_of(tmp_path, path) for path in files(tmp_path))


def test_what_is_lost_while_parts_are_merged_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, everybody = kept(tmp_path), {key(each): bytes([each + 1]) * 5 for each in NAMES}
    for start in (0, 118):
        parts.add(rows({key(each): everybody[key(each)] for each in range(start, start + 2 if start else 100)}))
    base = max(files(tmp_path), key=lambda path: path.stat().st_size)
    content = bytearray(base.read_bytes())
    content[100] ^= 1
    base.write_bytes(content)
    monkeypatch.setattr(Parts, "lose", lambda _self, _salt: None)  # another process is about to note it
    parts.add(rows({key(each): everybody[key(each)] for each in range(100, 118)}))
    monkeypatch.undo()
    with parts.open() as view:
        list(view.blocks())
        assert (view.lost, len(view)) == (100, 20)


def test_what_is_open_stays_as_it_was(tmp_path: Path) -> None:
    parts, model = kept(tmp_path), {key(each): b"every" for each in NAMES}
    parts.add(rows(model), about=b"the first")
    with parts.open() as view:
        parts.drop()
        assert sum(map(len, view.blocks())) == len(view.find(array(sorted(model), 16))[0]) == len(view) == 120
        assert view.about == b"the first"
    assert not parts.stamp()
    assert read(parts) == {}
    assert not files(tmp_path)


def test_other_columns_under_the_same_name_begin_anew(tmp_path: Path) -> None:
    kept(tmp_path).add(rows({key(1): b"first"}))
    wider = Parts(cache_in(tmp_path), "some", key=16, columns={"only": 2})
    assert not wider.stamp()
    wider.add([Block(array([key(2)], 16), {"only": array([b"it"], 2)})])
    with wider.open() as view:
        assert [bytes(each.keys[0]) for each in view.blocks()] == [key(2)]
    assert len(files(tmp_path)) == 1


def test_a_small_change_writes_and_reads_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # pieces as large as they are
    parts, count = Parts(cache_in(tmp_path), "some", key=32, columns={"prf": 64}), 1 << 17
    keys = np.frombuffer(np.random.default_rng(4).bytes(count * 32), np.uint8).reshape(-1, 32)
    keys = np.sort(keys.view("S32"), axis=0).view(np.uint8).reshape(-1, 32)
    every = Block(keys, {"prf": np.hstack([keys, keys])})
    new = np.arange(0, count, count // 20)
    parts.add([every.take(np.setdiff1d(np.arange(count), new))])
    (base,) = files(tmp_path)
    parts.add([every.take(new)])
    assert base in files(tmp_path)
    assert sum(path.stat().st_size for path in files(tmp_path) if path != base) < 20_000
    opened: list[int] = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *given: opened.append(real(*given)) or opened[-1])  # type: ignore[func-returns-value]
    with parts.open() as view:
        places, block = view.find(keys[new[:3] + 1])
    assert np.array_equal(block.columns["prf"], every.columns["prf"][new[:3] + 1])
    assert len(places) == 3
    assert sum(opened) < 200_000
