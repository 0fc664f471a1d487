"""Backups: a home's rows, keys and data as one directory or tar file, with a list of all files written last.

A service may run meanwhile: data files are linked while nobody can remove one, and the rows are read as they were then.
What must not come back is left out: the secrets of key epochs, and with them caches, spools, and the records that only
they open.
"""

import hashlib
import json
import os
import shutil
import stat
import tarfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from sqlalchemy import RowMapping, Select, Table, select

from psi.errors import Remedy, VesicaError

from ..access.permissions import READY_MADE
from ..access.scope import Home
from ..access.users import ADMINISTRATOR
from ..audiencemanager.audience_file import PLACE as VISITORS
from ..audiencemanager.visitors import opened as opened_visitors
from ..errors import AlreadyExists, Failure, InvalidInput, NotAllowed
from ..homes import check_outside
from ..people.manifests import Manifest
from ..storage import outputs
from ..storage.database import Database, Tx
from ..storage.files import below, failure_of, make_directory, write_atomically
from ..storage.keys import under_passphrase
from ..storage.records import Document, record
from ..storage.tables import activations, deliveries, destinations, manifests, memberships, metadata, received_feeds
from ..storage.tables import connections as connections_table
from ..storage.temporary import new_directory, remove_leftovers

FORMAT = "vesica backup 1"
MANIFEST = "manifest.json"
ROWS = "control.db"
LEFT_OUT = ("exchanges", "answers", "batches")  # tables whose rows speak of spools and caches
EMPTIED: Mapping[str, Mapping[str, Any]] = {
    "activations": {"pending": None, "basis": ""},  # what was on its way is decided anew
    "epochs": {"secret": b""},
    "received_feeds": {"records": None},
}
BATCH = 1_000  # rows copied at once
MANIFEST_BYTES = 1 << 26  # about 400,000 files: a home has some hundred

Files = dict[str, tuple[int, str]]  # name -> size and SHA-256


class BackupIncomplete(VesicaError):
    """A backup that lacks something, or of which something was changed."""

    code = "backup_incomplete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A row of `manifests`: a generation of a project's people."""

    id: str
    project_id: str
    content: Document


def write(home: Home, target: Path, *, force: bool = False) -> Document:
    """Write a backup to a directory, or to one file if `target` ends in ".tar" or is special, and return what is in it.

    Nothing is a backup before its list of files is there. Raises AlreadyExists where something is in the way: `force`
    replaces a file, never a directory.
    """
    home.guard.require("node.backup", str(target), None)  # before a key is copied, not after
    with home.refusals("node.backup", str(target)), home.read() as tx:
        if lacking := home.guard.lacks(tx, READY_MADE[ADMINISTRATOR], None):
            raise NotAllowed(
                f"a backup holds everything, and {home.guard.actor().name} does not have {lacking}",
                hint="ask an administrator of the whole node",
            )
    return _write(home, target, force=force)


def _write(home: Home, target: Path, *, force: bool) -> Document:
    remove_leftovers(home.path)
    one_file = target.suffix == ".tar" or outputs.is_special(target)
    with ExitStack() as stack:
        with home.refusals("node.backup", str(target)), _failures(target):
            out = stack.enter_context(outputs.opened(target, force=force) if one_file else _directory(target))
            scratch = stack.enter_context(new_directory(home.path, "backup"))
            made = _collect(home, scratch)
            files = {name: _described(scratch / name) for name in sorted(_names(scratch))}
            listed = {
                "format": FORMAT,
                "made": made,
                "organisation": home.config.organisation,
                "key": home.key.hex(),
                "files": files,
            }
            write_atomically(scratch / MANIFEST, json.dumps(listed, indent=1).encode() + b"\n")
        with home.act("node.backup", str(target), detail={"files": len(files)}):
            pass  # the row is there before the first byte leaves
        with home.refusals("node.backup", str(target)), _failures(target):
            if out is None:
                _pack_directory(scratch, [*files, MANIFEST], target)
            else:
                _pack_tar(scratch, [*files, MANIFEST], out)
    return {
        "backup": str(target),
        "made": made,
        "files": len(files),
        "bytes": sum(size for size, _ in files.values()),
        "keys": "under the passphrase" if under_passphrase(home.path) else "as they are",
    }


@contextmanager
def _failures(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failure_of(error, target) from error


def _collect(home: Home, scratch: Path) -> int:
    """Put what belongs into a backup into a directory, as links where possible; return the time as of which it is."""
    with home.read() as reading:
        with home.begin():  # whatever would remove a data file has to wait
            made = home.now()
            for names in _data_files(reading):
                _link(below(home.path / "data", *names), below(scratch / "data", *names))
        for scope in home.all_scopes(reading):
            opened_visitors(scope).file.copy(below(scratch / "data", scope.id, *VISITORS))
        for name in ("node.key", "master.key"):
            _link(home.path / "keys" / name, scratch / "keys" / name)
        store = Database.open(scratch / ROWS)
        try:
            with store.begin() as tx:
                copy_rows(reading, tx)
        finally:
            store.close()
    replace(home.config, database=None).save(scratch)
    return made


def _data_files(reading: Tx) -> Iterator[tuple[str, ...]]:
    for generation in _newest(reading):
        files = Manifest.from_document(generation.content).files
        yield from ((generation.project_id, name) for name in files)
    query = (
        select(connections_table.c.project_id, received_feeds.c.id, memberships.c.file, memberships.c.changes)
        .join(received_feeds, received_feeds.c.id == memberships.c.feed_id)
        .join(connections_table, connections_table.c.id == received_feeds.c.connection_id)
    )
    for project_id, feed_id, *names in reading.execute(query):
        yield from ((project_id, "received", feed_id, name) for name in names)
    at_targets = select(destinations.c.project_id, activations.c.file).join(
        destinations, destinations.c.id == activations.c.destination_id
    )
    for project_id, name in reading.execute(at_targets.where(activations.c.file.is_not(None))):
        yield project_id, "destinations", name


def _newest(reading: Tx) -> list[Generation]:
    query = select(manifests).order_by(manifests.c.project_id, manifests.c.generation)
    return list({row.project_id: record(Generation, row) for row in reading.execute(query)}.values())


def copy_rows(reading: Tx, tx: Tx) -> None:
    """Copy the rows of one database into another one that has none, but for what a backup leaves out."""
    newest = {each.id for each in _newest(reading)}
    for table in metadata.sorted_tables:
        if table.name in LEFT_OUT:
            continue
        emptied = EMPTIED.get(table.name, {})
        for rows in reading.execute(_ordered(table)).mappings().partitions(BATCH):
            kept = [{**row, **emptied} for row in rows if _belongs(table, row, newest)]
            if kept:
                tx.execute(table.insert(), kept)


def _belongs(table: Table, row: RowMapping, newest: Collection[str]) -> bool:
    """Return whether a row goes into a backup: the newest generations, and no count of changes that wait."""
    if table is deliveries:
        return bool(row["outcome"] != "waiting")
    return table is not manifests or row["id"] in newest


def _ordered(table: Table) -> Select[Any]:
    return select(table).order_by(*table.primary_key.columns)


def _link(source: Path, target: Path) -> None:
    make_directory(target.parent)
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise Failure(
            f"{source} is missing", hint="the home is damaged: restore it from the last backup, or import again"
        ) from error
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _described(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _directory(target: Path) -> Iterator[None]:
    """Make the directory that a backup goes to, before the work begins; it is gone again if that fails."""
    check_outside(target)
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if not target.absolute().parent.is_dir():
        raise InvalidInput(f"there is no directory {target.absolute().parent}", hint="make it first, or name another")
    try:
        target.mkdir(mode=0o700)
    except FileExistsError:
        raise AlreadyExists(f"there is something at {target} already", hint="name a new file or directory") from None
    try:
        yield
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _pack_directory(scratch: Path, names: list[str], target: Path) -> None:
    for name in names:
        with (scratch / name).open("rb") as file:
            copy_file(file, target / name)


def _pack_tar(scratch: Path, names: list[str], out: outputs.Output) -> None:
    with tarfile.open(fileobj=out.file, mode="w|") as tar:  # as a stream: it may be a pipe
        for name in names:
            tar.add(scratch / name, arcname=name)
    out.finish()


def copy_file(source: IO[bytes], target: Path, *, at_most: int | None = None) -> tuple[int, str]:
    """Copy a stream to a new file of mode 0600, on disk when it returns; return its size and SHA-256.

    Of a stream of more than `at_most` bytes one byte more is copied, so that its size differs, and no other.
    """
    make_directory(target.parent)
    size, digest = 0, hashlib.sha256()
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR), "wb") as file:
        while piece := source.read(_PIECE if at_most is None else min(_PIECE, at_most + 1 - size)):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return size, digest.hexdigest()


# Reading one: it may have been written to do harm


class Backup:
    """A backup that is there: its list of files, and the files."""

    def __init__(self, source: Path, tar: tarfile.TarFile | None) -> None:
        self._source, self._tar = source, tar
        self.document = self._list()
        self.files: Files = {name: (int(size), str(sha)) for name, (size, sha) in self.document["files"].items()}

    def copy(self, name: str, target: Path) -> bool:
        """Copy a file out, and return whether it was there and is as the list says."""
        file = self._file(name)
        if file is None:
            return False
        try:
            with file:
                return copy_file(file, target, at_most=self.files[name][0]) == self.files[name]
        except (tarfile.TarError, EOFError):  # cut off within the file
            return False

    def _list(self) -> Mapping[str, Any]:
        file = self._file(MANIFEST)
        if file is None:
            raise BackupIncomplete(
                f"{self._source} is no whole backup: {MANIFEST} is missing, which is written last",
                hint="it was not finished, or it is none: use an older one",
            )
        try:
            with file:
                written = file.read(MANIFEST_BYTES + 1)
            if len(written) > MANIFEST_BYTES:
                raise ValueError
            document: Mapping[str, Any] = json.loads(written)
            if document["format"] != FORMAT:
                raise BackupIncomplete(f"{self._source} is of another format", hint=f"this version reads {FORMAT!r}")
            for name, (size, sha) in document["files"].items():
                path = PurePosixPath(name)
                outside = path.is_absolute() or ".." in path.parts or path.parts[0] not in _TOP or "\0" in name
                if outside or type(size) is not int or size < 0 or len(sha) != 64:
                    raise ValueError
            int(document["made"])
            for name in ("config.json", ROWS, "keys/node.key", "keys/master.key"):
                document["files"][name]
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, tarfile.TarError) as error:
            raise BackupIncomplete(f"{MANIFEST} of {self._source} is damaged", hint="use another backup") from error
        return document

    def _file(self, name: str) -> IO[bytes] | None:
        """Open a regular file; a link, or what is behind one, counts as missing."""
        try:
            if self._tar is not None:
                member = self._tar.getmember(name)
                return self._tar.extractfile(member) if member.isreg() and not member.issparse() else None
            path = self._source / name
            linked = path.resolve() != self._source.resolve() / name
            return path.open("rb") if path.is_file() and not linked else None
        except (KeyError, tarfile.TarError, EOFError):
            return None


_TOP = ("config.json", ROWS, "keys", "data")
_PIECE = 1 << 20


@contextmanager
def opened(source: Path) -> Iterator[Backup]:
    """Open a backup; raises BackupIncomplete where it is none, or not whole."""
    if source.is_dir():
        yield Backup(source, None)
        return
    try:
        tar = tarfile.open(source, mode="r:")  # noqa: SIM115 - no compression: it could hide any size
    except FileNotFoundError as error:
        raise Failure(
            f"there is nothing at {source}", hint="name a backup that was written", remedy=Remedy("node.backup")
        ) from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BackupIncomplete(f"{source} is no backup, or not whole", hint="use another one") from error
    with tar:
        yield Backup(source, tar)
