"""The demo's two customer lists, with the mess that real files have, and what a plain join of them gives."""

import base64
import csv
import gzip
import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SEGMENTS = ("frequent-buyers", "lapsed", "new-parents")


@dataclass(slots=True)
class Person:
    id: str
    email: str
    phone: str
    consent: str
    segments: set[str] = field(default_factory=set)
    orders: int = 0

    def identities(self) -> Iterator[tuple[str, str]]:
        if self.email:
            yield "email_sha256", self.email
        if self.phone:
            yield "phone_sha256", self.phone


@dataclass(frozen=True, slots=True)
class Sample:
    """`retailer` shares with `publisher`; half of the people are on both lists."""

    retailer: list[Person]
    publisher: list[Person]

    @classmethod
    def make(cls, size: int, seed: int = 1) -> "Sample":
        dice = random.Random(seed)  # noqa: S311 - sample data, not keys
        retailer, publisher = [], []
        for number in range(size + size // 2):
            email, phone = f"person.{number}@example{number % 7}.com", f"+447{400_000_000 + number}"
            if number < size:
                person = Person(f"R{number}", email, phone if dice.random() < 0.9 else "", _consent(dice, no=0.05))
                person.orders = dice.randrange(12)
                if person.orders >= 6:
                    person.segments.add("frequent-buyers")
                if dice.random() < 0.5:
                    person.segments.add("lapsed")
                if dice.random() < (0.25 if number < size // 2 else 0.005):  # hardly anyone whom both know
                    person.segments.add("new-parents")
                retailer.append(person)
            if number >= size // 2:
                by_phone_only = dice.random() < 0.1
                publisher.append(
                    Person(
                        f"P{number}",
                        f"other.{number}@example.org" if by_phone_only else email,
                        phone if by_phone_only or dice.random() < 0.7 else "",
                        _consent(dice, no=0.03),
                    )
                )
        for first, second in zip(retailer[::100], retailer[1::100], strict=False):  # households share a phone
            second.phone = first.phone
        return cls(retailer, publisher)

    def write(self, folder: Path) -> None:
        """Write retailer.csv, lapsed.csv, new-parents.csv and publisher.csv.gz."""
        dice = random.Random(2)  # noqa: S311
        with (folder / "retailer.csv").open("w", encoding="utf-8-sig", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["customer", "e-mail", "mobile", "share", "orders", "credit_score"])
            for person in _shuffled_with_duplicates(self.retailer, dice):
                email, phone = _messy_email(person.email, dice), _messy_phone(person.phone, dice)
                rows.writerow([person.id, email, phone, person.consent, person.orders, dice.randrange(300, 900)])
            rows.writerow(["R-broken-1", "not an address", "12", "y", 1, 500])
            rows.writerow(["R-broken-2", "one@example.com", "too", "many", "cells", "in", "this", "row"])
        for segment in ("lapsed", "new-parents"):
            members = [person.id for person in self.retailer if segment in person.segments]
            (folder / f"{segment}.csv").write_text("customer\n" + "\n".join(members) + "\n", encoding="utf-8")
        with gzip.open(folder / "publisher.csv.gz", "wt", encoding="utf-8", newline="") as packed:
            rows = csv.writer(packed, delimiter=";")
            rows.writerow(["user", "email_hash", "phone", "share"])
            for person in _shuffled_with_duplicates(self.publisher, dice):
                email, phone = _hashed(person.email, dice), _messy_phone(person.phone, dice)
                rows.writerow([person.id, email, phone, person.consent])
            rows.writerow(["P-broken", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "", "y"])

    def estimate(self, segment: str, namespace: str) -> tuple[int, int]:
        """Return the true overlap and consented overlap: distinct identities, as a plain join counts them."""
        known = {value for _, value in self._known(namespace)}
        owners = defaultdict(list)
        for person in self.retailer:
            for kind, value in person.identities():
                if kind == namespace:
                    owners[value].append(person)
        both = [
            those for value, those in owners.items() if value in known and any(segment in p.segments for p in those)
        ]
        return len(both), sum(all(_may_be_shared(person) for person in those) for those in both)

    def members(self, segment: str) -> set[str]:
        """Return the ids of the publisher's people that the release may make members of `segment`."""
        given, refused = set(), set()
        for person in self.retailer:
            for identity in person.identities():
                if not _may_be_shared(person):
                    refused.add(identity)
                elif segment in person.segments:
                    given.add(identity)
        given -= refused
        return {p.id for p in self.publisher if _keeps(p) and any(identity in given for identity in p.identities())}

    def _known(self, namespace: str) -> Iterator[tuple[str, str]]:
        for person in self.publisher:
            if _keeps(person):
                yield from (identity for identity in person.identities() if identity[0] == namespace)


def _consent(dice: random.Random, *, no: float) -> str:
    roll = dice.random()
    return "n" if roll < no else "y" if roll < 0.7 else ""


def _may_be_shared(person: Person) -> bool:
    return person.consent != "n"  # the retailer's model is opt-out


def _keeps(person: Person) -> bool:
    return person.consent != "n"  # a receiver's own opt-outs never enter the match


def _shuffled_with_duplicates(people: list[Person], dice: random.Random) -> list[Person]:
    rows = people + dice.sample(people, len(people) // 100)
    dice.shuffle(rows)
    return rows


def _messy_email(email: str, dice: random.Random) -> str:
    return dice.choice([email, email.upper(), email.title(), f"  {email} ", f"{email}\t"])


def _messy_phone(phone: str, dice: random.Random) -> str:
    if not phone:
        return ""
    national = phone[3:]
    return dice.choice(
        [phone, f"tel:{phone}", f"0{national[:4]} {national[4:]}", f"+44 ({national[:4]}) {national[4:]}"]
    )


def _hashed(email: str, dice: random.Random) -> str:
    digest = hashlib.sha256(email.encode()).digest()
    forms = [digest.hex(), digest.hex().upper(), "0x" + digest.hex(), base64.b64encode(digest).decode()]
    return dice.choice(forms)
