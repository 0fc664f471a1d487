"""The documents say what the code does: commands, labels, steps, messages, letters, errors, links, the README's story."""

import ast
import dataclasses
import importlib
import io
import json
import pkgutil
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from fractions import Fraction
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import click
import pytest

import protocol
from cli.demo import free_ports
from cli.main import Context, cli, main
from cli.receiver import members
from cli.sample import Sample
from protocol import wire
from protocol.errors import HINTS
from protocol.letters import KINDS
from protocol.states import STEPS, SUBJECTS, Kind, Part, Step
from protocol.wire import Limit, Message
from psi.errors import DuplicatePoint, InvalidPoint, InvalidProof, InvalidScalar, InvalidTags, WrongCount

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
SPEC = (ROOT / "SPEC.md").read_text()
WAIT = 30.0  # seconds, for letters that take one or two
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


# Commands


def test_the_command_reference_is_up_to_date() -> None:
    script = ROOT / "tests" / "scripts" / "cli_reference.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def shell_commands() -> list[str]:
    """Return the `vesica` lines of every sh block of the documents, continued lines joined."""
    blocks = [text for page in PAGES for language, text in FENCE.findall(page.read_text()) if language == "sh"]
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return sorted({line.removesuffix("&").strip() for line in lines if line.startswith("vesica ")})


@pytest.mark.parametrize("line", shell_commands())
def test_a_documented_command_is_understood(line: str) -> None:
    """Parse the line as the command line does, down to the command that it names; nothing is run."""
    command: click.Command = cli
    name, rest = "vesica", shlex.split(line)[1:]
    context: click.Context | None = None
    while True:
        context = command.make_context(name, rest, parent=context, obj=Context() if context is None else None)
        if not isinstance(command, click.Group):
            return
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        assert name is not None
        command = found


def test_the_targets_of_make_exist() -> None:
    """Those that the README gives on lines of their own, and CONTRIBUTING.md between backticks."""
    made = set(re.findall(r"^make (\w+)$", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= made
    made |= set(re.findall(r"`make (\w+)`", (ROOT / "CONTRIBUTING.md").read_text()))
    assert {"quick", "check", "assure"} <= made
    assert made <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


# The story of two nodes

PEOPLE = 3_000  # a side: enough for the smallest universe and segment of the default terms


def told() -> Iterator[tuple[str, list[str]]]:
    """Yield the terminal and the lines of each sh block under "Run two nodes"."""
    story = (ROOT / "README.md").read_text().partition("\n## Run two nodes\n")[2].partition("\n## ")[0]
    terminal, end = "", 0
    for block in FENCE.finditer(story):
        terminal = [terminal, *re.findall(r"Terminal (\d)", story[end : block.start()])][-1]
        end = block.end()
        assert block[1] == "sh"
        yield terminal, block[2].replace("\\\n", " ").splitlines()


def filled_in(line: str, addresses: list[str], connect_id: str) -> str:
    """Put free ports, and the Connect ID, in the place of what the README names."""
    for place, address in enumerate(addresses):
        line = line.replace(f"127.0.0.1:{8471 + place}", address)
    return line.replace("CONNECT_ID", connect_id)


@contextmanager
def service(arguments: list[str]) -> Iterator[None]:
    with Path("service.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; from cli.main import main; sys.exit(main())", *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on ")
        yield
    finally:
        process.terminate()
        assert process.wait(30) == 0


class Agreeing(io.StringIO):
    """A terminal at which a person says yes to every question."""

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1) -> str:
        return "y\n"


@pytest.mark.two_nodes
def test_two_nodes_do_what_the_readme_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run every line as it stands, but for the ports, the Connect ID, and the yes that a person would say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", Agreeing())
    Path("sample").mkdir()
    sample = Sample.make(PEOPLE)
    sample.write(Path("sample"))
    addresses, homes = [f"127.0.0.1:{port}" for port in free_ports(2)], dict[str, str]()
    said, connect_id = "", ""
    with ExitStack() as services:
        for terminal, lines in told():
            for line in (filled_in(each, addresses, connect_id) for each in lines):
                if line.startswith("export VESICA_HOME="):
                    homes[terminal] = line.partition("=")[2]
                    continue
                program, *arguments = shlex.split(line)
                assert program == "vesica"
                monkeypatch.setenv("VESICA_HOME", homes[terminal])
                if arguments[-1] == "&":
                    services.enter_context(service(arguments[:-1]))
                    continue
                said = run(arguments, capsys)
                if arguments == ["partner", "id"]:
                    connect_id = said.split()[0]
        assert homes == {"1": "fern", "2": "daily"}
        assert set(Path("buyers.csv").read_text().splitlines()[1:]) == sample.members("frequent-buyers") != set()
        deadline = time.monotonic() + WAIT
        while not (partner := json.loads(said)["partners"][0])["purges"]:
            assert time.monotonic() < deadline
            said = run(arguments, capsys)
        assert partner["last_revision"] == 1


def test_projects_share_segments_as_the_readme_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run every line of the section as it stands."""
    section = (ROOT / "README.md").read_text().partition("\n## Segments between projects\n")[2].partition("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VESICA_HOME", "fern")
    for name, field, people in (("crm", "orders", range(6)), ("app", "visits", range(3, 9))):
        rows = (f"{name}{n},00000000-0000-4000-8000-{n:012x},{n * 2}" for n in people)
        Path(f"{name}.csv").write_text("\n".join([f"id,device,{field}", *rows]) + "\n")
    assert main(["node", "init", "--org", "Fern"]) == 0
    said = {}
    for line in FENCE.findall(section)[0][1].replace("\\\n", " ").splitlines():
        capsys.readouterr()
        assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr())
        said[line] = capsys.readouterr().out
    (listed,) = (text for line, text in said.items() if "--shared" in line)
    assert listed.splitlines()[1].split()[:3] == ["shared.crm.vip", "shared", "3"]
    assert Path("out.csv").read_text() == "id,visits\napp3,6\napp4,8\napp5,10\n"


def test_the_audience_manager_side_works_as_the_readme_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run every line of the section as it stands, and say yes where it asks."""
    section = (ROOT / "README.md").read_text().partition("\n## The Audience Manager side\n")[2].partition("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VESICA_HOME", "fern")
    monkeypatch.setattr(sys, "stdin", Agreeing())
    for line in FENCE.findall(section)[0][1].splitlines():
        if line.startswith("printf "):
            subprocess.run(["sh", "-c", line], check=True)
            continue
        capsys.readouterr()
        assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr())
    assert ["size", "1"] in [row.split() for row in capsys.readouterr().out.splitlines()]


RECEIVE = (
    "import sys; from cli import demo; demo.RECEIVER_PORT = int(sys.argv.pop(1)); from cli.main import main; main()"
)


@pytest.mark.two_nodes
def test_a_segment_goes_somewhere_as_the_readme_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run every line of the section, but for the port and a demo with few people."""
    section = (ROOT / "README.md").read_text().partition("\n## Send a segment somewhere\n")[2].partition("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    (port,) = free_ports(1)
    lines = FENCE.findall(section)[0][1].replace("\\\n", " ").replace("8473", str(port)).splitlines()
    assert len(lines) == 5
    with ExitStack() as running:
        for line in lines:
            program, *arguments = shlex.split(line)
            assert program == "vesica"
            if arguments[-1] == "&":
                command = [sys.executable, "-c", RECEIVE, str(port), *arguments[:-1]]
                process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                running.callback(process.communicate)
                running.callback(process.terminate)
                assert process.stdout is not None
                assert process.stdout.readline() == f"https://localhost:{port}/\n"
            else:
                few = ["--size", "400"] if arguments[0] == "demo" else []
                assert main([*arguments, *few]) == 0, (line, capsys.readouterr())
        shown = capsys.readouterr().out
    size = sum("lapsed" in each.segments and each.consent != "n" for each in Sample.make(400).retailer)
    assert {name: len(found) for name, found in members(Path("inbox")).items()} == {"lapsed": size}
    cells = dict(zip(*(line.split() for line in shown.splitlines()[-2:]), strict=False))
    assert (cells["status"], cells["activated"]) == ("done", str(size))


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run one command, again for a while if it fails: people type slower than letters travel."""
    deadline = time.monotonic() + WAIT
    while code := main(arguments):
        failed = capsys.readouterr()
        assert time.monotonic() < deadline, (arguments, code, failed)
        time.sleep(0.2)
    return capsys.readouterr().out


# The specification


def literals() -> set[str]:
    """Return every bytes literal of the code that begins as a label does."""
    return {
        node.value.decode().strip()
        for package in ("psi", "protocol", "node", "cli")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, bytes) and node.value.startswith(b"vesica/1")
    }


def test_the_labels_of_the_code_are_those_of_the_specification() -> None:
    assert literals() == set(re.findall(r"^\| `(vesica/1 [^`]+)` \|", SPEC, re.MULTILINE))


@pytest.mark.parametrize("kind", list(Kind))
def test_the_steps_of_an_exchange_stand_in_order(kind: Kind) -> None:
    table = SPEC.partition(f"Steps of `{kind}`")[2].partition("\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    assert table == [f"| `{step.name}` | {step.sender} | {spelled_step(step)} |" for step in STEPS[kind]]
    subject = ", ".join(f"`{name}`" for name in SUBJECTS[kind])
    assert f"| `{kind}` | {subject} |" in SPEC


def spelled_step(step: Step) -> str:
    return f"`{step.message.TYPE}`" + (f", chunk for chunk of `{step.replies_to}`" if step.replies_to else "")


SIDES = {Part.ASKER: "A", Part.SENDER: "A", Part.ANSWERER: "B", Part.RECEIVER: "B"}


def drawn() -> dict[str, list[tuple[str, str]]]:
    """Return what the diagram of the overview draws: under each phase, who sends which message, in order."""
    (diagram,) = (text for language, text in FENCE.findall(SPEC) if language == "mermaid")
    phases: dict[str, list[tuple[str, str]]] = {}
    for line in diagram.splitlines():
        if note := re.match(r" *Note over A,B: ([a-z]+)", line):
            arrows = phases.setdefault(note[1], [])
        elif arrow := re.match(r" *([AB])->>[AB]: ([a-z.]+): ", line):
            arrows.append((arrow[1], arrow[2]))
        else:
            assert "->>" not in line, line
    return phases


def test_the_diagram_shows_the_steps_of_each_exchange() -> None:
    phases = drawn()
    for kind in Kind:
        assert phases.pop(kind) == [(SIDES[step.sender], step.name) for step in STEPS[kind]]
    known = {*KINDS, *(title(message) for message in messages())}
    assert list(phases) == ["connect", "offer"]
    assert {name for arrows in phases.values() for _, name in arrows} <= known


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_kind_of_letter_is_specified(kind: str) -> None:
    assert f"| `{kind}` | `{KINDS[kind].TYPE}` |" in SPEC


def messages() -> list[type[Message]]:
    for module in pkgutil.iter_modules(protocol.__path__, "protocol."):
        importlib.import_module(module.name)
    below = [each for each in Message.__subclasses__() if each.__module__.startswith("protocol.")]
    return [found for _, found in sorted({title(each): each for each in below}.items())]  # slots make two of each class


def title(message: type[Message]) -> str:
    """Return what SPEC.md calls a message: its type on the wire, or for a part of another one its class in words."""
    return message.TYPE or re.sub(r"(?<!^)(?=[A-Z])", "-", message.__name__).lower()


def spelled(hint: Any) -> str:
    """Return how SPEC.md writes a field's type and limits."""
    if get_origin(hint) in (Union, UnionType):
        options = [spelled(each) for each in get_args(hint) if each is not NoneType]
        return " or ".join(options + ["nil"] * (NoneType in get_args(hint)))
    base, limit = get_args(hint) if get_origin(hint) is Annotated else (hint, None)
    if hint == wire.Namespace:
        return "namespace"
    if hint in (wire.Number, wire.Moment):
        return "number" if hint == wire.Number else "moment"
    inner = get_args(base)
    if get_origin(base) is tuple:
        return f"{span('list', limit)} of {spelled(inner[0])}"
    if get_origin(base) is dict:
        return f"{span('map', limit)} from {spelled(inner[0])} to {spelled(inner[1])}"
    if isinstance(base, type) and issubclass(base, Message):
        return f"`{title(base)}`"
    if isinstance(base, type) and issubclass(base, Enum):
        return ", ".join(f'"{each.value}"' for each in base)
    if base is Fraction:
        return "fraction"
    return span({bytes: "bytes", str: "text", int: "int", bool: "bool"}[base], limit)


def span(word: str, limit: Limit | None) -> str:
    if limit is None:
        return word
    if limit.pattern:
        return ", ".join(f'"{each}"' for each in limit.pattern.split("|"))
    size = f"{limit.least}" if limit.least == limit.most else f"{limit.least} to {limit.most:,}"
    return f"{word} {size}" + (f", a multiple of {limit.multiple}" if limit.multiple > 1 else "")


def rows(message: type[Message]) -> list[str]:
    hints = get_type_hints(message, include_extras=True)
    return [f"| `{field.name}` | {spelled(hints[field.name])} |" for field in dataclasses.fields(message)]


@pytest.mark.parametrize("message", messages(), ids=title)
def test_a_message_is_specified_field_by_field(message: type[Message]) -> None:
    head = f"**`{title(message)}`**"
    assert SPEC.count(head) == 1
    table = SPEC.partition(head)[2].partition("\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    assert [" | ".join(row.split(" | ")[:2]) + " |" for row in table] == rows(message)


def blamed() -> Iterator[tuple[str, bool]]:
    """Yield each code that is written out in a RemoteProtocolError of the code, and whether a hint stands beside it."""
    for package in ("psi", "protocol", "node", "cli"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Call(
                        func=ast.Name("RemoteProtocolError") | ast.Attribute(attr="RemoteProtocolError" | "__init__"),
                        args=[ast.Constant(str(code)), _, *_],
                    ):
                        yield code, any(keyword.arg == "hint" for keyword in node.keywords)


def test_every_error_code_is_specified_and_has_a_next_step() -> None:
    below = [InvalidPoint, DuplicatePoint, InvalidScalar, InvalidProof, InvalidTags, WrongCount]
    codes = {*HINTS, *(code for code, _ in blamed()), *(each.code for each in below)}
    assert sorted(code for code in codes if f"`{code}`" not in SPEC) == []
    assert sorted({code for code, hinted in blamed() if not hinted} - HINTS.keys()) == []
    assert sorted(HINTS.keys() - {code for code, _ in blamed()}) == []


def test_the_vectors_are_named() -> None:
    files = {path.name for path in (ROOT / "tests" / "vectors").glob("*.json")}
    assert {name for name in files if f"`{name}`" not in SPEC} == set()


# The pages


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


REFERENCE = re.compile(r"^\[([\w-]+)\]: (\S+)$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)", text) + [link for _, link in REFERENCE.findall(text)]
    for link in (each for each in links if "://" not in each):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_pages_exist(page: Path) -> None:
    named = re.findall(r"`((?:psi|protocol|node|cli|tests|benchmarks|docs)/[\w./]*)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


LYING = ROOT / "docs" / "lying-partner.md"


def test_the_tests_named_for_each_lie_exist() -> None:
    """A paragraph names the tests that show what a lie gets, or says that there is none."""
    text = LYING.read_text()
    files = dict(REFERENCE.findall(text))
    shown = {
        reference: {each.name for each in ast.parse((LYING.parent / path).read_text()).body if hasattr(each, "name")}
        for reference, path in files.items()
    }
    named = re.findall(r"\[`(test_\w+)`\]\[([\w-]+)\]", text)
    assert [(test, reference) for test, reference in named if test not in shown.get(reference, ())] == []
    assert text.count("[`") == len(named)
    assert {reference for _, reference in named} == files.keys()
    lies = re.findall(r"^\*\*It .+?(?=\n\n)|^\*\*Either .+?(?=\n\n)", text, re.MULTILINE | re.DOTALL)
    assert len(lies) > 40
    assert [
        lie for lie in lies if not re.search(r"^Tests?(, of honest nodes)?: |^No test[.:]", lie, re.MULTILINE)
    ] == []


def glossary() -> list[tuple[list[str], str]]:
    """Return the words that each entry of the glossary explains, and its text without code and links."""
    body = (ROOT / "docs" / "glossary.md").read_text().partition("\n## ")[2]
    plain = re.sub(r"`[^`]*`|\[SPEC\]\([^)]*\)|^#+ .*$", "", body, flags=re.MULTILINE)
    return [(re.findall(r"\*\*(.+?)\*\*", entry), entry) for entry in re.split(r"^- ", plain, flags=re.MULTILINE)[1:]]


def test_a_word_of_the_glossary_is_explained_before_it_is_used() -> None:
    entries = glossary()
    early = [
        (word, earlier[0][0])
        for place, (words, _) in enumerate(entries)
        for word in words
        for earlier in entries[:place]
        if re.search(rf"\b{re.escape(word)}s?\b", earlier[1])
    ]
    assert early == []
    assert all(words for words, _ in entries)


def test_the_architecture_is_one_page() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert len(text.splitlines()) <= 110  # the drawing included
    assert len(text) <= 8_100  # tables of files included
