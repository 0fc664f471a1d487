"""The control rows: one SQLAlchemy Core table per noun, the same on SQLite and PostgreSQL.

Ids are UUIDs as 32 hex digits, times are whole Unix seconds, keys and digests are raw bytes. Data (identities, attributes,
segment bitmaps) is not here: `manifests.content` names the immutable files that hold it.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

DAY, HOUR = 86_400, 3_600  # in seconds, as all times are

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> Column[str]:
    return Column("id", String(32), primary_key=True)


def _of(table: str) -> Column[str]:
    return Column(f"{table}_id", String(32), ForeignKey(f"{table}s.id"), nullable=False, index=True)


def _time(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


projects = Table(
    "projects",
    metadata,
    _id(),
    Column("name", String(63), nullable=False, unique=True),
    Column("consent_model", String(8)),  # "opt-in", "opt-out", or not chosen yet
    Column("hide_unconsented", Boolean, nullable=False),  # keeps people without consent out of estimates altogether
    Column("connect_secret", LargeBinary),  # wrapped, of the current Connect ID, none before the first
    _time("connect_expires", nullable=True),
    Column("terms", JSON, nullable=False),  # protocol.agreement.Terms as a dict
    Column("count_secret", LargeBinary, nullable=False),  # wrapped; keys the noise of counts; never leaves
    _time("created"),
    _time("restored", nullable=True),  # when this home came from a backup: what partners used up since is not known
    _time("resumed", nullable=True),  # when a person let it go on after that: until then it is on hold
)

datasets = Table(
    "datasets",
    metadata,
    _id(),
    _of("project"),
    Column("name", String(63), nullable=False),
    _time("created"),
    UniqueConstraint("project_id", "name"),
)

fields = Table(
    "fields",
    metadata,
    _id(),
    _of("dataset"),
    Column("name", String(255), nullable=False),
    Column("kind", String(16), nullable=False),  # id, identity, consent, attribute, segments (of another product)
    Column("rule", String(127)),  # "email_sha256/lc-v1", for identities, also for ids that are identities too
    UniqueConstraint("dataset_id", "name"),
)

manifests = Table(  # the newest row of a project is its data; readers pin one
    "manifests",
    metadata,
    _id(),
    _of("project"),
    Column("generation", Integer, nullable=False),
    Column("content", JSON, nullable=False),
    _time("created"),
    UniqueConstraint("project_id", "generation"),
)

segments = Table(
    "segments",
    metadata,
    _id(),
    _of("project"),
    Column("name", String(63), nullable=False),
    Column("kind", String(8), nullable=False),  # members, rule
    Column("rule", Text),
    Column("tree", JSON),  # the rule, parsed
    Column("uses", JSON, nullable=False),  # ["dataset.field", ...] that the rule reads
    Column("size", Integer, nullable=False),
    _time("evaluated"),
    _time("created"),
    UniqueConstraint("project_id", "name"),
)

labels = Table(  # the custom ones; the standard catalogue is in node.labels
    "labels",
    metadata,
    _id(),
    _of("project"),
    Column("name", String(63), nullable=False),
    Column("description", Text, nullable=False),
    UniqueConstraint("project_id", "name"),
)

label_uses = Table(
    "label_uses",
    metadata,
    _id(),
    _of("project"),
    Column("label", String(63), nullable=False),
    Column("kind", String(8), nullable=False),  # dataset, field, segment
    Column("target", String(400), nullable=False),  # name, dataset.field, name
    UniqueConstraint("project_id", "label", "kind", "target"),
)

policies = Table(
    "policies",
    metadata,
    _id(),
    _of("project"),
    Column("name", String(63), nullable=False),
    Column("action", String(63), nullable=False),  # the marketing action it forbids
    Column("expression", Text, nullable=False),  # over labels: "C1 OR (C3 AND C7)"
    Column("status", String(8), nullable=False),  # enabled, disabled, draft
    UniqueConstraint("project_id", "name"),
)

consent_policies = Table(
    "consent_policies",
    metadata,
    _id(),
    _of("project"),
    Column("name", String(63), nullable=False),
    Column("action", String(63), nullable=False),  # the marketing action it guards
    Column("label", String(63)),  # that a segment must carry, none: any segment
    Column("applies", Text),  # a rule: to whom it applies, none: everybody
    Column("applies_tree", JSON),  # the rules, parsed
    Column("needs", Text, nullable=False),  # a rule: who qualifies
    Column("needs_tree", JSON, nullable=False),
    Column("status", String(8), nullable=False),  # enabled, disabled
    UniqueConstraint("project_id", "name"),
)

connections = Table(
    "connections",
    metadata,
    _id(),  # the connection id that both nodes use
    _of("project"),
    Column("alias", String(63), nullable=False),
    Column("status", String(16), nullable=False),  # pending, requested, active, declined, disconnected, failed
    Column("peer_key", LargeBinary(32), nullable=False),
    Column("peer_project", LargeBinary(16), nullable=False),
    Column("peer_project_name", String(63), nullable=False),
    Column("peer_organisation", String(255), nullable=False),
    Column("peer_address", String(255), nullable=False),  # empty: they call us
    Column("proxy", Boolean, nullable=False),
    Column("agreement", LargeBinary, nullable=False),  # protocol.agreement.Agreement, encoded
    Column("agreement_digest", LargeBinary(32), nullable=False),
    # Evidence of what the partner agreed to, for whoever has to show it: the agreement has the digest of their offer
    # (protocol.agreement.Offer, encoded), and both signed it once the connection is active.
    Column("their_offer", LargeBinary, nullable=False),
    Column("our_signature", LargeBinary(64)),
    Column("their_signature", LargeBinary(64)),
    Column("letters_sent", BigInteger, nullable=False),
    Column("letters_received", BigInteger, nullable=False),
    Column("reason", Text),  # of a decline, a disconnect or a failure
    _time("key_changed", nullable=True),  # when another key last answered or called in the partner's place
    Column("budget", JSON),  # what we have spent on estimates, by the partner's word; see node.matching.budget
    Column("preflight", JSON),  # how the two normalisers compared; see node.preflight
    _time("restored", nullable=True),  # when the partner last said that it came from a backup
    _time("head_sent", nullable=True),  # of our audit log
    Column("heads_held", LargeBinary),  # protocol.heads.SignedHeads, encoded: the partner's word on those it keeps
    _time("created"),
    _time("changed"),
    UniqueConstraint("project_id", "alias"),
)

epochs = Table(
    "epochs",
    metadata,
    _id(),
    _of("connection"),
    Column("number", Integer, nullable=False),
    Column("secret", LargeBinary, nullable=False),  # wrapped; emptied when the epoch ends
    _time("started"),
    _time("ended", nullable=True),
    Column("refills", Boolean, nullable=False, default=False),  # by our own word its end refills what a partner may use
    UniqueConstraint("connection_id", "number"),
)

letters = Table(  # the outbox
    "letters",
    metadata,
    _id(),
    _of("connection"),
    Column("number", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("body", LargeBinary, nullable=False),
    _time("created"),
    _time("delivered", nullable=True),
    UniqueConstraint("connection_id", "number"),
)

exchanges = Table(
    "exchanges",
    metadata,
    _id(),  # the exchange id that both nodes use
    _of("connection"),
    Column("kind", String(16), nullable=False),  # count, evaluate, release
    Column("part", String(16), nullable=False),  # ours
    Column("ours", Boolean, nullable=False),  # opened here, not by the partner
    Column("opened", LargeBinary, nullable=False),  # the opening and its reply, encoded
    Column("state", String(16), nullable=False),  # open, done, failed
    Column("error", JSON),
    _time("created"),
    _time("changed"),
)

universes = Table(  # generations that we answered from, or were shown
    "universes",
    metadata,
    _id(),
    _of("connection"),
    Column("ours", Boolean, nullable=False),
    Column("namespace", String(127), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("digest", LargeBinary(64), nullable=False),
    Column("commitment", LargeBinary, nullable=False),
    Column("asker", LargeBinary(32)),  # the one public key that ours may be asked under
    _time("created"),
    UniqueConstraint("connection_id", "ours", "namespace", "epoch", "generation"),
)

ledger = Table(  # what partners have used up, by the wall clock; rows are only ever added
    "ledger",
    metadata,
    _id(),
    _of("project"),
    Column("peer_key", LargeBinary(32), nullable=False),  # the organisation: no reconnection refills it
    # epsilon_millis, evaluations, allowed (evaluations begin anew), tags (wrong ones: no more counts)
    Column("kind", String(16), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("note", String(255), nullable=False),
    _time("at"),
    Index("ix_ledger_window", "project_id", "peer_key", "kind", "at"),
)

answers = Table(  # what we answered, so that an identical question costs nothing
    "answers",
    metadata,
    _id(),
    _of("connection"),
    Column("question", LargeBinary(32), nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("points", Text, nullable=False),  # the file of sorted question points, for the differencing refusal
    _time("at"),
    UniqueConstraint("connection_id", "question"),
)

estimates = Table(  # what partners answered us
    "estimates",
    metadata,
    _id(),
    _of("connection"),
    Column("segment", String(63), nullable=False),
    Column("namespace", String(127), nullable=False),
    Column("status", String(16), nullable=False),  # ok, below_minimum, refused
    Column("overlap", BigInteger),
    Column("consented", BigInteger),
    Column("half_width", BigInteger),  # of the 95 % interval around overlap
    Column("consented_half_width", BigInteger),
    Column("detail", JSON, nullable=False),
    _time("at"),
)

feeds = Table(  # ours
    "feeds",
    metadata,
    _id(),
    _of("project"),
    Column("name", String(63), nullable=False),
    Column("status", String(16), nullable=False),  # draft, published, revoked
    Column("version", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),  # the last data revision handed out; only grows
    _time("created"),
    _time("changed"),
    UniqueConstraint("project_id", "name"),
)

feed_versions = Table(  # immutable definitions, ours and received
    "feed_versions",
    metadata,
    _id(),
    Column("feed_id", String(32), nullable=False, index=True),
    Column("version", Integer, nullable=False),
    Column("definition", LargeBinary, nullable=False),  # protocol.feed.Definition, encoded
    _time("created"),
    UniqueConstraint("feed_id", "version"),
)

feed_partners = Table(  # one partner's state of one of our feeds
    "feed_partners",
    metadata,
    _id(),
    _of("feed"),
    _of("connection"),
    Column("status", String(16), nullable=False),  # draft, pending, enabled, disabled, declined, revoked
    Column("accepted_version", Integer),
    Column("offers", JSON, nullable=False, default=list),  # versions it was told of, from the one it accepted last on
    Column("declined_version", Integer),  # whose additions it does not want
    Column("reason", Text),
    Column("last_revision", BigInteger, nullable=False),
    Column("last_receipt", LargeBinary(32)),
    Column("anew", Boolean, nullable=False, default=False),  # the next revision holds everything
    _time("renewed", nullable=True),  # since when it does, by the receiver's word
    Column("renewals", Integer, nullable=False, default=0),  # how often it did before, less than a day apart
    Column("tried", JSON),  # what the last attempt of a run depended on; see attempts.Basis
    Column("tries", Integer, nullable=False, default=0),  # attempts since the last that ended well
    Column("failure", String(40)),  # the error code of the last one
    _time("next_attempt", nullable=True),
    _time("ran", nullable=True),  # when the last attempt ended well
    _time("wished", nullable=True),  # when the receiver asked for a run
    Column("wishes", Integer, nullable=False, default=0),  # runs that it asked for since it last had anybody new
    Column(
        "universes", JSON
    ),  # the receiver's identities by namespace when it accepted: the base of the evaluation limit
    _time("changed"),
    UniqueConstraint("feed_id", "connection_id"),
)

purges = Table(  # what partners signed that they removed, one row for each of our versions that took something out
    "purges",
    metadata,
    _id(),
    _of("feed"),
    _of("connection"),
    Column("version", Integer, nullable=False),  # 0: the whole feed
    Column("statement", LargeBinary, nullable=False),  # protocol.letters.Purged, encoded
    _time("at"),
    UniqueConstraint("feed_id", "connection_id", "version"),
)

received_feeds = Table(
    "received_feeds",
    metadata,
    _id(),  # versions.local(connection, the sender's feed id)
    _of("connection"),
    Column("name", String(63), nullable=False),
    Column("status", String(16), nullable=False),  # pending, enabled, disabled, declined, revoked
    Column("accepted_version", Integer),
    Column("offered_version", Integer),
    Column("told", JSON),  # our identities by namespace, as the sender was last told
    Column("last_revision", BigInteger, nullable=False),
    Column("last_receipt", LargeBinary(32)),
    Column("records", JSON),  # the files of the last whole revision and of the changes since, sealed
    Column("epoch", Integer),  # whose keys open it
    _time("refreshed", nullable=True),  # when a run last confirmed the memberships
    Column("reason", Text),
    _time("changed"),
)

memberships = Table(  # what received feeds say of our profiles
    "memberships",
    metadata,
    _id(),
    Column("feed_id", String(32), ForeignKey("received_feeds.id"), nullable=False, index=True),
    Column("segment_id", String(32), nullable=False),  # the sender's
    Column("name", String(255), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("file", String(255), nullable=False),  # present members, a roaring bitmap over profile numbers
    Column("changes", String(255), nullable=False),  # who is realized and who has left; see node.memberships
    Column("size", Integer, nullable=False),
    _time("changed"),
    UniqueConstraint("feed_id", "segment_id"),
)

runs = Table(  # one row per feed, partner and data revision, on both nodes
    "runs",
    metadata,
    _id(),
    _of("connection"),
    Column("feed_id", String(32), nullable=False, index=True),
    Column("ours", Boolean, nullable=False),  # we are the sender
    Column("version", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("state", String(16), nullable=False),  # prepared, signed, done, failed
    Column("report", JSON, nullable=False),
    Column("receipt", LargeBinary),  # protocol.receipt.Receipt with both signatures, encoded
    _time("created"),
    _time("changed"),
    UniqueConstraint("connection_id", "feed_id", "revision"),
)

jobs = Table(
    "jobs",
    metadata,
    _id(),
    _of("project"),
    Column("kind", String(32), nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("submitted_by", String(255), nullable=False),  # as the audit log writes it
    Column("state", String(16), nullable=False),  # queued, running, done, failed
    Column("owner", String(64)),
    _time("lease_until", nullable=True),
    Column("progress", JSON),
    Column("result", JSON),
    Column("error", JSON),
    _time("created"),
    _time("changed"),
)

users = Table(
    "users",
    metadata,
    _id(),
    Column("name", String(63), nullable=False, unique=True),
    _time("created"),
)

roles = Table(  # the custom ones; the ready-made are in node.access
    "roles",
    metadata,
    _id(),
    Column("name", String(63), nullable=False, unique=True),
    Column("permissions", JSON, nullable=False),
    Column("labels", JSON),  # those that its holder may see; none: all
    _time("created"),
)

grants = Table(  # the roles of users
    "grants",
    metadata,
    _id(),
    _of("user"),
    Column("role", String(63), nullable=False),
    Column("project_id", String(32), ForeignKey("projects.id"), index=True),  # none: the node and all its projects
)

tokens = Table(
    "tokens",
    metadata,
    _id(),
    _of("user"),
    Column("digest", LargeBinary(32), nullable=False, unique=True),  # the token itself is shown once and not kept
    _time("created"),
    _time("expires"),
)

alerts = Table(
    "alerts",
    metadata,
    _id(),
    _of("project"),
    Column("kind", String(32), nullable=False),
    Column("text", Text, nullable=False),
    _time("at"),
    _time("acknowledged", nullable=True),
)

heads = Table(  # of partners' audit logs, which we keep for them
    "heads",
    metadata,
    _id(),
    _of("connection"),
    Column("number", BigInteger, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("signed", LargeBinary, nullable=False),  # protocol.heads.SignedHead, encoded
    _time("at"),
)

audit = Table(  # append-only, each row carries the hash of the one before
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("project_id", String(32)),
    Column("actor", String(255), nullable=False),  # a user, user@host, or the partner's alias
    Column("act", String(63), nullable=False),  # "feed.publish"
    Column("target", String(400), nullable=False),
    Column("result", String(8), nullable=False),  # allow, deny, fail
    Column("detail", JSON, nullable=False),
    Column("previous", LargeBinary(32), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
)
