"""One organisation's installation: the one object that front ends call."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from protocol.connectid import check_address
from psi.errors import Remedy

from .access import audit
from .access.audit import Audit
from .access.scope import Home, NothingDone, Scope
from .errors import AlreadyExists, InvalidInput, NotAllowed, NotFound, check_name
from .governance import policies
from .homes import check_outside
from .project import Project
from .storage.config import Config
from .storage.database import Database, Tx
from .storage.files import failure_of, make_directory, make_private
from .storage.locks import serving
from .storage.records import Document
from .storage.temporary import remove_leftovers
from .transport.addresses import split_address
from .wiring import sweep, sync, wire

if TYPE_CHECKING:
    from .access.audit import Head
    from .access.roles import Roles
    from .access.users import Users
    from .destinations.mail_server import MailServers
    from .operations.jobs import Jobs, Progress
    from .partners.audit_heads import Confirmed
    from .people.consent import LeftOut

DEFAULT_PROJECT = "default"


def _clock() -> int:
    return int(time.time())


class Node:
    """An open home with its projects; a context manager that closes it."""

    def __init__(self, home: Home) -> None:
        self.home = home
        wire()

    @classmethod
    def create(
        cls,
        home: Path | str,
        organisation: str,
        *,
        database: str | None = None,
        listen: str | None = None,
        address: str = "",
        proxy: bool = False,
        private_addresses: bool = False,
        now: Callable[[], int] = _clock,
        random: Callable[[int], bytes] = os.urandom,
    ) -> "Node":
        """Make a home with keys, tables and the project "default". A creation that was killed can be run again.

        Raises AlreadyExists where there is a node.
        """
        home = Path(home).absolute()
        check_outside(home.parent)
        if (home / "config.json").exists():
            raise AlreadyExists(f"there is a node in {home} already", hint="use it, or name another directory")
        if address:
            check_address(address)
        if listen is not None:
            split_address(listen)
        config = Config(
            organisation=organisation,
            database=database,
            address=address,
            proxy=proxy,
            private_addresses=private_addresses,
        )
        if listen is not None:
            config = replace(config, listen=listen)
        try:
            if home.is_dir() and home.stat().st_mode & 0o077 and any(home.iterdir()):
                raise NotAllowed(
                    f"there are files in {home}, which other users can reach",
                    hint="name a new or an empty directory: a home is its owner's alone",
                )
            for name in ("keys", "data", "spool", "cache"):
                make_directory(home / name)
            make_private(home)  # before there is a key in it
        except OSError as error:
            raise failure_of(error, home) from error
        opened = Home(home, config, Database.open(database or home / "control.db"), now=now, random=random)
        node = cls(opened)
        if opened.all_scopes() and not (home / "keys" / "node.key").exists():
            node.close()
            raise NotAllowed("that database belongs to another node", hint="give each node a database of its own")
        with opened.database.begin():  # several at once do it one after another
            opened.keys.create()
        if not opened.all_scopes():
            with opened.act("node.init", organisation) as tx:
                if opened.all_scopes(tx):
                    raise NothingDone
                node._insert_project(tx, DEFAULT_PROJECT)
        with opened.database.begin():
            if (home / "config.json").exists():
                node.close()
                raise AlreadyExists(f"there is a node in {home} already", hint="use it, or name another directory")
            config.save(home)
        return node

    @classmethod
    def open(
        cls, home: Path | str, *, now: Callable[[], int] = _clock, random: Callable[[int], bytes] = os.urandom
    ) -> "Node":
        """Open a home and bring its tables up to date; raises NoHome where there is none."""
        home = Path(home).absolute()
        config = Config.load(home)
        return cls(Home(home, config, Database.open(config.database or home / "control.db"), now=now, random=random))

    @classmethod
    def restore(
        cls,
        source: Path | str,
        home: Path | str,
        *,
        database: str | None = None,
        now: Callable[[], int] = _clock,
        random: Callable[[int], bytes] = os.urandom,
    ) -> Document:
        """Make a home of a backup, in a directory where nothing is; returns what it is, and which partners it will notify.

        Raises BackupIncomplete with what is missing. The node of the backup must not run any more.
        """
        from .backup.restore import restore

        check_outside(Path(home).absolute().parent)
        return restore(Path(source), Path(home), database=database, open_home=partial(Home, now=now, random=random))

    def backup(self, target: Path | str, *, force: bool = False) -> Document:
        """Write a backup of the home, also while a service runs on it: a directory, or one file that ends in ".tar"; see
        `backup.write`."""
        from .backup import backup

        return backup.write(self.home, Path(target), force=force)

    def close(self) -> None:
        self.home.close()

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def key(self) -> bytes:
        """The node's Ed25519 public key, 32 bytes."""
        return self.home.key

    @property
    def audit(self) -> "Audit":
        return self.home.audit

    @cached_property
    def jobs(self) -> "Jobs":
        from .operations.jobs import Jobs

        return Jobs(self.home)

    @cached_property
    def users(self) -> "Users":
        from .access.users import Users

        return Users(self.home)

    @cached_property
    def roles(self) -> "Roles":
        from .access.roles import Roles

        return Roles(self.home)

    def sync(self, progress: "Progress | None" = None) -> Document:
        """Deliver, fetch, sweep and run what is queued, in every project, unless a service does; see `wiring.sync`."""
        self.home.guard.require("node.sync", "node", None)
        return sync(self.home, self.home.all_scopes(), progress)

    def sweep(self) -> None:
        """Do what the clock asks for; see `wiring.sweep`."""
        sweep(self.home)

    def set(
        self,
        *,
        organisation: str | None = None,
        listen: str | None = None,
        address: str | None = None,
        proxy: bool | None = None,
        private_addresses: bool | None = None,
        audience_listen: str | None = None,
        audience_certificate: str | None = None,
    ) -> Document:
        """Change settings; partners are told of another name or address by a letter, and of nothing else.

        Returns all settings, who is told, and whether a running service has to be started again for them.
        """
        from .audiencemanager import listener
        from .partners import details

        given: Document = {
            "organisation": organisation,
            "listen": listen,
            "address": address,
            "proxy": proxy,
            "private_addresses": private_addresses,
            "audience_listen": audience_listen,
            "audience_certificate": audience_certificate,
        }
        detail: Document = {}
        told: list[str] = []
        with self.home.act("node.set", "node", detail=detail) as tx:  # one at a time, so that none takes another's back
            before = self.home.config
            after = replace(before, **{name: value for name, value in given.items() if value is not None})
            split_address(after.listen)
            if after.address:
                check_address(after.address)
            if after.audience_listen:
                listener.check(after)
            detail |= {name: value for name, value in asdict(after).items() if value != getattr(before, name)}
            if not detail:
                raise NothingDone
            if details.of(after) != details.of(before):
                told = details.announce(self.home, tx, details.of(after))
            after.save(self.home.path)
        settings = {name: value for name, value in asdict(after).items() if name not in ("database", "mail")}
        return {
            **settings,
            "told": told,
            "restart": any("listen" in name or "certificate" in name for name in detail) and serving(self.home.path),
        }

    @cached_property
    def mail_server(self) -> "MailServers":
        """The server that alerts go to as mail."""
        from .destinations.mail_server import MailServers

        return MailServers(self.home)

    def share_segments(self, on: bool) -> None:
        """Let projects share segments with one another, or end that: members leave all projects at once. What was shared is
        used again once it is switched on again."""
        from .feeds.local import switch

        switch.turn(self.home, on)

    def set_passphrase(self, passphrase: str | None) -> None:
        """Put the keys under another passphrase, or under none; every later process needs the new one.

        Raises InvalidInput for an empty one. What a change that was killed has left goes.
        """
        if passphrase == "":
            raise InvalidInput("a passphrase has at least one character", hint="take it away, if that is meant")
        with self.home.act("node.passphrase", "node", detail={"passphrase": passphrase is not None}):
            self.home.keys.signing_key  # noqa: B018 - raises WrongPassphrase
        with (
            self.home.refusals("node.passphrase", "node"),
            self.home.database.begin(),
        ):  # two at once: one after another
            self.home.keys.rewrap(None if passphrase is None else passphrase.encode())
        remove_leftovers(self.home.path)

    def rotate_key(self) -> Document:
        """Give the node a new signing key, which partners follow by themselves; see `key_changes.rotate`."""
        from .partners import key_changes

        return key_changes.rotate(self.home)

    def verify_audit(self, *, upto: "Head | None" = None) -> "tuple[Head, list[Confirmed]]":
        """Verify the audit log, and compare it with the heads that partners confirmed last; see `audit_heads.verify`."""
        from .partners import audit_heads

        return audit_heads.verify(self.home, upto=upto)

    def export_audit(
        self, path: Path | str, format: Literal["csv", "json"], *, force: bool = False, **filters: Any
    ) -> None:
        """Write what `Audit.export` returns; `path` and `force` are as in `outputs.opened`. The act's own row is there
        before the first byte leaves."""
        from .storage import outputs

        project_id, home = filters.get("project_id"), self.home
        home.guard.require("audit.export", str(path), project_id)
        with ExitStack() as stack:
            with home.refusals("audit.export", str(path), project_id=project_id):
                out = stack.enter_context(outputs.opened(path, force=force))
                content = home.audit.export(format, **filters).encode()
            with home.act("audit.export", str(path), project_id=project_id):
                pass
            with home.refusals("audit.export", str(path), project_id=project_id):
                out.write(content)

    def prune_audit(self, before: int) -> Document:
        """Delete the audit rows from before a time, which must be a year ago; see `Audit.prune`."""
        detail: Document = {}
        with self.home.act("audit.prune", audit.date(before), detail=detail) as tx:
            detail |= self.home.audit.prune(tx, before)
        return detail

    def project(self, name: str = DEFAULT_PROJECT) -> Project:
        """Return a project by name; raises NotFound, also where the caller has no role in it."""
        for scope in self.home.all_scopes():
            if scope.name == name and self.home.guard.reaches(scope.id):
                scope.require_opening()
                return Project(scope)
        raise NotFound(f"there is no project {name!r}", hint="see which there are", remedy=Remedy("project.list"))

    def projects(self) -> list[Project]:
        """Return the projects that the caller may view."""
        return [Project(scope) for scope in self.home.scopes()]

    def sign_in(self, token: str | None) -> None:
        """Act for the user whose token this is from now on; see Guard.sign_in."""
        self.home.guard.sign_in(token)

    def create_project(self, name: str, *, left_out: "LeftOut | str" = "nobody") -> Project:
        """Make an isolated data space with its own profiles, segments, partners and feeds; see `Project.leave_out`."""
        from .people.consent import check_left_out

        with self.home.act("project.create", name, detail={"left_out": str(left_out)[:20]}) as tx:
            check_name(name, "project")
            if any(scope.name == name for scope in self.home.all_scopes(tx)):
                raise AlreadyExists(f"there is a project {name!r} already", hint="choose another name")
            scope = self._insert_project(tx, name)
            scope.change(tx, left_out=check_left_out(left_out))
        return self.project(name)

    def status(self, *, alerts: int = 10) -> Document:
        """Return who the node is, whether it serves, its curve kernel, partners and open jobs, and the newest alerts that
        nobody has acknowledged."""
        from .reports import status

        return status.node(self.home, alerts=alerts)

    def _insert_project(self, tx: Tx, name: str) -> Scope:
        scope = self.home.add_project(tx, name)
        policies.insert_standard(tx, scope.id, self.home.new_id)
        return scope
