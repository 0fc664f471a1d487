"""The commands `vesica node`: make, run, back up and restore an organisation's home."""

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from . import letters, node_mail, node_settings, options, output, remedies
from .project import HOLD

if TYPE_CHECKING:
    from .main import Context


@click.group()
def cli() -> None:
    """Make a node, run its service, see how it is, change its settings and key."""


for each in (
    node_settings.set_,
    node_settings.passphrase,
    node_settings.key,
    node_settings.shared_segments,
    node_mail.mail,
):
    cli.add_command(each)


@cli.command()
@click.option("--org", "organisation", required=True, metavar="NAME", help="Your organisation, as partners see it.")
@click.option(
    "--database",
    metavar="URL",
    help="A PostgreSQL for the control rows, such as postgresql://HOST/NAME (default: SQLite in the home).",
)
@click.option("--listen", metavar="HOST:PORT", help="Where the service listens (default: 127.0.0.1:8470).")
@click.option("--address", default="", metavar="HOST:PORT", help="Where partners reach it; none: this node calls them.")
@click.option("--proxy", is_flag=True, help="TLS ends at a web server in front of the service.")
@click.option(
    "--allow-private-addresses",
    "private_addresses",
    is_flag=True,
    help="Partners may be called at addresses of a private network, such as 10.0.0.5, that they name themselves.",
)
@click.pass_obj
def init(
    ctx: "Context",
    *,
    organisation: str,
    database: str | None,
    listen: str | None,
    address: str,
    proxy: bool,
    private_addresses: bool,
) -> None:
    """Make a home with fresh keys and the project "default".

    Set VESICA_PASSPHRASE, now and for every later command, to keep the keys under a passphrase.

    \b
    Example: vesica node init --org "Fern Retail" --address fern.example:8470
    """
    from node.node import Node

    made = Node.create(
        ctx.home,
        organisation,
        database=database,
        listen=listen,
        address=address,
        proxy=proxy,
        private_addresses=private_addresses,
    )
    with made as node:
        document = {"home": str(node.home.path), "organisation": organisation, "key": node.key.hex()}
    output.emit(ctx, document, lambda: output.lines(document.items()))


@cli.command()
@click.option("--listen", metavar="HOST:PORT", help="Where to listen (default: as the home was made).")
@click.pass_obj
def serve(ctx: "Context", listen: str | None) -> None:
    """Answer partners and run jobs until it is stopped.

    It needs no token where the node has users: it does what they have asked for, and what the terms let partners ask.
    """
    from node.service import serve as run

    home = ctx.unsigned_node().home

    def ready(address: str) -> None:
        output.emit(ctx, {"address": address}, lambda: output.echo(f"listening on {address}"))

    run(home, listen, ready=ready)
    with suppress(OSError):  # whoever read the output may be gone
        ctx.close()
        sys.stdout.flush()
    os._exit(0)  # threads that still work for a partner would keep the process; a kill leaves nothing that is half done


@cli.command()
@click.pass_obj
def sync(ctx: "Context") -> None:
    """Deliver and fetch letters, and do what is queued, in every project; where a service runs, it does this itself.

    What time brings is done too: members leave, alerts are raised. Each job runs in the name of who asked for it.
    """
    with output.progress(ctx) as report:
        document = ctx.node().sync(report)
    document["jobs"] = [remedies.of_row(job) for job in document["jobs"]]

    def text() -> None:
        if document["serving"]:
            output.echo("the service does it")
            return
        moved = document["letters"]
        output.echo(f"letters: {moved['delivered']:,} delivered, {moved['fetched']:,} fetched")
        columns = ("project", "id", "kind", "submitted_by", "state")
        cells = ([*(job[name] for name in columns), (job["error"] or {}).get("message")] for job in document["jobs"])
        output.table(("project", "job", "kind", "by", "state", "error"), cells, empty="no job was queued", ids="job")
        if document["other_jobs"]:
            output.echo(f"jobs of others that ran: {document['other_jobs']:,}")
        letters.out_of_reach(document)

    output.emit(ctx, document, text)


@cli.command()
@click.option("--alerts", "count", default=10, show_default=True, metavar="N", help="How many alerts to show.")
@click.pass_obj
def status(ctx: "Context", count: int) -> None:
    """Show the node, its projects, open jobs and the newest alerts."""
    node = ctx.node()
    document = node.status(alerts=count)

    def show() -> None:
        head = ("organisation", "home", "key", "address", "serving", "kernel")
        output.lines((name, document[name]) for name in head)
        output.echo()
        rows = (
            (each["name"], "on hold" if each["on_hold"] else "open", each["partners"], each["open_jobs"])
            for each in document["projects"]
        )
        output.table(("project", "is", "partners", "open jobs"), rows)
        output.echo()
        alerts = ((output.time(each["at"]), each["project"], each["text"]) for each in document["alerts"])
        output.table(("at", "project", "alert"), alerts, empty="no alerts")
        if not document["serving"] and any(each["open_jobs"] for each in document["projects"]):
            output.echo(f"no service runs, so the open jobs wait: {remedies.command('node.sync')}", err=True)
        for project in node.projects():
            letters.remind(project)

    output.emit(ctx, document, show)


@cli.command()
@click.argument("target", type=click.Path(), help='What to write: a new directory, FILE.tar, a pipe, or "-".')
@options.FORCE
@click.pass_obj
def backup(ctx: "Context", target: str, force: bool) -> None:
    """Write a backup of the home, also while the service runs: a directory, or one file if TARGET ends in .tar.

    A pipe and standard output ("-") get that file as well; --force replaces one, never a directory.

    It has the rows (of SQLite and PostgreSQL alike), the keys and the data. The keys are under the passphrase if there
    is one, else as they are: guard the backup as you guard the home. The secrets of key epochs are left out.

    \b
    Example: vesica node backup /backups/fern-monday.tar
    """
    document = ctx.node().backup(target, force=force)
    shown = {**document, "made": output.time(document["made"])}
    output.beside(ctx, target, document, lambda: output.lines(shown.items()))


@cli.command()
@click.argument("source", metavar="BACKUP", type=click.Path(), help="What 'vesica node backup' wrote.")
@click.option("--database", metavar="URL", help="An empty PostgreSQL for the rows (default: SQLite in the home).")
@click.pass_obj
def restore(ctx: "Context", source: str, database: str | None) -> None:
    """Make a home of a backup, in an empty or new directory; a backup that is not whole is refused, with what is missing.

    The node of the backup must not run any more. A letter notifies partners. What was done since the backup is gone, withdrawals
    too, so every project is on hold: nothing is shared and no estimate is asked for or answered until you say 'vesica
    project resume'. Import consent again, revoke and disconnect again, before that. Tokens of users and Connect IDs have
    ended. What partners used up since is not known: no partner evaluates anything until you say 'vesica partner allow',
    and estimates that they ask for are refused for a window. Every destination is disabled until you say 'vesica destination
    resume': look at where each one sends first.

    \b
    Example: vesica node restore /backups/fern-monday.tar --home /srv/fern
    """
    from node.node import Node

    document = Node.restore(source, ctx.home, database=database)

    def text() -> None:
        shown = {**document, "made": output.time(document["made"])}
        output.lines((output.words(name), value) for name, value in shown.items())
        if document["to_notify"]:
            output.echo(f"They hear of it once the service runs, or by: {remedies.command('node.sync')}")
        output.echo(f"What was done since then is gone, withdrawals too: {HOLD}")
        if document["destinations_disabled"]:
            resume = remedies.command("destination.resume", name="NAME")
            output.echo(f"Nothing is sent to a destination before you have looked at it: {resume}")
        again = f"{remedies.command('user.reset', name='NAME')}, {remedies.command('partner.id')}"
        output.echo(f"Connect IDs and the tokens of users have ended: {again}")
        # Where several projects are on hold, a name alone does not say whose partner it is.
        known = document["to_notify"] if len(document["on_hold"]) == 1 else []
        commands = ", ".join(remedies.command("partner.allow", name=name) for name in known or ["NAME"])
        output.echo(f"Until you say so, partners get no new evaluations: {commands}")

    output.emit(ctx, document, text)
