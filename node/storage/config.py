"""What a home directory is, and the few settings in its config.json.

config.json   written last by `node init`: a home without it is not one
control.db    the control rows, unless `database` names a PostgreSQL
lock          locked (flock) by the running service
bell          a FIFO at which the running service hears of others' commits
keys/         node.key and master.key, 0600
owners/       a lock of each process that runs jobs: it shows which are alive
data/ spool/ cache/
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from psi.errors import Remedy

from ..errors import Failure, InvalidInput, NoHome
from .files import write_atomically

PARTS = ("config.json", "lock", "keys", "owners", "data", "spool", "cache", "fetched")  # the database guards itself
MAX_ORGANISATION = 255  # bytes of UTF-8: it travels in every offer


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of a home: what config.json says."""

    organisation: str
    database: str | None = field(default=None, repr=False)  # a URL, which may have a password in it
    listen: str = "127.0.0.1:8470"
    address: str = ""  # HOST:PORT under which partners reach us; empty: we call them
    proxy: bool = False  # TLS ends at a web server in front of us
    private_addresses: bool = False  # whether we call partners at private addresses that they name themselves
    shared_segments: bool = False  # whether a project may let another one use its segments
    audience_listen: str = ""  # HOST:PORT of what programs of the operator call; empty: nothing listens
    audience_certificate: str = ""  # a PEM file with the certificate of that address, and its key
    mail: dict[str, str | None] | None = field(default=None, repr=False)  # the mail server; its password is wrapped

    def __post_init__(self) -> None:
        name = self.organisation
        if not name.strip() or not name.isprintable() or len(name.encode()) > MAX_ORGANISATION:
            raise InvalidInput(
                "an organisation's name has 1 to 255 printable characters", hint='for example "Fern Retail"'
            )

    @staticmethod
    def stamp(home: Path) -> tuple[int, int] | None:
        """Return what changes when the settings are written; None where there are none yet."""
        try:
            found = (home / "config.json").stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def save(self, home: Path) -> None:
        write_atomically(home / "config.json", json.dumps(asdict(self), indent=2).encode() + b"\n")

    @classmethod
    def load(cls, home: Path) -> "Config":
        """Read a home's settings; raises NoHome where there is none, Failure where the file is damaged."""
        path = home / "config.json"
        try:
            content = json.loads(path.read_bytes())
            known = {each.name for each in fields(cls)}
            return cls(**{key: value for key, value in content.items() if key in known})
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NoHome(
                f"there is no node in {home}",
                hint="name another directory, or make one",
                remedy=Remedy("node.init"),
            ) from error
        except OSError as error:
            raise Failure(
                f"cannot read {path}: {error.strerror}",
                hint="run it as the user that made the node, or name another home",
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise Failure(f"{path} is damaged", hint="restore it from a backup") from error
