"""The Audience Manager side: data sources, folders, traits, segments of traits, what is imported of them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    _create_tables()
    _roles()
    _sharing()
    _numbers()
    _destinations()


def _create_tables() -> None:
    big = sa.BigInteger()
    names = (sa.String(255), sa.Text())
    _create(
        "audience_sources",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", names[0], nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("namespace", sa.String(128)),
        sa.Column("integration_code", names[0]),
        sa.Column("controls", sa.JSON(), nullable=False),
        sa.Column("created", big, nullable=False),
        sa.UniqueConstraint("project_id", "number", name="uq_audience_sources_number"),
        sa.UniqueConstraint("project_id", "name", name="uq_audience_sources_name"),
    )
    _create(
        "audience_folders",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=False),
        sa.Column("name", names[0], nullable=False),
        sa.UniqueConstraint("project_id", "number", name="uq_audience_folders_number"),
        sa.UniqueConstraint("project_id", "parent", "name", name="uq_audience_folders_name"),
    )
    _create(
        "traits",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("name", names[0], nullable=False),
        sa.Column("description", names[1], nullable=False),
        sa.Column("rule", names[1]),
        sa.Column("tree", sa.JSON()),
        sa.Column("folder", sa.Integer(), nullable=False),
        sa.Column("source", sa.Integer(), nullable=False),
        sa.Column("integration_code", names[0]),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("revision", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("created", big, nullable=False),
        sa.UniqueConstraint("project_id", "number", name="uq_traits_number"),
        sa.UniqueConstraint("project_id", "source", "integration_code", name="uq_traits_integration_code"),
    )
    _create(
        "audience_segments",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", names[0], nullable=False),
        sa.Column("description", names[1], nullable=False),
        sa.Column("rule", names[1], nullable=False),
        sa.Column("tree", sa.JSON(), nullable=False),
        sa.Column("folder", sa.Integer(), nullable=False),
        sa.Column("source", sa.Integer(), nullable=False),
        sa.Column("integration_code", names[0]),
        sa.Column("merge_rule", names[0], nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("evaluated", big),
        sa.Column("created", big, nullable=False),
        sa.UniqueConstraint("project_id", "number", name="uq_audience_segments_number"),
        sa.UniqueConstraint("project_id", "source", "integration_code", name="uq_audience_segments_integration_code"),
    )
    _create(
        "audience_imports",
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("basis", sa.String(64)),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("evaluated", big),
        sa.Column("created", big, nullable=False),
        sa.UniqueConstraint("project_id", "kind", "name", name="uq_audience_imports_name"),
        sa.UniqueConstraint("project_id", "kind", "number", name="uq_audience_imports_number"),
    )
    _create(
        "audience_senders",
        sa.Column("sender", sa.String(64), nullable=False),
        sa.Column("caller", sa.String(64), nullable=True),
        sa.Column("segment", sa.String(64), nullable=False),
        sa.Column("source", sa.Integer(), nullable=False),
        sa.Column("sequence", big, nullable=False),
        sa.Column("changed", big, nullable=False),
        sa.UniqueConstraint("project_id", "sender", "segment", name="uq_audience_senders_segment"),
    )


def _create(table: str, *columns: sa.schema.SchemaItem) -> None:
    op.create_table(
        table,
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        *columns,
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=f"fk_{table}_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
    )
    op.create_index(f"ix_{table}_project_id", table, ["project_id"])


def _roles() -> None:
    """Which data sources a role is limited to."""
    op.add_column("roles", sa.Column("sources", sa.JSON()))


def _sharing() -> None:
    """Which destination is the older sharing, of all segments."""
    op.add_column("destinations", sa.Column("of_all", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("activations", sa.Column("deleted_id", sa.String(32)))
    op.add_column("activations", sa.Column("told_labels", sa.JSON(), nullable=False, server_default="[]"))


def _destinations() -> None:
    """Settings that are kept wrapped, fields that are mapped no more, and what a message says of whom."""
    op.add_column("destinations", sa.Column("sealed", sa.LargeBinary()))
    op.add_column("activations", sa.Column("unmapped", sa.JSON(), nullable=False, server_default="[]"))
    for name in ("known", "unsettled"):
        op.add_column("batches", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))


def _numbers() -> None:
    """How many numbers traits, segments and folders were given, and how often traits have changed."""
    for name in ("audience_numbers", "audience_revision"):
        op.add_column("projects", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
