"""The steps from one release's tables to the next, run by Alembic when a store is opened."""

from sqlalchemy import Connection

HEAD = "0007"


def upgrade(connection: Connection, *, to: str = HEAD) -> None:
    """Bring the tables to a step, the newest as a rule, in the caller's transaction.

    Raises Failure for a database of a newer release.
    """
    from alembic import command  # a fifth of a second of CPU, and rarely needed
    from alembic.config import Config
    from alembic.util.exc import CommandError

    from ...errors import Failure

    config = Config()
    config.set_main_option("script_location", "node.storage:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, to)
    except CommandError as error:
        raise Failure(
            "the database was written by a newer release of Vesica", hint="install that release or a later one"
        ) from error
