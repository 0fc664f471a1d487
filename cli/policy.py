from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from . import output

if TYPE_CHECKING:
    from .main import Context


@click.group()
def cli() -> None:
    """Say which labels forbid which marketing action."""


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the policies."""
    rows = [asdict(policy) for policy in ctx.project().policies.list()]
    names = ("name", "action", "expression", "status")
    output.emit(ctx, rows, lambda: output.table(names, ([row[name] for name in names] for row in rows)))


@cli.command()
@click.argument("name")
@click.option("--action", required=True, metavar="USE", help="The marketing action that it forbids.")
@click.option("--when", "expression", required=True, metavar="LABELS", help="Labels with AND, OR and parentheses.")
@click.option("--draft", is_flag=True, help="Only 'policy check --include-draft' applies it.")
@click.pass_obj
def create(ctx: "Context", name: str, action: str, expression: str, draft: bool) -> None:
    """Forbid a marketing action for segments with certain labels.

    \b
    Example: vesica policy create no-legal-hold --action segment-match --when "legal-hold OR (C3 AND C7)"
    """
    policy = ctx.project().policies.create(name, action, expression, status="draft" if draft else "enabled")
    output.emit(ctx, asdict(policy), lambda: click.echo(f"{name} is {policy.status}"))


@cli.command()
@click.argument("name")
@click.pass_obj
def enable(ctx: "Context", name: str) -> None:
    """Apply a policy from now on."""
    ctx.project().policies.enable(name)
    output.emit(ctx, {"name": name, "status": "enabled"}, lambda: click.echo(f"{name} is enabled"))


@cli.command()
@click.argument("name")
@click.pass_obj
def disable(ctx: "Context", name: str) -> None:
    """Stop applying a policy."""
    ctx.project().policies.disable(name)
    output.emit(ctx, {"name": name, "status": "disabled"}, lambda: click.echo(f"{name} is disabled"))


@cli.command()
@click.argument("segments", nargs=-1, required=True, metavar="SEGMENT...")
@click.option("--action", default="segment-match", show_default=True, metavar="USE", help="The marketing action.")
@click.option("--namespace", "namespaces", multiple=True, metavar="N", help="Identities that carry it out.")
@click.option("--include-draft", is_flag=True, help="Apply drafts too.")
@click.pass_context
def check(
    click_ctx: click.Context, segments: tuple[str, ...], action: str, namespaces: tuple[str, ...], include_draft: bool
) -> None:
    """Tell whether a marketing action is allowed for segments, each by its own labels; exit code 1 if not.

    \b
    Example: vesica policy check high-value --action segment-match
    """
    ctx: Context = click_ctx.obj
    policies = ctx.project().policies
    found = [
        {"segment": segment, **asdict(violation)}
        for segment in segments
        for violation in policies.check(segment, action=action, namespaces=namespaces, include_draft=include_draft)
    ]

    def show() -> None:
        columns = ("segment", "policy", "condition", "labels", "lineage", "fixes")
        rows = ([violation[name] for name in columns] for violation in found)
        output.table(columns, rows, empty=f"{action} is allowed")

    output.emit(ctx, {"action": action, "allowed": not found, "violations": found}, show)
    click_ctx.exit(1 if found else 0)
