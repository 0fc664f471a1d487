"""The commands of `vesica node` that change a node: its settings, its passphrase, its key."""

import os
import sys
from typing import TYPE_CHECKING

import click

from . import options, output, remedies

if TYPE_CHECKING:
    from .main import Context

NEW = "VESICA_NEW_PASSPHRASE"


@click.command("set")
@click.option("--org", "organisation", metavar="NAME", help="Your organisation, as partners see it.")
@click.option("--listen", metavar="HOST:PORT", help="Where the service listens.")
@click.option("--address", metavar="HOST:PORT", help="Where partners reach it.")
@click.option("--no-address", is_flag=True, help="Partners cannot reach it: this node calls them.")
@click.option("--proxy/--no-proxy", default=None, help="TLS ends at a web server in front of the service, or does not.")
@click.option(
    "--allow-private-addresses/--public-addresses-only",
    "private_addresses",
    default=None,
    help="Whether partners may be called at addresses of a private network that they name themselves.",
)
@click.option(
    "--audience-listen", metavar="HOST:PORT", help="Where programs of yours send signals, such as 127.0.0.1:8490."
)
@click.option("--no-audience-listen", is_flag=True, help="Nothing listens for them.")
@click.option(
    "--audience-certificate",
    metavar="FILE",
    help='The certificate of that address and its key in one PEM file; "" is none. Beyond this machine it needs one.',
)
@click.pass_obj
def set_(
    ctx: "Context",
    *,
    organisation: str | None,
    listen: str | None,
    address: str | None,
    no_address: bool,
    proxy: bool | None,
    private_addresses: bool | None,
    audience_listen: str | None,
    no_audience_listen: bool,
    audience_certificate: str | None,
) -> None:
    """Show the settings, or change some; partners hear of another name or address, and connections stay.

    A partner uses a new address once this node's key has answered there. Let the old address answer too until then: 'vesica
    partner show' says whether letters wait. The service takes the changes up by itself, but for what it listens on.

    Programs that send signals for the Audience Manager side need the token of a user with the permission receive-audience.

    \b
    Example: vesica node set --address vesica.fern.example:8470
    """
    if no_address and address is not None:
        raise click.UsageError("--address and --no-address contradict each other")
    if no_audience_listen and audience_listen is not None:
        raise click.UsageError("--audience-listen and --no-audience-listen contradict each other")
    document = ctx.node().set(
        organisation=organisation,
        listen=listen,
        address="" if no_address else address,
        proxy=proxy,
        private_addresses=private_addresses,
        audience_listen="" if no_audience_listen else audience_listen,
        audience_certificate=audience_certificate,
    )

    def text() -> None:
        names = ("organisation", "listen", "address", "proxy", "private_addresses", "audience_listen")
        output.lines((output.words(name), "none" if document[name] == "" else document[name]) for name in names)
        if document["told"]:
            output.echo(
                f"a letter to {', '.join(document['told'])} is queued: a running service delivers it, or "
                f"'{remedies.command('node.sync')}'"
            )
        if address or no_address or proxy is not None:
            output.echo("new Connect IDs have the new address")
        if document["restart"]:
            output.echo("the running service listens where it did: start it again", err=True)

    output.emit(ctx, document, text)


@click.command()
@click.option("--remove", is_flag=True, help="Keep the keys without a passphrase: whoever reads the home has them.")
@click.pass_obj
def passphrase(ctx: "Context", remove: bool) -> None:
    """Change the passphrase of the home's keys, or give it one; VESICA_PASSPHRASE holds the old one.

    It asks for the new one; without a terminal it takes it from VESICA_NEW_PASSPHRASE. A running service goes on; whatever
    starts later needs the new one. Backups made before keep the old one.

    \b
    Example: vesica node passphrase
    """
    if remove:
        new = None
    elif NEW in os.environ:
        new = os.environ[NEW]
    elif ctx.json or not sys.stdin.isatty():
        raise click.UsageError(f"Put the new passphrase into {NEW}, or say --remove.")
    else:
        new = click.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True)
    if new == "":
        raise click.UsageError("A passphrase has at least one character; --remove takes it away.")
    ctx.node().set_passphrase(new)
    said = "the keys have no passphrase" if new is None else "the keys are under the new passphrase"
    output.emit(ctx, {"passphrase": new is not None}, lambda: output.echo(said))


@click.command("shared-segments")
@click.argument("state", type=click.Choice(["on", "off"]), help="Whether they do.")
@click.pass_obj
def shared_segments(ctx: "Context", state: str) -> None:
    """Let the projects of this node share segments with one another, or end that: off, members leave all of them at once.

    It is off after an installation. What was shared is used again once it is on again.

    \b
    Example: vesica node shared-segments on
    """
    ctx.node().share_segments(state == "on")
    output.emit(ctx, {"shared_segments": state}, lambda: output.echo(f"shared segments are {state}"))


@click.group()
def key() -> None:
    """Change the node's key."""


@key.command()
@options.YES
@click.pass_obj
def rotate(ctx: "Context", yes: bool) -> None:
    """Give the node a new key, such as when others may have seen the old one; connections, feeds and budgets stay.

    The service has to be stopped meanwhile. Partners take the new key, which the old one confirms, as soon as one side calls
    the other. Whoever comes with the old key after that is refused, with an alert there. So a backup made before is of no
    use any more: make a new one. Connect IDs that were given out end.

    \b
    Example: vesica node key rotate
    """
    output.confirm(
        ctx, "Replace the node's key? Backups made before, and Connect IDs given out, are of no use then.", yes=yes
    )
    document = ctx.node().rotate_key()

    def text() -> None:
        output.lines((("old key", document["old"]), ("key", document["key"])))
        output.echo(
            f"Start the service, or '{remedies.command('node.sync')}': partners follow. "
            f"Then make a new backup: {remedies.command('node.backup')}"
        )

    output.emit(ctx, document, text)
