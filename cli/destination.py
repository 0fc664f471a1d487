"""The commands `vesica destination`: where segments go, all the time."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options, output

if TYPE_CHECKING:
    from .main import Context

NAME = click.argument("name", help="The destination; 'vesica destination list' shows them.")
SEGMENTS = click.option(
    "--segment", "segments", multiple=True, required=True, metavar="NAME", help="A segment of yours."
)
LEAVE = click.option("--leave", is_flag=True, help="Let the members stay at the target.")


@click.group()
def cli() -> None:
    """Send segments to other products: all members first, then what changes.

    Who has not agreed to be shared, or is left out by a consent policy, never leaves; who withdraws is removed there.
    """


@cli.command()
@click.pass_obj
def kinds(ctx: "Context") -> None:
    """List the kinds of destinations, with their settings."""
    from node.destinations.destinations import Destinations

    found = Destinations.kinds()

    def show() -> None:
        rows = []
        for each in found:
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
@click.option(
    "--use",
    "uses",
    multiple=True,
    metavar="USE",
    help=f"What it is for: {options.FILE_USES}; all of them unless given.",
)
@click.option("--description", default="", metavar="TEXT", help="What it is, in words.")
@click.option("--secret", metavar="FILE", help='A file with the secret of both ends, or "-" for standard input.')
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
) -> None:
    """Add a destination; nothing is sent before a segment is activated.

    A webhook whose secret is not given gets a new one, which is printed once, for the receiver.

    \b
    Example: vesica destination create crm --kind webhook url=https://crm.example.com/vesica --use analytics
    """
    pairs = dict(_pair(each) for each in settings)
    given = None if secret is None else _read(secret)
    created = ctx.project().destinations.create(
        name, kind, pairs, identity=identity, uses=uses, description=description, secret=given
    )
    document = {**created.destination, "secret": created.secret}

    def show() -> None:
        output.echo(f"destination {name} is there")
        if created.secret is not None:
            output.echo(f"its secret, shown once: {created.secret}")

    output.emit(ctx, document, show)


@cli.command()
@NAME
@click.pass_context
def check(click_ctx: click.Context, name: str) -> None:
    """Send a destination what has no change in it, and say what is wrong; exit code 1 if something is."""
    ctx: Context = click_ctx.obj
    found = ctx.project().destinations.check(name)
    text = f"{name} takes messages" if found["arrived"] else f"{name} takes none: {found['reason']} ({found['code']})"
    output.emit(ctx, {"name": name, **found}, lambda: output.echo(text))
    click_ctx.exit(0 if found["arrived"] else 1)


@cli.command()
@NAME
@SEGMENTS
@click.pass_obj
def activate(ctx: "Context", name: str, segments: tuple[str, ...]) -> None:
    """Send segments from now on: all members at once, then who comes and who leaves.

    Refused where a label or a partner whose segment it reads forbids one of the destination's uses; where that comes
    later, the members are removed there. A running service sends by itself; else 'vesica destination sync' does.

    \b
    Example: vesica destination activate crm --segment summer-buyers
    """
    with output.progress(ctx) as progress:
        _sent(ctx, ctx.project().destinations.activate(name, segments, progress))


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
    """Send nothing for now, withdrawals neither; what changes meanwhile is sent with 'resume'."""
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
@NAME
@click.pass_obj
def sync(ctx: "Context", name: str) -> None:
    """Send what is due now; a running service does it by itself."""
    with output.progress(ctx) as progress:
        _sent(ctx, ctx.project().destinations.sync(name, progress))


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
        _sent(ctx, ctx.project().destinations.delete(name, leave=leave, progress=progress))


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the destinations."""
    rows = ctx.project().destinations.all()
    names = ("name", "kind", "status", "gets", "present", "waiting", "failed")
    cells = ([row[name] for name in names] for row in rows)
    output.emit(ctx, rows, lambda: output.table(names, cells, empty="no destinations"))


@cli.command()
@NAME
@click.pass_obj
def show(ctx: "Context", name: str) -> None:
    """Show a destination, what it gets, and how many identities are there."""
    found = ctx.project().destinations.show(name)

    def lines() -> None:
        times = ("created", "next_attempt")
        left_out = ("segments", "gets")
        output.lines(
            (output.words(key), output.time(value) if key in times else value)
            for key, value in found.items()
            if key not in left_out and value not in (None, "")
        )
        rows = (
            [
                row["segment"],
                row["status"],
                row["present"],
                row["failed"],
                output.time(row["confirmed"]),
                row["stopped"],
            ]
            for row in found["segments"]
        )
        heads = ("segment", "status", "present", "failed", "confirmed", "nobody leaves because")
        output.table(heads, rows, empty="no segments")

    output.emit(ctx, found, lines)


@cli.command()
@NAME
@click.option("--segment", metavar="NAME", help="Of one segment alone.")
@click.pass_obj
def runs(ctx: "Context", name: str, segment: str | None) -> None:
    """Show what became of changes, by the hour in which they were noticed.

    A change is one identity that comes into a segment or leaves it. Those received are those activated, excluded, failed
    and waiting; a retry counts no change again, and 'requests' counts messages, each as often as it was tried.
    """
    rows = ctx.project().destinations.runs(name, segment)
    names = ("received", "activated", "excluded", "failed", "waiting", "requests")

    def show() -> None:
        cells = []
        for row in rows:
            why = [f"{each['count']:,} {each['code']}: {each['reason'] or each['code']}" for each in row["codes"]]
            cells.append(
                [output.time(row["hour"]), row["status"], *(row[each] for each in names), "; ".join(why) or None]
            )
        output.table(("hour", "status", *names, "why"), cells, empty="nothing was sent yet")

    output.emit(ctx, rows, show)


@cli.command()
@NAME
@click.pass_obj
def errors(ctx: "Context", name: str) -> None:
    """List the messages that failed, or wait after a failure, with the reason; 'replay' says again what failed."""
    rows = ctx.project().destinations.errors(name)
    names = ("at", "segment", "state", "changes", "attempts", "code", "reason")
    cells = ([output.time(row[each]) if each == "at" else row[each] for each in names] for row in rows)
    output.emit(ctx, rows, lambda: output.table(names, cells, empty="no errors"))


def _sent(ctx: "Context", done: dict[str, Any]) -> None:
    waits = f", {done['waiting']:,} changes wait" if done["waiting"] else ""
    messages = "1 message" if done["sent"] == 1 else f"{done['sent']:,} messages"
    text = f"{done['name']}: {messages} arrived{waits}; it is {done['status']}"
    output.emit(ctx, done, lambda: output.echo(text))


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        raise click.UsageError(f"{text!r} is no setting: it reads KEY=VALUE.")
    return name, value


def _read(secret: str) -> bytes:
    if secret == "-":  # noqa: S105 - the name of standard input
        return sys.stdin.buffer.readline()
    from node.homes import check_input

    check_input(secret)
    try:
        return Path(secret).read_bytes()
    except OSError as error:
        raise click.UsageError(f"cannot read {secret}: {error.strerror}") from error
