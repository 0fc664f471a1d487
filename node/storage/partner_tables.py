"""The rows of what a node has with its partners: connections, exchanges, feeds; see node.storage.tables."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from .columns import identifier, metadata, of, time

# written by partners
connections = Table(
    "connections",
    metadata,
    identifier(),  # the connection id that both nodes use
    of("project"),
    Column("alias", String(63), nullable=False),
    Column("status", String(16), nullable=False),  # pending, requested, active, declined, disconnected, failed
    Column("peer_key", LargeBinary(32), nullable=False),  # the one it has now
    Column("first_key", LargeBinary(32)),  # the one it had when both agreed, none: the same
    # How it came to that key: its last changes, as protocol.keychange.KeyChanges encodes them.
    Column("peer_changes", LargeBinary),
    Column("replaced_keys", LargeBinary),  # all that it has replaced, 32 bytes each, oldest first
    time("key_replaced", nullable=True),  # when it last did
    Column("our_key", LargeBinary(32)),  # of the agreement, none: that of today
    Column("announced_key", LargeBinary(32)),  # ours that the partner is known to have, none: that of the agreement
    Column("peer_project", LargeBinary(16), nullable=False),
    Column("peer_project_name", String(63), nullable=False),
    Column("peer_organisation", String(255), nullable=False),
    Column("peer_address", String(255), nullable=False),  # empty: they call us
    Column("proxy", Boolean, nullable=False),
    Column("moves_to", JSON),  # where it says that it is now, until its key has answered there: address, proxy
    Column("chosen_address", String(255), nullable=False, server_default=""),  # of the Connect ID that we entered
    Column("agreement", LargeBinary, nullable=False),  # protocol.agreement.Agreement, encoded
    Column("agreement_digest", LargeBinary(32), nullable=False),
    # Evidence of what the partner agreed to, for those who have to show it: the agreement has the digest of their offer
    # (protocol.agreement.Offer, encoded), and both signed it once the connection is active.
    Column("their_offer", LargeBinary, nullable=False),
    Column("our_offer", LargeBinary),
    Column("our_signature", LargeBinary(64)),
    Column("their_signature", LargeBinary(64)),
    # Changes of the agreement that are under way (protocol.agreement.Proposal and Acceptance, encoded)
    Column("our_proposal", LargeBinary),
    Column("their_proposal", LargeBinary),
    Column("our_acceptance", LargeBinary),
    time("accepted", nullable=True),  # when we accepted it, none: we took it back
    Column("confirmation", LargeBinary(64)),  # the partner's signature, which came too late: a person decides
    Column("void", LargeBinary),  # digests of what we accepted and what came to nothing, since the one in force
    Column("letters_sent", BigInteger, nullable=False),
    Column("letters_received", BigInteger, nullable=False),
    Column("reason", Text),  # of a decline, a disconnect or a failure
    time("key_changed", nullable=True),  # when another key last answered or called in the partner's place
    Column("budget", JSON),  # what we have spent on estimates, by the partner's word; see feeds.estimates.asking.budget
    Column("preflight", JSON),  # how the two normalisers compared; see partners/preflight.py
    time("restored", nullable=True),  # when the partner last said that it came from a backup
    time("head_sent", nullable=True),  # of our audit log
    Column("heads_kept", LargeBinary),  # protocol.heads.SignedHeads, encoded: which of ours the partner keeps
    time("created"),
    time("changed"),
    UniqueConstraint("project_id", "alias"),
)

# written by partners
agreements = Table(  # those that were changed: what both sides signed before
    "agreements",
    metadata,
    identifier(),
    of("connection"),
    Column("version", Integer, nullable=False),
    Column("agreement", LargeBinary, nullable=False),
    Column("agreement_digest", LargeBinary(32), nullable=False),
    Column("our_offer", LargeBinary),
    Column("their_offer", LargeBinary, nullable=False),
    Column("our_signature", LargeBinary(64)),
    Column("their_signature", LargeBinary(64)),
    time("until"),
    UniqueConstraint("connection_id", "version"),
)

# written by partners
epochs = Table(
    "epochs",
    metadata,
    identifier(),
    of("connection"),
    Column("number", Integer, nullable=False),
    Column("secret", LargeBinary, nullable=False),  # wrapped; emptied when the epoch ends
    time("started"),
    time("ended", nullable=True),
    Column("refills", Boolean, nullable=False, default=False),  # by our own word its end refills what a partner may use
    UniqueConstraint("connection_id", "number"),
)

# written by partners
letters = Table(  # the outbox
    "letters",
    metadata,
    identifier(),
    of("connection"),
    Column("number", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("body", LargeBinary, nullable=False),
    time("created"),
    time("delivered", nullable=True),
    UniqueConstraint("connection_id", "number"),
    Index("ix_letters_waiting", "connection_id", "delivered", "number"),
    Index("ix_letters_delivered", "delivered"),
)

# written by exchanges
exchanges = Table(
    "exchanges",
    metadata,
    identifier(),  # the exchange id that both nodes use
    of("connection"),
    Column("kind", String(16), nullable=False),  # count, evaluate, release
    Column("part", String(16), nullable=False),  # ours
    Column("ours", Boolean, nullable=False),  # opened here, not by the partner
    Column("opened", LargeBinary, nullable=False),  # the opening and its reply, encoded
    Column("state", String(16), nullable=False),  # open, done, failed
    Column("error", JSON),
    time("created"),
    time("changed"),
)

# written by feeds/estimates
universes = Table(  # generations that we answered from, or were shown
    "universes",
    metadata,
    identifier(),
    of("connection"),
    Column("ours", Boolean, nullable=False),
    Column("namespace", String(127), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("digest", LargeBinary(64), nullable=False),
    Column("commitment", LargeBinary, nullable=False),
    Column("asker", LargeBinary(32)),  # the one public key that ours may be asked under
    time("created"),
    UniqueConstraint("connection_id", "ours", "namespace", "epoch", "generation"),
)

# written by feeds
ledger = Table(  # what partners have used up, by the wall clock; rows are only ever added
    "ledger",
    metadata,
    identifier(),
    of("project"),
    Column("peer_key", LargeBinary(32), nullable=False),  # the organisation: no reconnection refills it
    # One of: epsilon_millis; evaluations; allowed (evaluations are counted afresh); tags (wrong ones: no more counts);
    # sample (of our people, whom we ask the organisation about).
    Column("kind", String(16), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("note", String(255), nullable=False),
    time("at"),
    Index("ix_ledger_window", "project_id", "peer_key", "kind", "at"),
)

# written by feeds/estimates
answers = Table(  # what we answered, so that an identical question costs nothing
    "answers",
    metadata,
    identifier(),
    of("connection"),
    Column("question", LargeBinary(32), nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("points", Text, nullable=False),  # the file of sorted question points, for the differencing refusal
    Column("sizes", JSON, nullable=False, server_default="[]"),  # of the segments that were asked about
    time("at"),
    UniqueConstraint("connection_id", "question"),
)

# written by feeds/estimates
estimates = Table(  # what partners answered us
    "estimates",
    metadata,
    identifier(),
    of("connection"),
    Column("segment", String(63), nullable=False),
    Column("namespace", String(127), nullable=False),
    Column("status", String(16), nullable=False),  # ok, below_minimum, refused
    Column("overlap", BigInteger),
    Column("consented", BigInteger),
    Column("half_width", BigInteger),  # of the 95 % interval around overlap
    Column("consented_half_width", BigInteger),
    Column("detail", JSON, nullable=False),
    time("at"),
)

# written by feeds/sending
feeds = Table(  # ours
    "feeds",
    metadata,
    identifier(),
    of("project"),
    Column("name", String(63), nullable=False),
    Column("status", String(16), nullable=False),  # draft, published, revoked
    Column("version", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),  # the last data revision handed out; only grows
    time("created"),
    time("changed"),
    # When people took it out of the lists; partners' letters about it still have their row.
    time("deleted", nullable=True),
    UniqueConstraint("project_id", "name"),
)

# written by feeds
feed_versions = Table(  # immutable definitions, ours and received
    "feed_versions",
    metadata,
    identifier(),
    Column("feed_id", String(32), nullable=False, index=True),
    Column("version", Integer, nullable=False),
    Column("definition", LargeBinary, nullable=False),  # protocol.feed.Definition, encoded
    time("created"),
    UniqueConstraint("feed_id", "version"),
)

# written by feeds/sending
feed_partners = Table(  # one partner's state of one of our feeds
    "feed_partners",
    metadata,
    identifier(),
    of("feed"),
    of("connection"),
    Column("status", String(16), nullable=False),  # draft, pending, enabled, disabled, declined, revoked
    Column("accepted_version", Integer),
    Column("offers", JSON, nullable=False, default=list),  # versions it was sent, from the one it accepted last on
    Column("declined_version", Integer),  # whose additions it does not want
    Column("reason", Text),
    Column("last_revision", BigInteger, nullable=False),
    Column("last_receipt", LargeBinary(32)),
    Column("full", Boolean, nullable=False, default=False),  # the next revision has to be full
    time("full_since", nullable=True),  # when the receiver asked for that
    Column("full_before", Integer, nullable=False, default=0),  # how often it asked before, less than a day apart
    Column("tried", JSON),  # what the last attempt of a run depended on; see recipients.Basis
    Column("tries", Integer, nullable=False, default=0),  # attempts since the last that ended well
    Column("failure", String(40)),  # the error code of the last one
    time("next_attempt", nullable=True),
    time("ran", nullable=True),  # when the last attempt ended well
    time("requested", nullable=True),  # when the receiver asked for a run
    Column("requests", Integer, nullable=False, default=0),  # runs that it asked for since it last had somebody new
    # The receiver's identities by namespace when it accepted: the base of the evaluation limit.
    Column("universes", JSON),
    time("changed"),
    UniqueConstraint("feed_id", "connection_id"),
)

# written by feeds
purges = Table(  # what partners signed that they removed, one row for each of our versions that took something out
    "purges",
    metadata,
    identifier(),
    of("feed"),
    of("connection"),
    Column("version", Integer, nullable=False),  # 0: the whole feed
    Column("statement", LargeBinary, nullable=False),  # protocol.letters.Purged, encoded
    time("at"),
    UniqueConstraint("feed_id", "connection_id", "version"),
)

# written by feeds/receiving
received_feeds = Table(
    "received_feeds",
    metadata,
    identifier(),  # versions.received_feed_id(connection, the sender's feed id)
    of("connection"),
    Column("name", String(63), nullable=False),
    Column("status", String(16), nullable=False),  # pending, enabled, disabled, declined, revoked
    Column("accepted_version", Integer),
    Column("offered_version", Integer),
    Column("reported", JSON),  # our identities by namespace, as they were last sent to the sender
    Column("last_revision", BigInteger, nullable=False),
    Column("last_receipt", LargeBinary(32)),
    Column("records", JSON),  # the files of the last whole revision and of the changes since, sealed
    Column("epoch", Integer),  # whose keys open it
    time("refreshed", nullable=True),  # when a run last confirmed the memberships
    Column("reason", Text),
    time("changed"),
    time("deleted", nullable=True),  # when people took it out of the lists
)

# written by feeds/receiving
memberships = Table(  # what received feeds say of our profiles
    "memberships",
    metadata,
    identifier(),
    Column("feed_id", String(32), ForeignKey("received_feeds.id"), nullable=False, index=True),
    Column("segment_id", String(32), nullable=False),  # the sender's
    Column("name", String(255), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("file", String(255), nullable=False),  # present members, a roaring bitmap over profile numbers
    Column("changes", String(255), nullable=False),  # who came lately and who has left; see feeds/receiving/changes.py
    Column("size", Integer, nullable=False),
    time("changed"),
    UniqueConstraint("feed_id", "segment_id"),
)

# written by feeds
runs = Table(  # one row per feed, partner and data revision, on both nodes
    "runs",
    metadata,
    identifier(),
    of("connection"),
    Column("feed_id", String(32), nullable=False, index=True),
    Column("ours", Boolean, nullable=False),  # we are the sender
    Column("version", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("state", String(16), nullable=False),  # prepared, signed, done, failed
    Column("report", JSON, nullable=False),
    Column("receipt", LargeBinary),  # protocol.receipt.Receipt with both signatures, encoded
    time("created"),
    time("changed"),
    UniqueConstraint("connection_id", "feed_id", "revision"),
)

# written by partners
heads = Table(  # of partners' audit logs, which we keep for them
    "heads",
    metadata,
    identifier(),
    of("connection"),
    Column("number", BigInteger, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("signed", LargeBinary, nullable=False),  # protocol.heads.SignedHead, encoded
    time("at"),
)
