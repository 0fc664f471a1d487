"""A partner replaces its key while something of it is under way: it gets no more of anything for that."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attacks import KNOWN, NOISY, Asker, Attack
from clock import Clock
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from evaluating import ask_for, charged, people, shared, spent_out, sync
from sides import EMAIL, Pair, Person, Side
from sqlalchemy import select

from node.errors import RefusedByPartner, RefusedToPartner
from node.feeds.estimates import universes
from node.partners import key_changes
from node.storage.tables import ledger
from protocol.errors import RemoteProtocolError
from protocol.keychange import KeyChange, KeyChanges, SignedKeyChange
from protocol.messages import Commitment
from protocol.release import EvaluateReceiver
from protocol.wire import Message

pytestmark = pytest.mark.usefixtures("small_universes")


def with_new_key(side: Side, folder: Path) -> Side:
    """Return a side on a copy of its home, which has another key that nobody knows yet."""
    folder.mkdir()
    new = side.copy(folder)
    new.open()
    new.node.rotate_key()
    return new


def keys_in_ledger(side: Side) -> set[bytes]:
    with side.node.home.database.read() as tx:
        return set(tx.scalars(select(ledger.c.peer_key)))


def before_first_step(role: type[Any], act: Callable[[], None]) -> type[Any]:
    """Return a role that does something once its exchange is open, before it sends its first step."""

    class Acting(role):  # type: ignore[misc]
        acted = False

        def produce(self, step: str) -> Sequence[Message]:
            if not Acting.acted:
                Acting.acted = True
                act()
            return super().produce(step)  # type: ignore[no-any-return]

    return Acting


@pytest.mark.feature("OP12")
def test_a_run_that_meets_the_new_key_evaluates_no_more(
    pair_type: type[Pair], tmp_path: Path, clock: Clock, person: type[Person]
) -> None:
    """Acme's own run calls globe, and finds the new key while it does: 20 of the 24 were evaluated before."""
    pair = pair_type(tmp_path, clock)
    with pair.acme.serving():
        with pair.globe.serving():
            shared(pair, person)
            sync(pair)
        pair.globe.people(people(person, "g", range(40, 60)), "more")
        pair.globe.node.rotate_key()
        with pair.globe.serving():
            with pytest.raises(RefusedToPartner, match="above the evaluations agreed"):
                sync(pair)
            assert pair.acme.project.partners.get("globe").peer_key == pair.globe.node.key
            assert charged(pair.acme) == 20
            assert keys_in_ledger(pair.acme) == {pair.globe.node.key}


@pytest.mark.feature("OP12")
@pytest.mark.parametrize("points", [4, 24])
def test_evaluations_asked_for_before_the_new_key_count_under_it(
    pair: Pair, person: type[Person], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: int
) -> None:
    """Globe opens an exchange, and goes on with it after its new key is pinned."""
    import evaluating

    shared(pair, person)
    sync(pair)
    new = with_new_key(pair.globe, tmp_path / "new")
    with monkeypatch.context() as patched, suppress(RefusedByPartner):
        patched.setattr(evaluating, "EvaluateReceiver", before_first_step(EvaluateReceiver, new.post))
        ask_for(pair, range(100, 100 + points))
    assert pair.acme.project.partners.get("globe").peer_key == new.node.key
    pair.globe = new
    spent_out(pair, range(200, 224))
    assert charged(pair.acme) <= 24
    assert keys_in_ledger(pair.acme) == {new.node.key}


@pytest.fixture
def asking(pair: Pair, person: type[Person]) -> Attack:
    acme, globe = people(person, "a", range(20)), people(person, "g", KNOWN)
    pair.prepare(acme, globe, {"all": [f"a{n}" for n in range(20)]}, **{**NOISY, "budget": "2"})
    return Attack(pair)


@pytest.mark.feature("OP12")
def test_a_question_asked_before_the_new_key_costs_under_it(asking: Attack, tmp_path: Path) -> None:
    asking.ask(range(100), segments=[range(100)] * 40)
    assert asking.spent == 2_000
    new = with_new_key(asking.acme, tmp_path / "new")
    kind = before_first_step(Asker, new.post)
    assert asking.refused(range(100, 200), segments=[range(100, 200)] * 40, kind=kind) in ("budget", "key_retired")
    asking.pair.acme = new
    assert asking.refused(range(100, 200), segments=[range(100, 200)] * 40) == "budget"
    assert asking.spent == 2_000
    assert keys_in_ledger(asking.globe) == {new.node.key}


@pytest.mark.feature("OP12")
def test_a_new_key_shows_no_second_universe(pair: Pair, person: type[Person], clock: Clock) -> None:
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": ["a0"]})
    home, project = pair.globe.node.home, pair.acme.project
    connection = project.partners.get("globe")  # as a question reads it, before it calls

    def show(generation: int) -> None:
        chunks = (generation.to_bytes(64, "big"),)
        shown = Commitment(context=bytes(32), epoch=1, generation=generation, count=1, chunks=chunks, made=pair.clock())
        universes.check_shown(project.scope, connection, EMAIL, shown)

    show(1)
    another = Ed25519PrivateKey.generate()
    change = KeyChange(old=home.key, new=another.public_key().public_bytes_raw(), made=clock())
    signed = SignedKeyChange.make(change, old=home.sign, new=another.sign)
    assert key_changes.follow(pair.acme.node.home, KeyChanges(changes=(signed,)))
    with pytest.raises(RemoteProtocolError, match="second new universe within a day"):
        show(2)
