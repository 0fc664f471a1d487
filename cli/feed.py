from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from . import options, output

if TYPE_CHECKING:
    from .main import Context

PARTNER = click.option("--partner", metavar="NAME", help="Whose feed, where two partners offer one of that name.")
NO_WAIT = click.option("--no-wait", is_flag=True, help="Only queue the work and print the ids of its jobs.")
REASON = click.option("--reason", default="", metavar="TEXT", help="What the other side is told.")

NAME = click.argument("name", help="The feed; 'vesica feed list' shows them.")


@click.group()
def cli() -> None:
    """Share segments with partners, and take theirs."""


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
    ctx.node().exchange_letters()
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
    output.emit(ctx, ctx.project().feeds.show(name), lambda: click.echo(f"drafted feed {name}"))


@cli.command()
@NAME
@click.option("--partner", metavar="NAME", help="Ask only this partner.")
@click.option(
    "--namespace", "namespaces", multiple=True, metavar="NAME", help="Ask only about this namespace of the feed."
)
@NO_WAIT
@click.pass_obj
def estimate(ctx: "Context", name: str, partner: str | None, namespaces: tuple[str, ...], no_wait: bool) -> None:
    """Ask the feed's partners how many people both know, before anything is shared.

    Each answer spends some of the budget that the partner grants, and says how much is left; the same question again is
    free.

    \b
    Example: vesica feed estimate summer --partner acme
    """
    ctx.node().exchange_letters()
    with output.progress(ctx) as report:
        rows = ctx.project().feeds.estimate(name, partner, report, namespaces=namespaces, wait=not no_wait)

    def text() -> None:
        if no_wait:
            _queued(rows)
            return
        _estimates(rows)
        _budgets(rows)
        _errors({(row["partner"], row["namespace"]): row for row in rows if row["status"] == "failed"})

    output.emit(ctx, rows, text)
    if any(row["status"] == "failed" for row in rows):
        click.get_current_context().exit(1)


@cli.command()
@NAME
@click.pass_obj
def publish(ctx: "Context", name: str) -> None:
    """Offer a feed to its partners."""
    ctx.node().exchange_letters()
    ctx.project().feeds.publish(name)
    output.emit(ctx, ctx.project().feeds.show(name), lambda: click.echo(f"published feed {name}"))


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the feeds that we share, and those that partners share with us."""
    ctx.node().exchange_letters()
    project = ctx.project()
    document = {"shared": project.feeds.list(), "received": project.received.list()}

    def text() -> None:
        click.echo("Shared")
        output.table(
            ("feed", "status", "version", "segments", "partners"),
            (_shared(row) for row in document["shared"]),
            empty="no feeds are shared",
        )
        click.echo("\nReceived")
        names = ("partner", "feed", "status", "version", "offered", "members")
        output.table(names, (_received(row) for row in document["received"]), empty="no feeds were offered")

    output.emit(ctx, document, text)


@cli.command()
@NAME
@PARTNER
@click.pass_obj
def show(ctx: "Context", name: str, partner: str | None) -> None:
    """Show a feed, ours or received: its definition and hash, states, estimates and runs."""
    ctx.node().exchange_letters()
    project = ctx.project()
    ours = partner is None and any(feed["name"] == name for feed in project.feeds.list())
    document = project.feeds.show(name) if ours else project.received.show(name, partner)
    output.emit(ctx, document, lambda: _show(document))


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
    ctx.node().exchange_letters()
    if taken := ", ".join((*remove_segment, *remove_namespace)):
        output.confirm(ctx, f"Take {taken} out of feed {name}? It is purged at its partners.", yes=yes)
    feeds = ctx.project().feeds
    version = feeds.edit(
        name,
        Removal(segments=remove_segment, namespaces=remove_namespace, restricted_uses=remove_restriction),
        addition=Addition(
            segments=add_segment, namespaces=add_namespace, restricted_uses=add_restriction, partners=add_partner
        ),
        description=description,
    )
    document = feeds.show(name)

    def text() -> None:
        click.echo(f"feed {name} is at version {version}")
        for row in document["partners"]:
            if row["offered_version"]:
                click.echo(f"{row['alias']}: version {row['offered_version']} waits for the partner to enable it")
            if row["waits_for_estimate"]:
                click.echo(f"{row['alias']}: {_asking(name, row['waits_for_estimate'])}")
            if row["status"] == "draft" and document["status"] == "published":
                click.echo(f"{row['alias']}: not offered yet: vesica feed publish {name}")

    output.emit(ctx, document, text)


@cli.command()
@NAME
@PARTNER
@click.pass_obj
def enable(ctx: "Context", name: str, partner: str | None) -> None:
    """Take a feed that a partner offers, or what a new version of it adds, or go on with a paused one."""
    ctx.node().exchange_letters()
    received = ctx.project().received
    received.enable(name, partner)
    shown = received.show(name, partner)

    def text() -> None:
        click.echo(f"feed {name} is enabled, version {shown['accepted_version']}")
        if shown["offered"]:
            click.echo(f"version {shown['offered_version']} is offered: vesica feed show {name}")

    versions = {each: shown[each] for each in ("accepted_version", "offered_version", "hash")}
    output.emit(ctx, {"feed": name, "status": "enabled", **versions}, text)


@cli.command()
@NAME
@PARTNER
@REASON
@click.pass_obj
def disable(ctx: "Context", name: str, partner: str | None, reason: str) -> None:
    """Pause a received feed; what came stays, the next runs are not taken."""
    ctx.node().exchange_letters()
    ctx.project().received.disable(name, partner, reason)
    _say(ctx, name, "disabled")


@cli.command()
@NAME
@PARTNER
@REASON
@click.option("--addition", is_flag=True, help="Only what the new version would add; the accepted one goes on.")
@options.YES
@click.pass_obj
def decline(ctx: "Context", name: str, partner: str | None, reason: str, addition: bool, yes: bool) -> None:
    """Turn a received feed down; what it gave is purged."""
    ctx.node().exchange_letters()
    received = ctx.project().received
    question = f"Decline what feed {name} would add?" if addition else f"Decline feed {name}? What it gave is purged."
    output.confirm(ctx, question, yes=yes)
    if addition:
        version = received.decline_version(name, partner, reason)
        shown = received.show(name, partner)
        text = f"version {version} of feed {name} is declined, version {shown['accepted_version']} goes on"
        versions = {"declined_version": version, "accepted_version": shown["accepted_version"]}
        output.emit(ctx, {"feed": name, "status": shown["status"], **versions}, lambda: click.echo(text))
    else:
        received.decline(name, partner, reason)
        _say(ctx, name, "declined")


@cli.command()
@click.argument("name", required=False, help="One feed; all unless given.")
@NO_WAIT
@click.pass_obj
def sync(ctx: "Context", name: str | None, no_wait: bool) -> None:
    """Exchange letters with partners, and bring our published feeds to those who enabled them.

    A service does it by itself: seconds after a change, daily at the latest.
    """
    with output.progress(ctx) as report:
        ctx.node().exchange_letters(report)
        runs = ctx.project().feeds.sync(name, report, wait=not no_wait)
        if not no_wait:
            ctx.node().exchange_letters(report)

    def text() -> None:
        if no_wait:
            _queued(runs)
            return
        columns = ("feed", "partner", "status", "version", "revision", "sent", "without_consent")
        rows = ([run.get(column) for column in columns] for run in runs)
        names = ("feed", "partner", "status", "version", "revision", "sent", "without consent")
        output.table(names, rows, empty="no feed of ours is enabled by a partner")
        _errors({(f"{run['feed']} to", run["partner"]): run for run in runs if run["status"] == "failed"})

    output.emit(ctx, {"runs": runs}, text)
    if any(run["status"] == "failed" for run in runs):
        click.get_current_context().exit(1)


@cli.command()
@NAME
@click.option("--partner", metavar="NAME", help="Only this partner, or whose feed it is.")
@click.pass_obj
def reconcile(ctx: "Context", name: str, partner: str | None) -> None:
    """Show where the people of a feed went: every identity of its segments, or of ours if it was received, is explained.

    What matched is told to the receiver alone.

    \b
    Example: vesica feed reconcile summer
    """
    ctx.node().exchange_letters()
    document = ctx.project().feeds.reconcile(name, partner)
    output.emit(ctx, document, lambda: _reconciled(document))


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
        raise click.UsageError("a reason is told to one partner: it goes with --partner")
    ctx.node().exchange_letters()
    what = f"segment {segment} from all partners of feed {name}" if segment else f"feed {name} from {partner}"
    output.confirm(ctx, f"Take {what}? It is purged there.", yes=yes)
    ctx.project().feeds.unshare(name, segment=segment, partner=partner, reason=reason)
    _say(ctx, name, f"without {segment or partner}")


@cli.command()
@NAME
@REASON
@options.YES
@click.pass_obj
def revoke(ctx: "Context", name: str, reason: str, yes: bool) -> None:
    """End a feed for good; every partner purges it and signs that it did."""
    ctx.node().exchange_letters()
    output.confirm(ctx, f"End feed {name} for good? Partners purge what it gave them.", yes=yes)
    ctx.project().feeds.revoke(name, reason)
    _say(ctx, name, "revoked")


def _errors(failed: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Print what kept each of several tasks from its end."""
    for task, row in failed.items():
        said = f"{' '.join(task)}: {row['error']['message']}\nhint: {row['error']['hint']}"
        click.echo(output.printable(said), err=True)


def _queued(rows: list[dict[str, Any]]) -> None:
    output.table(("job", "partner"), ([row["job"], row["partner"]] for row in rows), empty="nothing to do")
    if rows:
        click.echo("The service does it, or the next command that talks with partners: 'vesica job show ID' tells.")


def _say(ctx: "Context", name: str, status: str) -> None:
    output.emit(ctx, {"feed": name, "status": status}, lambda: click.echo(f"feed {name} is {status}"))


def _shared(row: dict[str, Any]) -> list[Any]:
    waits = {name: f", version {version} pending" for name, version in row["offered"].items() if version}
    partners = [f"{name}: {status}{waits.get(name, '')}" for name, status in row["partners"].items()]
    return [row["name"], row["status"], row["version"], row["segments"], partners]


def _received(row: dict[str, Any]) -> list[Any]:
    members = [f"{name}: {size:,}" for name, size in row["segments"].items()]
    return [row["partner"], row["name"], row["status"], row["accepted_version"], row["offered_version"], members]


def _estimates(rows: list[dict[str, Any]]) -> None:
    columns = ("partner", "segment", "namespace", "in common", "with consent", "computed")
    output.table(
        columns,
        (
            [
                row["partner"],
                row["segment"],
                row["namespace"],
                _number(row["overlap"], row["interval"], row["status"]),
                _number(row["consented"], row["consented_interval"], row["status"]),
                output.time(row["computed_at"]),
            ]
            for row in rows
        ),
        empty="no estimate was made yet",
    )
    if rows:
        found = [each for row in rows for each in (row["interval"], row["consented_interval"]) if each]
        ranges = " Ranges hold the truth in 95 of 100 cases." if any(low != high for low, high in found) else ""
        click.echo(f"A person who matches in two namespaces counts once in each.{ranges}")


def _budgets(rows: list[dict[str, Any]]) -> None:
    for partner, budget in {row["partner"]: row["budget"] for row in rows if row["budget"]}.items():
        back = f"what is spent comes back after {budget['window_days']} days"
        click.echo(f"Budget left with {partner}: {output.budget(budget)} ({back}).")


def _number(value: int | None, interval: list[int] | None, status: str) -> str:
    if value is None or interval is None:
        return output.words(status)
    return f"{value:,} ({interval[0]:,} to {interval[1]:,})" if interval[0] != interval[1] else f"{value:,}"


def _show(document: dict[str, Any]) -> None:
    until = "" if document["valid_until"] is None else f", at the latest {output.time(document['valid_until'])}"
    lines = [
        ("feed", document["name"]),
        ("status", document["status"]),
        ("version", document["version"]),
        ("version hash", document["hash"]),
        ("description", document["description"] or None),
        ("segments", [_labelled(each) for each in document["segments"]]),
        ("namespaces", document["namespaces"]),
        ("restricted uses", document["restricted_uses"]),
        ("members leave", f"{document['membership_days']} days after a run{until}"),
    ]
    if "partner" in document:
        output.lines([*lines, *_receiving(document)])
        if document["offered"]:
            _offered(document["name"], document["offered"])
        if document["status"] == "pending":
            click.echo(f"\nIt waits for an answer: vesica feed enable {document['name']}, or")
            click.echo(f"vesica feed decline {document['name']}")
    else:
        output.lines(lines)
        if document["status"] == "draft":
            click.echo()
            steps = [
                (each["name"], each["complete"], None if each["complete"] else each["command"])
                for each in document["steps"]
            ]
            output.table(("step", "done", "command"), steps)
        for row in document["partners"]:
            click.echo()
            output.lines(_sending(document, row))
            if row["waits_for_estimate"]:
                click.echo(f"{row['alias']}: {_asking(document['name'], row['waits_for_estimate'])}")
        if document["partners"]:
            click.echo()
            _estimates(document["estimates"])
    if document["runs"]:
        click.echo()
        _runs(document["runs"])


def _receiving(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return what is to be said of a feed that we get; what there is not yet is left out."""
    lines = [
        ("from", document["partner"]),
        ("reason", document["reason"] or None),
        *(("members", _members(name, size, document)) for name, size in document["members"].items()),
        ("members until", output.time(document["members_until"])),
        ("last run", _last_run(document["last_run"])),
        ("last receipt", document["last_receipt"]),
    ]
    return [(name, value) for name, value in lines if value is not None]


def _sending(document: dict[str, Any], row: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return what is to be said of one partner of a feed of ours; what there is not yet is left out."""
    accepted = row["accepted_version"] and f"{row['accepted_version']}, hash {row['accepted_hash']}"
    lines = [
        ("partner", row["alias"]),
        ("status", row["status"]),
        ("reason", row["reason"] or None),
        ("budget left", row["budget"] and output.budget(row["budget"])),
        ("accepted version", accepted),
        ("lacks", [f"{output.words(noun)} {name}" for noun, name in _lacks(row)] or None),
        ("offered version", row["offered_version"]),
        ("declined", _declined(row)),
        ("to offer it", _offering(document, row)),
        ("last revision", row["last_revision"] or None),
        ("last run", _last_run(row["last_run"])),
        ("last receipt", row["last_receipt"]),
        ("failure", row["failure"]),
        ("next attempt", output.time(row["next_attempt"])),
        *(("purged", _purged(each)) for each in row["purges"]),
    ]
    return [(name, value) for name, value in lines if value is not None]


def _lacks(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the newest version would bring a partner: a noun and a name each."""
    return [
        (noun.removesuffix("s"), each["name"] if noun == "segments" else each)
        for noun, names in row["lacks"].items()
        for each in names
    ]


def _declined(row: dict[str, Any]) -> str | None:
    if row["declined_version"] is None:
        return None
    return f"version {row['declined_version']} declined, version {row['accepted_version']} goes on"


def _offering(document: dict[str, Any], row: dict[str, Any]) -> str | None:
    """Return the commands that offer a partner the newest version where nothing else waits."""
    if not _lacks(row) or row["offered_version"] or row["waits_for_estimate"]:
        return None
    publish = f"vesica feed publish {document['name']}"
    if row["declined_version"] != document["version"]:
        return publish
    return f"vesica feed edit {document['name']} --description TEXT, then {publish}"


def _purged(statement: dict[str, Any]) -> str:
    what = "the whole feed" if statement["version"] is None else f"version {statement['version']}"
    return f"{what}, revision {statement['revision']}, signed {output.time(statement['made'])}"


def _runs(runs: list[dict[str, Any]]) -> None:
    names = ["revision", "version", "state", "at", "data changed", "latency"]
    rows = [
        [
            run["revision"],
            run["version"],
            run["state"],
            output.time(run["at"]),
            output.time(run.get("changed_at")),
            None if run["latency"] is None else output.span(run["latency"]),
        ]
        for run in runs
    ]
    if "partner" in runs[0]:  # of a feed of ours
        names, rows = ["partner", *names], [[run["partner"], *row] for run, row in zip(runs, rows, strict=True)]
    output.table(names, rows)


def _last_run(run: dict[str, Any] | None) -> str | None:
    """Say how old the last run is, when what it brought had changed, and how long that took."""
    if run is None:
        return None
    age = f"{output.span(run['age'])} ago"
    if run["changed_at"] is None:
        return age
    return f"{age}; data of {output.time(run['changed_at'])} came after {output.span(run['latency'])}"


def _reconciled(document: dict[str, Any]) -> None:
    if document.get("partners") == []:
        click.echo("the feed goes to no partner")
    for each in document.get("partners", [document]):
        click.echo(
            f"{each['partner']}: {each['status']}, version {each['version']}, revision {each['revision'] or '-'}"
        )
        if each.get("forbidden"):
            click.echo(f"nothing may be sent: {each['forbidden']}")
        if not each.get("open", True):
            click.echo(
                "the records of the last run cannot be opened any more, or none came: the next run shows what matches"
            )
        columns = ["namespace", *each["total"]]
        rows = [[row[column] for column in columns] for row in each["namespaces"]]
        total = ["all", *each["total"].values()]
        output.table([output.words(column) for column in columns], [*rows, total])
        if "profiles" in each:
            click.echo(f"{each['profiles']:,} profiles are in a segment of it")
        click.echo()


def _asking(name: str, namespaces: list[str]) -> str:
    command = " --namespace ".join([f"vesica feed estimate {name}", *namespaces])
    return f"the newest version waits for an estimate of what it adds: {command}"


def _offered(name: str, offered: dict[str, Any]) -> None:
    """Print what a version that waits for our word would change."""
    click.echo(f"\nVersion {offered['version']} waits for an answer: vesica feed enable {name}, or")
    click.echo(f"vesica feed decline {name} --addition")
    lines = [("version hash", offered["hash"]), ("description", offered["description"] or None)]
    for which, word in (("adds", "adds"), ("takes_out", "takes out")):
        changes = {**offered[which], "segments": [_labelled(each) for each in offered[which]["segments"]]}
        lines += [(f"{word} {output.words(noun)}", names) for noun, names in changes.items() if names]
    for row in offered["estimates"]:
        numbers = [_answered(each) for each in row["segments"]] or [row["status"]]
        lines.append((f"in common, {row['namespace']}", [*numbers, output.time(row["computed_at"])]))
    output.lines(lines)
    if offered["estimates"]:
        click.echo(
            "Numbers are those that we last answered this partner; which segment is which its question did not say."
        )


def _answered(row: dict[str, Any]) -> str:
    if row["overlap"] is None:
        return output.words(row["status"])
    return f"{row['overlap']:,} ± {row['half_width']:,} ({row['consented']:,} with consent)"


def _members(segment: str, size: int, document: dict[str, Any]) -> str:
    from node.feeds.receiving.expiry import EXITED_DAYS

    found = document["statuses"][segment]
    return f"{segment}: {size:,}; new {found['realized']:,}; left in {EXITED_DAYS} days {found['exited']:,}"


def _labelled(segment: dict[str, Any]) -> str:
    return f"{segment['name']} ({', '.join(segment['labels'])})" if segment["labels"] else str(segment["name"])
