"""What has to come out: sets and dictionaries of people, joined plainly. No line of it is the product's."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

NO = ("n", "dn")

Released = dict[tuple[str, str], set[str]]  # by segment and namespace, the values that may be told


@dataclass
class Person:
    """What an organisation's files say about somebody: by dataset the values by namespace, consent, an attribute."""

    records: dict[str, dict[str, str]] = field(default_factory=dict)
    share: str = ""
    share_by: dict[str, str] = field(default_factory=dict)
    orders: int = 0

    def values(self, namespace: str) -> set[str]:
        return {values[namespace] for values in self.records.values() if namespace in values}

    def has_opted_out(self, namespace: str) -> bool:
        return self.share in NO or self.share_by.get(namespace) in NO

    def may_be_shared(self, namespace: str, model: str) -> bool:
        if model == "opt-out":
            return not self.has_opted_out(namespace)
        return self.share in ("", "y") and self.share_by.get(namespace, self.share) == "y"


@dataclass
class Organisation:
    model: str
    people: dict[str, Person] = field(default_factory=dict)
    lists: dict[str, set[str]] = field(default_factory=dict)
    rules: dict[str, Callable[[Person], bool]] = field(default_factory=dict)

    def members(self, segment: str) -> set[str]:
        if segment in self.rules:
            return {id for id, person in self.people.items() if self.rules[segment](person)}
        return self.lists[segment]

    def holders(self, namespace: str) -> dict[str, set[str]]:
        """Return who has each value: a household's phone has several."""
        found = defaultdict(set)
        for id, person in self.people.items():
            for value in person.values(namespace):
                found[value].add(id)
        return found

    def matchable(self, namespace: str) -> set[str]:
        """Return the values of nobody who has opted out: with those it takes part in a match."""
        holders = self.holders(namespace)
        return {
            value for value, ids in holders.items() if not any(self.people[id].has_opted_out(namespace) for id in ids)
        }

    def in_segment(self, segment: str, namespace: str) -> set[str]:
        members = self.members(segment)
        return {value for value, ids in self.holders(namespace).items() if ids & members}

    def may_be_told(self, segment: str, namespace: str) -> set[str]:
        """Return the values of a segment whose every holder may be shared."""
        holders = self.holders(namespace)
        return {
            value
            for value in self.in_segment(segment, namespace)
            if all(self.people[id].may_be_shared(namespace, self.model) for id in holders[value])
        }

    def released(self, segments: Iterable[str], namespaces: Iterable[str]) -> Released:
        namespaces = list(namespaces)
        return {(segment, each): self.may_be_told(segment, each) for segment in segments for each in namespaces}


def join(released: Released, receiver: Organisation, segment: str, namespaces: Iterable[str]) -> set[str]:
    """Return the receiver's people who are in a segment by what was released: one matching identity is enough."""
    found: set[str] = set()
    for namespace in namespaces:
        common = released.get((segment, namespace), set()) & receiver.matchable(namespace)
        holders = receiver.holders(namespace)
        found |= {id for value in common for id in holders[value]}
    return found
