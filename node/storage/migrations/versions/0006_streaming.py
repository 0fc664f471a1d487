"""Streaming: what the further kinds of destinations keep."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    _attributes()
    _audiences()
    _alerts()
    _profiles()


def _attributes() -> None:
    """What is mapped, and what waits for a batch to be full."""
    op.add_column("activations", sa.Column("mapping", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("batches", sa.Column("not_before", sa.BigInteger()))
    op.add_column("batches", sa.Column("hours", sa.JSON()))


def _audiences() -> None:
    """Which solutions a destination has, and what a target calls a segment."""
    op.add_column("destinations", sa.Column("part_of", sa.String(32)))
    op.add_column("activations", sa.Column("external_id", sa.String(255)))
    op.add_column("activations", sa.Column("audience", sa.String(63)))


def _alerts() -> None:
    """Who is told what, and how."""
    big, no = sa.BigInteger(), sa.false()
    for table, column in (
        ("destinations", sa.Column("brake", sa.Integer(), nullable=False, server_default="50")),
        ("destinations", sa.Column("old_secret", sa.LargeBinary())),
        ("destinations", sa.Column("old_secret_ends", big)),
        ("destinations", sa.Column("delay_alerted", big)),
        ("activations", sa.Column("unremoved", sa.Integer(), nullable=False, server_default="0")),
        ("activations", sa.Column("again", big)),
        ("activations", sa.Column("said_again", big)),
        ("activations", sa.Column("held", sa.Integer(), nullable=False, server_default="0")),
        ("activations", sa.Column("released", sa.Boolean(), nullable=False, server_default=no)),
        ("batches", sa.Column("answer", sa.LargeBinary())),
        ("batches", sa.Column("sent", big)),
        ("batches", sa.Column("handle", sa.LargeBinary())),
        ("batches", sa.Column("ready", big)),
    ):
        op.add_column(table, column)
    op.create_table(
        "latencies",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("destination_id", sa.String(32), nullable=False),
        sa.Column("segment", sa.String(63), nullable=False),
        sa.Column("hour", big, nullable=False),
        sa.Column("stage", sa.String(12), nullable=False),
        sa.Column("seconds", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("last", big, nullable=False),
        *_of("destination", "latencies"),
        sa.UniqueConstraint(
            "destination_id", "segment", "hour", "stage", "seconds", name="uq_latencies_destination_id"
        ),
    )
    op.create_index("ix_latencies_destination_id", "latencies", ["destination_id"])
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("destination_id", sa.String(32), nullable=False),
        sa.Column("user_name", sa.String(63), nullable=False),
        sa.Column("kinds", sa.JSON(), nullable=False),
        sa.Column("mail", sa.String(254)),
        *_of("destination", "subscriptions"),
        sa.UniqueConstraint("destination_id", "user_name", name="uq_subscriptions_destination_id"),
    )
    op.create_index("ix_subscriptions_destination_id", "subscriptions", ["destination_id"])
    op.create_table(
        "mails",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("user_name", sa.String(63), nullable=False),
        sa.Column("address", sa.String(254), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt", big, nullable=False),
        sa.Column("created", big, nullable=False),
        *_of("project", "mails"),
    )
    op.create_index("ix_mails_project_id", "mails", ["project_id"])


def _of(noun: str, table: str) -> tuple[sa.ForeignKeyConstraint, sa.PrimaryKeyConstraint]:
    return (
        sa.ForeignKeyConstraint([f"{noun}_id"], [f"{noun}s.id"], name=f"fk_{table}_{noun}_id_{noun}s"),
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
    )


def _profiles() -> None:
    """What is kept of profiles."""
