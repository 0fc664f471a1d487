"""The commands `vesica audience trait`: what is known of visitors."""

from typing import TYPE_CHECKING, Any

import click

from . import options, output

if TYPE_CHECKING:
    from .main import Context

TRAIT = click.argument("trait", help="The trait, by number or name; 'vesica audience trait list' shows them.")
FOLDER = click.option("--folder", metavar="FOLDER", help="Its folder, by number, name or path; else the top.")
RULE = click.option(
    "--rule", metavar="EXPR", help="""A condition on signals, such as '(a == "1" OR b == "1") AND price >= 100'."""
)
_KINDS = {"rule-based": "RULE_BASED_TRAIT", "on-boarded": "ON_BOARDED_TRAIT", "folder": "FOLDER_TRAIT"}
_WORDS = {kind: word for word, kind in _KINDS.items()}


@click.group()
def trait() -> None:
    """Make traits: visitors realise them by their signals, by files, or by traits of a folder."""


@trait.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the traits, with how many visitors have each now."""
    rows = ctx.project().audience.traits.all()
    cells = (
        [
            str(row["number"]),
            row["name"],
            _WORDS[row["kind"]],
            row["source_name"],
            row["folder"],
            row["days"] or "never",
            row["members"],
        ]
        for row in rows
    )
    heads = ("number", "trait", "kind", "data source", "folder", "expires after days", "visitors")
    output.emit(ctx, rows, lambda: output.table(heads, cells, empty="no traits"))


@trait.command()
@TRAIT
@click.pass_obj
def show(ctx: "Context", trait: str) -> None:
    """Show a trait, what may not be done with it, and the segments with it."""
    _show(ctx, ctx.project().audience.traits.show(trait))


@trait.command()
@click.argument("name", help="What to call the trait.")
@click.option("--source", required=True, metavar="SOURCE", help="Its data source, by number or name.")
@RULE
@click.option("--kind", type=click.Choice([*_KINDS]), help="Rule-based where a rule is given, else on-boarded.")
@FOLDER
@click.option("--ttl", default=120, show_default=True, metavar="DAYS", help="Until it expires; 0: never.")
@click.option("--integration-code", metavar="CODE", help="What files and other systems call it.")
@click.option("--description", default="", metavar="TEXT", help="What it is for.")
@click.pass_obj
def create(
    ctx: "Context",
    name: str,
    *,
    source: str,
    rule: str | None,
    kind: str | None,
    folder: str | None,
    ttl: int,
    integration_code: str | None,
    description: str,
) -> None:
    """Make a trait. Signals that have come already do not realise it.

    A folder trait is had by who has any trait of its folder, or of one in it.

    \b
    Example: vesica audience trait create Buyers --source 2000000 --rule 'event == "buy"' --ttl 30
    """
    from node.audiencemanager.records import TraitKind

    made = ctx.project().audience.traits.create(
        name,
        source=source,
        rule=rule,
        kind=None if kind is None else TraitKind(_KINDS[kind]),
        folder=folder,
        days=ttl,
        integration_code=integration_code,
        description=description,
    )
    output.emit(ctx, made, lambda: output.echo(f"made trait {made['number']} {name}"))


@trait.command()
@TRAIT
@click.option("--name", metavar="NAME", help="Another name.")
@click.option("--description", metavar="TEXT", help="What it is for.")
@RULE
@FOLDER
@click.pass_obj
def edit(
    ctx: "Context", trait: str, name: str | None, description: str | None, rule: str | None, folder: str | None
) -> None:
    """Change a trait. Who has realised it keeps it under another rule, until it expires."""
    traits = ctx.project().audience.traits
    _show(ctx, traits.edit(trait, name=name, description=description, rule=rule, folder=folder))


@trait.command()
@TRAIT
@click.argument("days", type=int, help="After how many days without its signals it expires; 0: never.")
@click.pass_obj
def ttl(ctx: "Context", trait: str, days: int) -> None:
    """Say when a trait expires: at 00:00 UTC after its last day; it holds for who has realised it already, too."""
    _show(ctx, ctx.project().audience.traits.edit(trait, days=days))


@trait.command()
@TRAIT
@options.YES
@click.pass_obj
def delete(ctx: "Context", trait: str, yes: bool) -> None:
    """Delete a trait that nothing uses, and that visitors had it."""
    output.confirm(ctx, f"Delete trait {trait}?", yes=yes)
    ctx.project().audience.traits.delete(trait)
    output.emit(ctx, {"deleted": trait}, lambda: output.echo(f"deleted trait {trait}"))


def _show(ctx: "Context", found: dict[str, Any]) -> None:
    def lines() -> None:
        shown = {**found, "kind": _WORDS[found["kind"]], "visitors": found["members"]}
        del shown["members"]
        shown |= {"expires": f"after {found['days']} days" if found["days"] else "never"}
        shown["data source"] = f"{shown.pop('source')} {shown.pop('source_name')}"
        shown["segments"] = [f"{each['number']} {each['name']}" for each in found["segments"]]
        shown["created"] = output.time(found["created"])
        output.lines(
            (output.words(name), str(value) if name == "number" else value)
            for name, value in shown.items()
            if name != "days" and value not in (None, "", [])
        )

    output.emit(ctx, found, lines)
