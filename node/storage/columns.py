"""What the tables have in common: their metadata, and the kinds of their columns."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    MetaData,
    String,
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


def identifier() -> Column[str]:
    """Return the key of a row: a UUID as 32 hex digits."""
    return Column("id", String(32), primary_key=True)


def of(table: str) -> Column[str]:
    """Return the column that names a row of another table by its id."""
    return Column(f"{table}_id", String(32), ForeignKey(f"{table}s.id"), nullable=False, index=True)


def time(name: str, *, nullable: bool = False) -> Column[int]:
    """Return a column of whole Unix seconds."""
    return Column(name, BigInteger, nullable=nullable)
