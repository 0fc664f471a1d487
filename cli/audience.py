"""The commands `vesica audience`: signals, traits and segments of traits, as in Audience Manager."""

from typing import TYPE_CHECKING, Any

import click

from . import (
    audience_files,
    audience_imports,
    audience_platform,
    audience_segments,
    audience_signals,
    audience_traits,
    output,
)

if TYPE_CHECKING:
    from .main import Context

CONTROLS = (
    "pii, off-site-ads, on-site-ads or on-site-personalisation, or the label C3, C5, C6 or C7 that means the same"
)


@click.group()
def cli() -> None:
    """Know visitors by their signals and traits, and make segments of them, as Audience Manager does.

    Visitors are kept apart from profiles: who is imported becomes one.
    """


@click.group()
def source() -> None:
    """Say whose ids and signals there are, and what they may not be used for."""


@click.group()
def folder() -> None:
    """Put traits and segments into folders."""


for each in (source, folder, audience_signals.signal, audience_traits.trait, audience_segments.segment):
    cli.add_command(each)
for command in (
    audience_files.load,
    audience_imports.import_,
    audience_imports.imports,
    audience_imports.remove_import,
    audience_platform.sharing,
    audience_platform.reconcile,
):
    cli.add_command(command)


@source.command("list")
@click.pass_obj
def list_sources(ctx: "Context") -> None:
    """List the data sources, the built-in ones too."""
    rows = ctx.project().audience.sources.all()
    names = ("number", "name", "kind", "namespace", "controls", "traits", "segments")
    cells = ([str(row["number"]), *(row[each] for each in names[1:])] for row in rows)
    heads = ("number", "data source", "kind", "ids", "export controls", "traits", "segments")
    output.emit(ctx, rows, lambda: output.table(heads, cells))


@source.command("create")
@click.argument("name", help='What to call the data source, such as "Loyalty card".')
@click.option("--third-party", is_flag=True, help="It is another company's.")
@click.option("--namespace", metavar="NS", help="What its ids are, such as email_sha256; else ids of its own.")
@click.option("--integration-code", metavar="CODE", help="What other systems call it.")
@click.option(
    "--control", "controls", multiple=True, metavar="CONTROL", help=f"What it may not be used for: {CONTROLS}."
)
@click.pass_obj
def create_source(
    ctx: "Context",
    name: str,
    *,
    third_party: bool,
    namespace: str | None,
    integration_code: str | None,
    controls: tuple[str, ...],
) -> None:
    """Make a data source. Only who sees all data sources may, and sees the new one.

    \b
    Example: vesica audience source create "Card data" --third-party --control pii
    """
    made = ctx.project().audience.sources.create(
        name,
        kind="third-party" if third_party else "own",
        namespace=namespace,
        integration_code=integration_code,
        export_controls=controls,
    )
    output.emit(ctx, made, lambda: output.echo(f"made data source {made['number']} {name}"))


@source.command()
@click.argument("source", help="The data source, by number or name; 'vesica audience source list' shows them.")
@click.option("--add", multiple=True, metavar="CONTROL", help=f"Forbid a use: {CONTROLS}.")
@click.option("--remove", multiple=True, metavar="CONTROL", help="Allow it again.")
@click.pass_obj
def control(ctx: "Context", source: str, add: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Set the export controls of a data source, which hold for all its traits.

    A control blocks where the destination is for that use: alone it does nothing. Refused while something of it is mapped
    to such a destination.

    \b
    Example: vesica audience source control 2000000 --add off-site-ads
    """
    if not add and not remove:
        raise click.UsageError("give --add or --remove")
    found = ctx.project().audience.sources.control(source, add=add, remove=remove)

    def show() -> None:
        shown = {**found, "number": str(found["number"])}
        output.lines((output.words(each), shown[each]) for each in ("number", "name", "controls", "labels", "actions"))

    output.emit(ctx, found, show)


@folder.command("list")
@click.pass_obj
def list_folders(ctx: "Context") -> None:
    """List the folders, with what is in each."""
    rows = ctx.project().audience.folders.all()
    cells = ([str(row["number"]), row["path"], row["traits"], row["segments"]] for row in rows)
    output.emit(ctx, rows, lambda: output.table(("number", "folder", "traits", "segments"), cells, empty="no folders"))


@folder.command("create")
@click.argument("name", help="What to call the folder.")
@click.option("--in", "parent", metavar="FOLDER", help="In another one, by number, or path such as 'Retail / Shoes'.")
@click.pass_obj
def create_folder(ctx: "Context", name: str, parent: str | None) -> None:
    """Make a folder, at most five deep."""
    made: dict[str, Any] = ctx.project().audience.folders.create(name, parent=parent)
    output.emit(ctx, made, lambda: output.echo(f"made folder {made['number']} {made['path']}"))
