"""Who acts is told apart by kind, the outbox has indexes, one column a plainer name."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # A row's hash covers what it has: those that there are keep none.
    op.add_column("audit", sa.Column("actor_kind", sa.String(8)))
    op.add_column("jobs", sa.Column("submitted_by_kind", sa.String(8), nullable=False, server_default="user"))
    # A user's name has no @.
    op.execute("UPDATE jobs SET submitted_by_kind = 'account' WHERE submitted_by LIKE '%@%'")
    op.add_column("alerts", sa.Column("remedy", sa.JSON()))
    # An acceptance can be taken back, and ends after a while: how old one is that waits is not known.
    op.add_column("connections", sa.Column("accepted", sa.BigInteger()))
    op.add_column("connections", sa.Column("confirmation", sa.LargeBinary(64)))
    op.execute("UPDATE connections SET accepted = changed WHERE our_acceptance IS NOT NULL")
    # The outbox is read by these.
    op.create_index("ix_letters_waiting", "letters", ["connection_id", "delivered", "number"])
    op.create_index("ix_letters_delivered", "letters", ["delivered"])
    # One universe is asked about under one key and list of tags: those asked about under a key alone begin anew.
    op.execute("UPDATE universes SET asker = NULL")
    op.execute('ALTER TABLE connections RENAME COLUMN "told_key" TO "announced_key"')
