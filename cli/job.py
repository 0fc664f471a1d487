"""The commands `vesica job`: work that is queued, runs, or has ended."""

from typing import TYPE_CHECKING

import click

from . import output, remedies

if TYPE_CHECKING:
    from .main import Context


@click.group()
def cli() -> None:
    """See work that is queued, runs or failed."""


@cli.command("list")
@click.option("--state", type=click.Choice(["queued", "running", "done", "failed"]), help="Only jobs in this state.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), metavar="N", help="The newest N.")
@click.pass_obj
def list_(ctx: "Context", state: str | None, limit: int) -> None:
    """List the project's jobs, newest first."""
    from node.operations.jobs import JobState

    found = ctx.node().jobs.all(ctx.project().scope, state=JobState(state) if state else None, limit=limit)
    rows = [remedies.of_row(job.as_dict()) for job in found]

    def show() -> None:
        columns = ("id", "kind", "by", "state", "created", "error")
        names = ("id", "kind", "submitted_by", "state")
        cells = (
            (*(row[name] for name in names), output.time(row["created"]), (row["error"] or {}).get("message"))
            for row in rows
        )
        output.table(columns, cells, empty="no jobs", ids="id")

    output.emit(ctx, rows, show)


@cli.command()
@click.argument("job_id", metavar="ID", help="The job: its id in 'vesica job list', or the beginning of it.")
@click.pass_obj
def show(ctx: "Context", job_id: str) -> None:
    """Show one job with its progress, result or error."""
    document = remedies.of_row(ctx.node().jobs.show(job_id).as_dict())

    def people() -> None:
        names = ("id", "kind", "submitted_by", "state")
        lines = [(output.words(name), document[name]) for name in names]
        lines += [(name, output.time(document[name])) for name in ("created", "changed")]
        if (progress := document["progress"]) and document["state"] == "running":
            of = f" of {progress['total']:,}" if progress["total"] else ""
            lines.append(("progress", f"{progress['what']}: {progress['done']:,}{of}"))
        if error := document["error"]:
            lines += [("error", error["message"]), ("hint", error["hint"])]
        output.lines(lines)
        if result := document["result"]:
            output.echo("\nresult")
            output.lines(
                (output.words(name), output.time(value) if name.endswith("_at") else value)
                for name, value in result.items()
            )

    output.emit(ctx, document, people)
