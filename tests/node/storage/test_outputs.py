"""A result goes where it was sent, and costs nobody a file: no device, pipe or file is replaced."""

import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from node.errors import AlreadyExists, Failure, InvalidInput
from node.storage import outputs


def write(path: Path | str, *, force: bool = False) -> None:
    with outputs.opened(path, force=force) as out:
        out.write(b"new")


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_new_file_is_its_owners_and_appears_when_it_is_whole(tmp_path: Path) -> None:
    with outputs.opened(tmp_path / "out") as out:
        assert "out" not in left(tmp_path)
        out.write([b"ne", b"w"])
    assert (tmp_path / "out").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600
    with pytest.raises(RuntimeError), outputs.opened(tmp_path / "other"):
        raise RuntimeError
    assert left(tmp_path) == {"out"}


def test_no_file_is_replaced_unless_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    (tmp_path / "link").symlink_to("out")
    for name in ("out", "link"):
        with pytest.raises(AlreadyExists):
            write(tmp_path / name)
    assert (tmp_path / "out").read_bytes() == b"old"
    write(tmp_path / "link", force=True)
    assert (tmp_path / "out").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()
    with outputs.opened(tmp_path / "late") as out:
        (tmp_path / "late").write_bytes(b"old")
        with pytest.raises(AlreadyExists):
            out.write(b"new")
    assert (tmp_path / "late").read_bytes() == b"old"
    assert left(tmp_path) == {"out", "link", "late"}


def test_a_result_never_goes_into_what_it_is_made_of(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"old")
    (tmp_path / "link").symlink_to("in")
    os.link(tmp_path / "in", tmp_path / "same")
    for name in ("in", "link", "same"):
        with pytest.raises(InvalidInput, match="what is read"):
            outputs.opened(tmp_path / name, force=True, inputs=[tmp_path / "in"]).__enter__()


@pytest.mark.parametrize("name", ["absent/out", "folder"])
def test_a_place_that_is_none_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match="directory"):
        write(tmp_path / name)
    assert left(tmp_path) == {"folder"}


def test_a_place_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(Failure):
        write(tmp_path / ("x" * 300))


def through_a_pipe(path: Path, send: Callable[[], None]) -> bytes:
    """Return what a reader of a FIFO gets while `send` runs."""
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    try:
        send()
    finally:
        reader.join(10)
    return got[0]


@pytest.mark.parametrize("force", [False, True])
def test_a_pipe_and_a_link_to_one_are_written_through(tmp_path: Path, force: bool) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        assert outputs.is_special(tmp_path / name)
        assert through_a_pipe(tmp_path / "pipe", lambda name=name: write(tmp_path / name, force=force)) == b"new"  # type: ignore[misc]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert left(tmp_path) == {"pipe", "link"}


def test_a_terminal_is_written_to_as_it_stands(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    try:
        (tmp_path / "link").symlink_to(os.ttyname(theirs))
        before = os.fstat(theirs)
        write(tmp_path / "link", force=True)
        assert os.read(ours, 100) == b"new"
        assert os.path.samestat(before, os.stat(os.ttyname(theirs)))
    finally:
        os.close(ours)
        os.close(theirs)


def test_an_open_file_gets_it_by_its_number(tmp_path: Path) -> None:
    """As /dev/stdout does, which is a link to such a number: also where a shell opened a file for it."""
    with (tmp_path / "opened").open("wb") as file:
        with pytest.raises(InvalidInput, match="not open for a result"):  # as the database's own descriptor is not
            write(f"/dev/fd/{file.fileno()}")
        os.set_inheritable(file.fileno(), True)
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{file.fileno()}")
        for path in (f"/proc/self/fd/{file.fileno()}", f"/dev/fd/{file.fileno()}", tmp_path / "link"):
            write(path)
    assert (tmp_path / "opened").read_bytes() == b"newnewnew"
    assert left(tmp_path) == {"opened", "link"}


@pytest.mark.skipif(os.geteuid() != 0, reason="to make another user's link takes root, as in .ci/run")
def test_a_link_that_another_user_put_where_everybody_writes_is_not_followed(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "out.csv").symlink_to(tmp_path / "victim")
    write(shared / "out.csv")
    (tmp_path / "victim").unlink()
    os.chown(shared / "out.csv", 65_534, 65_534, follow_symlinks=False)
    with pytest.raises(InvalidInput, match="another user's link"):
        write(shared / "out.csv")
    assert not (tmp_path / "victim").exists()


def test_what_another_process_has_open_is_never_ours_of_that_number(tmp_path: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        with (tmp_path / "ours").open("wb") as ours:
            ours.write(b"rows")
            ours.flush()
            kept = os.dup(0)
            os.dup2(ours.fileno(), 0)  # ours of the number where the other process has its pipe
            try:
                pipe = f"/proc/{other.pid}/fd/0"
                assert outputs.is_special(pipe)
                assert not outputs.is_standard(f"/proc/{other.pid}/fd/1")
                write(pipe)
            finally:
                os.dup2(kept, 0)
                os.close(kept)
        other.stdin.close()
        assert other.stdout.read() == b"new"
    assert (tmp_path / "ours").read_bytes() == b"rows"


def test_a_file_that_another_process_has_open_is_not_replaced(tmp_path: Path) -> None:
    with (
        (tmp_path / "theirs").open("wb") as theirs,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=theirs) as other,
    ):
        with pytest.raises(AlreadyExists):
            write(f"/proc/{other.pid}/fd/1")
        other.communicate(b"old")
    assert (tmp_path / "theirs").read_bytes() == b"old"


def test_a_dash_is_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write("-")
    assert capfdbinary.readouterr().out == b"new"
    assert outputs.is_standard("-")
    assert outputs.is_standard("/dev/stdout")
    assert not outputs.is_standard("/dev/stderr")
    assert not Path("-").exists()
