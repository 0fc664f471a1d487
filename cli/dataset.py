"""The commands `vesica dataset`: what imports have brought, by source, and how it goes."""

from typing import TYPE_CHECKING, Any

import click

from . import options, output, remedies

if TYPE_CHECKING:
    from .main import Context


@click.group()
def cli() -> None:
    """See what imports have brought, by source, and delete it."""


NAME = click.argument("name", help="The dataset, such as crm.")


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List datasets with their fields."""
    found = ctx.project().datasets.all()

    def table() -> None:
        rows = [
            (each["name"], field["name"], field["kind"], field["namespace"] or "-")
            for each in found
            for field in each["fields"]
        ]
        output.table(("dataset", "field", "has", "namespace"), rows, empty="no datasets")

    output.emit(ctx, found, table)


@cli.command()
@NAME
@options.YES
@click.pass_obj
def delete(ctx: "Context", name: str, yes: bool) -> None:
    """Delete all that a dataset brought, and the profiles that no other dataset has.

    Refused while a segment, a consent policy or a published feed needs it. Whoever said no stays, with id and consent:
    a withdrawal outlasts the data. Partners get the exits with the next runs, which are queued at once.

    \b
    Example: vesica dataset delete crm
    """
    output.confirm(ctx, f"Delete dataset {name}, and the profiles that no other dataset has?", yes=yes)
    done = ctx.project().datasets.delete(name)
    output.emit(ctx, done, lambda: _print(done, f"deleted dataset {name}; {done['profiles']:,} profiles went with it"))


@cli.command("drop-field")
@NAME
@click.argument("field", help="The field, such as phone.")
@options.YES
@click.pass_obj
def drop_field(ctx: "Context", name: str, field: str, yes: bool) -> None:
    """Delete an attribute of a dataset, or the identities that one of its fields gave.

    Refused where `dataset delete` would be, and for ids, consent and segments.

    \b
    Example: vesica dataset drop-field crm phone
    """
    datasets = ctx.project().datasets
    if not yes:
        datasets.check_field(name, field)
    output.confirm(ctx, f"Delete field {field} of dataset {name}?", yes=yes)
    done = datasets.drop_field(name, field)
    output.emit(
        ctx, done, lambda: _print(done, f"deleted {name}.{field}; {done['identities']:,} identities went with it")
    )


def _print(done: dict[str, Any], text: str) -> None:
    output.echo(text)
    if done["runs"]:
        runs = ", ".join(done["runs"])
        sync = remedies.command("feed.sync")
        output.say(f"{runs} will get the exits with the runs that are queued: {sync}")
