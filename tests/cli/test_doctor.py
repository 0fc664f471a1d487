"""The doctor finds each fault, says what to do, and changes nothing."""

import importlib.metadata
import json
import os
import shlex
import shutil
import socket
import sqlite3
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from homes import Side, connect

from cli.demo import free_ports
from cli.main import main
from node.node import Node
from node.storage.locks import service_lock
from node.storage.tables import jobs

Look = Callable[..., tuple[int, dict[str, dict[str, Any]]]]

pytestmark = pytest.mark.feature("OP13")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    Node.create(home, "Fern", listen=f"127.0.0.1:{free_ports(1)[0]}").close()
    return home


@pytest.fixture
def look(home: Path, capsys: pytest.CaptureFixture[str]) -> Look:
    """Run the doctor; returns its exit code and the findings by check."""

    def run(*more: str) -> tuple[int, dict[str, dict[str, Any]]]:
        capsys.readouterr()
        code = main(["doctor", "--json", "--home", str(home), *more])
        return code, {row["check"]: row for row in json.loads(capsys.readouterr().out)}

    return run


def ill(found: tuple[int, dict[str, dict[str, Any]]]) -> dict[str, str]:
    """Return the faults with what to do about each."""
    code, rows = found
    wrong = {name: f"{row['says']}: {row['hint']}" for name, row in rows.items() if not row["good"]}
    assert code == (1 if wrong else 0)
    return wrong


def test_a_sound_home(home: Path, look: Look, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*.key")}
    assert ill(look()) == {}
    assert main(["doctor", "--home", str(home)]) == 0
    assert "good   keys: they open" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*.key")} == before


def test_who_has_no_token_sees_the_first_checks_and_the_usual_error(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["user", "create", "ann", "--role", "administrator", "--json", "--home", str(home)]) == 0
    token = json.loads(capsys.readouterr().out)["token"]
    assert main(["doctor", "--home", str(home)]) == 1
    said = capsys.readouterr()
    assert "good   kernel" in said.out
    assert "FAULT" not in said.out
    assert "it needs to know which one you are" in said.err
    assert "VESICA_TOKEN" in said.err
    assert main(["doctor", "--json", "--home", str(home)]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "token_needed"
    monkeypatch.setenv("VESICA_TOKEN", token)
    assert main(["doctor", "--home", str(home)]) == 0
    assert "good   keys" in capsys.readouterr().out


def test_files_that_others_could_open_are_closed_and_that_is_said(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [home / "keys" / name for name in ("node.key", "master.key")]
    for each in keys:
        each.chmod(0o644)
    assert main(["doctor", "--json", "--home", str(home)]) == 1
    first, *_, last = [row for row in json.loads(capsys.readouterr().out) if row["check"] == "files"]
    assert sorted(shlex.split(first["hint"].partition("chmod go= ")[2])) == sorted(map(str, keys))
    assert "was open to others; closed now" in last["says"]
    assert {each.stat().st_mode & 0o077 for each in keys} == {0}


def test_a_home_that_others_could_open_is_closed_and_that_is_said(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.chmod(0o755)
    assert main(["doctor", "--home", str(home)]) == 1
    assert f"was open to others; closed now: {home}" in capsys.readouterr().out
    assert home.stat().st_mode & 0o077 == 0


def test_a_missing_key(home: Path, look: Look) -> None:
    (home / "keys" / "node.key").unlink()
    found = ill(look())
    assert "vesica node restore" in found["files"]
    assert "keys" in found


def test_a_wrong_passphrase(home: Path, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    with Node.open(home) as node:
        node.set_passphrase("secret")
    assert "VESICA_PASSPHRASE" in ill(look())["keys"]


def test_a_damaged_database(home: Path, look: Look) -> None:
    file = home / "control.db"
    content = bytearray(file.read_bytes())
    content[4096 * 3 : 4096 * 6] = os.urandom(4096 * 3)
    file.write_bytes(content)
    assert "restore" in ill(look())["database"]


def test_a_database_of_a_newer_release(home: Path, look: Look) -> None:
    with sqlite3.connect(home / "control.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "install that release" in ill(look())["database"]


def test_no_home(home: Path, look: Look) -> None:
    shutil.rmtree(home)
    assert "vesica node init" in ill(look())["database"]


def test_a_port_that_is_taken(home: Path, look: Look) -> None:
    with Node.open(home) as node:
        host, _, port = node.home.config.listen.rpartition(":")
    with socket.create_server((host, int(port))):
        assert "another address" in ill(look())["port"]
    with service_lock(home):
        assert ill(look()) == {}


def test_a_full_disk(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1 << 20))
    assert "make room" in ill(look())["disk"]


def test_a_kernel_that_is_not_there(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    from psi import kernel

    kernel.backend.cache_clear()
    monkeypatch.setenv("VESICA_KERNEL", "abacus")
    try:
        assert "VESICA_KERNEL" in ill(look())["kernel"]
    finally:
        monkeypatch.undo()
        kernel.backend.cache_clear()


def test_a_package_that_is_not_there(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["nowhere-to-be-found>=1", 'x; extra == "dev"'])
    assert "nowhere-to-be-found" in ill(look())["packages"]


def test_an_audit_log_that_was_changed(home: Path, look: Look) -> None:
    with sqlite3.connect(home / "control.db") as database:
        database.execute("UPDATE audit SET actor = 'nobody' WHERE number = 1")
    assert "backup" in ill(look())["audit"]


def test_a_clock_that_is_behind(home: Path, look: Look) -> None:
    with Node.open(home, now=lambda: 4_000_000_000) as node:
        node.create_project("later")
    assert "NTP" in ill(look())["clock"]


def test_a_process_that_died(home: Path, look: Look) -> None:
    (home / "owners").mkdir(exist_ok=True)
    (home / "owners" / "dead").touch()
    assert "vesica node sync" in ill(look())["locks"]


def test_jobs_that_nobody_does(home: Path, look: Look) -> None:
    with Node.open(home) as node, node.home.database.begin() as tx:
        row = {"id": "1" * 32, "project_id": node.project().id, "kind": "release", "parameters": {}, "state": "queued"}
        tx.execute(jobs.insert().values(**row, submitted_by="ann", created=1, changed=1))
    assert "vesica node sync" in ill(look())["jobs"]


@pytest.mark.two_nodes
def test_a_partner_that_does_not_answer_and_letters_that_wait(sides: tuple[Side, Side]) -> None:
    retailer, publisher = sides
    with retailer.serving(), publisher.serving():
        connect(retailer, publisher)
        code, out, _ = publisher.command("doctor", "--partners", "--json")
        rows = [row for row in json.loads(out) if row["check"].startswith("partner") or not row["good"]]
        assert (code, [row["good"] for row in rows]) == (0, [True]), rows
    with sqlite3.connect(publisher.home / "control.db") as database:
        database.execute("UPDATE letters SET delivered = NULL, created = 1")
    code, out, _ = publisher.command("doctor", "--partners", "--json")
    found = {row["check"]: row for row in json.loads(out)}
    assert code == 1
    assert "retailer" in found["letters"]["says"]
    assert "running" in found["partner retailer"]["hint"]
