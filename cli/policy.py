"""The commands `vesica policy`: which labels keep segments out of which marketing actions."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from . import options, output, remedies

if TYPE_CHECKING:
    from .main import Context

NAME = click.argument("name", help="The policy; 'vesica policy list' shows them.")


@click.group()
def cli() -> None:
    """Say which labels forbid which marketing action."""


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the policies."""
    rows = [asdict(policy) for policy in ctx.project().policies.all()]
    cells = ([row["name"], row["status"] == "enabled", f"{row['action']} of {row['expression']}"] for row in rows)
    output.emit(ctx, rows, lambda: output.table(("policy", "on", "forbids"), cells))


@cli.command()
@click.argument("name", help="What to call the policy, such as no-legal-hold.")
@click.option(
    "--action", required=True, metavar="USE", help=f"The marketing action that it forbids: {options.ACTIONS}."
)
@click.option(
    "--when",
    "expression",
    required=True,
    metavar="LABELS",
    help='Labels with AND, OR and parentheses, such as "C3 OR C7".',
)
@click.option("--draft", is_flag=True, help="Only 'policy check --include-draft' applies it.")
@click.pass_obj
def create(ctx: "Context", name: str, action: str, expression: str, draft: bool) -> None:
    """Forbid a marketing action for segments with certain labels.

    \b
    Example: vesica policy create no-legal-hold --action segment-match --when "legal-hold OR (C3 AND C7)"
    """
    from node.governance.policies import PolicyStatus

    policy = ctx.project().policies.create(
        name, action, expression, status=PolicyStatus.DRAFT if draft else PolicyStatus.ENABLED
    )
    output.emit(ctx, asdict(policy), lambda: output.echo(f"{name} is {policy.status}"))


@cli.command()
@NAME
@click.pass_obj
def enable(ctx: "Context", name: str) -> None:
    """Apply a policy from now on."""
    ctx.project().policies.enable(name)
    output.emit(ctx, {"name": name, "status": "enabled"}, lambda: output.echo(f"{name} is enabled"))


@cli.command()
@NAME
@options.YES
@click.pass_obj
def disable(ctx: "Context", name: str, yes: bool) -> None:
    """Stop applying a policy; asks first where it keeps people from being shared."""
    _ask_about_sharing(ctx, name, yes=yes)
    ctx.project().policies.disable(name)
    output.emit(ctx, {"name": name, "status": "disabled"}, lambda: output.echo(f"{name} is disabled"))


def _ask_about_sharing(ctx: "Context", name: str, *, yes: bool) -> None:
    for policy in ctx.project().policies.all():
        if policy.name == name and policy.action == options.SHARING:
            risk = f"People in segments with the labels {policy.expression} can be shared with partners then."
            output.confirm(ctx, f"{risk} Disable {name}?", yes=yes)


@cli.command()
@NAME
@click.option(
    "--action", metavar="USE", help="The marketing action that it forbids; 'policy create --help' lists them."
)
@click.option("--when", "expression", metavar="LABELS", help='Labels with AND, OR and parentheses, such as "C3 OR C7".')
@click.option("--draft", is_flag=True, help="Only 'policy check --include-draft' applies it from now on.")
@click.pass_obj
def edit(ctx: "Context", name: str, action: str | None, expression: str | None, draft: bool) -> None:
    """Change a policy of your own. One that a published feed would break is refused, as with 'enable'.

    \b
    Example: vesica policy edit no-legal-hold --when "legal-hold OR C9"
    """
    if not (action or expression or draft):
        raise click.UsageError("Name what to change.")
    from node.governance.policies import PolicyStatus

    status = PolicyStatus.DRAFT if draft else None
    policy = ctx.project().policies.edit(name, action=action, expression=expression, status=status)
    output.emit(
        ctx,
        asdict(policy),
        lambda: output.echo(f"{name} forbids {policy.action} when {policy.expression}: {policy.status}"),
    )


@cli.command()
@NAME
@options.YES
@click.pass_obj
def delete(ctx: "Context", name: str, yes: bool) -> None:
    """Take a policy of your own away."""
    output.confirm(ctx, f"Delete policy {name}?", yes=yes)
    ctx.project().policies.delete(name)
    output.emit(ctx, {"deleted": name}, lambda: output.echo(f"deleted policy {name}"))


@cli.command()
@click.argument("segments", nargs=-1, metavar="[SEGMENT]...", help="Segments of yours.")
@click.option("--feed", "feeds", multiple=True, metavar="NAME", help="The segments of this feed, over its namespaces.")
@click.option(
    "--action",
    default="segment-match",
    show_default=True,
    metavar="USE",
    help=f"The marketing action: {options.ACTIONS}.",
)
@click.option(
    "--namespace", "namespaces", multiple=True, metavar="N", help=f"Identities that carry it out, {options.NAMESPACES}."
)
@click.option("--include-draft", is_flag=True, help="Apply drafts too.")
@click.pass_context
def check(
    click_ctx: click.Context,
    segments: tuple[str, ...],
    feeds: tuple[str, ...],
    action: str,
    namespaces: tuple[str, ...],
    include_draft: bool,
) -> None:
    """Check whether a marketing action is allowed for segments, each by its own labels; exit code 1 if not.

    \b
    Example: vesica policy check high-value --action segment-match
    """
    if not (segments or feeds):
        raise click.UsageError("Name a segment or a --feed.")
    ctx: Context = click_ctx.obj
    found = ctx.project().governance.check(
        segments, feeds=feeds, action=action, namespaces=namespaces, include_draft=include_draft
    )
    violations = [remedies.violation(each.document()) for each in found]

    def show() -> None:
        for line in output.violations(violations) or [f"{action} is allowed"]:
            output.echo(line)

    output.emit(ctx, {"action": action, "allowed": not found, "violations": violations}, show)
    click_ctx.exit(1 if found else 0)
