"""The tables of the Audience Manager side; see tables.py. Who has which trait is not here: see audiencemanager/visitors.py."""

from sqlalchemy import JSON, BigInteger, Column, Integer, String, Table, Text, UniqueConstraint

from .columns import identifier, metadata, of, time

# written by audiencemanager
audience_sources = Table(  # data sources: whose ids and signals these are
    "audience_sources",
    metadata,
    identifier(),
    of("project"),
    Column("number", Integer, nullable=False),  # the id that files and calls have (DPID)
    Column("name", String(255), nullable=False),
    Column("kind", String(12), nullable=False),  # global, own, third-party, platform
    Column("namespace", String(128)),  # with its rule, of the ids of this source; none: it has no ids of people
    Column("integration_code", String(255)),
    Column("controls", JSON, nullable=False),  # export controls
    time("created"),
    UniqueConstraint("project_id", "number", name="uq_audience_sources_number"),
    UniqueConstraint("project_id", "name", name="uq_audience_sources_name"),
)

# written by audiencemanager
audience_folders = Table(
    "audience_folders",
    metadata,
    identifier(),
    of("project"),
    Column("number", Integer, nullable=False),
    Column("parent", Integer, nullable=False),  # a number; 0: at the top
    Column("name", String(255), nullable=False),
    UniqueConstraint("project_id", "number", name="uq_audience_folders_number"),
    UniqueConstraint("project_id", "parent", "name", name="uq_audience_folders_name"),
)

# written by audiencemanager
traits = Table(
    "traits",
    metadata,
    identifier(),
    of("project"),
    Column("number", Integer, nullable=False),  # the id that files and calls have (sid)
    Column("kind", String(20), nullable=False),  # RULE_BASED_TRAIT, ON_BOARDED_TRAIT, FOLDER_TRAIT
    Column("name", String(255), nullable=False),
    Column("description", Text, nullable=False),
    Column("rule", Text),  # over signals; none: realised by files alone
    Column("tree", JSON),  # the rule, parsed
    Column("folder", Integer, nullable=False),  # a number; 0: at the top
    Column("source", Integer, nullable=False),  # the number of a data source
    Column("integration_code", String(255)),
    Column("days", Integer, nullable=False),  # after which it expires; 0: never
    Column("labels", JSON, nullable=False, server_default="[]"),  # of the platform's segment that it is made from
    Column("revision", Integer, nullable=False, server_default="0"),  # of the project's traits, when it last changed
    time("created"),
    UniqueConstraint("project_id", "number", name="uq_traits_number"),
    UniqueConstraint("project_id", "source", "integration_code", name="uq_traits_integration_code"),
)

# written by audiencemanager
audience_segments = Table(  # of traits
    "audience_segments",
    metadata,
    identifier(),
    of("project"),
    Column("number", Integer, nullable=False),
    Column("name", String(255), nullable=False),
    Column("description", Text, nullable=False),
    Column("rule", Text, nullable=False),  # over traits and segments
    Column("tree", JSON, nullable=False),
    Column("folder", Integer, nullable=False),
    Column("source", Integer, nullable=False),
    Column("integration_code", String(255)),
    Column("merge_rule", String(255), nullable=False),
    Column("size", Integer, nullable=False),
    time("evaluated", nullable=True),
    time("created"),
    UniqueConstraint("project_id", "number", name="uq_audience_segments_number"),
    UniqueConstraint("project_id", "source", "integration_code", name="uq_audience_segments_integration_code"),
)

# written by audiencemanager
audience_imports = Table(  # traits and segments that rules of the project read, as trait.NAME and audience.NAME
    "audience_imports",
    metadata,
    identifier(),
    of("project"),
    Column("kind", String(8), nullable=False),  # trait, segment
    Column("number", Integer, nullable=False),
    Column("name", String(63), nullable=False),  # in rules
    # Of the newest evaluation.
    Column("basis", String(64)),  # a digest of what it was made from
    Column("size", Integer, nullable=False),
    time("evaluated", nullable=True),
    time("created"),
    UniqueConstraint("project_id", "kind", "name", name="uq_audience_imports_name"),
    UniqueConstraint("project_id", "kind", "number", name="uq_audience_imports_number"),
)

# written by audiencemanager
audience_senders = Table(  # who sends us a segment of the platform, and how much of that has come
    "audience_senders",
    metadata,
    identifier(),
    of("project"),
    Column("sender", String(64), nullable=False),  # the id of a destination here, or a digest of a user and such an id
    Column("caller", String(64)),  # the user who sends for another node
    Column("segment", String(64), nullable=False),  # its id there
    Column("source", Integer, nullable=False),  # the number of the data source that its trait is in
    Column("sequence", BigInteger, nullable=False),  # of the newest message
    time("changed"),
    UniqueConstraint("project_id", "sender", "segment", name="uq_audience_senders_segment"),
)
