"""Options that several groups of commands take, and the values that their help names."""

from datetime import UTC, datetime
from typing import Any

import click

ACTIONS = (
    "analytics, combine-with-pii, cross-site-targeting, data-science, email-targeting, export-to-third-party, "
    "onsite-advertising, onsite-personalisation, segment-match, single-identity-personalisation"
)
SHARING = "segment-match"  # the one action that gives people to partners
FILE_USES = ACTIONS.replace("segment-match, ", "")
NAMESPACES = "such as email_sha256 or phone_sha256"

DAY = "%Y-%m-%d"


class Time(click.DateTime):
    """A day or time (UTC) in one of the given forms, of which the error shows an example."""

    def __init__(self, *formats: str) -> None:
        super().__init__(formats)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            such = " or ".join(datetime(2026, 1, 31, 8, tzinfo=UTC).strftime(each) for each in self.formats)
            self.fail(f"{value!r} is no such time: write {such}", param, ctx)


USES = click.option(
    "--use",
    "uses",
    multiple=True,
    metavar="USE",
    help=f"What it is for: {FILE_USES}; all of them unless given.",
)
FORCE = click.option("--force", is_flag=True, help="Replace the file if there is one.")
RESULT = 'a new file, a special one such as a pipe, or "-" for standard output'

YES = click.option("--yes", is_flag=True, help="Do not ask.")
