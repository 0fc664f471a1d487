"""A temporary file goes once the process that made it is dead, and not before."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.errors import Failure
from node.storage import temporary
from node.storage.files import write_atomically
from node.storage.locks import Process
from node.storage.temporary import Owner, in_home, new_directory, new_file, owner_of, remove_leftovers

WORK = """
import sys
from pathlib import Path
from node.storage.temporary import new_directory, new_file
home = Path(sys.argv[1])
file, path = new_file(home / "keys", "master.key")
with new_directory(home, "backup") as folder, new_directory(home.parent, "home.restoring") as beside:
    (folder / "key").write_text("secret")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    for name in ("keys", "cache", "spool", "data"):
        (home / name).mkdir(parents=True)
    return home


@contextmanager
def at_work(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process have three temporary files and directories; it is killed at the end."""
    arguments = [sys.executable, "-c", WORK, str(home)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def left_by_a_killed(home: Path) -> list[Path]:
    with at_work(home) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    return list(in_home(home))


def test_what_a_living_process_has_stays_and_goes_as_soon_as_it_was_killed(home: Path) -> None:
    with at_work(home) as process:
        made = list(in_home(home))
        assert len(made) == 3
        for path in made:  # however old it looks
            os.utime(path, (0, 0))
        remove_leftovers(home)
        assert list(in_home(home)) == made
        assert {owner_of(path) for path in made} == {Owner.ALIVE}
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert {owner_of(path) for path in made} == {Owner.DEAD}
    remove_leftovers(home)
    assert list(in_home(home)) == []
    assert sorted(path.name for path in home.parent.iterdir()) == ["home"]


def test_one_process_knows_its_own_files_too(home: Path) -> None:
    """A service sweeps while its own threads write."""
    with new_directory(home, "backup") as folder:
        file, path = new_file(home / "cache", "own")
        remove_leftovers(home)
        assert folder.is_dir()
        assert path.exists()
        file.close()
        remove_leftovers(home)
        assert not path.exists()
    assert list(in_home(home)) == []


def test_what_another_machine_made_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its locks may be seen there alone; the same machine started anew, or a container under this kernel, is known."""
    made = left_by_a_killed(home)
    monkeypatch.setattr(temporary, "boot", lambda: "0" * 8)
    monkeypatch.setattr(temporary, "machine", lambda: "1" * 8)
    remove_leftovers(home)
    assert list(in_home(home)) == made
    assert {owner_of(path) for path in made} == {Owner.UNKNOWN}
    monkeypatch.undo()
    for same in ("boot", "machine"):
        made = left_by_a_killed(home)
        monkeypatch.setattr(temporary, same, lambda: "0" * 8)
        remove_leftovers(home)
        assert list(in_home(home)) == []
        monkeypatch.undo()


def test_without_locks_files_are_written_and_nothing_is_deleted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    write_atomically(home / "config.json", b"written")
    assert (home / "config.json").read_bytes() == b"written"
    file, path = new_file(home / "keys", "master.key")
    with file, new_directory(home, "backup") as folder:
        remove_leftovers(home)
        monkeypatch.undo()
        remove_leftovers(home)  # it has locks again, but the owner could not take one
        assert folder.is_dir()
        assert path.exists()
        assert {owner_of(each) for each in in_home(home)} == {Owner.UNKNOWN}
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(Failure, match="No locks available"):
        Process(home).show_alive()


def test_who_writes_while_another_sweeps_loses_nothing(home: Path) -> None:
    """Between the making of a file and its lock a sweep may take it away: then another one is made."""
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            remove_leftovers(home)

    sweeping = threading.Thread(target=sweep)
    sweeping.start()
    try:
        for number in range(300):
            write_atomically(home / "cache" / "own", str(number).encode())
            with new_directory(home, "backup") as folder:
                (folder / "key").write_text("secret")
                assert (folder / "key").read_text() == "secret"
    finally:
        done.set()
        sweeping.join(60)
    assert (home / "cache" / "own").read_bytes() == b"299"


def test_a_file_that_was_taken_before_its_lock_is_made_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock
    taken: list[Path] = []

    def late(descriptor: int, operation: int) -> None:
        if not taken:
            taken.extend(in_home(home))
            for path in taken:
                path.unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    file, path = new_file(home, "config.json")
    with file:
        assert len(taken) == 1
        assert path.exists()
        assert path not in taken


def test_what_an_older_release_left_goes_after_an_hour_and_what_others_put_there_stays(home: Path) -> None:
    """Its files have no owner; a hidden file of the operator is none of ours."""
    for name in (".backup.abcdefgh", "data/p1/.duckdb.abcdefgh"):
        (home / name).mkdir(parents=True)
    left = [home / name for name in (".backup.abcdefgh", "data/p1/.duckdb.abcdefgh", "keys/.master.key.abcdefgh")]
    left[2].write_bytes(b"key")
    (home / ".env").write_text("mine")
    (home / ".git" / "objects").mkdir(parents=True)
    remove_leftovers(home)
    assert all(path.exists() for path in left)
    for path in home.rglob("*"):
        os.utime(path, (0, 0))
    remove_leftovers(home)
    assert not any(path.exists() for path in left)
    assert (home / ".env").exists()
    assert (home / ".git" / "objects").is_dir()


def test_a_long_name_leaves_room_for_the_owner(home: Path) -> None:
    write_atomically(home / ("ä" * 127), b"written")
    assert (home / ("ä" * 127)).read_bytes() == b"written"
