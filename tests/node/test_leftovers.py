"""What a killed process leaves is gone after the next command that makes such files, and with the service."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cli.demo import free_ports
from node.node import Node
from node.storage.temporary import in_home

KILLER = str(Path(__file__).parents[1] / "support" / "killer.py")
WAIT = 60
SECRET = "nick-of-ann"
PLAIN = b"vesica/1 master plain"
IDENTITY = ("--id", "id", "--identity", "email=email_sha256:raw")
IMPORT = ("profile", "import", "crm.csv", "--dataset", "crm", *IDENTITY, "--attribute", "nick")
SEGMENT = ("segment", "create", "nicks", "--rule", "crm.nick = 'nick-of-ann'")
DUE = ("node", "sync")
BACKUP = ("node", "backup", "copy.tar", "--force")
RESTORE = ("node", "restore", "saved.tar", "--home", "home.new")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three people, and a backup of it beside it."""
    folder = tmp_path_factory.mktemp("made")
    write(folder / "crm.csv", "example.com")
    Node.create(folder / "home", "Fern", listen=f"127.0.0.1:{free_ports(1)[0]}").close()
    assert vesica(folder / "home", IMPORT) == 0
    assert vesica(folder / "home", ("node", "backup", "saved.tar")) == 0
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of that, with other lines in the file to import."""
    copy = shutil.copytree(made, tmp_path / "copy")
    write(copy / "crm.csv", "example.org")
    return copy / "home"


def write(file: Path, domain: str) -> None:
    people = "".join(f"{each},{each}@{domain},nick-of-{each}\n" for each in ("ann", "bob", "eve"))
    file.write_text(f"id,email,nick\n{people}")


def vesica(home: Path, arguments: Sequence[str], *, kill: str = "", **environment: str) -> int:
    """Run a command in a process of its own, in the directory of the home; return its exit code."""
    return subprocess.run(
        [sys.executable, KILLER, *arguments],
        cwd=home.parent,
        env={**os.environ, "VESICA_HOME": str(home), "KILL": kill, **environment},
        capture_output=True,
        timeout=WAIT,
        check=False,
    ).returncode


def killed(home: Path, arguments: Sequence[str], kill: str, **environment: str) -> None:
    assert vesica(home, arguments, kill=kill, **environment) == -signal.SIGKILL


def left(home: Path) -> list[str]:
    """Return what is there beside what ought to be, in the home and beside it."""
    known = {"home", "crm.csv", "saved.tar", "copy.tar", "home.new", "nicks.csv"}
    beside = [path for path in home.parent.iterdir() if path.name not in known]
    return [str(path) for path in (*in_home(home), *beside)]


@pytest.mark.feature("OP12")
@pytest.mark.parametrize(
    "following",
    [
        ("node", "passphrase", "--remove"),
        ("node", "key", "rotate", "--yes"),
        BACKUP,
        ("profile", "erase", "bob", "--yes"),
        DUE,
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_the_plain_master_key_of_a_killed_removal_goes(home: Path, following: Sequence[str]) -> None:
    with Node.open(home) as node:
        node.set_passphrase("old")
    given = {"VESICA_PASSPHRASE": "old", "VESICA_NEW_PASSPHRASE": ""}
    killed(home, ("node", "passphrase", "--remove"), "replacing master.key 1", **given)
    (file,) = (home / "keys").glob(".*")
    assert file.read_bytes().startswith(PLAIN)
    assert vesica(home, following, **given) == 0
    assert left(home) == []


@pytest.mark.feature("OP12")
@pytest.mark.parametrize(
    ("command", "place", "following"),
    [
        (IMPORT, "calling duckdb:connect 1", ("profile", "erase", "bob", "--yes")),
        (IMPORT, "called node.people.attributes:_merged 1", BACKUP),
        (IMPORT, "replacing data/ 1", DUE),
        (SEGMENT, "called node.storage.temporary:_new_directory 1", DUE),
        (BACKUP, "called node.backup.backup:_collect 1", BACKUP),
        (BACKUP, "calling node.storage.outputs:Output.finish 1", BACKUP),
        (RESTORE, "called node.backup.restore:_set_right 1", RESTORE),
        (("node", "set", "--org", "Fern Ltd"), "replacing config.json 1", DUE),
        (("node", "key", "rotate", "--yes"), "replacing node.key 1", ("node", "key", "rotate", "--yes")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_what_a_killed_command_left_goes(
    home: Path, command: Sequence[str], place: str, following: Sequence[str]
) -> None:
    killed(home, command, place)
    assert left(home)
    assert vesica(home, following) == 0
    assert left(home) == []


@pytest.mark.feature("OP11")
def test_an_erased_person_is_in_no_leftover(home: Path) -> None:
    """The import was killed when a temporary file had the person's attributes."""
    killed(home, IMPORT, "calling node.people.drafts:Draft.set_attributes 1")
    killed(home, IMPORT, "calling pathlib:Path.read_bytes 1")
    assert vesica(home, ("profile", "erase", "ann", "--yes")) == 0
    assert left(home) == []
    for path in home.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_the_start_of_the_service_deletes_leftovers(home: Path) -> None:
    killed(home, IMPORT, "calling duckdb:connect 1")
    assert left(home)
    environment = {**os.environ, "VESICA_HOME": str(home)}
    arguments = [sys.executable, KILLER, "node", "serve"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as service:
        try:
            assert service.stdout is not None
            assert service.stdout.readline().startswith(b"listening on ")
            assert left(home) == []
        finally:
            service.terminate()
            service.wait(WAIT)


@pytest.mark.feature("OP13")
def test_the_doctor_names_leftovers(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cli.main import main

    killed(home, BACKUP, "called node.backup.backup:_collect 1")
    (home / "keys" / ".master.key.abcdefgh").write_bytes(b"of an older release")
    assert main(["doctor", "--json", "--home", str(home)]) == 1
    dead, unknown = (row for row in json.loads(capsys.readouterr().out) if row["check"] == "temporary files")
    (backup,) = home.glob(".backup.*")
    assert str(backup) in dead["says"]
    assert "vesica node sync" in dead["hint"]
    assert f"rm -r {home / 'keys' / '.master.key.abcdefgh'}" in unknown["hint"]
    assert backup.exists()  # it changes nothing
