"""The commands `vesica project`: isolated data spaces of a node, and the terms that they ask of partners."""

from typing import TYPE_CHECKING, Any

import click

from . import options, output, remedies
from . import terms as in_words

if TYPE_CHECKING:
    from .main import Context

HOLD = "import consent again, end what has ended since, then: vesica project resume"


@click.group()
def cli() -> None:
    """Make isolated data spaces, see what sharing needs, set terms."""


# By who is left out: the more, the more people are asked about.
ASKED_ABOUT = {"unconsented": 0, "opted-out": 1, "nobody": 2}
NOT_LEFT_OUT = "Estimates will ask about more people who did not consent: their points go out, without names."
HIDE_OPTED_OUT = click.option("--hide-opted-out", is_flag=True, help="Leave those who said no out of estimates.")


@cli.command()
@click.argument("name", help="What to call the project, such as loyalty.")
@click.option("--hide-unconsented", is_flag=True, help="Leave people without consent out of estimates.")
@HIDE_OPTED_OUT
@click.pass_obj
def create(ctx: "Context", name: str, hide_unconsented: bool, hide_opted_out: bool) -> None:
    """Make a project: its profiles, segments, partners and feeds are its own.

    \b
    Example: vesica project create loyalty
    """
    left_out = _left_out(hide_unconsented or None, hide_opted_out) or "nobody"
    project = ctx.node().create_project(name, left_out=left_out)
    document = {"id": project.id, "name": name, "left_out_of_estimates": project.left_out}
    output.emit(ctx, document, lambda: output.echo(f"made project {name}"))


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List the projects of this node."""
    rows = [
        {"id": each.id, "name": each.name, "consent_model": each.scope.consent_model} for each in ctx.node().projects()
    ]
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
    document["prerequisites"] = [remedies.with_command(each, document["name"]) for each in document["prerequisites"]]

    def people() -> None:
        output.lines([("project", document["name"]), ("id", document["id"])])
        if document["on_hold"]:
            output.echo(f"on hold since a restore: {HOLD} {document['name']}")
        output.echo()
        needs = document["prerequisites"]
        rows = ((each["name"], each["state"], None if each["met"] else each["command"]) for each in needs)
        output.table(("what sharing needs", "is", "set it with"), rows)
        output.echo()
        output.lines(in_words.of(document["terms"]))
        output.echo()
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
    output.emit(ctx, document, lambda: output.echo(f"project {project.name} goes on"))


@cli.command()
@click.option("--minimum-universe", type=click.IntRange(0), metavar="N", help="Smallest universe to match against.")
@click.option("--minimum-segment", type=click.IntRange(0), metavar="N", help="Smallest segment to estimate or share.")
@click.option("--minimum-overlap", type=click.IntRange(0), metavar="N", help="Smallest overlap to tell a number of.")
@click.option(
    "--maximum-universe", type=click.IntRange(1), metavar="N", help="Most identities of a side in a namespace."
)
@click.option("--epsilon", metavar="E", help='Noise of one count, such as 1/20; "none" for none, if both sides say so.')
@click.option("--budget", metavar="E", help="Epsilon that one partner may use up in a window, such as 2.")
@click.option(
    "--window-days",
    type=click.IntRange(1),
    metavar="N",
    help="Days of a window, in which all that a partner uses up is counted.",
)
@click.option("--generations", type=click.IntRange(1), metavar="N", help="Universes shown to a partner in a window.")
@click.option(
    "--evaluations", metavar="F", help="Points evaluated in a window, as a multiple of the universe, such as 6/5."
)
@click.option(
    "--epoch-days", type=click.IntRange(1), metavar="N", help="Days until keys change, no more than a window has."
)
@click.option(
    "--hide-unconsented/--count-unconsented",
    default=None,
    help="Leave people without consent out of estimates, or ask about everybody: then even the points of people who "
    "said no go out, and only the overlap with consent leaves them out.",
)
@HIDE_OPTED_OUT
@options.YES
@click.pass_obj
def terms(ctx: "Context", /, hide_unconsented: bool | None, hide_opted_out: bool, yes: bool, **values: Any) -> None:
    """Show the terms that this project asks of new agreements, or set some; the stricter side wins.

    Weaker ones are asked about first. Agreements that exist stay as they are until 'vesica partner agree' changes them.

    \b
    Example: vesica project terms --minimum-overlap 2000 --epsilon 1/50
    """
    from node.project import terms_with

    project = ctx.project()
    given = {name: value for name, value in values.items() if value is not None}
    left_out = _left_out(hide_unconsented, hide_opted_out)
    risks = in_words.weakened(project.terms.as_dict(), terms_with(project, **given).as_dict()) if given else []
    if left_out is not None and ASKED_ABOUT[left_out] > ASKED_ABOUT[project.left_out]:
        risks.append(NOT_LEFT_OUT)
    if risks:
        output.confirm(ctx, " ".join([*risks, "Set it?"]), yes=yes)
    if given:
        project.set_terms(**given)
    if left_out is not None:
        project.leave_out(left_out)
    document = {**project.terms.as_dict(), "left_out_of_estimates": project.left_out}

    def people() -> None:
        output.lines(in_words.of(document))
        if waits := in_words.runs_wait(document):
            output.echo(waits, err=True)

    output.emit(ctx, document, people)


def _left_out(hide_unconsented: bool | None, hide_opted_out: bool) -> str | None:
    """Return whom the switches leave out of estimates, None where none is given."""
    if hide_opted_out:
        if hide_unconsented is not None:
            raise click.UsageError("Give one of --hide-unconsented, --hide-opted-out and --count-unconsented.")
        return "opted-out"
    return None if hide_unconsented is None else "unconsented" if hide_unconsented else "nobody"
