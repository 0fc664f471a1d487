"""A spool survives a kill, says nothing at rest, and notices damage."""

import errno
import os
from pathlib import Path

import pytest

from node.errors import DiskFull, Failure
from node.node import Node
from node.storage.spool import FileSpool


def spool(node: Node) -> FileSpool:
    return FileSpool(node.home.path / "spool" / "x", node.home.keys, os.urandom)


def test_what_was_stored_is_there_after_a_restart(node: Node) -> None:
    first = spool(node)
    first["tags", 0], first["tags", 10], first["tags-sent", 0] = b"one", b"ten", b""
    again = spool(node)
    assert dict(again) == {("tags", 0): b"one", ("tags", 10): b"ten", ("tags-sent", 0): b""}
    assert ("tags", 1) not in again
    with pytest.raises(KeyError):
        again["tags", 1]
    del again["tags", 0]
    assert len(spool(node)) == 2


def test_it_is_unreadable_at_rest_and_gone_when_destroyed(node: Node) -> None:
    kept = spool(node)
    kept["universe", 0] = b"thirty-two bytes of somebody's point"
    directory = node.home.path / "spool" / "x"
    for path in directory.iterdir():
        assert b"somebody" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0
    kept.destroy()
    kept.destroy()
    assert not directory.exists()


def test_damage_and_exchanged_files_are_noticed(node: Node) -> None:
    kept = spool(node)
    kept["tags", 0], kept["tags", 1] = b"zero", b"one"
    directory = node.home.path / "spool" / "x"
    (directory / "tags.1").write_bytes((directory / "tags.0").read_bytes())
    (directory / "tags.0").write_bytes(b"short")
    for chunk in (0, 1):
        with pytest.raises(Failure, match="damaged"):
            kept["tags", chunk]


@pytest.mark.parametrize("name", ["../x", "", "a/b", "A", "a.b"])
def test_no_step_leads_out_of_the_directory(name: str, node: Node) -> None:
    with pytest.raises(KeyError):
        spool(node)[name, 0] = b"x"


def test_a_full_disk_loses_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = spool(node)
    kept["tags", 0] = b"zero"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        kept["tags", 1] = b"one"
    monkeypatch.undo()
    assert dict(spool(node)) == {("tags", 0): b"zero"}
    assert [path for path in Path(node.home.path / "spool" / "x").iterdir() if path.name.startswith(".")] == []
