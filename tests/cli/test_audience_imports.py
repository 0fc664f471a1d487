"""What `vesica audience import` shows and asks before it does anything."""

import sys
from collections.abc import Callable
from io import StringIO

import numpy as np
import pytest
from commands import Run

from cli.main import main
from node.audiencemanager import receiving
from node.node import Node
from psi.values import Values

ECIDS = 0


@pytest.fixture
def run(node: Node, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--home", str(node.home.path), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def visitors(node: Node) -> int:
    """Return the number of a trait of two visitors who are no profiles."""
    project = node.project()
    project.audience.sources.create("Site")
    trait = int(project.audience.traits.create("Gold", source="Site")["number"])
    values = Values.of([f"{each:038}".encode() for each in (1, 2)])
    receiving.receive_members(project.scope, trait, ECIDS, values, np.ones(2, bool))
    return trait


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def say(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", StringIO(text))
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)

    return say


@pytest.mark.feature("AM9")
def test_the_growth_is_shown_and_a_no_changes_nothing(
    run: Run, node: Node, visitors: int, answer: Callable[[str], None]
) -> None:
    answer("n\n")
    code, out, err = run("audience", "import", "--trait", str(visitors))
    assert code == 1
    said = " ".join((out + err).split())
    for each in ("selected identities 2", "already known 0", "new profiles 2", "0 -> 2 (+100.0 %)", "nothing was done"):
        assert each in said
    assert node.project().audience.imports.all() == []
    answer("y\n")
    assert run("audience", "import", "--trait", str(visitors))[0] == 0
    assert [each["reference"] for each in node.project().audience.imports.all()] == ["trait.gold"]


@pytest.mark.feature("AM9")
def test_everything_needs_a_second_yes(run: Run, node: Node, visitors: int, answer: Callable[[str], None]) -> None:
    answer("y\nn\n")
    assert run("audience", "import", "--all")[0] == 1
    assert node.project().audience.imports.all() == []
    answer("y\ny\n")
    assert run("audience", "import", "--all")[0] == 0
    assert run("audience", "remove-import", "trait.gold", "--yes")[0] == 0
    assert run("audience", "import", "--all", "--trait", "1", "--yes")[0] == 2
