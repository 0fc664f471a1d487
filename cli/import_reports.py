"""What an import or a match took of a file and what it left out: by reason, with counts and lines."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import output

if TYPE_CHECKING:
    from node.imports.identity_columns import ImportReport, Tally
    from node.imports.other_products import ExportReport

LINES_SHOWN = 8


def counts(report: "ImportReport | ExportReport") -> "list[tuple[str, object]]":
    """Return the lines on how many records of a file were taken, and what they changed."""
    return [
        ("accepted", report.accepted),
        *repeated(report.repeated),
        ("profiles added", report.profiles_added),
        ("profiles updated", report.profiles_updated),
        ("consents changed", report.consents_changed),
        ("withdrawals kept", report.withdrawals_kept),
    ]


def repeated(tally: "Tally | None") -> "list[tuple[str, str]]":
    """Return the line on rows that repeat an id, if there are any."""
    if tally is None:
        return []
    return [
        ("repeat an id", f"{tally['count']:,}, in lines {_first(tally['lines'])}; of attributes the last row counts")
    ]


def print_columns(report: "ImportReport", *, err: bool = False) -> None:
    """Print what each identity column gave, and what was left out; with `err` to stderr."""
    from node.inputs.normalise import Reason

    columns = ("column", "rule", "accepted", "duplicates", "looked like")
    rows = [
        (each.column, each.rule, each.accepted, each.duplicates, ", ".join(each.forms) or "-")
        for each in report.columns
    ]
    output.table(columns, rows, empty="no identity columns", err=err)
    left_out = [("row", reason, tally) for reason, tally in report.rejected.items()]
    for each in report.columns:
        left_out += [(f"value of {each.column}", reason, tally) for reason, tally in each.dropped.items()]
    print_left_out(left_out, err=err)
    if any(Reason.NO_REGION.text in each.dropped for each in report.columns):
        output.echo("note: --region takes national phone numbers, such as --region GB", err=err)
    for each in report.columns:
        if each.note:
            output.echo(f"note: {each.column} was {each.note}", err=err)
    print_doubts(report.doubts, err=err)
    print_outdated(report.outdated, err=err)


def print_doubts(found: "Mapping[str, Mapping[str, Tally]]", *, err: bool = False) -> None:
    """Print what of the columns that are kept as they are may be personal data."""
    for column, reasons in found.items():
        for reason, tally in reasons.items():
            lines = _first(tally["lines"])
            output.echo(f"warning: {column} has {tally['count']:,} values {reason}, kept as they are: {lines}", err=err)


def print_outdated(found: "Mapping[str, str]", *, err: bool = False) -> None:
    """Print whose rules no longer fit the columns that were imported."""
    for name, wrong in found.items():
        output.echo(f"warning: the rule of {name} no longer fits: {wrong}", err=err)


def print_left_out(found: "Sequence[tuple[str, str, Tally]]", *, err: bool = False) -> None:
    """Print what was left out: what it is, why, how many, and the first lines."""
    if found:
        output.echo(err=err)
        rows = [(what, why, tally["count"], _first(tally["lines"])) for what, why, tally in found]
        output.table(("left out", "because", "count", "lines"), rows, err=err)


def _first(lines: list[int]) -> str:
    return ", ".join(map(str, lines[:LINES_SHOWN])) + (", ..." if len(lines) > LINES_SHOWN else "")
