"""The commands of `vesica destination` that say how it goes: runs, errors, dead letters, alerts."""

from typing import TYPE_CHECKING, Any

import click

from . import output

if TYPE_CHECKING:
    from .main import Context

_SHOWN = {"erased": "erased people still there"}
NAME = click.argument("name", help="The destination; 'vesica destination list' shows them.")


@click.command()
@NAME
@click.option("--segment", required=True, metavar="NAME", help="A segment, which need not be activated.")
@click.option("--unmasked", is_flag=True, help="Show who it is about; needs the permission to export.")
@click.pass_obj
def preview(ctx: "Context", name: str, segment: str, unmasked: bool) -> None:
    """Show three messages as they would leave now, of one member each, and how many members would leave.

    Nothing is sent; the audit log says who looked.

    \b
    Example: vesica destination preview crm --segment summer-buyers
    """
    found = ctx.project().destinations.preview(name, segment, unmasked=unmasked)

    def show() -> None:
        for each in found["messages"]:
            output.echo(each.rstrip("\n"))
        why = "".join(f", {count:,} not: {code}" for code, count in found["excluded"].items())
        output.echo(f"{found['leave']:,} would leave{why}")

    output.emit(ctx, found, show)


@click.command()
@NAME
@click.option("--segment", metavar="NAME", help="Of one segment alone.")
@click.pass_obj
def runs(ctx: "Context", name: str, segment: str | None) -> None:
    """Show what became of changes, by the hour in which they were noticed.

    A change is one identity that comes into a segment or leaves it. Those received are those activated, excluded, failed
    and waiting; a retry counts no change again, a replay does, and 'requests' counts messages, each as often as it was
    tried. The last columns say when the target had the newest of them, and after how many seconds it had half of them, and
    95 of 100; JSON also has the times until they were sent and confirmed.
    """
    rows = ctx.project().destinations.runs(name, segment)
    names = ("received", "activated", "excluded", "failed", "waiting", "requests")
    of = _solution(rows)

    def took(row: dict[str, Any]) -> list[str | None]:
        ready = (row["latency"] or {}).get("ready")
        return [None] * 3 if ready is None else [output.time(ready["last"]), f"{ready['p50']} s", f"{ready['p95']} s"]

    def show() -> None:
        cells = []
        for row in rows:
            why = [f"{each['count']:,} {each['code']}: {each['reason'] or each['code']}" for each in row["codes"]]
            cells.append(
                [
                    output.time(row["hour"]),
                    *(row[each] for each in of),
                    row["status"],
                    *(row[each] for each in names),
                    *took(row),
                    "; ".join(why) or None,
                ]
            )
        heads = ("hour", *of, "status", *names, "ready at", "p50", "p95", "why")
        output.table(heads, cells, empty="nothing was sent yet")

    output.emit(ctx, rows, show)


@click.command()
@NAME
@click.pass_obj
def errors(ctx: "Context", name: str) -> None:
    """List the messages that failed, or wait after a failure, with the reason; 'replay' says again what failed.

    A message is listed until nothing of its segment is missing at the target; 'dead' lists those of 30 days.
    """
    rows = ctx.project().destinations.errors(name)
    names = ("at", *_solution(rows), "segment", "state", "changes", "attempts", "code", "reason")
    cells = ([output.time(row[each]) if each == "at" else row[each] for each in names] for row in rows)
    output.emit(ctx, rows, lambda: output.table(names, cells, empty="no errors"))


@click.command()
@NAME
@click.pass_obj
def dead(ctx: "Context", name: str) -> None:
    """List the messages that failed for good, with how the target's answer began; they are forgotten after 30 days.

    Words of an answer that may be data are left out. 'replay' says again what of them is true today; removals are said again
    by themselves, once a day.
    """
    rows = ctx.project().destinations.dead(name)
    names = ("at", *_solution(rows), "segment", "adds", "removes", "attempts", "code", "reason", "answer", "forgotten")
    times = ("at", "forgotten")
    cells = ([output.time(row[each]) if each in times else row[each] for each in names] for row in rows)
    output.emit(ctx, rows, lambda: output.table(names, cells, empty="no dead letters"))


def _solution(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the column that says of which solution rows are, if they are of a connection."""
    return ("solution",) if any("solution" in row for row in rows) else ()


@click.command()
@NAME
@click.option("--on", multiple=True, metavar="KIND", help="Hear of it: start, success, failure, delay or skips.")
@click.option("--off", multiple=True, metavar="KIND", help="Hear of it no more.")
@click.option("--mail", metavar="ADDRESS", help="Where your alerts of this destination are mailed to as well.")
@click.option("--no-mail", is_flag=True, help="Mail them no more.")
@click.pass_obj
def alerts(
    ctx: "Context", name: str, *, on: tuple[str, ...], off: tuple[str, ...], mail: str | None, no_mail: bool
) -> None:
    """Show which alerts of a destination you have subscribed to, or change that.

    'vesica alert list' shows failures, delays and skips whether somebody subscribed or not, start and success only if somebody
    did. Mail needs a server: see 'vesica node mail'.

    \b
    Example: vesica destination alerts crm --on failure --on delay --mail ann@fern.example
    """
    if no_mail and mail is not None:
        raise click.UsageError("--mail and --no-mail contradict each other")
    found = ctx.project().destinations.alerts(name, on=on, off=off, mail="" if no_mail else mail)
    from node.destinations.watching import KINDS

    rows = [[kind, "yes" if kind in found["on"] else "no", text] for kind, text in KINDS.items()]

    def show() -> None:
        output.table(("alert", "subscribed", "when"), rows)
        output.echo(f"mailed to {found['mail']}" if found["mail"] else "not mailed")

    output.emit(ctx, found, show)


@click.command()
@NAME
@click.pass_obj
def show(ctx: "Context", name: str) -> None:
    """Show a destination, what it gets, and how many identities are there."""
    found = ctx.project().destinations.show(name)

    def lines() -> None:
        times = ("created", "next_attempt")
        left_out = ("segments", "gets", "solutions")
        output.lines(
            (_SHOWN.get(key, output.words(key)), output.time(value) if key in times else value)
            for key, value in found.items()
            if key not in left_out and value not in (None, "") and (key, value) != ("erased", 0)
        )
        if "solutions" in found:
            names = ("name", "status", "gets", "present", "waiting", "failed", "reason")
            cells = ([each[name] for name in names] for each in found["solutions"])
            output.table(("solution", *names[1:]), cells, empty="no solutions")
            return
        rows = (
            [
                row["segment"],
                row["status"],
                row["present"],
                row["failed"],
                row["held"],
                output.time(row["confirmed"]),
                row["stopped"],
                ", ".join(f"{field}={attribute}" for field, attribute in (row["mapping"] or {}).items()),
            ]
            for row in found["segments"]
        )
        heads = ("segment", "status", "present", "failed", "held", "confirmed", "nothing is sent because", "mapped")
        output.table(heads, rows, empty="no segments")

    output.emit(ctx, found, lines)
