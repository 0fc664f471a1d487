"""Which engine works on large sets: that of this machine, which puts aside what it is not working on."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from psi.engine import Engine, blocks
from psi.local import LocalEngine
from psi.values import SLICE, U8, Rows

from ..storage.cache import PIECE, Blocks
from .scratch import ScratchFile

if TYPE_CHECKING:
    from ..access.scope import Home


def engine_of(home: "Home") -> Engine:
    """Return the engine of a node, which puts aside beside its caches."""
    return engine_in(home.path / "cache")


def engine_in(folder: Path) -> Engine:
    """Return an engine that puts aside in a folder."""
    return LocalEngine(partial(ScratchFile, folder))


def saved(rows: Rows) -> Blocks:
    """Return rows, uint8 (n, width), as a cache saves them: some at a time are in memory."""
    shape = (len(rows), rows[:0].shape[1])
    return Blocks(dtype=np.dtype(np.uint8), shape=shape, blocks=_whole_pieces(rows))


def _whole_pieces(rows: Rows) -> Iterator[U8]:
    """Yield the bytes of rows in blocks that fill whole pieces of a file, but for the last."""
    rest = np.empty(0, np.uint8)
    for block in blocks(rows, SLICE):
        content = np.concatenate([rest, block.reshape(-1)])
        whole = len(content) // PIECE * PIECE
        if whole:
            yield content[:whole]
        rest = content[whole:]
    yield rest
