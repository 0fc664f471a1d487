from typing import TYPE_CHECKING

import click

from . import output

if TYPE_CHECKING:
    from node.segments import Segment

    from .main import Context


@click.group()
def cli() -> None:
    """Make sets of profiles, from rules or from lists."""


@cli.command()
@click.argument("name")
@click.option("--rule", metavar="EXPR", help="A condition on attributes, own.SEGMENT and received.PARTNER.SEGMENT.")
@click.option("--members", type=click.Path(), metavar="FILE", help="A file with a profile id per row.")
@click.pass_obj
def create(ctx: "Context", name: str, rule: str | None, members: str | None) -> None:
    """Make a segment and evaluate it.

    Rules know =, !=, <, <=, >, >=, IN, BETWEEN, LIKE, IS NULL, AND, OR, NOT. Texts stand in single quotes.

    \b
    Example: vesica segment create frequent-buyers --rule "orders >= 6 AND country IN ('GB', 'IE')"
    """
    if (rule is None) == (members is None):
        raise click.UsageError("give one of --rule and --members")
    _print_one(ctx, ctx.project().segments.create(name, rule=rule, members_file=members))


@cli.command()
@click.argument("name")
@click.option("--members", type=click.Path(), metavar="FILE", required=True, help="A file with a profile id per row.")
@click.pass_obj
def update(ctx: "Context", name: str, members: str) -> None:
    """Replace the members of a list; feeds follow with their next run."""
    _print_one(ctx, ctx.project().segments.update(name, members))


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the segments."""
    _print_all(ctx, ctx.project().segments.list())


@cli.command()
@click.argument("name")
@click.pass_obj
def show(ctx: "Context", name: str) -> None:
    """Show a segment: its rule, what the rule reads, and its size."""
    _print_one(ctx, ctx.project().segments.show(name))


@cli.command()
@click.argument("name", required=False)
@click.pass_obj
def evaluate(ctx: "Context", name: str | None) -> None:
    """Evaluate a segment with what it is composed of, or all of them."""
    _print_all(ctx, ctx.project().segments.evaluate(name))


@cli.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False))
@click.pass_obj
def export(ctx: "Context", name: str, file: str) -> None:
    """Write the ids of a segment's profiles to a CSV file."""
    size = ctx.project().segments.export(name, file)
    output.emit(ctx, {"segment": name, "file": file, "size": size}, lambda: click.echo(f"wrote {size:,} ids to {file}"))


@cli.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(ctx: "Context", name: str, yes: bool) -> None:
    """Take a segment away; its profiles stay."""
    output.confirm(ctx, f"Delete segment {name}?", yes=yes)
    ctx.project().segments.delete(name)
    output.emit(ctx, {"deleted": name}, lambda: click.echo(f"deleted segment {name}"))


def _print_one(ctx: "Context", segment: "Segment") -> None:
    def table() -> None:
        pairs = [("name", segment.name), ("size", segment.size), ("evaluated", output.time(segment.evaluated))]
        if segment.rule is not None:
            pairs += [("rule", segment.rule), ("reads", segment.uses)]
        if segment.unknown:
            pairs.append(("ids of no profile", segment.unknown))
        output.lines(pairs)

    output.emit(ctx, segment.as_dict(), table)


def _print_all(ctx: "Context", segments: "list[Segment]") -> None:
    rows = [(each.name, each.kind, each.size, output.time(each.evaluated), each.rule) for each in segments]
    output.emit(
        ctx,
        [each.as_dict() for each in segments],
        lambda: output.table(("name", "kind", "size", "evaluated", "rule"), rows, empty="no segments"),
    )
