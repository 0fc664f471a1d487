"""A remedy becomes the command that does it, and every remedy in the code names a command and parameters that exist."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from cli import remedies
from cli.main import Context, cli, main
from node.errors import JobFailed, RefusedByPartner
from node.node import Node
from psi.errors import Remedy, VesicaError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("remedy", "command"),
    [
        (Remedy("partner.list"), "vesica partner list"),
        (Remedy("feed.show", {"name": "summer"}), "vesica feed show summer"),
        (Remedy("feed.show"), "vesica feed show NAME"),
        (Remedy("consent.model"), "vesica consent model opt-in or vesica consent model opt-out"),
        (Remedy("consent.model", {"model": "opt-in"}), "vesica consent model opt-in"),
        (Remedy("consent.policy.delete", {"name": "strict"}), "vesica consent policy delete strict"),
        (Remedy("user.create"), "vesica user create NAME --role ROLE"),
        (
            Remedy("user.create", {"roles": ["viewer", "steward"]}),
            "vesica user create NAME --role viewer --role steward",
        ),
        (Remedy("user.grant", {"role": "viewer", "name": "sam"}), "vesica user grant sam viewer"),
        (Remedy("user.grant", {"role": "viewer", "project": "shop"}), "vesica user grant NAME viewer --project shop"),
        (Remedy("project.show"), "vesica project show"),
        (Remedy("project.terms", {"minimum_universe": 5}), "vesica project terms --minimum-universe 5"),
        (Remedy("project.terms", {"hide_unconsented": True}), "vesica project terms --hide-unconsented"),
        (Remedy("project.terms", {"hide_unconsented": False}), "vesica project terms --count-unconsented"),
        (Remedy("feed.sync", {"no_wait": True}), "vesica feed sync --no-wait"),
        (Remedy("feed.sync", {"no_wait": False}), "vesica feed sync"),
        (Remedy("alert.acknowledge", {"ids": ("3", "4")}), "vesica alert acknowledge 3 4"),
        (Remedy("consent.policy.preview"), "vesica consent policy preview SEGMENT... --then EXPR"),
        (
            Remedy("segment.update", {"name": "vip", "rule": "country = 'GB'"}),
            """vesica segment update vip --rule 'country = '"'"'GB'"'"''""",
        ),
        (Remedy("segment.export", {"file": "my file.csv"}), "vesica segment export NAME 'my file.csv'"),
        (
            Remedy("profile.import-from.segment-match", {"file": "people.json"}),
            "vesica profile import-from segment-match people.json --dataset NAME",
        ),
    ],
)
def test_a_remedy_is_spelled_as_its_command(remedy: Remedy, command: str) -> None:
    assert remedies.spelled(remedy) == command


@pytest.mark.parametrize("act", ["", "feed", "feed.frob", "frob.show", "feed.show.more", "consent.policy", "main.cli"])
def test_an_act_that_is_no_command_is_not_spelled(act: str) -> None:
    assert remedies.spelled(Remedy(act)) == ""


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (VesicaError("no"), ""),
        (VesicaError("no", hint="wait a day"), "wait a day"),
        (VesicaError("no", remedy=Remedy("feed.list")), "vesica feed list"),
        (VesicaError("no", hint="see them all", remedy=Remedy("feed.list")), "see them all: vesica feed list"),
        (VesicaError("no", hint="see them all", remedy=Remedy("feed.frob")), "see them all"),
    ],
)
def test_a_document_in_words_has_no_remedy(error: VesicaError, hint: str) -> None:
    assert remedies.in_words(error.document()) == {"code": "error", "message": "no", "hint": hint}


def test_what_else_an_error_tells_programs_stays() -> None:
    document = {**VesicaError("no", remedy=Remedy("feed.list")).document(), "violations": []}
    said = remedies.in_words(document)
    assert said == {"code": "error", "message": "no", "hint": "vesica feed list", "violations": []}
    assert "remedy" in document  # the caller's own is as it was


def test_a_job_that_failed_elsewhere_keeps_its_remedy() -> None:
    stored = json.loads(json.dumps(VesicaError("no", remedy=Remedy("feed.show", {"name": "summer"})).document()))
    error = JobFailed(stored)
    assert error.remedy == Remedy("feed.show", {"name": "summer"})
    assert error.document() == stored
    assert remedies.in_words(error.document())["hint"] == "vesica feed show summer"


def test_a_partners_refusal_brings_what_this_node_knows_to_do() -> None:
    refusal = RefusedByPartner("manifest", "no such feed", status=400, hint="compare the versions")
    assert remedies.in_words(refusal.document())["hint"] == "compare the versions: vesica feed show NAME"
    assert RefusedByPartner("something_else", "no", status=400).remedy is None


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command, which fails with a remedy, and returns what is said."""

    def run(remedy: Remedy, *words: str) -> str:
        def refuse(_home: Path) -> Node:
            raise VesicaError("no", hint="look at it", remedy=remedy)

        monkeypatch.setattr(Node, "open", refuse)
        assert main([*words]) == 1
        return "".join(capsys.readouterr())

    return run


def test_the_command_line_shows_the_command(
    home: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setenv("VESICA_HOME", str(home))
    remedy = Remedy("feed.show", {"name": "summer"})
    said = refused(remedy, "feed", "list")
    assert said == "vesica: error: no\nvesica: hint: look at it: vesica feed show summer\n"
    error = json.loads(refused(remedy, "feed", "list", "--json"))["error"]
    assert error == {"code": "error", "message": "no", "hint": "look at it: vesica feed show summer"}


@pytest.mark.parametrize(
    ("remedy", "words", "command"),
    [
        (Remedy("feed.list"), ("--project", "shop", "feed", "list"), "vesica feed list --project shop"),
        (Remedy("feed.list"), ("feed", "list", "--project", "a b"), "vesica feed list --project 'a b'"),
        (Remedy("feed.list"), ("--home", "my home", "feed", "list"), "vesica feed list --home 'my home'"),
        (
            Remedy("consent.model"),
            ("feed", "list", "--home", "h", "--project", "shop"),
            "vesica consent model opt-in --home h --project shop or vesica consent model opt-out --home h --project shop",
        ),
        (
            Remedy("user.grant", {"name": "sam", "role": "viewer", "project": "loyalty"}),
            ("feed", "list", "--project", "shop"),
            "vesica user grant sam viewer --project loyalty",
        ),
        (Remedy("user.create"), ("user", "list", "--project", "shop"), "vesica user create NAME --role ROLE"),
        (Remedy("project.list"), ("feed", "list", "--project", "shop"), "vesica project list"),
        (
            Remedy("project.show", {"name": "loyalty"}),
            ("feed", "list", "--project", "shop"),
            "vesica project show loyalty",
        ),
        (Remedy("project.show"), ("feed", "list", "--project", "shop"), "vesica project show --project shop"),
        (Remedy("node.sync"), ("feed", "list", "--project", "shop", "--home", "h"), "vesica node sync --home h"),
    ],
)
def test_a_command_is_for_the_home_and_the_project_that_were_typed(
    refused: Callable[..., str], remedy: Remedy, words: tuple[str, ...], command: str
) -> None:
    assert refused(remedy, *words) == f"vesica: error: no\nvesica: hint: look at it: {command}\n"


def test_what_the_environment_says_needs_no_words(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VESICA_PROJECT", "shop")
    assert refused(Remedy("feed.list"), "feed", "list").endswith("look at it: vesica feed list\n")
    assert refused(Remedy("feed.list"), "feed", "list", "--project", "b").endswith("vesica feed list --project b\n")


def test_what_a_project_still_needs_is_set_there(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node.create_project("loyalty")
    monkeypatch.setenv("VESICA_HOME", str(node.home.path))
    assert main(["--project", "loyalty", "project", "show"]) == 0
    ways = "vesica consent model opt-in --project loyalty or vesica consent model opt-out --project loyalty"
    assert ways in capsys.readouterr().out
    assert main(["project", "show", "loyalty"]) == 0
    assert ways in capsys.readouterr().out
    assert main(["consent", "show", "--project", "loyalty"]) == 0
    assert f"not chosen: {ways}" in capsys.readouterr().out


def test_what_a_job_of_another_project_needs_is_done_there() -> None:
    row = {"project": "shop", "error": VesicaError("no", remedy=Remedy("feed.list")).document()}
    with click.Context(cli, obj=Context()):
        assert remedies.of_row(row)["error"]["hint"] == "vesica feed list --project shop"
        assert remedies.of_row({**row, "project": "default"})["error"]["hint"] == "vesica feed list"


# Every remedy in the code


def written(source: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the act and the names of the arguments of each Remedy that a source writes out."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name("Remedy") | ast.Attribute(attr="Remedy")):
                named = {keyword.arg: keyword.value for keyword in node.keywords}
                act, arguments = [*node.args, None, None][:2]
                act, arguments = act or named.get("act"), arguments or named.get("arguments")
                if isinstance(act, ast.Constant) and isinstance(act.value, str):
                    keys = arguments.keys if isinstance(arguments, ast.Dict) else []
                    yield act.value, [str(key.value) for key in keys if isinstance(key, ast.Constant)]


def wrong(source: str) -> list[str]:
    """Return what no command answers to: acts, and arguments that their command does not have."""
    found = []
    for act, names in written(source):
        command = remedies.find(act)
        if command is None:
            found.append(act)
        else:
            known = {parameter.name for parameter in command.params}
            found += [f"{act} {name}" for name in names if name not in known]
    return found


@pytest.mark.parametrize("package", ["psi", "protocol", "node"])
def test_every_remedy_names_a_command_and_its_parameters(package: str) -> None:
    pages = {path.relative_to(ROOT).as_posix(): wrong(path.read_text()) for path in (ROOT / package).rglob("*.py")}
    assert {name: found for name, found in pages.items() if found} == {}


def test_a_remedy_that_no_command_answers_to_is_found() -> None:
    source = """
Remedy("feed.show", {"name": name, "partner": alias})
Remedy(act="feed.show", arguments={"feed": name})
errors.Remedy("feed.frob")
Remedy("feed", {})
"""
    assert wrong(source) == ["feed.show feed", "feed.frob", "feed"]


# Only cli/ knows commands

LABEL = '"vesica backup 1"'  # the format of a backup


def naming_commands(root: Path) -> set[str]:
    """Return the files below cli/ of which a line names a command; labels such as "vesica/1 request" are none."""
    paths = (path for package in ("psi", "protocol", "node") for path in (root / package).rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix()
        for path in paths
        if path.suffix in {".py", ".c", ".h"} and re.search(r"\bvesica [a-z]", path.read_text().replace(LABEL, ""))
    }


def naming_options(source: str) -> list[str]:
    """Return the texts of a source that name an option of the command line, such as --home."""
    texts = (each.value for each in ast.walk(ast.parse(source)) if isinstance(each, ast.Constant))
    return [text for text in texts if isinstance(text, str) and re.search(r"(?<![\w-])--[a-z]", text)]


@pytest.mark.parametrize("package", ["psi", "protocol", "node"])
def test_no_text_names_an_option(package: str) -> None:
    of_programs = ROOT / "node/destinations/targets/commands.py"  # its options are those of Singer and Airbyte
    paths = [path for path in (ROOT / package).rglob("*.py") if path != of_programs]
    found = {path.name: naming_options(path.read_text()) for path in paths}
    assert {name: texts for name, texts in found.items() if texts} == {}, "say it in words, or give the error a Remedy"


def test_a_text_that_names_an_option_is_found() -> None:
    assert naming_options('hint = f"name one with --home, {1} times"; other = "a--b"') == ["name one with --home, "]


def test_no_line_names_a_command() -> None:
    assert naming_commands(ROOT) == set(), "give the error a Remedy, and words without a command"


def test_a_line_that_names_a_command_is_found(tmp_path: Path) -> None:
    for name, text in (
        ("psi/a.c", "// run vesica demo"),
        ("protocol/b.py", 'LABEL = b"vesica/1 request"'),
        ("node/room/c.py", 'hint="run it again: vesica feed sync"'),
        ("cli/d.py", "vesica demo"),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert naming_commands(tmp_path) == {"psi/a.c", "node/room/c.py"}
