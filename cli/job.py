from typing import TYPE_CHECKING

import click

from . import output

if TYPE_CHECKING:
    from .main import Context


@click.group()
def cli() -> None:
    """See work that is queued, runs or failed."""


@cli.command("list")
@click.option("--state", type=click.Choice(["queued", "running", "done", "failed"]))
@click.pass_obj
def list_(ctx: "Context", state: str | None) -> None:
    """List the project's jobs, newest first."""
    rows = [job.as_dict() for job in ctx.node().jobs.list(ctx.project(), state=state)]

    def show() -> None:
        columns = ("id", "kind", "by", "state", "created (UTC)", "error")
        names = ("id", "kind", "submitted_by", "state")
        cells = (
            (*(row[name] for name in names), output.time(row["created"]), (row["error"] or {}).get("message"))
            for row in rows
        )
        output.table(columns, cells, empty="no jobs")

    output.emit(ctx, rows, show)


@cli.command()
@click.argument("job_id", metavar="ID")
@click.pass_obj
def show(ctx: "Context", job_id: str) -> None:
    """Show one job with its progress, result or error."""
    document = ctx.node().jobs.show(job_id).as_dict()

    def people() -> None:
        shown = {**document, "created": output.time(document["created"]), "changed": output.time(document["changed"])}
        output.lines(shown.items())

    output.emit(ctx, document, people)
