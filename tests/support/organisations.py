"""An organisation as a month plays it: its node, and beside it what is plainly true of its people; and a feed between two."""

import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import plain
from clock import Clock
from plain import Person
from sides import EMAIL, PHONE, SMALL_TERMS, Side

from node.feeds.receiving.memberships import NotReceived
from node.imports.identity_columns import IdentityColumn
from node.people.snapshots import Snapshot
from node.service import Schedule
from node.transport.server import bind

DEVICE = "idfa/uuid-v1"
COLUMNS = {EMAIL: "email", PHONE: "phone", DEVICE: "device"}
EPOCH_DAYS = 12


class Organisation(Side):
    """A node, and beside it what is plainly true of its people: whatever happens to one happens to the other."""

    def __init__(self, folder: Path, name: str, *, now: Clock, model: str, chance: random.Random) -> None:
        super().__init__(folder, name, now=now)
        self.plain, self.chance, self.clock = plain.Organisation(model), chance, now
        self._serving, self.schedule = ExitStack(), Schedule(self.node.home)
        self.project.set_terms(**SMALL_TERMS, epoch_days=EPOCH_DAYS, evaluations=4)
        self.project.consent.set_model(model)

    def start(self) -> None:
        self._serving.enter_context(self.serving())

    def stop(self) -> None:
        self._serving.close()

    def leave(self) -> None:
        """Let another process have the address."""
        self.stop()
        self.bound.close()

    def come_back(self) -> None:
        self.bound = bind(self.address)
        self.start()

    def close(self) -> None:
        self.stop()
        self.node.close()
        self.bound.close()

    def know(self, people: dict[str, Person], dataset: str = "crm") -> None:
        """Import people: as the files of the world are, cells of one thing are written in many ways."""
        self.clock.now += 1  # what is said later counts
        lines = ["id,email,phone,device,share,orders"]
        for id, person in people.items():
            values = person.records.get(dataset, {})
            cells = (self._scribbled(COLUMNS[each], values[each]) if each in values else "" for each in COLUMNS)
            lines.append(",".join([id, *cells, person.share, str(person.orders)]))
        file = self._file(dataset, lines)
        columns = [f"{column}={each.partition('/')[0]}" for each, column in COLUMNS.items()]
        self.project.profiles.import_(
            file,
            dataset=dataset,
            id_column="id",
            identities=[IdentityColumn.parse(each) for each in columns],
            consent_column="share",
            attributes=["orders"] if dataset == "crm" else [],
        )
        self.plain.people |= people

    def say(self, id: str, share: str, namespace: str | None = None) -> None:
        """Let somebody say whether they may be shared."""
        self.clock.now += 1
        self.project.consent.set(id, share, namespace and namespace.partition("/")[0])
        if namespace is None:
            self.plain.people[id].share = share
        else:
            self.plain.people[id].share_by[namespace] = share

    def choose_model(self, model: str) -> None:
        self.project.consent.set_model(model)
        self.plain.model = model

    def list_(self, name: str, ids: set[str]) -> None:
        """Make a segment that is a list, or replace its members."""
        file = self._file(name, ["id", *sorted(ids)])
        if name in self.plain.lists:
            self.project.segments.update(name, file)
        else:
            self.project.segments.create(name, members_file=file)
        self.plain.lists[name] = set(ids)

    def rule(self, name: str, text: str, holds: Callable[[Person], bool]) -> None:
        self.project.segments.create(name, rule=text)
        self.plain.rules[name] = holds

    def some(self, count: int, ids: set[str] | None = None) -> list[str]:
        found = sorted(self.plain.people if ids is None else ids)
        return self.chance.sample(found, min(count, len(found)))

    def own_members(self, segment: str) -> set[str]:
        ids = Snapshot.open(self.project.scope).profile_ids
        return {ids[number].decode() for number in self.project.segments.members(segment)}

    def is_here(self, partner: str, segment: str) -> bool:
        try:
            self.members(partner, segment)
        except NotReceived:
            return False
        return True

    def _file(self, name: str, lines: list[str]) -> Path:
        file = self.folder / f"{self.name}-{name}.csv"
        file.write_text("\n".join(lines) + "\n")
        return file

    def _scribbled(self, column: str, value: str) -> str:
        match column, self.chance.randrange(3):
            case "phone", 0:
                return f"{value[:3]} {value[3:7]} {value[7:]}"
            case "phone", 1:
                return f"tel:{value[:3]}-{value[3:]}"
            case "email" | "device", 0:
                return value.upper()
            case "email", 1:
                return f" {value.capitalize()} "
        return value


@dataclass(eq=False)
class Link:
    """A feed as it goes from one organisation to another."""

    feed: str
    sender: Organisation
    receiver: Organisation
    segments: list[str]
    namespaces: list[str]
    status: str = "enabled"
    sent: plain.Released = field(default_factory=dict)
    before: dict[str, set[str]] = field(default_factory=dict)

    @property
    def expected(self) -> dict[str, set[str]]:
        return {each: plain.join(self.sent, self.receiver.plain, each, self.namespaces) for each in self.segments}

    def remember(self) -> None:
        self.sent = self.sender.plain.released(self.segments, self.namespaces)
