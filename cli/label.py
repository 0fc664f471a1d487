"""The commands `vesica label`: labels on datasets, fields and segments, which policies look at."""

from typing import TYPE_CHECKING

import click

from . import output

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.governance.lineage import PlaceKind

    from .main import Context


@click.group()
def cli() -> None:
    """Say what data may be used for: on datasets, fields and segments."""


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the labels and where each one was put."""
    rows = [
        {
            "name": label.name,
            "description": label.description,
            "standard": label.standard,
            "applied_to": [str(origin) for origin in label.applied_to],
        }
        for label in ctx.project().labels.all()
    ]
    names = ("name", "description", "applied_to")
    headings = ("label", "description", "applied to")
    output.emit(ctx, rows, lambda: output.table(headings, ([row[name] for name in names] for row in rows)))


@cli.command()
@click.argument("name", help="What to call the label, such as legal-hold.")
@click.option("--description", required=True, metavar="TEXT", help="What the label says about data.")
@click.pass_obj
def create(ctx: "Context", name: str, description: str) -> None:
    """Add a label of your own.

    \b
    Example: vesica label create legal-hold --description "Not to leave while the case is open"
    """
    ctx.project().labels.create(name, description)
    output.emit(ctx, {"name": name, "description": description}, lambda: output.echo(f"made label {name}"))


def _place(command: "Callable[..., None]") -> "Callable[..., None]":
    command = click.option("--segment", metavar="NAME", help="A segment, such as frequent-buyers.")(command)
    command = click.option("--field", metavar="DATASET.FIELD", help="A column of a dataset, such as crm.income.")(
        command
    )
    return click.option("--dataset", metavar="NAME", help="A dataset, and so all its fields, such as crm.")(command)


def _chosen(dataset: str | None, field: str | None, segment: str | None) -> "tuple[PlaceKind, str]":
    from node.governance.lineage import PlaceKind

    named = {PlaceKind.DATASET: dataset, PlaceKind.FIELD: field, PlaceKind.SEGMENT: segment}
    given = [(kind, target) for kind, target in named.items() if target is not None]
    if len(given) != 1:
        raise click.UsageError("name one of --dataset, --field and --segment")
    return given[0]


@cli.command()
@click.argument("label", help="The label, such as C11; 'vesica label list' shows them.")
@_place
@click.pass_obj
def apply(ctx: "Context", label: str, dataset: str | None, field: str | None, segment: str | None) -> None:
    """Put a label on a dataset, a field or a segment; what builds on it inherits it.

    \b
    Example: vesica label apply C11 --field crm.income
    """
    kind, target = _chosen(dataset, field, segment)
    labels = ctx.project().labels
    labels.apply(label, kind, target)
    heeding = labels.heeding(label)
    document = {
        "label": label,
        "kind": kind,
        "target": target,
        "heeded": heeding.heeded,
        "policies": {"enabled": heeding.enabled, "others": heeding.others},
    }

    def text() -> None:
        output.echo(f"{label} is on {kind} {target}")
        if not heeding.heeded:
            others = ", ".join(f"'vesica policy enable {name}'" for name in heeding.others)
            way = others or "'vesica policy create' makes one"
            output.echo(f"No enabled policy heeds {heeding.label}, so it forbids nothing yet: {way}")

    output.emit(ctx, document, text)


@cli.command()
@click.argument("label", help="The label, such as C11; 'vesica label list' shows them.")
@_place
@click.pass_obj
def remove(ctx: "Context", label: str, dataset: str | None, field: str | None, segment: str | None) -> None:
    """Take a label off where it was put; an inherited one is read-only."""
    kind, target = _chosen(dataset, field, segment)
    ctx.project().labels.remove(label, kind, target)
    document = {"label": label, "kind": kind, "target": target}
    output.emit(ctx, document, lambda: output.echo(f"{label} is off {kind} {target}"))
