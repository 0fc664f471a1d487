"""A folder as a destination, where others may write too: nothing leaves it, and nothing is left in it."""

import os
from pathlib import Path

import pytest

from node.destinations.kinds import Delivered, Later, Message
from node.destinations.targets.folders import FOLDER, FolderTarget
from node.errors import Failure
from node.node import Node
from node.storage import temporary

NAME = "0000000001-s-msg_1.csv"


def message(segment: str = "s") -> Message:
    return Message(id="msg_1", segment=segment, sequence=1, body=b"x\n", now=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_a_link_in_the_folder_is_replaced_and_not_followed(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"kept")
    for name in (NAME, ".vesica-check"):
        (folder / name).symlink_to(other)
    target = FolderTarget(folder, "csv")
    assert target.check(0) == Delivered()
    assert target.send(message()) == Delivered()
    assert other.read_bytes() == b"kept"
    assert not (folder / NAME).is_symlink()
    assert (folder / NAME).stat().st_mode & 0o077 == 0


def test_a_folder_that_became_a_link_into_the_home_gets_nothing(node: Node, folder: Path) -> None:
    data = node.home.path / "data"
    target = FolderTarget(folder, "csv")
    folder.rmdir()
    folder.symlink_to(data)
    before = sorted(data.iterdir())
    assert target.check(0) == Later("folder")
    assert target.send(message()) == Later("folder")
    assert sorted(data.iterdir()) == before


@pytest.mark.parametrize("segment", ["../../x", "a/b", "a\0b"])
def test_a_name_from_a_backup_that_was_written_to_do_harm_leads_nowhere(
    folder: Path, tmp_path: Path, segment: str
) -> None:
    with pytest.raises(Failure, match="cannot be one"):
        FolderTarget(folder, "csv").send(message(segment))
    assert [*tmp_path.rglob("*")] == [folder]


def test_a_check_survives_whatever_has_its_name(folder: Path) -> None:
    (folder / ".vesica-check").mkdir()
    assert FolderTarget(folder, "csv").check(0) == Later("folder")


def test_what_a_dead_process_left_of_a_file_is_deleted(folder: Path, node: Node) -> None:
    file, left = temporary.new_file(folder, NAME)
    file.write(b"p1\n")
    file.close()
    (folder / ".others").write_bytes(b"")
    open_file, open_path = temporary.new_file(folder, NAME)
    FOLDER.open(node.home, {"folder": str(folder), "format": "csv"}, None).close()
    assert sorted(os.listdir(folder)) == sorted([".others", open_path.name])
    assert not left.exists()
    open_file.close()
