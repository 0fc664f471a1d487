"""Segments of one node on another's Audience Manager side, mixed there with what it knows itself, against plain sets."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clock import Clock
from programs import Programs, programs_of

from node.audiencemanager import audience_segments, builtin, receiving, segment_rules, sources, traits, visitors
from node.audiencemanager.receiving import Call
from node.audiencemanager.records import NewSegment, NewTrait, SourceKind, TraitKind
from node.audiencemanager.trait_members import TraitMembers
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.people.snapshots import Snapshot
from node.project import Project

COUNT = 12
DAY = 86_400


@pytest.fixture
def sender(tmp_path: Path, clock: Clock) -> Iterator[Project]:
    """Node A: twelve people with an ECID each, four of whom are in segment few and all in everybody."""
    with Node.create(tmp_path / "sender", "Ash", address="127.0.0.1:8470", now=clock) as node:
        project = node.project()
        (tmp_path / "crm.csv").write_text(
            "id,orders,e\n" + "".join(f"p{n},{n},{ecid(n)}\n" for n in range(1, COUNT + 1))
        )
        columns = [IdentityColumn.parse("e=ecid")]
        project.profiles.import_(
            tmp_path / "crm.csv", dataset="crm", id_column="id", identities=columns, attributes=["orders"]
        )
        project.consent.set_model("opt-out")
        project.segments.create("few", rule="orders >= 9")
        project.segments.create("everybody", rule="orders >= 1")
        yield project


def ecid(number: int) -> str:
    return f"{number:038d}"


def ecids(*numbers: int) -> set[str]:
    return set(map(ecid, numbers))


class Receiver:
    """Node B: its traits and segments as rows, and who is in them by ECID."""

    def __init__(self, node: Node) -> None:
        self.scope = node.project().scope
        with self.scope.begin() as tx:
            other = sources.add(self.scope, tx, "Third Party", SourceKind.THIRD_PARTY)
            own = sources.add(self.scope, tx, "Own", SourceKind.OWN)
            self.own = traits.add(
                self.scope,
                tx,
                NewTrait(name="visited", source=own.number, kind=TraitKind.RULE_BASED, rule='page == "shop"', days=1),
            ).number
            self.bought = traits.add(self.scope, tx, NewTrait(name="bought", source=other.number, days=0)).number
        self.own_source = own.number

    def trait(self, name: str, source: str) -> int:
        with self.scope.read() as tx:
            named = {each.number: each.name for each in sources.stored(self.scope, tx)}
            (found,) = (
                each for each in traits.stored(self.scope, tx) if (each.name, named[each.source]) == (name, source)
            )
        return found.number

    def saw(self, *numbers: int, bought: bool = False) -> None:
        now, realise = self.scope.home.now(), (self.bought,) if bought else ()
        signal = () if bought else (("page", "shop"),)
        calls = [Call(((builtin.DEVICES, ecid(n).encode()),), signal, realise, (), now) for n in numbers]
        receiving.receive(self.scope, calls, self.own_source)

    def members(self, rule: str) -> set[str]:
        """Return who meets a rule of a segment of traits."""
        side = visitors.opened(self.scope)
        with self.scope.read() as tx:
            of = TraitMembers(self.scope, tx)
            found = segment_rules.evaluate(segment_rules.parse(rule), of.of, of.frequency, lambda _: of.of(0))
        return {each.decode() for each in visitors.split(side.ids(found, builtin.DEVICES)[1])}

    def mixed(self, trait: int) -> set[str]:
        return self.members(f"{trait}T AND {self.own}T AND NOT {self.bought}T")


@pytest.mark.two_nodes
@pytest.mark.feature("AM1")
@pytest.mark.feature("EC17")
def test_segments_of_one_node_are_mixed_with_the_traits_of_another(
    sender: Project, programs: Programs, tmp_path: Path, clock: Clock
) -> None:
    receiver = Receiver(programs.node)
    settings = {"url": f"http://{programs.address}/projects/default/audiences"}
    token = programs.tokens["crm"].encode()
    sharing = sender.destinations.older_sharing
    assert sharing.on(settings, secret=token, uses=["analytics"])["sent"] == 2
    assert sender.destinations.check("audience-sharing")["arrived"]
    older, chosen = builtin.SHARING_SOURCE, builtin.SEGMENTS_SOURCE
    few, everybody = receiver.trait("few", older), receiver.trait("everybody", older)
    receiver.saw(10, 11, 12, 13)
    receiver.saw(12, bought=True)
    assert receiver.members(f"{few}T") == ecids(9, 10, 11, 12)
    assert receiver.mixed(few) == ecids(10, 11)
    with receiver.scope.begin() as tx:  # a segment of traits there takes all three
        rule = f"{few}T AND {receiver.own}T AND NOT {receiver.bought}T"
        made = audience_segments.add(
            receiver.scope, tx, NewSegment(name="mixed", source=receiver.own_source, rule=rule)
        )
    assert receiver.members(made.rule) == ecids(10, 11)

    sender.segments.update("few", rule="orders >= 8")
    sender.consent.set("p11", "n")
    assert sender.destinations.sync("audience-sharing")["waiting"] == 0
    assert receiver.members(f"{few}T") == ecids(8, 9, 10, 12)
    assert receiver.members(f"{everybody}T") == ecids(*range(1, 11), 12)
    receiver.saw(8)
    assert receiver.mixed(few) == ecids(8, 10)

    clock.advance(seconds=2 * DAY)  # what B saw expires, what A says stays until it says otherwise
    assert receiver.members(f"{few}T") == ecids(8, 9, 10, 12)
    assert receiver.mixed(few) == set()
    receiver.saw(9, 12)
    assert receiver.mixed(few) == ecids(9)

    sharing.hand_over("cloud", ["few"])
    assert receiver.trait("few", chosen) == few
    assert receiver.trait("everybody", older) == everybody
    assert receiver.members(f"{few}T") == ecids(8, 9, 10, 12)
    assert receiver.members(f"{everybody}T") == set()
    (row,) = sender.reports.audience("few")["sides"]
    assert (row["platform"], row["counted"], row["consent"]) == (5, 4, 1)
    sender.segments.rename("few", "some")
    sender.consent.set("p11", "y")
    sender.destinations.sync("cloud")
    assert receiver.trait("some", chosen) == few
    assert receiver.members(f"{few}T") == ecids(8, 9, 10, 11, 12)
    sender.destinations.delete("cloud")
    assert receiver.members(f"{few}T") == set()
    assert sender.destinations.all() == []


@pytest.mark.two_nodes
def test_a_segment_goes_to_another_node_is_mixed_there_and_comes_back(
    sender: Project, programs: Programs, clock: Clock
) -> None:
    receiver, there = Receiver(programs.node), programs.node.project()
    programs.node.set(address="127.0.0.1:8471")
    there.consent.set_model("opt-out")
    to = {"url": f"http://{programs.address}/audiences"}
    sender.destinations.create("there", "audience-manager", to, secret=programs.tokens["crm"].encode())
    sender.destinations.activate("there", ["few"])
    few = receiver.trait("few", builtin.SEGMENTS_SOURCE)
    receiver.saw(10, 11, 12, 13)
    receiver.saw(12, bought=True)
    there.audience.segments.create("mixed", source="Own", rule=f"{few}T AND {receiver.own}T AND NOT {receiver.bought}T")
    grown = there.audience.imports.import_(segments=["mixed"])
    assert grown.new == 2
    there.segments.create("back", rule="audience.mixed")
    with programs_of(Node(sender.scope.home)) as ours:
        from_there = {"url": f"http://{ours.address}/audiences"}
        there.destinations.create("home", "audience-manager", from_there, secret=ours.tokens["crm"].encode())
        there.destinations.activate("home", ["back"])
        assert sender.audience.imports.import_(["back"]).new == 0  # who comes back is known here
        sender.segments.create("again", rule="trait.back")

        def again() -> set[str]:
            there.segments.evaluate("back")
            there.destinations.sync("home")
            sender.segments.evaluate("again")
            ids = Snapshot.open(sender.scope).profile_ids
            return {ids[each].decode() for each in sender.segments.members("again")}

        assert again() == {"p10", "p11"}
        sender.consent.set("p11", "n")
        sender.segments.update("few", rule="orders >= 8")
        sender.destinations.sync("there")
        receiver.saw(8)
        assert again() == {"p10"}
        assert there.audience.imports.import_(segments=["mixed"]).new == 1  # who came since is a profile then
        assert again() == {"p8", "p10"}
        clock.advance(seconds=2 * DAY)
        assert again() == set()
