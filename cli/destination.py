"""The commands `vesica destination`: where segments go, all the time."""

from typing import TYPE_CHECKING, Any

import click

from . import destination_reports, inputs, options, output, remedies
from .destination_reports import NAME

if TYPE_CHECKING:
    from .main import Context

SEGMENTS = click.option(
    "--segment", "segments", multiple=True, required=True, metavar="NAME", help="A segment of yours."
)
SECRET = click.option(
    "--secret",
    metavar="FILE",
    help='A file with the secret, password, key or configuration, or with SOLUTION=TOKEN a line; "-" is standard input.',
)
_STATUSES = {"deleting": "being deleted", "mixed": "not the same in all solutions"}
BRAKE = "A run that would remove more than N per cent of a segment, and more than 1,000, waits for 'sync --yes'."
LEAVE = click.option("--leave", is_flag=True, help="Let the members stay at the target.")


@click.group()
def cli() -> None:
    """Send segments to other products: all members first, then what changes.

    Who has not agreed to be shared, or is left out by a consent policy, never leaves; who withdraws is removed there.
    """


for each in (
    destination_reports.show,
    destination_reports.preview,
    destination_reports.runs,
    destination_reports.errors,
    destination_reports.dead,
    destination_reports.alerts,
):
    cli.add_command(each)


@cli.command()
@click.pass_obj
def kinds(ctx: "Context") -> None:
    """List the kinds of destinations, with their settings."""
    from node.destinations.destinations import Destinations

    found = Destinations.kinds()

    def show() -> None:
        rows = []
        for each in found:
            if not each["settings"]:
                rows.append([each["kind"], None, each["text"]])
            for place, setting in enumerate(each["settings"]):
                word = setting["name"] + ("" if setting["needed"] else " (optional)")
                rows.append([each["kind"] if place == 0 else "", word, setting["text"]])
        output.table(("kind", "setting", "is"), rows)

    output.emit(ctx, found, show)


@cli.command()
@click.argument("name", help="What to call it, such as crm.")
@click.option("--kind", required=True, metavar="KIND", help="What it is; 'vesica destination kinds' lists them.")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...", help="The settings of its kind.")
@click.option(
    "--identity",
    default="id",
    show_default=True,
    metavar="N",
    help=f"Your own ids, or a namespace {options.NAMESPACES}.",
)
@options.USES
@click.option("--description", default="", metavar="TEXT", help="What it is, in words.")
@SECRET
@click.option("--brake", default=50, show_default=True, metavar="N", help=BRAKE)
@click.pass_obj
def create(
    ctx: "Context",
    name: str,
    kind: str,
    settings: tuple[str, ...],
    *,
    identity: str,
    uses: tuple[str, ...],
    description: str,
    secret: str | None,
    brake: int,
) -> None:
    """Add a destination; nothing is sent before a segment is activated.

    A webhook whose secret is not given gets a new one, which is printed once, for the receiver. An experience-cloud
    destination needs no settings; each solution that is named has a token in the secret, or all have one.

    Every kind takes group=status, for messages that have additions or removals alone, and either max_users_per_request=N
    or age=SECONDS (301 to 3600) with size=N (changes, 1000 to 10000): then changes wait until N do, or the first has waited
    so long.

    A destination is checked at once, as 'check' does, unless its receiver needs the new secret first.

    \b
    Example: vesica destination create crm --kind webhook url=https://crm.example.com/vesica --use analytics
    """
    pairs = dict(_pair(each) for each in settings)
    given = None if secret is None else inputs.secret(secret)
    created = ctx.project().destinations.create(
        name, kind, pairs, identity=identity, uses=uses, description=description, secret=given, brake=brake
    )
    is_ready = created.secret is None and created.destination.get("solutions") != []
    checked = ctx.project().destinations.check(name) if is_ready else None
    document = {**created.destination, "secret": created.secret, "check": checked}

    def show() -> None:
        output.echo(f"destination {name} is there")
        again = remedies.command("destination.check", name=name)
        if created.secret is not None:
            output.echo(f"its secret, shown once: {created.secret}")
            output.say(f"Once its receiver knows the secret: {again}")
        elif checked is None:
            output.say(f"Give it solutions: {remedies.command('destination.connect', name=name)}")
        else:
            _say_checked(name, checked)
            if not checked["arrived"]:
                output.say(f"Mend that, then: {again}")

    output.emit(ctx, document, show)


@cli.command()
@NAME
@click.argument("settings", nargs=-1, required=True, metavar="SOLUTION=URL...", help="Solutions with their addresses.")
@click.option("--secret", metavar="FILE", help='A file with SOLUTION=TOKEN a line, or "-" for standard input.')
@click.pass_obj
def connect(ctx: "Context", name: str, settings: tuple[str, ...], secret: str | None) -> None:
    """Add solutions to an experience-cloud destination; activate segments again to send them there too.

    Each solution is a destination of its own by the name NAME.SOLUTION, to pause, look at or delete alone.

    \b
    Example: vesica destination connect cloud target=https://in.example.com/target --secret tokens.txt
    """
    tokens = None if secret is None else inputs.secret(secret)  # none for this project's own audience-manager=here
    found = ctx.project().destinations.connect(name, dict(_pair(each) for each in settings), tokens)
    names = [each["name"] for each in found["solutions"]]
    output.emit(ctx, found, lambda: output.echo(f"{name} has {', '.join(names)}"))


@cli.command()
@NAME
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...", help="Settings; KEY= takes one away.")
@click.option("--description", metavar="TEXT", help="What it is, in words.")
@click.option("--brake", type=int, metavar="N", help=BRAKE)
@click.pass_obj
def edit(ctx: "Context", name: str, settings: tuple[str, ...], description: str | None, brake: int | None) -> None:
    """Change a destination.

    Of the settings those can change that do not say where the target is, nor what it calls things: authorities,
    template, required, format, access_key_id, age, size, max_users_per_request, group. Without any, nothing is changed.

    \b
    Example: vesica destination edit crm authorities=ca.pem --brake 80
    """
    pairs = dict(_pair(each) for each in settings)
    if not pairs and description is None and brake is None:
        raise click.UsageError("nothing is changed: give KEY=VALUE, --description or --brake.")
    changed = ctx.project().destinations.edit(name, pairs, description=description, brake=brake)
    output.emit(ctx, changed, lambda: output.echo(f"changed destination {name}"))


@cli.command()
@NAME
@click.option("--secret", metavar="FILE", help='A file with the new secret, or "-" for standard input.')
@click.pass_obj
def rotate(ctx: "Context", name: str, secret: str | None) -> None:
    """Give a destination another secret; without --secret a webhook gets a new one, which is printed once.

    A webhook is signed with both for 24 hours, so that its receiver can change in between.

    \b
    Example: vesica destination rotate crm
    """
    made = ctx.project().destinations.rotate(name, None if secret is None else inputs.secret(secret))

    def show() -> None:
        output.echo(f"destination {name} has another secret")
        if made is not None:
            output.echo(f"it is shown once: {made}")

    output.emit(ctx, {"name": name, "secret": made}, show)


@cli.command()
@NAME
@click.pass_context
def check(click_ctx: click.Context, name: str) -> None:
    """Send a destination what has no change in it, and say what is wrong; exit code 1 if something is."""
    ctx: Context = click_ctx.obj
    found = ctx.project().destinations.check(name)

    output.emit(ctx, {"name": name, **found}, lambda: _say_checked(name, found))
    click_ctx.exit(0 if found["arrived"] else 1)


@cli.command()
@NAME
@SEGMENTS
@click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="FIELD=ATTRIBUTE",
    help="A field of the target, such as person.name.firstName, and the column that goes there.",
)
@click.option("--audience-id", metavar="ID", help="What the target calls the segment, where it has to be told.")
@click.pass_obj
def activate(
    ctx: "Context", name: str, segments: tuple[str, ...], mapping: tuple[str, ...], audience_id: str | None
) -> None:
    """Send segments from now on: all members at once, then who comes, who leaves, and whose mapped attributes change.

    An attribute is a column, or DATASET.COLUMN where several datasets have it; labels on it count too.

    Refused where a label or a partner whose segment it reads forbids one of the destination's uses; where that comes
    later, the members are removed there. A running service sends by itself; else 'vesica destination sync' does.

    \b
    Example: vesica destination activate crm --segment summer-buyers --map city=crm.city
    """
    pairs = dict(_pair(each, "mapping", "FIELD=ATTRIBUTE") for each in mapping)
    if len(pairs) < len(mapping):
        raise click.UsageError("--map names a field twice.")
    with output.progress(ctx) as progress:
        found = ctx.project().destinations.activate(name, segments, progress, mapping=pairs, audience_id=audience_id)
        _sent(ctx, found)


@cli.command()
@NAME
@SEGMENTS
@LEAVE
@options.YES
@click.pass_obj
def deactivate(ctx: "Context", name: str, segments: tuple[str, ...], leave: bool, yes: bool) -> None:
    """Send segments no more, and remove their members at the target."""
    if leave:
        output.confirm(ctx, f"The members stay at {name}, and nobody removes them. Go on?", yes=yes)
    with output.progress(ctx) as progress:
        _sent(ctx, ctx.project().destinations.deactivate(name, segments, leave=leave, progress=progress))


@cli.command()
@NAME
@click.pass_obj
def pause(ctx: "Context", name: str) -> None:
    """Send nothing for now, withdrawals and erasures neither; what changes meanwhile is sent with 'resume'.

    Erased people stay at its target until then, as 'show' says; the removals of a segment that is deactivated leave at once.
    """
    ctx.project().destinations.pause(name)
    output.emit(ctx, {"name": name, "status": "paused"}, lambda: output.echo(f"{name} is paused"))


@cli.command()
@NAME
@click.pass_obj
def resume(ctx: "Context", name: str) -> None:
    """Go on with a destination that is paused, or that its target disabled."""
    with output.progress(ctx) as progress:
        _sent(ctx, ctx.project().destinations.resume(name, progress))


@cli.command()
@NAME
@click.pass_obj
def replay(ctx: "Context", name: str) -> None:
    """Say again what failed, as it holds now."""
    with output.progress(ctx) as progress:
        _sent(ctx, ctx.project().destinations.replay(name, progress))


@cli.command()
@click.argument(
    "name", nargs=-1, required=True, metavar="NAME...", help="Destinations; 'vesica destination list' shows them."
)
@click.option("--yes", is_flag=True, help="Also what the brake holds: removals of most of a segment at once.")
@click.pass_obj
def sync(ctx: "Context", name: tuple[str, ...], yes: bool) -> None:
    """Send what is due now; a running service does it by itself. With --json several destinations give a list.

    A run that would remove more than half of a segment, and more than 1,000, waits for --yes; see 'vesica destination show'.
    Who withdraws, is erased or may not be sent by a label is removed all the same.
    """
    with output.progress(ctx) as progress:
        done = [ctx.project().destinations.sync(each, progress, yes=yes) for each in dict.fromkeys(name)]

        def show() -> None:
            for each in done:
                _say_sent(each)

        output.emit(ctx, done[0] if len(done) == 1 else done, show)


@cli.command()
@NAME
@LEAVE
@options.YES
@click.pass_obj
def delete(ctx: "Context", name: str, leave: bool, yes: bool) -> None:
    """Take a destination away, once all its members are removed at the target."""
    what = "the members stay there" if leave else "all its members are removed there first"
    output.confirm(ctx, f"Delete destination {name}? {what[0].upper()}{what[1:]}.", yes=yes)
    with output.progress(ctx) as progress:
        _sent(ctx, ctx.project().destinations.delete(name, leave=leave, progress=progress), deleting=True)


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the destinations."""
    rows = ctx.project().destinations.all()
    names = ("name", "kind", "status", "gets", "present", "waiting", "failed")
    cells = ([_cell(row, name) for name in names] for row in rows)
    output.emit(ctx, rows, lambda: output.table(names, cells, empty="no destinations"))


def _sent(ctx: "Context", done: dict[str, Any], *, deleting: bool = False) -> None:
    output.emit(ctx, done, lambda: _say_sent(done, deleting=deleting))


def _say_sent(done: dict[str, Any], *, deleting: bool = False) -> None:
    name, waiting, failed, held = done["name"], done["waiting"], done["failed"], done["held"]
    parts = ["1 message arrived" if done["sent"] == 1 else f"{done['sent']:,} messages arrived"]
    if waiting:
        parts.append("1 change waits" if waiting == 1 else f"{waiting:,} changes wait")
    if failed:
        parts.append("1 change failed" if failed == 1 else f"{failed:,} changes failed")
    output.echo(f"{name}: {', '.join(parts)}; it is {_STATUSES.get(done['status'], done['status'])}")
    disabled = done["status"] == "disabled"
    if failed or done["next_attempt"] or disabled:
        again = f"; the next attempt is at {output.time(done['next_attempt'])}" if done["next_attempt"] else ""
        output.say(f"Why: {remedies.command('destination.errors', name=name)}{again}")
    if held:
        yes = remedies.command("destination.sync", name=name, yes=True)
        removals = "1 removal" if held == 1 else f"{held:,} removals"
        output.say(f"The brake holds {removals}. If they are meant: {yes}")
    if disabled:
        output.say(f"Mend that, then: {remedies.command('destination.resume', name=name)}")
    if deleting and (failed or disabled):
        leave = remedies.command("destination.delete", name=name, leave=True)
        output.say(f"The target may have members still. To give them up: {leave}")


def _say_checked(name: str, found: dict[str, Any]) -> None:
    for each in found.get("solutions", [{"name": name, **found}]):
        takes = "takes messages" if each["arrived"] else f"takes none: {each['reason']} ({each['code']})"
        output.say(f"{each['name']} {takes}")


def _cell(row: dict[str, Any], name: str) -> Any:
    return f"{row['kind']}, the older sharing" if name == "kind" and row["of_all"] else row[name]


def _pair(text: str, noun: str = "setting", form: str = "KEY=VALUE") -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        raise click.UsageError(f"{text!r} is no {noun}: it reads {form}.")
    return name, value
