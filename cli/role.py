"""The commands `vesica role`: sets of permissions that users are given."""

from typing import TYPE_CHECKING, Any

import click

from . import options, output

if TYPE_CHECKING:
    from node.access.permissions import Role

    from .main import Context

PERMISSIONS = (
    "view, view-profiles, view-segments, view-destinations, manage-connections, manage-shares, share-segments, "
    "manage-data, manage-governance, export, manage-destinations, activate-destinations, manage-audience, "
    "receive-audience, audit, administer"
)


@click.group()
def cli() -> None:
    """Say what users may do: roles are sets of permissions."""


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the roles, the ready-made ones first."""
    rows = [_document(role) for role in ctx.node().roles.all()]
    cells = (
        [
            row["name"],
            row["permissions"],
            *("all" if row[each] is None else row[each] or "none" for each in ("labels", "sources")),
            row["wildcards"],
        ]
        for row in rows
    )
    output.emit(ctx, rows, lambda: output.table(("role", "permissions", "labels", "data sources", "wildcards"), cells))


@cli.command()
@click.argument("name", help="What to call the role, such as campaigns.")
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    required=True,
    metavar="P",
    help=f"What it lets do: {PERMISSIONS}; view is all views.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="LABEL",
    help="See segments with this label, such as C5, not with others.",
)
@click.option("--unlabelled", is_flag=True, help="See only segments without a label.")
@click.option(
    "--sources",
    metavar="N,N",
    help="Of the Audience Manager side only these data sources, by number, and what is of them; else all, also new ones.",
)
@click.pass_obj
def create(
    ctx: "Context",
    name: str,
    permissions: tuple[str, ...],
    labels: tuple[str, ...],
    unlabelled: bool,
    sources: str | None,
) -> None:
    """Make a role.

    With --label its holder sees no segment that has another label, and none that is made of such a field, dataset or
    segment; what it may not see is not there. Who also has a role without this limit is not limited. 'vesica audience source
    list' shows the numbers of data sources.

    \b
    Example: vesica role create campaigns --permission view --permission manage-shares --label C5 --label C6
    """
    if labels and unlabelled:
        raise click.UsageError("give one of --label and --unlabelled")
    limit = labels if labels or unlabelled else None
    role = ctx.node().roles.create(name, permissions, labels=limit, sources=_numbers(sources))
    output.emit(ctx, _document(role), lambda: output.echo(f"made role {name}"))


@cli.command()
@click.argument("name", help="The role; 'vesica role list' shows them.")
@options.YES
@click.pass_obj
def delete(ctx: "Context", name: str, yes: bool) -> None:
    """Take a role away that no user has."""
    output.confirm(ctx, f"Delete role {name}?", yes=yes)
    ctx.node().roles.delete(name)
    output.emit(ctx, {"deleted": name}, lambda: output.echo(f"deleted role {name}"))


def _document(role: "Role") -> dict[str, Any]:
    limits = {"labels": role.labels, "sources": role.sources}
    return {
        "name": role.name,
        "permissions": sorted(role.permissions),
        **{name: None if limit is None else sorted(limit) for name, limit in limits.items()},
        "wildcards": role.wildcards,
    }


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(each) for each in text.split(",")]
    except ValueError as error:
        raise click.UsageError("--sources takes the numbers of data sources, such as 20914,2000000.") from error
