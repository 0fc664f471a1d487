"""Arrays that can be computed again: per connection and epoch, encrypted at rest, gone with the epoch's secret."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .epochs import Epoch
from .files import write_atomically

Arrays = dict[str, npt.NDArray[np.generic]]
NONCE = 12


class Cache:
    """Named groups of arrays under home/cache/CONNECTION/EPOCH."""

    def __init__(self, home: Path, connection_id: str, epoch: Epoch, random: Callable[[int], bytes]) -> None:
        self._folder = home / "cache" / connection_id / str(epoch.number)
        self._random = random
        self._cipher = ChaCha20Poly1305(HKDF(SHA256(), 32, None, b"vesica/1 cache").derive(epoch.secret))

    def save(self, name: str, **arrays: npt.NDArray[np.generic]) -> None:
        plain = io.BytesIO()
        np.savez(plain, **arrays)  # type: ignore[arg-type]
        nonce = self._random(NONCE)
        sealed = self._cipher.encrypt(nonce, plain.getbuffer(), name.encode())
        plain.close()  # before the next copy is made
        sealed = nonce + sealed
        write_atomically(self._path(name), sealed)

    def load(self, name: str) -> Arrays | None:
        """Return what was saved; None where there is nothing, or nothing that opens."""
        try:
            sealed = memoryview(self._path(name).read_bytes())  # its slices are no copies
            plain = self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], name.encode())
        except (FileNotFoundError, InvalidTag):
            return None
        with np.load(io.BytesIO(plain), allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}

    def names(self, beginning: str) -> list[str]:
        """Return the names that begin so, as they were saved."""
        files = self._folder.glob("*") if self._folder.is_dir() else ()
        names = (unquote(path.name) for path in files if not path.name.startswith("."))
        return sorted(name for name in names if name.startswith(beginning))

    def drop(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / quote(name, safe=" ")


def destroy(home: Path, connection_id: str) -> None:
    """Remove every cache of a connection."""
    shutil.rmtree(home / "cache" / connection_id, ignore_errors=True)
