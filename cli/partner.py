"""The commands `vesica partner`: connections with other organisations."""

from typing import TYPE_CHECKING, Any

import click

from . import letters, options, output, remedies
from . import terms as in_words

if TYPE_CHECKING:
    from .main import Context

NAME = click.argument("name", help="What the partner is called here; 'vesica partner list' shows it.")


@click.group()
def cli() -> None:
    """Connect with other organisations, and end connections."""


@cli.command("id")
@click.option("--regenerate", is_flag=True, help="Make a new one; the old one is refused from then on.")
@click.pass_obj
def id_(ctx: "Context", regenerate: bool) -> None:
    """Print this project's Connect ID, to be given to a partner by a way that you both trust.

    \b
    Example: vesica partner id
    """
    connect_id = ctx.project().partners.connect_id(regenerate=regenerate)
    document = {"connect_id": connect_id.encode(), "address": connect_id.address, "expires": connect_id.expires}

    def text() -> None:
        output.echo(connect_id.encode())
        output.echo(f"expires {output.time(connect_id.expires)}; who has it may ask to connect", err=True)

    output.emit(ctx, document, text)


@cli.command()
@click.argument("connect_id", help="What the partner's 'vesica partner id' printed: vesica1...")
@click.option(
    "--as",
    "alias",
    metavar="NAME",
    help="What to call the partner here, such as acme; its organisation's name unless given.",
)
@options.YES
@click.pass_obj
def request(ctx: "Context", connect_id: str, alias: str | None, yes: bool) -> None:
    """Ask the project behind a Connect ID to connect; shows who it is and the terms first.

    \b
    Example: vesica partner request vesica1aeaq... --as acme
    """
    partners = ctx.project().partners
    found = partners.look_up(connect_id)
    shown = found.as_dict()
    if not ctx.json:
        output.lines(
            [
                ("organisation", shown["organisation"]),
                ("project", shown["project"]),
                ("key", in_words.fingerprint(shown["key"])),
                ("matches by", shown["namespaces"]),
                *_differences(shown),
            ]
        )
        _say(shown["terms"])
    output.confirm(ctx, f"Ask {shown['organisation']} to connect on these terms?", yes=yes)
    name = partners.request(found, alias=alias)
    document = {**shown, "alias": name, "status": "pending"}
    output.emit(ctx, document, lambda: output.echo(f"partner {name} is pending until it accepts"))


def _differences(shown: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            "will not match",
            f"{each['namespace']}: we normalise by {', '.join(each['ours'])}, they by {', '.join(each['theirs'])}",
        )
        for each in shown["mismatches"]
    ]


@cli.command("list")
@click.pass_obj
def list_(ctx: "Context") -> None:
    """List partners with their status, the number of segments shared and received, and why a connection ended."""
    rows = ctx.project().reports.partners()
    columns = ("alias", "organisation", "project", "status", "segments_shared", "segments_received", "reason")
    names = ("partner", "organisation", "project", "status", "shared", "received", "reason")
    letters.emit(
        ctx,
        rows,
        lambda: output.table(names, ([row[column] for column in columns] for row in rows), empty="no partners"),
    )


@cli.command()
@NAME
@click.pass_obj
def show(ctx: "Context", name: str) -> None:
    """Show how things stand with a partner: what was agreed, what is used up, what waits, whether its key changed."""
    document = ctx.project().reports.partner(name)
    letters.emit(ctx, document, lambda: output.lines(_overview(document)))


def _overview(document: dict[str, Any]) -> list[tuple[str, Any]]:
    epoch = document["epoch"]
    blocked = output.time(document["key_changed"])
    return [
        ("partner", document["alias"]),
        ("organisation", document["organisation"]),
        ("project", document["project"]),
        ("status", document["status"]),
        ("reason", document["reason"] or None),
        ("key", document["key"]),
        ("another key", f"seen at {blocked}: nothing is exchanged until its own is back" if blocked else "not seen"),
        ("address", document["address"] or "none: it calls us"),
        ("agreement", document["agreement"]),
        ("matches by", document["namespaces"]),
        *in_words.of(document["terms"]),
        ("key epoch", f"{epoch['number']}, ends {output.time(epoch['ends'])}" if epoch else "none yet"),
        ("our budget left", output.budget(document["our_budget"])),
        ("its budget left", output.budget(document["their_budget"])),
        ("segments", f"{document['segments_shared']} shared, {document['segments_received']} received"),
        ("letters waiting", document["letters_waiting"]),
        ("last contact", output.time(document["last_contact"])),
        ("restored", output.time(document["restored"])),
        ("we keep", _heads(document["heads"]["we_keep"], "its audit log")),
        ("it keeps", _heads(document["heads"]["they_keep"], "our audit log")),
        ("pre-flight", _compared(document["alias"], document["preflight"])),
    ]


def _heads(kept: dict[str, Any], log: str) -> str:
    newest = f", newest {kept['newest']}" if kept["newest"] else ""
    return f"heads of {log}: {kept['count']}{newest}"


def _compared(name: str, preflight: dict[str, Any] | None) -> str:
    if preflight is None:
        return f"not asked yet: {remedies.command('partner.preflight', name=name)}"
    if preflight["status"] == "asked":
        return "asked; the partner has not answered yet"
    if preflight["difference"] is None:
        return f"the same results on test identities of set {preflight['set']}"
    found = preflight["difference"]
    results = f" ({found['ours']} here, {found['theirs']} there)" if "ours" in found else ""
    return f"different: {found['what']}{results}"


@cli.command()
@NAME
@click.pass_obj
def preflight(ctx: "Context", name: str) -> None:
    """Compare how both sides normalise: both hash the same test identities, and both see the first difference.

    The identities are fixed in the program. Run it before the first estimate.
    """
    document = ctx.project().partners.preflight(name)
    output.emit(ctx, document, lambda: output.echo(_compared(name, document)))


@cli.command()
@NAME
@options.YES
@click.pass_obj
def allow(ctx: "Context", name: str, yes: bool) -> None:
    """Let a partner that receives from us evaluate its whole universe once more in this window.

    It has to after it was restored from a backup, or connected again; without it the partner is refused
    (evaluations_spent) until the next window begins.
    """
    question = f"Let {name} ask once more about as many people as it has? What it asked before counts no more."
    output.confirm(ctx, question, yes=yes)
    ctx.project().partners.allow(name)
    output.emit(
        ctx, {"alias": name, "allowed": True}, lambda: output.echo(f"partner {name} may evaluate its universe again")
    )


@cli.command()
@NAME
@click.option(
    "--agreement",
    metavar="HASH",
    help="Do not ask: accept the agreement with this hash, which 'vesica partner show' printed, and no other.",
)
@click.pass_obj
def accept(ctx: "Context", name: str, agreement: str | None) -> None:
    """Accept a partner's request: both sides are active then, and either may share.

    It shows who asks and on what terms, and asks. If the partner has asked for something else meanwhile, nothing is
    accepted.

    \b
    Example: vesica partner accept acme
    """
    partners = ctx.project().partners
    if agreement is None:
        shown = partners.show_request(name)
        agreement = shown["agreement"]
        output.confirm_shown(
            ctx,
            f"Connect with {shown['organisation']} on these terms?",
            lambda: _show_asked(shown),
            f"'{remedies.command('partner.show', name=name)}' says who asks and on what terms: accept it with --agreement HASH.",
        )
    partners.accept(name, agreement=agreement)
    _done(ctx, name, "active")


def _show_asked(document: dict[str, Any]) -> None:
    output.lines(
        [
            ("organisation", document["organisation"]),
            ("project", document["project"]),
            ("key", in_words.fingerprint(document["key"])),
            ("address", document["address"] or "none: it calls us"),
            ("matches by", document["namespaces"]),
        ]
    )
    _say(document["terms"])


STEPS = {
    "accept": "{name} has proposed a change: '{agree}' shows it",
    "confirm": "you have accepted a change: it is in force once {name} has confirmed; '{agree} --decline' takes that back",
    "wait": "you have proposed a change: {name} has not answered yet; '{agree} --decline' takes it back",
}


def _say(terms: dict[str, Any]) -> None:
    """Print terms in plain words."""
    output.echo()
    for sentence in in_words.sentences(terms):
        output.say(sentence)
    output.echo()


@cli.command()
@NAME
@click.pass_obj
def terms(ctx: "Context", name: str) -> None:
    """Explain in plain words what is agreed with a partner, or what it asks for.

    \b
    Example: vesica partner terms acme
    """
    document = ctx.project().reports.partner_terms(name)
    explained = in_words.sentences(document["terms"])

    def people() -> None:
        names = ("partner", "organisation", "status", "version", "agreement", "key", "matches by")
        values = (document[each] for each in ("alias", "organisation", "status", "version", "agreement"))
        output.lines(zip(names, (*values, in_words.fingerprint(document["key"]), document["namespaces"]), strict=True))
        _say(document["terms"])
        output.lines(in_words.of(document["terms"]))
        in_words.show_last_change(name, document)
        if document["change"]:
            agree = remedies.command("partner.agree", name=name)
            output.echo()
            output.say(STEPS[document["change"]["step"]].format(name=name, agree=agree))

    output.emit(ctx, {**document, "explained": explained}, people)


@cli.command()
@NAME
@click.option(
    "--decline",
    is_flag=True,
    help="Decline what the partner has proposed, or take back what you accepted or proposed; what is agreed goes on.",
)
@click.option("--reason", default="", metavar="TEXT", help="What the partner reads as the reason for declining.")
@click.option(
    "--agreement",
    metavar="HASH",
    help="Do not ask: accept the change that leads to the agreement with this hash, which 'vesica partner terms --json' "
    "printed, and no other.",
)
@click.option("--yes", is_flag=True, help="Do not ask before proposing.")
@click.pass_obj
def agree(ctx: "Context", name: str, decline: bool, reason: str, agreement: str | None, yes: bool) -> None:
    """Change what is agreed with a partner: accept what it has proposed, or propose what this project offers now.

    That is its present terms ('vesica project terms') and the namespaces that it has. The stricter side wins in each term.
    What is agreed, and the feeds, go on meanwhile.

    \b
    Example: vesica partner agree acme
    """
    partners = ctx.project().partners
    if decline:
        status = "declined" if partners.decline_change(name, reason) else "taken back"
        _changed(ctx, name, status, f"{status}: {name} is told that nothing changes")
        return
    if agreement is None:
        change = partners.show_change(name)
        if change["step"] == "propose":
            if not ctx.json:
                in_words.show_change(change)
            output.confirm(ctx, f"Propose it to {name}?", yes=yes)
            partners.propose(name)
            _changed(ctx, name, "proposed", f"proposed to {name}: what is agreed goes on until it accepts")
            return
        agreement = change["agreement"]
        output.confirm_shown(
            ctx,
            f"Accept this change of the agreement with {name}?",
            lambda: in_words.show_change(change),
            f"'{remedies.command('partner.terms', name=name)} --json' says what would change: accept it with --agreement HASH.",
        )
    partners.agree(name, agreement=agreement)
    _changed(ctx, name, "accepted", f"accepted: it is in force once {name} has confirmed")


def _changed(ctx: "Context", name: str, status: str, text: str) -> None:
    output.emit(ctx, {"alias": name, "change": status}, lambda: output.echo(text))


@cli.command()
@NAME
@click.option("--reason", default="", metavar="TEXT", help="What the partner reads as the reason.")
@click.pass_obj
def decline(ctx: "Context", name: str, reason: str) -> None:
    """Decline a partner's request."""
    ctx.project().partners.decline(name, reason)
    _done(ctx, name, "declined")


@cli.command()
@NAME
@click.option("--reason", default="", metavar="TEXT", help="What the partner reads as the reason.")
@options.YES
@click.pass_obj
def disconnect(ctx: "Context", name: str, reason: str, yes: bool) -> None:
    """End a connection: feeds stop, and memberships are purged on both sides. Takes back an unanswered request too."""
    question = f"End the connection with {name}? Feeds stop, and what was shared is purged on both sides."
    output.confirm(ctx, question, yes=yes)
    ctx.project().partners.disconnect(name, reason)
    _done(ctx, name, "disconnected")


@cli.command()
@NAME
@options.YES
@click.pass_obj
def rotate(ctx: "Context", name: str, yes: bool) -> None:
    """End the key epoch with a partner now: secret and caches are destroyed, and the next run makes everything again.

    What was received stays readable meanwhile, and the partner follows by itself. Your people are evaluated again: the
    runs of a partner that shares with you wait until its next window, or until it says 'vesica partner allow'. Estimates
    that it asks wait until a day after you last showed it a new universe. At most once a day.

    \b
    Example: vesica partner rotate acme
    """
    output.confirm(ctx, f"End the key epoch with {name}? Its secret and caches are destroyed.", yes=yes)
    document = {"alias": name, **ctx.project().partners.rotate(name)}

    def text() -> None:
        output.echo(f"key epoch {document['ended']} with {name} has ended, epoch {document['epoch']} has begun")
        if document["partner_has_to_allow"]:
            output.echo(f"{name} shares with you: ask it to say 'vesica partner allow'", err=True)

    output.emit(ctx, document, text)


def _done(ctx: "Context", name: str, status: str) -> None:
    output.emit(ctx, {"alias": name, "status": status}, lambda: output.echo(f"partner {name} is {status}"))
