"""Two homes with services of their own, and the commands that their people type."""

import csv
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.demo import free_ports
from cli.main import main

VESICA = [sys.executable, "-c", "import sys; from cli.main import main; sys.exit(main())"]
WAIT = 60.0  # seconds, for what takes one or two
SMALL = [word for name in ("universe", "segment", "overlap") for word in (f"--minimum-{name}", "20")]
EXACT = ["--epsilon", "none"]
SHARE = ["--namespace", "email_sha256", "--partner", "publisher"]


@dataclass
class Side:
    """One organisation: its home, and the commands that its people type."""

    home: Path
    address: str
    capture: pytest.CaptureFixture[str]
    process: subprocess.Popen[str] | None = None

    def command(self, *arguments: str) -> tuple[int, str, str]:
        """Run one command; returns its exit code, what it printed, and what it said on stderr."""
        self.capture.readouterr()
        code = main([*arguments, "--home", str(self.home)])
        out, err = self.capture.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    def run(self, *arguments: str) -> Any:
        code, out, err = self.command(*arguments, "--json")
        assert (code, err) == (0, ""), (arguments, out, err)
        return json.loads(out)

    def refused(self, code: str, *arguments: str, act: str | None = None, result: str = "deny") -> dict[str, str]:
        """Run a command that must be refused with `code`, and leave an audit row of `act`; returns the error."""
        before = self.rows(act, result)
        exit_code, out, err = self.command(*arguments, "--json")
        assert (exit_code, err) == (1, ""), (arguments, out, err)
        error: dict[str, str] = json.loads(out)["error"]
        assert set(error) == {"code", "message", "hint"}
        assert error["code"] == code, error
        if act is not None:
            assert self.rows(act, result) == before + 1
        return error

    def rows(self, act: str | None, result: str) -> int:
        return len(self.run("audit", "list", "--act", act, "--result", result)) if act is not None else 0

    def accept(self, partner: str) -> Any:
        """Accept a partner's request as a script does: look, then name what was seen."""
        agreement = self.run("partner", "show", partner)["agreement"]
        return self.run("partner", "accept", partner, "--agreement", agreement)

    def enable(self, feed: str) -> Any:
        """Enable a feed, or what a new version adds, as a script does: look, then name what was seen."""
        shown = self.run("feed", "show", feed)
        seen = shown["offered"] if shown["status"] == "enabled" else shown
        return self.run("feed", "enable", feed, "--version", seen["hash"])

    def until(self, holds: Callable[[Any], bool], *arguments: str) -> Any:
        """Repeat a command until its document holds: letters take a moment."""
        deadline = time.monotonic() + WAIT
        while not holds(document := self.run(*arguments)):
            assert time.monotonic() < deadline, document
            time.sleep(0.1)
        return document

    def start(self) -> None:
        with (self.home / "service.log").open("a") as log:
            self.process = subprocess.Popen(
                [*VESICA, "node", "serve", "--home", str(self.home)], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"listening on {self.address}\n"

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT) == 0
        self.process = None

    @contextmanager
    def serving(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()


def people(file: Path, name: str, numbers: range) -> Path:
    file.write_text(f"{name},email\n" + "".join(f"{name}{n},person.{n}@example.com\n" for n in numbers))
    return file


def members(file: Path, numbers: range) -> str:
    file.write_text("id\n" + "".join(f"r{n}\n" for n in numbers))
    return str(file)


def make(
    folder: Path, capture: pytest.CaptureFixture[str], databases: tuple[str, str] | None = None
) -> tuple[Side, Side]:
    """A retailer and a publisher with 100 people each, 50 of them in common, on small terms; nothing is served yet."""
    made = []
    for place, port in enumerate(free_ports(2)):
        name = ("retailer", "publisher")[place]
        side = Side(folder / name, f"127.0.0.1:{port}", capture)
        more = ("--database", databases[place]) if databases else ()
        side.run("node", "init", "--org", name.title(), "--address", side.address, "--listen", side.address, *more)
        side.run("project", "terms", "--yes", *SMALL, *EXACT)
        side.run("consent", "model", "opt-out")
        file = people(folder / f"{name}.csv", name[0], range(50 * place, 50 * place + 100))
        identity = ("--identity", "email=email_sha256")
        side.run("profile", "import", str(file), "--dataset", "crm", "--id", name[0], *identity)
        made.append(side)
    for name, numbers in (("vip", range(30, 80)), ("lapsed", range(60, 100)), ("few", range(5))):
        made[0].run("segment", "create", name, "--members", members(folder / f"{name}.csv", numbers))
    return made[0], made[1]


def connect(retailer: Side, publisher: Side) -> None:
    connect_id = publisher.run("partner", "id")["connect_id"]
    assert retailer.run("partner", "request", connect_id, "--as", "publisher", "--yes")["status"] == "pending"
    assert publisher.accept("retailer")["status"] == "active"
    retailer.run("node", "sync")  # a service has it by itself
    retailer.until(lambda rows: rows[0]["status"] == "active", "partner", "list")


def received(publisher: Side, folder: Path, segment: str) -> set[str]:
    publisher.run("segment", "create", f"from-{segment}", "--rule", f"received.retailer.{segment}")
    file = folder / f"from-{segment}.csv"
    publisher.run("segment", "export", f"from-{segment}", str(file), "--use", "onsite-advertising")
    return set(file.read_text().split()[1:])


def check_audit(side: Side) -> None:
    head = side.run("audit", "verify")["head"]
    assert side.run("audit", "verify", "--head", head)["head"] == head
    code, out, _ = side.command("audit", "export")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == int(head.partition(":")[0])
    assert json.loads(side.command("audit", "export", "--format", "json")[1])[0]["act"] == rows[0]["act"]
    file = side.home.parent / f"{side.home.name}-audit.csv"
    assert side.command("audit", "export", str(file))[0] == 0
    lines = out.splitlines()
    assert file.read_bytes().decode().splitlines()[: len(lines)] == lines  # the exports before have rows too
