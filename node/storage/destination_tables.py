"""The tables of destinations; see tables.py."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from .columns import identifier, metadata, of, time

# written by destinations
destinations = Table(
    "destinations",
    metadata,
    identifier(),
    of("project"),
    Column("name", String(63), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("description", Text, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("sealed", LargeBinary),  # wrapped: settings that may have a token in them
    Column("secret", LargeBinary),  # wrapped by the master key
    Column("identity", String(128), nullable=False),  # id, or a namespace with its rule
    Column("uses", JSON, nullable=False),  # the marketing actions it is for
    Column("status", String(8), nullable=False),  # active, paused, disabled, deleting
    Column("reason", String(32)),  # the code for which it was disabled
    Column("next_attempt", BigInteger),  # before it nothing is sent: the last one failed
    Column("messages", Integer, nullable=False),  # how many were ever made
    Column("part_of", String(32)),  # of a solution, the connection whose one it is
    Column("brake", Integer, nullable=False, server_default="50"),  # per cent of a segment that may leave at once
    Column("old_secret", LargeBinary),  # wrapped; signs too until it ends
    time("old_secret_ends", nullable=True),
    Column("of_all", Boolean, nullable=False, server_default=false()),  # the older sharing: every segment of ours
    time("delay_alerted", nullable=True),  # when it was last said that changes wait too long
    time("created"),
    UniqueConstraint("project_id", "name"),
)

# written by destinations
activations = Table(  # a segment that a destination gets
    "activations",
    metadata,
    identifier(),
    of("destination"),
    Column("segment", String(63), nullable=False),
    Column("status", String(8), nullable=False),  # active, leaving
    Column("revision", Integer, nullable=False),
    Column("file", String(64)),  # who is at the target; none: nobody
    Column("pending", String(64)),  # the same once the batches of this revision are all delivered
    Column("basis", String(64), nullable=False),  # a digest of what this revision was decided from
    Column("checked", String(64), nullable=False),  # the same of when its waiting batches were last found to hold
    Column("replay", Boolean, nullable=False),  # the next revision says again what failed
    Column("present", Integer, nullable=False),
    Column("failed", Integer, nullable=False),  # identities
    Column("stopped", String(32)),  # the code for which nobody may leave
    Column(
        "mapping", JSON, nullable=False, server_default="{}"
    ),  # by field at the target, the attribute ("dataset.column") that it gets
    Column("unmapped", JSON, nullable=False, server_default="[]"),  # fields that were mapped, and are emptied
    Column("external_id", String(255)),  # what the target calls the segment
    Column("told_labels", JSON, nullable=False, server_default="[]"),  # of the segment, where the target keeps them
    Column("deleted_id", String(32)),  # the id of a segment that is no more, while its members are removed
    Column("audience", String(63)),  # the name by which it was asked to make it; none: it was not asked
    Column("unremoved", Integer, nullable=False, server_default="0"),  # of those that failed: removals
    time("again", nullable=True),  # when removals that failed are said again by themselves
    time("said_again", nullable=True),  # when they last were
    Column("held", Integer, nullable=False, server_default="0"),  # removals that the brake holds
    Column("released", Boolean, nullable=False, server_default=false()),  # a person said yes to them
    time("created"),
    time("confirmed", nullable=True),  # when the last revision was delivered whole
    UniqueConstraint("destination_id", "segment"),
)

# written by destinations
batches = Table(  # its id is that of its message
    "batches",
    metadata,
    identifier(),
    of("destination"),
    Column("activation_id", String(32), nullable=False, index=True),
    Column("segment", String(63), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("number", Integer, nullable=False),  # in the revision
    Column("sequence", Integer, nullable=False),  # among all of the destination, in the order in which they are sent
    Column("adds", Integer, nullable=False),
    Column("removes", Integer, nullable=False),
    Column("known", Integer, nullable=False, server_default="0"),  # of them: identities that were there before
    Column("unsettled", Integer, nullable=False, server_default="0"),  # of them: identities that had failed before
    Column("state", String(12), nullable=False),  # waiting, delivered, failed, superseded, accepted
    Column("attempts", Integer, nullable=False),
    Column("code", String(32)),  # of the last attempt
    time("not_before", nullable=True),  # until when it waits for other changes
    Column("hours", JSON),  # how many of its changes were noticed in which hour, where it is not one
    Column("answer", LargeBinary),  # wrapped: how the target's answer to it began, without what looks like data
    time("sent", nullable=True),  # when the last attempt began
    Column("handle", LargeBinary),  # wrapped: where to ask whether the target is ready
    time("ready", nullable=True),  # when to ask; without a handle: when the target was ready
    time("created"),
    time("changed"),
)

# written by destinations
deliveries = Table(  # what became of changes, by the hour in which they were noticed
    "deliveries",
    metadata,
    identifier(),
    of("destination"),
    Column("segment", String(63), nullable=False),
    time("hour"),
    Column("outcome", String(12), nullable=False),  # activated, excluded, failed, waiting; requests count messages
    Column("code", String(32), nullable=False),
    Column("count", Integer, nullable=False),
    UniqueConstraint("destination_id", "segment", "hour", "outcome", "code"),
)

# written by destinations
latencies = Table(  # how long delivered changes took, by the hour in which they were noticed
    "latencies",
    metadata,
    identifier(),
    of("destination"),
    Column("segment", String(63), nullable=False),
    time("hour"),
    Column("stage", String(12), nullable=False),  # qualified, sent, confirmed, ready
    Column("seconds", Integer, nullable=False),  # since they qualified, in three digits
    Column("count", Integer, nullable=False),
    time("last"),  # when the last of them came so far
    UniqueConstraint("destination_id", "segment", "hour", "stage", "seconds"),
)

# written by destinations
subscriptions = Table(  # who wants to hear what of a destination
    "subscriptions",
    metadata,
    identifier(),
    of("destination"),
    Column("user_name", String(63), nullable=False),  # empty: the operator of a node without users
    Column("kinds", JSON, nullable=False),
    Column("mail", String(254)),
    UniqueConstraint("destination_id", "user_name"),
)
