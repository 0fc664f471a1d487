"""The control rows: one SQLAlchemy Core table per noun, the same on SQLite and PostgreSQL.

The comment above a table names the room that writes it; others read (tests/test_tables.py).
Ids are UUIDs as 32 hex digits, times are whole Unix seconds, keys and digests are raw bytes. Data (identities, attributes,
segment bitmaps) is not here: `manifests.content` names the immutable files that have it.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from .audience_tables import (
    audience_folders,
    audience_imports,
    audience_segments,
    audience_senders,
    audience_sources,
    traits,
)
from .columns import DAY, HOUR, identifier, metadata, of, time
from .destination_tables import activations, batches, deliveries, destinations, latencies, subscriptions
from .partner_tables import (
    agreements,
    answers,
    connections,
    epochs,
    estimates,
    exchanges,
    feed_partners,
    feed_versions,
    feeds,
    heads,
    ledger,
    letters,
    memberships,
    purges,
    received_feeds,
    runs,
    universes,
)

__all__ = [
    "DAY",
    "HOUR",
    "activations",
    "agreements",
    "alerts",
    "answers",
    "audience_folders",
    "audience_imports",
    "audience_segments",
    "audience_senders",
    "audience_sources",
    "audit",
    "batches",
    "connections",
    "consent_policies",
    "datasets",
    "deliveries",
    "destinations",
    "epochs",
    "erasures",
    "estimates",
    "evaluations",
    "exchanges",
    "feed_partners",
    "feed_versions",
    "feeds",
    "fields",
    "grants",
    "heads",
    "jobs",
    "label_uses",
    "labels",
    "latencies",
    "ledger",
    "letters",
    "mails",
    "manifests",
    "memberships",
    "metadata",
    "policies",
    "projects",
    "purges",
    "received_feeds",
    "roles",
    "runs",
    "segments",
    "shares",
    "subscriptions",
    "suppressions",
    "tokens",
    "traits",
    "universes",
    "users",
]

# written by access
projects = Table(
    "projects",
    metadata,
    identifier(),
    Column("name", String(63), nullable=False, unique=True),
    Column("consent_model", String(8)),  # "opt-in", "opt-out", or not chosen yet
    # Who is left out of the estimates that we ask for: nobody, opted-out, unconsented.
    Column("left_out", String(12), nullable=False, server_default="nobody"),
    Column("connect_secret", LargeBinary),  # wrapped, of the current Connect ID, none before the first
    time("connect_expires", nullable=True),
    Column("terms", JSON, nullable=False),  # protocol.agreement.Terms as a dict
    # Wrapped. It keys the noise of counts and the suppressions, and never leaves.
    Column("count_secret", LargeBinary, nullable=False),
    time("created"),
    time("restored", nullable=True),  # when this home came from a backup: what partners used up since is not known
    time("resumed", nullable=True),  # when a person resumed it after that: until then it is on hold
    Column(
        "audience_numbers", Integer, nullable=False, server_default="0"
    ),  # given to traits, segments and folders so far
    Column("audience_revision", Integer, nullable=False, server_default="0"),  # how often traits have changed
)

# written by people
datasets = Table(
    "datasets",
    metadata,
    identifier(),
    of("project"),
    Column("name", String(63), nullable=False),
    time("created"),
    UniqueConstraint("project_id", "name"),
)

# written by people
fields = Table(
    "fields",
    metadata,
    identifier(),
    of("dataset"),
    Column("name", String(255), nullable=False),
    Column("kind", String(16), nullable=False),  # id, identity, consent, attribute, segments (of another product)
    Column("rule", String(127)),  # "email_sha256/lc-v1", for identities, also for ids that are identities too
    UniqueConstraint("dataset_id", "name"),
)

# written by people
manifests = Table(  # the newest row of a project is its data; readers pin one
    "manifests",
    metadata,
    identifier(),
    of("project"),
    Column("generation", Integer, nullable=False),
    Column("content", JSON, nullable=False),
    time("created"),
    UniqueConstraint("project_id", "generation"),
)

# written by people
suppressions = Table(  # keyed hashes of the ids and identities of erased people, whom imports leave out
    "suppressions",
    metadata,
    identifier(),
    of("project"),
    Column("digest", LargeBinary(32), nullable=False),
    time("at"),
    UniqueConstraint("project_id", "digest"),
)

# written by erasure
erasures = Table(  # that people were erased, and not whom: until nothing of them can be left
    "erasures",
    metadata,
    identifier(),
    of("project"),
    time("at"),
    time("swept", nullable=True),  # when all places were swept for the first time
)

# written by segments
segments = Table(
    "segments",
    metadata,
    identifier(),
    of("project"),
    Column("name", String(63), nullable=False),
    Column("kind", String(8), nullable=False),  # members, rule
    Column("rule", Text),
    Column("tree", JSON),  # the rule, parsed
    Column("uses", JSON, nullable=False),  # ["dataset.field", ...] that the rule reads
    Column("size", Integer, nullable=False),
    time("evaluated"),
    time("created"),
    UniqueConstraint("project_id", "name"),
)

# written by feeds/local
shares = Table(  # a segment that another project of the node uses: its members there are in that project's manifest
    "shares",
    metadata,
    identifier(),
    of("segment"),
    of("project"),  # that uses it
    Column("namespaces", JSON, nullable=False),  # without rule ids: people match by any identity of one of them
    Column("with_consent", Boolean, nullable=False),
    Column("restricted_uses", JSON, nullable=False),
    time("created"),
    Column("labels", JSON, nullable=False),  # as the feeds there have them
    # Of the newest evaluation; none while there are no members.
    Column("basis", String(64)),  # a digest of what it was made from
    Column("generation", Integer),  # of the data of the project that shares it
    Column("own_generation", Integer),
    Column("size", Integer, nullable=False),
    time("evaluated", nullable=True),
    UniqueConstraint("segment_id", "project_id"),
)

# written by feeds/local
evaluations = Table(
    "evaluations",
    metadata,
    identifier(),
    of("share"),
    time("at"),
    Column("size", Integer, nullable=False),
    Column("came", Integer, nullable=False),
    Column("left", Integer, nullable=False),
    Column("generation", Integer, nullable=False),  # of the data of the project that shares it
)

# written by governance
labels = Table(  # the custom ones; the standard catalogue is in protocol.labels
    "labels",
    metadata,
    identifier(),
    of("project"),
    Column("name", String(63), nullable=False),
    Column("description", Text, nullable=False),
    UniqueConstraint("project_id", "name"),
)

# written by governance
label_uses = Table(
    "label_uses",
    metadata,
    identifier(),
    of("project"),
    Column("label", String(63), nullable=False),
    Column("kind", String(8), nullable=False),  # dataset, field, segment
    Column("target", String(400), nullable=False),  # name, dataset.field, name
    UniqueConstraint("project_id", "label", "kind", "target"),
)

# written by governance
policies = Table(
    "policies",
    metadata,
    identifier(),
    of("project"),
    Column("name", String(63), nullable=False),
    Column("action", String(63), nullable=False),  # the marketing action it forbids
    Column("expression", Text, nullable=False),  # over labels: "C1 OR (C3 AND C7)"
    Column("status", String(8), nullable=False),  # enabled, disabled, draft
    UniqueConstraint("project_id", "name"),
)

# written by consent
consent_policies = Table(
    "consent_policies",
    metadata,
    identifier(),
    of("project"),
    Column("name", String(63), nullable=False),
    Column("action", String(63), nullable=False),  # the marketing action it guards
    Column("label", String(63)),  # that a segment must carry, none: any segment
    Column("applies", Text),  # a rule: the people to whom it applies, none: everybody
    Column("applies_tree", JSON),  # the rules, parsed
    Column("needs", Text, nullable=False),  # a rule: who qualifies
    Column("needs_tree", JSON, nullable=False),
    Column("status", String(8), nullable=False),  # enabled, disabled
    UniqueConstraint("project_id", "name"),
)

# written by operations
jobs = Table(
    "jobs",
    metadata,
    identifier(),
    of("project"),
    Column("kind", String(32), nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("submitted_by", String(255), nullable=False),  # as the audit log writes it
    Column("submitted_by_kind", String(8), nullable=False, server_default="user"),
    Column("state", String(16), nullable=False),  # queued, running, done, failed
    Column("owner", String(64)),
    time("lease_until", nullable=True),
    Column("progress", JSON),
    Column("result", JSON),
    Column("error", JSON),
    time("created"),
    time("changed"),
)

# written by destinations
mails = Table(  # alerts on their way to a person
    "mails",
    metadata,
    identifier(),
    of("project"),
    Column("user_name", String(63), nullable=False),  # empty: the operator of a node without users
    Column("address", String(254), nullable=False),
    Column("text", Text, nullable=False),
    Column("state", String(12), nullable=False),  # waiting, sent, failed
    Column("attempts", Integer, nullable=False),
    time("next_attempt"),
    time("created"),
)

# written by access
users = Table(
    "users",
    metadata,
    identifier(),
    Column("name", String(63), nullable=False, unique=True),
    time("created"),
)

# written by access
roles = Table(  # the custom ones; the ready-made are in node.access.permissions
    "roles",
    metadata,
    identifier(),
    Column("name", String(63), nullable=False, unique=True),
    Column("permissions", JSON, nullable=False),
    Column("labels", JSON),  # those that it lets a user see; none: all
    Column("sources", JSON),  # the numbers of the data sources that it is limited to; none: all
    time("created"),
)

# written by access
grants = Table(  # the roles of users
    "grants",
    metadata,
    identifier(),
    of("user"),
    Column("role", String(63), nullable=False),
    Column("project_id", String(32), ForeignKey("projects.id"), index=True),  # none: the node and all its projects
)

# written by access
tokens = Table(
    "tokens",
    metadata,
    identifier(),
    of("user"),
    Column("digest", LargeBinary(32), nullable=False, unique=True),  # the token itself is shown once and not kept
    time("created"),
    time("expires"),
)

# written by operations
alerts = Table(
    "alerts",
    metadata,
    identifier(),
    of("project"),
    Column("kind", String(32), nullable=False),
    Column("text", Text, nullable=False),
    time("at"),
    time("acknowledged", nullable=True),
    Column("remedy", JSON),  # the act that answers it
)

# written by access
audit = Table(  # append-only, each row carries the hash of the one before
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("project_id", String(32)),
    Column("actor_kind", String(8)),  # user, partner, node or account; rows of an older release have none
    Column("actor", String(255), nullable=False),  # a user, user@host, or the partner's alias
    Column("act", String(63), nullable=False),  # "feed.publish"
    Column("target", String(400), nullable=False),
    Column("result", String(8), nullable=False),  # allow, deny, fail
    Column("detail", JSON, nullable=False),
    Column("previous", LargeBinary(32), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
)
