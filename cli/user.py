"""The commands `vesica user`: who may use the node, with which roles and tokens."""

from typing import TYPE_CHECKING

import click

from . import options, output

if TYPE_CHECKING:
    from node.access.scope import Scope
    from node.access.users import Token, User

    from .main import Context

DAYS = click.option("--days", default=90, show_default=True, metavar="N", help="How long the token lasts.")

ROLE = (
    "What the user may do: viewer, connections, shares, projects, data, governance, exporter, destination-manager, "
    "activator, audience-manager, audience-receiver, auditor, administrator, or a role of your own."
)
NAME = click.argument("name", help="The user; 'vesica user list' shows them.")


@click.group()
def cli() -> None:
    """Say who may use this node. Once it has users, every command needs a token of one of them in VESICA_TOKEN."""


@cli.command()
@click.argument("name", help="What to call the user, such as ann.")
@click.option("--role", "roles", multiple=True, required=True, metavar="ROLE", help=ROLE)
@DAYS
@click.pass_obj
def create(ctx: "Context", name: str, roles: tuple[str, ...], days: int) -> None:
    """Add a user, and print its first token: it is shown only now.

    With --project the user has the roles in that project alone. The first user must be an administrator of the whole node.

    \b
    Example: vesica user create ann --role administrator
    """
    _print_token(ctx, ctx.node().users.create(name, roles, scope=_chosen(ctx), days=days))


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the users with their roles."""
    found = ctx.node().users.all()
    rows = [(user.name, _roles(user), len(user.tokens)) for user in found]
    columns = ("user", "roles", "tokens")
    output.emit(ctx, [user.as_dict() for user in found], lambda: output.table(columns, rows, empty="no users"))


@cli.command()
@click.argument("name", required=False, help="One user; else whose token is in VESICA_TOKEN.")
@click.pass_obj
def show(ctx: "Context", name: str | None) -> None:
    """Show a user, without a name yourself: the roles, and when the tokens expire."""
    user = ctx.node().users.show(name)
    pairs = [
        ("user", user.name),
        ("roles", _roles(user)),
        ("tokens expire", [output.time(each) for each in user.tokens]),
    ]
    output.emit(ctx, user.as_dict(), lambda: output.lines(pairs))


@cli.command()
@NAME
@click.argument("role", help=ROLE)
@click.pass_obj
def grant(ctx: "Context", name: str, role: str) -> None:
    """Give a user a role, for the whole node or with --project in that project alone.

    \b
    Example: vesica user grant ann shares --project loyalty
    """
    scope = _chosen(ctx)
    ctx.node().users.grant(name, role, scope=scope)
    _say(ctx, name, role, scope, "has the role")


@cli.command()
@NAME
@click.argument("role", help="The role to take: a name from 'vesica role list'.")
@click.pass_obj
def deny(ctx: "Context", name: str, role: str) -> None:
    """Take a role from a user where it was granted: for the whole node, or in the project of --project."""
    scope = _chosen(ctx)
    ctx.node().users.deny(name, role, scope=scope)
    _say(ctx, name, role, scope, "no longer has the role")


@cli.command()
@NAME
@DAYS
@click.pass_obj
def token(ctx: "Context", name: str, days: int) -> None:
    """Print a new token of a user: it is shown only now. Those that the user has go on."""
    _print_token(ctx, ctx.node().users.token(name, days))


@cli.command()
@NAME
@options.YES
@click.pass_obj
def revoke(ctx: "Context", name: str, yes: bool) -> None:
    """End every token of a user at once."""
    output.confirm(ctx, f"End every token of {name}?", yes=yes)
    count = ctx.node().users.revoke(name)
    output.emit(
        ctx,
        {"name": name, "revoked": count},
        lambda: output.echo(f"revoked {count} token{'s' * (count != 1)} of {name}"),
    )


@cli.command()
@NAME
@options.YES
@click.pass_obj
def remove(ctx: "Context", name: str, yes: bool) -> None:
    """Take a user away. The last administrator stays: 'vesica user reset --remove-all' ends the need for tokens."""
    output.confirm(ctx, f"Remove user {name}?", yes=yes)
    ctx.node().users.remove(name)
    output.emit(ctx, {"removed": name}, lambda: output.echo(f"removed user {name}"))


@cli.command()
@click.argument("name", required=False, help="The user to make an administrator, a new one if need be.")
@click.option("--remove-all", is_flag=True, help="Take all users away instead: then no command needs a token.")
@DAYS
@options.YES
@click.pass_obj
def reset(ctx: "Context", name: str | None, remove_all: bool, days: int, yes: bool) -> None:
    """The way back when no administrator has a token any more: make NAME one, with a new token in place of all others.

    It takes no token, but the files of the home, and VESICA_PASSPHRASE if the keys are under one. The audit log names
    who ran it.

    \b
    Example: vesica user reset ann
    """
    if (name is None) != remove_all:
        raise click.UsageError("Name a user, or give --remove-all.")
    if name is None:
        question = "Remove all users? Then everybody who can open the home may do everything, without a token."
        output.confirm(ctx, question, yes=yes)
        gone = ctx.unsigned_node().users.remove_all()
        output.emit(ctx, {"removed": gone}, lambda: output.echo(f"removed {len(gone)} user{'s' * (len(gone) != 1)}"))
        return
    output.confirm(ctx, f"Make {name} an administrator, with one new token in place of all others?", yes=yes)
    _print_token(ctx, ctx.unsigned_node().users.reset(name, days))


def _chosen(ctx: "Context") -> "Scope | None":
    return ctx.project().scope if ctx.project_chosen else None


def _roles(user: "User") -> list[str]:
    return [role if project is None else f"{role} in {project}" for role, project in user.roles]


def _say(ctx: "Context", name: str, role: str, scope: "Scope | None", what: str) -> None:
    document = {"name": name, "role": role, "project": None if scope is None else scope.name}
    where = "for the whole node" if scope is None else f"in project {scope.name}"
    output.emit(ctx, document, lambda: output.echo(f"{name} {what} {role} {where}"))


def _print_token(ctx: "Context", token: "Token") -> None:
    document = {"name": token.user, "token": token.text, "expires": token.expires}

    def text() -> None:
        output.echo(token.text)
        until = f"It lasts until {output.time(token.expires)} and is not shown again."
        output.echo(f"This is a token of {token.user}. {until}", err=True)

    output.emit(ctx, document, text)
