"""Users at the command line: the token in the environment, what a command without one is told, and the way back."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from node.errors import NotAllowed
from node.node import Node
from protocol.connectid import ConnectId

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command with --json on a new home as whoever has the token; returns the exit code and the document."""

    def run(token: str | None, *arguments: str) -> tuple[int, Any]:
        if token is None:
            monkeypatch.delenv("VESICA_TOKEN", raising=False)
        else:
            monkeypatch.setenv("VESICA_TOKEN", token)
        code = main([*arguments, "--home", str(home), "--json"])
        out, err = capsys.readouterr()
        assert err == ""
        return code, json.loads(out)

    assert run(None, "node", "init", "--org", "Fern", "--address", "127.0.0.1:1")[0] == 0
    return run


def refused(answer: tuple[int, Any], code: str, *words: str) -> None:
    assert answer[0] == 1
    error = answer[1]["error"]
    assert error["code"] == code
    assert all(word in f"{error['message']} {error['hint']}" for word in words), error


@pytest.mark.feature("OP1")
def test_from_the_first_user_on_a_command_needs_a_token(run: Run, home: Path) -> None:
    assert run("left over from another node", "project", "list")[0] == 0  # nobody asks for one yet
    refused(run(None, "user", "create", "bob", "--role", "viewer"), "refused", "administrator")
    ann = run(None, "user", "create", "ann", "--role", "administrator")[1]["token"]
    for command in ("project list", "node status", "segment list", "audit list", "job list", "user list", "role list"):
        refused(run(None, *command.split()), "token_needed", "VESICA_TOKEN", "lost", "vesica user reset")
        refused(run(ann + "x", *command.split()), "invalid_token", "VESICA_TOKEN")
        assert run(ann, *command.split())[0] == 0
    cora = run(ann, "user", "create", "cora", "--role", "connections", "--days", "1")[1]["token"]
    sam = run(ann, "user", "create", "sam", "--role", "shares")[1]["token"]
    refused(run(None, "user", "list"), "token_needed", "VESICA_TOKEN", "vesica user token")
    refused(
        run(cora, "feed", "publish", "summer"), "permission_denied", "cora", "manage-shares", "user grant cora shares"
    )
    refused(run(sam, "partner", "accept", "globe"), "permission_denied", "sam", "manage-connections")
    refused(run(sam, "partner", "id"), "permission_denied", "manage-connections")
    assert run(cora, "partner", "id")[0] == 0
    rows = run(ann, "audit", "list", "--result", "deny", "--act", "feed.publish")[1]
    assert [(row["actor"], row["target"], row["detail"]["error"]["code"]) for row in rows] == [
        ("cora", "summer", "permission_denied")
    ]
    assert run(ann, "user", "revoke", "ann", "--yes")[0] == 0  # others' tokens are of no help
    refused(run(None, "user", "list"), "token_needed", "no administrator has", "vesica user reset")
    refused(run(ann, "user", "list"), "invalid_token", "vesica user reset")
    with sqlite3.connect(home / "control.db") as database:
        assert ann not in "\n".join(database.iterdump())


def test_a_service_needs_no_token_and_answers_partners(
    run: Run, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ann = run(None, "user", "create", "ann", "--role", "administrator")[1]["token"]
    command = [sys.executable, "-c", "import sys; from cli.main import main; sys.exit(main())"]
    with subprocess.Popen(
        [*command, "node", "serve", "--listen", "127.0.0.1:0", "--home", str(home)], stdout=subprocess.PIPE, text=True
    ) as service:
        try:
            assert service.stdout is not None
            address = service.stdout.readline().removeprefix("listening on ").strip()
            connect_id = ConnectId.parse(run(ann, "partner", "id")[1]["connect_id"])
            called = replace(connect_id, address=address).encode()
            with (
                Node.create(tmp_path / "other", "Other") as other,
                pytest.raises(NotAllowed, match="no namespace") as said,
            ):
                other.project().partners.request(other.project().partners.look_up(called))
            assert "theirs: none" in str(said.value)  # so it has answered
        finally:
            service.terminate()


def test_roles_are_granted_for_a_project_or_for_the_node(run: Run) -> None:
    ann = run(None, "user", "create", "ann", "--role", "administrator")[1]["token"]
    run(ann, "project", "create", "loyalty")
    bob = run(ann, "user", "create", "bob", "--role", "viewer", "--project", "loyalty")[1]["token"]
    assert [each["name"] for each in run(bob, "project", "list")[1]] == ["loyalty"]
    refused(run(bob, "segment", "list"), "not_found", "default")
    refused(run(bob, "consent", "model", "opt-in", "--project", "loyalty"), "permission_denied", "--project loyalty")
    assert run(ann, "user", "grant", "bob", "governance", "--project", "loyalty")[1]["project"] == "loyalty"
    assert run(bob, "consent", "model", "opt-in", "--project", "loyalty")[0] == 0
    assert run(bob, "user", "show")[1]["roles"] == [
        {"role": "governance", "project": "loyalty"},
        {"role": "viewer", "project": "loyalty"},
    ]
    run(ann, "user", "deny", "bob", "governance", "--project", "loyalty")
    refused(run(bob, "consent", "model", "opt-out", "--project", "loyalty"), "permission_denied")
    refused(run(bob, "user", "show", "ann"), "permission_denied", "administer")
    assert run(ann, "user", "revoke", "bob", "--yes")[1] == {"name": "bob", "revoked": 1}
    refused(run(bob, "project", "list"), "invalid_token")
    assert run(run(ann, "user", "token", "bob", "--days", "2")[1]["token"], "project", "list")[0] == 0
    assert run(ann, "user", "remove", "bob", "--yes")[1] == {"removed": "bob"}
    assert [each["name"] for each in run(ann, "user", "list")[1]] == ["ann"]


@pytest.mark.feature("GV10")
def test_a_role_limited_to_labels(run: Run, tmp_path: Path) -> None:
    people, members = tmp_path / "people.csv", tmp_path / "members.csv"
    people.write_text("id,email\n1,a@x.com\n2,b@x.com\n")
    members.write_text("id\n1\n")
    imported = ["--dataset", "crm", "--id", "id", "--identity", "email=email_sha256:raw"]
    assert run(None, "profile", "import", str(people), *imported)[0] == 0
    for name in ("open", "secret"):
        run(None, "segment", "create", name, "--members", str(members))
    run(None, "label", "apply", "S1", "--segment", "secret")
    ann = run(None, "user", "create", "ann", "--role", "administrator")[1]["token"]
    role = run(ann, "role", "create", "analyst", "--permission", "view", "--permission", "export", "--label", "c1")[1]
    wildcards = ["VIEW_ALL_TRAITS", "VIEW_ALL_SEGMENTS", "VIEW_ALL_SIGNALS"]
    about = {"name": "analyst", "permissions": ["export", "view"], "labels": ["C1"]}
    assert role == {**about, "sources": None, "wildcards": wildcards}
    assert run(ann, "role", "create", "plain", "--permission", "view", "--unlabelled")[1]["labels"] == []
    lou = run(ann, "user", "create", "lou", "--role", "analyst")[1]["token"]
    assert [each["name"] for each in run(lou, "segment", "list")[1]] == ["open"]
    refused(run(lou, "segment", "show", "secret"), "not_found", "there is no segment 'secret'")
    refused(run(lou, "segment", "export", "secret", str(tmp_path / "out.csv")), "not_found")
    assert not (tmp_path / "out.csv").exists()
    assert [each["name"] for each in run(ann, "segment", "list")[1]] == ["open", "secret"]
    assert run(ann, "role", "delete", "plain", "--yes")[1] == {"deleted": "plain"}


def test_the_operator_gets_back_in_without_a_token(run: Run, home: Path) -> None:
    ann = run(None, "user", "create", "ann", "--role", "administrator")[1]["token"]
    fresh = run(None, "user", "reset", "ann", "--yes")[1]["token"]
    refused(run(ann, "user", "list"), "invalid_token")
    assert run(fresh, "user", "list")[0] == 0
    row = run(fresh, "audit", "list", "--act", "user.reset")[1][0]
    assert (row["result"], row["target"]) == ("allow", "ann")
    assert row["actor"] != "ann"
    with Node.open(home) as node, node.home.guard.itself():
        node.audit.verify()


def test_a_token_is_printed_alone_so_that_a_script_can_take_it(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["node", "init", "--org", "Fern", "--home", str(home)]) == 0
    capsys.readouterr()
    assert main(["user", "create", "ann", "--role", "administrator", "--home", str(home)]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"This is a token of ann\. It lasts until \S+Z and is not shown again\.\n", err)
    monkeypatch.setenv("VESICA_TOKEN", out)  # with its newline
    for command in (["user", "list"], ["user", "show"], ["role", "list"], ["job", "list"]):
        assert main([*command, "--home", str(home)]) == 0
    said = capsys.readouterr().out
    assert "administrator" in said
    assert out.strip() not in said
