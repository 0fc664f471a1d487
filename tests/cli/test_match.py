"""Two files, two processes, real TLS: what each side learns equals a plain join, and nothing goes beyond."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from matches import emails, phones

from cli import match
from cli.main import main
from node.adhoc.answers import Learned
from node.adhoc.dialler import Counted, Outcome
from node.adhoc.session import Party
from node.imports.identity_columns import ImportReport
from protocol.agreement import Agreement, Terms
from protocol.connectid import ConnectId
from protocol.estimate import MAX_ASKED
from protocol.messages import SegmentAnswer

pytestmark = pytest.mark.two_nodes

NO_REPORT = ImportReport(
    file="mine.csv", kind="csv", encoding="utf-8", delimiter=",", rows=0, accepted=0, rejected={}, columns=[]
)
VESICA = [sys.executable, "-c", "import sys; from cli.main import main; sys.exit(main())"]


def write(path: Path, header: list[str], rows: list[list[str]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "nobody"
    home.mkdir()
    return {**os.environ, "HOME": str(home), "COLUMNS": "200"}


@contextmanager
def listening(environment: dict[str, str], *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `vesica match listen` in a process of its own; yields its Connect ID."""
    process = subprocess.Popen(
        [*VESICA, "match", "listen", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert lines[0].startswith("Connect ID: vesica1"), process.communicate()
        assert lines[1].startswith("listening on 127.0.0.1:")
        yield lines[0].removeprefix("Connect ID: ").strip(), process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def dial(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*VESICA, "match", "dial", *arguments], capture_output=True, text=True, env=environment, timeout=60, check=False
    )


def test_members_are_the_plain_join_whatever_the_form(tmp_path: Path, environment: dict[str, str]) -> None:
    theirs = [[f"  {email.upper()} ", phone] for email, phone in zip(emails(0, 300), phones(0, 300), strict=True)]
    write(tmp_path / "theirs.csv", ["mail", "mobile"], theirs)
    hashes = [hashlib.sha256(email.encode()).hexdigest() for email in emails(200, 500)]
    ours = [[f"u{n}", digest, phone] for n, (digest, phone) in enumerate(zip(hashes, phones(290, 590), strict=True))]
    ours += [ours[0], ["nobody", "", ""], ["u1-again", ours[1][1].upper(), ""], ["by-phone", "", phones(5, 6)[0]]]
    write(tmp_path / "ours.csv", ["user", "hash", "tel"], ours, ";")
    expected = [row for row in ours if row[1].lower() in hashes[:100] or row[2] in phones(0, 300)]

    columns = ["--column", "mail=email_sha256", "--column", "mobile=phone_sha256"]
    start = ["--input", str(tmp_path / "theirs.csv"), *columns, "--allow", "members", "--minimum", "10"]
    with listening(environment, *start) as (connect_id, process):
        own = ["--column", "hash=email_sha256", "--column", "tel=phone_sha256", "--minimum", "50"]
        target = tmp_path / "both.csv"
        done = dial(
            environment, connect_id, "--input", str(tmp_path / "ours.csv"), *own, "--members", "--output", str(target)
        )
        assert done.returncode == 0, done.stderr
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    with target.open(encoding="utf-8", newline="") as file:
        written = list(csv.reader(file, delimiter=";"))
    assert written == [["user", "hash", "tel"], *expected]
    assert f"{len(expected)} of your rows match" in done.stdout
    assert "The other side has 300 identities in email_sha256/lc-v1." in output
    assert "not how many matched" in done.stdout
    assert "Traceback" not in errors + done.stderr
    assert list(Path(environment["HOME"]).iterdir()) == []


def test_an_exact_count_in_two_processes(tmp_path: Path, environment: dict[str, str]) -> None:
    write(tmp_path / "a.csv", ["e"], [[email] for email in [*emails(0, 700), *emails(0, 50), "nobody"]])
    write(tmp_path / "b.csv", ["e"], [*([email] for email in emails(450, 900)), ["nobody"], ["two", "cells"], ["none"]])
    common = ["--column", "e=email_sha256", "--exact", "--minimum", "1"]
    with listening(environment, "--input", str(tmp_path / "a.csv"), *common) as (connect_id, process):
        done = dial(environment, "--json", connect_id, "--input", str(tmp_path / "b.csv"), *common)
        assert done.returncode == 0, done.stdout + done.stderr
        output, errors = process.communicate(timeout=20)
    assert re.search(r"email_sha256/lc-v1\t750\t50\traw", errors)
    assert re.search(r"value of e\tnot an e-mail address\t1\t752", errors)
    assert "email_sha256/lc-v1: 700 different identities" in errors
    document = json.loads(done.stdout)
    assert document["report"]["columns"][0]["dropped"] == {"not an e-mail address": {"count": 2, "lines": [452, 454]}}
    assert document["report"]["rejected"] == {"more cells than the header": {"count": 1, "lines": [453]}}
    assert document["results"] == [
        {
            "namespace": "email_sha256/lc-v1",
            "ours": 450,
            "theirs_at_most": 4096,
            "overlap": 250,
            "interval": [250, 250],
            "status": "ok",
        }
    ]
    assert document["terms"]["epsilon"] is None
    assert any("exactly" in line for line in document["learned"]["other"])
    assert "Exactly 250 of them are in your file" in output
    assert process.returncode == 0


def invitation(expires: int) -> ConnectId:
    party = Party()
    return ConnectId(
        flags=0, address="127.0.0.1:9", key=party.key, project=bytes(16), secret=bytes(16), expires=expires
    )


@pytest.mark.parametrize("index", [0, 8, 60, -1])
def test_one_wrong_character_is_caught_before_any_network_use(
    index: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = list(invitation(int(time.time()) + 3600).encode())
    text[index] = "b" if text[index] != "b" else "c"
    path = write(tmp_path / "a.csv", ["e"], [["x@example.com"]])
    assert main(["match", "dial", "".join(text), "--input", str(path), "--column", "e=email_sha256"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vesica: error: this")
    assert "vesica: hint:" in error


def test_an_expired_connect_id_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    old = invitation(int(time.time()) - 1).encode()
    assert main(["match", "dial", old, "--input", "none", "--column", "e=email_sha256"]) == 1
    assert "expired" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--count", "--members"], ["--members"], ["--output", "x"]])
def test_contradictions_are_usage_errors(more: list[str]) -> None:
    assert main(["match", "dial", "vesica1x", "--input", "a", "--column", "e=email_sha256", *more]) == 2


def test_a_count_of_a_sample_is_said_to_be_one() -> None:
    noised = SegmentAnswer(status="ok", overlap=30, consented=30, half_width=0, consented_half_width=0)
    for size, sampled in ((MAX_ASKED - 1, False), (MAX_ASKED, True)):
        learned = Learned(mode="count", theirs={"email": size}, overlap={"email": 30}, answered={"email": noised})
        document = match.listener_document(learned, NO_REPORT)
        (row,), said = document["results"], " ".join(document["learned"]["you"])
        assert row["sampled"] is sampled
        assert ("it may have more" in said, f"The other side has {size:,}" in said) == (sampled, not sampled)
        assert document["learned"]["other"][1].startswith("Of what it asked about") is sampled


def test_the_range_is_the_same_wherever_it_is_said() -> None:
    """It ends where the file ends, in the text too."""
    agreement = Agreement(
        connection=bytes(16), requester=bytes(32), accepter=bytes(32), terms=Terms(), namespaces=("a/b",), made=1
    )
    counted = Counted(namespace="a/b", ours=100, theirs_at_most=4096, overlap=90, half_width=60)
    document = match.dialler_document(Outcome(agreement=agreement, counted=[counted]), NO_REPORT, 0, None)
    assert document["results"][0]["interval"] == [30, 100]
    assert "(95 %: 30 to 100)" in document["learned"]["you"][0]
