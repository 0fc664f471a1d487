"""Kinds of destinations from other packages: the example of the page works, and one that is broken costs itself alone."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from clock import Clock
from targets import folder_out, prepared

from node.destinations import due, plugins
from node.destinations.kinds import Unusable
from node.errors import InvalidInput
from node.node import Node
from node.project import Project

PAGE = Path(__file__).parents[3] / "docs" / "destinations.md"
Install = Callable[[str, str], None]
GOOD = """
from node.destinations.kinds import Delivered
class Kind:
    text, settings, limit = "good", (), 10
    def checked(self, settings): return dict(settings)
    def secret(self, given, random): return None
    def open(self, home, settings, secret): return self
    def check(self, now): return Delivered()
    def encode(self, batch): return b"x"
    def send(self, message): return Delivered()
    def close(self): pass
KIND = Kind()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package whose module has the kind KIND under a name."""
    monkeypatch.setattr("node.destinations.plugins._LOADED", {})

    def install(name: str, source: str) -> None:
        module = f"plugin_{name}_{len(source)}"
        folder = tmp_path / "site"
        (folder / f"{module}-1.dist-info").mkdir(parents=True)
        (folder / f"{module}-1.dist-info" / "METADATA").write_text(f"Name: {module}\nVersion: 1\n")
        (folder / f"{module}-1.dist-info" / "entry_points.txt").write_text(
            f"[vesica.destinations]\n{name} = {module}:KIND\n"
        )
        (folder / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(folder)

    return install


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    return prepared(node.project(), tmp_path, 4, s="orders >= 1")


def test_the_example_of_the_page_is_a_kind(install: Install, project: Project, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    install("notebook", example + "KIND = NOTEBOOK\n")
    (shown,) = (each for each in project.destinations.kinds() if each["kind"] == "notebook")
    assert [each["name"] for each in shown["settings"]] == ["path"]
    with pytest.raises(InvalidInput, match="no path of a notebook"):
        project.destinations.create("notes", "notebook", {"path": "x"})
    with pytest.raises(InvalidInput, match="needs the setting path"):
        project.destinations.create("notes", "notebook", {})
    file = tmp_path / "notes.txt"
    project.destinations.create("notes", "notebook", {"path": str(file)}, uses=["analytics"])
    assert project.destinations.check("notes")["arrived"]
    project.destinations.activate("notes", ["s"])
    project.consent.set("p2", "n")
    project.destinations.sync("notes")
    said = [line.partition(" ")[2] for line in file.read_text().splitlines()]
    assert said == ["realized p1", "realized p2", "realized p3", "exited p2"]


@pytest.mark.parametrize(
    "source",
    [
        "import nothing_of_that_name",
        "raise SystemExit(3)",
        "KIND = None",
        GOOD.replace('limit = "good", (), 10', 'limit = "good", (), "ten"'),
        GOOD.replace('limit = "good", (), 10', 'limit = "good", ("path",), 10'),
        GOOD.replace("return dict(settings)", "return {1: 2}"),
        GOOD.replace("return dict(settings)", "raise RuntimeError('p1@x.com')"),
    ],
)
def test_one_that_does_not_load_is_named_and_the_others_are_there(
    install: Install, project: Project, source: str
) -> None:
    install("broken", source)
    assert {"file", "webhook", "broken"} <= {each["kind"] for each in project.destinations.kinds()}
    with pytest.raises(Unusable, match="plug-in for broken") as raised:
        project.destinations.create("b", "broken", {})
    assert "p1@" not in f"{raised.value}{raised.value.__cause__}"
    assert project.destinations.all() == []


@pytest.mark.parametrize(
    "line", ['def open(self, home, settings, secret): raise RuntimeError("p1")', 'def encode(self, batch): return "x"']
)
def test_one_that_fails_before_it_sends_is_disabled_and_goes_on_once_it_is_repaired(
    install: Install, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    install("late", GOOD.replace("KIND =", f"Good = Kind\nclass Kind(Good):\n    {line}\nKIND ="))
    folder = folder_out(project, tmp_path)
    project.destinations.create("late", "late", {}, uses=["analytics"])
    for name in ("late", "out"):
        project.destinations.activate(name, ["s"])
    assert len(folder.look()) == 3
    shown = project.destinations.show("late")
    assert (shown["status"], shown["present"]) == ("disabled", 0)
    assert "plug-in" in shown["reason"]
    (alert,) = project.alerts.all()
    assert "late" in alert.text
    assert due.submit_due(project.scope) is None  # and nothing is tried every minute
    kind = plugins.plugin("late")._kind
    (broken,) = {"open", "encode"} & set(vars(type(kind)))
    monkeypatch.setattr(type(kind), broken, getattr(type(kind).__base__, broken))
    assert project.destinations.resume("late")["sent"] == 1
    assert project.destinations.show("late")["present"] == 3


@pytest.mark.parametrize(
    "answer", ["1 / 0", "None", "Later('a code with spaces')", "Later('x' * 40)", "Refused(7)", "Gone('p1@x.com')"]
)
def test_whatever_it_answers_is_counted_once(install: Install, project: Project, clock: Clock, answer: str) -> None:
    source = GOOD.replace("import Delivered", "import Delivered, Gone, Later, Refused")
    install("odd", source.replace("def send(self, message): return Delivered()", f"def send(self, _): return {answer}"))
    project.destinations.create("odd", "odd", {}, uses=["analytics"])
    project.destinations.activate("odd", ["s"])
    for seconds in (15, 30):
        clock.advance(seconds=seconds)
        project.destinations.sync("odd")
    (row,) = project.destinations.runs("odd")
    assert (row["received"], row["failed"], row["waiting"], row["requests"]) == (3, 3, 0, 3)
    (error,) = project.destinations.errors("odd")
    assert (error["code"], "plug-in" in error["reason"]) == ("plugin", True)


def test_a_plug_in_that_is_gone_can_be_left(
    install: Install, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("away", GOOD)
    project.destinations.create("away", "away", {}, uses=["analytics"])
    project.destinations.activate("away", ["s"])
    monkeypatch.setattr("node.destinations.plugins.entry_points", lambda **_: ())
    monkeypatch.setattr("node.destinations.plugins._LOADED", {})
    project.consent.set("p2", "n")
    assert project.destinations.sync("away")["status"] == "disabled"
    assert project.destinations.delete("away", leave=True)["status"] == "deleted"
