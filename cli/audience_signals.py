"""The commands `vesica audience signal`: what came of visitors."""

from typing import TYPE_CHECKING

import click

from . import output

if TYPE_CHECKING:
    from .main import Context


@click.group()
def signal() -> None:
    """See which signals came, in calls and files, and which traits read them."""


@signal.command()
@click.argument("wanted", nargs=-1, required=True, metavar="KEY[=VALUE]...", help="What a call has to have, all of it.")
@click.option("--unused", is_flag=True, help="Only those that no trait reads.")
@click.option("--minimum", default=1, show_default=True, metavar="N", help="Only those that so many calls had.")
@click.option(
    "--days", type=int, metavar="N", help="Count the last days alone, today is one; else all 30 that are kept."
)
@click.pass_obj
def search(ctx: "Context", wanted: tuple[str, ...], *, unused: bool, minimum: int, days: int | None) -> None:
    """Search the signals that came together in one call, the most frequent first.

    Those whose keys begin with d_, h_ or p_ are not kept.

    \b
    Example: vesica audience signal search segID --unused --days 7
    """
    rows = ctx.project().audience.signals.search(wanted, unused=unused, minimum=minimum, days=days)
    cells = (
        [
            " ".join(f"{each['key']}={each['value']}" for each in row["pairs"]),
            row["count"],
            output.time(row["first"]),
            output.time(row["last"]),
            row["source_name"] or row["source"],
            ", ".join(map(str, row["traits"])) or "none",
        ]
        for row in rows
    )
    heads = ("signals", "calls", "first", "last", "data source", "traits")
    output.emit(ctx, rows, lambda: output.table(heads, cells, empty="no such signals came"))
