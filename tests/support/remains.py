"""What is left of people in a home, looked for in every file: as text, as bytes, and in what only its keys open."""

import base64
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from pyroaring import BitMap
from sqlalchemy import select

from node.exchanges.channels import cache_of
from node.node import Node
from node.partners import connections, key_epochs
from node.storage import tables
from node.storage.cache import Cache
from node.storage.sorted_files import SortedFile
from node.storage.spool import FileSpool


def forms(ids: Sequence[str], texts: Sequence[str]) -> dict[str, bytes]:
    """Return what would give people away, by what it is: their ids, and their e-mail addresses, raw and hashed."""
    found = {f"id {each}": each.encode() for each in ids}
    for text in texts:
        digest = hashlib.sha256(text.encode()).digest()
        found |= {f"raw {text}": text.encode(), f"hash of {text}": digest, f"hex of {text}": digest.hex().encode()}
        found[f"base64 of {text}"] = base64.b64encode(digest).rstrip(b"=")
    return found


def remains(
    folder: Path, needles: dict[str, bytes], *, node: Node | None = None, numbers: BitMap | None = None
) -> set[str]:
    """Return what is found below a directory, and where; with its `node` also in what is sealed there, and in the rows."""
    found = set()
    for path, content in _contents(folder):
        found |= {f"{path}: {name}" for name, needle in needles.items() if needle in content}
    for file in folder.rglob("*"):
        if numbers and file.is_file() and numbers & _bitmap(file):
            found.add(f"{file}: a profile number")
    for where, content in () if node is None else (*_sealed(node), *_rows(node)):
        found |= {f"{where}: {name}" for name, needle in needles.items() if needle in content}
    return found


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path), path.read_bytes()
            if path.suffix == ".parquet":
                rows = duckdb.execute("SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
                yield f"{path} (read)", repr(rows).encode()


def _bitmap(path: Path) -> BitMap:
    """Return the profile numbers that a file has, also of people who left; those apart of the erased, and of whom changes
    touched: such a number names nobody any more."""
    if path.name.endswith(("-erased.roaring", "-touched.roaring")):
        return BitMap()
    if path.suffix in (".roaring", ".members"):
        return BitMap.deserialize(path.read_bytes())
    if path.suffix == ".changes":
        with np.load(io.BytesIO(path.read_bytes())) as stored:
            return BitMap(np.concatenate([stored[each] for each in ("realized", "late", "exited")]))
    return BitMap()


def sealed_arrays(node: Node) -> Iterator[tuple[str, str, Any]]:
    """Yield every array of every cache that opens: the file, the array's name, the array."""
    for scope in node.home.all_scopes():
        for connection in connections.with_status(scope):
            with scope.begin() as tx:
                epoch = key_epochs.running(scope, tx, connection)
            cache = None if epoch is None else cache_of(scope, connection, epoch)
            for name in () if cache is None else cache.names(""):
                for key, array in _arrays(cache, name):  # type: ignore[arg-type]
                    yield name, key, array


def _arrays(cache: Cache, name: str) -> Iterator[tuple[str, Any]]:
    beginning, part, _ = name.partition(" part ")
    if not part:
        yield from (cache.load(name) or {}).items()
        return
    if beginning.startswith("content "):  # runs share files
        kind, _, namespace = beginning.split(" ")
        beginning = f"{kind} {namespace}"
    file = SortedFile.open(cache, cache.path(name), beginning)
    for block in file.blocks():
        yield from {"rows": block.keys, **block.columns}.items()
    file.close()


def _sealed(node: Node) -> Iterator[tuple[str, bytes]]:
    for name, key, array in sealed_arrays(node):
        yield f"cache {name} {key}", array.tobytes()
    for folder in (node.home.path / "spool").glob("*"):
        spool = FileSpool(folder, node.home.keys, node.home.random)
        for chunk in spool:
            yield f"spool {folder.name} {chunk}", spool[chunk]


def _rows(node: Node) -> Iterator[tuple[str, bytes]]:
    with node.home.database.read() as tx:
        for table in tables.metadata.sorted_tables:
            for row in tx.execute(select(table)):
                for column, cell in row._mapping.items():
                    yield f"{table.name}.{column}", cell if isinstance(cell, bytes) else str(cell).encode()
