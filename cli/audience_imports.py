"""The commands that bring traits and segments of traits into rules of the platform, and their visitors to its profiles."""

from typing import TYPE_CHECKING, Any

import click

from . import options, output

if TYPE_CHECKING:
    from .main import Context


@click.command("import")
@click.option("--trait", "traits", multiple=True, metavar="TRAIT", help="A trait, by number or name.")
@click.option("--segment", "segments", multiple=True, metavar="SEGMENT", help="A segment of traits, by number or name.")
@click.option("--all", "everything", is_flag=True, help="All traits and all segments.")
@options.YES
@click.pass_obj
def import_(ctx: "Context", traits: tuple[str, ...], segments: tuple[str, ...], *, everything: bool, yes: bool) -> None:
    """Use traits and segments of traits in rules, as trait.NAME and audience.NAME.

    Visitors whom no profile has an id of become profiles of the dataset "audience", and have said nothing about consent.
    How many that are is shown before anything is done.

    \b
    Example: vesica audience import --trait 24 --segment "Gold card"
    """
    if everything == bool(traits or segments):
        raise click.UsageError("name traits and segments, or give --all")
    door = ctx.project().audience.imports
    growth = door.preview(traits, segments, everything=everything)
    if not yes:
        if not ctx.json:
            _show(growth.as_dict())
        output.confirm(ctx, f"Import this, and add {growth.new:,} profiles?", yes=yes)
        if everything:
            output.confirm(ctx, "That is everything on the Audience Manager side. Are you sure?", yes=yes)
    done = door.import_(traits, segments, everything=everything).as_dict()

    def show() -> None:
        if yes:
            _show(done)
        output.echo(f"imported, profiles added: {done['new']:,}; 'vesica audience imports' shows the names for rules")

    output.emit(ctx, done, show)


@click.command()
@click.pass_obj
def imports(ctx: "Context") -> None:
    """List the traits and segments of traits that rules can use, with how many profiles are in each."""
    rows = ctx.project().audience.imports.all()
    cells = ([row["reference"], str(row["number"]), row["size"], output.time(row["evaluated"])] for row in rows)
    heads = ("in rules", "number", "profiles", "evaluated")
    output.emit(ctx, rows, lambda: output.table(heads, cells, empty="nothing is imported"))


@click.command("remove-import")
@click.argument("reference", help="What rules name it by, such as trait.gold.")
@options.YES
@click.pass_obj
def remove_import(ctx: "Context", reference: str, *, yes: bool) -> None:
    """Use a trait or a segment of traits in rules no more; the profiles stay.

    Segments whose rules read it have nobody from then on.
    """
    output.confirm(ctx, f"Take {reference} out of all rules that read it?", yes=yes)
    emptied = ctx.project().audience.imports.remove(reference)

    def show() -> None:
        output.echo(f"{reference} is not imported any more")
        for each in emptied:
            output.echo(f"nobody is in segment {each} now")

    output.emit(ctx, {"removed": reference, "emptied": emptied}, show)


def _show(growth: dict[str, Any]) -> None:
    total = f"{growth['before']:,} -> {growth['after']:,} (+{growth['percent']:.1f} %)"
    output.lines(
        (
            ("traits", len(growth["traits"])),
            ("segments", len(growth["segments"])),
            ("selected identities", growth["identities"]),
            ("selected visitors", growth["visitors"]),
            ("already known", growth["known"]),
            ("new profiles", growth["new"]),
            *([("left out, erased here before", growth["left_out"])] if growth["left_out"] else []),
            ("profiles in all", total),
        )
    )
