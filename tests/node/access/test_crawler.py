"""A user who is limited by labels runs every command, and learns no hidden name, count or member."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crawl_ends import HIDDEN_ONES, SEEN, expected
from crawl_home import prepare, put_conflict
from crawling import ABSENT, COMMANDS, COUNTS, HIDDEN, Crawler, Try, commands, leaks
from sides import Pair, Person

RULES = {"TRAIT": "buyers", "zebtrait": "zebgold"}  # of segments of traits: a trait


def test_every_command_is_in_the_table() -> None:
    """A new command needs a row in tests/support/crawling.py, with arguments for what it names."""
    assert set(commands()) - set(COMMANDS) == set()
    assert set(COMMANDS) - set(commands()) == set()
    tries = {each.line(command) for command, tries in COMMANDS.items() for each in tries if isinstance(each, Try)}
    listed = [line for table in (SEEN, HIDDEN_ONES) for lines in table.values() for line in lines]
    assert set(listed) - tries == set()


def test_a_leak_is_found() -> None:
    assert leaks("there is no segment 'zebsecret', 137 people", ["zebsecret"]) == ["137"]
    assert leaks('{"name": "zebsecret.x"}', []) == ['"zebsecret.x"}']
    assert leaks("1137 people, 2026-01-01T13:43Z, ab43", []) == []
    assert {137, 163, 113, 43, 77, 377, 59, 83} <= COUNTS
    assert not {210, 95, 300, 51} & COUNTS


@pytest.fixture
def crawler(
    idle_pair: Pair, person: type[Person], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Crawler]:
    pair = idle_pair
    with pair.acme.serving(), pair.globe.serving():
        token = prepare(pair, person)
    connect_id = pair.globe.project.partners.connect_id().encode()
    crawler = Crawler(pair, token, tmp_path / "crawl", monkeypatch)
    with pair.acme.node.home.guard.itself():
        jobs, alerts = pair.acme.node.jobs.all(), pair.acme.project.alerts.all()
        traits = pair.acme.project.audience.traits
        rules = {word: f"{traits.show(name)['number']}T" for word, name in RULES.items()}
        offers = {name: str(pair.acme.project.received.show(name)["hash"]) for name in ("offer", "zeboffer")}
    crawler.ids = {
        "JOB": next(job.id for job in jobs if job.submitted_by == "lou"),
        "ALERT": next(each.id for each in alerts if "connect" in each.kind),
        "CONNECT-ID": connect_id,
        "zebjob": next(job.id for job in jobs if "zebsecret" in str(job.parameters)),
        "zebalert": next(each.id for each in alerts if HIDDEN in each.text),
        "HASH": offers["offer"],
        **rules,
        "zebhash": offers["zeboffer"],
    }
    with pair.globe.serving():
        yield crawler


@pytest.mark.feature("GV10")
def test_no_command_shows_a_hidden_name_count_or_member(crawler: Crawler, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for command, tries in COMMANDS.items():
        for each in () if isinstance(tries, str) else tries:
            for form in ((), ("--json",)):
                found += [(command, *each.words, *form, *leak) for leak in _leaks(crawler, capsys, command, each, form)]
    assert found == []


def _leaks(
    crawler: Crawler, capsys: pytest.CaptureFixture[str], command: str, each: Try, form: tuple[str, ...]
) -> list[tuple[str, ...]]:
    words = [*command.split(), *each.filled()]
    said = crawler.run(capsys, *words, *form)
    found: list[tuple[str, ...]] = [(leak,) for leak in leaks(said, words)]
    found += [("ends", code) for code in _other_end(said, each.line(command), hidden=False)]
    if not each.kinds():
        return found
    hidden = [*command.split(), *each.filled(hidden=True), *form]
    said = crawler.run(capsys, *hidden)
    found += [("hidden", leak) for leak in leaks(_masked(crawler, said), [*hidden, *each.in_files()])]
    found += [("hidden ends", code) for code in _other_end(said, each.line(command), hidden=True)]
    if each.compare:
        absent = crawler.run(capsys, *command.split(), *each.filled(absent=True), *form)
        if _masked(crawler, said).replace(HIDDEN, ABSENT) != absent:
            found.append(("differs", said, absent))
    return found


def _other_end(said: str, line: str, *, hidden: bool) -> list[str]:
    """Return the code with which a try ended, where that is not what the table says; without --json only whether it failed."""
    wanted, failed = expected(line, hidden=hidden), not said.startswith("0\n")
    found = re.search(r'^  "code": "(\w+)"|"error": {\s*"code": "(\w+)"', said, re.MULTILINE) if failed else None
    code = (found[1] or found[2]) if found else wanted if failed == bool(wanted) else "failed" if failed else ""
    return [] if code == wanted else [code or "no error"]


@pytest.mark.feature("GV10")
def test_what_is_counted_is_what_is_seen(crawler: Crawler, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*words: str) -> Any:
        return json.loads(crawler.run(capsys, *words, "--json").split("\n", 1)[1])

    partner = shown("partner", "show", "globe")
    assert (partner["segments_shared"], partner["segments_received"]) == (1, 1)  # open, and theirs
    assert [each["segments_shared"] for each in shown("partner", "list")] == [1]
    project = shown("project", "show")
    assert project["counts"] == {"datasets": 3, "connections": 1, "labels_applied": 1, "segments": 5}
    assert project["labels"] == {"C5": 1}
    feeds = shown("feed", "list")
    assert [each["name"] for each in feeds["shared"]] == ["draft", "summer"]  # firsts are narrowed by what is hidden
    assert [each["name"] for each in feeds["received"]] == ["back", "offer"]
    assert [each["name"] for each in shown("consent", "policy", "list")] == ["plain"]
    judged = shown("consent", "show", "a61")["policies"]
    assert judged == [{"name": "a consent-policy that you may not see", "label": "C5", "met": None}]
    refused = shown("segment", "export", "open", "out.csv", "--use", "analytics")["error"]
    assert "a consent policy that reads what you may not see" in refused["message"]


def _masked(crawler: Crawler, text: str) -> str:
    """Put the words that were typed in the place of the ids that they stand for."""
    for word, id_ in crawler.ids.items():
        text = text.replace(id_, word)
    return text


@pytest.mark.feature("GV10")
def test_a_job_that_is_refused_for_what_is_hidden_does_not_say_so(
    crawler: Crawler, idle_pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    put_conflict(idle_pair.acme.node)
    for words in (("feed", "sync", "summer"), ("feed", "sync", "summer", "--json"), ("feed", "list", "--json")):
        assert leaks(crawler.run(capsys, *words, copy=False), []) == []
    listed = crawler.run(capsys, "job", "list", "--json", copy=False)
    assert "policy_violation" in listed
    assert leaks(listed, []) == []
