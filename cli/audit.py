"""The commands `vesica audit`: who did what, and whether the log is whole."""

from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

import click

from . import options, output

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.storage.records import Document

    from .main import Context


def _filters(command: "Callable[..., None]") -> "Callable[..., None]":
    time = options.Time(options.DAY, "%Y-%m-%dT%H:%MZ", "%Y-%m-%dT%H:%M:%S")
    such = "such as 2026-01-31 or 2026-01-31T08:00Z"
    for option in (
        click.option("--until", type=time, metavar="TIME", help=f"Before this time (UTC), {such}."),
        click.option("--since", type=time, metavar="TIME", help=f"From this time on (UTC), {such}."),
        click.option("--result", type=click.Choice(["allow", "deny", "fail"]), help="Only acts that ended so."),
        click.option("--actor", metavar="WHO", help="A user, a partner's alias, or the account user@host."),
        click.option("--act", metavar="ACT", help='An act such as "feed.publish", or all of "feed".'),
    ):
        command = option(command)
    return command


def _query(ctx: "Context", since: datetime | None, until: datetime | None, **filters: Any) -> dict[str, Any]:
    seconds = {
        name: None if time is None else int(time.replace(tzinfo=UTC).timestamp())
        for name, time in (("since", since), ("until", until))
    }
    chosen = ctx.project().id if ctx.project_chosen else None
    return {**filters, **seconds, "project_id": chosen}


@click.group()
def cli() -> None:
    """See who did what, and check that nobody changed the log."""


@cli.command("list")
@_filters
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), metavar="N", help="The newest N.")
@click.pass_obj
def list_(ctx: "Context", /, limit: int, **filters: Any) -> None:
    """List acts, newest first, of all projects or of the one named with --project.

    \b
    Example: vesica audit list --act policy --result deny
    """
    rows = [entry.as_dict() for entry in ctx.node().audit.entries(**_query(ctx, **filters), limit=limit)]
    names = ("number", "at", "actor", "act", "target", "result")
    written = {"at": lambda row: output.time(row["at"]), "actor": _actor}
    cells = ([written.get(name, itemgetter(name))(row) for name in names] for row in rows)
    output.emit(ctx, rows, lambda: output.table(names, cells, empty="no acts", ids="target"))


def _actor(row: "Document") -> str:
    return " ".join(filter(None, (row["actor_kind"], row["actor"])))


@cli.command()
@click.option("--head", metavar="NUMBER:HEX", help="A head that verify printed earlier, which must be in the log.")
@click.pass_obj
def verify(ctx: "Context", head: str | None) -> None:
    """Recompute the chain of hashes and print its head; exit code 1 if a row was changed, added or taken out.

    Partners keep heads of the log, and confirm them once a day. Each that was confirmed must be in the log, so that also
    a log that was replaced as a whole is found out. Without a service, 'vesica node sync' asks partners to confirm them.
    """
    from node.access.audit import Head

    found, kept = ctx.node().verify_audit(upto=None if head is None else Head.parse(head))
    rows = [each.as_dict() for each in kept]
    document = {"rows": found.number, "head": str(found), "kept": rows}

    def text() -> None:
        output.say(f"{found.number:,} rows, none changed; head {found}")
        names = ("partner", "keeps head", "confirmed", "found")
        cells = ([row["partner"], row["head"], output.time(row["confirmed"]), _STANDS[row["stands"]]] for row in rows)
        output.table(names, cells, empty="no partner keeps a head of it yet")

    output.emit(ctx, document, text)


_STANDS = {
    "there": "yes",
    "pruned": "no: it is of rows that were pruned",
    "restored": "no: the log was set back by a restore since; if nobody restored this node, it was replaced",
}


@cli.command()
@click.option(
    "--before",
    type=options.Time(options.DAY),
    required=True,
    metavar="DAY",
    help="Rows from before this day (UTC).",
)
@options.YES
@click.pass_obj
def prune(ctx: "Context", before: datetime, yes: bool) -> None:
    """Delete rows that are more than 365 days old. Export them first; the rest of the log verifies as before.

    \b
    Example: vesica audit prune --before 2026-01-01
    """
    output.confirm(ctx, f"Delete the audit rows from before {before:%Y-%m-%d}?", yes=yes)
    document = ctx.node().prune_audit(int(before.replace(tzinfo=UTC).timestamp()))
    output.emit(ctx, document, lambda: output.echo(f"{document['rows']} rows deleted"))


@cli.command()
@click.argument("file", default="-", help=f"Where to write it: {options.RESULT} (the default).")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "json"]),
    default="csv",
    show_default=True,
    help="The form of the text.",
)
@options.FORCE
@_filters
@click.pass_obj
def export(ctx: "Context", /, file: str, format_: "Literal['csv', 'json']", force: bool, **filters: Any) -> None:
    """Write acts, oldest first, as CSV or JSON.

    In CSV a ' stands before what a spreadsheet could take for a formula, and before a ' of the text itself.

    \b
    Example: vesica audit export november.csv --since 2026-11-01 --until 2026-12-01
    """
    from node.storage import outputs

    ctx.node().export_audit(file, "json" if ctx.json else format_, force=force, **_query(ctx, **filters))
    if not outputs.is_standard(file):
        output.emit(ctx, {"written": file}, lambda: output.echo(f"written to {file}"))
