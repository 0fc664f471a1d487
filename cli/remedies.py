"""What to do about an error, in the words of the command line: the act of a remedy becomes the command that does it."""

import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import click

from psi.errors import Remedy

# A project would be no use to these commands, or, as to `user grant`, say something else.
WHOLE_NODE = frozenset({"demo", "doctor", "match", "node", "role", "user"})


def in_words(error: Mapping[str, Any], project: str | None = None) -> dict[str, Any]:
    """Return an error's document with its remedy written into the hint: "look at it first: vesica feed show summer"."""
    document = dict(error)
    remedy = document.pop("remedy", None)
    command = spelled(Remedy.from_document(remedy), project) if remedy else ""
    document["hint"] = ": ".join(part for part in (document["hint"], command) if part)
    if "violations" in document:
        document["violations"] = [violation(each) for each in document["violations"]]
    return document


def violation(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of what forbids an action with its fixes as commands."""
    fixes = [fix if isinstance(fix, str) else spelled(Remedy.from_document(fix)) for fix in found["fixes"]]
    return {**found, "fixes": fixes}


def of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose `error`, if it has one, is in words; the row may say in which project it happened."""
    return {**row, "error": in_words(row["error"], row.get("project"))} if row.get("error") else dict(row)


def with_command(row: Mapping[str, Any], project: str | None = None) -> dict[str, Any]:
    """Return a row that has a remedy, or None, with the command in its place; it may be one of another project."""
    rest, remedy = {name: value for name, value in row.items() if name != "remedy"}, row["remedy"]
    return {**rest, "command": spelled(Remedy.from_document(remedy), project) if remedy else None}


def command(act: str, **arguments: str | int | bool | Sequence[str]) -> str:
    """Return the command that does an act, as `spelled` does."""
    return spelled(Remedy(act, arguments))


def spelled(remedy: Remedy, project: str | None = None) -> str:
    """Return the command that does a remedy's act, ready to paste into a shell; nothing if no command does it.

    What the command needs and the remedy does not give stands as in the help: NAME, `--role ROLE`. Where it is one of a
    few words, each gives a command: "vesica consent model opt-in or vesica consent model opt-out". The command is for
    the home, and for `project` or else the project, of the command that runs.
    """
    command = find(remedy.act)
    if command is None:
        return ""
    context = click.Context(command)
    arguments = {**_place(remedy, project), **remedy.arguments}
    given = [(parameter, arguments.get(parameter.name or "")) for parameter in command.params]
    words = [["vesica"], *([name] for name in remedy.act.split("."))]
    for parameter, value in given:
        if isinstance(parameter, click.Argument):
            words += _positional(parameter, value, context)
    for parameter, value in given:
        if isinstance(parameter, click.Option):
            words += _option(parameter, value, context)
    return " or ".join(map(" ".join, product(*words)))


def _place(remedy: Remedy, project: str | None) -> dict[str, str]:
    """Return the home and the project that the command has to name, because the next one would not find them otherwise."""
    from .main import Context

    context = click.get_current_context(silent=True)
    found = context.find_object(Context) if context else None
    if found is None:
        return {}
    place = dict(found.typed)
    if project not in (None, found.project_name):
        place["project"] = str(project)
    group, _, verb = remedy.act.partition(".")
    if group in WHOLE_NODE or (group == "project" and ("name" in remedy.arguments or verb in ("create", "list"))):
        place.pop("project", None)
    return place


def find(act: str) -> click.Command | None:
    """Return the command of an act such as "consent.policy.delete", if there is one; its module is imported."""
    from .main import cli

    command: click.Command | None = cli
    for name in act.split("."):
        if not isinstance(command, click.Group):
            return None
        command = command.get_command(click.Context(command), name)
    return None if isinstance(command, click.Group) else command


def _positional(argument: click.Argument, value: object, context: click.Context) -> list[list[str]]:
    if value is None:
        return [_metavars(argument, context)] if argument.required else []
    return [[each] for each in _quoted(value)]


def _option(option: click.Option, value: object, context: click.Context) -> list[list[str]]:
    name = _longest(option.opts)
    if value is None:
        return [[name], _metavars(option, context)] if option.required else []
    if option.is_flag and isinstance(value, bool):
        names = option.opts if value else option.secondary_opts
        return [[_longest(names)]] if names else []
    return [[word] for each in _quoted(value) for word in (name, each)]


def _quoted(value: object) -> list[str]:
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [shlex.quote(str(each)) for each in values]


def _longest(names: Sequence[str]) -> str:
    return max(names, key=len)


def _metavars(parameter: click.Parameter, context: click.Context) -> list[str]:
    metavar = parameter.metavar or parameter.make_metavar(context).strip("[]{}")
    return metavar.split("|") if re.fullmatch(r"[\w-]+(\|[\w-]+){1,2}", metavar) else [metavar]
