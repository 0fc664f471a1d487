"""The commands `vesica consent`: who may be shared, by the model, by what people said, and by consent policies."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from psi.errors import Remedy

from . import options, output, remedies

if TYPE_CHECKING:
    from .main import Context


def tcf_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what a TCF string must consent to."""
    for option in (
        click.option(
            "--vendor", type=int, metavar="ID", help="The vendor that a TCF string must consent to, such as 755."
        ),
        click.option(
            "--purpose",
            "purposes",
            type=int,
            multiple=True,
            metavar="N",
            help="A purpose that a TCF string must consent to; 1, 3 and 4 unless given.",
        ),
    ):
        command = option(command)
    return command


POLICY = click.argument("name", help="The policy; 'vesica consent policy list' shows them.")


@click.group()
def cli() -> None:
    """Say who may be shared."""


@cli.command()
@click.argument("model", metavar="opt-in|opt-out", help="Who is shared without a word: nobody, or everybody.")
@click.option("--dry-run", is_flag=True, help="Only say how many people would leave and come.")
@click.pass_obj
def model(ctx: "Context", model: str, dry_run: bool) -> None:
    """Choose who is shared when a person said nothing: nobody (opt-in) or everybody (opt-out).

    It limits whom we share, not whom we receive. A person's no always counts, in both. The next run applies the change;
    --dry-run tells what it would do, by namespace and by feed, and changes nothing.

    \b
    Example: vesica consent model opt-in --dry-run
    """
    if dry_run:
        found = ctx.project().reports.preview(model)
        output.emit(ctx, {**found, "dry_run": True}, lambda: _print_preview(found))
        return
    ctx.project().consent.set_model(model)
    output.emit(ctx, {"model": model}, lambda: output.echo(f"consent model: {model}"))


def _print_preview(found: dict[str, Any]) -> None:
    output.lines([("model", found["model"]), ("before", found["before"] or "not chosen"), ("changed", "nothing yet")])
    output.echo()
    rows = [("people", "all", *_moves(found["profiles"]))]
    rows += [("identities", name, *_moves(each)) for name, each in found["namespaces"].items()]
    for feed in found["feeds"]:
        where = f"feed {feed['feed']} to {feed['partner']} ({feed['status']})"
        rows.append(("people", where, *_moves(feed["profiles"])))
        rows += [("identities", f"{where}, {name}", *_moves(each)) for name, each in feed["namespaces"].items()]
    output.table(("what", "where", "would leave", "would come", "would stay"), rows)


def _moves(moves: dict[str, int]) -> tuple[int, int, int]:
    return moves["leave"], moves["come"], moves["stay"]


@cli.command("set")
@click.argument("profile", help="Your own id of the person, such as C1042.")
@click.argument(
    "share",
    metavar="y|n|p|u|dy|dn|LI|CT|CP|VI|PI",
    help="Yes, no, pending, unknown, yes or no by default, or a legal basis: legitimate interest (LI), contract (CT), "
    "compliance (CP), vital interest (VI), public interest (PI).",
)
@click.option(
    "--namespace", metavar="NAME", help=f"Only for the profile's identities in this namespace, {options.NAMESPACES}."
)
@click.option(
    "--at",
    metavar="TIME",
    help="When the person said so, such as 2026-01-31T08:00:00Z (or Unix seconds); now unless given.",
)
@click.option(
    "--basis", default="", metavar="TEXT", help="On which basis: a short code of your own, such as GDPR-6-1-a."
)
@click.pass_obj
def set_(ctx: "Context", profile: str, share: str, namespace: str | None, at: str | None, basis: str) -> None:
    """Note what one person said. The newest time wins, at the same time the stricter word.

    \b
    Example: vesica consent set C1042 n --namespace email_sha256
    """
    from node.people.consent import read_time

    when = None if at is None else read_time(at)
    changed = ctx.project().consent.set(profile, share, namespace, when, basis)
    document = {"profile": profile, "share": share, "namespace": namespace, "changed": changed}
    text = f"{share} noted" if changed else "nothing changed: the same or a newer word was there"
    output.emit(ctx, document, lambda: output.echo(text))


@cli.command("import")
@click.argument("file", type=click.Path(), help="The file, such as opt-outs.csv.")
@click.option("--id", "id_column", required=True, metavar="COLUMN", help="The column with the profile ids.")
@click.option(
    "--consent", "consent_column", metavar="COLUMN", help="The column that says y, n, p, u, dy, dn, or a legal basis."
)
@click.option("--tcf", "tcf_column", metavar="COLUMN", help="The column with IAB TCF strings, instead of --consent.")
@tcf_options
@click.option(
    "--namespace", metavar="NAME", help=f"Only for the profiles' identities in this namespace, {options.NAMESPACES}."
)
@click.option("--time", "time_column", metavar="COLUMN", help="The column that says when (ISO 8601 or Unix seconds).")
@click.option(
    "--basis", "basis_column", metavar="COLUMN", help="The column with the basis of each: short codes of your own."
)
@click.pass_obj
def import_(
    ctx: "Context",
    file: str,
    *,
    id_column: str,
    consent_column: str | None,
    tcf_column: str | None,
    vendor: int | None,
    purposes: tuple[int, ...],
    namespace: str | None,
    time_column: str | None,
    basis_column: str | None,
) -> None:
    """Note what many people said, from a CSV, JSON lines, Parquet, Arrow or Excel file.

    A TCF string counts as a yes if all purposes, and the vendor if one is given, have consent, else as a no; its time is
    that of its last update. A broken one costs its row. Words that are older than what is known are left out, and counted.

    \b
    Example: vesica consent import opt-outs.csv --id customer --consent share --time changed_at --basis basis
    """
    from node.imports.tcf import PURPOSES, Needed

    with output.progress(ctx) as report:
        found = ctx.project().consent.import_(
            file,
            id_column=id_column,
            consent_column=consent_column,
            tcf_column=tcf_column,
            needed=Needed(purposes=purposes or PURPOSES, vendor=vendor),
            namespace=namespace,
            time_column=time_column,
            basis_column=basis_column,
            progress=lambda done, total: report(f"reading {file}", done, total),
        )

    def table() -> None:
        counts = (found.rows, found.accepted, found.changed, found.unchanged)
        output.lines([*zip(("rows read", "accepted", "changed", "unchanged"), counts, strict=True)])
        if found.rejected:
            output.echo()
            rows = [
                (why, each["count"], ", ".join(map(str, each["lines"][:8]))) for why, each in found.rejected.items()
            ]
            output.table(("left out because", "count", "lines"), rows)

    output.emit(ctx, found.as_dict(), table)


@cli.command()
@click.argument("profile", required=False, help="Your own id of one person.")
@click.pass_obj
def show(ctx: "Context", profile: str | None) -> None:
    """Show the model and how many people said what, or what one person said and may be shared.

    May be shared who the model and the consent policies on all segments let through; policies on a label are shown
    below.

    \b
    Example: vesica consent show C1042
    """
    found = ctx.project().consent.show(profile)
    output.emit(ctx, found, lambda: _print_consent(found))


def _print_consent(found: dict[str, Any]) -> None:
    output.lines([("model", found["model"] or f"not chosen: {remedies.spelled(Remedy('consent.model'))}")])
    if "profile" in found:
        output.lines([("share", found["share"]), ("at", output.time(found["at"])), ("basis", found["basis"])])
        output.echo()
        rows = [
            (name, each["share"], output.time(each["at"]), each["basis"], each["may_be_shared"])
            for name, each in found["namespaces"].items()
        ]
        output.table(("namespace", "share", "at", "basis", "may be shared"), rows, empty="no identities")
        if found["policies"]:
            output.echo()
            judged = [
                (each["name"], f"segments with {each['label']}" if each["label"] else "all segments", each["met"])
                for each in found["policies"]
            ]
            output.table(("consent policy", "of", "qualifies"), judged)
        return
    output.echo()
    counted = [("profile", share, count) for share, count in found["profiles"].items()]
    for name, counts in found["namespaces"].items():
        counted += [(name, share, count) for share, count in counts.items()]
    output.table(("said for", "share", "profiles"), counted, empty="no profiles yet")
    if found["bases"]:
        output.echo()
        output.table(("basis", "profiles"), list(found["bases"].items()))


@cli.group()
def policy() -> None:
    """Say which people qualify for a use: IF a use, a label or a condition applies, THEN another condition must be met."""


def _conditions(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--then",
            "needs",
            required=True,
            metavar="EXPR",
            help="Who qualifies: a segment rule, such as \"consent.share = 'y'\".",
        ),
        click.option(
            "--if",
            "applies",
            metavar="EXPR",
            help="To whom it applies: a segment rule, such as \"country = 'GB'\"; else everybody.",
        ),
        click.option("--label", metavar="LABEL", help="Only for segments that carry this label, such as C5."),
    ):
        command = option(command)
    return command


@policy.command("create")
@click.argument("name", help="What to call the policy, such as optin.")
@_conditions
@click.option(
    "--action", default="segment-match", show_default=True, metavar="USE", help=f"What it is for: {options.ACTIONS}."
)
@click.option("--enable", is_flag=True, help="Apply it from now on.")
@click.pass_obj
def create_policy(
    ctx: "Context", name: str, *, needs: str, applies: str | None, label: str | None, action: str, enable: bool
) -> None:
    """Let only people qualify for a use who meet a condition, over attributes, segments and consent; off at first.

    Conditions can read what people said: consent.share, or consent.email_sha256 for one namespace. See who would qualify
    with 'vesica consent policy preview' first.

    \b
    Example: vesica consent policy create optin --if "country = 'GB'" --then "email_optin = true"
    """
    policies = ctx.project().consent_policies
    made = policies.create(name, needs, action=action, label=label, applies=applies, enable=enable)
    output.emit(ctx, asdict(made), lambda: output.echo(f"consent policy {name} is {made.status}"))


@policy.command("preview")
@click.argument("segments", nargs=-1, required=True, metavar="SEGMENT...", help="Segments of yours.")
@_conditions
@click.pass_obj
def preview_policy(
    ctx: "Context", segments: tuple[str, ...], needs: str, applies: str | None, label: str | None
) -> None:
    """Count who of some segments would qualify under a policy, without saving it.

    \b
    Example: vesica consent policy preview high-value --then "email_optin = true"
    """
    found = ctx.project().consent_policies.preview(segments, needs, label=label, applies=applies)
    columns = ("segment", "size", "applies", "segment_only", "both", "consented_only")
    rows = [[getattr(each, column) for column in columns] for each in found]
    shown = ("segment", "people", "applies", "in the segment only", "both: qualify", "qualify, elsewhere")
    output.emit(ctx, [asdict(each) for each in found], lambda: output.table(shown, rows))


@policy.command("list")
@click.pass_obj
def list_policies(ctx: "Context") -> None:
    """List the consent policies."""
    found = [asdict(each) for each in ctx.project().consent_policies.all()]
    columns = ("name", "action", "label", "applies", "needs", "status")
    rows = [[each[column] for column in columns] for each in found]
    output.emit(ctx, found, lambda: output.table(("name", "action", "label", "if", "then", "status"), rows))


@policy.command("enable")
@POLICY
@click.pass_obj
def enable_policy(ctx: "Context", name: str) -> None:
    """Apply a consent policy from the next run on."""
    ctx.project().consent_policies.enable(name)
    output.emit(ctx, {"name": name, "status": "enabled"}, lambda: output.echo(f"{name} is enabled"))


@policy.command("disable")
@POLICY
@click.pass_obj
def disable_policy(ctx: "Context", name: str) -> None:
    """Stop applying a consent policy."""
    ctx.project().consent_policies.disable(name)
    output.emit(ctx, {"name": name, "status": "disabled"}, lambda: output.echo(f"{name} is disabled"))


@policy.command("delete")
@POLICY
@options.YES
@click.pass_obj
def delete_policy(ctx: "Context", name: str, yes: bool) -> None:
    """Take a consent policy away: whom it kept out may be shared with the next run."""
    output.confirm(ctx, f"Delete consent policy {name}?", yes=yes)
    ctx.project().consent_policies.delete(name)
    output.emit(ctx, {"name": name, "deleted": True}, lambda: output.echo(f"{name} is gone"))
