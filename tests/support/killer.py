"""A process of ours that dies where it is told to: what the product never does to itself, tests do to it from outside.

    KILL="replaced receipt.0 1" python tests/support/killer.py feed sync summer --home DIR     runs one `vesica` command

A place to die is three words, the last of them for the k-th time: `replacing` or `replaced PART-OF-A-PATH K`, before or
after a file gets its name; `acting` or `acted ACT K`, before or after an act's commit; `calling` or `called
MODULE:FUNCTION K`; or `any - K`, the k-th of all the places where the world outside memory changes. CLOCK sets the time.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any


class Places:
    """Counts the places that were passed, and dies at the k-th."""

    def __init__(self, last: int) -> None:
        self.passed, self._last = 0, last

    def __call__(self) -> None:
        self.passed += 1
        if self.passed == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def arm(kill: str) -> Places:
    """Let this process die at a place ("never - 0": it goes on, and counts)."""
    when, what, count = kill.split()
    places = Places(int(count))
    match when:
        case "replacing" | "replaced":
            _around(
                import_module("node.storage.files").os,
                "replace",
                lambda source, target: what in str(target),
                before=places if when == "replacing" else None,
                after=places if when == "replaced" else None,
            )
        case "acting":
            audit = import_module("node.access.audit").Audit
            _around(audit, "record", lambda self, tx, act, *rest, **more: act == what, after=places)
        case "acted":
            acted(lambda act, target: places() if act == what else None)
        case "calling" | "called":
            import_module("node.wiring").wire()
            module, _, path = what.partition(":")
            *owners, name = path.split(".")
            owner = import_module(module)
            for each in owners:
                owner = getattr(owner, each)
            _around(
                owner,
                name,
                lambda *arguments, **options: True,
                before=places if when == "calling" else None,
                after=places if when == "called" else None,
            )
        case "any" | "never":
            _anywhere(places)
    return places


def _around(
    owner: Any,
    name: str,
    hit: Callable[..., bool],
    *,
    before: Callable[[], None] | None = None,
    after: Callable[[], None] | None = None,
) -> None:
    function = getattr(owner, name)

    def patched(*arguments: Any, **options: Any) -> Any:
        counts = hit(*arguments, **options)
        if counts and before:
            before()
        result = function(*arguments, **options)
        if counts and after:
            after()
        return result

    setattr(owner, name, patched)


def acted(after: Callable[[str, str], None]) -> None:
    """Call `after` with every act and target that the audit log has, when the transaction with its row is committed."""
    audit, database = import_module("node.access.audit"), import_module("node.storage.database").Database
    record, begin = audit.Audit.record, database.begin
    thread = threading.local()

    def noted(self: Any, tx: Any, act: str, target: str, **options: Any) -> None:
        record(self, tx, act, target, **options)
        if options.get("result", audit.Result.ALLOW) is audit.Result.ALLOW:
            thread.acts.append((act, target))

    @contextmanager
    def patched(self: Any) -> Iterator[Any]:
        thread.acts = []
        with begin(self) as tx:
            yield tx
        for act, target in thread.acts:
            after(act, target)

    audit.Audit.record, database.begin = noted, patched


def _anywhere(places: Places) -> None:
    """Count files before and after they get their names, transactions before and after their commits, and what is sent
    to the partner, before and after. How often one looks whether there is an answer is nobody's count."""

    def always(*arguments: Any, **options: Any) -> bool:
        return True

    _around(import_module("node.storage.files").os, "replace", always, before=places, after=places)
    for name in ("put", "post"):
        _around(import_module("node.transport.client").PeerClient, name, always, before=places, after=places)
    store = import_module("node.storage.database").Database
    begin = store.begin

    @contextmanager
    def patched(self: Any) -> Iterator[Any]:
        with begin(self) as tx:
            yield tx
            places()
        places()

    store.begin = patched


def stop_clock(now: int) -> None:
    setattr(import_module("node.node"), "time", SimpleNamespace(time=lambda: now))  # noqa: B010


if __name__ == "__main__":
    from cli.main import main

    if clock := os.environ.get("CLOCK"):
        stop_clock(int(clock))
    arm(os.environ.get("KILL") or "never - 0")
    sys.exit(main())
