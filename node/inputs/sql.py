"""Names in the SQL that DuckDB runs for us, and of where it puts what does not fit into memory."""

SPILLED = "duckdb"  # a private temporary directory beside the data, deleted at the end


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
