"""What a command prints: one JSON document, or tables and lines for people; progress goes to stderr."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .main import Context

Progress = Callable[[str, int, int | None], None]  # what is being done, how much of it, of how much if that is known


def emit(ctx: "Context", document: Any, table: Callable[[], None] | None = None) -> None:
    """Print a document as JSON when --json is given, else call `table`, which prints it for people."""
    if ctx.json or table is None:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=_plain))
    else:
        table()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "none") -> None:
    """Print rows under column names; numbers to the right, None as "-". A pipe gets whole lines, never cut."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    if not rows:
        click.echo(empty)
        return
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, name in enumerate(columns):
        numbers = all(isinstance(row[index], int | None) and not isinstance(row[index], bool) for row in rows)
        grid.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(_cell(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else 1_000, highlight=False).print(grid)


def lines(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print names with their values, one a line, the values under one another."""
    pairs = list(pairs)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        click.echo(f"{name:<{width}}  {_cell(value)}")


def violations(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a report on what forbids an action: a block for each policy, C12, or partner's restriction."""
    lines = []
    for each in found:
        edited = " (just edited)" if each["policy_edited"] else ""
        lines.append(f"{each['title']}{edited} forbids {each['action']} of {_place('segment', each['segment'])}")
        if each["labels"]:
            lines.append(f"    labels   {_cell(each['labels'])}")
        lines += [
            f"    lineage  {trace['label']}: {' > '.join(map(_step, trace['path']))}" for trace in each["lineage"]
        ]
        lines += [f"    fix      {fix}" for fix in each["fixes"]]
    return [printable(line) for line in lines]


def _step(place: Mapping[str, Any]) -> str:
    name = _place(place["kind"], place["name"])
    return f"{name} (just edited)" if place["edited"] else name


def _place(kind: str, name: str) -> str:
    if name == f"a {kind} that you may not see":
        return name
    return f"received.{name}" if kind == "received" else f"{kind} {name}"


def time(seconds: int | None) -> str | None:
    """Return Unix seconds as people read them, in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def printable(text: str) -> str:
    """Replace what could steer a terminal: partners choose some of the names that we print."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def confirm(ctx: "Context", question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone; without a terminal --yes must be given."""
    if yes:
        return
    if ctx.json or not sys.stdin.isatty():
        raise click.UsageError(f"{printable(question)} Say so with --yes.")
    click.confirm(printable(question), abort=True, err=True)


@contextmanager
def progress(ctx: "Context") -> Iterator[Progress]:
    """Yield a function that draws a bar per phase on a terminal, and nothing elsewhere."""
    if ctx.json or not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        phases: dict[str, Any] = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in phases:
                phases[what] = bars.add_task(printable(what).replace("[", "("), total=total)
            bars.update(phases[what], completed=done, total=total)

        yield report


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(each) for each in value) or "-"
    return printable(str(value)).replace("\n", " ")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Fraction):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
