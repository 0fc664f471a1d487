"""What a receiver asks for: proven point by point, kept when it comes, gone on with after a kill."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clock import Clock
from evaluating import charged, people, shared, sync
from sides import EMAIL, Pair, Person
from sqlalchemy import select

from node.access.audit import Result
from node.errors import RefusedByPartner, RefusedToPartner
from node.exchanges import quota
from node.exchanges import records as exchange_records
from node.exchanges.answering import NodeAnswers
from node.exchanges.channels import Channel
from node.feeds.receiving import evaluations
from node.operations.jobs import no_progress
from node.partners import key_epochs
from node.people.snapshots import Snapshot
from node.storage.tables import exchanges, memberships, runs
from protocol.messages import Evaluated
from protocol.release import EvaluateSender
from protocol.states import Kind, Part
from psi import kernel
from psi.errors import VesicaError
from psi.keys import Key, Purpose

pytestmark = pytest.mark.usefixtures("small_universes")


@pytest.mark.feature("EX9")
@pytest.mark.parametrize("sender_calls", [True, False])
def test_another_key_for_one_element_is_caught_and_nothing_is_stored(
    pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch, sender_calls: bool
) -> None:
    """A sender that marks one person: the receiver stores nothing, says so, and has an alert; then all goes well."""
    shared(pair, person)
    reply, other = EvaluateSender.reply, Key.random(lambda size: bytes(range(size)))

    def marked(self: EvaluateSender, step: str, chunk: int, payload: Any) -> Any:
        made = reply(self, step, chunk, payload)
        assert isinstance(made, Evaluated)
        points = np.frombuffer(made.points, np.uint8).reshape(-1, 32).copy()
        points[7] = kernel.multiply(points[7:8], other.scalar)[0]
        return Evaluated(points=points.tobytes(), proof=made.proof)

    def run() -> None:
        if sender_calls:
            sync(pair)
        else:
            project, connection = pair.globe.project, pair.globe.project.partners.get("acme")
            evaluations.run(project.scope, connection, EMAIL, no_progress, Snapshot.open(project.scope))

    with monkeypatch.context() as patched:
        patched.setattr(EvaluateSender, "reply", marked)
        with pytest.raises(VesicaError, match="stated key"):
            run()
    assert list((pair.globe.node.home.path / "cache").rglob("prf *")) == []
    with pair.globe.node.home.database.read() as tx:
        assert list(tx.execute(select(memberships))) == list(tx.execute(select(runs))) == []
    (denied,) = pair.globe.acts("exchange.evaluate", Result.DENY)
    assert denied["detail"]["error"]["code"] == "invalid_proof"
    (alert,) = [each for each in pair.globe.project.alerts.all() if each.kind.startswith("exchange")]
    assert (alert.kind, "acme" in alert.text) == ("exchange.invalid_proof", True)
    run()
    sync(pair)
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)}


@pytest.mark.feature("EX9")
def test_a_sender_that_changes_its_stated_key_is_caught(pair: Pair, person: type[Person]) -> None:
    shared(pair, person)
    sync(pair)
    for file in (pair.acme.node.home.path / "cache").rglob("statement *"):
        file.unlink()
    channel_key = Channel.key
    pair.globe.people(people(person, "g", range(5, 10)), "more")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            Channel,
            "key",
            lambda self, purpose, extra=b"": channel_key(
                self, purpose, b"another" if purpose is Purpose.RELEASE_PRF else extra
            ),
        )
        with pytest.raises(RefusedByPartner):
            sync(pair)
    assert "exchange.key_changed" in [each.kind for each in pair.globe.project.alerts.all()]
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)}


@pytest.mark.feature("EX8")
def test_points_of_an_abandoned_evaluation_do_not_stop_releases(
    pair: Pair, person: type[Person], broken_off: Callable[[str], AbstractContextManager[None]]
) -> None:
    """Globe asks, is killed, and one of its people opts out: acme has counted a point that globe never got."""
    shared(pair, person)
    project, connection = pair.globe.project, pair.globe.project.partners.get("acme")
    with broken_off("evaluated"):
        evaluations.run(project.scope, connection, EMAIL, no_progress, Snapshot.open(project.scope))
    assert charged(pair.acme) == 20
    pair.globe.project.consent.set("g15", "n")
    assert sync(pair) == "done"
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)} - {"g15"}
    assert charged(pair.acme) == 20
    pair.globe.people(people(person, "g", [5]), "more")
    assert pair.acme.project.feeds.sync("f")
    assert "g5" in pair.globe.members("acme", "all")


@pytest.mark.feature("EX8")
def test_an_evaluation_goes_on_with_what_it_began_with(
    pair_type: type[Pair],
    tmp_path: Path,
    clock: Clock,
    person: type[Person],
    broken_off: Callable[[str], AbstractContextManager[None]],
) -> None:
    """Acme calls and is killed; globe is killed too and gets more people; the exchange goes on, and nobody is accused."""
    pair = pair_type(tmp_path, clock)
    with pair.acme.serving():
        with pair.globe.serving():
            shared(pair, person)
            with broken_off("evaluated"):
                sync(pair)
        pair.globe.node.close()
        pair.globe.open()
        pair.globe.people(people(person, "g", range(7, 10)), "more")
        with pair.globe.serving():
            sync(pair)
            sync(pair)
            assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(7, 20)}
            assert [each for each in pair.globe.project.alerts.all() if each.kind.startswith("exchange")] == []


def asked_files(pair: Pair) -> list[Path]:
    return list((pair.globe.node.home.path / "cache").rglob("asked *"))


@pytest.mark.feature("EX8")
def test_openings_of_a_partner_share_what_they_ask_for(pair: Pair, person: type[Person], clock: Clock) -> None:
    """Acme opens again and again under new ids, and never goes on: one file here, whatever it opens and we import."""
    shared(pair, person)
    answers, key = NodeAnswers(pair.globe.node.home), pair.acme.node.key
    for number in range(1, 31):
        clock.advance(seconds=60)
        opening = pair.globe.opening("acme", Kind.EVALUATE, Part.SENDER, exchange=bytes([number]) * 16)
        answers.begin(key, opening)
        assert len(asked_files(pair)) == 1
    for size in range(10, 5, -1):
        pair.globe.people(people(person, "g", range(size, 30)), f"people-{size}")
        clock.advance(seconds=60)
        number += 1
        answers.begin(key, pair.globe.opening("acme", Kind.EVALUATE, Part.SENDER, exchange=bytes([number]) * 16))
    for _ in range(quota.OPEN_AT_MOST):
        clock.advance(seconds=60)
        number += 1
        answers.begin(key, pair.globe.opening("acme", Kind.EVALUATE, Part.SENDER, exchange=bytes([number]) * 16))
    assert len(asked_files(pair)) == 2  # what is asked now, and all that was asked before, together
    assert len(list((pair.globe.node.home.path / "spool").iterdir())) == quota.OPEN_AT_MOST
    connection = pair.globe.project.partners.get("acme")
    with pair.globe.node.home.database.begin() as tx:
        epoch = key_epochs.current(pair.globe.project.scope, tx, connection)
    assert evaluations.tally(pair.globe.project.scope, connection, epoch, EMAIL).unsure == 24
    assert sync(pair) == "done"
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(6, 20)}
    assert asked_files(pair) == []
    clock.advance(days=8)
    exchange_records.forget_old(pair.globe.node.home)
    with pair.globe.node.home.database.read() as tx:
        assert list(tx.execute(select(exchanges))) == []
    assert list((pair.globe.node.home.path / "spool").iterdir()) == []


def test_an_opening_whose_people_are_gone_is_over(pair: Pair, person: type[Person]) -> None:
    """It would ask for others under the points of those."""
    shared(pair, person)
    answers, key = NodeAnswers(pair.globe.node.home), pair.acme.node.key
    opening = pair.globe.opening("acme", Kind.EVALUATE, Part.SENDER)
    answers.begin(key, opening)
    for file in asked_files(pair):
        file.unlink()
    answers.resume(key, opening.exchange)  # the same people are new
    pair.globe.people(people(person, "g", range(5, 10)), "more")
    with pytest.raises(RefusedToPartner, match="over"):
        answers.resume(key, opening.exchange)
