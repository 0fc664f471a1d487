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
    assert {"command", "file", "objectstore", "table", "webhook"} <= {each["kind"] for each in run("kinds")}
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
    reports = [[each, "crm"] for each in ("show", "runs", "errors", "dead", "alerts", "check")]
    for words in (["list"], ["kinds"], *reports):
        assert main(["destination", *words]) == 0
        assert capsys.readouterr().out
    assert run("deactivate", "crm", "--segment", "buyers")["sent"] == 1
    assert run("delete", "crm", "--yes")["status"] == "deleted"
    assert run("list") == []


def test_a_destination_is_checked_when_it_is_made(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("create", "crm", "--kind", "file", "folder=out")["check"]["arrived"]
    Path("secret").write_text(f"whsec_{'A' * 32}\n")
    hook = ("--kind", "webhook", "url=https://crm.invalid/x")
    assert main(["destination", "create", "hook", *hook, "--secret", "secret"]) == 0
    said = capsys.readouterr()
    assert "hook takes none" in said.out
    assert "vesica destination check hook" in said.out
    assert run("create", "new", *hook)["check"] is None  # its receiver does not know the secret yet
    assert [each["name"] for each in run("sync", "crm", "new")] == ["crm", "new"]
    assert main(["destination", "edit", "crm"]) == 2
    assert "nothing is changed" in capsys.readouterr().err


def test_a_connection_has_solutions_and_is_looked_at_before_it_sends(
    run: Document, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("create", "cloud", "--kind", "experience-cloud", "--description", "all")["solutions"] == []
    Path("tokens").write_text("target=token-1\nmarketo=token-2\n")
    given = ("target=https://t.invalid/", "marketo=https://m.invalid/", "--secret", "tokens")
    assert [each["name"] for each in run("connect", "cloud", *given)["solutions"]] == ["cloud.marketo", "cloud.target"]
    assert [each["code"] for each in run("check", "cloud", code=1)["solutions"]] == ["connection"] * 2
    found = run("preview", "cloud", "--segment", "buyers")
    assert found == {"messages": [], "leave": 0, "excluded": {"namespace": 2}}
    Path("ecids.csv").write_text(f"customer,ecid\n1,{'1' * 38}\n")
    assert (
        main(["profile", "import", "ecids.csv", "--dataset", "web", "--id", "customer", "--identity", "ecid=ecid"]) == 0
    )
    assert main(["segment", "rename", "buyers", "frequent"]) == 0
    capsys.readouterr()
    for words, text in (
        (("preview", "cloud", "--segment", "frequent"), '"ECID":[{"id":"11' + "0" * 36),
        (("preview", "cloud", "--segment", "frequent", "--unmasked"), "1" * 38),
        (("show", "cloud"), "cloud.target"),
        (("list",), "cloud"),
        (("runs", "cloud"), "nothing was sent yet"),
        (("kinds",), "advertising-cloud"),
    ):
        assert main(["destination", *words]) == 0
        printed = capsys.readouterr().out
        assert text in printed
        assert "token-" not in printed


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


def test_a_person_hears_of_a_destination_and_goes_on_with_what_the_brake_holds(
    run: Document, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from node.destinations import brake

    monkeypatch.setattr(brake, "FEWEST", 0)
    run("create", "crm", "--kind", "file", "folder=out", "--use", "analytics", "--brake", "40")
    run("activate", "crm", "--segment", "buyers")
    assert run("edit", "crm", "--brake", "30")["brake"] == 30
    heard = run("alerts", "crm", "--on", "failure", "--on", "start", "--mail", "ann@fern.example")
    assert heard == {"on": ["failure", "start"], "mail": "ann@fern.example"}
    assert run("alerts", "crm", "--off", "start", "--no-mail") == {"on": ["failure"], "mail": None}
    assert main(["segment", "update", "buyers", "--rule", "orders >= 8"]) == 0
    capsys.readouterr()
    assert main(["destination", "sync", "crm"]) == 0
    assert "holds 1 removal. If" in capsys.readouterr().out
    assert run("sync", "crm")["held"] == 1
    assert main(["alert", "list"]) == 0
    assert "vesica destination sync crm --yes" in capsys.readouterr().out
    assert run("sync", "crm", "--yes")["sent"] == 1


def test_what_did_not_arrive_is_said_with_what_to_do(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    run("create", "hook", "--kind", "webhook", "url=https://10.0.0.1/", "--use", "analytics")
    run("create", "full", "--kind", "file", "folder=out", "--use", "analytics")
    run("activate", "full", "--segment", "buyers")
    assert main(["destination", "activate", "hook", "--segment", "buyers"]) == 0
    said = capsys.readouterr().out
    assert "0 messages arrived, 2 changes wait; it is disabled" in said
    assert "vesica destination errors hook" in said
    assert "vesica destination resume hook" in said
    assert main(["destination", "delete", "hook", "--yes"]) == 0
    assert "vesica destination delete hook --leave" in capsys.readouterr().out
    assert main(["profile", "erase", "1", "--yes"]) == 0
    assert "full, hook (disabled) may have them" in capsys.readouterr().out
    assert main(["destination", "sync", "full"]) == 0
    assert capsys.readouterr().out == "full: 1 message arrived; it is active\n"


def test_a_mail_server_is_kept_without_its_password_being_shown(capsys: pytest.CaptureFixture[str]) -> None:
    Path("password").write_text("correct horse\n")
    named = ["--server", "localhost:9", "--from", "vesica@fern.example", "--user", "fern", "--password", "password"]
    assert main(["node", "mail", *named]) == 0
    for words in (["mail"], ["mail", "--json"], ["set"], ["set", "--json"], ["status", "--json"]):
        assert main(["node", *words]) == 0
    assert main(["audit", "list", "--json"]) == 0
    assert "horse" not in capsys.readouterr().out
    assert "horse" not in (Path("home") / "config.json").read_text()
    assert main(["node", "mail", "--test", "ann@fern.example"]) == 1
    assert "no mail was sent: the server could not be reached" in capsys.readouterr().out
    assert main(["node", "mail", "--user", "fern"]) == 2
    assert main(["node", "mail", "--remove"]) == 0
    assert "no mail server" in capsys.readouterr().out
