"""Whatever changes and whatever fails: once a target works again, it holds who should be there, as a plain set has it."""

from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from random import Random

import pytest
from clock import Clock
from moto.server import ThreadedMotoServer
from stores import Bucket, Place
from targets import prepared

from node.destinations.kinds import Later, Message, Outcome, Refused
from node.destinations.targets.database_tables import TableTarget
from node.destinations.targets.object_stores import ObjectStoreTarget
from node.node import Node
from node.project import Project

PEOPLE, STEPS = 10, 15
Members = Callable[[], Set[tuple[str, ...]]]


class Faults:
    """What becomes of a message, by chance: it arrives, once or twice, is lost or refused, or arrives and nobody hears."""

    def __init__(self, random: Random, monkeypatch: pytest.MonkeyPatch) -> None:
        self._random, self.on = random, True
        for kind in (TableTarget, ObjectStoreTarget):
            monkeypatch.setattr(kind, "send", self._around(kind.send))

    def _around(self, send: Callable[..., Outcome]) -> Callable[..., Outcome]:
        def sent(target: object, message: Message) -> Outcome:
            match self._random.randrange(6) if self.on else 0:
                case 1:
                    return Later("timeout")
                case 2:
                    return Refused("http_400")
                case 3:
                    send(target, message)
                    return Later("connection")
                case 4:
                    send(target, message)
            return send(target, message)

        return sent


class Week:
    """A project whose people come and go, beside the plain sets of who should be at the target."""

    def __init__(self, project: Project, clock: Clock, random: Random, faults: Faults, members: Members) -> None:
        self._project, self._clock, self._random, self._faults = project, clock, random, faults
        self._members = members
        self._refusing: set[int] = set()
        self._from, self._active = {"a": 3, "b": 6}, set[str]()

    def step(self) -> None:
        out, segment = self._project.destinations, self._random.choice(["a", "b"])
        match self._random.randrange(6):
            case 0 if segment in self._active:
                out.deactivate("out", [segment])
                self._active.remove(segment)
            case 0 | 1 if segment not in {each["segment"] for each in out.show("out")["segments"]}:
                out.activate("out", [segment])
                self._active.add(segment)
            case 2:
                self._from[segment] = self._random.randrange(PEOPLE)
                self._project.segments.update(segment, rule=f"orders >= {self._from[segment]}")
            case 3:
                out.replay("out")
            case _:
                number = self._random.randrange(PEOPLE)
                self._refusing ^= {number}
                self._project.consent.set(f"p{number}", "n" if number in self._refusing else "y")
        self._clock.advance(seconds=40)
        out.sync("out")

    def settle(self) -> None:
        """Let everything arrive, and compare."""
        self._faults.on = False
        for _ in range(4):
            self._clock.advance(seconds=3_600)
            self._project.destinations.sync("out")
            self._project.destinations.replay("out")
        self._faults.on = True
        expected = {
            (segment, f"p{n}")
            for segment in self._active
            for n in range(self._from[segment], PEOPLE)
            if n not in self._refusing
        }
        assert self._members() == expected
        shown = self._project.destinations.show("out")
        assert (shown["waiting"], shown["failed"], shown["present"]) == (0, 0, len(expected))
        for row in self._project.destinations.runs("out"):
            assert row["received"] == row["activated"] + row["excluded"] + row["failed"] + row["waiting"]


def anything_goes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, settings: Mapping[str, str], members: Members
) -> None:
    random, clock = Random(f"{kind} {sorted(settings)}"), Clock()
    with Node.create(folder / "home", "Fern", address="127.0.0.1:8470", now=clock) as node:
        project = prepared(node.project(), folder, PEOPLE, a="orders >= 3", b="orders >= 6")
        secret = b"secret" if kind == "objectstore" else None
        project.destinations.create("out", kind, settings, uses=["analytics"], secret=secret)
        week = Week(project, clock, random, Faults(random, monkeypatch), members)
        for step in range(STEPS):
            week.step()
            if step % 5 == 4:
                week.settle()


def test_a_table_mirrors_the_plain_set(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place.of(database_url, tmp_path)
    anything_goes(tmp_path, monkeypatch, "table", place.settings, place.members)
    place.engine.dispose()


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield Bucket(f"http://{host}:{port}", "key", "secret", "any-sequence")
    server.stop()


def test_objects_in_order_give_the_plain_set(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anything_goes(tmp_path, monkeypatch, "objectstore", bucket.settings, bucket.members)
