"""A program as a destination: what it says is bounded, what it is told is private, and whatever it does is counted once."""

import json
import os
import select
import signal
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from callers import crew, signed_in
from clock import Clock
from targets import batch, people

from node.access.permissions import PermissionDenied
from node.destinations.kinds import Delivered, Later, Message, Outcome, Refused
from node.destinations.targets import programs
from node.destinations.targets.commands import COMMAND, CommandTarget
from node.errors import InvalidInput
from node.node import Node
from node.project import Project

Program = Callable[..., dict[str, str]]
GOOD = """
for line in sys.stdin:
    each = json.loads(line)
    if each["type"] == "STATE":
        print(json.dumps(each["value"]), flush=True)
"""
AIRBYTE = """
for line in sys.stdin:
    each = json.loads(line)
    if each["type"] == "STATE":
        each["state"]["destinationStats"] = {"recordCount": 1, "rejectedRecordCount": 0}
        print(json.dumps(each), flush=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Write a program of some lines of Python, and return the settings that name it."""
    folder = tmp_path / "programs"
    folder.mkdir(mode=0o755)

    def write(source: str, protocol: str = "singer") -> dict[str, str]:
        path = folder / "program"
        lines = ["#!" + sys.executable, "import json, os, signal, sys, time", f"OUT = {str(tmp_path / 'seen')!r}"]
        path.write_text("\n".join(lines) + "\n" + textwrap.dedent(source))
        path.chmod(0o755)
        return {"program": str(path), "protocol": protocol}

    return write


def target(settings: dict[str, str], tmp_path: Path, configuration: bytes = b'{"a": 1}') -> CommandTarget:
    return CommandTarget(tmp_path / "spool", COMMAND.checked(settings), configuration)


def sent(to: CommandTarget) -> Outcome:
    body = to.encode(batch("p1", "p2", tier="gold"))
    return to.send(Message(id="msg_1", segment="s", sequence=1, body=body, now=0))


@pytest.mark.parametrize(("protocol", "source"), [("singer", GOOD), ("airbyte", AIRBYTE)])
def test_a_state_that_comes_back_is_the_acknowledgement(
    tmp_path: Path, program: Program, protocol: str, source: str
) -> None:
    found = target(program(source, protocol), tmp_path)
    assert found.check(0) == Delivered()
    assert sent(found) == Delivered()
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_program_gets_its_configuration_and_nothing_else_of_the_node(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VESICA_PASSPHRASE", "a-pass-phrase")
    look = """
    path = sys.argv[sys.argv.index("--config") + 1]
    seen = {"argv": sys.argv, "environment": dict(os.environ), "config": json.load(open(path)),
            "modes": [oct(os.stat(each).st_mode & 0o777) for each in (path, os.path.dirname(path))],
            "files": sorted(os.listdir("/proc/self/fd")), "lines": sys.stdin.read().splitlines(), "umask": oct(os.umask(0))}
    open(OUT, "w").write(json.dumps(seen))
    """
    assert sent(target(program(look), tmp_path, b'{"password": "of-the-target"}')) == Later("acknowledgement")
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["config"] == {"password": "of-the-target"}
    assert "of-the-target" not in str(seen["argv"])
    assert set(seen["environment"]) - {"LC_CTYPE"} == {"PATH", "HOME", "TMPDIR", "LANG"}
    assert seen["modes"] == ["0o600", "0o700"]
    assert seen["umask"] == "0o77"
    assert len(seen["files"]) == 4  # three, and the one that lists them
    assert [json.loads(line)["type"] for line in seen["lines"]] == ["SCHEMA", "RECORD", "RECORD", "STATE"]
    added, removed = (json.loads(line)["record"] for line in seen["lines"][1:3])
    assert json.loads(seen["lines"][0])["schema"]["properties"].keys() == added.keys() == removed.keys()
    assert (added["identity"], added["tier"], added["_sdc_deleted_at"]) == ("p1", "gold", None)
    assert (removed["identity"], removed["_sdc_deleted_at"]) == ("p2", removed["at"])
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("", Later("acknowledgement")),
        ("sys.exit(3)", Later("exit_3")),
        (GOOD + "\nsys.exit(1)", Later("exit_1")),
        ("os.kill(os.getpid(), signal.SIGTERM)", Later("killed")),
        ('print(\'{"vesica": {"message": "msg_2"}}\')', Later("acknowledgement")),
        ("print('[' * 100_000)", Later("acknowledgement")),
        ("print('x' * 2_000_000)", Later("output")),
        ("while True: print('x' * 1_000)", Later("output")),
        ("sys.stderr.write('p1 ' * 1_000_000)", Later("acknowledgement")),
        ("sys.stdout.buffer.write(bytes(range(256)))", Later("acknowledgement")),
        ("sys.stdin.close()" + GOOD.replace("sys.stdin", "()"), Later("acknowledgement")),
    ],
)
def test_whatever_a_program_does_is_an_outcome(
    tmp_path: Path, program: Program, source: str, outcome: Outcome, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sent(target(program(source), tmp_path)) == outcome
    assert capfd.readouterr() == ("", "")


def test_one_that_does_not_end_is_killed_with_all_that_it_started(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = "child = os.fork()\nif not child: time.sleep(600)\nopen(OUT, 'w').write(str(child))" + GOOD
    assert sent(target(program(leaves), tmp_path)) == Delivered()  # though another one has the node's end of the pipe
    with suppress(ProcessLookupError):
        left = os.pidfd_open(int((tmp_path / "seen").read_text()))
        assert select.select([left], [], [], 10)[0]  # it has ended
        os.close(left)
    monkeypatch.setattr(programs, "TIMEOUT_SECONDS", 0.5)
    assert sent(target(program("os.fork()\ntime.sleep(600)"), tmp_path)) == Later("timeout")
    assert list((tmp_path / "spool").iterdir()) == []


def test_one_that_leaves_its_group_with_the_pipes_holds_up_nothing(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "READ_SECONDS", 0.2)
    leaves = "child = os.fork()\nif not child: os.setsid(); time.sleep(600)\nopen(OUT, 'w').write(str(child))" + GOOD
    assert sent(target(program(leaves), tmp_path)) == Delivered()
    os.kill(int((tmp_path / "seen").read_text()), signal.SIGKILL)


def test_a_count_of_rejected_records_fails_the_message(tmp_path: Path, program: Program) -> None:
    refusing = AIRBYTE.replace('"rejectedRecordCount": 0', '"rejectedRecordCount": 1')
    assert sent(target(program(refusing, "airbyte"), tmp_path)) == Refused("rejected")


def test_a_program_that_changed_hands_is_not_run(tmp_path: Path, program: Program) -> None:
    settings = program(GOOD)
    found = target(settings, tmp_path)
    Path(settings["program"]).chmod(0o777)
    assert sent(found) == Later("program")
    with pytest.raises(InvalidInput, match="others than the node's account"):
        COMMAND.checked(settings)
    Path(settings["program"]).chmod(0o755)
    Path(settings["program"]).parent.chmod(0o777)
    with pytest.raises(InvalidInput, match="others than the node's account"):
        COMMAND.checked(settings)
    Path(settings["program"]).parent.chmod(0o755)
    Path(settings["program"]).unlink()
    assert sent(found) == Later("program")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"program": "sh"}, "whole path"),
        ({"program": "/nothing/there"}, "no program"),
        ({"program": "/"}, "is no program"),
        ({"program": "/etc/passwd"}, "is no program"),
        ({"protocol": "shell"}, "no protocol"),
        ({"stream": "a; b"}, "no name of a stream"),
    ],
)
def test_bad_settings_are_refused_in_words(node: Node, settings: dict[str, str], match: str) -> None:
    good = {"program": "/bin/cat", "protocol": "singer"}
    with pytest.raises(InvalidInput, match=match):
        node.project().destinations.create("x", "command", good | settings)


@pytest.mark.parametrize("secret", [b"", b"x", b"[]", b"1", b'{"a": "' + b"x" * 70_000 + b'"}', b"[" * 60_000])
def test_what_is_no_configuration_is_refused(node: Node, secret: bytes) -> None:
    with pytest.raises(InvalidInput, match="configuration"):
        node.project().destinations.create("x", "command", {"program": "/bin/cat", "protocol": "singer"}, secret=secret)


def test_a_link_leads_to_what_was_looked_at(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = program(GOOD)
    (tmp_path / "other").write_text("#!/bin/sh\ntouch " + str(tmp_path / "seen"))
    (tmp_path / "other").chmod(0o755)
    (tmp_path / "link").symlink_to(settings["program"])
    check = programs.check

    def swapped(path: Path) -> Path:
        found = check(path)
        path.unlink()
        path.symlink_to(tmp_path / "other")
        return found

    monkeypatch.setattr(programs, "check", swapped)
    found = CommandTarget(tmp_path / "spool", settings | {"program": str(tmp_path / "link"), "stream": "s"}, b"{}")
    assert sent(found) == Delivered()
    assert not (tmp_path / "seen").exists()


def test_a_program_in_a_home_is_refused(node: Node) -> None:
    path = node.home.path / "program"
    path.touch(0o755)
    with pytest.raises(InvalidInput, match="home of a node"):
        node.project().destinations.create("x", "command", {"program": str(path), "protocol": "singer"})


def test_an_administrator_alone_names_a_program(node: Node, program: Program, tmp_path: Path) -> None:
    people(node.project(), tmp_path, 3)
    node.project().consent.set_model("opt-out")
    node.project().segments.create("s", rule="orders >= 1")
    tokens = crew(node, ad="administrator", al="activator")
    settings = program(GOOD)
    with (
        signed_in(node, tokens["al"]) as als,
        pytest.raises(PermissionDenied, match="the permission administer for the whole node"),
    ):
        als.project().destinations.create("out", "command", settings)
    with signed_in(node, tokens["ad"]) as ads:
        created = ads.project().destinations.create("out", "command", settings, secret=b'{"password": "x"}')
        assert created.secret is None
    with signed_in(node, tokens["al"]) as als, pytest.raises(PermissionDenied, match="administer"):
        als.project().destinations.rotate("out", b'{"destination_path": "/etc"}')  # it says what the program does
    with signed_in(node, tokens["al"]) as als:  # who may use it once it is there
        assert als.project().destinations.activate("out", ["s"])["sent"] == 1


def test_a_program_that_fails_is_tried_three_times_and_counted_once(
    node: Node, program: Program, tmp_path: Path, clock: Clock
) -> None:
    project: Project = node.project()
    people(project, tmp_path, 3)
    project.consent.set_model("opt-out")
    project.segments.create("s", rule="orders >= 1")
    project.destinations.create("out", "command", program("sys.exit('p1')"), uses=["analytics"])
    project.destinations.activate("out", ["s"])
    for seconds in (15, 30):
        clock.advance(seconds=seconds)
        project.destinations.sync("out")
    (row,) = project.destinations.runs("out")
    assert [row[each] for each in ("received", "activated", "failed", "waiting", "requests")] == [2, 0, 2, 0, 3]
    (error,) = project.destinations.errors("out")
    assert (error["code"], error["reason"]) == ("exit_1", "the program ended with status 1")
    program(GOOD)
    project.destinations.replay("out")
    assert project.destinations.show("out")["present"] == 2


def test_a_program_of_a_backup_runs_once_an_administrator_says_so(
    node: Node, program: Program, tmp_path: Path, clock: Clock
) -> None:
    people(node.project(), tmp_path, 3)
    node.project().consent.set_model("opt-out")
    node.project().segments.create("s", rule="orders >= 1")
    node.project().destinations.create("out", "command", program(GOOD), uses=["analytics"])
    node.project().destinations.activate("out", ["s"])
    node.project().consent.set("p1", "n")
    node.backup(tmp_path / "backup")
    Node.restore(tmp_path / "backup", tmp_path / "new", now=clock)
    program("open(OUT, 'w')" + GOOD)
    with Node.open(tmp_path / "new", now=clock) as restored:
        restored.project().resume()
        out = restored.project().destinations
        assert out.sync("out")["status"] == "disabled"
        assert out.check("out")["code"] == "restored"
        tokens = crew(restored, al="activator", ad="administrator")
        with signed_in(restored, tokens["al"]) as als:
            theirs = als.project().destinations
            for act in (theirs.resume, theirs.pause, theirs.delete):
                with pytest.raises(PermissionDenied, match="administer"):
                    act("out")
        assert not (tmp_path / "seen").exists()
        with signed_in(restored, tokens["ad"]) as ads:
            assert ads.project().destinations.resume("out")["sent"] == 1
        assert (tmp_path / "seen").exists()
