"""When letters were last fetched: what a command that shows something says of it, since it fetches none itself."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import output, remedies

if TYPE_CHECKING:
    from node.project import Project

    from .main import Context


def emit(ctx: "Context", document: Any, table: Callable[[], None]) -> None:
    """Print a document as `output.emit` does, and for people that letters wait, if none were fetched for long.

    In JSON an object gets `letters_fetched`, in Unix seconds.
    """
    project = ctx.project()
    if isinstance(document, dict):
        document = {**document, "letters_fetched": project.letters.last_fetched()}
    output.emit(ctx, document, table)
    if not ctx.json:
        remind(project)


def remind(project: "Project") -> None:
    """Print when letters were last fetched, if that is long ago and no service does it."""
    if not project.letters.overdue():
        return
    fetched = project.letters.last_fetched()
    when = "never fetched" if fetched is None else f"last fetched {output.span(project.scope.home.now() - fetched)} ago"
    output.echo(f"letters of project {project.name} were {when}: {remedies.command('node.sync')}", err=True)


def out_of_reach(synced: dict[str, Any]) -> None:
    """Print which partners a sync could not reach."""
    for each in synced["out_of_reach"]:
        said = f"partner {each['partner']} of project {each['project']} is out of reach: letters wait"
        output.echo(said, err=True)
