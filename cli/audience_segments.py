"""The commands `vesica audience segment`: segments of traits."""

from typing import TYPE_CHECKING, Any

import click

from . import options, output

if TYPE_CHECKING:
    from .main import Context

SEGMENT = click.argument("segment", help="The segment, by number or name; 'vesica audience segment list' shows them.")
DESTINATION = click.argument("destination", help="The destination; 'vesica destination list' shows them.")
FOLDER = click.option("--folder", metavar="FOLDER", help="Its folder, by number, name or path; else the top.")
RULE = "A condition on traits and segments, such as '24T AND NOT (26T OR 17S) AND FREQUENCY([24T] <= 5D) >= 3'."


@click.group()
def segment() -> None:
    """Make segments of traits, of visitors and not of profiles."""


@segment.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the segments of traits, with how many visitors are in each now."""
    rows = ctx.project().audience.segments.all()
    names = ("name", "rule", "source_name", "folder", "members")
    cells = ([str(row["number"]), *(row[each] for each in names)] for row in rows)
    heads = ("number", "segment", "rule", "data source", "folder", "visitors")
    output.emit(ctx, rows, lambda: output.table(heads, cells, empty="no segments of traits"))


@segment.command()
@SEGMENT
@click.pass_obj
def show(ctx: "Context", segment: str) -> None:
    """Show a segment of traits, and all that it is made of."""
    _show(ctx, ctx.project().audience.segments.show(segment))


@segment.command()
@click.argument("name", help="What to call the segment.")
@click.option("--rule", required=True, metavar="EXPR", help=RULE)
@click.option("--source", required=True, metavar="SOURCE", help="Its data source, by number or name.")
@FOLDER
@click.option(
    "--merge-by",
    metavar="SOURCE",
    help="The data source whose ids say which visitors are one person; its export controls count too.",
)
@click.option("--integration-code", metavar="CODE", help="What other systems call it.")
@click.option("--description", default="", metavar="TEXT", help="What it is for.")
@click.pass_obj
def create(
    ctx: "Context",
    name: str,
    *,
    rule: str,
    source: str,
    folder: str | None,
    merge_by: str | None,
    integration_code: str | None,
    description: str,
) -> None:
    """Make a segment of traits.

    \b
    Example: vesica audience segment create "Returning buyers" --source 2000000 --rule '1000T AND NOT 1001T'
    """
    made = ctx.project().audience.segments.create(
        name,
        rule=rule,
        source=source,
        folder=folder,
        merge_by=merge_by,
        integration_code=integration_code,
        description=description,
    )
    output.emit(ctx, made, lambda: output.echo(f"made segment {made['number']} {name}"))


@segment.command()
@SEGMENT
@click.option("--name", metavar="NAME", help="Another name.")
@click.option("--description", metavar="TEXT", help="What it is for.")
@click.option("--rule", metavar="EXPR", help=RULE)
@FOLDER
@click.pass_obj
def edit(
    ctx: "Context", segment: str, name: str | None, description: str | None, rule: str | None, folder: str | None
) -> None:
    """Change a segment of traits; segments that are made of it follow."""
    changes = {"name": name, "description": description, "rule": rule, "folder": folder}
    _show(ctx, ctx.project().audience.segments.edit(segment, **changes))


@segment.command()
@SEGMENT
@options.YES
@click.pass_obj
def delete(ctx: "Context", segment: str, yes: bool) -> None:
    """Delete a segment of traits that nothing uses; the traits stay."""
    output.confirm(ctx, f"Delete segment {segment}?", yes=yes)
    ctx.project().audience.segments.delete(segment)
    output.emit(ctx, {"deleted": segment}, lambda: output.echo(f"deleted segment {segment}"))


@segment.command("map")
@SEGMENT
@DESTINATION
@click.option("--id", "audience_id", metavar="ID", help="What the target calls the segment; else its number.")
@click.pass_obj
def map_(ctx: "Context", segment: str, destination: str, audience_id: str | None) -> None:
    """Send an imported segment of traits to a destination from now on.

    Refused where an export control of a data source forbids what the destination is for.

    \b
    Example: vesica audience segment map "Gold card" partner --id 24
    """
    found = ctx.project().audience.imports.segment(segment)
    called = str(found["number"]) if audience_id is None else audience_id
    with output.progress(ctx) as progress:
        done = ctx.project().destinations.activate(destination, [found["reference"]], progress, audience_id=called)
    said = {"destination": destination, "reference": found["reference"], "audience_id": called, **done}
    output.emit(ctx, said, lambda: output.echo(f"{destination} gets {found['reference']} as {called}"))


@segment.command()
@SEGMENT
@DESTINATION
@click.option("--leave", is_flag=True, help="Leave who is there at the target.")
@click.pass_obj
def unmap(ctx: "Context", segment: str, destination: str, *, leave: bool) -> None:
    """Send a segment of traits to a destination no more; its members are removed there."""
    found = ctx.project().audience.imports.segment(segment)
    with output.progress(ctx) as progress:
        done = ctx.project().destinations.deactivate(destination, [found["reference"]], leave=leave, progress=progress)
    said = {"destination": destination, "reference": found["reference"], **done}
    output.emit(ctx, said, lambda: output.echo(f"{destination} gets {found['reference']} no more"))


def _show(ctx: "Context", found: dict[str, Any]) -> None:
    def lines() -> None:
        shown = {**found, "visitors": found["members"]}
        del shown["members"]
        shown["data source"] = f"{shown.pop('source')} {shown.pop('source_name')}"
        for name in ("traits", "made_of", "segments"):
            shown[name] = [f"{each['number']} {each['name']}" for each in found[name]]
        shown["created"] = output.time(found["created"])
        output.lines(
            (output.words(name), str(value) if name == "number" else value)
            for name, value in shown.items()
            if value not in (None, "", [])
        )

    output.emit(ctx, found, lines)
