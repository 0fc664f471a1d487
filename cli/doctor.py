"""The command `vesica doctor`: what is wrong with a node, and what to do."""

from typing import TYPE_CHECKING, Any

import click

from . import output, remedies

if TYPE_CHECKING:
    from .main import Context


@click.command()
@click.option("--partners", is_flag=True, help="Call each partner that has an address, too.")
@click.pass_obj
def cli(ctx: "Context", partners: bool) -> None:
    """Look at files, database, keys, clock, port, disk, audit log, letters and jobs, and say what to do about each fault.

    It mends nothing but what opening a home does: this closes it to others and brings its tables up to date. What --partners
    hears from a partner counts as in any call: a new key may be taken over, or raise an alert. The exit code is 1 if something
    is wrong.

    \b
    Example: vesica doctor --partners
    """
    from node.errors import NotAllowed
    from node.reports import doctor

    rows: list[dict[str, Any]] = []
    refused: NotAllowed | None = None
    try:
        for each in doctor.examine(ctx.home, lambda: ctx.node().home, partners=partners):
            rows.append(remedies.in_words(each.as_dict()))
    except NotAllowed as error:
        refused = error

    def text() -> None:
        for row in rows:
            output.echo(f"{'good ' if row['good'] else 'FAULT'}  {row['check']}: {row['says']}")
            if not row["good"]:
                output.echo(f"       {row['hint']}")

    if refused is None or not ctx.json:  # one document: then that of the error
        output.emit(ctx, rows, text)
    if refused is not None:
        raise refused
    if not all(row["good"] for row in rows):
        click.get_current_context().exit(1)
