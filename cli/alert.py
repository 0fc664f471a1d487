"""The commands `vesica alert`: what a person should look at."""

from typing import TYPE_CHECKING

import click

from . import letters, output, remedies

if TYPE_CHECKING:
    from .main import Context


@click.group()
def cli() -> None:
    """See what a person should look at."""


@cli.command("list")
@click.option("--all", "every", is_flag=True, help="Also those that were acknowledged or are settled.")
@click.pass_obj
def list_(ctx: "Context", every: bool) -> None:
    """List the project's alerts, newest first."""
    rows = [remedies.with_command(alert.as_dict()) for alert in ctx.project().alerts.all(open_only=not every)]

    def table() -> None:
        cells = [[row["id"], output.time(row["at"]), row["kind"], row["text"], row["command"]] for row in rows]
        if every:
            cells = [[*each, output.time(row["acknowledged"])] for each, row in zip(cells, rows, strict=True)]
        names = ("id", "at", "kind", "alert", "command", "acknowledged")
        output.table(names if every else names[:-1], cells, empty="no alerts", ids="id")

    letters.emit(ctx, rows, table)


@cli.command()
@click.argument("ids", nargs=-1, metavar="[ID]...", help="Alerts: their ids in 'vesica alert list', or the beginnings.")
@click.option("--all", "every", is_flag=True, help="All that are open.")
@click.pass_obj
def acknowledge(ctx: "Context", ids: tuple[str, ...], every: bool) -> None:
    """Note that alerts were seen: 'vesica node status' shows them no more.

    \b
    Example: vesica alert acknowledge --all
    """
    count = ctx.project().alerts.acknowledge(*ids, every=every)
    output.emit(ctx, {"acknowledged": count}, lambda: output.echo(f"acknowledged {count}"))
