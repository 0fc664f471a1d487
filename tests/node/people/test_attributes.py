"""Attributes: long texts of many people are written, and taken out again."""

import os

import pytest
from loading import Load

from node.erasure.erasure import People
from node.errors import Failure
from node.people import attributes
from node.project import Project

NAMES = [f"a{number}" for number in range(20)]


def rows(count: int, length: int, names: list[str]) -> str:
    texts = [os.urandom(length // 2).hex() for _ in range(count)]
    lines = (f"p{place}," + ",".join(texts[place - each] for each in range(len(names))) for place in range(count))
    return "\n".join([",".join(["id", *names]), *lines]) + "\n"


def test_texts_that_take_more_memory_than_most_are_written_and_taken_out(
    project: Project, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributes, "MEMORY", "24MB")
    given = rows(1_500, 1_000, NAMES)
    load(project, given, attributes=NAMES)
    load(project, "id,a1\np7,mine\n", attributes=["a1"])
    project.erasure.profiles(People(ids=["p8"]))
    second, last = (line.split(",") for line in (given.splitlines()[8], given.splitlines()[-1]))
    assert project.profiles.show("p1499")["attributes"]["crm"] == dict(zip(NAMES, last[1:], strict=True))
    assert project.profiles.show("p7")["attributes"]["crm"] == {
        **dict(zip(NAMES, second[1:], strict=True)),
        "a1": "mine",
    }


def test_the_long_texts_of_many_are_written_a_few_people_at_a_time(
    project: Project, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MEMORY", "WIDE"):
        monkeypatch.setattr(attributes, name, "28MB")
    monkeypatch.setattr(attributes, "FEW_PROFILES", 1 << 11)
    given = rows(16_000, 1_000, NAMES[:2])
    load(project, given, attributes=NAMES[:2])
    last = given.splitlines()[-1].split(",")
    assert project.profiles.show("p15999")["attributes"]["crm"] == {"a0": last[1], "a1": last[2]}


def test_texts_that_no_memory_is_enough_for_are_an_error_that_says_so(
    project: Project, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributes, "MEMORY", "8MB")
    monkeypatch.setattr(attributes, "WIDE", "8MB")
    with pytest.raises(Failure, match="too long"):
        load(project, rows(1_500, 1_000, NAMES), attributes=NAMES)
