"""The documents say what the code does: commands, labels, steps, messages, letters, links, and the README's commands."""

import ast
import dataclasses
import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from fractions import Fraction
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import click
import pytest

import protocol
from cli.main import Context, cli
from protocol import wire
from protocol.errors import HINTS
from protocol.letters import KINDS
from protocol.states import STEPS, SUBJECTS, Kind, Step
from protocol.wire import Limit, Message
from psi import hashing
from psi.errors import DuplicatePoint, InvalidPoint, InvalidProof, InvalidScalar, InvalidTags, WrongCount

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
SPEC = (ROOT / "SPEC.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


# Commands


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name))


def test_every_command_is_documented() -> None:
    said = (ROOT / "README.md").read_text() + (ROOT / "docs" / "cli.md").read_text()
    assert [name for name in leaves(cli) if f"vesica {name}" not in said] == []


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
    made = set(re.findall(r"^make (\w+)$", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= made
    assert made <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


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


def test_every_label_is_specified() -> None:
    named = {getattr(hashing, name).decode() for name in vars(hashing) if name.endswith("_LABEL")}
    assert len(named) >= 9
    assert named <= literals()
    assert sorted(label for label in literals() if f"| `{label}` |" not in SPEC) == []


@pytest.mark.parametrize("kind", list(Kind))
def test_the_steps_of_an_exchange_stand_in_order(kind: Kind) -> None:
    table = SPEC.partition(f"Steps of `{kind}`")[2].partition("\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    assert table == [f"| `{step.name}` | {step.sender} | {spelled_step(step)} |" for step in STEPS[kind]]
    subject = ", ".join(f"`{name}`" for name in SUBJECTS[kind])
    assert f"| `{kind}` | {subject} |" in SPEC


def spelled_step(step: Step) -> str:
    return f"`{step.message.TYPE}`" + (f", chunk for chunk of `{step.replies_to}`" if step.replies_to else "")


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
    if hint == wire.Number:
        return "number"
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


def test_every_error_code_is_specified() -> None:
    below = [InvalidPoint, DuplicatePoint, InvalidScalar, InvalidProof, InvalidTags, WrongCount]
    codes = {*HINTS, *(each.code for each in below)}
    assert sorted(code for code in codes if f"`{code}`" not in SPEC) == []


def test_the_vectors_are_named() -> None:
    files = {path.name for path in (ROOT / "tests" / "vectors").glob("*.json")}
    assert {name for name in files if f"`{name}`" not in SPEC} == set()


# The pages


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text()))
    for link in (each for each in links if "://" not in each):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_pages_exist(page: Path) -> None:
    named = re.findall(r"`((?:psi|protocol|node|cli|tests|benchmarks|docs)/[\w./]*)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_architecture_is_one_page() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 100
