"""The command `vesica node mail`: the server that alerts are mailed by."""

from typing import TYPE_CHECKING

import click

from . import inputs, output

if TYPE_CHECKING:
    from .main import Context


@click.command()
@click.option("--server", metavar="HOST:PORT", help="TLS from the first byte on port 465, else by STARTTLS.")
@click.option("--from", "sender", metavar="ADDRESS", help="Whom the mail is from.")
@click.option("--user", metavar="NAME", help="Who signs in there, if somebody has to.")
@click.option("--password", metavar="FILE", help='A file with the password, or "-" for standard input.')
@click.option("--authorities", metavar="FILE", help="A PEM file of authorities for its certificate; else the system's.")
@click.option("--remove", is_flag=True, help="Send no more mail.")
@click.option(
    "--test", metavar="ADDRESS", help="Send a mail there now, and say what is wrong; exit code 1 if something is."
)
@click.pass_obj
def mail(
    ctx: "Context",
    *,
    server: str | None,
    sender: str | None,
    user: str | None,
    password: str | None,
    authorities: str | None,
    remove: bool,
    test: str | None,
) -> None:
    """Show the mail server, or name another; who subscribes to alerts of destinations gets them by it.

    The password is kept under the node's keys. Without TLS no mail leaves.

    \b
    Example: vesica node mail --server smtp.fern.example:587 --from vesica@fern.example --user vesica --password password.txt
    """
    servers = ctx.node().mail_server
    if remove:
        servers.remove()
    elif server is not None or sender is not None:
        if server is None or sender is None:
            raise click.UsageError("Give --server and --from.")
        secret = None if password is None else inputs.secret(password, line=True)
        servers.set(server, sender, user=user, password=secret, authorities=authorities)
    elif user or password or authorities:
        raise click.UsageError("Give --server and --from as well.")
    found, wrong = servers.show(), None if test is None else servers.test(test)

    def text() -> None:
        if found is None:
            output.echo("no mail server")
        else:
            output.lines((name, value) for name, value in found.items() if value is not None)
        if test is not None:
            output.echo(f"sent a mail to {test}" if wrong is None else f"no mail was sent: {wrong}")

    document = {"mail": found} if test is None else {"mail": found, "sent": wrong is None, "reason": wrong}
    output.emit(ctx, document, text)
    click.get_current_context().exit(0 if wrong is None else 1)
