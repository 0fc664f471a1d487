"""Templates of message bodies, as a process of its own renders them: it is given JSON, and has no secret and no home.

It runs under limits of memory and time. Frames go both ways: four bytes of length, then JSON. The first has the template,
each other one what it is rendered with.

A template is Jinja2 with the forms that Adobe's Pebble templates share with it; what is not on a list here is refused. What
it prints never becomes structure: a marker stands for each text until the whole was read as JSON, then the text takes the
place of its marker. So nobody's attribute can close a string or bring a key.
"""

import json
import re
import resource
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from jinja2 import ChainableUndefined, Environment, TemplateError, nodes, pass_context
from jinja2.runtime import LoopContext
from jinja2.visitor import NodeTransformer

from .template_data import FILTERS, FUNCTIONS, GLOBALS, TESTS, Entry, Map, Nothing, Wrong, wrapped

CPU_SECONDS = 5  # of one message
MEMORY = 512 << 20  # bytes of the process, Python and Jinja2 among them
OUTPUT = 16 << 20  # characters of one message
DEEPEST = 50  # lists and objects within each other
LENGTH = struct.Struct(">I")
OPEN, CLOSE = "\ue000", "\ue001"  # around the number of a text: no template may have them
_MARKER = re.compile(f"{OPEN}(\\d+){CLOSE}")
_LOOP = ("first", "last", "index", "index0", "revindex", "revindex0", "length")
_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Assign, nodes.FilterBlock, nodes.Name,
    nodes.Const, nodes.List, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.Getattr, nodes.Getitem, nodes.Compare,
    nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr, nodes.Concat, nodes.Filter, nodes.Test, nodes.Call,
)  # fmt: skip
_EVERYWHERE = ("upper", "lower")  # filters that a whole block may go through


class Language(Environment):
    """What a template may reach: data, and nothing of Python's."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Map):
            return obj.get(attribute)
        if isinstance(obj, Entry) and attribute in Entry.__slots__:
            return getattr(obj, attribute)
        if isinstance(obj, LoopContext) and attribute in _LOOP:
            return getattr(obj, attribute)
        return Nothing()

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, list) and isinstance(argument, int):
            return obj[argument] if -len(obj) <= argument < len(obj) else Nothing()
        return self.getattr(obj, argument) if isinstance(argument, str) else Nothing()


class Renderer:
    """A template that was found good, and what it makes of data."""

    def __init__(self, text: str) -> None:
        self._texts: list[object] = []
        self._size = 0
        language = Language(
            undefined=Nothing, finalize=pass_context(lambda _, value: self._printed(value)), cache_size=0
        )
        language.filters, language.tests, language.globals = dict(FILTERS), dict(TESTS), dict(GLOBALS)
        if OPEN in text or CLOSE in text:
            raise Wrong("the template has a character that stands for texts here", "leave U+E000 and U+E001 out")
        try:
            tree = language.parse(text)
            _check(tree)
            self.reads = sorted({each.attr for each in tree.find_all(nodes.Getattr)} | _keys(tree))
            self._template = language.from_string(_Everywhere().visit(tree))
        except TemplateError as error:
            raise Wrong(f"line {getattr(error, 'lineno', 0)}: {error.message}"[:300]) from error
        except RecursionError as error:
            raise Wrong("the template is nested too deeply") from error

    def render(self, data: Mapping[str, object]) -> str:
        """Return the message as JSON; raises Wrong where there is none."""
        self._texts, self._size = [], 0
        pieces = []
        try:
            for piece in self._template.generate({name: wrapped(value) for name, value in data.items()}):
                self._grow(len(piece))
                pieces.append(piece)
            made = json.loads("".join(pieces), object_pairs_hook=_once, parse_constant=_no_constant)
            filled = self._filled(made, DEEPEST)
            return json.dumps(filled, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except ValueError as error:
            raise Wrong("it makes no JSON", "put quotes around what is printed, and commas between values") from error
        except (MemoryError, RecursionError, OverflowError) as error:
            raise Wrong("the message is too large") from error
        except (TemplateError, TypeError, AttributeError, LookupError, NameError) as error:
            raise Wrong(f"it cannot be rendered: {type(error).__name__}") from error

    def _printed(self, value: object) -> str:
        """Return what stands in the skeleton for a value that is printed."""
        if value is None or isinstance(value, ChainableUndefined):
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return json.dumps(value, allow_nan=False)
        self._texts.append(value)
        mark = f"{OPEN}{len(self._texts) - 1}{CLOSE}"
        if isinstance(value, str):
            self._grow(len(value))
            return mark
        return f'"{mark}"'  # a list or an object, which prints as itself where no quotes are

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > OUTPUT:
            raise Wrong(f"a message has more than {OUTPUT:,} characters", "send fewer people with each")

    def _filled(self, made: object, depth: int) -> object:
        if not depth:
            raise Wrong(f"a message is nested more than {DEEPEST} times")
        if isinstance(made, list):
            return [self._filled(each, depth - 1) for each in made]
        if isinstance(made, dict):
            return _once([(self._text(key), self._filled(value, depth - 1)) for key, value in made.items()])
        if not isinstance(made, str):
            return made
        found = _MARKER.fullmatch(made)
        value = None if found is None else self._texts[int(found[1])]
        return self._text(made) if found is None or isinstance(value, str) else _plain(value, depth)

    def _text(self, made: str) -> str:
        return _MARKER.sub(lambda found: _string(self._texts[int(found[1])]), made)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong("a list or an object is printed within quotes", "print its texts")
    return value


def _plain(value: object, depth: int) -> object:
    if not depth:
        raise Wrong(f"a message is nested more than {DEEPEST} times")
    if isinstance(value, Map):
        return value.items
    if isinstance(value, Entry):
        return {"key": value.key, "value": _plain(value.value, depth - 1)}
    if isinstance(value, list):
        return [_plain(each, depth - 1) for each in value]
    return None if isinstance(value, ChainableUndefined) else value


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Return an object; raises Wrong for a key that comes twice: one of them would say what the other does not."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Wrong("a key comes twice in one object", "give each its own name")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(name)


class _Everywhere(NodeTransformer):
    """Takes blocks that go through a filter apart, and lets loops go through what is not there."""

    def visit_FilterBlock(self, node: nodes.FilterBlock) -> list[nodes.Node]:
        name = str(node.filter.name)
        for output in (each for part in node.body for each in (part, *part.find_all(nodes.Output))):
            if isinstance(output, nodes.Output):
                output.nodes = [_through(each, name) for each in output.nodes]
        return [each for part in node.body for each in self.visit_list(part)]

    def visit_For(self, node: nodes.For) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.iter = nodes.Filter(node.iter, "_each", [], [], None, None, lineno=node.lineno)
        return node


def _through(node: nodes.Expr, name: str) -> nodes.Expr:
    if isinstance(node, nodes.TemplateData):
        return nodes.TemplateData(getattr(node.data, name)(), lineno=node.lineno)
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _check(tree: nodes.Template) -> None:
    """Raise Wrong for anything that is not on the lists."""
    for node in _all(tree):
        where = f"line {getattr(node, 'lineno', 0)}: "
        if type(node) not in _NODES:
            raise Wrong(
                f"{where}{type(node).__name__.lower()} cannot be used in a template", _HINTS.get(type(node), "")
            )
        match node:
            case nodes.For():
                if any(node.find_all(nodes.Assign)):
                    raise Wrong(
                        f"{where}set within for: the value would be lost at the next turn",
                        "ask with loop.first or loop.last, which count from the first turn on; loop.index begins with 1",
                    )
                if node.recursive or not isinstance(node.target, nodes.Name):
                    raise Wrong(f"{where}a loop has one name", "of a map's entry read .key and .value")
            case nodes.Name() if node.name.startswith("_"):
                raise Wrong(f"{where}no name begins with _")
            case nodes.Assign() if not isinstance(node.target, nodes.Name) or node.target.name in _KEPT:
                raise Wrong(f"{where}that name cannot be set")
            case nodes.Call():
                name = node.node.name if isinstance(node.node, nodes.Name) else ""
                plain = len(node.args) == 1 and not node.kwargs and node.dyn_args is None and node.dyn_kwargs is None
                if name not in FUNCTIONS or not plain:
                    raise Wrong(f"{where}nothing is called but {', '.join(FUNCTIONS)}, with one map each")
            case nodes.Getattr() if node.attr.startswith("_"):
                raise Wrong(f"{where}no attribute begins with _", 'write ["_name"] for a field of that name')
            case nodes.FilterBlock() if node.filter.name not in _EVERYWHERE or node.filter.args:
                raise Wrong(f"{where}a block goes through {' or '.join(_EVERYWHERE)} alone", "filter the single values")
            case nodes.Filter() | nodes.Test():
                known = FILTERS if isinstance(node, nodes.Filter) else TESTS
                if node.name not in known or node.name.startswith("_") or node.dyn_args or node.dyn_kwargs:
                    noun = "filter" if isinstance(node, nodes.Filter) else "test"
                    names = sorted(each for each in known if not each.startswith("_"))
                    raise Wrong(f"{where}there is no {noun} {node.name[:40]}", f"there are {', '.join(names)}")


def _all(tree: nodes.Node) -> Iterator[nodes.Node]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.iter_child_nodes())


def _keys(tree: nodes.Template) -> set[str]:
    found = (each.arg for each in tree.find_all(nodes.Getitem))
    return {each.value for each in found if isinstance(each, nodes.Const) and isinstance(each.value, str)}


_HINTS: dict[type[nodes.Node], str] = {
    nodes.Macro: "write the text where it is used",
    nodes.Include: "put everything into one file",
    nodes.Extends: "put everything into one file",
    nodes.Mul: "join texts by ~",
    nodes.Add: "join texts by ~",
}
_KEPT = ("input", "destination", "loop", "null", *FUNCTIONS)


def serve(given: BinaryIO, out: BinaryIO) -> None:
    """Answer frames until none comes; a process that takes too long, or too much, ends without an answer."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    renderer: Renderer | None = None
    while (frame := read(given)) is not None:
        used, hard = int(time.process_time()), resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (used + CPU_SECONDS + 1, hard))
        try:
            if renderer is None:
                renderer = Renderer(json.loads(frame))
                answer: dict[str, object] = {"reads": renderer.reads}
            else:
                answer = {"body": renderer.render(json.loads(frame))}
        except Wrong as error:
            answer = {"wrong": str(error), "hint": error.hint}
        except MemoryError:
            answer = {"wrong": "it needs too much memory", "hint": ""}
        write(out, json.dumps(answer).encode())


def read(file: BinaryIO) -> bytes | None:
    """Return the next frame, None at the end."""
    head = file.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    return file.read(size)


def write(file: BinaryIO, frame: bytes) -> None:
    file.write(LENGTH.pack(len(frame)) + frame)
    file.flush()


def main() -> None:
    serve(sys.stdin.buffer, sys.stdout.buffer)
