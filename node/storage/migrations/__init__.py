"""The steps from one release's tables to the next, run by Alembic when a store is opened."""

from sqlalchemy import Connection

HEAD = "0001"


def upgrade(connection: Connection) -> None:
    """Bring the tables to HEAD, in the caller's transaction; raises Failure for a database of a newer release."""
    from alembic import command  # a fifth of a second of CPU, and rarely needed
    from alembic.config import Config
    from alembic.util.exc import CommandError

    from ...errors import Failure

    config = Config()
    config.set_main_option("script_location", "node.storage:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, HEAD)
    except CommandError as error:
        raise Failure(
            "the database was written by a newer release of Vesica", hint="install that release or a later one"
        ) from error
