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

GAP = 3  # between two columns of a table
Progress = Callable[[str, int, int | None], None]  # what is being done, how much of it, of how much if that is known


def emit(ctx: "Context", document: Any, table: Callable[[], None] | None = None) -> None:
    """Print a document as JSON when --json is given, else call `table`, which prints it for people."""
    if ctx.json or table is None:
        click.echo(as_json(document))
    else:
        table()


def as_json(document: Any) -> str:
    """Return a document as JSON in which no character can move a terminal's cursor or turn its text round."""
    text = json.dumps(document, indent=2, ensure_ascii=False, default=_plain)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


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
    console = Console(width=None if sys.stdout.isatty() else 1_000, highlight=False)
    cells = [[Text(_cell(value)) for value in row] for row in rows]
    texts = zip(*([Text(name) for name in columns], *cells), strict=True)
    widths = _widths([[text.plain for text in column] for column in texts], console.width)
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, name in enumerate(columns):
        values = [row[index] for row in rows if row[index] is not None]
        numbers = bool(values) and all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        grid.add_column(name, justify="right" if numbers else "left", overflow="fold", width=widths[index])
    for row in cells:
        grid.add_row(*row)
    console.print(grid)


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """Share a line's room: sentences are broken between words, and only where that is not enough the longest words."""
    from rich.cells import cell_len

    whole = [max(map(cell_len, column)) for column in columns]
    widths = [max(cell_len(word) for text in column for word in (text.split() or [""])) for column in columns]
    room -= GAP * (len(columns) - 1)
    while sum(widths) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    left, missing = room - sum(widths), [whole[index] - width for index, width in enumerate(widths)]
    for done, index in enumerate(sorted(range(len(columns)), key=missing.__getitem__)):
        share = max(0, min(missing[index], left // (len(columns) - done)))
        widths[index] += share
        left -= share
    return widths


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


def time(moment: int | str | None) -> str | None:
    """Return Unix seconds, or a time in ISO 8601, as all tables spell it: UTC, to the minute."""
    if moment is None:
        return None
    at = datetime.fromisoformat(moment) if isinstance(moment, str) else datetime.fromtimestamp(moment, UTC)
    return at.strftime("%Y-%m-%dT%H:%MZ")


def span(seconds: int) -> str:
    """Return a length of time in the largest unit of which there are two: "45 s", "3 h"."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def budget(known: Mapping[str, Any] | None) -> str:
    """Return in words how much epsilon is left for estimates."""
    if known is None:
        return "not needed, counts have no noise"
    left, of = (each and f"{float(Fraction(each)):g}" for each in (known["left"], known["of"]))
    return f"{left or 'known after the next answer,'} of {of}"


def words(name: str) -> str:
    """Return the name of a field as a heading."""
    return name.replace("_", " ")


def printable(text: str) -> str:
    """Replace what could steer a terminal: partners choose some of the names that we print."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def confirm(ctx: "Context", question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone; without a terminal --yes must be given."""
    if yes:
        return
    if ctx.json or not sys.stdin.isatty():
        raise click.UsageError(f"{printable(question)} Say so with --yes.")
    if not click.confirm(printable(question), err=True):
        click.echo("nothing was done", err=True)
        raise click.exceptions.Exit(1)


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
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{words(str(name))} {_cell(each)}" for name, each in value.items()) or "-"
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
