"""Who waits for rows to change need not look for it: every commit rings, and what it has changed is looked at then.

Commits of this process call who listens. Commits of other processes reach the service through a FIFO in the home. A
ring can be missed (the other process was killed between its commit and its ring): so nobody waits longer than `seconds`.
"""

import os
import stat
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Table

SAFETY_SECONDS = 30.0
DEAF_SECONDS = 1.0  # where the file system has no FIFOs


class Bell:
    """Rings when rows of a home have changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listeners: dict[object, tuple[Callable[[], object], frozenset[str]]] = {}
        self._serving = False
        self.seconds = SAFETY_SECONDS

    @contextmanager
    def heard(self, act: Callable[[], object], *tables: Table) -> Iterator[None]:
        """Call `act` after each commit that changed one of the tables, or any if none is named.

        It runs in the thread that committed: it may only leave a note.
        """
        key = object()
        self._listeners[key] = act, frozenset(each.name for each in tables)
        try:
            yield
        finally:
            del self._listeners[key]

    @contextmanager
    def event(self, *tables: Table) -> Iterator[threading.Event]:
        """Yield an event that each such commit sets; who waits for it clears it before looking at the rows."""
        rung = threading.Event()
        with self.heard(rung.set, *tables):
            yield rung

    def ring(self, tables: Collection[str] | None = None) -> None:
        """Tell who listens that these tables have changed, or all; tell the service of the home, if that is another process."""
        for act, of in list(self._listeners.values()):
            if tables is None or not of or not of.isdisjoint(tables):
                act()
        if not self._serving:
            with suppress(OSError):  # no service, or one that has heard enough
                self._write()

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Hear the commits of other processes while the body runs; one process of a home may do that."""
        try:
            reading = self._open()
        except OSError:
            self.seconds = DEAF_SECONDS
            yield
            return
        ended = threading.Event()

        def listen() -> None:
            while os.read(reading, 65_536) and not ended.is_set():
                self.ring()

        self._serving = True
        thread = threading.Thread(target=listen, name="bell", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            with suppress(OSError):
                self._write()
            thread.join()
            self._serving = False
            self._path.unlink(missing_ok=True)
            os.close(reading)

    def _open(self) -> int:
        with suppress(FileExistsError):
            os.mkfifo(self._path, 0o600)
        found = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # to write as well: so it never ends
        if not stat.S_ISFIFO(os.fstat(found).st_mode):
            os.close(found)
            raise FileExistsError(self._path)
        os.set_blocking(found, True)
        return found

    def _write(self) -> None:
        writing = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(writing, b".")
        finally:
            os.close(writing)
