"""The end of the demo: a segment goes to a folder and to a webhook, and who withdraws is removed there."""

import csv
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .receiver import CERTIFICATE, SECRET, members

if TYPE_CHECKING:
    from .demo import Side
    from .sample import Sample

SEGMENT, USE = "frequent-buyers", "onsite-personalisation"
WAIT_SECONDS = 60
RECEIVE = "import sys, pathlib; from cli.receiver import serve; serve(pathlib.Path(sys.argv[1]))"


def show(side: "Side", folder: Path, sample: "Sample") -> list[dict[str, Any]]:
    """Send a segment to a folder and to a receiver, let somebody withdraw, and return what is there and what should be."""
    audiences, inbox = folder / "audiences", folder / "inbox"
    audiences.mkdir()
    expected = {each.id for each in sample.retailer if SEGMENT in each.segments and each.consent != "n"}
    with _receiving(inbox) as url:
        side.run("destination", "create", "files", "--kind", "file", f"folder={audiences}", "--use", USE)
        side.run(
            *("destination", "create", "hook", "--kind", "webhook", f"url={url}"),
            *(f"authorities={inbox / CERTIFICATE}", "--secret", str(inbox / SECRET), "--use", USE),
        )
        for name in ("files", "hook"):
            side.run("destination", "activate", name, "--segment", SEGMENT)
        gone = min(expected)
        side.run("consent", "set", gone, "n")
        expected.remove(gone)
        found: dict[str, set[str]] = {}
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:  # the service notices by itself
            found = {"files": _in_files(audiences), "hook": members(inbox).get(SEGMENT, set())}
            if all(each == expected for each in found.values()):
                break
            time.sleep(0.1)
        for name in found:
            side.run("destination", "runs", name)
    kinds = {"files": "file", "hook": "webhook"}
    return [
        {
            "name": name,
            "kind": kinds[name],
            "segment": SEGMENT,
            "count": len(there),
            "expected_count": len(expected),
            "equal": there == expected,
        }
        for name, there in found.items()
    ]


@contextmanager
def _receiving(folder: Path) -> Iterator[str]:
    """Yield the address of a receiver that runs meanwhile."""
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", RECEIVE, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise click.ClickException("the receiver of webhooks did not start")
        yield url
    finally:
        process.terminate()
        process.communicate()


def _in_files(folder: Path) -> set[str]:
    found = set[str]()
    for file in sorted(each for each in folder.iterdir() if not each.name.startswith(".")):
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                found.add(row["identity"]) if row["status"] == "realized" else found.discard(row["identity"])
    return found
