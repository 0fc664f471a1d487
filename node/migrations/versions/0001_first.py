"""The tables of the first release."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.get_context().opts["target_metadata"].create_all(op.get_bind(), checkfirst=False)
