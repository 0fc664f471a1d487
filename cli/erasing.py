"""The commands that take people out for good, and let them return: a part of `vesica profile`."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from . import options, output, remedies

if TYPE_CHECKING:
    from node.erasure.erasure import People

    from .main import Context

PROVE = "List each place where they were, and what is left there: 0, at destinations once they are removed."


def _people(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--region", metavar="CC", help="The country of phone numbers without a country code, such as GB."),
        click.option(
            "--identity",
            "identities",
            multiple=True,
            metavar="NAMESPACE=VALUE",
            help="Whoever has this e-mail address, phone number or other identity, raw or hashed.",
        ),
        click.option("--file", type=click.Path(), metavar="FILE", help="A file with an id of yours per row."),
        click.argument("ids", nargs=-1, metavar="[ID]...", help="Your own ids of the people, such as C1042."),
    ):
        command = option(command)
    return command


def _number(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def _found(document: Mapping[str, Any]) -> str:
    """Say how many profiles there are, and visitors of the Audience Manager side if there are any."""
    profiles = _number(document["profiles"], "profile", "profiles")
    visitors = document["visitors"]
    return f"{profiles} and {_number(visitors, 'visitor', 'visitors')}" if visitors else profiles


def _meant(ids: tuple[str, ...], file: str | None, identities: tuple[str, ...], region: str | None) -> "People":
    from node.erasure.erasure import People

    return People(ids=ids, file=file, identities=identities, region=region)


@click.command()
@_people
@click.option("--allow-return", is_flag=True, help="Let the next import bring them back.")
@click.option("--prove", is_flag=True, help=PROVE)
@options.YES
@click.pass_obj
def erase(ctx: "Context", /, *, allow_return: bool, prove: bool, yes: bool, **who: Any) -> None:
    """Erase people: from all data, from what partners shared, from what is kept for partners, from backups to come.

    Partners and destinations that have them get the exit with the next run, which is queued at once. Later imports leave them
    out and count them as "erased here before". An identity that others have too stays with these. The audit log notes how
    many were erased, and not who.

    \b
    Example: vesica profile erase C1042 --identity email_sha256=ann@example.com --prove
    """
    people = _meant(**who)
    erasure = ctx.project().erasure
    if not yes:
        found = erasure.find(people)
        output.confirm(ctx, f"Erase {_found(found)} for good?", yes=False)
    done = erasure.profiles(people, may_return=allow_return, prove=prove)

    def table() -> None:
        output.echo(f"erased {_found(done)}")
        if done["unknown"]:
            output.echo(f"{_number(done['unknown'], 'id or identity', 'ids or identities')} of nobody here")
        if done["runs"]:
            runs = ", ".join(done["runs"])
            sync = remedies.command("feed.sync")
            output.say(f"{runs} will get the exit with the runs that are queued: {sync}")
        if done["destinations"]:
            names = ", ".join(done["destinations"])
            sync = remedies.command("destination.sync")
            output.say(f"{names} may have them until their removal has arrived; a service sends it, or: {sync}")
        if prove:
            output.echo()
            rows = [(each["place"], each["before"], each["after"]) for each in done["places"]]
            output.table(("place", "before", "after"), rows, empty="nothing is stored of them")
            output.echo(f"later imports leave them out: {'yes' if done['left_out'] else 'no'}")

    output.emit(ctx, done, table)


@click.command()
@_people
@click.pass_obj
def readmit(ctx: "Context", /, **who: Any) -> None:
    """Let people who were erased be imported again: name their id and each of their identities.

    \b
    Example: vesica profile readmit C1042 --identity email_sha256=ann@example.com
    """
    lifted = ctx.project().erasure.readmit(_meant(**who))

    def text() -> None:
        output.echo(f"{_number(lifted, 'id or identity', 'ids or identities')} may return")
        output.say("A row is imported again once its id and each identity of the row may return: name them all.")

    output.emit(ctx, {"lifted": lifted}, text)
