"""The commands `vesica segment`: sets of profiles, from rules or from lists."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options, output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from node.governance.lineage import Trace
    from node.segments.records import Segment

    from .main import Context

FILE = click.Path(path_type=Path)

NAME = click.argument("name", help="The segment; 'vesica segment list' shows them.")


@click.group()
def cli() -> None:
    """Make sets of profiles, from rules or from lists."""


def _content(command: "Callable[..., None]") -> "Callable[..., None]":
    command = click.option(
        "--members", type=FILE, metavar="FILE", help="A file with your own id of a person per row, under a heading."
    )(command)
    command = click.option("--tree", type=FILE, metavar="FILE", help="The condition as a tree, in JSON or YAML.")(
        command
    )
    text = 'A condition on attributes, own.SEGMENT and received.PARTNER.SEGMENT, such as "orders >= 6".'
    return click.option("--rule", metavar="EXPR", help=text)(command)


@cli.command()
@click.argument("name", help="What to call the segment, such as frequent-buyers.")
@_content
@click.pass_obj
def create(ctx: "Context", name: str, rule: str | None, tree: Path | None, members: Path | None) -> None:
    """Make a segment and evaluate it.

    Rules know =, !=, <, <=, >, >=, IN, BETWEEN, LIKE, IS NULL, AND, OR, NOT. Texts and dates, year first, stand in single
    quotes, numbers and true or false without; a comparison that does not fit the values of its column is refused. A tree
    is what 'segment show --tree' prints, and react-querybuilder makes.

    \b
    Example: vesica segment create frequent-buyers --rule "orders >= 6 AND country IN ('GB', 'IE')"
    """
    if [rule, tree, members].count(None) != 2:
        raise click.UsageError("give one of --rule, --tree and --members")
    _print_one(ctx, ctx.project().segments.create(name, rule=rule, tree=tree, members_file=members))


@cli.command()
@NAME
@_content
@click.pass_obj
def update(ctx: "Context", name: str, rule: str | None, tree: Path | None, members: Path | None) -> None:
    """Replace the rule of a segment, or the members of a list; feeds follow with their next run.

    \b
    Example: vesica segment update frequent-buyers --rule "orders >= 8"
    """
    if [rule, tree, members].count(None) != 2:
        raise click.UsageError("give one of --rule, --tree and --members")
    _print_one(ctx, ctx.project().segments.update(name, members, rule=rule, tree=tree))


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the segments, ours and received."""
    project = ctx.project()
    _print_all(ctx, [*(each.as_dict() for each in project.segments.all()), *project.received.segments()])


@cli.command()
@click.argument("name", help="The segment, or received.PARTNER.SEGMENT.")
@click.option(
    "--tree", type=click.Choice(["yaml", "json"]), help="Print the rule's tree alone, as --tree FILE takes it."
)
@click.pass_obj
def show(ctx: "Context", name: str, tree: str | None) -> None:
    """Show a segment: its rule, what the rule reads, its size and labels; a received one (received.PARTNER.NAME) without
    a rule, but with what its sender restricts."""
    from node.governance.lineage import PlaceKind

    if name.startswith("received."):
        if tree is not None:
            raise click.UsageError("a received segment shows no rule")
        document = ctx.project().received.segment(name)
        output.emit(ctx, document, lambda: output.lines((output.words(name), each) for name, each in document.items()))
        return
    segment = ctx.project().segments.show(name)
    if tree is not None and not ctx.json:
        output.echo(segment.written(tree))
    else:
        _print_one(ctx, segment, ctx.project().labels.traces(PlaceKind.SEGMENT, name))


@cli.command()
@click.argument("name", required=False, help="One segment; all unless given.")
@click.pass_obj
def evaluate(ctx: "Context", name: str | None) -> None:
    """Evaluate a segment with what it is composed of, or all of them."""
    segments = ctx.project().segments
    found = segments.evaluate_all() if name is None else segments.evaluate(name)
    _print_all(ctx, [each.as_dict() for each in found])


@cli.command()
@NAME
@click.argument("file", help=f"The CSV to write: {options.RESULT}.")
@click.option(
    "--use",
    "uses",
    multiple=True,
    metavar="USE",
    help=f"What the file is for: {options.FILE_USES}; all of them unless given.",
)
@options.FORCE
@click.pass_obj
def export(ctx: "Context", name: str, file: str, uses: tuple[str, ...], force: bool) -> None:
    """Write the ids of a segment's profiles to a CSV file.

    A ' stands before an id that a spreadsheet could take for a formula, and before one that begins with '; a number with
    its sign stays as it is.

    Refused where a policy or a partner whose segment it reads forbids one of the uses; who fails a consent policy on one
    of them is left out. Without --use the file counts as for every use: name those that you need.

    \b
    Example: vesica segment export summer-buyers buyers.csv --use onsite-personalisation
    """
    size = ctx.project().files.export(name, file, uses=uses, force=force)
    document = {"segment": name, "file": file, "size": size, "uses": sorted(set(uses))}
    output.beside(ctx, file, document, lambda: output.echo(f"wrote {size:,} ids to {file}"))


@cli.command()
@NAME
@options.YES
@click.pass_obj
def delete(ctx: "Context", name: str, yes: bool) -> None:
    """Take a segment away; its profiles stay."""
    output.confirm(ctx, f"Delete segment {name}?", yes=yes)
    ctx.project().segments.delete(name)
    output.emit(ctx, {"deleted": name}, lambda: output.echo(f"deleted segment {name}"))


def _print_one(ctx: "Context", segment: "Segment", labels: "Sequence[Trace] | None" = None) -> None:
    def table() -> None:
        pairs = [("name", segment.name), ("size", segment.size), ("evaluated", output.time(segment.evaluated))]
        if segment.rule is not None:
            pairs += [("rule", segment.rule), ("reads", segment.uses)]
        if segment.unknown:
            pairs.append(("ids of no profile", segment.unknown))
        output.lines(pairs + [("label", trace) for trace in labels or ()])

    known = {} if labels is None else {"labels": sorted({trace.label for trace in labels})}
    output.emit(ctx, {**segment.as_dict(), **known}, table)


def _print_all(ctx: "Context", segments: list[dict[str, Any]]) -> None:
    names = ("name", "kind", "size", "evaluated", "rule")
    rows = ([output.time(row[name]) if name == "evaluated" else row[name] for name in names] for row in segments)
    output.emit(ctx, segments, lambda: output.table(names, rows, empty="no segments"))
