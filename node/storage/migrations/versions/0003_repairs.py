"""What terms, erasure, settings and bounds need beside the columns there were."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # Who is left out of estimates: one word in place of yes and no.
    op.add_column("projects", sa.Column("left_out", sa.String(12), nullable=False, server_default="nobody"))
    op.execute("UPDATE projects SET left_out = 'unconsented' WHERE hide_unconsented")
    op.drop_column("projects", "hide_unconsented")
    op.add_column("connections", sa.Column("chosen_address", sa.String(255), nullable=False, server_default=""))
    # Operators accepted these before there was a column for it; the others are still to be decided, or were not wanted.
    op.execute("UPDATE connections SET chosen_address = peer_address WHERE status NOT IN ('requested', 'declined')")
    # Changes of keys and addresses without a new connection.
    op.add_column("connections", sa.Column("first_key", sa.LargeBinary(32)))
    op.add_column("connections", sa.Column("peer_changes", sa.LargeBinary()))
    op.add_column("connections", sa.Column("replaced_keys", sa.LargeBinary()))
    op.add_column("connections", sa.Column("key_replaced", sa.BigInteger()))
    op.add_column("connections", sa.Column("our_key", sa.LargeBinary(32)))
    op.add_column("connections", sa.Column("told_key", sa.LargeBinary(32)))
    op.add_column("connections", sa.Column("moves_to", sa.JSON()))
    op.add_column("answers", sa.Column("sizes", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("feeds", sa.Column("deleted", sa.BigInteger()))
    op.add_column("received_feeds", sa.Column("deleted", sa.BigInteger()))
    op.execute("UPDATE feed_partners SET tried = NULL")  # names in place of an order; each feed runs once more
    # What was charged for counts is told each project of the organisation: there is no note of which one asked.
    op.execute("UPDATE ledger SET note = '' WHERE kind = 'epsilon_millis'")
    _agreements()
    _erasures()


def _agreements() -> None:
    for name in ("our_offer", "our_proposal", "their_proposal", "our_acceptance", "void"):
        op.add_column("connections", sa.Column(name, sa.LargeBinary()))
    op.create_table(
        "agreements",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("connection_id", sa.String(32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("agreement", sa.LargeBinary(), nullable=False),
        sa.Column("agreement_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("our_offer", sa.LargeBinary()),
        sa.Column("their_offer", sa.LargeBinary(), nullable=False),
        sa.Column("our_signature", sa.LargeBinary(64)),
        sa.Column("their_signature", sa.LargeBinary(64)),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name="fk_agreements_connection_id_connections"),
        sa.PrimaryKeyConstraint("id", name="pk_agreements"),
        sa.UniqueConstraint("connection_id", "version", name="uq_agreements_connection_id"),
    )
    op.create_index("ix_agreements_connection_id", "agreements", ["connection_id"])


def _erasures() -> None:
    op.create_table(
        "suppressions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_suppressions_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_suppressions"),
        sa.UniqueConstraint("project_id", "digest", name="uq_suppressions_project_id"),
    )
    op.create_index("ix_suppressions_project_id", "suppressions", ["project_id"])
    op.create_table(
        "erasures",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("swept", sa.BigInteger()),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_erasures_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_erasures"),
    )
    op.create_index("ix_erasures_project_id", "erasures", ["project_id"])
