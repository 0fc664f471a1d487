"""Tables: whole lines with tabs for a pipe; on a terminal of 80 columns they fit, and no name or id is broken."""

import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from homes import Side

from cli import output
from cli.main import main
from node.node import Node
from node.operations.alerts import AlertKind

Terminal = Callable[[int], None]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard output a terminal of so many columns."""

    def make(columns: int) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))

    return make


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return click.unstyle(capsys.readouterr().out).splitlines()


def test_a_pipe_gets_a_line_for_each_row_whole_and_with_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name", "count", "note"), [("x" * 300, 12_345, "a\tb\nc"), ("y", None, "f" * 32)], ids="note")
    assert capsys.readouterr().out == f"name\tcount\tnote\n{'x' * 300}\t12,345\ta\ufffdb c\ny\t-\t{'f' * 32}\n"


def test_sentences_break_between_words(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    terminal(40)
    output.table(("id", "at", "text"), [("0123456789", output.time(1_800_000_000), "one two three four")])
    assert printed(capsys) == [
        "id          at                 text",
        "─" * 40,
        "0123456789  2027-01-15T08:00Z  one two",
        "                               three",
        "                               four",
    ]


def test_what_does_not_fit_becomes_lines_of_names_and_values(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(40)
    output.table(("name", "hash"), [("first", "f" * 36), ("second", "e" * 60)])
    assert printed(capsys) == ["name  first", "hash", f"    {'f' * 36}", "", "name  second", "hash", "e" * 60]


def test_the_widest_column_goes_below_where_the_others_fit(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(40)
    output.table(("name", "rule", "size"), [("first", "own." + "f" * 24, 5), ("second", None, 70)])
    assert printed(capsys) == [
        "name    size",
        "─" * 12,
        "first      5",
        f"      rule: own.{'f' * 24}",
        "second    70",
    ]


def test_what_all_rows_share_is_said_once_where_room_is_short(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("a" * 15, "publisher-with-a-name", 1), ("b" * 15, "publisher-with-a-name", 20)]
    terminal(80)
    output.table(("segment", "partner", "size"), rows)
    assert printed(capsys)[0].split() == ["segment", "partner", "size"]
    terminal(30)
    output.table(("segment", "partner", "size"), rows)
    assert printed(capsys) == [
        "partner  publisher-with-a-name",
        "",
        "segment          size",
        "─" * 21,
        f"{'a' * 15}     1",
        f"{'b' * 15}    20",
    ]


def test_ids_are_cut_to_where_they_differ(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    terminal(80)
    ids = ["0123456789ab" + "a" * 20, "0123456789ab" + "b" * 20, "f" * 32]
    output.table(("id", "kind"), [(each, "x") for each in ids], ids="id")
    assert [line.split()[0] for line in printed(capsys)[2:]] == ["0123456789aba", "0123456789abb", "f" * 13]


@pytest.mark.usefixtures("home")
def test_jobs_and_alerts_are_named_by_the_beginning_of_their_ids(
    home: Path, node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    project = node.project()
    jobs = [node.jobs.submit("some.kind", {}, project.scope) for _ in range(2)]
    with project.scope.begin() as tx:
        for text in ("one", "two"):
            project.alerts.add(tx, AlertKind.ON_HOLD, text)
    alerts = [each.id for each in project.alerts.all()]

    def typed(*words: str) -> int:
        return main(["--home", str(home), *words])

    differ = next(index for index in range(32) if jobs[0][index] != jobs[1][index])
    assert typed("job", "show", jobs[0][: differ + 1]) == 0
    assert jobs[0] in capsys.readouterr().out
    assert typed("job", "show", jobs[0][:differ]) == 1
    assert "2 jobs begin with" in capsys.readouterr().err
    for nothing in ("", "%", "_", "0" * 31, jobs[0] + "0"):
        assert typed("job", "show", nothing) == 1
        assert "there is no job" in capsys.readouterr().err
    assert typed("alert", "acknowledge", alerts[0][:12]) == 0
    assert [each.id for each in project.alerts.all(open_only=True)] == alerts[1:]
    assert typed("alert", "acknowledge", "zz") == 1


LISTS = [
    *("job list", "alert list --all", "node status", "feed list", "feed show summer", "partner list", "project list"),
    *("partner show publisher", "project show", "audit list", "segment list", "consent show", "label list"),
    *("policy list", "role list", "user list", "profile count", "profile show R1", "consent show R1", "audit verify"),
]


def test_what_commands_list_fits_into_eighty_columns(
    sides: tuple[Side, Side],
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retailer, _ = sides
    long = "buyers-of-everything-in-the-shop-and-of-more-in-the-others"
    retailer.run("segment", "create", long, "--rule", "own.vip OR own.vip")
    retailer.run("feed", "create", "summer", "--segment", long, "--namespace", "email_sha256")
    terminal(80)
    monkeypatch.setenv("VESICA_HOME", str(retailer.home))
    for command in LISTS:
        code = main(command.split())
        lines = printed(capsys)
        if code == 0:
            lines = [line for line in lines if line != str(retailer.home)]  # a path is not broken, however long
            assert max(map(len, lines)) <= 80, (command, lines)
    assert main(["segment", "list", "--home", str(retailer.home)]) == 0
    assert any(long in line for line in printed(capsys))
