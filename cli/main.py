"""The command `vesica`: the options that every command takes, and the one place where errors are shown."""

import errno
import gc
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from psi.errors import VesicaError

if TYPE_CHECKING:
    from node.node import Node
    from node.project import Project

GROUPS = (
    "demo",
    "doctor",
    "match",
    "node",
    "project",
    "profile",
    "dataset",
    "consent",
    "label",
    "policy",
    "segment",
    "audience",
    "destination",
    "partner",
    "feed",
    "audit",
    "job",
    "alert",
    "user",
    "role",
)


class Context:
    """What the common options say. The node is opened at first use and closed when the command ends."""

    def __init__(self) -> None:
        self.home = Path.home() / ".vesica"
        self.project_name = "default"
        self.project_chosen = False
        self.typed: dict[str, str] = {}  # of home and project: a command that is shown has them too
        self.json = False
        self._node: Node | None = None

    def node(self) -> "Node":
        """Return the node for the user whose token is in VESICA_TOKEN: not an option, which other processes could read."""
        if self._node is None:
            self.unsigned_node().sign_in(os.environ.get("VESICA_TOKEN"))
        return self.unsigned_node()

    def unsigned_node(self) -> "Node":
        """Return the node for nobody by name: for its own service, and for the operator's way back."""
        if self._node is None:
            from node.node import Node

            self._node = Node.open(self.home)
        return self._node

    def project(self) -> "Project":
        return self.node().project(self.project_name)

    def undelivered(self) -> dict[str, str]:
        """Return the partners to whom letters of this command could not be delivered, and why."""
        return {} if self._node is None else self._node.home.undelivered

    def next_delivery(self) -> str:
        """Return what delivers the letters that wait: the service, or a command."""
        from node.storage.locks import serving

        return "the service delivers it" if serving(self.unsigned_node().home.path) else "vesica node sync"

    def close(self) -> None:
        if self._node is not None:
            self._node.close()
            self._node = None


class Groups(click.Group):
    """The command groups: each is the `cli` of its own module, imported when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in GROUPS:
            return None
        try:
            command: click.Command = importlib.import_module(f"cli.{cmd_name}").cli
        except ModuleNotFoundError as error:
            if error.name != f"cli.{cmd_name}":
                raise
            return None
        _add_common(command)
        return command


def _set_home(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Context).home = Path(value)
        _note_typed(ctx, parameter, value)


def _set_project(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        found = ctx.ensure_object(Context)
        found.project_name, found.project_chosen = value, True
        _note_typed(ctx, parameter, value)


def _note_typed(ctx: click.Context, parameter: click.Parameter, value: str) -> None:
    """Note an option that stands in the command itself: what the environment says, it says to the next command too."""
    name = str(parameter.name)
    if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
        ctx.ensure_object(Context).typed[name] = value


def _set_json(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Context).json = True


def _common(*, root: bool) -> list[click.Parameter]:
    """Return the options that may stand anywhere; the environment is asked once, at the root."""
    kind = click.Path(file_okay=False)
    return [
        click.Option(
            ["--home"],
            type=kind,
            metavar="DIR",
            envvar="VESICA_HOME" if root else None,
            expose_value=False,
            callback=_set_home,
            help="The node's directory (VESICA_HOME, else ~/.vesica).",
        ),
        click.Option(
            ["--project"],
            metavar="NAME",
            envvar="VESICA_PROJECT" if root else None,
            expose_value=False,
            callback=_set_project,
            help='The project (VESICA_PROJECT, else "default").',
        ),
        click.Option(["--json"], is_flag=True, expose_value=False, callback=_set_json, help="Print one JSON document."),
    ]


def _add_common(command: click.Command) -> None:
    if not any(parameter.callback is _set_json for parameter in command.params):
        for option in command.params:
            if isinstance(option, click.Option) and option.multiple and option.help:
                option.help = f"{option.help.removesuffix('.')}; may be repeated."
        command.params += _common(root=False)
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _add_common(each)


@click.group(cls=Groups, params=_common(root=True), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vesica", prog_name="vesica")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Find out how many people two organisations both know, and share segments for exactly those people.

    Neither side shows the other its list, and nobody stands in the middle. Begin with 'vesica demo'.
    """
    ctx.call_on_close(ctx.ensure_object(Context).close)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 refused or failed, 2 a mistake in the command line."""
    if arguments is None:
        arguments = sys.argv[1:]
        os.umask(0o077)  # what libraries write beside our files is nobody else's either
        gc.set_threshold(50_000)  # what imports make stays: looking for garbage in it is a seventh of a short command
    found = Context()
    with click.Context(cli, obj=found):  # errors are shown in it too
        return _run(arguments, found)


def _run(arguments: list[str], found: Context) -> int:
    as_json = "--json" in arguments
    try:
        result = cli.main(arguments, prog_name="vesica", standalone_mode=False, obj=found)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "vesica"
        return _fail(as_json, "usage", error.format_message(), f"'{command} --help' shows how", exit_code=2)
    except click.ClickException as error:
        return _fail(as_json, "failed", error.format_message(), "'vesica --help' shows the commands")
    except (click.Abort, KeyboardInterrupt):
        return _fail(as_json, "interrupted", "interrupted", "run the command again: it goes on or starts cleanly")
    except VesicaError as error:
        if os.environ.get("VESICA_TRACEBACK"):
            raise
        return _show(as_json, error.document())
    except Exception as error:
        if os.environ.get("VESICA_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.errno == errno.EPIPE:  # the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        if isinstance(error, OSError) and error.strerror:
            where = f": {error.filename}" if error.filename else ""
            hint = "check the path, its permissions and the free space, then run the command again"
            return _fail(as_json, "failed", f"{error.strerror}{where}", hint)
        name = type(error).__name__  # its text could have data in it
        return _fail(as_json, "internal", f"internal error ({name})", "VESICA_TRACEBACK=1 shows where")


def _fail(as_json: bool, code: str, message: str, hint: str, *, exit_code: int = 1) -> int:
    return _show(as_json, {"code": code, "message": message, "hint": hint}, exit_code=exit_code)


def _show(as_json: bool, error: dict[str, Any], *, exit_code: int = 1) -> int:
    """Print an error's document: whole as JSON; for people with the report that some carry."""
    from . import output, remedies

    error = remedies.in_words(error)

    if as_json:
        output.echo(output.as_json({"error": error}))
        return exit_code

    output.say(f"vesica: error: {error['message']}", err=True)
    for line in output.violations(error.get("violations", ())):
        output.echo(f"vesica: report: {line}", err=True)
    if error["hint"]:
        output.echo(f"vesica: hint: {error['hint']}", err=True)
    return exit_code
