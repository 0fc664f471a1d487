from typing import TYPE_CHECKING, Any

import click

from . import output

if TYPE_CHECKING:
    from .main import Context


@click.group()
def cli() -> None:
    """Say who may be shared."""


@cli.command()
@click.argument("model", metavar="opt-in|opt-out")
@click.pass_obj
def model(ctx: "Context", model: str) -> None:
    """Choose who is shared when a person said nothing: nobody (opt-in) or everybody (opt-out).

    A person's no always counts. The next run applies the change.

    \b
    Example: vesica consent model opt-in
    """
    ctx.project().consent.set_model(model)
    output.emit(ctx, {"model": model}, lambda: click.echo(f"consent model: {model}"))


@cli.command("set")
@click.argument("profile")
@click.argument("share", metavar="y|n|p|u|dy|dn|LI|CT|CP|VI|PI")
@click.option("--namespace", metavar="NAME", help="Only for the profile's identities in this namespace.")
@click.option("--at", metavar="TIME", help="When the person said so (ISO 8601 or Unix seconds); now unless given.")
@click.pass_obj
def set_(ctx: "Context", profile: str, share: str, namespace: str | None, at: str | None) -> None:
    """Note what one person said. The newest time wins, at the same time the stricter word.

    \b
    Example: vesica consent set C1042 n --namespace email_sha256
    """
    from node.consent import read_time

    changed = ctx.project().consent.set(profile, share, namespace, None if at is None else read_time(at))
    document = {"profile": profile, "share": share, "namespace": namespace, "changed": changed}
    text = f"{share} noted" if changed else "nothing changed: the same or a newer word was there"
    output.emit(ctx, document, lambda: click.echo(text))


@cli.command("import")
@click.argument("file", type=click.Path())
@click.option("--id", "id_column", required=True, metavar="COLUMN", help="The column with the profile ids.")
@click.option("--consent", "consent_column", required=True, metavar="COLUMN", help="The column that says y, n, ...")
@click.option("--namespace", metavar="NAME", help="Only for the profiles' identities in this namespace.")
@click.option("--time", "time_column", metavar="COLUMN", help="When each was said (ISO 8601 or Unix seconds).")
@click.pass_obj
def import_(
    ctx: "Context", file: str, id_column: str, consent_column: str, namespace: str | None, time_column: str | None
) -> None:
    """Note what many people said, from a CSV, JSON lines or Parquet file.

    \b
    Example: vesica consent import opt-outs.csv --id customer --consent share --time changed_at
    """
    with output.progress(ctx) as report:
        found = ctx.project().consent.import_(
            file,
            id_column=id_column,
            consent_column=consent_column,
            namespace=namespace,
            time_column=time_column,
            progress=lambda done, total: report(f"reading {file}", done, total),
        )

    def table() -> None:
        output.lines([("rows read", found.rows), ("accepted", found.accepted), ("changed", found.changed)])
        if found.rejected:
            click.echo()
            rows = [
                (why, each["count"], ", ".join(map(str, each["lines"][:8]))) for why, each in found.rejected.items()
            ]
            output.table(("left out because", "count", "lines"), rows)

    output.emit(ctx, found.as_dict(), table)


@cli.command()
@click.argument("profile", required=False)
@click.pass_obj
def show(ctx: "Context", profile: str | None) -> None:
    """Show the model and how many people said what, or what one person said."""
    found = ctx.project().consent.show(profile)
    output.emit(ctx, found, lambda: _print_consent(found))


def _print_consent(found: dict[str, Any]) -> None:
    output.lines([("model", found["model"] or "not chosen: vesica consent model opt-in|opt-out")])
    if "profile" in found:
        output.lines([("share", found["share"]), ("at", found["at"])])
        click.echo()
        rows = [(name, each["share"], each["may_be_shared"]) for name, each in found["namespaces"].items()]
        output.table(("namespace", "share", "may be shared"), rows, empty="no identities")
        return
    click.echo()
    rows = [("profile", share, count) for share, count in found["profiles"].items()]
    for name, counts in found["namespaces"].items():
        rows += [(name, share, count) for share, count in counts.items()]
    output.table(("said for", "share", "profiles"), rows, empty="no profiles yet")
