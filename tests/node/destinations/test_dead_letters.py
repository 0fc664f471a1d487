"""What is known of messages that failed: why, for thirty days, and nothing of the people in them."""

from pathlib import Path

import pytest
from clock import Clock
from targets import folder_out, prepared

from node.destinations import answers, upkeep
from node.destinations.kinds import Refused
from node.destinations.targets import folders
from node.erasure.erasure import People
from node.node import Node
from node.project import Project

BODY = b'{"type":"segment.members.changed","data":{"profiles":[{"identityMap":{"id":[{"id":"ann"},{"id":"p7"}]}}]}}'


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ('{"error":"invalid_request","status":422}', '{"error":"invalid_request","status":422}'),
        ("Unknown id p7 of ann: not found.", "Unknown id … of … not found."),
        ("no such person: ann@example.com", "no such person: …"),
        ("call +49 170 123 456, or 0049 170", "call …, or …"),
        ("bearer eyJhbGciOiJIUzI1NiJ9 whsec_MfKQ9r8 sk_live_4eC39HqLyjWDarjtT1zdp7dc", "bearer … … …"),
        ("at https://crm.example.com/hook?token=abc 10.0.0.1", "at …=abc …"),
        ("d2a04d71301a8915217dd5faf81d12cffd6cd958", "…"),
        ("aBcDeFgHiJ QWERTYUIOPASDFGHJKL", "… …"),
        ("<b>Bad</b>\r\n\x1b[31mgateway\x00", "<b>Bad<…> […"),
        ("profiles is too long", "profiles is too long"),
    ],
)
def test_an_answer_is_kept_without_what_looks_like_data(answer: str, kept: str) -> None:
    assert answers.redacted(answer, BODY) == kept


def test_only_the_beginning_of_an_answer_is_kept() -> None:
    assert len(answers.redacted("word " * 1_000, b"")) <= 300


@pytest.fixture
def project(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose destination has refused everything."""
    project = prepared(node.project(), tmp_path, 6, s="orders >= 4")
    folder_out(project, tmp_path)
    answer = Refused("http_422", "unknown member p4 in this list")
    monkeypatch.setattr(folders.FolderTarget, "send", lambda *_: answer)
    project.destinations.activate("out", ["s"])
    return project


def test_a_dead_letter_says_why_for_thirty_days(project: Project, clock: Clock) -> None:
    (letter,) = project.destinations.dead("out")
    assert (letter["adds"], letter["removes"], letter["code"], letter["attempts"]) == (2, 0, "http_422", 1)
    assert letter["answer"] == "unknown member … in this list"
    kept = b"".join(each.read_bytes() for each in project.scope.home.path.rglob("*") if each.is_file())
    assert b"in this list" not in kept  # it is sealed
    clock.advance(days=30)
    upkeep.forget_old(project.scope)
    assert len(project.destinations.dead("out")) == 1
    clock.advance(seconds=1)
    assert project.destinations.dead("out") == []
    upkeep.forget_old(project.scope)
    assert project.destinations.errors("out") == []


def test_answers_go_when_people_are_erased(project: Project) -> None:
    project.erasure.profiles(People(ids=["p5"]))
    (letter,) = project.destinations.dead("out")
    assert letter["answer"] == ""
