import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from commands import Document, Run

from cli import main as module
from cli import options, output, role, user
from cli.main import GROUPS, cli, main
from node.access.permissions import READY_MADE, Permission
from node.governance.governance import FILE_USES
from node.node import Node
from node.storage import tables
from protocol.feed import MARKETING_USES

HEAVY = {
    "alembic",
    "cryptography",
    "duckdb",
    "httpx2",
    "msgpack",
    "numpy",
    "phonenumbers",
    "pyarrow",
    "rich",
    "sqlalchemy",
    "sqlglot",
    "starlette",
    "uvicorn",
}
LINEAGE = (("dataset", "crm"), ("field", "crm.income"), ("segment", "rich"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], home: Path) -> Run:
    """Run one command on the test's home; return its exit code, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--home", str(home), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def document(run: Run) -> Document:
    """Run one command with --json and return its document."""

    def document(*arguments: str) -> Any:
        code, out, err = run(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return document


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        ("--help", HEAVY),
        ("job list", HEAVY - {"sqlalchemy", "cryptography", "rich"}),
        ("node status", HEAVY - {"sqlalchemy", "cryptography", "rich", "numpy", "msgpack"}),
        ("feed list", {"alembic", "duckdb", "httpx2", "phonenumbers", "pyarrow", "sqlglot", "starlette", "uvicorn"}),
    ],
)
def test_a_command_loads_only_what_it_needs(command: str, heavy: set[str], run: Run, home: Path) -> None:
    assert run("node", "init", "--org", "Fern")[0] == 0
    script = (
        "import sys; from cli.main import main;"
        f"assert main({command.split()} + ['--home', sys.argv[1]]) == 0;"
        f"print(*sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, home], capture_output=True, text=True, check=True)
    assert done.stdout
    assert done.stderr.strip() == ""


def test_every_group_has_help_and_the_common_options_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    def leaves(command: click.Command, path: list[str]) -> Iterator[list[str]]:
        if isinstance(command, click.Group):
            for name, each in command.commands.items():
                yield from leaves(each, [*path, name])
        else:
            yield path

    context = click.Context(cli)
    for group in cli.list_commands(context):
        command = cli.get_command(context, group)
        if command is None:
            continue
        for path in leaves(command, [group]):
            assert main([*path, "--help"]) == 0
            text = capsys.readouterr().out
            for option in ("--home", "--project", "--json"):
                assert text.count(f"  {option}") == 1, path


def test_every_option_and_argument_has_its_line_of_help() -> None:
    def parameters(command: click.Command | None, path: str) -> Iterator[tuple[str, Any]]:
        assert command is not None
        if isinstance(command, click.Group):
            for name, each in command.commands.items():
                yield from parameters(each, f"{path} {name}")
        else:
            yield from ((path, each) for each in command.params)

    found = [each for group in GROUPS for each in parameters(cli.get_command(click.Context(cli), group), group)]
    assert [(path, each.name) for path, each in found if not each.help] == []
    assert [(path, each.name) for path, each in found if (each.metavar or "").startswith("[%")] == []


def test_the_help_names_the_values_that_there_are() -> None:
    assert tuple(options.ACTIONS.split(", ")) == MARKETING_USES
    assert tuple(options.FILE_USES.split(", ")) == FILE_USES
    assert role.PERMISSIONS.split(", ") == list(Permission)
    assert [each for each in READY_MADE if f" {each}," not in user.ROLE] == []


def test_a_home_and_its_status(run: Run, document: Document, home: Path) -> None:
    made = document("node", "init", "--org", "Fern Retail")
    assert made["organisation"] == "Fern Retail"
    assert len(bytes.fromhex(made["key"])) == 32
    status = document("node", "status")
    assert status["key"] == made["key"]
    project = {"name": "default", "on_hold": False, "partners": 0, "open_jobs": 0, "letters_fetched": None}
    assert status["projects"] == [project]
    code, out, _ = run("node", "status")
    assert code == 0
    assert "Fern Retail" in out
    assert "no alerts" in out


def test_errors_are_shown_in_one_way(run: Run) -> None:
    code, out, err = run("node", "status")
    assert (code, out) == (1, "")
    assert err.splitlines()[0].startswith("vesica: error: there is no node in")
    assert err.splitlines()[1].startswith("vesica: hint: ")
    code, out, err = run("node", "status", "--json")
    assert (code, err) == (1, "")
    error = json.loads(out)["error"]
    assert set(error) == {"code", "message", "hint"}
    assert error["code"] == "no_home"


@pytest.mark.parametrize(
    "arguments", [["frob"], ["node", "init"], ["node", "status", "--frob"], ["label", "apply", "C1"]]
)
def test_mistakes_in_the_command_line(run: Run, arguments: list[str]) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert "vesica: error: " in err
    code, out, _ = run(*arguments, "--json")
    assert code == 2
    assert json.loads(out)["error"]["code"] == "usage"


def test_an_internal_error_shows_no_traceback_and_no_data(
    run: Run, monkeypatch: pytest.MonkeyPatch, node: Node
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("ann@x.com")

    monkeypatch.setattr(Node, "status", broken)
    code, out, err = run("node", "status")
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    assert "ann@x.com" not in err
    assert "ValueError" in err
    monkeypatch.setenv("VESICA_TRACEBACK", "1")
    with pytest.raises(ValueError, match="ann@"):
        run("node", "status")


@pytest.mark.parametrize("error", [KeyboardInterrupt, click.Abort, FileNotFoundError(2, "No such file", "a.csv")])
def test_other_ends(run: Run, monkeypatch: pytest.MonkeyPatch, node: Node, error: BaseException) -> None:
    def ends(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Node, "status", ends)
    code, _, err = run("node", "status")
    assert code == 1
    assert err.lstrip().startswith("vesica: error: ")


def test_a_reader_that_stops_early(home: Path, node: Node) -> None:
    node.close()
    command = [sys.executable, "-c", "from cli.main import main; raise SystemExit(main())"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*command, "--home", str(home), "policy", "list"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 1


def test_home_and_project_from_the_environment(
    document: Document, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, node: Node
) -> None:
    monkeypatch.setenv("VESICA_HOME", str(node.home.path))
    node.create_project("loyalty")
    monkeypatch.setenv("VESICA_PROJECT", "loyalty")
    assert main(["project", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "loyalty"
    assert main(["project", "--json", "show", "--project", "default"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "default"


def test_projects(run: Run, document: Document, node: Node) -> None:
    assert document("project", "create", "loyalty")["name"] == "loyalty"
    assert [each["name"] for each in document("project", "list")] == ["default", "loyalty"]
    assert "loyalty" in run("project", "list")[1]
    code, _, err = run("project", "create", "loyalty")
    assert (code, "already" in err) == (1, True)
    assert run("project", "show", "nothing")[0] == 1
    assert document("project", "terms", "--epsilon", "none", "--minimum-overlap", "50", "--yes")["epsilon"] is None
    assert document("project", "terms")["minimum_overlap"] == 50
    assert re.search(r"minimum overlap +50", run("project", "terms")[1])
    for option, left_out in (("--hide-unconsented", "unconsented"), ("--hide-opted-out", "opted-out")):
        assert document("project", "terms", option, "--yes")["left_out_of_estimates"] == left_out
        assert document("project", "create", f"made-{left_out}", option)["left_out_of_estimates"] == left_out
        assert document("project", "terms", "--project", f"made-{left_out}")["left_out_of_estimates"] == left_out
    assert run("project", "terms", "--hide-unconsented", "--hide-opted-out")[0] == 2
    assert document("project", "terms", "--count-unconsented", "--yes")["left_out_of_estimates"] == "nobody"
    assert run("project", "terms", "--epsilon", "much")[0] == 1


@pytest.mark.feature("CO0")
def test_project_show(run: Run, document: Document, node: Node) -> None:
    shown = document("project", "show")
    assert {"namespaces", "consent_model", "labels", "policies", "prerequisites", "terms"} <= set(shown)
    text = run("project", "show")[1]
    for each in shown["prerequisites"]:
        assert each["name"] in text
        assert each["state"] in text
    assert "vesica consent model" in text


@pytest.mark.feature("GV1")
def test_labels(run: Run, document: Document, node: Node) -> None:
    assert {"C1", "C12", "I1", "S2"} <= {label["name"] for label in document("label", "list")}
    document("label", "create", "legal-hold", "--description", "The case is open")
    assert run("label", "create", "legal-hold", "--description", "again")[0] == 1
    assert "The case is open" in run("label", "list")[1]
    _dataset(node, "crm", "income")
    assert document("label", "apply", "C11", "--field", "crm.income") == {
        "label": "C11",
        "kind": "field",
        "target": "crm.income",
        "heeded": True,
        "policies": {"enabled": ["restrict-data-sharing"], "others": []},
    }
    [label] = [label for label in document("label", "list") if label["name"] == "C11"]
    assert label["applied_to"] == ["field crm.income"]
    assert run("label", "remove", "C11", "--field", "crm.income")[0] == 0
    assert run("label", "remove", "C11", "--field", "crm.income")[0] == 1
    assert run("label", "apply", "C11", "--field", "crm.income", "--dataset", "crm")[0] == 2


@pytest.mark.feature("GV3")
def test_policies(run: Run, document: Document, node: Node) -> None:
    _dataset(node, "crm", "income")
    row = {"id": "s", "project_id": node.project().id, "name": "rich", "kind": "rule", "uses": ["crm.income"]}
    with node.home.database.begin() as tx:
        tx.execute(tables.segments.insert().values(**row, size=0, evaluated=1, created=1))
    assert document("policy", "check", "rich") == {"action": "segment-match", "allowed": True, "violations": []}
    document("label", "apply", "C11", "--dataset", "crm")
    code, out, _ = run("policy", "check", "rich", "--json")
    assert code == 1
    [violation] = json.loads(out)["violations"]
    assert violation["segment"] == "rich"
    assert violation["policy"] == "restrict-data-sharing"
    path = [{"kind": kind, "name": name, "edited": False} for kind, name in LINEAGE]
    assert violation["lineage"] == [{"label": "C11", "path": path}]
    assert "vesica label remove C11 --dataset crm" in run("policy", "check", "rich")[1]
    document("policy", "disable", "restrict-data-sharing", "--yes")
    assert "segment-match is allowed" in run("policy", "check", "rich")[1]
    document("policy", "create", "mine", "--action", "segment-match", "--when", "C11", "--draft")
    assert run("policy", "check", "rich")[0] == 0
    assert run("policy", "check", "rich", "--include-draft")[0] == 1
    document("policy", "enable", "mine")
    assert run("policy", "check", "rich")[0] == 1
    assert {policy["name"]: policy["status"] for policy in document("policy", "list")}["mine"] == "enabled"


@pytest.mark.feature("OP2")
def test_audit(run: Run, document: Document, node: Node, tmp_path: Path) -> None:
    run("label", "create", "mine", "--description", "text")
    run("label", "create", "mine", "--description", "text")
    assert [each["result"] for each in document("audit", "list", "--act", "label")] == ["deny", "allow"]
    assert [each["act"] for each in document("audit", "list", "--result", "deny")] == ["label.create"]
    assert document("audit", "list", "--until", "2000-01-01") == []
    assert len(document("audit", "list", "--since", "2000-01-01", "--limit", "2")) == 2
    assert document("audit", "list", "--until", "2000-01-01T08:00Z") == []
    code, _, err = run("audit", "list", "--since", "yesterday")
    assert (code, "'yesterday' is no such time: write 2026-01-31 or 2026-01-31T08:00Z" in err) == (2, True)
    assert [each["act"] for each in document("audit", "list", "--project", "default")] == ["label.create"] * 2
    rows = list(csv.DictReader(io.StringIO(run("audit", "export")[1])))
    assert [row["result"] for row in rows] == ["allow", "allow", "deny"]
    assert [each["number"] for each in document("audit", "export")] == [1, 2, 3, 4]  # an export is in the next one
    assert json.loads(run("audit", "export", "--format", "json")[1]) == document("audit", "export")[:-1]
    assert run("audit", "export", str(tmp_path / "audit.csv"))[0] == 0
    exported = run("audit", "export")[1].splitlines()
    assert (tmp_path / "audit.csv").read_text().splitlines() == exported[:-1]
    assert "audit.export" in exported[-1]


@pytest.mark.feature("OP3")
def test_audit_verify(run: Run, document: Document, node: Node) -> None:
    head = document("audit", "verify")["head"]
    run("label", "create", "mine", "--description", "text")
    assert document("audit", "verify", "--head", head)["rows"] == 2
    assert "none changed" in run("audit", "verify")[1]
    with node.home.database.begin() as tx:
        tx.execute(tables.audit.update().where(tables.audit.c.number == 2).values(actor="somebody"))
    code, _, err = run("audit", "verify")
    assert code == 1
    assert "row 2 " in err


def test_jobs(run: Run, document: Document, node: Node) -> None:
    assert document("job", "list") == []
    job_id = node.jobs.submit("some.kind", {}, node.project().scope)
    assert [job["id"] for job in document("job", "list", "--state", "queued")] == [job_id]
    assert document("job", "show", job_id)["kind"] == "some.kind"
    assert "queued" in run("job", "show", job_id)[1]
    assert "some.kind" in run("job", "list")[1]
    assert run("job", "show", "nothing")[0] == 1


def test_what_a_partner_says_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name", "count"), [("\x1b[2J[bold]x", 12_345), (None, True)])
    output.lines([("name", "\x1b]0;title\x07")])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[bold]x" in out
    assert "12,345" in out
    said = {"name": "\x9b31m\u202eé\U000e0001"}
    context = module.Context()
    context.json = True
    output.emit(context, said)
    out = capsys.readouterr().out
    assert json.loads(out) == said
    assert out.replace("\n", "").isprintable()
    assert "é" in out


def test_what_is_printed_reads_as_words(capsys: pytest.CaptureFixture[str]) -> None:
    output.lines([("progress", {"small_segments": [], "sent": 1_200}), ("share", 0.25), ("nothing", None)])
    assert capsys.readouterr().out.splitlines() == [
        "progress  small segments -, sent 1,200",
        "share     0.25",
        "nothing   -",
    ]
    assert output.time(1_800_000_059) == output.time("2027-01-15T08:00:59Z") == "2027-01-15T08:00Z"
    assert [output.span(seconds) for seconds in (0, 119, 120, 7_200, 172_800)] == [
        "0 s",
        "119 s",
        "2 min",
        "2 h",
        "2 days",
    ]


def test_without_a_terminal_nothing_is_confirmed_by_accident() -> None:
    ctx = module.Context()
    output.confirm(ctx, "Really?", yes=True)
    with pytest.raises(click.UsageError, match="--yes"):
        output.confirm(ctx, "Really?", yes=False)


def test_on_a_terminal_a_no_does_nothing(run: Run, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    code, out, err = run("user", "reset", "ann")
    assert (code, out) == (1, "")
    assert "Make ann an administrator" in err
    assert err.endswith("nothing was done\n")
    assert node.users.all() == []


@pytest.mark.parametrize(
    "command",
    [
        ("feed", "decline", "summer"),
        ("feed", "decline", "summer", "--addition"),
        ("feed", "edit", "summer", "--remove-segment", "vip"),
        ("feed", "revoke", "summer"),
        ("feed", "unshare", "summer", "--segment", "vip"),
        ("feed", "unshare", "summer", "--partner", "acme"),
        ("role", "delete", "plain"),
        ("user", "revoke", "ann"),
        ("user", "reset", "ann"),
    ],
)
def test_what_cannot_be_undone_is_confirmed(run: Run, node: Node, command: tuple[str, ...]) -> None:
    code, out, err = run(*command)
    assert (code, out) == (2, "")
    assert "Without a terminal nobody can be asked. Say --yes if so: " in err
    code, _, err = run(*command, "--yes")
    assert code != 2
    assert "--yes" not in err


def _dataset(node: Node, dataset: str, field: str) -> None:
    with node.home.database.begin() as tx:
        tx.execute(tables.datasets.insert().values(id="d", project_id=node.project().id, name=dataset, created=1))
        tx.execute(tables.fields.insert().values(id="f", dataset_id="d", name=field, kind="attribute"))


def test_an_address_to_listen_on_is_checked_before_a_home_is_made(run: Run, home: Path) -> None:
    for address in ("foo", "foo:", ":1", "127.0.0.1:99999", "::1:8470"):
        code, _, err = run("node", "init", "--org", "Fern", "--listen", address)
        assert (code, "is not an address" in err) == (1, True), address
        assert not home.exists()


def test_a_missing_driver_is_named_with_what_installs_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never as a package of our name: there is none on the index, and anybody could put one there."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    code, _, err = run("node", "init", "--org", "Fern", "--database", "postgresql://nobody@127.0.0.1:9/none")
    assert code == 1
    assert "pip install 'psycopg[binary]'" in err
    assert "vesica[" not in err


def test_help_says_what_may_be_repeated(run: Run) -> None:
    out = " ".join(run("feed", "create", "--help")[1].split())
    assert "A segment of ours; may be repeated." in out
    assert out.count("may be repeated") == 4


def test_a_shell_completes_commands_and_options() -> None:
    for words, wanted in (("vesica feed cr", "create"), ("vesica feed create --seg", "--segment")):
        count = str(len(words.split()) - 1)
        variables = {"_VESICA_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": count}
        done = subprocess.run(
            [sys.executable, "-c", "from cli.main import main; main()"],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == f"plain,{wanted}\n", done.stderr
