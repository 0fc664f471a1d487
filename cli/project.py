"""The commands `vesica project`: isolated data spaces of a node, and the terms that they ask of partners."""

from typing import TYPE_CHECKING, Any

import click

from . import output, remedies

if TYPE_CHECKING:
    from .main import Context

HOLD = "import consent again, end what has ended since, then: vesica project resume"


@click.group()
def cli() -> None:
    """Make isolated data spaces, see what sharing needs, set terms."""


@cli.command()
@click.argument("name", help="What to call the project, such as loyalty.")
@click.pass_obj
def create(ctx: "Context", name: str) -> None:
    """Make a project: its profiles, segments, partners and feeds are its own.

    \b
    Example: vesica project create loyalty
    """
    project = ctx.node().create_project(name)
    output.emit(ctx, {"id": project.id, "name": name}, lambda: click.echo(f"made project {name}"))


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the projects of this node."""
    rows = [{"id": each.id, "name": each.name, "consent_model": each.consent_model} for each in ctx.node().projects()]
    names = ("name", "consent_model", "id")
    headings = [output.words(name) for name in names]
    output.emit(ctx, rows, lambda: output.table(headings, ([row[name] for name in names] for row in rows)))


@cli.command()
@click.argument("name", required=False, help="The project; else that of --project.")
@click.pass_obj
def show(ctx: "Context", name: str | None) -> None:
    """Show a project: namespaces, consent model, sharing label and policy, terms, and what sharing still needs."""
    project = ctx.node().project(name or ctx.project_name)
    document = project.reports.project()
    document["prerequisites"] = [remedies.with_command(each) for each in document["prerequisites"]]

    def people() -> None:
        output.lines([("project", document["name"]), ("id", document["id"])])
        if document["on_hold"]:
            click.echo(f"on hold since a restore: {HOLD} {document['name']}")
        click.echo()
        needs = document["prerequisites"]
        rows = ((each["name"], each["state"], None if each["met"] else each["command"]) for each in needs)
        output.table(("what sharing needs", "is", "set it with"), rows)
        click.echo()
        output.lines(terms_of(document["terms"]))
        click.echo()
        output.lines((output.words(name), count) for name, count in document["counts"].items())

    output.emit(ctx, document, people)


@cli.command()
@click.argument("name", required=False, help="The project; else that of --project.")
@click.pass_obj
def resume(ctx: "Context", name: str | None) -> None:
    """Let a project go on that was restored from a backup: until then its feeds do not run, and nothing is answered.

    First do again what was done since the backup: import consent, revoke feeds, disconnect partners. Everything that the
    backup shares is shared again.

    \b
    Example: vesica project resume loyalty
    """
    project = ctx.node().project(name or ctx.project_name)
    project.resume()
    document = {"name": project.name, "on_hold": False}
    output.emit(ctx, document, lambda: click.echo(f"project {project.name} goes on"))


@cli.command()
@click.option("--minimum-universe", type=click.IntRange(0), metavar="N", help="Smallest universe to match against.")
@click.option("--minimum-segment", type=click.IntRange(0), metavar="N", help="Smallest segment to estimate or share.")
@click.option("--minimum-overlap", type=click.IntRange(0), metavar="N", help="Smallest overlap to tell a number of.")
@click.option(
    "--maximum-universe", type=click.IntRange(1), metavar="N", help="Most identities of a side in a namespace."
)
@click.option("--epsilon", metavar="E", help='Noise of one count, such as 1/20; "none" for none, if both sides say so.')
@click.option("--budget", metavar="E", help="Epsilon that one partner may use up in a window, such as 2.")
@click.option("--window-days", type=click.IntRange(1), metavar="N", help="Days of that window.")
@click.option("--generations", type=click.IntRange(1), metavar="N", help="Universes shown to a partner in an epoch.")
@click.option(
    "--evaluations", metavar="F", help="Points evaluated in an epoch, as a multiple of the universe, such as 6/5."
)
@click.option("--epoch-days", type=click.IntRange(1), metavar="N", help="Days until keys change.")
@click.option(
    "--hide-unconsented/--count-unconsented", default=None, help="Keep people without consent out of estimates or not."
)
@click.pass_obj
def terms(ctx: "Context", /, hide_unconsented: bool | None, **options: Any) -> None:
    """Show the terms that this project asks of new agreements, or set some; the stricter side wins.

    \b
    Example: vesica project terms --minimum-overlap 500 --epsilon 1/50
    """
    project = ctx.project()
    given = {name: value for name, value in options.items() if value is not None}
    if given:
        project.set_terms(**given)
    if hide_unconsented is not None:
        project.set_hide_unconsented(hide_unconsented)
    document = {**project.terms.as_dict(), "hide_unconsented": project.hide_unconsented}
    output.emit(ctx, document, lambda: output.lines(terms_of(document)))


def terms_of(document: "dict[str, Any]") -> "list[tuple[str, Any]]":
    """Return terms, the agreed or our own, as they are printed."""
    return [(output.words(name), "none" if value is None else value) for name, value in document.items()]
