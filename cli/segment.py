"""The commands `vesica segment`: sets of profiles, from rules or from lists."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options, output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from node.governance.lineage import Trace
    from node.project import Project
    from node.segments.records import Segment

    from .main import Context

FILE = click.Path(path_type=Path)

NAME = click.argument("name", help="The segment; 'vesica segment list' shows them.")


@click.group()
def cli() -> None:
    """Make sets of profiles, from rules or from lists."""


def _content(command: "Callable[..., None]") -> "Callable[..., None]":
    command = click.option(
        "--members", type=FILE, metavar="FILE", help="A file with your own id of a person per row, under a heading."
    )(command)
    command = click.option("--tree", type=FILE, metavar="FILE", help="The condition as a tree, in JSON or YAML.")(
        command
    )
    text = 'A condition on attributes, own.SEGMENT, received.PARTNER.SEGMENT and shared.PROJECT.SEGMENT, such as "orders >= 6".'
    return click.option("--rule", metavar="EXPR", help=text)(command)


@cli.command()
@click.argument("name", help="What to call the segment, such as frequent-buyers.")
@_content
@click.pass_obj
def create(ctx: "Context", name: str, rule: str | None, tree: Path | None, members: Path | None) -> None:
    """Make a segment and evaluate it.

    Rules know =, !=, <, <=, >, >=, IN, BETWEEN, LIKE, IS NULL, AND, OR, NOT. Texts and dates, year first, stand in single
    quotes, numbers and true or false without; a comparison that does not fit the values of its column is refused. A tree
    is what 'segment show --tree' prints, and react-querybuilder makes.

    \b
    Example: vesica segment create frequent-buyers --rule "orders >= 6 AND country IN ('GB', 'IE')"
    """
    if [rule, tree, members].count(None) != 2:
        raise click.UsageError("give one of --rule, --tree and --members")
    _print_one(ctx, ctx.project().segments.create(name, rule=rule, tree=tree, members_file=members))


@cli.command()
@NAME
@_content
@options.YES
@click.pass_obj
def update(ctx: "Context", name: str, rule: str | None, tree: Path | None, members: Path | None, yes: bool) -> None:
    """Replace the rule of a segment, or the members of a list; feeds follow with their next run, other projects that use it
    within seconds.

    \b
    Example: vesica segment update frequent-buyers --rule "orders >= 8"
    """
    if [rule, tree, members].count(None) != 2:
        raise click.UsageError("give one of --rule, --tree and --members")
    project = ctx.project()
    anyway = yes or _confirm_used(ctx, project, name, "Change")
    _print_one(ctx, project.segments.update(name, members, rule=rule, tree=tree, anyway=anyway))


@cli.command("list")
@click.option("--shared", is_flag=True, help="Those that other projects share with this one alone.")
@click.pass_obj
def list_(ctx: "Context", shared: bool) -> None:
    """List the segments: ours, received ones, and those that other projects share with this one."""
    project = ctx.project()
    others = project.sharing.segments()
    own = () if shared else (each.as_dict() for each in project.segments.all())
    _print_all(ctx, [*own, *([] if shared else project.received.segments()), *others])


@cli.command()
@click.argument("name", help="The segment, received.PARTNER.SEGMENT, or shared.PROJECT.SEGMENT.")
@click.option(
    "--tree", type=click.Choice(["yaml", "json"]), help="Print the rule's tree alone, as --tree FILE takes it."
)
@click.pass_obj
def show(ctx: "Context", name: str, tree: str | None) -> None:
    """Show a segment: its rule, what the rule reads, its size and labels; a received one (received.PARTNER.NAME) without
    a rule, but with what its sender restricts; one that another project shares (shared.PROJECT.NAME) with its evaluations,
    the newest first."""
    from node.governance.lineage import PlaceKind

    if name.startswith("received."):
        if tree is not None:
            raise click.UsageError("a received segment shows no rule")
        document = ctx.project().received.segment(name)
        output.emit(ctx, document, lambda: output.lines((output.words(name), each) for name, each in document.items()))
        return
    if name.startswith("shared."):
        if tree is not None:
            raise click.UsageError("a shared segment shows no rule")
        _print_shared(ctx, ctx.project().sharing.segment(name))
        return
    segment = ctx.project().segments.show(name)
    if tree is not None and not ctx.json:
        output.echo(segment.written(tree))
    else:
        _print_one(ctx, segment, ctx.project().labels.traces(PlaceKind.SEGMENT, name))


@cli.command()
@click.argument("name", required=False, help="One segment; all unless given.")
@click.pass_obj
def evaluate(ctx: "Context", name: str | None) -> None:
    """Evaluate a segment with what it is composed of, or all of them."""
    segments = ctx.project().segments
    found = segments.evaluate_all() if name is None else segments.evaluate(name)
    _print_all(ctx, [each.as_dict() for each in found])


@cli.command()
@NAME
@click.option(
    "--with", "projects", multiple=True, required=True, metavar="PROJECT", help="A project that is to use it."
)
@click.option(
    "--by",
    "namespaces",
    multiple=True,
    metavar="NAMESPACE",
    help="What people match by: idfv and android_id unless given.",
)
@click.option("--with-consent", is_flag=True, help="Leave out whom this project may not share.")
@click.option(
    "--restrict", "uses", multiple=True, metavar="USE", help=f"What it may not be used for there: {options.ACTIONS}."
)
@click.pass_obj
def share(
    ctx: "Context",
    *,
    name: str,
    projects: tuple[str, ...],
    namespaces: tuple[str, ...],
    with_consent: bool,
    uses: tuple[str, ...],
) -> None:
    """Let other projects of this node use a segment: their own people who are in it, and nothing else of it.

    A person there is in it who has a device, or another identity that is named, which a member here has too. Nothing leaves
    the node, so consent to be shared does not count, unless --with-consent says that it does. Labels go with it. Whoever has
    a role in both projects sees it there as shared.PROJECT.NAME.

    \b
    Example: vesica segment share frequent-buyers --with loyalty
    """
    sharing = ctx.project().sharing
    given = {"namespaces": namespaces} if namespaces else {}
    sharing.share(name, projects, with_consent=with_consent, restricted_uses=uses, **given)
    counts = "who may be shared count alone" if with_consent else "consent to be shared does not count"
    document = sharing.sharing(name)
    output.emit(ctx, document, lambda: output.echo(f"shared {name} with {', '.join(projects)}: {counts}"))


@cli.command()
@NAME
@click.option(
    "--with", "projects", multiple=True, metavar="PROJECT", help="A project that is to lose it; all unless given."
)
@options.YES
@click.pass_obj
def unshare(ctx: "Context", name: str, projects: tuple[str, ...], yes: bool) -> None:
    """Take a segment back from other projects: its members leave there at once.

    \b
    Example: vesica segment unshare frequent-buyers --with loyalty
    """
    sharing = ctx.project().sharing
    used = sharing.using(name, projects)
    output.confirm(ctx, f"Take segment {name} back? {_used(len(used), str(used))}", yes=yes)
    sharing.unshare(name, projects or None)
    document = sharing.sharing(name)
    output.emit(ctx, document, lambda: _sharing(document))


@cli.command()
@NAME
@click.pass_obj
def sharing(ctx: "Context", name: str) -> None:
    """Show with which projects a segment is shared, of those that you reach, and how many others there are."""
    document = ctx.project().sharing.sharing(name)
    output.emit(ctx, document, lambda: _sharing(document))


@cli.command()
@click.argument("name", help="The segment, or shared.PROJECT.SEGMENT.")
@click.argument("file", help=f"The CSV to write: {options.RESULT}.")
@click.option(
    "--use",
    "uses",
    multiple=True,
    metavar="USE",
    help=f"What the file is for: {options.FILE_USES}; all of them unless given.",
)
@click.option("--attribute", "attributes", multiple=True, metavar="NAME", help="A column beside the ids.")
@click.option("--within", metavar="SEGMENT", help="Only those who are in this segment too.")
@options.FORCE
@click.pass_obj
def export(
    ctx: "Context",
    *,
    name: str,
    file: str,
    uses: tuple[str, ...],
    attributes: tuple[str, ...],
    within: str | None,
    force: bool,
) -> None:
    """Write the ids of a segment's profiles to a CSV file, and their attributes if some are named.

    An attribute that this project does not have is empty, also where another project that shares the segment has it.

    A ' stands before an id that a spreadsheet could take for a formula, and before one that begins with '; a number with
    its sign stays as it is.

    Refused where a policy or a partner whose segment it reads forbids one of the uses; who fails a consent policy on one
    of them is left out. Without --use the file counts as for every use: name those that you need.

    \b
    Example: vesica segment export summer-buyers buyers.csv --use onsite-personalisation
    """
    size = ctx.project().files.export(name, file, uses=uses, attributes=attributes, within=within, force=force)
    document = {"segment": name, "file": file, "size": size, "uses": sorted(set(uses))}
    output.beside(ctx, file, document, lambda: output.echo(f"wrote {size:,} ids to {file}"))


@cli.command()
@NAME
@click.argument("new", help="The new name.")
@click.pass_obj
def rename(ctx: "Context", name: str, new: str) -> None:
    """Give a segment another name; destinations that get it follow.

    Refused where a rule, a consent policy, a feed or another project names it, and where a target knows it by its name
    alone: a file, a table, an object store, a program, or a template without an audience-id.

    \b
    Example: vesica segment rename summer-buyers summer-2026
    """
    _print_one(ctx, ctx.project().segments.rename(name, new))


@cli.command()
@NAME
@options.YES
@click.pass_obj
def delete(ctx: "Context", name: str, yes: bool) -> None:
    """Take a segment away; its profiles stay."""
    project = ctx.project()
    if not (yes or _confirm_used(ctx, project, name, "Delete")):
        output.confirm(ctx, f"Delete segment {name}?", yes=yes)
    project.segments.delete(name, anyway=True)
    output.emit(ctx, {"deleted": name}, lambda: output.echo(f"deleted segment {name}"))


def _confirm_used(ctx: "Context", project: "Project", name: str, verb: str) -> bool:
    """Ask before a segment is changed that other projects use; return whether somebody was asked."""
    found = project.sharing.using(name)
    if not len(found):
        return False
    output.confirm(ctx, f"{verb} segment {name}? {_used(len(found), str(found))}", yes=False)
    return True


def _used(count: int, named: str) -> str:
    """Return in words how many projects use a segment."""
    if not count:
        return "It is not used there."
    return f"{count} project{' uses' if count == 1 else 's use'} it: {named}."


def _sharing(document: "Mapping[str, Any]") -> None:
    rows = (
        (each["project"], "yes" if each["shared"] else "", "yes" if each["used"] else "")
        for each in document["projects"]
    )
    output.table(("project", "shared", "used there"), rows, empty="no other project that you reach")
    if hidden := document["hidden"]:
        output.echo(f"and with {hidden} other project{'' if hidden == 1 else 's'}")


def _print_shared(ctx: "Context", document: "Mapping[str, Any]") -> None:
    def table() -> None:
        names = ("at", "size", "came", "left")
        rows = ((output.time(each["at"]), *(each[name] for name in names[1:])) for each in document["evaluations"])
        output.table(names, rows, empty="not evaluated yet")
        output.echo()
        about = ("name", "size", "namespaces", "with_consent", "labels", "restricted_uses")
        output.lines((output.words(name), document[name]) for name in about)

    output.emit(ctx, document, table)


def _print_one(ctx: "Context", segment: "Segment", labels: "Sequence[Trace] | None" = None) -> None:
    def table() -> None:
        pairs = [("name", segment.name), ("size", segment.size), ("evaluated", output.time(segment.evaluated))]
        if segment.rule is not None:
            pairs += [("rule", segment.rule), ("reads", segment.uses)]
        if segment.unknown:
            pairs.append(("ids of no profile", segment.unknown))
        output.lines(pairs + [("label", trace) for trace in labels or ()])

    known = {} if labels is None else {"labels": sorted({trace.label for trace in labels})}
    output.emit(ctx, {**segment.as_dict(), **known}, table)


def _print_all(ctx: "Context", segments: list[dict[str, Any]]) -> None:
    names = ("name", "kind", "size", "evaluated", "rule")
    rows = ([output.time(row[name]) if name == "evaluated" else row[name] for name in names] for row in segments)
    output.emit(ctx, segments, lambda: output.table(names, rows, empty="no segments"))
