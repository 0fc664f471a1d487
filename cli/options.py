"""Options that several groups of commands take, and the values that their help names."""

import click

ACTIONS = (
    "analytics, combine-with-pii, cross-site-targeting, data-science, email-targeting, export-to-third-party, "
    "onsite-advertising, onsite-personalisation, segment-match, single-identity-personalisation"
)
FILE_USES = ACTIONS.replace("segment-match, ", "")
NAMESPACES = "such as email_sha256 or phone_sha256"

YES = click.option("--yes", is_flag=True, help="Do not ask.")
