"""People come in by a pipe, and nothing of them is written to a disk on the way."""

import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from cli.main import main
from node.node import Node

GIVEN = ["--dataset", "crm", "--id", "id", "--identity", "mail=email_sha256"]
CSV = b"id,mail\n1,ann@x.com\n2,bob@x.com\n"


@pytest.fixture(autouse=True)
def _home(node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VESICA_HOME", str(node.home.path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("CSV", CSV),
        ("CSV", gzip.compress(CSV, mtime=0)),
        ("JSON lines", b'{"id": "1", "mail": "ann@x.com"}\n{"id": "2", "mail": "bob@x.com"}\n'),
    ],
    ids=["plain", "gzipped", "JSON"],
)
def test_people_are_read_from_standard_input(
    kind: str, content: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["profile", "import", "-", *GIVEN, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["file"], report["kind"], report["accepted"]) == ("standard input", kind, 2)


@pytest.mark.parametrize(("given", "wrong"), [(CSV, "mial"), (b"", "mail"), (b"\x00\x01\x02\n", "mail")])
def test_an_error_names_standard_input_and_no_path(
    given: bytes, wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    command = ["profile", "import", "-", "--dataset", "crm", "--id", "id", "--identity", f"{wrong}=email_sha256"]
    assert main([*command, "--json"]) == 1
    said = "".join(capsys.readouterr())
    assert "standard input" in said
    assert str(tmp_path) not in said


def test_an_import_of_nothing_offers_standard_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "import", *GIVEN]) == 1
    assert '"-" for standard input' in " ".join(capsys.readouterr().err.split())
