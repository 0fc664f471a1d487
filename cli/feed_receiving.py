"""The commands of `vesica feed` with which a partner's feed is taken, paused or refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from psi.errors import Remedy

from . import feed_tables, options, output, remedies

if TYPE_CHECKING:
    from .main import Context

NAME = click.argument("name", help="The feed; 'vesica feed list' shows them.")
PARTNER = click.option("--partner", metavar="NAME", help="Whose feed, where two partners offer one of that name.")
REASON = click.option("--reason", default="", metavar="TEXT", help="What the other side reads as the reason.")


@click.command()
@NAME
@PARTNER
@click.option(
    "--version",
    metavar="HASH",
    help="Do not ask: take the version with this hash, which 'vesica feed show' printed, and no other.",
)
@click.pass_obj
def enable(ctx: "Context", name: str, partner: str | None, version: str | None) -> None:
    """Take a feed that a partner offers, or what a new version of it adds, or go on with a paused one.

    It shows what it will take, and asks. If the partner has offered something else meanwhile, nothing is taken.

    \b
    Example: vesica feed enable summer
    """
    received = ctx.project().received
    if version is None:
        shown = received.to_enable(name, partner)
        partner, version = shown["partner"], shown["enables"]
        if shown["status"] != "disabled":  # a paused one brings nothing that was not accepted
            output.confirm_shown(
                ctx,
                f"Take this from {partner}?",
                lambda: feed_tables.show(shown, asked=True),
                f"'{remedies.command('feed.show', name=name)}' says what is offered, with its hash: "
                "enable it with --version HASH.",
            )
    received.enable(name, partner, version=version)
    shown = received.show(name, partner)

    def text() -> None:
        output.echo(f"feed {name} is enabled, version {shown['accepted_version']}")
        if shown["offered"]:
            output.echo(f"version {shown['offered_version']} is offered: {remedies.command('feed.show', name=name)}")

    versions = {each: shown[each] for each in ("accepted_version", "offered_version", "hash")}
    output.emit(ctx, {"feed": name, "status": "enabled", **versions}, text)


@click.command()
@NAME
@PARTNER
@REASON
@click.pass_obj
def disable(ctx: "Context", name: str, partner: str | None, reason: str) -> None:
    """Pause a received feed; what came stays, the next runs are not taken."""
    ctx.project().received.disable(name, partner, reason)
    say(ctx, name, "disabled")


@click.command()
@NAME
@PARTNER
@REASON
@click.option("--addition", is_flag=True, help="Only what the new version would add; the accepted one goes on.")
@options.YES
@click.pass_obj
def decline(ctx: "Context", name: str, partner: str | None, reason: str, addition: bool, yes: bool) -> None:
    """Turn a received feed down; what it gave is purged."""
    received = ctx.project().received
    question = f"Decline what feed {name} would add?" if addition else f"Decline feed {name}? What it gave is purged."
    output.confirm(ctx, question, yes=yes)
    if addition:
        version = received.decline_version(name, partner, reason)
        shown = received.show(name, partner)
        text = f"version {version} of feed {name} is declined, version {shown['accepted_version']} goes on"
        versions = {"declined_version": version, "accepted_version": shown["accepted_version"]}
        output.emit(ctx, {"feed": name, "status": shown["status"], **versions}, lambda: output.echo(text))
    else:
        received.decline(name, partner, reason)
        say(ctx, name, "declined")


def say(ctx: "Context", name: str, status: str) -> None:
    """Print what has become of a feed."""
    output.emit(ctx, {"feed": name, "status": status}, lambda: output.echo(f"feed {name} is {status}"))


@contextmanager
def sent_by_us(ctx: "Context", name: str) -> Iterator[None]:
    """Say of a feed which is not found among ours that it is a partner's, if it is."""
    from node.errors import NotFound

    try:
        yield
    except NotFound as error:
        project = ctx.project()
        theirs = [feed["partner"] for feed in project.received.all() if feed["name"] == name]
        if not theirs or any(feed["name"] == name for feed in project.feeds.all()):
            raise
        raise NotFound(
            f"feed {name!r} is not ours but {theirs[0]}'s, who alone changes, estimates and ends it",
            hint="look at what you get of it, take it or decline it",
            remedy=Remedy("feed.show", {"name": name}),
        ) from error
