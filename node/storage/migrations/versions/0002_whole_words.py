"""Columns named by what they say: of the partners of feeds, of received feeds, and of connections."""

from alembic import op

revision = "0002"
down_revision = "0001"

RENAMED = (
    ("feed_partners", "anew", "full"),
    ("feed_partners", "renewed", "full_since"),
    ("feed_partners", "renewals", "full_before"),
    ("feed_partners", "wished", "requested"),
    ("feed_partners", "wishes", "requests"),
    ("received_feeds", "told", "reported"),
    ("connections", "heads_held", "heads_kept"),
)


def upgrade() -> None:
    for table, before, after in RENAMED:  # SQLite does this too; Alembic's own way there copies the whole table
        op.execute(f'ALTER TABLE {table} RENAME COLUMN "{before}" TO "{after}"')
