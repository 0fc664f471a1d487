"""How much a partner may take here with the exchanges that it opens: so many an hour, so many at once, so many bytes."""

import threading
from functools import partial

from ..access.scope import Home
from ..errors import RefusedToPartner
from ..partners.connections import Connection
from ..partners.rates import Rate
from ..storage.database import Tx
from ..storage.spool import FileSpool
from ..storage.tables import HOUR
from . import http, records
from .records import REPLACED, ExchangeState, spool_of

OPEN_AT_MOST = 8  # exchanges of one connection; honest partners need far fewer at once
AN_HOUR = 1_200  # exchanges opened by one partner, which leave a row each; refused ones leave a row in the audit log
BYTES_FOR_EACH = 4 * 64  # of an agreed identity: points take 32 bytes there and as many back
BYTES_AT_LEAST = 1 << 28
CHECKED_BYTES = 1 << 25  # that the exchanges of one connection write before all of them are looked at again


class ExchangeQuota:
    """Keeps what partners' exchanges take within bounds: the oldest give way, finished ones first."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._openings = Rate(AN_HOUR, HOUR / AN_HOUR, now=home.now)
        self._written: dict[str, int] = {}  # connection -> bytes since they were looked at
        self._lock = threading.Lock()

    def count_opening(self, connection: Connection) -> None:
        """Count an opening; raises RefusedToPartner where there were too many lately, and nothing is kept of it."""
        if not self._openings.allows(connection.id):
            raise RefusedToPartner(
                "too_many", f"more than {AN_HOUR:,} exchanges an hour are opened", hint="open one later", status=409
            )

    def make_for_another(self, connection: Connection) -> None:
        """Give up the oldest of a partner's open exchanges if it has many, and delete the messages of old ones that are done."""
        with self._home.begin() as tx:
            over = records.theirs(tx, connection, ExchangeState.OPEN, newest=OPEN_AT_MOST - 1)
            done = records.theirs(tx, connection, ExchangeState.DONE, newest=OPEN_AT_MOST, at_most=OPEN_AT_MOST)
            self._give_up(tx, over)
        self._destroy([*over, *done])

    def spool(self, connection: Connection, exchange: bytes) -> FileSpool:
        """Return the spool of an exchange that a partner opened; where all of its spools get too large, older ones go."""
        return spool_of(self._home, exchange, growing=partial(self._count, connection, exchange))

    def _count(self, connection: Connection, exchange: bytes, size: int) -> None:
        """Count what is about to be written, and look at what all takes before more is written than may be uncounted.

        By connection: machines rest and are made anew, and each has a spool of its own.
        """
        with self._lock:
            written = self._written.get(connection.id, CHECKED_BYTES) + size  # after a start it is not known
            if written <= CHECKED_BYTES:
                self._written[connection.id] = written
                return
        self._make_for_more(connection, exchange)
        with self._lock:
            self._written[connection.id] = size

    def _make_for_more(self, connection: Connection, exchange: bytes) -> None:
        """Give up older exchanges until what is on disk, and all that is written before the next look, is within bounds."""
        most = max(BYTES_AT_LEAST, BYTES_FOR_EACH * connection.terms.maximum_universe) - CHECKED_BYTES
        with self._home.begin() as tx:  # none of them is finished while it is chosen
            if exchange in records.those_over(self._home, tx, [exchange]):
                raise http.over()
            done = records.theirs(tx, connection, ExchangeState.DONE, newest=0)
            others = [*reversed(done), *reversed(records.theirs(tx, connection, ExchangeState.OPEN, newest=0))]
            sizes = {each: records.size_of(self._home, each) for each in others}
            total = sum(sizes.values())
            gone = []
            for each in others:
                if total <= most:
                    break
                if each != exchange:
                    total -= sizes[each]
                    gone.append(each)
            self._give_up(tx, gone)  # what is done stays so
        self._destroy(gone)
        if total > most:
            raise RefusedToPartner("too_many", "this exchange takes more room than a partner has here", status=409)

    def _give_up(self, tx: Tx, over: list[bytes]) -> None:
        for exchange in over:
            records.give_up(self._home, tx, exchange, REPLACED)

    def _destroy(self, gone: list[bytes]) -> None:
        for exchange in gone:
            records.destroy_spool(self._home, exchange)
