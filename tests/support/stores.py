"""Databases and object stores at the other end of destinations, as their owners read them."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import botocore.session
import sqlalchemy as sa
from botocore.client import BaseClient
from botocore.config import Config
from sqlalchemy.engine import make_url


@dataclass(frozen=True, slots=True)
class Place:
    """A database with a table "members", as a destination names it and as its owner reads it."""

    settings: dict[str, str]
    engine: sa.Engine

    def rows(self, *columns: str) -> set[tuple[str, ...]]:
        """Return some columns of all rows; nothing where there is no table."""
        with self.engine.connect() as connection:
            if not sa.inspect(connection).has_table("members"):
                return set()
            found = connection.execute(sa.text(f"SELECT {', '.join(columns)} FROM members")).fetchall()
        assert len(set(found)) == len(found)
        return {tuple(row) for row in found}

    def do(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for each in statements:
                connection.execute(sa.text(each))

    def members(self) -> set[tuple[str, ...]]:
        """Return who is in which segment."""
        return self.rows("segment", "identity")

    @classmethod
    def of(cls, database_url: str, folder: Path) -> "Place":
        """Return the place in an empty database, of which SQLite's is another file in a folder."""
        url = make_url(database_url)
        if url.drivername == "sqlite":
            file = f"sqlite:///{folder / 'crm.db'}"
            return cls({"url": file, "table": "members"}, sa.create_engine(file))
        schema = str(url.query["options"]).rpartition("=")[2]
        plain = url.set(drivername="postgresql", query={}).render_as_string(hide_password=False)
        engine = sa.create_engine(url.set(drivername="postgresql+psycopg"))
        return cls({"url": plain, "table": "members", "schema": schema}, engine)


class Bucket:
    """A bucket of an object store as its owner reads it, by a client of the store's own kind."""

    def __init__(self, url: str, key_id: str, key: str, bucket: str = "audiences") -> None:
        self.url, self.bucket = url, bucket
        self._client: BaseClient = botocore.session.Session().create_client(
            "s3", "us-east-1", endpoint_url=url, aws_access_key_id=key_id, aws_secret_access_key=key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )  # fmt: skip
        self._client.create_bucket(Bucket=bucket)
        self.settings = {"url": url, "bucket": bucket, "access_key_id": key_id, "prefix": "crm/eu"}

    def objects(self) -> list[str]:
        return [each["Key"] for each in self._client.list_objects_v2(Bucket=self.bucket).get("Contents", ())]

    def body(self, key: str) -> bytes:
        found: bytes = self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return found

    def empty(self) -> None:
        for key in self.objects():
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def members(self) -> set[tuple[str, str]]:
        """Return who is in which segment after all objects, in order of their keys' names."""
        found: set[tuple[str, str]] = set()
        for key in sorted(self.objects(), key=lambda key: key.rpartition("/")[2]):
            for row in csv.DictReader(io.StringIO(self.body(key).decode())):
                (found.add if row["status"] == "realized" else found.discard)((row["segment"], row["identity"]))
        return found
