"""Destinations as a user types them."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Document

from cli.main import main

IMPORT = ["profile", "import", "people.csv", "--dataset", "crm", "--id", "customer", "--attribute", "orders"]


@pytest.fixture(autouse=True)
def _node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VESICA_HOME", str(tmp_path / "home"))
    Path("people.csv").write_text("customer,orders\n1,7\n2,1\n3,9\n")
    Path("out").mkdir()
    assert main(["node", "init", "--org", "Fern"]) == 0
    assert main(IMPORT) == 0
    assert main(["segment", "create", "buyers", "--rule", "orders >= 5"]) == 0
    assert main(["consent", "model", "opt-out"]) == 0
    capsys.readouterr()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Document:
    def run(*arguments: str, code: int = 0) -> Any:
        assert main(["destination", *arguments, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


def test_a_segment_goes_to_a_folder_from_its_first_export_to_its_end(
    run: Document, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [each["kind"] for each in run("kinds")] == ["file", "webhook"]
    assert run("create", "crm", "--kind", "file", "folder=out", "format=jsonl", "--use", "analytics")["secret"] is None
    assert run("check", "crm")["arrived"]
    assert run("activate", "crm", "--segment", "buyers")["sent"] == 1
    (file,) = Path("out").iterdir()
    assert [json.loads(line)["identity"] for line in file.read_text().splitlines()] == ["1", "3"]
    assert main(["consent", "set", "1", "n"]) == 0
    capsys.readouterr()
    assert run("sync", "crm")["sent"] == 1
    assert run("pause", "crm") == {"name": "crm", "status": "paused"}
    assert run("resume", "crm")["status"] == "active"
    assert run("replay", "crm")["sent"] == 0
    assert [row["present"] for row in run("list")] == [1]
    assert run("show", "crm")["segments"][0]["present"] == 1
    (row,) = run("runs", "crm", "--segment", "buyers")
    assert (row["received"], row["activated"]) == (3, 3)
    assert run("errors", "crm") == []
    for words in (["list"], ["show", "crm"], ["runs", "crm"], ["errors", "crm"], ["kinds"], ["check", "crm"]):
        assert main(["destination", *words]) == 0
        assert capsys.readouterr().out
    assert run("deactivate", "crm", "--segment", "buyers")["sent"] == 1
    assert run("delete", "crm", "--yes")["status"] == "deleted"
    assert run("list") == []


def test_a_new_secret_is_printed_once_and_a_given_one_never(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    made = run("create", "hook", "--kind", "webhook", "url=https://crm.invalid/x")["secret"]
    assert made.startswith("whsec_")
    Path("secret").write_text(f"{made}\n")
    assert (
        main(["destination", "create", "two", "--kind", "webhook", "url=https://crm.invalid/x", "--secret", "secret"])
        == 0
    )
    for words in (["show", "hook"], ["list", "--json"], ["show", "two", "--json"]):
        assert main(["destination", *words]) == 0
    assert made not in capsys.readouterr().out
    assert run("check", "hook", code=1)["code"] == "connection"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["create", "a", "--kind", "webhook", "url"], 2),
        (["create", "a", "--kind", "fax"], 1),
        (["create", "a", "--kind", "webhook", "url=https://x.invalid/", "--secret", "nowhere"], 2),
        (["activate", "nothing", "--segment", "buyers"], 1),
        (["delete", "nothing"], 2),
    ],
)
def test_mistakes_end_with_a_word(run: Document, words: list[str], code: int) -> None:
    assert run(*words, code=code)["error"]["message"]
