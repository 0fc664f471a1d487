"""The command `vesica audience load`: inbound files of Audience Manager."""

from typing import TYPE_CHECKING

import click

from . import output

if TYPE_CHECKING:
    from .main import Context

_LINES = {  # of the receipt
    "records_received": "records received",
    "format_errors": "format errors",
    "invalid_aam_ids": "invalid AAM ids",
    "invalid_device_ids": "invalid device ids",
    "no_matching_id": "no matching id",
    "no_trait_realised": "no trait realised",
    "records_processed": "records processed",
    "stored_records": "stored records",
    "devices": "devices",
    "signals": "signals",
    "unused_signals": "unused signals",
    "realised_traits": "realised traits",
    "removed_traits": "removed traits",
    "traits_failed_validation": "traits failed validation",
    "records_with_failed_traits": "records with such traits",
}


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE...", help="Inbound files.")
@click.option("--dry-run", is_flag=True, help="Show the receipt, and change nothing.")
@click.pass_obj
def load(ctx: "Context", files: tuple[str, ...], dry_run: bool) -> None:
    """Load files of signals and traits, and print a receipt for each data source.

    The name says whose ids and whose traits are in a file: ftp_dpm_SOURCE[_TARGET]_TIME.sync adds to what its ids have,
    .overwrite replaces their traits of TARGET; parts end in .1, .2, and packed files in .gz. A line is an id, a tab, and a
    list of d_sid=TRAIT, d_unsid=TRAIT, ic=CODE or KEY=VALUE. A broken line costs itself. The same file again changes nothing
    more.

    \b
    Example: vesica audience load ftp_dpm_2000000_1366545717.sync
    """
    with output.progress(ctx) as report:
        receipts = ctx.project().audience.load(
            files, rehearse=dry_run, progress=lambda done, total: report("loading records", done, total)
        )

    def text() -> None:
        for receipt in receipts:
            output.echo(", ".join(receipt["files"]) + (": nothing was changed" if dry_run else ""))
            output.lines((name, f"{receipt[key]:,}") for key, name in _LINES.items())
            cells = ((each["reason"], f"{each['count']:,}", each["lines"]) for each in receipt["broken_lines"])
            if receipt["broken_lines"]:
                output.table(("broken lines", "count", "such as lines"), cells)

    output.emit(ctx, receipts, text)
