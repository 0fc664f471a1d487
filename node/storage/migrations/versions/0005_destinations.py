"""Destinations: where segments go, who is there, and what became of each change."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    _shares()
    _destinations()


def _destinations() -> None:
    op.create_table(
        "destinations",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("secret", sa.LargeBinary()),
        sa.Column("identity", sa.String(128), nullable=False),
        sa.Column("uses", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("reason", sa.String(32)),
        sa.Column("next_attempt", sa.BigInteger()),
        sa.Column("messages", sa.Integer(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_destinations_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_destinations"),
        sa.UniqueConstraint("project_id", "name", name="uq_destinations_project_id"),
    )
    op.create_index("ix_destinations_project_id", "destinations", ["project_id"])
    op.create_table(
        "activations",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("destination_id", sa.String(32), nullable=False),
        sa.Column("segment", sa.String(63), nullable=False),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("file", sa.String(64)),
        sa.Column("pending", sa.String(64)),
        sa.Column("basis", sa.String(64), nullable=False),
        sa.Column("checked", sa.String(64), nullable=False),
        sa.Column("replay", sa.Boolean(), nullable=False),
        sa.Column("present", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("stopped", sa.String(32)),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("confirmed", sa.BigInteger()),
        *_of_destination("activations"),
        sa.UniqueConstraint("destination_id", "segment", name="uq_activations_destination_id"),
    )
    op.create_index("ix_activations_destination_id", "activations", ["destination_id"])
    op.create_table(
        "batches",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("destination_id", sa.String(32), nullable=False),
        sa.Column("activation_id", sa.String(32), nullable=False),
        sa.Column("segment", sa.String(63), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("adds", sa.Integer(), nullable=False),
        sa.Column("removes", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(32)),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        *_of_destination("batches"),
    )
    op.create_index("ix_batches_destination_id", "batches", ["destination_id"])
    op.create_index("ix_batches_activation_id", "batches", ["activation_id"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("destination_id", sa.String(32), nullable=False),
        sa.Column("segment", sa.String(63), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(12), nullable=False),
        sa.Column("code", sa.String(32), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        *_of_destination("deliveries"),
        sa.UniqueConstraint(
            "destination_id", "segment", "hour", "outcome", "code", name="uq_deliveries_destination_id"
        ),
    )
    op.create_index("ix_deliveries_destination_id", "deliveries", ["destination_id"])


def _of_destination(table: str) -> tuple[sa.ForeignKeyConstraint, sa.PrimaryKeyConstraint]:
    return (
        sa.ForeignKeyConstraint(
            ["destination_id"], ["destinations.id"], name=f"fk_{table}_destination_id_destinations"
        ),
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
    )


def _shares() -> None:
    # Segments that one project shares with another.
    op.create_table(
        "shares",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("segment_id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("namespaces", sa.JSON(), nullable=False),
        sa.Column("with_consent", sa.Boolean(), nullable=False),
        sa.Column("restricted_uses", sa.JSON(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("basis", sa.String(64)),
        sa.Column("generation", sa.Integer()),
        sa.Column("own_generation", sa.Integer()),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("evaluated", sa.BigInteger()),
        sa.ForeignKeyConstraint(["segment_id"], ["segments.id"], name="fk_shares_segment_id_segments"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_shares_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_shares"),
        sa.UniqueConstraint("segment_id", "project_id", name="uq_shares_segment_id"),
    )
    op.create_index("ix_shares_segment_id", "shares", ["segment_id"])
    op.create_index("ix_shares_project_id", "shares", ["project_id"])
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("share_id", sa.String(32), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("came", sa.Integer(), nullable=False),
        sa.Column("left", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["share_id"], ["shares.id"], name="fk_evaluations_share_id_shares"),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
    )
    op.create_index("ix_evaluations_share_id", "evaluations", ["share_id"])
