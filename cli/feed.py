"""The commands `vesica feed`: share segments with partners, and take or refuse what they share."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from . import feed_receiving, feed_tables, letters, options, output, remedies
from .feed_receiving import NAME, PARTNER, REASON, say, sent_by_us

if TYPE_CHECKING:
    from node.project import Project

    from .main import Context

NO_WAIT = click.option("--no-wait", is_flag=True, help="Only queue the work and print the ids of its jobs.")


@click.group()
def cli() -> None:
    """Share segments with partners, and take theirs."""


for each in (feed_receiving.enable, feed_receiving.disable, feed_receiving.decline):
    cli.add_command(each)


@cli.command()
@click.argument("name", help="What to call the feed, such as summer.")
@click.option("--segment", "segments", multiple=True, metavar="NAME", help="A segment of ours.")
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    required=True,
    metavar="NAME",
    help=f"What to match by, {options.NAMESPACES}.",
)
@click.option("--partner", "partners", multiple=True, metavar="NAME", help="A partner to share it with.")
@click.option(
    "--restrict",
    "restricted",
    multiple=True,
    metavar="USE",
    help=f"What partners may not do with it: {options.ACTIONS}.",
)
@click.option("--description", default="", metavar="TEXT", help="What partners read about it.")
@click.option(
    "--membership-days", default=30, show_default=True, metavar="N", help="Members leave so many days after a run."
)
@click.option(
    "--valid-until",
    type=options.Time(options.DAY),
    metavar="DAY",
    help="All members leave on that day (UTC), such as 2026-12-31.",
)
@click.pass_obj
def create(
    ctx: "Context",
    name: str,
    *,
    segments: tuple[str, ...],
    namespaces: tuple[str, ...],
    partners: tuple[str, ...],
    restricted: tuple[str, ...],
    description: str,
    membership_days: int,
    valid_until: datetime | None,
) -> None:
    """Draft a feed; nothing leaves before it is published and a partner has enabled it.

    Segments and partners can come later, by 'vesica feed edit'; 'vesica feed show' says which steps are left.

    \b
    Example: vesica feed create summer --segment vip --namespace email_sha256 --partner acme \\
                 --restrict export-to-third-party
    """
    ctx.project().feeds.create(
        name,
        segments=segments,
        namespaces=namespaces,
        partners=partners,
        restricted_uses=restricted,
        description=description,
        membership_days=membership_days,
        valid_until=None if valid_until is None else int(valid_until.replace(tzinfo=UTC).timestamp()),
    )
    output.emit(ctx, _sent(ctx, name), lambda: output.echo(f"drafted feed {name}"))


@cli.command()
@NAME
@click.option("--partner", metavar="NAME", help="Ask only this partner.")
@click.option(
    "--namespace", "namespaces", multiple=True, metavar="NAME", help="Ask only about this namespace of the feed."
)
@NO_WAIT
@options.YES
@click.pass_obj
def estimate(
    ctx: "Context", name: str, partner: str | None, namespaces: tuple[str, ...], no_wait: bool, yes: bool
) -> None:
    """Ask the feed's partners how many people both know, before anything is shared.

    Each answer spends some of the budget that the partner grants, and says how much is left; the same question again is
    free. Everybody in the segments is asked about, without consent too, unless 'project terms' leaves some out: before a
    feed's first estimate you are asked whether that may be.

    \b
    Example: vesica feed estimate summer --partner acme
    """
    project = ctx.project()
    if project.left_out == "nobody" and not _estimated(project, name):
        output.confirm(ctx, f"{feed_tables.EVERYBODY} Ask?", yes=yes)
    with sent_by_us(ctx, name), output.progress(ctx) as report:
        rows = project.feeds.estimate(name, partner, report, namespaces=namespaces, wait=not no_wait)
    rows = [remedies.of_row(row) for row in rows]

    def text() -> None:
        if no_wait:
            feed_tables.queued(rows)
            return
        feed_tables.estimates(rows)
        feed_tables.budgets(rows)
        feed_tables.failures({(row["partner"], row["namespace"]): row for row in rows if row["status"] == "failed"})

    output.emit(ctx, rows, text)
    if any(row["status"] == "failed" for row in rows):
        click.get_current_context().exit(1)


@cli.command()
@NAME
@click.pass_obj
def publish(ctx: "Context", name: str) -> None:
    """Offer a feed to its partners."""
    with sent_by_us(ctx, name):
        ctx.project().feeds.publish(name)
    output.emit(ctx, _sent(ctx, name), lambda: output.echo(f"published feed {name}"))


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the feeds that we share, and those that partners share with us."""
    project = ctx.project()
    document = {"shared": project.feeds.all(), "received": project.received.all()}

    def text() -> None:
        output.echo("Shared")
        output.table(
            ("feed", "status", "version", "segments", "partners"),
            (feed_tables.shared(row) for row in document["shared"]),
            empty="no feeds are shared",
        )
        output.echo("\nReceived")
        names = ("partner", "feed", "status", "version", "offered", "members")
        output.table(names, (feed_tables.received(row) for row in document["received"]), empty="no feeds were offered")

    letters.emit(ctx, document, text)


@cli.command()
@NAME
@PARTNER
@click.pass_obj
def show(ctx: "Context", name: str, partner: str | None) -> None:
    """Show a feed, ours or received: its definition and hash, states, estimates and runs."""
    document = _sent(ctx, name) if _is_ours(ctx, name, partner) else ctx.project().received.show(name, partner)
    letters.emit(ctx, document, lambda: feed_tables.show(document))


@cli.command()
@NAME
@click.option("--add-segment", multiple=True, metavar="NAME", help="A segment of ours.")
@click.option("--add-namespace", multiple=True, metavar="NAME", help=f"What to match by too, {options.NAMESPACES}.")
@click.option(
    "--add-restriction",
    multiple=True,
    metavar="USE",
    help="What partners may not do with it either; the uses are those of 'vesica feed create'.",
)
@click.option("--add-partner", multiple=True, metavar="NAME", help="A partner to share it with too.")
@click.option("--remove-segment", multiple=True, metavar="NAME", help="A segment to take out.")
@click.option("--remove-namespace", multiple=True, metavar="NAME", help="What to match by no more.")
@click.option("--remove-restriction", multiple=True, metavar="USE", help="What partners may do with it again.")
@click.option("--description", metavar="TEXT", help="What partners read about it.")
@options.YES
@click.pass_obj
def edit(
    ctx: "Context",
    name: str,
    *,
    add_segment: tuple[str, ...],
    add_namespace: tuple[str, ...],
    add_restriction: tuple[str, ...],
    add_partner: tuple[str, ...],
    remove_segment: tuple[str, ...],
    remove_namespace: tuple[str, ...],
    remove_restriction: tuple[str, ...],
    description: str | None,
    yes: bool,
) -> None:
    """Change a feed: each edit is a new version.

    What is taken out is gone at once on both sides. What is added each partner has to enable; until then the version
    that it accepted goes on. A namespace is offered once there is an estimate of it: estimate, then publish. A partner
    that is added gets the feed when it is published.

    \b
    Example: vesica feed edit summer --add-segment vip
    """
    from node.feeds.sending.edits import Addition, Removal

    added, removed = (
        (add_segment, add_namespace, add_restriction),
        (remove_segment, remove_namespace, remove_restriction),
    )
    if not (any(added) or any(removed) or add_partner or description is not None):
        raise click.UsageError("name what to add or to take out: --add-segment NAME, --remove-segment NAME")
    if taken := ", ".join((*remove_segment, *remove_namespace)):
        output.confirm(ctx, f"Take {taken} out of feed {name}? It is purged at its partners.", yes=yes)
    feeds = ctx.project().feeds
    with sent_by_us(ctx, name):
        version = feeds.edit(
            name,
            Removal(segments=remove_segment, namespaces=remove_namespace, restricted_uses=remove_restriction),
            addition=Addition(
                segments=add_segment, namespaces=add_namespace, restricted_uses=add_restriction, partners=add_partner
            ),
            description=description,
        )
    document = _sent(ctx, name)

    def text() -> None:
        output.echo(f"feed {name} is at version {version}")
        for row in document["partners"]:
            if row["offered_version"]:
                output.echo(f"{row['alias']}: version {row['offered_version']} waits for the partner to enable it")
            if row["waits_for_estimate"]:
                output.echo(f"{row['alias']}: {feed_tables.asking(name, row['waits_for_estimate'])}")
            if row["status"] == "draft" and document["status"] == "published":
                output.echo(f"{row['alias']}: not offered yet: {remedies.command('feed.publish', name=name)}")

    output.emit(ctx, document, text)


@cli.command()
@click.argument("name", required=False, help="One feed; all unless given.")
@NO_WAIT
@click.pass_obj
def sync(ctx: "Context", name: str | None, no_wait: bool) -> None:
    """Exchange letters with partners, and bring our published feeds to those who enabled them.

    A service does it by itself: seconds after a change, daily at the latest. Without one, what is queued in the project
    is done too; 'vesica node sync' does that alone.
    """
    project = ctx.project()
    with output.progress(ctx) as report:
        if not no_wait:
            synced = project.sync(report)
            if not ctx.json:
                letters.out_of_reach(synced)  # before runs are tried there, which takes a while
        runs = project.feeds.sync(name, report, wait=not no_wait)
        if not no_wait:
            project.sync(report)
    runs = [remedies.of_row(run) for run in runs]

    def text() -> None:
        if no_wait:
            feed_tables.queued(runs)
            return
        columns = ("feed", "partner", "status", "version", "revision", "sent", "without_consent")
        rows = ([run.get(column) for column in columns] for run in runs)
        names = ("feed", "partner", "status", "version", "revision", "sent", "without consent")
        empty = f"no partner has enabled feed {name}" if name else "no feed of ours is enabled by a partner"
        output.table(names, rows, empty=empty)
        if runs:
            output.say("Sent and without consent are identities, of which a person may have several.")
        feed_tables.failures({(f"{run['feed']} to", run["partner"]): run for run in runs if run["status"] == "failed"})

    output.emit(ctx, {"runs": runs}, text)
    if any(run["status"] == "failed" for run in runs):
        click.get_current_context().exit(1)


@cli.command()
@NAME
@click.option("--partner", metavar="NAME", help="Only this partner, or whose feed it is.")
@click.pass_obj
def reconcile(ctx: "Context", name: str, partner: str | None) -> None:
    """Show where the people of a feed went: every identity of its segments, or of ours if it was received, is explained.

    Only the receiver learns what matched.

    \b
    Example: vesica feed reconcile summer
    """
    document = ctx.project().reports.reconcile(name, partner)
    letters.emit(ctx, document, lambda: feed_tables.reconciled(document))


@cli.command()
@NAME
@click.option("--segment", metavar="NAME", help="Take this segment from all partners.")
@click.option("--partner", metavar="NAME", help="Take the feed from this partner.")
@REASON
@options.YES
@click.pass_obj
def unshare(ctx: "Context", name: str, segment: str | None, partner: str | None, reason: str, yes: bool) -> None:
    """Take a segment from all partners, or the whole feed from one; they purge it and sign that they did.

    \b
    Example: vesica feed unshare summer --segment vip
    """
    if (segment is None) == (partner is None):
        raise click.UsageError("name what to unshare: --segment NAME or --partner NAME")
    if segment and reason:
        raise click.UsageError("a reason is for one partner: it goes with --partner")
    what = f"segment {segment} from all partners of feed {name}" if segment else f"feed {name} from {partner}"
    output.confirm(ctx, f"Take {what}? It is purged there.", yes=yes)
    with sent_by_us(ctx, name):
        ctx.project().feeds.unshare(name, segment=segment, partner=partner, reason=reason)
    say(ctx, name, f"without {segment or partner}")


@cli.command()
@NAME
@REASON
@options.YES
@click.pass_obj
def revoke(ctx: "Context", name: str, reason: str, yes: bool) -> None:
    """End a feed for good; every partner purges it and signs that it did. A new feed may have its name."""
    output.confirm(ctx, f"End feed {name} for good? Partners purge what it gave them.", yes=yes)
    with sent_by_us(ctx, name):
        ctx.project().feeds.revoke(name, reason)
    say(ctx, name, "revoked")


@cli.command()
@NAME
@PARTNER
@options.YES
@click.pass_obj
def delete(ctx: "Context", name: str, partner: str | None, yes: bool) -> None:
    """Take a feed that is over out of the lists; what was signed about it stays in the audit log.

    One of ours is a draft, or was revoked, declined or taken from all its partners, and they have signed that they purged
    it; who has disconnected is waited for a week. One of a partner's was revoked or declined, and the partner knows.

    
    Example: vesica feed delete summer
    """
    project, ours = ctx.project(), _is_ours(ctx, name, partner)
    output.confirm(ctx, f"Delete feed {name}? It cannot be brought back.", yes=yes)
    if ours:
        project.feeds.delete(name)
    else:
        project.received.delete(name, partner)
    say(ctx, name, "deleted")


def _is_ours(ctx: "Context", name: str, partner: str | None) -> bool:
    """Return whether a name is that of a feed of ours; with a partner it is that of one of the partner's."""
    return partner is None and any(feed["name"] == name for feed in ctx.project().feeds.all())


def _estimated(project: "Project", name: str) -> bool:
    """Return whether a feed has an estimate; one that is not there is refused by the estimate itself."""
    from node.errors import NotFound

    try:
        return bool(project.feeds.estimates(name))
    except NotFound:
        return True


def _sent(ctx: "Context", name: str) -> dict[str, Any]:
    """Return one of our feeds, its steps with the commands that complete them."""
    document = ctx.project().feeds.show(name)
    return {**document, "steps": [remedies.with_command(step) for step in document["steps"]]}
