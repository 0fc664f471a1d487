"""Write docs/cli.md, the reference of every command, from the commands themselves.

python tests/scripts/cli_reference.py            writes it
python tests/scripts/cli_reference.py --check    exits 1 if it is out of date
"""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from cli.main import cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
HEAD = """# Commands

Written from the commands by `tests/scripts/cli_reference.py`; a test compares the two.

Every command takes these options, before or behind its name:

{common}

Exit codes: 0 done, 1 refused or failed, 2 a mistake in the command line. With `--json` a failure is
`{{"error": {{"code", "message", "hint"}}}}`; without, it is `vesica: error:` and `vesica: hint:` on stderr.
"""


def commands(group: click.Group = cli, path: tuple[str, ...] = ("vesica",)) -> Iterator[tuple[str, click.Command]]:
    """Yield (full name, command) for every command that is no group, in the order of the help."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def page() -> str:
    """Return the whole page."""
    common = {option.opts[0] for option in cli.params}
    parts = [HEAD.format(common=_options(option for option in cli.params if option.opts[0] != "--version"))]
    parts += [_section(name, command, common) for name, command in commands()]
    return "\n".join(parts)


def _section(name: str, command: click.Command, common: set[str]) -> str:
    arguments = " ".join(each.make_metavar(click.Context(command)) for each in _kind(command, click.Argument))
    options = _options(each for each in _kind(command, click.Option) if each.opts[0] not in common)
    taken = _arguments(_kind(command, click.Argument))
    usage = " ".join(filter(None, (name, arguments, "[OPTIONS]" if options else "")))
    said = inspect.cleandoc(command.help or "").replace("\\\\\n", "\\\n")
    text, _, example = said.partition("\b\n")
    shown = ["```sh", example.removeprefix("Example: "), "```"] if example else []
    listed = "\n".join(filter(None, (taken, options)))
    blocks = [f"## {name}", f"`{usage}`", text.strip(), "\n".join(shown), listed]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _kind(command: click.Command, kind: type[click.Parameter]) -> Iterator[click.Parameter]:
    return (each for each in command.params if isinstance(each, kind))


def _arguments(arguments: Iterator[click.Parameter]) -> str:
    return "\n".join(f"- `{each.make_metavar(click.Context(cli))}` {each.help}" for each in arguments)


def _options(options: Iterator[click.Parameter]) -> str:
    rows = []
    for option in options:
        assert isinstance(option, click.Option)
        spelled = ", ".join(option.opts + option.secondary_opts)
        metavar = "" if option.is_flag else f" {option.make_metavar(click.Context(cli))}"
        extra = option.get_help_extra(click.Context(cli))
        notes = [option.help or ""]
        notes += [f"Default: {extra['default']}."] if "default" in extra else []
        notes += ["Required."] if option.required else []
        notes += ["May be repeated."] if option.multiple and "repeated" not in (option.help or "") else []
        rows.append(f"- `{spelled}{metavar}` {' '.join(filter(None, notes))}".rstrip())
    return "\n".join(rows)


def main(arguments: list[str]) -> int:
    """Write the page, or say whether it is up to date."""
    wanted = page()
    if arguments == ["--check"]:
        current = PAGE.exists() and PAGE.read_text() == wanted
        if not current:
            print("docs/cli.md is out of date: python tests/scripts/cli_reference.py")
        return 0 if current else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
