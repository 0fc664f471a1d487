"""Whose points leave with an estimate: everybody's in the segments, unless the project leaves some out."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from estimating import ask, members, people
from partnering import Typed
from recorder import said
from sides import EMAIL, Pair, Person
from sqlalchemy import select

from cli.main import main
from node.errors import InvalidInput
from node.exchanges.channels import Channel, running_epoch
from node.node import Node
from node.operations.jobs import JobState
from node.people.consent import LeftOut
from node.people.snapshots import Snapshot
from node.storage.tables import universes
from node.transport import signatures
from psi import count
from psi.keys import Purpose

BOTH = range(20)
NO, PENDING = range(4), range(4, 7)  # of acme's people: who said no, and who said nothing that lets them be shared


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every body that is signed: all that leaves either node."""
    kept, sign = list[bytes](), signatures.sign

    def recorded(message: Any, signer: Any, to: bytes) -> None:
        sign(message, signer, to)
        kept.append(message.body)

    monkeypatch.setattr(signatures, "sign", recorded)
    return kept


@pytest.fixture
def known(pair: Pair, person: type[Person]) -> Pair:
    acme = people(person, "a", BOTH, out=NO)
    acme[NO[0]] = acme[NO[0]]._replace(share="dn")
    for number in PENDING:
        acme[number] = acme[number]._replace(share="p")
    pair.prepare(acme, people(person, "g", BOTH), {"all": members(*BOTH)})
    pair.acme.project.consent.set_model("opt-in")
    pair.acme.people([each._replace(share="y") for each in acme if not each.share])
    return pair


def points(pair: Pair) -> dict[int, bytes]:
    """Return the point by which acme asks globe about each of its people."""
    scope = pair.acme.project.scope
    connection = pair.acme.project.partners.get("globe")
    channel = Channel.of(scope, connection, running_epoch(scope, connection), EMAIL, protocol="count", outward=True)
    with scope.read() as tx:
        digest = tx.scalars(select(universes.c.digest).where(~universes.c.ours)).one()
    snapshot = Snapshot.open(scope)
    given = snapshot.identities(EMAIL)
    asked, order = count.ask(channel.context, given.values, channel.key(Purpose.COUNT_ASK, digest))
    ids = [int(snapshot.profile_ids[number].decode()[1:]) for number in given.profiles[order]]
    return {number: point.tobytes() for number, point in zip(ids, asked, strict=True)}


def asked_about(pair: Pair, bodies: list[bytes]) -> Iterator[int]:
    """Yield the people whose points are anywhere in what left."""
    texts = [text for body in bodies for text in said(body) if isinstance(text, bytes)]
    for number, point in points(pair).items():
        if any(point in text for text in texts):
            yield number


@pytest.mark.feature("ES2")
@pytest.mark.parametrize(
    ("left_out", "without", "overlap"),
    [(LeftOut.NOBODY, (), 20), (LeftOut.OPTED_OUT, NO, 16), (LeftOut.UNCONSENTED, (*NO, *PENDING), 13)],
)
def test_the_points_of_who_is_left_out_stay_here(
    known: Pair, bodies: list[bytes], left_out: LeftOut, without: tuple[int, ...], overlap: int
) -> None:
    known.acme.project.leave_out(left_out)
    row = ask(known, ["all"])["all", EMAIL]
    assert sorted(asked_about(known, bodies)) == sorted(set(BOTH) - set(without))
    assert (row["overlap"], row["consented"], row["size"]) == (overlap, 13, overlap)


@pytest.mark.feature("ES2")
def test_one_no_of_a_household_leaves_its_identity_out(pair: Pair, person: type[Person], bodies: list[bytes]) -> None:
    acme = people(person, "a", BOTH)
    acme.append(person("a99", "person3@example.com", "", "n"))
    pair.prepare(acme, people(person, "g", BOTH), {"all": members(*BOTH)})
    pair.acme.project.leave_out("opted-out")
    assert ask(pair, ["all"])["all", EMAIL]["overlap"] == 19


@pytest.mark.feature("ES2")
def test_a_project_is_made_with_the_switch_on(node: Node) -> None:
    assert node.project().left_out is LeftOut.NOBODY
    assert node.create_project("strict", left_out="opted-out").left_out is LeftOut.OPTED_OUT
    with pytest.raises(InvalidInput):
        node.create_project("other", left_out="somebody")
    assert [each.name for each in node.projects()] == ["default", "strict"]
    with pytest.raises(InvalidInput):
        node.project().leave_out("somebody")


@pytest.mark.feature("ES2")
def test_before_the_first_estimate_a_person_is_asked(
    known: Pair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["feed", "estimate", "f", "--home", str(known.acme.node.home.path), *arguments]) == code
        return "".join(capsys.readouterr()) if code else capsys.readouterr().err

    known.acme.project.feeds.create("f", segments=["all"], namespaces=[EMAIL], partners=["globe"])
    known.acme.project.leave_out("unconsented")
    assert told("--no-wait") == ""
    known.acme.project.leave_out("nobody")
    queued = known.acme.node.jobs.all(state=JobState.QUEUED)
    assert "Say --yes if so: " in told("--no-wait", code=2)
    assert "those who said no too" in told("--json", code=2)
    monkeypatch.setattr(sys, "stdin", Typed("n\n"))
    assert "nothing was done" in told("--no-wait", code=1)
    assert known.acme.node.jobs.all(state=JobState.QUEUED) == queued
    monkeypatch.setattr(sys, "stdin", Typed("y\n"))
    assert "those who said no too" in told("--no-wait")
    assert told("--json", "--no-wait", "--yes") == ""
    assert ask(known, ["all"])["all", EMAIL]["overlap"] == 20
    assert told("--no-wait") == ""  # the feed has an estimate now
