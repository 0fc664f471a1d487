"""What a command prints: one JSON document, or tables and lines for people; progress goes to stderr."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .main import Context

GAP = 2  # between two columns of a table
BELOW = 6  # what does not fit beside the others is indented so
HIGH = 4  # lines of a row: a higher one is easier to read as names and values
SHORT_ID = 12  # those of jobs begin with the time: a millisecond is told from the next
_ID = re.compile(r"\b[0-9a-f]{32}\b")
Progress = Callable[[str, int, int | None], None]  # what is being done, how much of it, of how much if that is known


def emit(ctx: "Context", document: Any, table: Callable[[], None] | None = None) -> None:
    """Print a document as JSON when --json is given, else call `table`, which prints it for people.

    If a partner could not be told what the command did, it is said too: in JSON an object gets `letters_wait`.
    """
    undelivered = ctx.undelivered()
    if ctx.json or table is None:
        more = {"letters_wait": sorted(undelivered)} if undelivered and isinstance(document, dict) else None
        echo(as_json({**document, **more} if more else document))
        return
    table()
    for alias, why in undelivered.items():
        echo(f"{alias} could not be told: {why}", err=True)
    if undelivered:
        echo(f"the letter waits: {ctx.next_delivery()}", err=True)


def beside(ctx: "Context", path: str | None, document: Any, table: Callable[[], None]) -> None:
    """Print what `emit` prints, on stderr if `path`, which has the result itself, is standard output."""
    from node.storage.outputs import is_standard

    with redirect_stdout(sys.stderr) if path and is_standard(path) else nullcontext():
        emit(ctx, document, table)


def as_json(document: Any) -> str:
    """Return a document as JSON in which no character can move a terminal's cursor or turn its text round."""
    text = json.dumps(document, indent=2, ensure_ascii=False, default=_plain)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    empty: str = "none",
    ids: str | None = None,
    err: bool = False,
) -> None:
    """Print rows under column names; numbers to the right, None as "-". Of the ids in the column `ids` a terminal gets
    beginnings that tell them apart, which commands take as ids.

    A pipe gets a line for each row, its cells whole, with tabs between them. On a terminal no word is broken: what does
    not fit beside the rest stands below it. With `err` it goes to stderr.
    """
    rows = [list(row) for row in rows]
    if not rows:
        echo(empty, err=err)
        return
    cells = [[_cell(value) for value in row] for row in rows]
    width = _width(err=err)
    if width is None:
        for line in ([*columns], *cells):
            echo("\t".join(line), err=err)
        return
    if ids is not None:
        _shorten([*columns].index(ids), cells)
    numbers = [_all_numbers([row[index] for row in rows]) for index in range(len(columns))]
    shown, widths = _layout(columns, cells, width)
    if widths is None:
        for number, row in enumerate(cells):
            if number:
                echo(err=err)
            lines(zip(columns, row, strict=True), err=err)
        return
    once = _same(cells)
    if said := [(columns[index], cells[0][index]) for index in once if index not in shown]:
        lines(said, err=err)
        echo(err=err)
    _print_row([columns[index] for index in shown], widths, [numbers[index] for index in shown], err=err)
    echo("─" * (sum(widths) + GAP * (len(widths) - 1)), err=err)
    for row in cells:
        _print_row([row[index] for index in shown], widths, [numbers[index] for index in shown], err=err)
        for index in range(len(columns)):
            if index not in shown and index not in once and row[index] != "-":
                for part in _wrapped(f"{columns[index]}: {row[index]}", width - BELOW):
                    echo(" " * BELOW + part, err=err)


def _layout(
    columns: Sequence[str], cells: Sequence[Sequence[str]], width: int
) -> tuple[list[int], Sequence[int] | None]:
    """Choose the columns that stand beside one another, and their widths; None where each cell gets a line of its own.

    Where room is short, what is the same in all rows is left out, to be said once; then the widest columns are, to be said
    below each row.
    """
    from rich.cells import cell_len

    shown = list(range(len(columns)))

    def widths() -> Sequence[int] | None:
        return _widths([[columns[index], *(row[index] for row in cells)] for index in shown], width)

    found, same = widths(), _same(cells)
    if found is None and same:
        shown = [index for index in shown if index not in same] or shown
        found = widths()
    while found is None and len(shown) > 2:
        longest = {
            index: max(cell_len(word) for row in cells for word in (row[index].split() or [""])) for index in shown[1:]
        }
        shown.remove(max(longest, key=lambda index: (longest[index], index)))
        found = widths()
    return shown, found


def _same(cells: Sequence[Sequence[str]]) -> set[int]:
    """Return the columns that are the same in all rows, if there are several."""
    if len(cells) < 2:
        return set()
    return {index for index, value in enumerate(cells[0]) if all(row[index] == value for row in cells)}


def echo(text: str = "", *, err: bool = False) -> None:
    """Print lines as they are, but for what could steer a terminal: every line that a command prints goes through here."""
    click.echo("\t".join(map(printable, text.split("\t"))), err=err)


def say(text: str, *, err: bool = False) -> None:
    """Print a sentence, on a terminal broken between words."""
    width = _width(err=err)
    for line in [text] if width is None else _wrapped(text, width):
        echo(line, err=err)


def _width(*, err: bool) -> int | None:
    """Return how many columns the terminal has; None for a pipe or a file."""
    return shutil.get_terminal_size().columns if (sys.stderr if err else sys.stdout).isatty() else None


def _shorten(column: int, cells: Sequence[list[str]]) -> None:
    """Cut the ids in one column to the shortest length at which they differ, but for SHORT_ID characters at least."""
    ids = {each for row in cells for each in _ID.findall(row[column])}
    length = SHORT_ID
    while len({each[:length] for each in ids}) < len(ids):
        length += 1
    for row in cells:
        row[column] = _ID.sub(lambda found: found[0][:length], row[column])


def _all_numbers(values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(value, int) and not isinstance(value, bool) for value in known)


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Share a line's room between columns that break between words only; None where a row would not fit, or be too high."""
    from rich.cells import cell_len

    whole = [max(map(cell_len, column)) for column in columns]
    widths = [max(cell_len(word) for text in column for word in (text.split() or [""])) for column in columns]
    left = room - GAP * (len(columns) - 1) - sum(widths)
    if left < 0:
        return None
    missing = [whole[index] - width for index, width in enumerate(widths)]
    for done, index in enumerate(sorted(range(len(columns)), key=missing.__getitem__)):
        share = min(missing[index], left // (len(columns) - done))
        widths[index] += share
        left -= share
    high = any(
        len(_wrapped(text, width)) > HIGH for column, width in zip(columns, widths, strict=True) for text in column
    )
    return None if high else widths


def _print_row(cells: Sequence[str], widths: Sequence[int], numbers: Sequence[bool], *, err: bool) -> None:
    """Print one row of a table, whose cells may take several lines."""
    from itertools import zip_longest

    wrapped = [_wrapped(text, width) for text, width in zip(cells, widths, strict=True)]
    for line in zip_longest(*wrapped, fillvalue=""):
        padded = [_padded(*each) for each in zip(line, widths, numbers, strict=True)]
        echo((" " * GAP).join(padded).rstrip(), err=err)


def _padded(text: str, width: int, right: bool) -> str:
    from rich.cells import cell_len

    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def _wrapped(text: str, width: int) -> list[str]:
    """Return the lines of a text that is broken between words; a word that is longer than a line stays whole."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return [text]
    broken = [""]
    for word in text.split():
        if not broken[-1]:
            broken[-1] = word
        elif cell_len(broken[-1]) + 1 + cell_len(word) <= width:
            broken[-1] += f" {word}"
        else:
            broken.append(word)
    return broken


def lines(pairs: Iterable[tuple[str, Any]], *, err: bool = False) -> None:
    """Print names with their values, one a line, the values under one another; a terminal gets long ones broken between
    words."""
    from rich.cells import cell_len

    pairs = list(pairs)
    indent = max((len(name) for name, _ in pairs), default=0) + 2
    width = _width(err=err)
    for name, value in pairs:
        text = _cell(value)
        first, *rest = [text] if width is None else _wrapped(text, width - indent)
        if width is not None and cell_len(first) > width - indent:
            first, rest = "", [first, *rest]
        echo(f"{name:<{indent}}{first}".rstrip(" "), err=err)
        for line in rest:  # a long word, such as a hash, begins further to the left
            assert width is not None
            echo(" " * max(0, min(indent, width - cell_len(line))) + line, err=err)


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
    return lines


def _step(place: Mapping[str, Any]) -> str:
    name = _place(place["kind"], place["name"])
    return f"{name} (just edited)" if place["edited"] else name


def _place(kind: str, name: str) -> str:
    if name.endswith(" that you may not see"):
        return name
    return f"{kind}.{name}" if kind in ("received", "shared") else f"{kind} {name}"


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
    left = "known after the next answer," if known["left"] is None else f"{known['left']:g}"
    return f"{left} of {known['of']:g}"


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
        raise click.UsageError(f"Without a terminal nobody can be asked. Say --yes if so: {printable(question)}")
    if not click.confirm(printable(question), err=True):
        echo("nothing was done", err=True)
        raise click.exceptions.Exit(1)


def confirm_shown(ctx: "Context", question: str, show: Callable[[], None], without_terminal: str) -> None:
    """Show what is at stake, and ask; without a terminal the command has to name what its caller saw, and is told how."""
    if ctx.json or not sys.stdin.isatty():
        raise click.UsageError(printable(without_terminal))
    show()
    confirm(ctx, question, yes=False)


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
