"""Commands with a result for a file: where it goes is opened first, and nothing that is there is lost."""

import io
import json
import os
import tarfile
import threading
import time
from pathlib import Path

import pytest

from cli.main import main
from node.adhoc.session import Party
from node.node import Node
from protocol.connectid import ConnectId


@pytest.fixture
def _home(home: Path, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VESICA_HOME", str(home))
    Path("crm.csv").write_text("id,orders\n1,5\n2,7\n")
    node.project().profiles.import_("crm.csv", dataset="crm", id_column="id", identities=[], attributes=["orders"])
    node.project().segments.create("buyers", rule="orders > 1")


COMMANDS = [["segment", "export", "buyers"], ["audit", "export"], ["node", "backup"]]


@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize("command", COMMANDS)
def test_standard_output_gets_the_result_and_nothing_else(
    command: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    for name in ("-", "/dev/stdout"):
        assert main([*command, name]) == 0
        out = capfdbinary.readouterr().out
        if command[0] == "node":
            with tarfile.open(fileobj=io.BytesIO(out)) as tar:
                assert tar.getnames()[-1] == "manifest.json"
        else:
            assert out.splitlines()[0] in (b"id", b"number,at,project,actor_kind,actor,act,target,result,detail,digest")
    assert main([*command, "-", "--json"]) == 0
    assert not Path("-").exists()


@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_is_replaced_by_force_only_and_a_directory_has_to_be_there(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.tar").write_text("mine")
    assert main([*command, "mine.tar"]) == 1
    assert "there is a file" in capsys.readouterr().err
    assert Path("mine.tar").read_text() == "mine"
    assert main([*command, "absent/out.tar"]) == 1
    assert "there is no directory" in capsys.readouterr().err
    assert not Path("absent").exists()
    assert main([*command, "mine.tar", "--force"]) == 0
    assert Path("mine.tar").read_bytes() != b"mine"
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_gets_the_result(command: list[str]) -> None:
    os.mkfifo("pipe.tar", 0o600)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(Path("pipe.tar").read_bytes()))
    reader.start()
    assert main([*command, "pipe.tar"]) == 0
    reader.join(10)
    assert len(got[0]) > 5
    assert Path("pipe.tar").is_fifo()


@pytest.mark.feature("OP9")
@pytest.mark.usefixtures("_home")
def test_a_backup_from_a_pipe_can_be_restored(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["node", "backup", "-"]) == 0
    Path("piped.tar").write_bytes(capfdbinary.readouterr().out)
    monkeypatch.setenv("VESICA_HOME", "again")
    assert main(["node", "restore", "piped.tar"]) == 0
    assert main(["segment", "export", "buyers", "-"]) == 0
    assert capfdbinary.readouterr().out.endswith(b"id\n1\n2\n")


@pytest.mark.parametrize("more", [[], ["--force"]])
def test_a_match_never_writes_over_its_own_input(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before anybody is called: nobody listens there."""
    file = tmp_path / "t.csv"
    file.write_text("e\nx@example.com\n")
    common = ["match", "dial", invitation(), "--input", str(file), "--column", "e=email_sha256", "--members"]
    assert main([*common, "--output", str(file), *more, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["message"].endswith("is what is read")
    assert file.read_text() == "e\nx@example.com\n"


def test_a_match_opens_its_output_before_it_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.csv"
    file.write_text("e\nx@example.com\n")
    common = ["match", "dial", invitation(), "--input", str(file), "--column", "e=email_sha256", "--members"]
    assert main([*common, "--output", str(tmp_path / "absent" / "o.csv"), "--json"]) == 1
    assert "there is no directory" in json.loads(capsys.readouterr().out)["error"]["message"]
    (tmp_path / "mine.csv").write_text("mine")
    assert main([*common, "--output", str(tmp_path / "mine.csv"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "already_exists"
    assert (tmp_path / "mine.csv").read_text() == "mine"


def invitation() -> str:
    return ConnectId(
        flags=0,
        address="127.0.0.1:9",
        key=Party().key,
        project=bytes(16),
        secret=bytes(16),
        expires=int(time.time()) + 3600,
    ).encode()
