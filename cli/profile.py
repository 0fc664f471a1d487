"""The commands `vesica profile`: import people, and see who is known."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from . import erasing, import_reports, inputs, output, remedies
from .consent import tcf_options

if TYPE_CHECKING:
    from node.imports.identity_columns import ImportReport
    from node.imports.other_products import ExportReport

    from .main import Context


@click.group()
def cli() -> None:
    """Bring people's records in, and look at them."""


@cli.command("import")
@click.argument("file", type=click.Path(), required=False, help='The file, such as crm.csv; "-" for standard input.')
@click.option("--sql", metavar="QUERY", help="A SELECT to read people from, instead of a file.")
@click.option(
    "--database",
    envvar="VESICA_SOURCE_URL",
    metavar="URL",
    help="The SQLite or PostgreSQL database that answers --sql (VESICA_SOURCE_URL); it is only read.",
)
@click.option("--dataset", required=True, metavar="NAME", help="What to call this source of records, such as crm.")
@click.option("--id", "id_column", required=True, metavar="COLUMN", help="The column with your own id of a person.")
@click.option(
    "--identity",
    "identities",
    multiple=True,
    metavar="COLUMN=NAMESPACE[:raw|:hashed][:primary]",
    help="A column to match by: email_sha256, phone_sha256, ecid, idfa, gaid, idfv, android_id, or a name of your own.",
)
@click.option("--consent", metavar="COLUMN", help="The column that says y, n, p, u, dy, dn, or a legal basis.")
@click.option("--consent-tcf", metavar="COLUMN", help="The column with IAB TCF strings, instead of --consent.")
@tcf_options
@click.option("--attribute", "attributes", multiple=True, metavar="COLUMN", help="A column to keep for segment rules.")
@click.option("--region", metavar="CC", help="The country of phone numbers without a country code, such as GB.")
@click.pass_obj
def import_(
    ctx: "Context",
    file: str | None,
    *,
    sql: str | None,
    database: str | None,
    dataset: str,
    id_column: str,
    identities: tuple[str, ...],
    consent: str | None,
    consent_tcf: str | None,
    vendor: int | None,
    purposes: tuple[int, ...],
    attributes: tuple[str, ...],
    region: str | None,
) -> None:
    """Import people from CSV, JSON lines, Parquet, Arrow or Excel (the first sheet), or from a database.

    CSV, JSON lines and Arrow may be gzipped.

    E-mail addresses and phone numbers of identity columns are hashed on the way in; other columns that have them are
    refused, and values that may be some are reported. A broken row costs only itself; the report counts what was left
    out, by line.

    A no of --consent always counts. Another word there has no time of its own: it changes what such imports said before,
    but lifts no withdrawal that came in otherwise. The report counts those; 'vesica consent set' lifts one.

    \b
    Example: vesica profile import crm.csv --dataset crm --id customer \\
                 --identity email=email_sha256 --identity mobile=phone_sha256 --region GB --consent share
    """
    from node.imports.identity_columns import IdentityColumn
    from node.imports.tcf import PURPOSES, Needed
    from node.inputs.queries import given

    columns = [IdentityColumn.parse(text) for text in identities]
    what = inputs.NAME if file == "-" else file or "the query"
    with ExitStack() as stack:
        source = stack.enter_context(inputs.standard_input()) if file == "-" else given(file, sql, database)
        report = stack.enter_context(output.progress(ctx))
        found = ctx.project().profiles.import_(
            source,
            dataset=dataset,
            id_column=id_column,
            identities=columns,
            consent_column=consent,
            tcf_column=consent_tcf,
            needed=Needed(purposes=purposes or PURPOSES, vendor=vendor),
            attributes=attributes,
            region=region,
            progress=lambda done, total: report(f"reading {what}", done, total),
        )
    output.emit(ctx, found.as_dict(), lambda: _print_report(found))


def _print_report(report: "ImportReport") -> None:
    output.lines(
        [
            ("file", " ".join(filter(None, [report.file, report.kind, report.encoding]))),
            ("rows read", report.rows),
            *import_reports.counts(report),
        ]
    )
    output.echo()
    import_reports.print_columns(report)
    _print_withdrawals(report.withdrawals_kept)


def _print_withdrawals(kept: int) -> None:
    if kept:
        lift = remedies.command("consent.set", profile="ID", share="y")
        output.echo(f"note: a withdrawal that came in otherwise stays; to lift one: {lift}")


cli.add_command(erasing.erase)
cli.add_command(erasing.readmit)


@cli.group("import-from")
def import_from() -> None:
    """Take over people, consents and segments from another product's export."""


def _export(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.argument("file", type=click.Path(), help="The file that the product exported."),
        click.option(
            "--dataset", required=True, metavar="NAME", help="What to call this source of records, such as crm."
        ),
        click.option("--segments", type=click.Path(), metavar="FILE", help="Names of segments by id: JSON or CSV."),
        click.option("--into", multiple=True, metavar="SEGMENT", help="A list of yours that the import may change."),
        click.option("--region", metavar="CC", help="The country of phone numbers without a country code, such as GB."),
    ):
        command = option(command)
    return command


@import_from.command("segment-match")
@_export
@click.option("--id", "id_path", default="", metavar="PATH", help="Where your own id of a person is, such as _fern.id.")
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    metavar="THEIRS=OURS[:raw|:hashed]",
    help="What identities of another namespace are; the standard ones are known.",
)
@click.option("--attribute", "attributes", multiple=True, metavar="PATH[=NAME]", help="A field to keep for rules.")
@click.pass_obj
def import_from_segment_match(ctx: "Context", /, file: str, **options: Any) -> None:
    """Take over an Experience Platform profile export: JSON lines, Parquet or Arrow, gzipped or not.

    identityMap gives profiles and identities, consents what people said, segmentMembership lists: realized and existing
    are in, exited is out. Memberships that came from a partner are left out. Without --id the first identity that can be
    used, the primary one if it is marked, is the profile's id; with it a record that has none is left out. A path or a
    namespace that no record has is refused. Consent without a time lifts no withdrawal that came in otherwise.

    \b
    Example: vesica profile import-from segment-match export.json --dataset aep --segments names.json \\
                 --namespace CRMID=crmid --attribute person.gender
    """
    with output.progress(ctx) as report:
        found = ctx.project().profiles.import_segment_match(
            file, progress=lambda done, total: report(f"reading {file}", done, total), **options
        )
    output.emit(ctx, found.as_dict(), lambda: _print_export(found))


@import_from.command("audience-manager")
@_export
@click.option("--namespace", default="", metavar="NAME", help="What the file's ids are, if its name does not say it.")
@click.option("--own-ids", is_flag=True, help="The file's ids are your own profile ids.")
@click.pass_obj
def import_from_audience_manager(ctx: "Context", /, file: str, **options: Any) -> None:
    """Take over an Audience Manager data file: an id, a tab, and traits or segments a line.

    Inbound files (.sync adds, .overwrite says all of its people) and outbound ones (iter adds, full says all of its
    segments) are known by their names. Traits and segments become lists, named by --segments: the product's own list of
    traits as JSON will do.

    \b
    Example: vesica profile import-from audience-manager ftp_dpm_20914_1700000000.sync --dataset aam \\
                 --segments traits.json
    """
    with output.progress(ctx) as report:
        found = ctx.project().profiles.import_audience_manager(
            file, progress=lambda done, total: report(f"reading {file}", done, total), **options
        )
    output.emit(ctx, found.as_dict(), lambda: _print_export(found))


def _print_export(report: "ExportReport") -> None:
    output.lines(
        [
            ("file", f"{report.file} {report.kind}"),
            ("records read", report.records),
            *import_reports.counts(report),
        ]
    )
    output.echo()
    output.table(("identities", "taken"), list(report.identities.items()), empty="no identities")
    output.echo()
    rows = [(each.name, each.id, each.size, each.created) for each in report.segments]
    output.table(("segment", "was", "people", "new"), rows, empty="no segments")
    left_out = [("record", reason, tally) for reason, tally in report.rejected.items()]
    left_out += [("value", reason, tally) for reason, tally in report.dropped.items()]
    import_reports.print_left_out(left_out)
    import_reports.print_doubts(report.doubts)
    import_reports.print_outdated(report.outdated)
    _print_withdrawals(report.withdrawals_kept)


@cli.command()
@click.pass_obj
def count(ctx: "Context") -> None:
    """Count profiles and identities."""
    found = ctx.project().profiles.count()

    def table() -> None:
        output.lines([("profiles", found["profiles"])])
        output.echo()
        rows = [(name, each["identities"], each["profiles"]) for name, each in found["namespaces"].items()]
        output.table(("namespace", "identities", "profiles"), rows, empty="no identities yet")

    output.emit(ctx, found, table)


@cli.command()
@click.argument("profile", help="Your own id of the person, such as C1042.")
@click.pass_obj
def show(ctx: "Context", profile: str) -> None:
    """Show one profile by your own id: identities, consent, attributes, the segments it is in."""
    found = ctx.project().profiles.show(profile)

    def table() -> None:
        pairs = [(name, found[name]) for name in ("id", "share", "segments", "received", "shared")]
        for dataset, attributes in found["attributes"].items():
            pairs += [(f"{dataset}.{name}", value) for name, value in attributes.items()]
        output.lines(pairs)
        output.echo()
        rows = [(each["namespace"], each["value"], each["primary"], each["share"]) for each in found["identities"]]
        output.table(("namespace", "identity", "primary", "share"), rows, empty="no identities")

    output.emit(ctx, found, table)
