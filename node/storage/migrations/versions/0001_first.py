"""The tables of the first release, as they were then: whatever node/storage/tables.py says later, this stays."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("project_id", sa.String(length=32)),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("act", sa.String(length=63), nullable=False),
        sa.Column("target", sa.String(length=400), nullable=False),
        sa.Column("result", sa.String(length=8), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("previous", sa.LargeBinary(length=32), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )
    op.create_table(
        "feed_versions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("feed_id", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("definition", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_feed_versions"),
        sa.UniqueConstraint("feed_id", "version", name="uq_feed_versions_feed_id"),
    )
    op.create_index("ix_feed_versions_feed_id", "feed_versions", ["feed_id"])
    op.create_table(
        "projects",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("consent_model", sa.String(length=8)),
        sa.Column("hide_unconsented", sa.Boolean(), nullable=False),
        sa.Column("connect_secret", sa.LargeBinary()),
        sa.Column("connect_expires", sa.BigInteger()),
        sa.Column("terms", sa.JSON(), nullable=False),
        sa.Column("count_secret", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("restored", sa.BigInteger()),
        sa.Column("resumed", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("name", name="uq_projects_name"),
    )
    op.create_table(
        "roles",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("permissions", sa.JSON(), nullable=False),
        sa.Column("labels", sa.JSON()),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_roles"),
        sa.UniqueConstraint("name", name="uq_roles_name"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("name", name="uq_users_name"),
    )
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("acknowledged", sa.BigInteger()),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_alerts_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
    )
    op.create_index("ix_alerts_project_id", "alerts", ["project_id"])
    op.create_table(
        "connections",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("alias", sa.String(length=63), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("peer_key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("peer_project", sa.LargeBinary(length=16), nullable=False),
        sa.Column("peer_project_name", sa.String(length=63), nullable=False),
        sa.Column("peer_organisation", sa.String(length=255), nullable=False),
        sa.Column("peer_address", sa.String(length=255), nullable=False),
        sa.Column("proxy", sa.Boolean(), nullable=False),
        sa.Column("agreement", sa.LargeBinary(), nullable=False),
        sa.Column("agreement_digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("their_offer", sa.LargeBinary(), nullable=False),
        sa.Column("our_signature", sa.LargeBinary(length=64)),
        sa.Column("their_signature", sa.LargeBinary(length=64)),
        sa.Column("letters_sent", sa.BigInteger(), nullable=False),
        sa.Column("letters_received", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("key_changed", sa.BigInteger()),
        sa.Column("budget", sa.JSON()),
        sa.Column("preflight", sa.JSON()),
        sa.Column("restored", sa.BigInteger()),
        sa.Column("head_sent", sa.BigInteger()),
        sa.Column("heads_held", sa.LargeBinary()),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_connections_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_connections"),
        sa.UniqueConstraint("project_id", "alias", name="uq_connections_project_id"),
    )
    op.create_index("ix_connections_project_id", "connections", ["project_id"])
    op.create_table(
        "consent_policies",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("action", sa.String(length=63), nullable=False),
        sa.Column("label", sa.String(length=63)),
        sa.Column("applies", sa.Text()),
        sa.Column("applies_tree", sa.JSON()),
        sa.Column("needs", sa.Text(), nullable=False),
        sa.Column("needs_tree", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_consent_policies_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_consent_policies"),
        sa.UniqueConstraint("project_id", "name", name="uq_consent_policies_project_id"),
    )
    op.create_index("ix_consent_policies_project_id", "consent_policies", ["project_id"])
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_datasets_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
        sa.UniqueConstraint("project_id", "name", name="uq_datasets_project_id"),
    )
    op.create_index("ix_datasets_project_id", "datasets", ["project_id"])
    op.create_table(
        "feeds",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_feeds_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_feeds"),
        sa.UniqueConstraint("project_id", "name", name="uq_feeds_project_id"),
    )
    op.create_index("ix_feeds_project_id", "feeds", ["project_id"])
    op.create_table(
        "grants",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("role", sa.String(length=63), nullable=False),
        sa.Column("project_id", sa.String(length=32)),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_grants_project_id_projects"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_grants_user_id_users"),
        sa.PrimaryKeyConstraint("id", name="pk_grants"),
    )
    op.create_index("ix_grants_project_id", "grants", ["project_id"])
    op.create_index("ix_grants_user_id", "grants", ["user_id"])
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("submitted_by", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=64)),
        sa.Column("lease_until", sa.BigInteger()),
        sa.Column("progress", sa.JSON()),
        sa.Column("result", sa.JSON()),
        sa.Column("error", sa.JSON()),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_jobs_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_project_id", "jobs", ["project_id"])
    op.create_table(
        "label_uses",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("label", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("target", sa.String(length=400), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_label_uses_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_label_uses"),
        sa.UniqueConstraint("project_id", "label", "kind", "target", name="uq_label_uses_project_id"),
    )
    op.create_index("ix_label_uses_project_id", "label_uses", ["project_id"])
    op.create_table(
        "labels",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_labels_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_labels"),
        sa.UniqueConstraint("project_id", "name", name="uq_labels_project_id"),
    )
    op.create_index("ix_labels_project_id", "labels", ["project_id"])
    op.create_table(
        "ledger",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("peer_key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.String(length=255), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_ledger_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_ledger"),
    )
    op.create_index("ix_ledger_project_id", "ledger", ["project_id"])
    op.create_index("ix_ledger_window", "ledger", ["project_id", "peer_key", "kind", "at"])
    op.create_table(
        "manifests",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_manifests_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_manifests"),
        sa.UniqueConstraint("project_id", "generation", name="uq_manifests_project_id"),
    )
    op.create_index("ix_manifests_project_id", "manifests", ["project_id"])
    op.create_table(
        "policies",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("action", sa.String(length=63), nullable=False),
        sa.Column("expression", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_policies_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_policies"),
        sa.UniqueConstraint("project_id", "name", name="uq_policies_project_id"),
    )
    op.create_index("ix_policies_project_id", "policies", ["project_id"])
    op.create_table(
        "segments",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("rule", sa.Text()),
        sa.Column("tree", sa.JSON()),
        sa.Column("uses", sa.JSON(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("evaluated", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_segments_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_segments"),
        sa.UniqueConstraint("project_id", "name", name="uq_segments_project_id"),
    )
    op.create_index("ix_segments_project_id", "segments", ["project_id"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_tokens_user_id_users"),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
    )
    op.create_index("ix_tokens_user_id", "tokens", ["user_id"])
    op.create_table(
        "answers",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.String(length=32), nullable=False),
        sa.Column("question", sa.LargeBinary(length=32), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("points", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name="fk_answers_connection_id_connections"),
        sa.PrimaryKeyConstraint("id", name="pk_answers"),
        sa.UniqueConstraint("connection_id", "question", name="uq_answers_connection_id"),
    )
    op.create_index("ix_answers_connection_id", "answers", ["connection_id"])
    op.create_table(
        "epochs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("started", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.BigInteger()),
        sa.Column("refills", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name="fk_epochs_connection_id_connections"),
        sa.PrimaryKeyConstraint("id", name="pk_epochs"),
        sa.UniqueConstraint("connection_id", "number", name="uq_epochs_connection_id"),
    )
    op.create_index("ix_epochs_connection_id", "epochs", ["connection_id"])
    op.create_table(
        "estimates",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.String(length=32), nullable=False),
        sa.Column("segment", sa.String(length=63), nullable=False),
        sa.Column("namespace", sa.String(length=127), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("overlap", sa.BigInteger()),
        sa.Column("consented", sa.BigInteger()),
        sa.Column("half_width", sa.BigInteger()),
        sa.Column("consented_half_width", sa.BigInteger()),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name="fk_estimates_connection_id_connections"),
        sa.PrimaryKeyConstraint("id", name="pk_estimates"),
    )
    op.create_index("ix_estimates_connection_id", "estimates", ["connection_id"])
    op.create_table(
        "exchanges",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("part", sa.String(length=16), nullable=False),
        sa.Column("ours", sa.Boolean(), nullable=False),
        sa.Column("opened", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("error", sa.JSON()),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name="fk_exchanges_connection_id_connections"),
        sa.PrimaryKeyConstraint("id", name="pk_exchanges"),
    )
    op.create_index("ix_exchanges_connection_id", "exchanges", ["connection_id"])
    op.create_table(
        "feed_partners",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("feed_id", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("accepted_version", sa.Integer()),
        sa.Column("offers", sa.JSON(), nullable=False),
        sa.Column("declined_version", sa.Integer()),
        sa.Column("reason", sa.Text()),
        sa.Column("last_revision", sa.BigInteger(), nullable=False),
        sa.Column("last_receipt", sa.LargeBinary(length=32)),
        sa.Column("anew", sa.Boolean(), nullable=False),
        sa.Column("renewed", sa.BigInteger()),
        sa.Column("renewals", sa.Integer(), nullable=False),
        sa.Column("tried", sa.JSON()),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("failure", sa.String(length=40)),
        sa.Column("next_attempt", sa.BigInteger()),
        sa.Column("ran", sa.BigInteger()),
        sa.Column("wished", sa.BigInteger()),
        sa.Column("wishes", sa.Integer(), nullable=False),
        sa.Column("universes", sa.JSON()),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["connection_id"], ["connections.id"], name="fk_feed_partners_connection_id_connections"
        ),
        sa.ForeignKeyConstraint(["feed_id"], ["feeds.id"], name="fk_feed_partners_feed_id_feeds"),
        sa.PrimaryKeyConstraint("id", name="pk_feed_partners"),
        sa.UniqueConstraint("feed_id", "connection_id", name="uq_feed_partners_feed_id"),
    )
    op.create_index("ix_feed_partners_connection_id", "feed_partners", ["connection_id"])
    op.create_index("ix_feed_partners_feed_id", "feed_partners", ["feed_id"])
    op.create_table(
        "fields",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("dataset_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("rule", sa.String(length=127)),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_fields_dataset_id_datasets"),
        sa.PrimaryKeyConstraint("id", name="pk_fields"),
        sa.UniqueConstraint("dataset_id", "name", name="uq_fields_dataset_id"),
    )
    op.create_index("ix_fields_dataset_id", "fields", ["dataset_id"])
    op.create_table(
        "heads",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name="fk_heads_connection_id_connections"),
        sa.PrimaryKeyConstraint("id", name="pk_heads"),
    )
    op.create_index("ix_heads_connection_id", "heads", ["connection_id"])
    op.create_table(
        "letters",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("delivered", sa.BigInteger()),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name="fk_letters_connection_id_connections"),
        sa.PrimaryKeyConstraint("id", name="pk_letters"),
        sa.UniqueConstraint("connection_id", "number", name="uq_letters_connection_id"),
    )
    op.create_index("ix_letters_connection_id", "letters", ["connection_id"])
    op.create_table(
        "purges",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("feed_id", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name="fk_purges_connection_id_connections"),
        sa.ForeignKeyConstraint(["feed_id"], ["feeds.id"], name="fk_purges_feed_id_feeds"),
        sa.PrimaryKeyConstraint("id", name="pk_purges"),
        sa.UniqueConstraint("feed_id", "connection_id", "version", name="uq_purges_feed_id"),
    )
    op.create_index("ix_purges_connection_id", "purges", ["connection_id"])
    op.create_index("ix_purges_feed_id", "purges", ["feed_id"])
    op.create_table(
        "received_feeds",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("accepted_version", sa.Integer()),
        sa.Column("offered_version", sa.Integer()),
        sa.Column("told", sa.JSON()),
        sa.Column("last_revision", sa.BigInteger(), nullable=False),
        sa.Column("last_receipt", sa.LargeBinary(length=32)),
        sa.Column("records", sa.JSON()),
        sa.Column("epoch", sa.Integer()),
        sa.Column("refreshed", sa.BigInteger()),
        sa.Column("reason", sa.Text()),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["connection_id"], ["connections.id"], name="fk_received_feeds_connection_id_connections"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_received_feeds"),
    )
    op.create_index("ix_received_feeds_connection_id", "received_feeds", ["connection_id"])
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.String(length=32), nullable=False),
        sa.Column("feed_id", sa.String(length=32), nullable=False),
        sa.Column("ours", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("receipt", sa.LargeBinary()),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name="fk_runs_connection_id_connections"),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("connection_id", "feed_id", "revision", name="uq_runs_connection_id"),
    )
    op.create_index("ix_runs_connection_id", "runs", ["connection_id"])
    op.create_index("ix_runs_feed_id", "runs", ["feed_id"])
    op.create_table(
        "universes",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.String(length=32), nullable=False),
        sa.Column("ours", sa.Boolean(), nullable=False),
        sa.Column("namespace", sa.String(length=127), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=64), nullable=False),
        sa.Column("commitment", sa.LargeBinary(), nullable=False),
        sa.Column("asker", sa.LargeBinary(length=32)),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name="fk_universes_connection_id_connections"),
        sa.PrimaryKeyConstraint("id", name="pk_universes"),
        sa.UniqueConstraint(
            "connection_id", "ours", "namespace", "epoch", "generation", name="uq_universes_connection_id"
        ),
    )
    op.create_index("ix_universes_connection_id", "universes", ["connection_id"])
    op.create_table(
        "memberships",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("feed_id", sa.String(length=32), nullable=False),
        sa.Column("segment_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("file", sa.String(length=255), nullable=False),
        sa.Column("changes", sa.String(length=255), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["feed_id"], ["received_feeds.id"], name="fk_memberships_feed_id_received_feeds"),
        sa.PrimaryKeyConstraint("id", name="pk_memberships"),
        sa.UniqueConstraint("feed_id", "segment_id", name="uq_memberships_feed_id"),
    )
    op.create_index("ix_memberships_feed_id", "memberships", ["feed_id"])
