"""The commands `vesica match`: compare two files with somebody else once, without a node."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from . import import_reports, options, output

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.adhoc.answers import Learned
    from node.adhoc.dialler import Counted, Outcome
    from node.adhoc.session import Columns
    from node.imports.identity_columns import ImportReport
    from protocol.messages import SegmentAnswer

    from .main import Context

PHASES = {  # what the steps of an exchange are for people
    "commitment": "agreeing",
    "universe": "their points",
    "tags": "our tags",
    "questions": "our question",
    "answer": "the answer",
    "key": "their key",
    "blinded": "our blinded points",
    "evaluated": "their evaluation",
    "manifest": "agreeing",
    "records": "their records",
    "receipt": "receipt",
    "countersigned": "receipt",
}


@click.group()
def cli() -> None:
    """Match two files once, without a node: one side listens, the other dials."""


def _inputs(command: "Callable[..., None]") -> "Callable[..., None]":
    for option in reversed(
        [
            click.option(
                "--input", "path", required=True, metavar="FILE", help="CSV, JSON lines, Parquet, Arrow or Excel."
            ),
            click.option(
                "--column",
                "columns",
                required=True,
                multiple=True,
                metavar="COLUMN=NAMESPACE[/RULE][:raw|:hashed]",
                help="What is in a column, such as email=email_sha256.",
            ),
            click.option("--region", metavar="CC", help="The country of phone numbers without a prefix, such as GB."),
            click.option(
                "--minimum",
                type=click.IntRange(min=1),
                metavar="N",
                help="No match of fewer identities, no count below N (default: 1000); the larger of both counts.",
            ),
            click.option("--exact", is_flag=True, help="A count without noise, if the other side says so too."),
        ]
    ):
        command = option(command)
    return command


@cli.command()
@_inputs
@click.option(
    "--allow",
    type=click.Choice(["count", "members"]),
    default="count",
    show_default=True,
    help="What the other side may learn: how many are in both files, or which of its own rows.",
)
@click.option(
    "--listen",
    "bind_to",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen; port 0 is any free one.",
)
@click.option("--address", metavar="HOST:PORT", help="Where the other side reaches it, if that is another address.")
@click.option(
    "--most",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --allow members: take at most N identities of the other side (default: 1.2 times as many as the file has).",
)
@click.pass_obj
def listen(
    ctx: "Context",
    *,
    path: str,
    columns: tuple[str, ...],
    region: str | None,
    minimum: int | None,
    exact: bool,
    allow: Any,
    bind_to: str,
    address: str | None,
    most: int | None,
) -> None:
    """Print a Connect ID, answer the one who dials it, and end.

    Who dials learns about how many identities both files share; with --allow members also which of its own rows they
    are. The listener learns how many identities the other side has, and, of a count, the exact number in common; where
    it has more than 65,536, of a sample of so many.
    The session ends after one match, or after an hour. If it breaks before anything was answered, the other side can dial
    again.

    \b
    Example: vesica match listen --input customers.csv --column email=email_sha256 --listen 0.0.0.0:8471 \\
                 --address match.example.com:8471
    """
    from node.adhoc.listener import Rules
    from node.adhoc.listener import listen as run

    def ready(connect_id: str, where: str) -> None:
        if ctx.json:  # the one document comes at the end; the invitation must be read before
            output.echo(connect_id, err=True)
            return
        output.echo(f"Connect ID: {connect_id}")
        output.echo(
            f"listening on {where}; the other side runs: vesica match dial CONNECT_ID --input FILE --column ..."
        )

    read, report, _ = _read(ctx, path, columns, region)
    with output.progress(ctx) as progress:
        learned = run(
            read,
            Rules(allow=allow, minimum=minimum, exact=exact, most=most),
            bind_to=bind_to,
            address=address,
            ready=ready,
            progress=lambda what, done, total: progress(PHASES.get(what, what), done, total),
        )
    output.emit(ctx, listener_document(learned, report), lambda: _print(listener_document(learned, report)["learned"]))


@cli.command()
@click.argument("connect_id", help="What the listening side printed: vesica1...")
@_inputs
@click.option("--count", "count", is_flag=True, help="Learn about how many identities both files share (the default).")
@click.option("--members", is_flag=True, help="Learn which rows of the own file the other side has; needs --output.")
@click.option(
    "--output",
    "target",
    metavar="FILE",
    help=f"Where the own rows that matched are written, as they stand: {options.RESULT}.",
)
@options.FORCE
@click.pass_obj
def dial(
    ctx: "Context",
    connect_id: str,
    *,
    path: str,
    columns: tuple[str, ...],
    region: str | None,
    minimum: int | None,
    exact: bool,
    count: bool,
    members: bool,
    target: str | None,
    force: bool,
) -> None:
    """Match a file with the one behind a Connect ID.

    \b
    Example: vesica match dial vesica1... --input users.csv --column mail=email_sha256 --members --output both.csv
    """
    if count and members:
        raise click.UsageError("--count and --members exclude each other.")
    if members != (target is not None):
        raise click.UsageError("--members and --output FILE go together.")
    from node.adhoc.dialler import check
    from node.adhoc.dialler import dial as run
    from node.storage import outputs

    check(connect_id)
    with ExitStack() as stack:  # opened before the one session is spent
        out = None if target is None else stack.enter_context(outputs.opened(target, force=force, inputs=[path]))
        read, report, records = _read(ctx, path, columns, region)
        with output.progress(ctx) as progress:
            outcome = run(
                connect_id,
                read,
                members=members,
                minimum=minimum,
                exact=exact,
                progress=lambda what, done, total: progress(PHASES.get(what, what), done, total),
            )
        rows = [] if out is None else _rows(outcome, read, records)
        if out is not None:
            text = "".join(f"{line}\n" for line in [*([records[0]] if records[0] else []), *rows])
            out.write(text.encode("utf-8", "surrogateescape"))
    document = dialler_document(outcome, report, len(rows), target)
    output.beside(ctx, target, document, lambda: _print(document["learned"]))


def _read(
    ctx: "Context", path: str, columns: tuple[str, ...], region: str | None
) -> "tuple[Columns, ImportReport, list[str]]":
    from node.adhoc.session import Column
    from node.imports.identity_columns import IdentityColumn, read_identities

    with output.progress(ctx) as progress:
        wanted = [IdentityColumn.parse(each) for each in columns]
        found, report, records = read_identities(
            path, wanted, region, lambda done, total: progress("reading", done, total)
        )
        read = {name: Column.of_rows(values, rows) for name, (values, rows) in found.items()}
    if not ctx.json:
        output.echo(f"{report.file}: {report.rows:,} rows read, {report.accepted:,} accepted", err=True)
        import_reports.print_columns(report, err=True)
        for name, column in read.items():
            output.echo(f"{name}: {len(column.values):,} different identities", err=True)
    return read, report, records


def _rows(outcome: "Outcome", read: "Columns", records: list[str]) -> list[str]:
    """Return the own rows that matched in any namespace, in the file's order."""
    rows = sorted({int(row) for found in outcome.found for row in read[found.namespace].rows_with(found.indices)})
    return [records[row] for row in rows]


def listener_document(learned: "Learned", report: "ImportReport") -> dict[str, Any]:
    """Return what both sides learned, as the side that listened prints it."""
    from protocol.estimate import MAX_ASKED

    counted = learned.mode == "count"
    sampled = {name for name, size in learned.theirs.items() if counted and size == MAX_ASKED}
    you = [
        f"The other side asked about {size:,} identities in {name}, the most that one count takes: it may have more."
        if name in sampled
        else f"The other side has {size:,} identities in {name}."
        for name, size in learned.theirs.items()
    ]
    you += [f"Exactly {hits:,} of them are in your file ({name})." for name, hits in learned.overlap.items()]
    if learned.mode == "count":
        other = ["The number of your identities, rounded up with points that stand for nobody."]
        other += [
            f"Of what it asked about: {_overlap_words(name, answer.overlap, _interval(answer, learned.theirs[name]))}"
            if name in sampled
            else _overlap_words(name, answer.overlap, _interval(answer, learned.theirs[name]))
            for name, answer in learned.answered.items()
        ]
    else:
        other = ["The number of your identities, and which of its own are among them.", "No identity that it had not."]
    return {
        "mode": learned.mode,
        "terms": None if learned.agreement is None else learned.agreement.terms.as_dict(),
        "results": [
            {
                "namespace": name,
                "theirs": size,
                "overlap": learned.overlap.get(name),
                "sampled": name in sampled,
            }
            for name, size in learned.theirs.items()
        ],
        "report": report.as_dict(),
        "learned": {"you": you, "other": other},
    }


def dialler_document(outcome: "Outcome", report: "ImportReport", rows: int, target: str | None) -> dict[str, Any]:
    """Return what both sides learned, as the side that dialled prints it."""
    from protocol.estimate import MAX_ASKED

    terms = outcome.agreement.terms
    results: list[dict[str, Any]] = []
    you, other = [], []
    for each in outcome.counted:
        interval = _interval(each, each.ours)
        results.append(
            {
                "namespace": each.namespace,
                "ours": each.ours,
                "theirs_at_most": each.theirs_at_most,
                "overlap": each.overlap,
                "interval": interval,
                "status": "below_minimum" if each.overlap is None else "ok",
            }
        )
        you.append(_overlap_words(each.namespace, each.overlap, interval))
        you.append(f"The other side has at most {each.theirs_at_most:,} identities in {each.namespace}.")
        other.append(
            f"You have {each.ours:,} identities in {each.namespace}; how many of them it has, exactly."
            if each.ours <= MAX_ASKED
            else f"You have at least {MAX_ASKED:,} identities in {each.namespace}; how many of a sample of so many it has, "
            "exactly."
        )
    for found in outcome.found:
        results.append(
            {
                "namespace": found.namespace,
                "ours": found.ours,
                "theirs": found.theirs,
                "matched": len(found.indices),
            }
        )
        you.append(
            f"{len(found.indices):,} of your {found.ours:,} identities in {found.namespace} are among the "
            f"{found.theirs:,} of the other side."
        )
        other.append(f"You have {found.ours:,} identities in {found.namespace}; not which, and not how many matched.")
    if target is not None:
        you.append(f"{rows:,} of your rows match: {target}")
    if outcome.counted:
        noise = (
            "The count is exact: both sides said so." if terms.epsilon is None else f"Noise: epsilon {terms.epsilon}."
        )
        you.append(f"{noise} There is no budget over several ad hoc sessions: each one tells more.")
    return {
        "mode": "count" if outcome.counted else "members",
        "terms": terms.as_dict(),
        "results": results,
        "rows": rows if target is not None else None,
        "report": report.as_dict(),
        "learned": {"you": you, "other": other},
    }


def _interval(counted: "Counted | SegmentAnswer", size: int) -> list[int] | None:
    from psi import noise

    if counted.overlap is None or counted.half_width is None:
        return None
    return noise.interval(counted.overlap, counted.half_width, size)


def _overlap_words(namespace: str, overlap: int | None, interval: list[int] | None) -> str:
    if overlap is None or interval is None:
        return f"In {namespace}: below minimum, so no number."
    low, high = interval
    if low == high:
        return f"Both have {overlap:,} identities in {namespace}."
    return f"Both have about {overlap:,} identities in {namespace} (95 %: {low:,} to {high:,})."


def _print(learned: dict[str, list[str]]) -> None:
    output.echo("What you learned:")
    for line in learned["you"]:
        output.echo(f"  {line}")
    output.echo("What the other side learned:")
    for line in learned["other"]:
        output.echo(f"  {line}")
