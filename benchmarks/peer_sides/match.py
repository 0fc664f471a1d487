"""A party of an ad hoc match: `vesica match listen` or `vesica match dial`, imported before it is asked to run.

python -m benchmarks.peer_sides.match
"""

import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import node.adhoc.dialler
import node.adhoc.listener
import node.imports.identity_columns  # noqa: F401 - the commands import it when they run
from cli.main import main
from psi import kernel

from . import side

COLUMN = f"{side.HEAD}=email_sha256"


def listen(path: str, document: str, port: int, address: str, members: bool) -> None:
    """Answer one session; the Connect ID goes to stderr."""
    allow = "members" if members else "count"
    where = ("--listen", f"127.0.0.1:{port}", "--address", address, "--allow", allow)
    _run(document, "listen", "--input", path, "--column", COLUMN, "--exact", *where)


def count(path: str, document: str, connect_id: str) -> int:
    """Return the number in common that the dialler is told."""
    told = _run(document, "dial", connect_id, "--input", path, "--column", COLUMN, "--exact", "--count")
    return int(told["results"][0]["overlap"])


def release(path: str, document: str, connect_id: str, target: str) -> str:
    """Write the dialler's own rows that the listener has."""
    _run(document, "dial", connect_id, "--input", path, "--column", COLUMN, "--exact", "--members", "--output", target)
    return target


def _run(document: str, *arguments: str) -> Any:
    with Path(document).open("w") as file, redirect_stdout(file):
        code = main(["match", *arguments, "--json"])
    said = json.loads(Path(document).read_text())
    if code:
        raise RuntimeError(said["error"]["message"])
    return said


if __name__ == "__main__":
    kernel.name()
    side.serve({"listen": listen, "count": count, "release": release})
