"""Nothing that comes from outside steers the terminal: every line goes through one place."""

import ast
import sys
from pathlib import Path

import pytest
from sqlalchemy import update

from cli.main import main
from node.node import Node
from node.partners import connecting
from node.storage.tables import connections
from protocol.agreement import Agreement, Offer

CLI = Path(__file__).parents[2] / "cli"
ESC = "\x1b[2J"


@pytest.fixture(autouse=True)
def _home(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VESICA_HOME", str(node.home.path))


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a command printed, in which nothing clears the screen."""
    main(list(words))
    text = "".join(capsys.readouterr())
    assert ESC not in text
    return text


@pytest.mark.parametrize("terminal", [False, True])
def test_names_of_files_and_columns(
    node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: terminal, raising=False)
    file = tmp_path / f"people{ESC}.csv"
    file.write_text(f"id,mail{ESC},tag{ESC}\n1,ann@x.com,@ann\n2,nobody,red\n")
    missing = str(tmp_path / f"gone{ESC}.csv")
    given = ("--dataset", "crm", "--id", "id", "--identity", f"mail{ESC}=email_sha256", "--attribute", f"tag{ESC}")
    assert "there is no file" in printed(capsys, "profile", "import", missing, *given)
    said = printed(capsys, "profile", "import", str(file), *given)
    assert "people\ufffd[2J.csv" in said
    assert "warning: tag\ufffd[2J has 1 values with an @" in said
    assert "tag\ufffd[2J" in printed(capsys, "profile", "show", "1")
    rule = ("segment", "create", "s", "--rule", f"nothing{ESC} = 1")
    printed(capsys, *rule)
    printed(capsys, *rule, "--json")
    match = ("match", "dial", "vesica1aaaa", "--column", f"mail{ESC}=email_sha256", "--input")
    printed(capsys, *match, str(file))
    printed(capsys, "match", "listen", "--input", missing, "--column", f"mail{ESC}=email_sha256")
    printed(capsys, "match", "listen", "--input", str(file), "--column", f"mail{ESC}=email_sha256", "--listen", ESC)
    printed(capsys, ESC)
    printed(capsys, "segment", ESC)


def test_a_partner_s_organisation(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    scope = node.project().scope
    ours = connecting.offer(scope, bytes(32))
    theirs = Offer.from_document(
        {
            **ours.document(),
            "organisation": f"Globe{ESC}",
            "project_name": f"p{ESC}",
            "key": b"g" * 32,
            "project": b"p" * 16,
        }
    )
    agreement = Agreement.merge(theirs, ours, connection=b"c" * 16, made=node.home.now())
    with node.home.database.begin() as tx:
        connecting.store(scope, tx, theirs, agreement, bytes(64), alias="globe")
        tx.execute(update(connections).values(peer_organisation=f"Globe{ESC}", peer_project_name=f"p{ESC}"))
    for command in (("partner", "list"), ("partner", "show", "globe"), ("partner", "terms", "globe")):
        assert "Globe\ufffd[2J" in printed(capsys, *command)
        printed(capsys, *command, "--json")
    printed(capsys, "partner", "accept", "globe")


def test_one_place_prints() -> None:
    found = set()
    for file in CLI.glob("*.py"):
        for each in ast.walk(ast.parse(file.read_text())):
            if isinstance(each, ast.Call) and ast.unparse(each.func) in ("print", "click.echo"):
                found.add(file.name)
    assert found == {"output.py"}
