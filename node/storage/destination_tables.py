"""The tables of destinations; see tables.py."""

from sqlalchemy import JSON, BigInteger, Boolean, Column, Integer, LargeBinary, String, Table, Text, UniqueConstraint

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
    Column("secret", LargeBinary),  # wrapped by the master key
    Column("identity", String(128), nullable=False),  # id, or a namespace with its rule
    Column("uses", JSON, nullable=False),  # the marketing actions it is for
    Column("status", String(8), nullable=False),  # active, paused, disabled, deleting
    Column("reason", String(32)),  # the code for which it was disabled
    Column("next_attempt", BigInteger),  # before it nothing is sent: the last one failed
    Column("messages", Integer, nullable=False),  # how many were ever made
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
    Column("state", String(12), nullable=False),  # waiting, delivered, failed, superseded
    Column("attempts", Integer, nullable=False),
    Column("code", String(32)),  # of the last attempt
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
